import { randomUUID } from 'node:crypto'
import type { FromBroker } from '../contract/feed.ts'
import { isFingerprint } from '../contract/ids.ts'
import { type LiveSession, liveSession, type Sighting, sightings } from '../contract/live-sessions.ts'
import { FleetError } from '../runtime/errors.ts'
import { AttemptLimit } from '../runtime/limits.ts'
import type { Log } from '../runtime/log.ts'
import type { Follower } from './feed-follower.ts'

type Broker = Pick<Follower, 'id' | 'knows' | 'ask' | 'tell'>
type Said<K extends FromBroker['kind']> = Extract<FromBroker, { kind: K }>
type Side = { broker: string; session: LiveSession }
/**
 * One key that is used at two brokers, the later side last. `overlap`: both are heard for longer than a move takes; `duel`: who
 * yielded its client id to the other is back for it.
 */
export type Met = {
  key: string
  rule: 'overlap' | 'duel'
  sides: readonly [Side, Side]
  suspended: boolean
  requestId: string
}
type MeetingsOptions = {
  brokers: ReadonlyMap<string, Broker>
  /** Keys that are suspended in an hour for what two brokers say; a broker could say it of any. */
  maxSuspended: number
  onMet: (met: Met) => Promise<void>
  clock: () => Date
  log: Log
}

const askMs = 2_000
const hourMs = 3_600_000
/** What one broker has said of keys, and is remembered. */
const maxKept = 1_000
/** Lines of one broker in a second that say who has come: it sends four of them. */
const maxLines = 50
/** The same of one key each, as many as come to be heard at once where a whole site has two uplinks. */
const maxBeside = 50

/**
 * One key at two brokers. Who has come to one is passed on to the others, and nothing of it is kept here. A broker that has the
 * key too, and hears it there for longer than a move takes, says so; then the other is asked for the same. Both places are judged where
 * they are seen, so no two clocks are compared. It shows sooner where both want one client id: who has it yields to who comes, as
 * at one broker, and a device that has moved does not come back for it.
 */
export class CloneMeetings {
  readonly #options: MeetingsOptions
  /** By broker and key. */
  readonly #beside = new Map<string, Map<string, { at: string; session: LiveSession }>>()
  readonly #lines = new AttemptLimit(maxLines, { periodMs: 1_000 })
  /** Of their own: who has much to say of single keys is not cut off for what else it says. */
  readonly #besideLines = new AttemptLimit(maxBeside, { periodMs: 1_000 })
  readonly #suspensions: AttemptLimit

  constructor(options: MeetingsOptions) {
    this.#options = options
    this.#suspensions = new AttemptLimit(options.maxSuspended, { periodMs: hourMs })
  }

  /** @throws FleetError `request_malformed`, `too_many_requests` */
  arrived(broker: string, { sessions }: Said<'arrived'>): void {
    const said = sightings.safeParse(sessions).data
    if (said === undefined) throw new FleetError('request_malformed', 'who has arrived cannot be read')
    this.#count(this.#lines, broker)
    const known = this.#beside.get(broker)
    // What was said of one that was there before says nothing of this one.
    for (const { key } of known === undefined ? [] : said) known!.delete(key)
    for (const other of this.#options.brokers.values()) if (other.id !== broker) tell(other, broker, said, false)
  }

  /**
   * One is heard beside another that came to `broker`, or was there.
   *
   * @throws FleetError `request_malformed`, `too_many_requests`
   */
  async beside(by: string, said: Said<'beside'>): Promise<void> {
    const session = liveSession.safeParse(said.session).data
    const { key, broker: at } = said
    if (session === undefined || !isFingerprint(key) || typeof at !== 'string')
      throw new FleetError('request_malformed', 'who is beside whom cannot be read')
    this.#count(this.#besideLines, by)
    const other = this.#options.brokers.get(at)
    if (other === undefined || at === by) return
    if (said.isBack) return this.#isBack(key, other, { broker: by, session })
    const answer = this.#beside.get(at)?.get(key)
    if (answer?.at !== by) {
      this.#keep(by, key, { at, session })
      tell(other, by, [{ key, from: session.remoteAddress }], true)
      return
    }
    this.#beside.get(at)!.delete(key)
    const sides: Met['sides'] = [
      { broker: at, session: answer.session },
      { broker: by, session },
    ]
    requireOneDevice(sides)
    // It may have gone since it said so: then this was a slow move.
    const stillThere = await other.ask('key', { key, suspend: false }, askMs)
    if (stillThere !== undefined && stillThere.length > 0) await this.#meet(key, 'overlap', sides)
  }

  /** @param side who is back for the client id that it yielded to one at `other` */
  async #isBack(key: string, other: Broker, side: Side): Promise<void> {
    const there = await other.ask('key', { key, suspend: false }, askMs)
    const session = there?.find(({ clientId }) => clientId === side.session.clientId)
    if (session === undefined) return
    const sides: Met['sides'] = [{ broker: other.id, session }, side]
    requireOneDevice(sides)
    await this.#meet(key, 'duel', sides)
  }

  /** What it has said is of sessions that it may have lost. */
  left(broker: string): void {
    this.#beside.delete(broker)
  }

  async #meet(key: string, rule: Met['rule'], sides: Met['sides']): Promise<void> {
    const { brokers, log, onMet } = this.#options
    const suspended = this.#maySuspend(sides)
    const { deviceId } = sides[1].session
    if (suspended) {
      // Everywhere: who is put out here would go on there.
      const asked = [...brokers.values()].filter(({ knows }) => knows.has('key'))
      await Promise.all(asked.map((broker) => broker.ask('key', { key, suspend: true }, askMs)))
    } else {
      const why =
        'so many keys were suspended in an hour for what these two brokers say: are these the addresses of devices?'
      log.error(
        { event: 'clone.notSuspended', deviceId, brokers: sides.map(({ broker }) => broker), why },
        'a key that was cloned goes on',
      )
    }
    await onMet({ key, rule, sides, suspended, requestId: `meeting-${randomUUID()}` })
  }

  /** Of two brokers, so that one that lies uses up nothing but its own. */
  #maySuspend(sides: Met['sides']): boolean {
    const now = this.#options.clock().getTime()
    const pair = sides
      .map(({ broker }) => broker)
      .sort()
      .join(' ')
    if (this.#options.maxSuspended === 0 || this.#suspensions.waitMs(pair, now) > 0) return false
    this.#suspensions.note(pair, now)
    return true
  }

  #keep(broker: string, key: string, said: { at: string; session: LiveSession }): void {
    const known = this.#beside.get(broker) ?? new Map()
    this.#beside.set(broker, known)
    known.delete(key)
    known.set(key, said)
    if (known.size > maxKept) known.delete(known.keys().next().value!)
  }

  #count(limit: AttemptLimit, broker: string): void {
    const now = this.#options.clock().getTime()
    if (limit.waitMs(broker, now) > 0)
      throw new FleetError('too_many_requests', 'a broker tells of more than can come to it')
    limit.note(broker, now)
  }
}

function requireOneDevice([one, other]: Met['sides']): void {
  if (one.session.deviceId === other.session.deviceId) return
  const sentence = `${one.broker} and ${other.broker} name different devices for one key: one of the two does not tell the truth`
  throw new FleetError('request_malformed', sentence)
}

function tell(broker: Broker, from: string, sessions: Sighting[], isEarlier: boolean): void {
  if (broker.knows.has('key')) broker.tell({ kind: 'elsewhere', broker: from, sessions, isEarlier })
}
