import { mib, type SoakResult } from './soak.ts'

/** What was looked at and what was found, as a table. */
export function summaryOf({ world, warm, after, lostBySlowReaders }: SoakResult): string {
  const { checks, counts, pings, broker, seed } = world
  const ms = (percentile: number): string => `${(pings.percentile(percentile) / 1_000).toFixed(1)} ms`
  const width = Math.max(...checks.outcomes.map(({ name }) => name.length))
  const lines = ['']
  for (const { name, looks, faults, first } of checks.outcomes) {
    const mark = faults > 0 ? 'FAULT' : looks === 0 ? '  -  ' : ' ok  '
    lines.push(`${mark} ${name.padEnd(width)} ${String(looks).padStart(10)} looks ${String(faults).padStart(7)} faults`)
    for (const fault of first) lines.push(`        ${fault.slice(0, 1_000)}`)
  }
  const { published, heard, connections, takeovers, malformed, revoked, policies } = counts
  lines.push(
    '',
    `${published} published, ${heard} heard, ${lostBySlowReaders} lost by slow readers`,
    `${connections} connections, ${takeovers} of them takeovers; ${malformed} malformed, ${revoked} revoked, ${policies} policies`,
    `PINGRESP p50 ${ms(50)}, p99 ${ms(99)}, max ${ms(100)} of ${pings.count}`,
  )
  if (warm !== undefined) lines.push(`broker after the warm-up: ${idle(warm)}`)
  if (after !== undefined) lines.push(`broker after the load:    ${idle(after)}`)
  const events = [...broker.events].sort(([, a], [, b]) => b - a).map(([event, count]) => `${event} ${count}`)
  lines.push(`log: ${events.join(', ')}`, '', `seed ${seed}: ${verdictOf(checks.faults, after !== undefined)}`)
  return lines.join('\n')
}

const verdictOf = (faults: number, isWhole: boolean): string =>
  faults > 0 ? `${faults} faults` : isWhole ? 'every check held' : 'no fault until then'

function idle({ heapBytes, residentBytes, storeBytes, resources }: NonNullable<SoakResult['warm']>): string {
  const kinds = Object.entries(resources).map(([name, count]) => `${count} ${name}`)
  return `heap ${mib(heapBytes)}, resident ${mib(residentBytes)}, store ${mib(storeBytes)}, ${kinds.join(', ')}`
}
