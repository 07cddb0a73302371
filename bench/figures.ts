/** Figures of a benchmark: measured side by side in one run, told as percentiles and ratios. */

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
