type Entry = { since: number; lastAt: number; told: number; suppressed: number }

/** Lets `burst` lines through for each key, then one in `everyMs` that says how many were left out. */
export class LogLimit {
  readonly #burst: number
  readonly #everyMs: number
  readonly #maxKeys: number
  readonly #entries = new Map<string, Entry>()

  constructor(options: { burst: number; everyMs: number; maxKeys?: number }) {
    this.#burst = options.burst
    this.#everyMs = options.everyMs
    this.#maxKeys = options.maxKeys ?? 10_000
  }

  /** @returns undefined when the line is to be left out, else how many were since the last one */
  take(key: string, now: number): { suppressed: number } | undefined {
    let entry = this.#entries.get(key)
    // A clock that was set back must not leave out what happens until it has caught up.
    if (entry === undefined || now - entry.lastAt > this.#everyMs * 6 || now < entry.since) {
      const suppressed = entry?.suppressed ?? 0
      this.#entries.delete(key)
      if (this.#entries.size >= this.#maxKeys) this.#entries.delete(this.#entries.keys().next().value!)
      entry = { since: now, lastAt: now, told: 0, suppressed }
      this.#entries.set(key, entry)
    }
    entry.lastAt = now
    if (entry.told >= this.#burst && now - entry.since < this.#everyMs) {
      entry.suppressed++
      return undefined
    }
    const { suppressed } = entry
    entry.told++
    entry.since = now
    entry.suppressed = 0
    return { suppressed }
  }
}
