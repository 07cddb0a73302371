import { Histogram, type HistogramPart } from './histogram.ts'

/** The clock of this machine that only goes forward. Every process reads the same one, so a message may cross processes. */
export const monotonicUs = (): number => {
  const [seconds, nanoseconds] = process.hrtime()
  return seconds * 1e6 + nanoseconds / 1e3
}

const kinds = ['connected', 'ended', 'sent', 'acknowledged', 'received'] as const
/** @property ended connections that were there and are no more, without our doing */
type Kind = (typeof kinds)[number]
type Counts = Record<Kind, number>
type Second = Counts & { latency: Histogram }

/** How often something failed, and the words of its first time. */
export type Failure = { code: string; count: number; example: string }

/** What goes to another process. */
export type TallyPart = {
  seconds: (Counts & { second: number; latency: HistogramPart })[]
  connecting: HistogramPart
  lateness: HistogramPart
  failures: Failure[]
}

const maxExampleLength = 300

/** What has happened, second by second. */
export class Tally {
  readonly #startUs: number
  #seconds = new Map<number, Second>()
  #failures = new Map<string, Failure>()
  #connecting = new Histogram()
  #lateness = new Histogram()
  #totals = noCounts()

  /** @param startUs by `monotonicUs`, where the first second begins */
  constructor(startUs: number) {
    this.#startUs = startUs
  }

  /** From when a device was to connect until the broker had accepted it. */
  get connecting(): Histogram {
    return this.#connecting
  }

  /** From when a message was to be sent until it was: what the load itself adds to each latency. */
  get lateness(): Histogram {
    return this.#lateness
  }

  /** From when a message was to be sent until a subscriber had it. */
  get latency(): Histogram {
    const whole = new Histogram()
    for (const { latency } of this.#seconds.values()) whole.add(latency.part())
    return whole
  }

  get totals(): Readonly<Counts> {
    return this.#totals
  }

  get failures(): Failure[] {
    return [...this.#failures.values()].sort((a, b) => b.count - a.count)
  }

  /** @returns each second from the first to the last in which anything happened */
  get seconds(): (Counts & { latency: Histogram })[] {
    const length = Math.max(-1, ...this.#seconds.keys()) + 1
    return Array.from({ length }, (_, at) => this.#seconds.get(at) ?? { ...noCounts(), latency: new Histogram() })
  }

  count(kind: Kind): void {
    this.#second()[kind]++
    this.#totals[kind]++
  }

  /** @param dueUs when the message was to be sent */
  received(dueUs: number): void {
    this.count('received')
    this.#second().latency.record(monotonicUs() - dueUs)
  }

  failed(code: string, example: string): void {
    this.#fail({ code, count: 1, example: example.slice(0, maxExampleLength) })
  }

  /** All of it, and begins anew. */
  take(): TallyPart {
    const part = {
      seconds: [...this.#seconds].map(([second, { latency, ...counts }]) => ({
        ...counts,
        second,
        latency: latency.part(),
      })),
      connecting: this.#connecting.part(),
      lateness: this.#lateness.part(),
      failures: this.failures,
    }
    this.#seconds = new Map()
    this.#failures = new Map()
    this.#connecting = new Histogram()
    this.#lateness = new Histogram()
    this.#totals = noCounts()
    return part
  }

  add(part: TallyPart): void {
    for (const { second, latency, ...counts } of part.seconds) {
      const mine = this.#secondAt(second)
      for (const kind of kinds) {
        mine[kind] += counts[kind]
        this.#totals[kind] += counts[kind]
      }
      mine.latency.add(latency)
    }
    this.#connecting.add(part.connecting)
    this.#lateness.add(part.lateness)
    for (const failure of part.failures) this.#fail(failure)
  }

  #fail({ code, count, example }: Failure): void {
    const known = this.#failures.get(code)
    if (known === undefined) this.#failures.set(code, { code, count, example })
    else known.count += count
  }

  #second(): Second {
    return this.#secondAt(Math.max(0, Math.floor((monotonicUs() - this.#startUs) / 1e6)))
  }

  #secondAt(number: number): Second {
    let second = this.#seconds.get(number)
    if (second === undefined) {
      second = { ...noCounts(), latency: new Histogram() }
      this.#seconds.set(number, second)
    }
    return second
  }
}

const noCounts = (): Counts => ({ connected: 0, ended: 0, sent: 0, acknowledged: 0, received: 0 })
