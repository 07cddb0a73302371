import type { TLSSocket } from 'node:tls'
import { maxReportsUnderWay } from '../contract/broker-reports.ts'
import { listenersAtMost, listenerVerdict } from '../contract/certificate-verdicts.ts'
import { denialView } from '../contract/denials.ts'
import {
  type Cursor,
  encodeLine,
  type FeedEvent,
  type FromBroker,
  type FromEnroll,
  type QuestionKind,
  type Questions,
  type StaleBounds,
} from '../contract/feed.ts'
import { liveSession, sessionsAtOnce } from '../contract/live-sessions.ts'
import { reloaded } from '../contract/live-settings.ts'
import { FleetError } from '../runtime/errors.ts'
import { readState, type StateWanted } from './feed-state.ts'
import type { CertificateRecord } from './registry/certificates.ts'
import type { Registry } from './registry/registry.ts'

const batch = 500
/** One for each certificate that a broker has not heard of, in a storm of them. */
const maxPings = 50_000
/** So much that a broker has not taken yet: what it can do without is left out. */
const maxUnsent = 1_048_576
/** In what form each is answered; more than that is not looked at. */
const answers = {
  denials: { item: denialView, atMost: 200 },
  sessions: { item: liveSession, atMost: sessionsAtOnce + 1 },
  kick: { item: liveSession, atMost: 1 },
  verdicts: { item: listenerVerdict, atMost: listenersAtMost },
  key: { item: liveSession, atMost: 20 },
  reload: { item: reloaded, atMost: 1 },
}

type Asked = { kind: QuestionKind; resolve: (items: unknown[] | undefined) => void }

/** One broker that follows: backfill from its cursor, or all that counts by now; then live. */
export class Follower {
  readonly id: string
  readonly socket: TLSSocket
  readonly #registry: Registry
  #cursor: Cursor
  /** What one is told that cannot go on at its cursor; undefined where it can. */
  #state: StateWanted | undefined
  #live = false
  #pumping = false
  #again = false
  #pings: number[] = []
  appliedSeq: number
  /** The last event that it may have. */
  #toldSeq: number
  readonly #forks: number
  readonly #relays: boolean
  /** As in its record: what it has put in force is of this feed, and of none before so many restores. */
  forks: number
  readonly knows: ReadonlySet<string>
  readonly bounds: StaleBounds | undefined
  /** What it has shown, of one that renews. */
  readonly #shown: CertificateRecord | undefined
  /** When it last asked for the head of the feed. */
  askedAt: Date
  readonly #underWay = new Set<string>()
  readonly #asked = new Map<number, Asked>()
  readonly #gone = new AbortController()
  #nextAsk = 1

  constructor(
    id: string,
    socket: TLSSocket,
    registry: Registry,
    options: {
      cursor: Cursor
      state: StateWanted | undefined
      knows: ReadonlySet<string>
      bounds: StaleBounds | undefined
      forks: { now: number; followed: number }
      /** Whether it is to say who has arrived. */
      relays: boolean
      shown: CertificateRecord | undefined
      now: Date
    },
  ) {
    const { cursor, state, knows, bounds, forks, relays, shown, now } = options
    this.#relays = relays
    this.#shown = shown
    this.#forks = forks.now
    this.forks = forks.followed
    this.bounds = bounds
    this.askedAt = now
    this.knows = knows
    this.id = id
    this.socket = socket
    this.#registry = registry
    this.#cursor = cursor
    this.#state = state
    this.appliedSeq = this.#toldSeq = cursor.seq
    socket.once('close', () => {
      this.#gone.abort()
      for (const { resolve } of this.#asked.values()) resolve(undefined)
    })
    if (socket.destroyed) this.#gone.abort()
  }

  /** Aborts when it is not there any more. */
  get gone(): AbortSignal {
    return this.#gone.signal
  }

  /**
   * It has been told everything before it says so.
   *
   * @throws FleetError `request_malformed` of what it cannot have: it would confirm what is still to come
   */
  applied(seq: number): void {
    if (seq < 0 || seq > this.#toldSeq) throw new FleetError('request_malformed', `event ${seq} was not told`)
    this.appliedSeq = seq
    this.forks = this.#forks
  }

  /** @throws Error when it asks and asks and does not take the answers */
  ping(id: number, now: Date): void {
    if (this.#pings.length >= maxPings) throw new Error('too many pings at once')
    this.askedAt = now
    this.#pings.push(id)
    void this.pump()
  }

  /** @param successorOf PEM of what is to be shown in place of this, if anything */
  async renew(successorOf: (shown: CertificateRecord) => Promise<string | undefined>): Promise<void> {
    const certificate = this.#shown && (await successorOf(this.#shown))
    if (certificate !== undefined) await this.#send({ kind: 'credential', certificate })
  }

  /** @returns undefined when no answer came in time */
  async ask<K extends QuestionKind>(
    kind: K,
    query: Questions[K]['query'],
    timeoutMs: number,
  ): Promise<Questions[K]['answer'][] | undefined> {
    if (this.gone.aborted) return undefined
    const id = this.#nextAsk++
    const { promise, resolve } = Promise.withResolvers<unknown[] | undefined>()
    const timer = setTimeout(() => resolve(undefined), timeoutMs)
    this.#asked.set(id, { kind, resolve })
    void this.#send({ kind: 'ask', id, [kind]: query } as FromEnroll)
    try {
      return (await promise) as Questions[K]['answer'][] | undefined
    } finally {
      clearTimeout(timer)
      this.#asked.delete(id)
    }
  }

  /** What need not be heard; it is not waited for. */
  tell(message: Extract<FromEnroll, { kind: 'elsewhere' }>): void {
    if (!this.socket.destroyed && this.socket.writableLength <= maxUnsent) this.socket.write(encodeLine(message))
  }

  /** Of what a broker says nothing is believed but what it has been asked for, in the form that was agreed. */
  answered(message: Extract<FromBroker, { kind: 'answer' }>): void {
    const asked = this.#asked.get(message.id)
    if (asked === undefined) return
    const { item, atMost } = answers[asked.kind]
    const list: unknown = (message as Partial<Record<QuestionKind, unknown>>)[asked.kind]
    asked.resolve(
      Array.isArray(list) ? list.slice(0, atMost).flatMap((one) => item.safeParse(one).data ?? []) : undefined,
    )
  }

  /**
   * One that comes again while it is being taken is left out.
   *
   * @param take resolves to whether it was
   * @throws FleetError `too_many_requests` at once, when it does not wait for what it reported before
   */
  reported(id: string, take: () => Promise<boolean>): Promise<void> {
    if (this.#underWay.has(id)) return Promise.resolve()
    if (this.#underWay.size >= maxReportsUnderWay) {
      throw new FleetError('too_many_requests', `more than ${maxReportsUnderWay} reports that were not noted`)
    }
    this.#underWay.add(id)
    return take()
      .then((taken) => (taken ? this.#send({ kind: 'noted', id }) : undefined))
      .finally(() => this.#underWay.delete(id))
  }

  /** Sends what is new, in order; a call during a run makes the run look once more. */
  async pump(): Promise<void> {
    this.#again = true
    if (this.#pumping) return
    this.#pumping = true
    try {
      while (this.#again && !this.socket.destroyed) {
        this.#again = false
        // What was asked before this look at the log is answered after what the look finds.
        const pings = this.#pings.splice(0)
        await this.#sendNew()
        for (const id of pings) await this.#send({ kind: 'pong', id })
      }
    } catch (error) {
      this.socket.destroy(error as Error)
    } finally {
      this.#pumping = false
    }
  }

  /** What is said here may be newer than the cursor at its end: then the events behind that say it again, before `live`. */
  async #sendState(wanted: StateWanted): Promise<void> {
    const { feed } = await this.#registry.head()
    const at = this.askedAt.toISOString()
    for await (const facts of readState(this.#registry, wanted)) {
      if (this.socket.destroyed) return
      if (facts.length === 0) continue
      await this.#send({ kind: 'facts', facts: facts.map((fact) => ({ at, ...fact })) })
    }
    this.#toldSeq = feed.seq
    await this.#send({ kind: 'snapshot', cursor: feed })
    this.#cursor = feed
    this.#state = undefined
  }

  async #sendNew(): Promise<void> {
    if (this.#state !== undefined) await this.#sendState(this.#state)
    for (;;) {
      // Nobody is there to be told the rest of a long feed.
      if (this.socket.destroyed) return
      const events = await this.#registry.feedAfter(this.#cursor.seq, batch)
      // Forgotten before this broker had it: it comes again, and is given all that counts.
      if (events.length > 0 && events[0]!.seq !== this.#cursor.seq + 1) throw new Error('the feed does not go on here')
      this.#toldSeq = events.at(-1)?.seq ?? this.#toldSeq
      await this.#write(events.map((event) => encodeLine({ kind: 'event', ...event })).join(''))
      const last: FeedEvent | undefined = events.at(-1)
      if (last) this.#cursor = { seq: last.seq, hash: last.hash }
      if (events.length < batch) break
    }
    if (this.#live) return
    this.#live = true
    await this.#send({ kind: 'live', seq: this.#cursor.seq, notes: true, relays: this.#relays })
  }

  #send(message: FromEnroll): Promise<void> {
    return this.#write(encodeLine(message))
  }

  async #write(lines: string): Promise<void> {
    if (lines === '' || this.socket.destroyed || this.socket.write(lines)) return
    await new Promise<void>((resolve) => {
      const go = (): void => {
        this.socket.off('drain', go).off('close', go)
        resolve()
      }
      this.socket.on('drain', go).on('close', go)
    })
  }
}

/** A broker that is silent for so many of its silences is gone, whatever TCP says. */
const silencesBorne = 2

export function endWhenSilent(socket: TLSSocket, silenceMs: number): void {
  const timer = setTimeout(() => socket.destroy(), silencesBorne * silenceMs)
  socket.on('data', () => timer.refresh())
  socket.on('close', () => clearTimeout(timer))
}
