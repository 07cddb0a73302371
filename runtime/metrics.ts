/** Metrics as Prometheus reads them: the only file that knows prom-client. */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { MetricRow } from '../contract/metrics.ts'

/** Values are given in the order of the row's labels. */
export type Tell<N extends string> = (name: N, value: number, ...labels: string[]) => void

/** Counts what happens by some codes, for whoever asks later; to count costs one look into a table. */
export class Tally {
  readonly #counts = new Map<string, { count: number; labels: string[] }>()

  add(by: number, ...labels: string[]): void {
    let key = labels[0]!
    for (let at = 1; at < labels.length; at++) key += ` ${labels[at]}`
    const known = this.#counts.get(key)
    if (known === undefined) this.#counts.set(key, { count: by, labels })
    else known.count += by
  }

  *[Symbol.iterator](): Generator<[count: number, labels: string[]]> {
    for (const { count, labels } of this.#counts.values()) yield [count, labels]
  }
}

/** Of the process, which may run several services; to watch garbage collection and event loop costs it something. */
let ofProcess: Registry | undefined

/** Nothing is kept up to date here but histograms: all else is asked for when it is to be told. */
export class Metrics<N extends string> {
  readonly #registry = new Registry()
  readonly #read: (tell: Tell<N>) => void | Promise<void>
  readonly #plain = new Map<string, { metric: Gauge | Counter; labels: readonly string[] }>()
  readonly #histograms = new Map<string, { metric: Histogram; labels: readonly string[] }>()
  #telling: Promise<string> | undefined

  /** @param read tells each value there is at that moment; what it leaves out is gone */
  constructor(rows: Readonly<Record<N, MetricRow>>, read: (tell: Tell<N>) => void | Promise<void>) {
    this.#read = read
    for (const [name, { type, help, labels, buckets = [] }] of Object.entries<MetricRow>(rows)) {
      const options = { name, help, labelNames: [...labels], registers: [this.#registry] }
      if (type === 'histogram')
        this.#histograms.set(name, { metric: new Histogram({ ...options, buckets: [...buckets] }), labels })
      else this.#plain.set(name, { metric: type === 'gauge' ? new Gauge(options) : new Counter(options), labels })
    }
  }

  observe(name: N, value: number, ...labels: string[]): void {
    const row = this.#histograms.get(name)!
    row.metric.observe(named(row.labels, labels), value)
  }

  /** In the text format 0.0.4. Who asks while another is being answered gets the same answer. */
  text(): Promise<string> {
    this.#telling ??= this.#tell().finally(() => {
      this.#telling = undefined
    })
    return this.#telling
  }

  async #tell(): Promise<string> {
    for (const { metric } of this.#plain.values()) metric.reset()
    await this.#read((name, value, ...labels) => {
      const row = this.#plain.get(name)!
      row.metric.inc(named(row.labels, labels), value)
    })
    if (ofProcess === undefined) {
      ofProcess = new Registry()
      collectDefaultMetrics({ register: ofProcess })
    }
    return `${await this.#registry.metrics()}${await ofProcess.metrics()}`
  }
}

const named = (names: readonly string[], values: readonly string[]): Record<string, string> =>
  Object.fromEntries(names.map((name, at) => [name, values[at] ?? '']))
