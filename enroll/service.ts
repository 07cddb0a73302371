import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Configuration } from '../contract/configuration.ts'
import type { Reloaded } from '../contract/live-settings.ts'
import { parseCertificate, parsePem, toPem } from '../pki/certificate.ts'
import { openKeyFile } from '../pki/keystore.ts'
import type { MessageSigner } from '../pki/signed-data.ts'
import { joinAddress } from '../runtime/config.ts'
import { readPrivateFile } from '../runtime/files.ts'
import { createEdge, type EdgeCredential, type EdgeRequestHead, reachableHost } from '../runtime/https.ts'
import { AttemptLimit } from '../runtime/limits.ts'
import type { Log } from '../runtime/log.ts'
import { createProbes, seldom } from '../runtime/probes.ts'
import { createAdmin } from './admin/routes.ts'
import { Alerts } from './alerts.ts'
import { successorOf } from './ca/brokers.ts'
import { CertificateAuthority } from './ca/certificate-authority.ts'
import { Checkpoints } from './ca/checkpoints.ts'
import { noticeExpiring } from './ca/expiry.ts'
import { nameIn } from './ca/in-charge.ts'
import type { ServedList } from './ca/revocation-lists.ts'
import { supersedeDue } from './ca/supersession.ts'
import { CloneDesk, type Shown } from './clone-desk.ts'
import { createEst } from './est/routes.ts'
import { FeedServer } from './feed-server.ts'
import { FeedShortening } from './feed-shortening.ts'
import { openFoundation } from './foundation.ts'
import { Meters } from './meters.ts'
import { OwnPeers } from './own-peers.ts'
import { ApprovalQueue } from './ra/approval-queue.ts'
import { EnrollmentDenials } from './ra/enrollment-denials.ts'
import { Profiles } from './ra/profiles.ts'
import { RegistrationAuthority } from './ra/registration-authority.ts'
import { Reconfiguration, type Wanted } from './reconfiguration.ts'
import { createReportDesk } from './reports.ts'
import { openStatus } from './status-service.ts'

export type EnrollService = AsyncDisposable & {
  /** URLs and paths for a supervisor to show and to hand to the broker. */
  endpoints: {
    est: string
    admin: string
    feed: string
    status?: string
    rootFingerprint: string
    rootCertificate: string
    operatorCertificate: string
    operatorKey: string
  }
  /** URL of metrics and probes, where the configuration has an address for them. */
  probes: string | undefined
  /**
   * Puts other profiles and labels in force; what is wrong with them is in the log and in the status.
   *
   * @param load throws FleetError `config_invalid`
   */
  reconfigure(load: () => Configuration, wanted: Wanted): Promise<Reloaded>
}

const renewalCheckMs = 3_600_000
/** Looks for what is due for certificates: two look-ups when nothing is. */
const lifecycleMs = 1_000

/**
 * The enrollment service: owns keys, registry and audit log, and serves EST, the admin API and the trust feed.
 * The first start makes the CAs, the service certificates, an operator credential and a starter policy.
 *
 * @throws FleetError `port_in_use`, `data_in_use`, `data_damaged`, `key_permissions`, `key_passphrase`
 */
export async function createEnrollService(input: {
  config: Configuration
  dataDir: string
  /** Where `config` was read from, if anywhere: a backup holds it too. */
  configFile?: string | undefined
  /** Reads it anew, for whoever asks the admin API for that; throws FleetError `config_invalid`. */
  load?: (() => Configuration) | undefined
  clock?: () => Date
  log: Log
}): Promise<EnrollService> {
  const { config, dataDir, load, log } = input
  const clock = input.clock ?? (() => new Date())
  await using opened = new AsyncDisposableStack()

  const foundation = opened.use(await openFoundation({ config, dataDir, clock, log }))
  const { registry, hierarchy, passphrase } = foundation
  const folder = join(dataDir, 'enroll', 'ca')
  const { url: statusUrl } = config.enroll.status
  const checkpoints = opened.use(
    await Checkpoints.open({
      registry,
      folder: join(dataDir, 'services', 'audit'),
      passphrase,
      authorities: [hierarchy.issuing.certificate],
      settings: config.enroll.audit,
      clock,
      elapsed: () => performance.now(),
      log,
    }),
  )

  const profiles = new Profiles(config)
  const approvals = new ApprovalQueue(registry, config.enroll.approvals)
  const ra = new RegistrationAuthority(registry, profiles, approvals)
  const denials = await EnrollmentDenials.open(registry, () => randomBytes(6).toString('hex'))
  const meters = new Meters({ registry, denials, clock })
  const status =
    statusUrl === undefined
      ? undefined
      : opened.use(
          await openStatus({
            settings: { ...config.enroll.status, url: statusUrl },
            folder,
            dataDir,
            registry,
            hierarchy,
            passphrase,
            answered: (kind) => meters.ocspAnswered(kind),
            clock,
            log,
          }),
        )
  const served = (): ServedList[] => status?.served() ?? []
  const ca = new CertificateAuthority(registry, hierarchy, status?.points)
  const { anchors } = hierarchy
  const credential = (): EdgeCredential => ({
    key: readPrivateFile(join(dataDir, 'services', 'enroll', 'tls.key')),
    passphrase,
    cert: readFileSync(join(dataDir, 'services', 'enroll', 'tls.crt'), 'utf8'),
  })

  const signer = openKeyFile(join(dataDir, 'services', 'enroll', 'tls.key'), passphrase)
  const readResponder = (): MessageSigner => {
    const chain = parsePem(credential().cert, 'CERTIFICATE')
    return { certificate: parseCertificate(chain[0]!), chain, signer }
  }
  let current = readResponder()
  const responder = (): MessageSigner => current

  const reconfiguration = new Reconfiguration({
    config,
    profiles,
    registry,
    clock,
    log,
    put: (next, changed) => {
      if (changed.includes('log.level')) log.level = next.log.level
      renewals.allow(next.enroll.renewalsPerHour)
      requests.allow(next.enroll.attemptsPerMinute)
    },
    changed: () => est.renew(credential()),
  })
  const alerts = new Alerts({ registry, clock, log })
  const { action, maxSuspended } = config.broker.clones
  const maxHeld = action === 'hold' ? maxSuspended : 0
  const clones = new CloneDesk({ registry, alerts, maxHeld, clock, log })
  const shownIn = ({ id, remoteAddress }: EdgeRequestHead): Shown => ({
    ...{ by: 'enroll', requestId: id, remoteAddress, at: clock().toISOString() },
  })
  const suspected = (noted: Promise<void>): void =>
    void noted.catch((err: unknown) => log.error({ event: 'alert.notNoted', err }, 'an alert was not noted'))
  const peers = new OwnPeers({ registry, onWatchedKey: (use) => alerts.keyUsed(use), clock, log })
  const feed = opened.use(
    await FeedServer.open({
      registry,
      clock,
      log,
      listen: config.enroll.feed,
      credential: credential(),
      anchors,
      peers,
      successorOf: (shown) =>
        successorOf({ registry, issuing: hierarchy.issuing }, shown, {
          isKept: nameIn(shown) === config.broker.id,
          now: clock(),
        }),
      reportsPerSecond: config.enroll.reportsPerSecond,
      meetings: action === 'off' ? undefined : { maxSuspended, onMet: (met) => clones.met(met) },
      onReport: createReportDesk({
        registry,
        alerts,
        clones,
        overlapMs: config.enroll.overlapMs,
        clock,
      }),
    }),
  )
  opened.use(
    new FeedShortening({
      registry,
      pastAll: async () => {
        const brokers = await feed.brokers()
        const inLists = status?.lists.needsFeedAfter ?? Number.POSITIVE_INFINITY
        return Math.min(inLists, ...brokers.map(({ appliedSeq }) => appliedSeq))
      },
      keepMs: config.enroll.feedKeepMs,
      clock,
      log,
    }),
  )
  // For others' authorities this is no trust: it lets clients know that a certificate of theirs may be shown (RFC 8446
  // 4.2.4). What one is worth, the label says; as a current certificate it is worth nothing, the registry not knowing it.
  const clientAuthorities = (): string[] => [...anchors, ...profiles.clientAuthorities.map((der) => toPem(der))]
  const admin = opened.use(
    await createAdmin(
      {
        registry,
        ra,
        approvals,
        feed,
        peers,
        lists: status?.lists,
        served,
        denials,
        checkpoints,
        dataDir,
        configFile: input.configFile,
        clock,
        log,
        rootFingerprint: hierarchy.root.fingerprint,
        rootEnds: hierarchy.root.certificate.notAfter,
        anchors,
        clientAuthorities,
        issuing: hierarchy.issuing,
        ownBroker: config.broker.id,
        startedAt: clock(),
        configuration: () => reconfiguration.view,
        reload: load === undefined ? undefined : (who) => reconfiguration.apply(load, { ...who, by: 'request' }),
      },
      { listen: config.enroll.admin, credential: credential(), anchors },
    ),
  )
  const {
    maxBodyBytes,
    maxConnections,
    maxConnectionsPerAddress,
    requestTimeoutMs,
    handshakeTimeoutMs,
    attemptsPerMinute,
    renewalsPerHour,
    overlapMs,
  } = config.enroll
  const renewals = new AttemptLimit(renewalsPerHour, { periodMs: 3_600_000, maxKeys: 100_000 })
  const requests = createEst({
    registry,
    hierarchy,
    profiles,
    ra,
    ca,
    responder,
    clock,
    log,
    attemptsPerMinute,
    denials,
    onWatchedKey: (use) => alerts.keyUsed(use),
    onFork: (fork, request) => suspected(clones.forked(fork, shownIn(request))),
    onOutlived: (serial, request) => suspected(clones.renewedLate(serial, shownIn(request))),
    meters,
    renewals,
    overlapMs,
  })
  const est = opened.use(
    await createEdge({
      listen: config.enroll.est,
      credential: credential(),
      clientAuthorities,
      maxBodyBytes,
      maxConnections,
      maxConnectionsPerAddress,
      requestTimeoutMs,
      handshakeTimeoutMs,
      log,
      ...requests,
    }),
  )

  const renewal = setInterval(() => {
    foundation
      .keep()
      .then(async (changed) => {
        await status?.keepUp()
        if (changed) {
          for (const listener of [feed, admin, est]) listener.renew(credential())
          current = readResponder()
          log.info({ event: 'credentials.renewed' }, 'service certificates renewed')
        }
      })
      .catch((err: unknown) =>
        log.error({ event: 'credentials.notRenewed', err }, 'service certificates could not be renewed'),
      )
      .then(() => feed.renewBrokers())
  }, renewalCheckMs)
  opened.defer(() => clearInterval(renewal))
  let ageing: Promise<void> | undefined
  const age = async (): Promise<void> => {
    await supersedeDue(registry, clock())
    for (const days of await noticeExpiring(registry, clock())) meters.noticed(days)
  }
  const lifecycle = setInterval(() => {
    peers.sweep()
    ageing ??= age()
      .catch((err: unknown) =>
        log.error({ event: 'lifecycle.failed', err }, 'what is due for certificates was not done'),
      )
      .finally(() => {
        ageing = undefined
      })
  }, lifecycleMs)
  opened.defer(async () => {
    clearInterval(lifecycle)
    await ageing
  })

  const authorities = { issuing: hierarchy.issuing.certificate, root: hierarchy.root.certificate }
  const certificateEnds = (): Date => current.certificate.notAfter
  const { metrics: probesAt } = config.enroll
  /** Whether a device that asks now could be given a certificate. */
  const ready = seldom(async () => ({
    certificate: certificateEnds() > clock() ? undefined : 'the certificate of enroll has expired',
    store: await registry.probe().then(
      () => undefined,
      () => 'the registry takes no changes',
    ),
  }))
  meters.attach({ feed, certificateEnds, authorities, ready, served, listsUpTo: () => status?.lists.published.feedSeq })
  const probes =
    probesAt === undefined
      ? undefined
      : opened.use(await createProbes({ listen: probesAt, metrics: () => meters.metrics.text(), ready, log }))

  const resources = opened.move()
  return {
    endpoints: {
      est: `https://${joinAddress(reachableHost(est.address.host), est.address.port)}`,
      admin: `https://${joinAddress(admin.address.host, admin.address.port)}`,
      feed: joinAddress(reachableHost(feed.address.host), feed.address.port),
      ...(status === undefined
        ? {}
        : { status: `http://${joinAddress(reachableHost(status.address.host), status.address.port)}` }),
      rootFingerprint: hierarchy.root.fingerprint,
      rootCertificate: join(dataDir, 'root.crt'),
      operatorCertificate: join(dataDir, 'operator', 'operator.crt'),
      operatorKey: join(dataDir, 'operator', 'operator.key'),
    },
    probes: probes?.url,
    reconfigure: (load, wanted) => reconfiguration.apply(load, wanted),
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  }
}
