import { randomBytes, randomUUID } from 'node:crypto'
import type { Configuration } from '../contract/configuration.ts'
import { listenersOf } from '../contract/listeners.ts'
import type { Reloaded } from '../contract/live-settings.ts'
import { brokerMetrics } from '../contract/metrics.ts'
import { problems } from '../contract/problems.ts'
import { handlingTable } from '../contract/verification.ts'
import { parseCertificate, parsePem } from '../pki/certificate.ts'
import { requireFolder } from '../runtime/files.ts'
import type { Log } from '../runtime/log.ts'
import { Metrics } from '../runtime/metrics.ts'
import { createProbes, type Readiness, seldom } from '../runtime/probes.ts'
import { randomOctets } from '../runtime/random.ts'
import { Authorities } from './authorities.ts'
import { foretold } from './certificate-verdicts.ts'
import { CloneWatch } from './clone-watch.ts'
import { CredentialFiles } from './credential.ts'
import { CutReports } from './cut-reports.ts'
import { Denials, refusedOf } from './denials.ts'
import { Entrances } from './entrances.ts'
import { Events, eventOfNews } from './events.ts'
import { FirstUses } from './first-uses.ts'
import { Gate } from './gate.ts'
import { KeyWatch } from './key-watch.ts'
import { kickSession, listSessions } from './live-sessions.ts'
import { Meters } from './meters.ts'
import { MqttService } from './mqtt.ts'
import { who } from './mqtt-context.ts'
import { Reconfiguration } from './reconfiguration.ts'
import { Sessions } from './sessions.ts'
import { expiredAskedMs, isFresh, staleBounds } from './stale.ts'
import { BrokerStore } from './store.ts'
import { FeedClient } from './trust/feed-client.ts'
import { Reports } from './trust/reports.ts'
import { Snapshot, type SnapshotChange } from './trust/snapshot.ts'
import { VerdictReports } from './verdict-reports.ts'

export type BrokerService = AsyncDisposable & {
  /** URL of each listener by its name. */
  endpoints: { mqtts: string; [listener: string]: string }
  /** URL of metrics and probes, where the configuration has an address for them. */
  probes: string | undefined
  feed: Pick<FeedClient, 'everLive' | 'connected' | 'untilLive' | 'sync'>
  /** @param load throws FleetError `config_invalid` */
  reconfigure(load: () => Configuration): Reloaded
  sessions: Pick<Sessions, 'size' | 'findLive' | 'ofDevice' | typeof Symbol.iterator>
}

const credentialPollMs = 60_000
const sweepMs = 1_000
const filePollMs = 1_000
const noteMs = 60_000
const forgetMs = 3_600_000
/** A refusal says for so long that a certificate was revoked, beside that it has expired. */
const rememberedMs = 30 * 86_400_000

/**
 * Wires a broker together and starts it.
 *
 * @param dataDir       the broker's own folder; one instance at a time
 * @param credentialDir `tls.key`, `tls.crt` (leaf, then its issuing CA) and `root.crt`, written by enroll
 * @throws FleetError `data_in_use`, `data_damaged`, `port_in_use`, `config_invalid`, `key_permissions`, `key_passphrase`
 */
export async function createBrokerService(options: {
  config: Configuration
  dataDir: string
  credentialDir: string
  /** Reads the configuration anew, for enroll to ask for. */
  load?: () => Configuration
  clock?: () => Date
  log: Log
  /** See `MqttService`. */
  isFast?: boolean | undefined
}): Promise<BrokerService> {
  const { dataDir, credentialDir, log, clock = () => new Date(), isFast } = options
  // Limits in it are replaced in place.
  const config = { ...options.config.broker }
  const { passphraseFile } = options.config.keys
  await using stack = new AsyncDisposableStack()

  const credential = new CredentialFiles({ folder: credentialDir, passphraseFile, changed: useCredential, log })
  requireFolder(dataDir)
  const store = stack.use(await BrokerStore.open(dataDir))
  const handlings = listenersOf(config).map(({ mode, handling }) => handlingTable(mode, handling))
  const snapshot = stack.use(await Snapshot.load(store.snapshot, log))
  const events = new Events({
    settings: config.events,
    brokerId: config.id,
    newId: () => randomBytes(8).toString('hex'),
    clock,
  })
  const meters = new Meters()
  const denials = stack.use(
    await Denials.open({
      area: store.denials,
      brokerId: config.id,
      policy: () => snapshot.policy,
      newId: () => randomBytes(6).toString('hex'),
      clock,
      log,
      onNoted: (refused, refusal, id) => {
        meters.refused(refusal)
        events.refused(refused, refusal, id)
      },
    }),
  )
  const reports = stack.use(await Reports.open({ area: store.reports, newId: randomUUID, clock, log }))
  const raise: Reports['raise'] = (report) => reports.raise(report)
  const firstUses = new FirstUses({ area: store.reports, raise, clock, log })
  const cuts = new CutReports({ raise, policy: () => snapshot.policy, clock })
  /** Of what is being brought into force. */
  let heardAt: number | undefined
  const sessions = new Sessions((connection, cause) => {
    cuts.note(connection, cause, heardAt ?? performance.now())
    const message = connection.verdict?.message || problems[cause].title
    const denial = denials.note(refusedOf(connection), { stage: 'session', cause, message })
    connection.denial = denial
    const fields = { event: 'session.kicked', reason: cause, denial, ...who(connection) }
    // Others of the same change are still to be ended, and enroll to be told: neither waits for whoever reads the log.
    setImmediate(() => log.warn(fields, 'session kicked'))
  })
  // Where no listener asks about a certificate any more, nor a will that was left under one.
  const forgetsAfterMs = expiredAskedMs(handlings.map((table) => table.expired)) + config.sessionExpiryMs + rememberedMs
  const feed = stack.use(
    new FeedClient({
      address: config.feed,
      brokerId: config.id,
      snapshot,
      credential: () => credential.current,
      onCredential: (certificate) => credential.keep(certificate),
      onChange: (change, at) => {
        heardAt = at
        bringIntoForce(change)
        heardAt = undefined
      },
      settled: () => cuts.settled(),
      reports,
      answers: {
        denials: (query) => denials.list(query),
        sessions: async (query) => listSessions(sessions, query, clock()),
        kick: (order) => kickSession(sessions, order, clock()),
        reload: async () => (options.load === undefined ? [] : [reconfiguration.apply(options.load)]),
        verdicts: (query) => foretold(query, { entrances, document: snapshot.policy.document, now: clock() }),
        key: async (order) => clones.order(order),
      },
      onElsewhere: (told) => clones.elsewhere(told),
      onLive: () => clones.tellAll(sessions),
      bounds: staleBounds(
        handlings.map((table) => table.stale_status),
        config.stale,
      ),
      silenceMs: config.stale.silenceMs,
      forgetsAfterMs,
      clock,
      random: Math.random,
      log,
    }),
  )
  const anchorsInForce = (): readonly string[] =>
    snapshot.anchors.length > 0 ? snapshot.anchors : credential.current.authorities
  const authorities = new Authorities(config.trust)
  authorities.setOwn(anchorsInForce())
  authorities.requireOthers()
  const clones = new CloneWatch({
    settings: config.clones,
    clock,
    review: (connections) => gate.enforceOn(connections),
    report: raise,
    say: (message) => feed.say(message),
    events,
    log,
  })
  const keyWatch = new KeyWatch({ snapshot, report: raise, events, clock, log })
  const gate: Gate = new Gate({
    snapshot,
    clones,
    sessions,
    feed,
    authorities,
    lastLive: await store.readLastLive(),
    stale: config.stale,
    onStale: tellStale,
    clock,
    denials,
    meters,
    verdicts: new VerdictReports({ report: raise, clock }),
    newSuffix: randomUUID,
    log,
    limits: config,
  })

  const mqtt = await MqttService.start({
    config,
    gate,
    sessions,
    area: store.sessions,
    clock,
    log,
    denials,
    firstUses,
    events,
    meters,
    isFast,
  })
  purgeAll()
  lookAtLists()
  const entrances = await Entrances.open({
    config,
    authorities,
    credential: credential.current,
    gate,
    sessions,
    snapshot,
    keyWatch,
    clock,
    newId: () => randomOctets(8).toString('hex'),
    log,
    serve: (connection) => mqtt.serve(connection),
  }).catch(async (error: unknown) => {
    await mqtt[Symbol.asyncDispose]()
    throw error
  })

  const reconfiguration = new Reconfiguration(options.config, {
    log,
    put: ({ log: { level }, broker }, changed) => {
      if (changed.includes('log.level')) log.level = level
      const { maxConnectionsPerDevice, maxQuarantined } = broker
      Object.assign(config, { maxConnectionsPerDevice, maxQuarantined })
      mqtt.reconfigure(config)
      entrances.reconfigure(broker)
    },
  })

  const renewal = setInterval(() => credential.refresh(), credentialPollMs)
  renewal.unref()
  const sweep = setInterval(() => {
    gate.sweep()
    mqtt.sweep()
  }, sweepMs)
  sweep.unref()
  const files = setInterval(() => {
    lookAtLists()
    entrances.refreshPasswords()
  }, filePollMs)
  files.unref()
  const notes = setInterval(noteLive, noteMs)
  notes.unref()
  const forgetting = setInterval(forgetEnded, forgetMs)
  forgetting.unref()

  function useCredential(): void {
    entrances.renew(credential.current)
    if (snapshot.anchors.length === 0) trustOwn()
  }

  async function forgetEnded(): Promise<void> {
    if (!Number.isFinite(forgetsAfterMs)) return
    const certificates = await snapshot.forgetEnded(clock(), forgetsAfterMs)
    if (certificates > 0)
      log.info({ event: 'snapshot.forgot', certificates }, 'certificates that ended long ago forgotten')
  }

  /** For the next process: how long ago it was known who is revoked. */
  async function noteLive(): Promise<void> {
    if (feed.knownAt === undefined) return
    await store
      .writeLastLive(feed.knownAt)
      .catch((err) => log.error({ event: 'broker.failed', err }, 'a note was not kept'))
  }

  function tellStale(isStale: boolean, lastLive: Date | undefined): void {
    const fields = { lastLive, ...config.stale }
    const known = lastLive === undefined ? 'yet' : `since ${lastLive.toISOString()}`
    if (isStale)
      log.error({ event: 'snapshot.stale', ...fields }, 'it is not known who is revoked: enroll is not heard')
    else log.info({ event: 'snapshot.current', ...fields }, 'it is known again who is revoked')
    const message = isStale
      ? `the broker has not heard ${known} who is revoked`
      : 'the broker knows who is revoked again'
    events.raise({ type: 'alert', kind: isStale ? 'snapshot_stale' : 'snapshot_current', message })
  }

  function trustOwn(): void {
    authorities.setOwn(anchorsInForce())
    entrances.trust()
  }

  function lookAtLists(): void {
    const read = authorities.refresh()
    for (const { label, error } of read) {
      if (error === undefined) log.info({ event: 'revocationList.read', authority: label }, 'revocation list in force')
      else
        log.error({ event: 'revocationList.notRead', authority: label, err: error }, 'revocation list cannot be used')
    }
    gate.enforceLists(new Set(read.map(({ label }) => label)))
  }

  /** What a crash, or an absence, has kept from being done. */
  function purgeAll(): void {
    for (const id of snapshot.purged()) mqtt.purge(id)
  }

  function bringIntoForce(change: SnapshotChange): void {
    gate.enforce(change)
    void firstUses.forget(change.certificates)
    entrances.forget(change.certificates)
    keyWatch.add(change.devices)
    for (const id of change.devices) {
      if (gate.isRevoked(id)) mqtt.forget(id)
      if (snapshot.findDevice(id)?.purge?.retained !== undefined) mqtt.purge(id)
    }
    if (change.replaced) {
      keyWatch.reset()
      mqtt.forgetRevoked()
      purgeAll()
    }
    if (change.anchors) trustOwn()
    for (const one of change.news) events.raise(eventOfNews(one))
    mqtt.review(change)
  }

  const certificateEnds = (): Date => parseCertificate(parsePem(credential.current.cert, 'CERTIFICATE')[0]!).notAfter
  const ready = seldom(readiness)
  const metrics = new Metrics(brokerMetrics, async (tell) => {
    const read = { sessions, feed, snapshot, ready: await ready(), certificateEnds: certificateEnds(), now: clock() }
    meters.read(tell, { ...read, ...mqtt.kept })
  })
  const probes =
    config.metrics === undefined
      ? undefined
      : await createProbes({ listen: config.metrics, metrics: () => metrics.text(), ready, log }).catch(
          async (error: unknown) => {
            await entrances[Symbol.asyncDispose]()
            await mqtt[Symbol.asyncDispose]()
            throw error
          },
        )

  /** Whether a device that comes now would be served, where no listener has a grace for not knowing who is revoked. */
  async function readiness(): Promise<Readiness> {
    const storeFault = await store.probe().then(
      () => undefined,
      () => 'the folder of this broker takes no writes',
    )
    return {
      feed: isFresh(feed.knownAt, clock(), config.stale)
        ? undefined
        : `nobody has said ${feed.knownAt === undefined ? 'yet' : `since ${feed.knownAt.toISOString()}`} who is revoked`,
      certificate: certificateEnds() > clock() ? undefined : 'the certificate of this broker has expired',
      store: storeFault,
    }
  }

  if (probes) stack.use(probes)
  stack.use(entrances)
  stack.use(mqtt)
  stack.defer(async () => {
    for (const timer of [renewal, sweep, files, notes, forgetting]) clearInterval(timer)
    void entrances.stop()
    await noteLive()
  })
  await forgetEnded()
  feed.start()
  const owned = stack.move()
  return {
    endpoints: entrances.endpoints as BrokerService['endpoints'],
    probes: probes?.url,
    feed,
    reconfigure: (load) => reconfiguration.apply(load),
    sessions,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}
