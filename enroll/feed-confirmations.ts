import type { BrokerState, Confirmation } from './broker-state.ts'

/** Who has put in force what the feed has up to a place. */
export class FeedConfirmations {
  readonly #brokers: () => Promise<BrokerState[]>
  readonly #waiting = new Set<() => void>()

  constructor(brokers: () => Promise<BrokerState[]>) {
    this.#brokers = brokers
  }

  /** A broker has put more in force. */
  progressed(): void {
    for (const wake of this.#waiting) wake()
  }

  /**
   * Waits until every known broker has put in force what the feed has up to `seq`.
   *
   * @param timeoutMs 0 asks and does not wait
   * @param onDiskAt  when that was on disk, by `performance.now()`; where it is not known, nobody can say after how long it was in force
   */
  async until(seq: number, timeoutMs: number, onDiskAt?: number): Promise<Confirmation[]> {
    const started = performance.now()
    const confirmedMs = new Map<string, number>()
    const look = async (): Promise<Confirmation[]> => {
      const brokers = await this.#brokers()
      return brokers.map(({ id, connected, appliedSeq, lastSeenAt, admitsUntil, servesUntil }) => {
        const confirmed = appliedSeq >= seq
        if (confirmed && onDiskAt !== undefined && !confirmedMs.has(id))
          confirmedMs.set(id, Math.round((performance.now() - onDiskAt) * 10) / 10)
        const ms = confirmedMs.get(id)
        const seen = connected ? {} : { lastSeenAt }
        const ends = confirmed || admitsUntil === undefined ? {} : { admitsUntil, servesUntil }
        return { broker: id, connected, confirmed, ...(ms === undefined ? {} : { confirmedMs: ms }), ...seen, ...ends }
      })
    }
    for (;;) {
      using progress = this.#progress(Math.max(0, timeoutMs - (performance.now() - started)))
      const state = await look()
      if (state.every(({ confirmed }) => confirmed) || !(await progress.isMade)) return state
    }
  }

  /** `isMade`: true at the next report of a broker, false when none came in time. */
  #progress(timeoutMs: number): Disposable & { isMade: Promise<boolean> } {
    const { promise, resolve } = Promise.withResolvers<boolean>()
    const wake = (): void => resolve(true)
    const timer = setTimeout(() => resolve(false), timeoutMs)
    this.#waiting.add(wake)
    return {
      isMade: promise,
      // Nobody may wait for it any more: it must not keep a process that is to stop.
      [Symbol.dispose]: () => {
        clearTimeout(timer)
        this.#waiting.delete(wake)
      },
    }
  }
}
