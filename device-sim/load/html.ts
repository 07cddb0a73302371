/** The report as one file that needs nothing else: no script, no font, no picture from anywhere. */
import type { Latency, LoadReport } from './report.ts'
import { escaped, type Line, lineChart } from './svg.ts'
import { isLoadSlow, joined, mean, number, slowSentence } from './terminal.ts'

const maxPoints = 240

export function htmlReport(report: LoadReport): string {
  const { settings, enrolled, connected, messages, resources, failures } = report
  const title = `Load of ${number(connected.wanted)} devices`
  const facts = [
    `MQTT ${settings.version} at ${settings.mqtts}`,
    `QoS ${settings.qos}, ${settings.payloadBytes} octets`,
    `${settings.subscribers} ${settings.subscribers === 1 ? 'subscriber' : 'subscribers'}`,
    `${settings.processes} processes on ${settings.cores} cores, Node ${settings.node}`,
    `${report.startedAt.replace('T', ' ').slice(0, 19)} UTC`,
  ]
  const notices = [
    ...(report.endedBy === 'interruption' ? ['It was interrupted: these are the figures until then.'] : []),
    ...(isLoadSlow(report) ? [slowSentence] : []),
  ]
  const tiles: [name: string, value: string, note: string][] = [
    ['Connected', number(connected.count), `of ${number(connected.wanted)}; ${number(connected.ended)} ended early`],
    ['Connect rate', `${number(connected.perSecond)}/s`, `${number(settings.connectsPerSecond)}/s asked for`],
    ['Received', `${number(messages.receivedPerSecond)}/s`, `${number(messages.sentPerSecond)}/s sent`],
    ['Latency p50', `${number(messages.latencyMs.p50)} ms`, 'end to end'],
    ['Latency p99', `${number(messages.latencyMs.p99)} ms`, `longest ${number(messages.latencyMs.max)} ms`],
    ['Lost', number(messages.lost), `of ${number(messages.expected)}`],
  ]
  const latencies: [string, Latency][] = [
    ['Connection, from when it was due until accepted', connected.latencyMs],
    ['Message, from when it was due until received', messages.latencyMs],
    ['of that: until the load sent it', messages.latenessMs],
  ]
  const totals: [string, string][] = [
    ['Enrolled', `${number(enrolled.count)} of ${number(enrolled.wanted)} in ${number(enrolled.ms / 1_000)} s`],
    ['Connected', `${number(connected.count)} of ${number(connected.wanted)} in ${number(connected.ms / 1_000)} s`],
    ['Messages sent', `${number(messages.sent)} of ${number(messages.wanted)}`],
    ...(settings.qos > 0 ? [['Acknowledged', number(messages.acknowledged)] as [string, string]] : []),
    ['Messages received', `${number(messages.received)} of ${number(messages.expected)}`],
    [
      'Memory of the load',
      `${number(resources.rssBytes / 2 ** 20)} MiB, ${number(resources.rssBytesPerDevice / 1024)} KiB a device`,
    ],
    ['CPU of the load', `${number(resources.cpuMs / 1_000)} s`],
  ]
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>${escaped(title)}</title>
<style>${style}</style>
</head>
<body>
<main>
<h1>${escaped(title)}</h1>
<p class="facts">${facts.map(escaped).join(' · ')}</p>
${notices.map((notice) => `<p class="notice">${escaped(notice)}</p>`).join('\n')}
<div class="tiles">
${tiles.map(([name, value, note]) => `<div><span>${escaped(name)}</span><b>${escaped(value)}</b><small>${escaped(note)}</small></div>`).join('\n')}
</div>
${charts(report).join('\n')}
<h2>Latency in milliseconds</h2>
<table>
<tr><th></th>${['p50', 'p90', 'p99', 'p99.9', 'max'].map((name) => `<th>${name}</th>`).join('')}</tr>
${latencies
  .map(([name, { p50, p90, p99, p999, max }]) =>
    row(
      name,
      [p50, p90, p99, p999, max].map((value) => value.toFixed(1)),
    ),
  )
  .join('\n')}
</table>
<h2>In all</h2>
<table>
${totals.map(([name, value]) => row(name, [value])).join('\n')}
</table>
<h2>Failures</h2>
${
  failures.length === 0
    ? '<p>None.</p>'
    : `<table>
<tr><th>What</th><th>How often</th><th class="text">The first time</th></tr>
${failures.map(({ code, count, example }) => `<tr><td>${escaped(code)}</td><td>${number(count)}</td><td class="text">${escaped(example)}</td></tr>`).join('\n')}
</table>`
}
</main>
</body>
</html>
`
}

function charts({ seconds }: LoadReport): string[] {
  const step = Math.max(1, Math.ceil(seconds.length / maxPoints))
  const line = (name: string, of: (at: LoadReport['seconds'][number]) => number | null, join: typeof mean): Line => ({
    name,
    values: joined(seconds.map(of), step, (...values) => {
      const there = values.filter((value) => value !== null)
      return there.length === 0 ? undefined : Math.round(join(...there) * 10) / 10
    }),
  })
  const drawn: { title: string; unit: string; lines: Line[] }[] = [
    { title: 'Connected devices', unit: 'devices', lines: [line('connected', (at) => at.connected, Math.max)] },
    { title: 'Connect rate', unit: 'connections/s', lines: [line('accepted', (at) => at.connects, mean)] },
    {
      title: 'Throughput',
      unit: 'messages/s',
      lines: [line('received', (at) => at.received, mean), { ...line('sent', (at) => at.sent, mean), isDashed: true }],
    },
    {
      title: 'Latency end to end',
      unit: 'ms',
      lines: [line('p50', (at) => at.p50, mean), line('p99', (at) => at.p99, Math.max)],
    },
  ]
  return drawn.map((chart) => {
    const legend = chart.lines.map(({ name }, at) => `<span class="key-${at + 1}">${escaped(name)}</span>`)
    return `<figure><figcaption>${escaped(chart.title)}${chart.lines.length > 1 ? legend.join('') : ''}</figcaption>
${lineChart({ ...chart, step })}</figure>`
  })
}

const row = (name: string, cells: string[]): string =>
  `<tr><td>${escaped(name)}</td>${cells.map((cell) => `<td>${escaped(cell)}</td>`).join('')}</tr>`

const style = `
:root { --ground: #fff; --panel: #f6f7f9; --text: #1b1f24; --soft: #5b6570; --rule: #d9dee4; --one: #0b62c4; --two: #c2500a; --notice: #fff4d6 }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14171b; --panel: #1d2127; --text: #e6e9ed; --soft: #9aa5b1; --rule: #343b44; --one: #6cb2ff; --two: #ff9a57; --notice: #3d3212 }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--text); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 860px; margin: 0 auto; padding: 24px 20px 48px }
h1 { font-size: 28px; line-height: 1.2; margin: 0 }
h2 { font-size: 18px; margin: 32px 0 8px }
.facts { color: var(--soft); margin: 8px 0 20px; overflow-wrap: anywhere }
.notice { background: var(--notice); padding: 8px 12px; border-radius: 6px }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(125px, 1fr)); gap: 10px }
.tiles div { background: var(--panel); border-radius: 8px; padding: 10px 12px }
.tiles span, .tiles small { display: block; color: var(--soft); font-size: 13px }
.tiles b { display: block; white-space: nowrap; font-size: 20px; line-height: 1.3; font-variant-numeric: tabular-nums }
figure { margin: 28px 0 0 }
figcaption { font-size: 18px; font-weight: 600; margin-bottom: 4px }
figcaption span { font-size: 14px; font-weight: 400; color: var(--soft); margin-left: 16px }
figcaption span::before { content: ''; display: inline-block; width: 14px; height: 3px; margin-right: 6px; vertical-align: middle }
.key-1::before { background: var(--one) } .key-2::before { background: var(--two) }
svg { display: block; width: 100%; height: auto }
.grid { stroke: var(--rule); stroke-width: 1 } .axis { stroke: var(--soft); stroke-width: 1 }
.tick, .unit { fill: var(--soft); font-size: 12px; font-family: inherit }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round }
.line-1 { stroke: var(--one) } .line-2 { stroke: var(--two) } .dashed { stroke-dasharray: 5 7 }
.hover { fill: transparent } .hover:hover { fill: var(--soft); fill-opacity: .15 }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: 6px 8px; border-bottom: 1px solid var(--rule); text-align: right; font-weight: 400 }
th { color: var(--soft); font-size: 14px } th:first-child, td:first-child, .text { text-align: left }
.text { overflow-wrap: anywhere }
`
