/**
 * From a publisher's write to the subscriber's read at 5,000 messages a second of QoS 0, beside bare aedes and mosquitto in
 * one run and in turns. It says as much about what else the machine does as about the brokers: look at the ratio.
 *
 *   npm run bench -- latency [rounds] [seconds a round]
 */
import { heading, ms, note, percentile, range, row } from './figures.ts'
import { Bench } from './harness.ts'

const rounds = Number(process.argv[2] ?? 5)
const seconds = Number(process.argv[3] ?? 2)
const perSecond = 5_000

await using bench = await Bench.start()
const publishers = await bench.devices(100, 'sensor', 'pub')
const subscribers = await bench.devices(1, 'service', 'sub')
const samples = new Map(bench.targets.map(({ name }) => [name, [] as number[]]))
const p99s = new Map(bench.targets.map(({ name }) => [name, [] as number[]]))
for (const target of bench.targets) await bench.open(target.name, target, 4, publishers, subscribers, { isPaced: true })
console.log(
  `100 publishers, 1 subscriber, 128 octets, ${perSecond} a second; ${rounds} rounds of ${seconds} s in turns\n`,
)
for (let round = -1; round < rounds; round++) {
  for (const target of bench.targets) {
    const run = {
      name: target.name,
      qos: 0,
      granted: 0,
      payloadBytes: 128,
      underWay: 0,
      perSecond,
      messages: 1e9,
    } as const
    const { latencies } = await bench.measure(target, { ...run, ms: seconds * 1_000 })
    if (round < 0) continue
    p99s.get(target.name)!.push(percentile(latencies, 99))
    for (const latency of latencies) samples.get(target.name)!.push(latency)
  }
}
console.log(heading)
for (const [name, latencies] of samples) console.log(row(name, latencies))
const theirs = p99s.get('mosquitto')
if (theirs !== undefined) {
  const ratios = p99s.get('fleetgate')!.map((p99, round) => p99 / theirs[round]!)
  console.log(
    `\np99 of fleetgate / mosquitto ${range(ratios)}; wanted <= 3x` +
      `\np99 of mosquitto ${ms(percentile(samples.get('mosquitto')!, 99))}`,
  )
  const own = ms(percentile(samples.get('fleetgate')!, 99))
  note({
    what: `p99 at ${perSecond} messages a second`,
    measured: `${own}, ${range(ratios)} mosquitto`,
    wanted: '<= 3x',
  })
}
for (const { name } of bench.targets) await bench.close(name)
