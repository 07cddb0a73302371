import type { TLSSocket } from 'node:tls'
import { maxReportsUnderWay } from '../contract/broker-reports.ts'
import { type Denial, type DenialQuery, denialView } from '../contract/denials.ts'
import { type Cursor, encodeLine, type FeedEvent, type FromEnroll, type StaleBounds } from '../contract/feed.ts'
import type { Registry } from './registry/registry.ts'

const batch = 500
/** More than was asked for is not looked at. */
const maxAnswered = 200
/** One for each certificate that a broker has not heard of, in a storm of them. */
const maxPings = 50_000

/** One broker that follows: backfill from its cursor, then live. */
export class Follower {
  readonly id: string
  readonly socket: TLSSocket
  readonly #registry: Registry
  #cursor: Cursor
  #live = false
  #pumping = false
  #again = false
  #pings: number[] = []
  appliedSeq: number
  readonly answers: boolean
  readonly bounds: StaleBounds | undefined
  /** When it last asked for the head of the feed. */
  askedAt: Date
  #underWay = 0
  readonly #asked = new Map<number, (denials: Denial[] | undefined) => void>()
  #nextAsk = 1

  constructor(
    id: string,
    socket: TLSSocket,
    registry: Registry,
    { cursor, answers, bounds, now }: { cursor: Cursor; answers: boolean; bounds: StaleBounds | undefined; now: Date },
  ) {
    this.bounds = bounds
    this.askedAt = now
    this.answers = answers
    this.id = id
    this.socket = socket
    this.#registry = registry
    this.#cursor = cursor
    this.appliedSeq = cursor.seq
  }

  /** @throws Error when it asks and asks and does not take the answers */
  ping(id: number, now: Date): void {
    if (this.#pings.length >= maxPings) throw new Error('too many pings at once')
    this.askedAt = now
    this.#pings.push(id)
    void this.pump()
  }

  /** @returns undefined when no answer came in time */
  async ask(denials: DenialQuery, timeoutMs: number): Promise<Denial[] | undefined> {
    const id = this.#nextAsk++
    const { promise, resolve } = Promise.withResolvers<Denial[] | undefined>()
    const timer = setTimeout(() => resolve(undefined), timeoutMs)
    const gone = (): void => resolve(undefined)
    this.socket.once('close', gone)
    this.#asked.set(id, resolve)
    void this.#send({ kind: 'ask', id, denials })
    try {
      return await promise
    } finally {
      clearTimeout(timer)
      this.socket.off('close', gone)
      this.#asked.delete(id)
    }
  }

  /** Of what a broker says nothing is believed but what it has been asked for, in the form that was agreed. */
  answered(id: number, denials: unknown): void {
    const list = Array.isArray(denials) ? denials : []
    const read = list.slice(0, maxAnswered).flatMap((one) => denialView.safeParse(one).data ?? [])
    this.#asked.get(id)?.(read.map((denial) => ({ ...denial, by: this.id })))
  }

  /** @throws Error at once when it does not wait for what it reported before */
  reported(id: string, take: () => Promise<void>): Promise<void> {
    if (this.#underWay >= maxReportsUnderWay) throw new Error('too many reports at once')
    this.#underWay++
    return take()
      .then(() => this.#send({ kind: 'noted', id }))
      .finally(() => {
        this.#underWay--
      })
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

  async #sendNew(): Promise<void> {
    for (;;) {
      const events = await this.#registry.feedAfter(this.#cursor.seq, batch)
      for (const event of events) await this.#send({ kind: 'event', ...event })
      const last: FeedEvent | undefined = events.at(-1)
      if (last) this.#cursor = { seq: last.seq, hash: last.hash }
      if (events.length < batch) break
    }
    if (this.#live) return
    this.#live = true
    await this.#send({ kind: 'live', seq: this.#cursor.seq, notes: true })
  }

  async #send(message: FromEnroll): Promise<void> {
    if (this.socket.destroyed || this.socket.write(encodeLine(message))) return
    await new Promise<void>((resolve) => {
      const go = (): void => {
        this.socket.off('drain', go).off('close', go)
        resolve()
      }
      this.socket.on('drain', go).on('close', go)
    })
  }
}
