import type { Configuration } from '../contract/configuration.ts'
import type { DeviceStatus, Purge } from '../contract/feed.ts'
import type { DeviceId } from '../contract/ids.ts'
import { ownAuthority } from '../contract/listeners.ts'
import { compilePolicy, type Matcher } from '../contract/policy-matcher.ts'
import type { PrincipalFacts } from '../contract/principal-facts.ts'
import type { StaleSettings } from '../contract/service-settings.ts'
import type { CertificateFacts } from '../pki/certificate.ts'
import { networkOf } from '../runtime/limits.ts'
import type { Log } from '../runtime/log.ts'
import { LogLimit } from '../runtime/log-limit.ts'
import {
  type Admission,
  admitConnect,
  type ConnectFacts,
  judge,
  type ListenerRules,
  refusal,
  type Verdict,
} from './admission.ts'
import type { Authorities } from './authorities.ts'
import { deviceOf, type Message } from './backends/session-store.ts'
import type { CloneWatch } from './clone-watch.ts'
import { type Denials, type Refusal, type Refused, refusedOf } from './denials.ts'
import type { Meters } from './meters.ts'
import { factsOfRecord, principalOf } from './principal.ts'
import type { Connection, Sessions } from './sessions.ts'
import { isFresh } from './stale.ts'
import { voidUntil } from './trust/device-table.ts'
import type { FeedClient } from './trust/feed-client.ts'
import type { Snapshot, SnapshotChange } from './trust/snapshot.ts'
import type { VerdictReports } from './verdict-reports.ts'
import { deviceIdOf } from './verification.ts'

/** How long a certificate that we have not heard of may hold its CONNECT up while enroll is asked. */
const syncMs = 2_000

/** What a verdict is made of. */
type Peer = Pick<Connection, 'evidence' | 'rules' | 'isUnasked' | 'principal' | 'verdict'>

/** @param conditions those of the policy, which are for its address and for the time */
export type Foreseen = { verdict: Verdict; rules: ListenerRules; conditions: Matcher['conditions'] }

type GateOptions = {
  snapshot: Snapshot
  sessions: Sessions
  feed: Pick<FeedClient, 'everLive' | 'knownAt' | 'sync'>
  stale: StaleSettings
  /** It is not known any more who is revoked, or it is known again. */
  onStale: (isStale: boolean, lastLive: Date | undefined) => void
  authorities: Pick<Authorities, 'findLabel' | 'isListed'>
  /** When an earlier process last followed the feed. */
  lastLive: Date | undefined
  limits: Readonly<Pick<Configuration['broker'], 'maxConnectionsPerDevice'>>
  clock: () => Date
  /** What follows the device id in a client id of our own; never the same twice. */
  newSuffix: () => string
  log: Log
  denials: Pick<Denials, 'note'>
  clones: Pick<CloneWatch, 'arrived' | 'look' | 'suspendedUntil'>
  meters: Pick<Meters, 'decided'>
  verdicts: Pick<VerdictReports, 'note'>
}

/** What the registry, or a CA, can say of a certificate at any time. */
const withdrawals: ReadonlySet<string> = new Set(['revoked', 'held', 'not_registered', 'pin_mismatch'])

/** Brings admission, sessions and snapshot together: who comes in, and who has to go when the snapshot changes. */
export class Gate {
  readonly #options: GateOptions
  #changes = 0
  #wasStale = false
  readonly #refusals = new LogLimit({ burst: 20, everyMs: 10_000 })

  constructor(options: GateOptions) {
    this.#options = options
  }

  /**
   * Decides about a CONNECT; admitted, the connection holds its client id and everybody else with that id is gone.
   *
   * @returns undefined when the connection ended meanwhile; `endTurn` is to be called once the CONNACK is out or the
   *   connection is gone
   */
  async connect(
    connection: Connection,
    connect: ConnectFacts,
  ): Promise<(Admission & { endTurn?: () => void }) | undefined> {
    const { sessions, snapshot, newSuffix, clones } = this.#options
    connection.state = 'connecting'
    await this.#catchUp(connection)
    let admission = this.#decide(connection, connect)
    const { secondFactor } = connection.rules
    if (admission.admitted && secondFactor !== undefined) {
      const fault = await secondFactor.fault(admission.principal.deviceId, connect)
      if (fault !== undefined) {
        admission = refusal(admission.verdict, ...fault)
        connection.verdict = admission.verdict
      }
    }
    if (hasEnded(connection)) return undefined
    if (!admission.admitted) return admission
    // [MQTT-3.2.2-16], [MQTT-3.1.3-6] of 3.1.1: an id that no session has. Under the device's own a tool that connects for a
    // moment would end the device's connection.
    const clientId = connect.clientId || `${admission.principal.deviceId}:${newSuffix()}`
    const { before, end: endTurn } = sessions.takeTurn(clientId)
    if (before !== undefined) await before
    // What was true before a wait need not be now.
    const isAsBefore = before === undefined && secondFactor === undefined && clientId === connect.clientId
    if (!isAsBefore && !hasEnded(connection)) admission = this.#decide(connection, { ...connect, clientId }, admission)
    if (!admission.admitted || hasEnded(connection)) {
      endTurn()
      return hasEnded(connection) ? undefined : admission
    }
    if (connection.deviceId === undefined) sessions.identify(connection, admission.principal.deviceId)
    if (clones.arrived(connection, clientId)) admission = this.#decide(connection, { ...connect, clientId }, admission)
    if (!admission.admitted) {
      endTurn()
      return admission
    }
    connection.principal = admission.principal
    connection.matcher = admission.matcher
    connection.matcherEpoch = snapshot.epoch
    await sessions.takeOver(clientId, connection)
    // A revocation during that wait has kicked the connection: it is identified, so the index finds it.
    if (hasEnded(connection)) {
      endTurn()
      sessions.release(connection)
      return undefined
    }
    return { ...admission, endTurn }
  }

  /** Grows whenever what a matcher has said may have become wrong. */
  get epoch(): number {
    return this.#options.snapshot.epoch + this.#changes
  }

  /** What is found of a connection whose CONNECT has come. */
  async examine(connection: Connection, clientId: string): Promise<Verdict> {
    await this.#catchUp(connection)
    return this.judge(connection, clientId)
  }

  /** What would be found of a peer that connects now under the id of its device. Nothing is noted of it. */
  async foresee({ evidence, rules }: Pick<Peer, 'evidence' | 'rules'>): Promise<Foreseen> {
    const { snapshot } = this.#options
    const peer = { evidence, rules, isUnasked: false, principal: undefined, verdict: undefined }
    await this.#catchUp(peer)
    const verdict = this.judge(peer, '')
    const { policy, certificate, deviceId } = verdict
    const device = deviceId === undefined ? undefined : snapshot.findDevice(deviceId)
    if (policy !== 'normal' || certificate === undefined || deviceId === undefined || device === undefined)
      return { verdict, rules, conditions: [] }
    const { facts } = principalOf({ certificate, deviceId, device, clientId: deviceId, verdict })
    return { verdict, rules, conditions: compilePolicy(snapshot.policy.document, facts).conditions }
  }

  /** The policy for a connection as it stands now; compiled again when the snapshot has moved on. */
  matcherOf(connection: Connection): Matcher {
    const { snapshot } = this.#options
    if (connection.matcher === undefined || connection.matcherEpoch !== snapshot.epoch) {
      const device = connection.deviceId === undefined ? undefined : snapshot.findDevice(connection.deviceId)
      const { certificate, clientId } = connection
      if (device === undefined || clientId === undefined || certificate === undefined)
        return compilePolicy({ policies: [] }, {})
      const deviceId = connection.deviceId as DeviceId
      const verdict = connection.verdict ?? this.judge(connection, clientId)
      connection.principal = principalOf({ certificate, deviceId, device, clientId, verdict })
      connection.matcher = compilePolicy(snapshot.policy.document, connection.principal.facts)
      connection.matcherEpoch = snapshot.epoch
    }
    return connection.matcher
  }

  /**
   * The policy for a client that may be gone, as for its will. Without its certificate nothing is allowed, and all is denied,
   * by a name in it; a device without standing may do nothing.
   */
  matcherOfClient(clientId: string, certificate: CertificateFacts | undefined): Matcher {
    const facts = this.factsOfClient(clientId, certificate)
    if (facts === undefined) return compilePolicy({ policies: [] }, {})
    const { document } = this.#options.snapshot.policy
    if (certificate !== undefined) return compilePolicy(document, facts)
    return compilePolicy(document, facts, { isUnknown: (name) => !/^(device|client)\./.test(name) })
  }

  /** @returns undefined for a device without standing */
  factsOfClient(clientId: string, certificate: CertificateFacts | undefined): PrincipalFacts | undefined {
    const { snapshot, authorities, clock } = this.#options
    const deviceId = deviceOf(clientId) as DeviceId
    const device = snapshot.findDevice(deviceId)
    const record = certificate && snapshot.findCertificate(certificate.fingerprint)
    const authority = certificate && authorities.findLabel(certificate)
    const isWithdrawn =
      record === undefined
        ? certificate !== undefined && (authority === undefined || authority === ownAuthority)
        : record.status === 'revoked' || record.deviceId !== deviceId
    const isRefused = isWithdrawn || (certificate !== undefined && authorities.isListed(certificate, clock()))
    if (device?.status !== 'active' || isRefused) return undefined
    if (certificate === undefined) return factsOfRecord({ deviceId, device, clientId })
    const state = clock() > certificate.notAfter ? 'expired' : 'valid'
    return principalOf({ certificate, deviceId, device, clientId, verdict: { state, authority } }).facts
  }

  /** Whether it is known who is revoked; before that nobody is let in, and no will is published. */
  get isLive(): boolean {
    return this.#options.feed.everLive
  }

  /** @returns undefined for a device that the registry does not have */
  standingOf(deviceId: string): DeviceStatus | undefined {
    return this.#options.snapshot.findDevice(deviceId)?.status
  }

  isRevoked(deviceId: string): boolean {
    return this.standingOf(deviceId) === 'revoked'
  }

  /** Whether a message that is kept is void, as its device was revoked after it was published and it was not to outlive that. */
  isVoid({ from, publishedAt }: Message, kept: keyof Purge): boolean {
    const device = this.#options.snapshot.findDevice(deviceOf(from))
    const before = device?.purge?.[kept]
    if (device === undefined || before === undefined) return false
    // Clocks differ: what a device published that is revoked now was published before, whatever ours says.
    const { status, purge = {}, kept: ofBefore, purgeHeardAt = 0 } = device
    if (status === 'revoked' && !ofBefore?.includes(kept)) return true
    const isLatest = Object.values(purge).every((at) => at <= before)
    return publishedAt <= Math.max(Date.parse(before), isLatest ? purgeHeardAt : 0)
  }

  /** A message that comes in now, as later than what of its device is void: our clock may be behind, or have been set back. */
  stamped(message: Message): Message {
    const device = this.#options.snapshot.findDevice(deviceOf(message.from))
    if (device?.purge === undefined) return message
    const since = voidUntil(device) + 1
    return message.publishedAt >= since ? message : { ...message, publishedAt: since }
  }

  /** Ends every connection that a change leaves without standing; the others meet the new policy at their next message. */
  enforce(change: SnapshotChange): void {
    const { sessions } = this.#options
    const affected = change.replaced
      ? [...sessions]
      : [
          ...change.devices.flatMap((id) => sessions.ofDevice(id)),
          ...change.certificates.flatMap((id) => sessions.ofCertificate(id)),
        ]
    if (affected.length > 0) this.#changes++
    for (const connection of affected) this.#review(connection)
  }

  /** A revocation list has changed: looks at everybody again whom its CA has vouched for. */
  enforceLists(labels: ReadonlySet<string>): void {
    for (const connection of this.#options.sessions) {
      const { issuer } = connection.evidence
      if (issuer.kind === 'trusted' && labels.has(issuer.authority.label)) this.#review(connection)
    }
  }

  /** What was found about the key of these connections leaves them without standing. */
  enforceOn(connections: readonly Connection[]): void {
    this.#changes++
    // One that was taken over has lost its session, and its socket may live for another second.
    for (const connection of connections) if (connection.state !== 'closed') this.#review(connection)
  }

  /** A listener has other rules: looks at everybody again. */
  enforceRules(): void {
    this.enforceOn([...this.#options.sessions])
  }

  /** Ends sessions whose time is up, as that of a certificate that has expired. To be called about once a second. */
  sweep(): void {
    const { sessions, clock, clones } = this.#options
    clones.look()
    const now = clock().getTime()
    const hasTurned = this.#hasTurned()
    // A look at each connection is cheap enough, some milliseconds for 20,000 of them, and nothing has to be kept in order.
    for (const connection of sessions) {
      const { state, verdict: before } = connection
      if (state !== 'live' || before === undefined) continue
      const isOver = before.until !== undefined && before.until.getTime() <= now
      if (!isOver && !hasTurned) continue
      const verdict = this.judge(connection, connection.clientId)
      if (!isOver && verdict.state === before.state) continue
      connection.verdict = verdict
      // A policy may look at the state.
      connection.matcherEpoch = -1
      this.#changes++
      if (verdict.policy === 'normal') continue
      const { cause = 'internal', message } = verdict
      const denial = this.#options.denials.note(refusedOf(connection), { stage: 'session', cause, message })
      connection.close(cause, `${message}; denial ${denial}`, denial)
    }
  }

  /** Whether it has become known, or unknown, who is revoked. */
  #hasTurned(): boolean {
    const { onStale } = this.#options
    const isStale = !this.#isLive()
    if (isStale === this.#wasStale) return false
    this.#wasStale = isStale
    onStale(isStale, this.#lastLive)
    return true
  }

  #isLive(): boolean {
    const { feed, stale, clock } = this.#options
    return isFresh(feed.knownAt, clock(), stale)
  }

  get #lastLive(): Date | undefined {
    return this.#options.feed.knownAt ?? this.#options.lastLive
  }

  /** @param clientId undefined before it is known */
  judge(peer: Peer, clientId?: string): Verdict {
    return judge(this.#situation(peer), clientId)
  }

  #review(connection: Connection): void {
    const { sessions, snapshot } = this.#options
    const verdict = this.judge(connection, connection.clientId)
    const { state, policy, cause = 'internal' } = verdict
    // Admitted is who is still being given a session, too: nobody asks again before that is done.
    if (connection.principal !== undefined) {
      if (connection.verdict?.state !== state) this.#changes++
      connection.verdict = verdict
      connection.matcherEpoch = -1
      if (policy !== 'normal') sessions.kick(connection, cause)
      return
    }
    if (connection.state === 'quarantined') {
      if (policy !== undefined) return
      connection.verdict = verdict
      sessions.kick(connection, cause)
      return
    }
    const { certificate, deviceId } = connection
    // One that is still to be asked about at CONNECT, where enroll is asked first, was never taken for known.
    const isKnown = deviceId !== undefined || (certificate && snapshot.findCertificate(certificate.fingerprint))
    if (policy === undefined && withdrawals.has(state) && isKnown) sessions.kick(connection, cause)
  }

  /** A connection has got what its verdict says: a session, or the quarantine. */
  letIn(connection: Connection): void {
    const { meters, verdicts } = this.#options
    if (connection.verdict) meters.decided(connection.verdict)
    verdicts.note(refusedOf(connection))
  }

  /**
   * A connection was refused, at its handshake or at its CONNECT. A storm of them from one address (IPv6: one /64) is told in
   * summary.
   *
   * @param fields for the log
   * @returns the id under which it can be asked about
   */
  refused(refused: Refused & { remoteAddress: string }, refusal: Refusal, fields: Record<string, unknown>): string {
    const { clock, log, denials, meters, verdicts } = this.#options
    const denial = denials.note(refused, refusal)
    const { listener = '', verdict } = refused
    meters.decided({ listener, state: verdict?.state, action: 'reject' })
    verdicts.note(refused, denial)
    const turn = this.#refusals.take(networkOf(refused.remoteAddress), clock().getTime())
    if (turn === undefined) return denial
    const { suppressed } = turn
    log.warn(
      {
        event: 'connection.refused',
        reason: refusal.cause,
        detail: refusal.message,
        denial,
        ...fields,
        ...(suppressed > 0 ? { suppressed } : {}),
      },
      'connection refused',
    )
    return denial
  }

  /**
   * A device may connect before the event of its own enrollment has come round. Where enroll cannot be asked, that is what
   * the device hears: it is to try again, not to take itself for refused.
   */
  async #catchUp(peer: Peer): Promise<void> {
    const { snapshot } = this.#options
    const deviceId = deviceIdOf(peer.evidence, snapshot)
    if (deviceId !== undefined && snapshot.findDevice(deviceId) !== undefined) return
    if (this.judge(peer).state === 'not_registered') peer.isUnasked = !(await this.#options.feed.sync(syncMs))
  }

  #situation({ evidence, rules, isUnasked, principal, verdict }: Peer) {
    const { snapshot, stale, clock, clones } = this.#options
    const { certificate } = evidence
    const now = clock()
    const suspendedUntil = certificate && clones.suspendedUntil(certificate, now)
    // Let in by what was known; one that came in by a grace ends with it.
    const isKept = stale.sessions === 'keep' && principal !== undefined && verdict?.cause !== 'snapshot_stale'
    const live = isKept || this.#isLive()
    return { evidence, rules, beliefs: snapshot, live, lastLive: this.#lastLive, now, isUnasked, suspendedUntil }
  }

  #decide(connection: Connection, connect: ConnectFacts, before?: Admission): Admission {
    const { snapshot, sessions, limits } = this.#options
    const deviceId = deviceIdOf(connection.evidence, snapshot)
    const admission = admitConnect({
      ...this.#situation(connection),
      connect,
      remoteAddress: connection.remoteAddress,
      otherConnections: deviceId === undefined ? 0 : sessions.countOthers(deviceId, connect.clientId || deviceId),
      maxConnections: limits.maxConnectionsPerDevice,
      before,
    })
    connection.verdict = admission.verdict
    return admission
  }
}

const hasEnded = (connection: Connection): boolean => connection.cut || connection.state === 'closed'
