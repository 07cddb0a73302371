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

  /** Keys that are remembered. */
  get size(): number {
    return this.#entries.size
  }

  /** @returns undefined when the line is to be left out, else how many were since the last one */
  take(key: string, now: number): { suppressed: number } | undefined {
    let entry = this.#entries.get(key)
    // A clock that was set back must not leave out what happens until it has caught up.
    if (entry === undefined || this.#isQuiet(entry, now) || now < entry.since) {
      const suppressed = entry?.suppressed ?? 0
      this.#entries.delete(key)
      this.#forgetQuiet(now)
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

  /** Without a key they would be told as they are with it. */
  #forgetQuiet(now: number): void {
    for (const [key, entry] of this.#entries) {
      if (entry.suppressed > 0 || !this.#isQuiet(entry, now)) return
      this.#entries.delete(key)
    }
  }

  #isQuiet({ lastAt }: Entry, now: number): boolean {
    return now - lastAt > this.#everyMs * 6
  }
}
