import type { Configuration } from '../contract/configuration.ts'
import { type ProblemCode, problems } from '../contract/problems.ts'
import { anyStatus, type QuarantineStatus, quarantineName, quarantineTopics } from '../contract/quarantine.ts'
import type { VerificationState } from '../contract/verification.ts'
import { AttemptLimit, networkOf } from '../runtime/limits.ts'
import type { Log } from '../runtime/log.ts'
import { LogLimit } from '../runtime/log-limit.ts'
import { namelessSession, refusal } from './admission.ts'
import { type Asked, type Denials, refusedOf } from './denials.ts'
import { type Events, eventOf } from './events.ts'
import type { Gate } from './gate.ts'
import { askAbout, shown, who } from './mqtt-context.ts'
import { reasonOf } from './refusals.ts'
import type { Connection } from './sessions.ts'
import type { LinkEvents } from './wire/link-events.ts'
import type { Connect, Publish, Subscribe, Unsubscribe } from './wire/packet.ts'
import { reason } from './wire/reason.ts'

const enroll = 'enroll with a token over EST (RFC 7030), then connect with the certificate that you were given'
const advice: Record<VerificationState, string> = {
  valid: 'connect again',
  none: enroll,
  self_signed: enroll,
  bad_signature: enroll,
  unknown_ca: enroll,
  revoked: 'the device was taken out of service; ask who runs it',
  held: 'the device or its certificate is on hold; ask who runs the device, and connect again later',
  stale_status: 'connect again later',
  expired: 'renew over EST, or enroll again with a new token, then connect again',
  not_yet_valid: 'check the clock, and connect again later',
  wrong_eku: 'connect with the certificate that was issued for the device',
  not_registered: enroll,
  pin_mismatch: 'connect with the certificate that the device enrolled with, or enroll again',
  client_id_mismatch: 'connect with the device id as client id',
}

/** Enough for a question and its answer. */
const maxPacketBytes = 4_096
const admissionsPerMinute = 60
const asksPerMinute = 12

/** How many may be in quarantine, and how often they may come and ask. */
export class Quarantine {
  readonly #gate: Gate
  readonly #clock: () => Date
  readonly #log: Log
  readonly #denials: Pick<Denials, 'note'>
  readonly #lines = new LogLimit({ burst: 10, everyMs: 60_000 })
  readonly #events: Pick<Events, 'raise'>
  readonly #limits: Pick<Configuration['broker'], 'maxQuarantined' | 'maxConnectionsPerDevice'>
  readonly #admissions = new AttemptLimit(admissionsPerMinute)
  readonly #asks = new AttemptLimit(asksPerMinute)
  readonly #counts = new Map<string, number>()
  readonly #stayMs: number
  /** Who is inside, and since when; the longest first. */
  readonly #inside = new Map<Connection, number>()
  #ordinal = 0

  constructor(options: {
    gate: Gate
    clock: () => Date
    log: Log
    denials: Pick<Denials, 'note'>
    events: Pick<Events, 'raise'>
    config: Configuration['broker']
  }) {
    this.#gate = options.gate
    this.#events = options.events
    this.#clock = options.clock
    this.#log = options.log
    this.#denials = options.denials
    this.#limits = options.config
    this.#stayMs = options.config.quarantineStayMs
  }

  /** @returns why there is no room for this peer now */
  enter(connection: Connection): string | undefined {
    const { remoteAddress } = connection
    const peer = peerOf(connection)
    const now = this.#clock().getTime()
    const network = networkOf(remoteAddress)
    if (this.#admissions.waitMs(network, now) > 0) return 'too many quarantined connections in a minute'
    this.#admissions.note(network, now)
    const ofOne = this.#counts.get(peer) ?? 0
    const { maxQuarantined, maxConnectionsPerDevice } = this.#limits
    if (this.#inside.size >= maxQuarantined || ofOne >= maxConnectionsPerDevice)
      return 'too many connections are in quarantine'
    this.#inside.set(connection, now)
    this.#counts.set(peer, ofOne + 1)
    this.#ordinal++
    return undefined
  }

  leave(connection: Connection): void {
    const peer = peerOf(connection)
    this.#inside.delete(connection)
    const left = (this.#counts.get(peer) ?? 0) - 1
    if (left > 0) this.#counts.set(peer, left)
    else this.#counts.delete(peer)
  }

  /** Of who came in last: a number that no other connection has while this process lives. */
  get ordinal(): number {
    return this.#ordinal
  }

  /** Ends who has been inside for too long: one that stays keeps others out. To be called about once a second. */
  sweep(): void {
    const now = this.#clock().getTime()
    for (const [connection, since] of this.#inside) {
      if (now - since < this.#stayMs) break
      const { cause = 'quarantined', message } = connection.verdict ?? {}
      const sentence = `quarantine is for ${this.#stayMs} ms${message ? `: ${message}` : ''}`
      const denial = this.#denials.note(refusedOf(connection), { stage: 'session', cause, message: sentence })
      this.#inside.delete(connection)
      connection.close(cause, `${sentence}; ${askAbout(denial)}`, denial)
    }
  }

  /** @returns false when this peer has asked too often */
  mayAsk(connection: Connection): boolean {
    const peer = peerOf(connection)
    const now = this.#clock().getTime()
    if (this.#asks.waitMs(peer, now) > 0) return false
    this.#asks.note(peer, now)
    return true
  }

  /** Looks again at a connection that is inside, or is to be. */
  review(connection: Connection, clientId: string): void {
    connection.verdict = this.#gate.judge(connection, clientId)
  }

  /** @returns what to tell the client */
  refused(connection: Connection, why: ProblemCode, message: string): string {
    const { verdict } = connection
    if (verdict) connection.verdict = refusal(verdict, why, message).verdict
    connection.endReason = why
    const denial = this.#gate.refused(refusedOf(connection), { stage: 'connect', cause: why, message }, who(connection))
    return `${message}; ${askAbout(denial)}`
  }

  /**
   * Something else was asked for than is to be had here; the cause is what has led here. @returns what to tell the client
   *
   * @param why where it is another
   */
  denied(connection: Connection, asked: Asked, why?: ProblemCode): string {
    const { remoteAddress, verdict } = connection
    const cause = why ?? verdict?.cause ?? 'quarantined'
    const message = why === undefined && verdict?.message ? `in quarantine: ${verdict.message}` : problems[cause].title
    const stage = asked.action === 'subscribe' ? 'subscribe' : 'publish'
    const denial = this.#denials.note(refusedOf(connection), { stage, cause, message, asked })
    const told = this.#lines.take(networkOf(remoteAddress), this.#clock().getTime())
    const fields = { event: `${stage}.denied`, reason: cause, denial, ...who(connection), topic: shown(asked.topic) }
    if (told) this.#log.warn({ ...fields, ...told }, 'refused in quarantine')
    return askAbout(denial)
  }

  /** To applications it is refused: what it came for it does not get. */
  entered(connection: Connection, claimedId: string): void {
    this.log('quarantine.entered', connection)
    this.#gate.letIn(connection)
    const { cause: reason, message } = connection.verdict ?? {}
    this.#events.raise({
      type: 'refused',
      ...eventOf(connection),
      clientId: claimedId,
      reason,
      message,
      stage: 'connect',
    })
  }

  log(event: 'quarantine.entered' | 'quarantine.asked' | 'quarantine.left', connection: Connection): void {
    const { verdict, denial } = connection
    const fields = { event, reason: verdict?.cause, ...(denial === undefined ? {} : { denial }), ...who(connection) }
    this.#log.info(fields, 'quarantine')
  }
}

/** Of whom there may be only so many. All without a certificate have one name, and nothing but their address tells them apart. */
const peerOf = ({ certificate, remoteAddress }: Connection): string =>
  certificate === undefined ? networkOf(remoteAddress) : quarantineName(certificate.fingerprint)

/**
 * Serves a client in quarantine by itself: no session, no store, no route. Nothing that such a client sends can reach another,
 * because none of it goes any further than this.
 */
export class QuarantineSession implements LinkEvents {
  readonly #connection: Connection
  readonly #quarantine: Quarantine
  readonly #claimedId: string
  readonly #name: string
  readonly #topics: ReturnType<typeof quarantineTopics>
  /** Filters by which its status comes, with their subscription identifiers. */
  readonly #filters = new Map<string, number[]>()
  #isIn = false

  constructor(connection: Connection, quarantine: Quarantine, claimedId: string) {
    this.#connection = connection
    this.#quarantine = quarantine
    this.#claimedId = claimedId
    this.#name = quarantineName(connection.certificate?.fingerprint)
    this.#topics = quarantineTopics(this.#name)
  }

  /** A will is not kept: nobody would be allowed to have it. */
  connect({ clientId, clean, version }: Connect): void {
    const { link } = this.#connection
    const refusal = clientId === '' && !clean && version < 5 ? namelessSession : this.#full()
    if (refusal !== undefined) {
      link.refuse(reasonOf(refusal[0]), this.#quarantine.refused(this.#connection, ...refusal))
      return
    }
    this.#isIn = true
    this.#connection.state = 'quarantined'
    link.accept({
      sessionPresent: false,
      // [MQTT-3.2.2-16]: one that nobody else has, and all without a certificate have one name.
      ...(clientId === '' ? { assignedClientId: `${this.#name}:${this.#quarantine.ordinal}` } : {}),
      properties: {
        sessionExpiryInterval: 0,
        maximumPacketSize: maxPacketBytes,
        maximumQos: 1,
        retainAvailable: false,
        topicAliasMaximum: 0,
        sharedSubscriptionAvailable: false,
      },
    })
    this.#quarantine.entered(this.#connection, this.#claimedId)
  }

  publish({ topic, qos, retain, payload, packetId }: Publish): void {
    const isAsk = topic === this.#topics.ask
    const type = qos === 1 ? 'puback' : 'pubrec'
    if (isAsk && this.#quarantine.mayAsk(this.#connection)) {
      this.#asked()
      if (qos > 0) this.#connection.link.send({ type, packetId, reason: reason.success })
      return
    }
    const asked = { action: 'publish', topic, qos, retain, payload } as const
    const reasonString = this.#quarantine.denied(this.#connection, asked, isAsk ? 'too_many_requests' : undefined)
    const code = isAsk ? reason.quotaExceeded : reason.notAuthorized
    if (qos > 0) this.#connection.link.send({ type, packetId, reason: code, properties: { reasonString } })
  }

  released(packetId: number): void {
    this.#connection.link.send({ type: 'pubcomp', packetId, reason: reason.success })
  }

  subscribe({ packetId, subscriptions, properties }: Subscribe): void {
    const granted: string[] = []
    let reasonString = ''
    const reasons = subscriptions.map(({ filter }) => {
      if (filter !== this.#topics.status && filter !== anyStatus) {
        reasonString = this.#quarantine.denied(this.#connection, { action: 'subscribe', topic: filter })
        return reason.notAuthorized
      }
      this.#filters.set(filter, properties?.subscriptionIdentifiers ?? [])
      granted.push(filter)
      return reason.success // QoS 0
    })
    const told = reasonString === '' ? {} : { properties: { reasonString } }
    this.#connection.link.send({ type: 'suback', packetId, reasons, ...told })
    for (const filter of granted) this.#tell(this.#filters.get(filter)!)
  }

  unsubscribe({ packetId, filters }: Unsubscribe): void {
    const reasons = filters.map((filter) =>
      this.#filters.delete(filter) ? reason.success : reason.noSubscriptionExisted,
    )
    this.#connection.link.send({ type: 'unsuback', packetId, reasons })
  }

  // Nothing is sent at a QoS that is acknowledged, nothing waits for room, and there is no session to say goodbye to.
  acknowledged(): void {}
  received(): void {}
  room(): void {}
  disconnected(): void {}

  closed(): void {
    if (!this.#isIn) return
    this.#quarantine.leave(this.#connection)
    this.#quarantine.log('quarantine.left', this.#connection)
  }

  #full(): ['too_many_connections', string] | undefined {
    const why = this.#quarantine.enter(this.#connection)
    return why === undefined ? undefined : ['too_many_connections', why]
  }

  #asked(): void {
    this.#quarantine.review(this.#connection, this.#claimedId)
    this.#quarantine.log('quarantine.asked', this.#connection)
    const identifiers = [...this.#filters.values()].flat()
    if (this.#filters.size > 0) this.#tell(identifiers)
  }

  #tell(identifiers: readonly number[]): void {
    const { link, verdict, certificate } = this.#connection
    if (verdict === undefined) return
    const { state, cause, message } = verdict
    const status: QuarantineStatus = {
      state,
      ...(cause === undefined ? {} : { cause }),
      detail: message,
      advice: advice[state],
      ...(certificate === undefined ? {} : { fingerprint: certificate.fingerprint }),
      ask: this.#topics.ask,
    }
    const payload = Buffer.from(JSON.stringify(status))
    link.deliver({ topic: this.#topics.status, payload }, { qos: 0, retain: true, identifiers })
  }
}
