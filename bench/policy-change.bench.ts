/**
 * A policy that changes under open sessions, and a storm of denials.
 *
 * Change: from the feed's line to the broker's word that it is in force, and then what the first message of every session
 * takes, which compiles the policy anew, beside the second, which does not. Nobody reconnects.
 * Storm: a device publishes what it may not, 10,000 messages a second, beside others that publish at a steady rate; in turns
 * with and without it. Broker and clients are threads of one process, over mutual TLS. What is judged is CPU time of the
 * broker's thread, which other programs on the machine change less than the clock's.
 *
 *   npm run bench -- policy-change [sessions] [rounds]
 */
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { BrokerHarness, starter } from '../test/harness/broker.ts'
import { heading, ms, percentile, row } from './figures.ts'
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

const calm: Measured[] = []
const stormy: Measured[] = []
let lines = 0
for (let round = 0; round < rounds; round++) {
  const common = { order: 'traffic', senders, perSecond, ms: trafficMs } as const
  calm.push(await ask({ ...common, deniedPerSecond: 0 }))
  const before = harness.testLog.lines.length
  stormy.push(await ask({ ...common, deniedPerSecond }))
  lines += harness.testLog.lines.slice(before).filter(({ event }) => event === 'publish.denied').length
}
const rate = (reports: Report[], what: 'allowed' | 'denied'): number =>
  reports.reduce((sum, report) => sum + (report[what] * 1_000) / report.ms, 0) / reports.length
const latencies = (reports: Report[]): number[] => reports.flatMap((report) => report.latencies)
console.log(heading)
console.log(row(`PUBACK at ${perSecond}/s, without a storm`, latencies(calm)))
console.log(row(`PUBACK with ${Math.round(rate(stormy, 'denied'))} denials/s beside it`, latencies(stormy)))
const share = (reports: Measured[]): number =>
  reports.reduce((sum, { cpuMs }) => sum + cpuMs, 0) / reports.reduce((sum, { ms: took }) => sum + took, 0)
const perAllowed = share(calm) / rate(calm, 'allowed')
const ofStorm = share(stormy) - perAllowed * rate(stormy, 'allowed')
const perDenial = (ofStorm / rate(stormy, 'denied')) * 1e6
console.log(
  `\nallowed messages without and with: ${Math.round(rate(calm, 'allowed'))}/s and ${Math.round(rate(stormy, 'allowed'))}/s`,
)
console.log(
  `broker CPU: ${(perAllowed * 1e6).toFixed(1)} us an allowed message at QoS 1, ${perDenial.toFixed(1)} us a denial at QoS 0`,
)
const taken = (perDenial * deniedPerSecond) / 1e6
const isHeld = taken < 0.1
console.log(
  `${deniedPerSecond} denials/s take ${(taken * 100).toFixed(1)} % of the broker's core, wanted under 10 %: ${isHeld ? 'held' : 'NOT HELD'}`,
)
console.log(`log lines for ${stormy.reduce((sum, { denied }) => sum + denied, 0)} denials: ${lines}`)
await worker.terminate()
process.exitCode = worst < wantedMs && isHeld ? 0 : 1
