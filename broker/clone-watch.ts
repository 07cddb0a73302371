import { type Alert, type BrokerReport, reportBounds } from '../contract/broker-reports.ts'
import type { Configuration } from '../contract/configuration.ts'
import type { FromBroker, FromEnroll } from '../contract/feed.ts'
import { type KeyOrder, type LiveSession, type Sighting, sightingsAtOnce } from '../contract/live-sessions.ts'
import { parseNetwork } from '../contract/networks.ts'
import type { CertificateFacts } from '../pki/certificate.ts'
import { AttemptLimit } from '../runtime/limits.ts'
import type { Log } from '../runtime/log.ts'
import { LogLimit } from '../runtime/log-limit.ts'
import { type Beside, type Clone, Clones, type Contact, placeOf, type Sites } from './clones.ts'
import { type Events, eventOf } from './events.ts'
import { showSessions } from './live-sessions.ts'
import type { Connection } from './sessions.ts'

type CloneWatchOptions = {
  settings: Configuration['broker']['clones']
  clock: () => Date
  /** Looks again at connections whose key has been suspended. */
  review: (connections: readonly Connection[]) => void
  report: (report: BrokerReport) => void
  /** To enroll, for other brokers. @returns false where it cannot take it yet */
  say: (message: Extract<FromBroker, { kind: 'arrived' | 'beside' }>) => boolean
  events: Pick<Events, 'raise'>
  log: Log
}
type Suspension = { since: number; until: number; times: number }

const longestMs = 3_600_000
/** A key that was quiet for so long begins anew. */
const forgiveMs = 24 * 3_600_000
const maxKnown = 10_000
/** Of one key, in an answer. */
const maxShown = 20
/** In one look: a fleet that comes at once is told of in the seconds after it. */
const maxLines = 4
/** Those who come within so long are told of in one line. */
const gatherMs = 50
/** So long after one was told of elsewhere, whoever left here for that has gone. */
const leaveMs = 100

/**
 * Watches for one key in two places, and keeps both away for a while when it sees that: longer each time, since a clone comes
 * back. Nobody can say here which of them is the device.
 */
export class CloneWatch {
  readonly #options: CloneWatchOptions
  readonly #clones: Clones<Connection>
  readonly #sites: Sites
  /** By key, the latest last. */
  readonly #suspended = new Map<string, Suspension>()
  readonly #alerts = new LogLimit({ burst: 1, everyMs: 60_000 })
  readonly #bytesIn = new WeakMap<Connection, number>()
  /** Other brokers have not heard of these. */
  readonly #untold = new Set<Connection>()
  #gathering = false
  /** By broker: one that says of everybody that they are there ends few sessions here. */
  readonly #yields: AttemptLimit

  constructor(options: CloneWatchOptions) {
    this.#options = options
    this.#clones = new Clones(options.settings.overlapMs)
    this.#yields = new AttemptLimit(options.settings.maxSuspended)
    this.#sites = new Map(
      Object.entries(options.settings.sites).map(([name, networks]) => [
        name,
        networks.map((text) => parseNetwork(text)!),
      ]),
    )
  }

  /** When a key may be used again; undefined for one that may. */
  suspendedUntil({ spkiHash }: Pick<CertificateFacts, 'spkiHash'>, now: Date): Date | undefined {
    const suspension = this.#suspended.get(spkiHash)
    return suspension && isUnderWay(suspension, now.getTime()) ? new Date(suspension.until) : undefined
  }

  /** A CONNECT is about to be accepted under a client id. @returns whether its key has been suspended for it */
  arrived(connection: Connection, clientId: string): boolean {
    const { settings } = this.#options
    const { certificate, socket } = connection
    if (settings.action === 'off' || certificate === undefined) return false
    const [key, place, at] = [certificate.spkiHash, placeOf(connection.remoteAddress, this.#sites), this.#now()]
    // What was sent before this one came does not tell of two places.
    this.#look(this.#clones.ofKey(key), at)
    if (this.suspendedUntil(certificate, new Date(at)) !== undefined) return true
    this.#bytesIn.set(connection, connection.link.counters.bytesIn)
    const seen = this.#clones.arrived({ key, id: connection, clientId, place, at })
    if (seen !== undefined && 'first' in seen) return this.#seen(seen)
    // A peer that ends its side, or answers our end with its own, is there.
    socket.on('end', () => this.#heard(connection, this.#now()))
    socket.on('close', () => {
      this.#clones.gone(connection)
      this.#untold.delete(connection)
    })
    if (seen === undefined) this.#tellSoon(connection)
    else setTimeout(() => this.#isBack(seen), gatherMs).unref()
    return false
  }

  /** What was said before may not have been passed on to everybody who is there now. */
  tellAll(connections: Iterable<Connection>): void {
    for (const connection of connections) if (this.#clones.has(connection)) this.#untold.add(connection)
    this.#tell(maxLines)
  }

  /** Who has come to another broker, or was there before what is here. */
  elsewhere({ broker, sessions, isEarlier }: Extract<FromEnroll, { kind: 'elsewhere' }>): void {
    const at = this.#now()
    for (const { key, from, clientId } of sessions) {
      const own = this.#clones.ofKey(key)
      if (own.length === 0) continue
      this.#look(own, at)
      const place = placeOf(from, this.#sites)
      this.#clones.elsewhere({ key, broker, place, isEarlier, at })
      if (isEarlier || clientId === undefined) continue
      const rival = { key, clientId, place, toldAt: at }
      if (this.#clones.rivalOf(rival) === undefined) continue
      setTimeout(() => this.#yield(rival, broker), leaveMs).unref()
    }
  }

  /** Enroll has seen a key at two brokers, or asks whether it is here. @returns those with it as they were */
  order({ key, suspend }: KeyOrder): LiveSession[] {
    const now = this.#now()
    const shown = showSessions(this.#clones.ofKey(key), new Date(now)).slice(0, maxShown)
    if (suspend && this.#suspend(key, now) !== undefined) this.#options.review(this.#clones.take(key))
    return shown
  }

  /** To be called about once a second. */
  look(): void {
    const now = this.#now()
    this.#look(this.#clones.watched(), now)
    this.#clones.forget(now)
    this.#tell(maxLines)
  }

  /** As it would of one broker: its client id is that of who came last. */
  #yield(rival: Parameters<Clones<Connection>['rivalOf']>[0], broker: string): void {
    const at = this.#now()
    const connection = this.#clones.rivalOf(rival)
    if (connection === undefined || this.#options.settings.maxSuspended === 0) return
    if (this.#yields.waitMs(broker, at) > 0) return
    this.#yields.note(broker, at)
    this.#clones.yields(connection, { broker, at })
    connection.close('session_elsewhere', 'its client id has come to another broker, from another place')
  }

  #tellSoon(connection: Connection): void {
    this.#untold.add(connection)
    if (this.#gathering) return
    this.#gathering = true
    setTimeout(() => {
      this.#gathering = false
      this.#tell(1)
    }, gatherMs).unref()
  }

  #tell(atMost: number): void {
    for (let lines = 0; lines < atMost && this.#untold.size > 0; lines++) {
      const some = this.#untold.values().take(sightingsAtOnce).toArray()
      if (!this.#options.say({ kind: 'arrived', sessions: some.flatMap(sightingOf) })) return
      for (const connection of some) this.#untold.delete(connection)
    }
  }

  #look(connections: readonly Connection[], now: number): void {
    for (const connection of connections) {
      const { bytesIn } = connection.link.counters
      if (this.#bytesIn.get(connection) === bytesIn) continue
      this.#bytesIn.set(connection, bytesIn)
      this.#heard(connection, now)
    }
  }

  #heard(connection: Connection, at: number): void {
    const seen = this.#clones.heard(connection, at)
    if (seen === undefined) return
    if ('first' in seen) this.#seen(seen)
    else this.#sayBeside(seen, at)
  }

  /** Enroll asks the other broker whether the one there is heard as well: what moved from here to there is not. */
  #sayBeside({ rule, broker, contact: { key, id } }: Beside<Connection>, at: number): boolean {
    const [session] = showSessions([id], new Date(at))
    const isBack = rule === 'back' ? { isBack: true } : {}
    return session !== undefined && this.#options.say({ kind: 'beside', key, broker, session, ...isBack })
  }

  /** It is live by now. The one at the other broker is not to yield to it in turn: enroll asks there whether it stays. */
  #isBack(seen: Beside<Connection>): void {
    const { id } = seen.contact
    if (this.#clones.has(id) && !this.#sayBeside(seen, this.#now())) this.#untold.add(id)
  }

  /** @returns whether the key is suspended */
  #seen(clone: Clone<Connection>): boolean {
    const now = this.#now()
    const suspension = this.#suspend(clone.first.key, now)
    const turn = this.#alerts.take(clone.first.key, now)
    if (turn !== undefined) this.#alert(clone, suspension, turn.suppressed + 1)
    if (suspension !== undefined) this.#options.review(clone.open)
    return suspension !== undefined
  }

  #alert({ rule, first, second }: Clone<Connection>, suspension: Suspension | undefined, count: number): void {
    const { settings, clock, log, report, events } = this.#options
    const { certificate, deviceId, rules, remoteAddress } = second.id
    const details = {
      rule,
      deviceId,
      serial: certificate?.serial,
      key: first.key,
      places: [first, second].map(describe),
      ...(suspension === undefined ? {} : { suspendedUntil: new Date(suspension.until).toISOString() }),
    }
    log.warn({ event: 'clone.seen', ...details }, 'one key is used in two places')
    if (suspension === undefined) {
      const why = `${settings.maxSuspended} keys are suspended already: are these the addresses of devices?`
      log.error({ event: 'clone.notSuspended', deviceId, why }, 'a key that was cloned goes on')
    }
    const detail = `${rule}: ${describe(first)}; ${describe(second)}`.slice(0, reportBounds.detail)
    const alert: Alert = {
      type: 'alert',
      kind: 'clone',
      at: clock().toISOString(),
      listener: rules.name.slice(0, reportBounds.name),
      remoteAddress: remoteAddress.slice(0, reportBounds.name),
      clientId: second.clientId.slice(0, reportBounds.clientId),
      detail,
      count,
      ...(deviceId === undefined ? {} : { deviceId }),
      ...(certificate === undefined ? {} : { serial: certificate.serial, fingerprint: certificate.fingerprint }),
    }
    report(alert)
    events.raise({ type: 'alert', ...eventOf(second.id), clientId: second.clientId, kind: 'clone', message: detail })
  }

  /** @returns undefined where too many are suspended: a fault of the network must not put a fleet out of reach */
  #suspend(key: string, now: number): Suspension | undefined {
    const { suspendMs, maxSuspended } = this.#options.settings
    const underWay = [...this.#suspended.values()].filter((one) => isUnderWay(one, now)).length
    if (underWay >= maxSuspended) return undefined
    const before = this.#suspended.get(key)
    const times = before !== undefined && now - before.until < forgiveMs ? before.times + 1 : 1
    const until = now + Math.min(suspendMs * 2 ** Math.min(times - 1, 20), Math.max(longestMs, suspendMs))
    this.#suspended.delete(key)
    const suspension = { since: now, until, times }
    this.#suspended.set(key, suspension)
    if (this.#suspended.size > maxKnown) this.#suspended.delete(this.#suspended.keys().next().value!)
    return suspension
  }

  #now(): number {
    return this.#options.clock().getTime()
  }
}

/** One that begins in the future is of a clock that was set back since: it must not keep a device out until that has caught up. */
const isUnderWay = ({ since, until }: Suspension, now: number): boolean => since <= now && now < until

const sightingOf = ({ certificate, clientId, remoteAddress }: Connection): Sighting[] =>
  certificate === undefined
    ? []
    : [
        {
          ...{ key: certificate.spkiHash, from: remoteAddress.slice(0, reportBounds.name) },
          ...(clientId === undefined ? {} : { clientId: clientId.slice(0, reportBounds.clientId) }),
        },
      ]

function describe({ id, clientId, since }: Contact<Connection>): string {
  const { socket, remoteAddress } = id
  const { name } = socket.getCipher() ?? { name: 'closed' }
  const resumed = socket.isSessionReused() ? ' resumed' : ''
  const when = new Date(since).toISOString()
  return `${clientId.slice(0, 100)} from ${remoteAddress} since ${when} (${socket.getProtocol() ?? 'TLS'} ${name}${resumed})`
}
