import { setTimeout as sleep } from 'node:timers/promises'

/** A report and its octets on average; one that is larger counts for more. */
const bytesEach = 2_048
/** A broker of which nothing was heard for long may have so much to tell at once: who was cut off when many were revoked. */
const burstSeconds = 100

/**
 * Lets through what one broker reports, in order and no faster than it may come, over all its connections: each report is kept for ever.
 * What is beyond waits and is not lost.
 */
export class ReportTurns {
  readonly #perSecond: number
  readonly #now: () => number
  /** In reports; below zero after a large one. */
  #left: number
  #at: number
  #waiting = 0
  #last: Promise<unknown> = Promise.resolve()

  /** @param now milliseconds of a clock that nobody sets */
  constructor(perSecond: number, now: () => number) {
    this.#perSecond = perSecond
    this.#now = now
    this.#left = perSecond * burstSeconds
    this.#at = now()
  }

  /**
   * @param onWait told where it has to wait, with the milliseconds
   * @returns true at once where it need not wait; else whether its turn came before `gone`
   */
  next(bytes: number, gone: AbortSignal, onWait: (ms: number) => void): true | Promise<boolean> {
    const count = Math.max(1, bytes / bytesEach)
    if (this.#waiting === 0 && this.#waitMs() === 0) {
      this.#left -= count
      return true
    }
    this.#waiting++
    const turn = this.#last.then(async () => {
      const waitMs = gone.aborted ? 0 : this.#waitMs()
      if (waitMs > 0) {
        onWait(waitMs)
        await sleep(waitMs, undefined, { signal: gone }).catch(() => {})
      }
      this.#waiting--
      if (gone.aborted) return false
      this.#left -= count
      return true
    })
    this.#last = turn
    return turn
  }

  /** Until there is anything left. */
  #waitMs(): number {
    const now = this.#now()
    this.#left = Math.min(this.#perSecond * burstSeconds, this.#left + ((now - this.#at) / 1_000) * this.#perSecond)
    this.#at = now
    return this.#left > 0 ? 0 : Math.ceil((-this.#left / this.#perSecond) * 1_000) + 1
  }
}

/** Those of each broker, over all its connections. */
export class BrokerTurns {
  readonly #create: () => ReportTurns
  readonly #turns = new Map<string, ReportTurns>()

  constructor(...limit: ConstructorParameters<typeof ReportTurns>) {
    this.#create = () => new ReportTurns(...limit)
  }

  of(broker: string): ReportTurns {
    const known = this.#turns.get(broker) ?? this.#create()
    this.#turns.set(broker, known)
    return known
  }
}
