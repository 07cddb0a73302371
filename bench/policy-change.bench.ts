/**
 * A policy that changes under open sessions, and a storm of denials.
 *
 * Change: from the feed's line to the broker's word that it is in force, and then what the first message of every session
 * takes, which compiles the policy anew, beside the second, which does not. Nobody reconnects.
 * Storm: a device publishes what it may not, 10,000 messages a second, beside others that publish at a steady rate; in turns
 * with and without it, on one topic over and over and on a topic of its own each. Broker and clients are threads of one process, over mutual TLS. What is judged is CPU time of the
 * broker's thread, which other programs on the machine change less than the clock's.
 *
 *   npm run bench -- policy-change [sessions] [rounds]
 */
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { BrokerHarness, starter } from '../test/harness/broker.ts'
import { heading, ms, note, percentile, row } from './figures.ts'
import type { Identity, Order, Report } from './policy-clients.ts'

const sessions = Number(process.argv[2] ?? 1_000)
const rounds = Number(process.argv[3] ?? 10)
const wantedMs = 100
const deniedPerSecond = 10_000
const senders = 50
const perSecond = 2_000
const trafficMs = 3_000

await using harness = await BrokerHarness.start({ policy: starter })
const worker = new Worker(new URL('policy-clients.ts', import.meta.url))
type Measured = Report & { cpuMs: number }
async function ask(order: Order): Promise<Measured> {
  const before = process.threadCpuUsage()
  worker.postMessage(order)
  const [report] = await once(worker, 'message')
  const { user, system } = process.threadCpuUsage(before)
  return { ...report, cpuMs: (user + system) / 1_000 }
}

const devices: Identity[] = []
harness.feed.answering = true
for (let i = 0; i < sessions; i++) {
  const { id, key, chain } = await harness.device(`sensor-${i}`)
  devices.push({ id, key, chain })
}
await ask({ order: 'connect', port: harness.port, ca: harness.pki.root.pem, devices })
console.log(`${harness.broker.sessions.size} sessions, ${rounds} rounds in turns\n`)

const denying = {
  policies: [
    ...starter.policies,
    { name: 'quiet', match: {}, allow: {}, deny: { publish: ['devices/+/telemetry/#'] } },
  ],
}
const inForce: number[] = []
const first: number[] = []
const second: number[] = []
for (let round = 0; round < rounds; round++) {
  for (const [policy, isAllowed] of [
    [denying, false],
    [starter, true],
  ] as const) {
    const begun = performance.now()
    harness.setPolicy(policy)
    await harness.feed.untilApplied()
    inForce.push(performance.now() - begun)
    const reports = [await ask({ order: 'burst' }), await ask({ order: 'burst' })]
    first.push(reports[0]!.cpuMs)
    second.push(reports[1]!.cpuMs)
    if (reports.some((report) => report[isAllowed ? 'denied' : 'allowed'] > 0))
      throw new Error('another policy was in force')
  }
}
if (harness.broker.sessions.size !== sessions) throw new Error('a session was lost')
console.log(heading)
console.log(row('feed line -> in force, and on disk', inForce))
console.log(row(`broker CPU, first message of all ${sessions}`, first))
console.log(row('broker CPU, second message of all of them', second))
const worst = percentile(inForce, 50) + Math.max(0, percentile(first, 50) - percentile(second, 50))
console.log(
  `\na change and what compiling adds, p50: ${ms(worst)}, wanted under ${wantedMs} ms: ${worst < wantedMs ? 'held' : 'NOT HELD'}\n`,
)

note({ what: `a policy change under ${sessions} sessions`, measured: ms(worst), wanted: `${wantedMs} ms` })
const storms = { one: 'of one topic', many: 'each of a topic of its own' } as const
const calm: Measured[] = []
const stormy: Record<keyof typeof storms, Measured[]> = { one: [], many: [] }
let lines = 0
for (let round = 0; round < rounds; round++) {
  const common = { order: 'traffic', senders, perSecond, ms: trafficMs } as const
  calm.push(await ask({ ...common, deniedPerSecond: 0, topics: 'one' }))
  const before = harness.testLog.lines.length
  for (const topics of ['one', 'many'] as const) stormy[topics].push(await ask({ ...common, deniedPerSecond, topics }))
  lines += harness.testLog.lines.slice(before).filter(({ event }) => event === 'publish.denied').length
}
const rate = (reports: Report[], what: 'allowed' | 'denied'): number =>
  reports.reduce((sum, report) => sum + (report[what] * 1_000) / report.ms, 0) / reports.length
const latencies = (reports: Report[]): number[] => reports.flatMap((report) => report.latencies)
/** CPU milliseconds of the broker's thread in a millisecond. */
const share = (reports: Measured[]): number =>
  reports.reduce((sum, { cpuMs }) => sum + cpuMs, 0) / reports.reduce((sum, { ms: took }) => sum + took, 0)
const perAllowed = share(calm) / rate(calm, 'allowed')
console.log(heading)
console.log(row(`PUBACK at ${perSecond}/s, without a storm`, latencies(calm)))
for (const [topics, reports] of Object.entries(stormy))
  console.log(row(`PUBACK beside a storm, topics: ${topics}`, latencies(reports)))
console.log(
  `\nbroker CPU without a storm: ${(perAllowed * 1e6).toFixed(1)} us an allowed message at QoS 1, ${Math.round(rate(calm, 'allowed'))}/s`,
)
let isHeld = true
for (const [topics, what] of Object.entries(storms) as [keyof typeof storms, string][]) {
  const reports = stormy[topics]
  const perDenial = (share(reports) - perAllowed * rate(reports, 'allowed')) / rate(reports, 'denied')
  const taken = perDenial * deniedPerSecond
  const through = rate(reports, 'allowed') / rate(calm, 'allowed')
  const holds = taken < 0.1
  isHeld &&= holds
  const each = `${Math.round(rate(reports, 'denied'))} denials/s ${what}: ${(perDenial * 1e6).toFixed(1)} us each at QoS 0`
  const judged = `${deniedPerSecond}/s take ${(taken * 100).toFixed(1)} % of the broker's core, wanted under 10 %: ${holds ? 'held' : 'NOT HELD'}`
  // On a machine whose cores are all in use this is how much of them the clients got.
  console.log(`${each}; ${judged}; beside them ${(through * 100).toFixed(0)} % of the allowed messages`)
}
const denials = Object.values(stormy).flatMap((reports) => reports.map(({ denied }) => denied))
console.log(`log lines for ${denials.reduce((sum, denied) => sum + denied, 0)} denials: ${lines}`)
await worker.terminate()
process.exitCode = worst < wantedMs && isHeld ? 0 : 1
