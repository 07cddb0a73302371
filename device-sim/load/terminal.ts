/** The report as text: figures, and columns over time. */
import type { Latency, LoadReport } from './report.ts'

const eighths = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█']
const chartRows = 6
const chartColumns = 60
const scaleWidth = 9

export function terminalReport(report: LoadReport): string {
  const { settings, enrolled, connected, messages, resources, seconds } = report
  const head = `MQTT ${settings.version}, QoS ${settings.qos}, ${settings.payloadBytes} octets, ${settings.subscribers} subscribers, ${settings.processes} processes on ${settings.cores} cores`
  const lines = [
    `${head}${report.endedBy === 'interruption' ? '; interrupted' : ''}`,
    '',
    `enrolled    ${number(enrolled.count)} of ${number(enrolled.wanted)} in ${duration(enrolled.ms)}`,
    `connected   ${number(connected.count)} of ${number(connected.wanted)} in ${duration(connected.ms)}, ${number(connected.perSecond)}/s (${number(settings.connectsPerSecond)}/s asked for)`,
    `sent        ${number(messages.sent)} of ${number(messages.wanted)}, ${number(messages.sentPerSecond)}/s${settings.qos === 0 ? '' : `, ${number(messages.acknowledged)} acknowledged`}`,
    `received    ${number(messages.received)} of ${number(messages.expected)}, ${number(messages.receivedPerSecond)}/s; ${number(messages.lost)} lost`,
    `memory      ${number(resources.rssBytes / 2 ** 20)} MiB, ${number(resources.rssBytesPerDevice / 1024)} KiB a device; CPU ${duration(resources.cpuMs)}`,
    '',
    `${'milliseconds'.padEnd(28)}${['p50', 'p90', 'p99', 'p99.9', 'max'].map((name) => name.padStart(10)).join('')}`,
    row('connection', connected.latencyMs),
    row('message, end to end', messages.latencyMs),
    row('  of that: sent too late', messages.latenessMs),
  ]
  if (isLoadSlow(report)) lines.push('', slowSentence)
  lines.push(
    '',
    ...chart(
      'connected devices',
      seconds.map((at) => at.connected),
      Math.max,
    ),
    '',
    ...chart(
      'messages received a second',
      seconds.map((at) => at.received),
      mean,
    ),
    '',
    ...chart(
      'latency p99, milliseconds',
      seconds.map((at) => at.p99 ?? 0),
      Math.max,
    ),
  )
  if (report.failures.length > 0) {
    lines.push('', 'failures')
    for (const { code, count, example } of report.failures)
      lines.push(`${number(count).padStart(10)}  ${code}: ${visible(example)}`)
  }
  return `${lines.join('\n')}\n`
}

export const slowSentence =
  'The load could not send as fast as it was to: the figures tell of it, not of the broker. More --processes or cores, or fewer --messages.'

/** Half of what a message took at p99 is the load's own, or it has not sent all that it was to. */
export const isLoadSlow = ({ messages, endedBy }: LoadReport): boolean =>
  (messages.latenessMs.p99 > 10 && messages.latenessMs.p99 * 2 > messages.latencyMs.p99) ||
  (endedBy === 'itself' && messages.sent < messages.wanted)

/**
 * Columns with a scale, one for each second; where there are too many, one for several.
 *
 * @param join of the values that one column stands for
 */
export function chart(title: string, values: number[], join: (...values: number[]) => number): string[] {
  const each = Math.max(1, Math.ceil(values.length / chartColumns))
  const columns = joined(values, each, join)
  const top = Math.max(0, ...columns)
  const rows = Array.from({ length: chartRows }, (_, at) => {
    const below = chartRows - 1 - at
    const cells = columns.map((value) => {
      const filled = top === 0 ? 0 : Math.ceil((value / top) * chartRows * 8) - below * 8
      return eighths[Math.min(Math.max(filled, 0), 8)]
    })
    const label = at === 0 ? number(top) : at === chartRows - 1 ? '0' : ''
    return `${label.padStart(scaleWidth)} │${cells.join('')}`
  })
  const width = Math.max(columns.length, 1)
  const end = `${values.length} s`
  return [
    title,
    ...rows,
    `${''.padStart(scaleWidth)} └${'─'.repeat(width)}`,
    `${''.padStart(scaleWidth)}  0${end.padStart(Math.max(end.length + 1, width - 1))}`,
  ]
}

/** One value for each `count` of them. */
export const joined = <T, R>(values: T[], count: number, join: (...values: T[]) => R): R[] =>
  Array.from({ length: Math.ceil(values.length / count) }, (_, at) =>
    join(...values.slice(at * count, (at + 1) * count)),
  )

export const mean = (...values: number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length

export const number = (value: number): string =>
  (value >= 100 ? Math.round(value) : Math.round(value * 10) / 10).toLocaleString('en')

const duration = (ms: number): string => `${(ms / 1_000).toFixed(1)} s`

const row = (name: string, { p50, p90, p99, p999, max }: Latency): string =>
  `${name.padEnd(28)}${[p50, p90, p99, p999, max].map((value) => value.toFixed(1).padStart(10)).join('')}`

/** What a server has said comes to a terminal: nothing of it may steer that. */
const visible = (text: string): string => text.replaceAll(/\p{C}+/gu, ' ')
