/**
 * Counts events per key, in a period (a minute) that begins with the key's first one. At `maxKeys` the oldest key is forgotten, so
 * hostile keys cannot grow it without bound.
 */
export class AttemptLimit {
  #perPeriod: number
  readonly #periodMs: number
  readonly #maxKeys: number
  readonly #attempts = new Map<string, { count: number; since: number }>()

  constructor(perPeriod: number, { periodMs = 60_000, maxKeys = 10_000 } = {}) {
    this.#perPeriod = perPeriod
    this.#periodMs = periodMs
    this.#maxKeys = maxKeys
  }

  /** From now on so many; what was counted before counts. */
  allow(perPeriod: number): void {
    this.#perPeriod = perPeriod
  }

  /** @returns milliseconds to wait before `key` may try again, 0 when it may now */
  waitMs(key: string, now: number): number {
    const entry = this.#findCounted(key, now)
    if (entry === undefined) return 0
    return entry.count < this.#perPeriod ? 0 : this.#periodMs - (now - entry.since)
  }

  note(key: string, now: number): void {
    const entry = this.#findCounted(key, now)
    if (entry !== undefined) {
      entry.count++
      return
    }
    this.#attempts.delete(key)
    if (this.#attempts.size >= this.#maxKeys) {
      const oldest = this.#attempts.keys().next().value
      if (oldest !== undefined) this.#attempts.delete(oldest)
    }
    this.#attempts.set(key, { count: 1, since: now })
  }

  /** A period that begins in the future was begun by a clock that was set back since: nobody waits until it has caught up. */
  #findCounted(key: string, now: number): { count: number; since: number } | undefined {
    const entry = this.#attempts.get(key)
    return entry !== undefined && now >= entry.since && now - entry.since < this.#periodMs ? entry : undefined
  }
}

/** Whom a bound is counted for: an IPv6 peer has a whole /64 to come from. */
export function networkOf(address: string): string {
  if (address.includes('.') || !address.includes(':')) return address
  const [head = [], tail = []] = address.split('::').map((half) => half.split(':').filter((group) => group !== ''))
  return [...head, ...Array(Math.max(0, 8 - head.length - tail.length)).fill('0'), ...tail].slice(0, 4).join(':')
}
