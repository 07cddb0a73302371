/** Figures of a benchmark: measured side by side in one run, told as percentiles and ratios. */
import { appendFileSync } from 'node:fs'

/** @property remark what a reader has to know of it, such as that the load was the bottleneck */
export type Figure = { what: string; measured: string; wanted?: string | undefined; remark?: string | undefined }

/** For the table that `npm run bench` writes; what a bench says of itself is for its own reader. */
export function note(figure: Figure): void {
  const { BENCH_FIGURES } = process.env
  if (BENCH_FIGURES !== undefined) appendFileSync(BENCH_FIGURES, `${JSON.stringify(figure)}\n`)
}

/** The middle one of the ratios of rounds, with the smallest and the largest. */
export function range(ratios: readonly number[]): string {
  const [middle, least, most] = [50, 0, 100].map((p) => percentile(ratios, p).toFixed(2))
  return least === most ? `${middle}x` : `${middle}x (${least}-${most})`
}

/** @param p 0 to 100 @returns the smallest sample that p per cent of the samples do not exceed */
export function percentile(samples: readonly number[], p: number): number {
  const sorted = samples.toSorted((a, b) => a - b)
  return sorted[Math.max(0, Math.ceil((p / 100) * sorted.length) - 1)]!
}

export const ms = (value: number): string => `${value.toFixed(1)} ms`

export function row(name: string, samples: readonly number[]): string {
  const figures = [50, 90, 99, 100].map((p) => ms(percentile(samples, p)).padStart(10))
  return `${name.padEnd(44)}${figures.join('')}`
}

export const heading = `${''.padEnd(44)}${['p50', 'p90', 'p99', 'max'].map((name) => name.padStart(10)).join('')}`
