/**
 * What devices that all reconnect at once cost the others: from a publisher's write to the subscriber's read at 1,000 messages a
 * second of QoS 0, alone and while as many devices as are told go on making full handshakes, all of them at once. Quiet and storm
 * take turns, each broker beside the others in one run.
 *
 *   npm run bench -- storm [rounds] [seconds a round] [devices] [milliseconds that a device is away] [workers of ours]
 */
import { heading, ms, note, percentile, range, row } from './figures.ts'
import { Handshakes } from './handshakes.ts'
import { Bench, type Target } from './harness.ts'

const [rounds = 4, seconds = 3, devices = 500, farMs = 0, workers = 0] = process.argv.slice(2).map(Number)
const wanted = 3
const perSecond = 1_000

await using bench = await Bench.start({ broker: { workers } })
await using stack = new AsyncDisposableStack()
const publishers = await bench.devices(50, 'sensor', 'pub')
const subscribers = await bench.devices(1, 'service', 'sub')
const comers = await bench.devices(devices, 'sensor', 'dev')

type Side = {
  target: Target
  handshakes: Handshakes
  quiet: number[]
  stormy: number[]
  ratios: number[]
  connected: number
  failed: number
  lost: number
}
const sides: Side[] = []
for (const target of bench.targets) {
  await bench.open(target.name, target, 4, publishers, subscribers, { isPaced: true })
  const handshakes = stack.use(await Handshakes.of(target, comers, { isBackground: true }))
  sides.push({ target, handshakes, quiet: [], stormy: [], ratios: [], connected: 0, failed: 0, lost: 0 })
}
const away = farMs > 0 ? ` that are ${farMs} ms away` : ''
const by = workers > 0 ? `, ${workers} workers of ours` : ''
console.log(
  `${perSecond} messages a second beside ${devices} devices${away}${by}; ${rounds} rounds of ${seconds} s in turns\n`,
)
for (let round = -1; round < rounds; round++) {
  for (const side of sides) {
    const { target, handshakes } = side
    const live = { qos: 0, granted: 0, payloadBytes: 128, underWay: 0, messages: 1e9, ms: seconds * 1_000 } as const
    const measure = () => bench.measure(target, { ...live, name: target.name, perSecond })
    const quiet = await measure()
    const storm = handshakes.run({ isResumed: false, atOnce: devices, count: 1e9, ms: seconds * 1_000, farMs })
    const stormy = await measure()
    const { connected, failed } = await storm
    // The first round is to get warm.
    if (round < 0) continue
    side.ratios.push(percentile(stormy.latencies, 99) / percentile(quiet.latencies, 99))
    for (const latency of quiet.latencies) side.quiet.push(latency)
    for (const latency of stormy.latencies) side.stormy.push(latency)
    side.connected += connected
    side.failed += failed
    side.lost += stormy.lost
  }
}
console.log(heading)
for (const { target, quiet, stormy, ratios, connected, failed, lost } of sides) {
  console.log(row(`${target.name}, quiet`, quiet))
  console.log(row(`${target.name}, in the storm`, stormy))
  console.log(`  p99 ${range(ratios)} of quiet; ${connected} connected, ${failed} not, ${lost} messages lost`)
  if (target.name !== 'fleetgate') continue
  const p99 = [quiet, stormy].map((of) => ms(percentile(of, 99)))
  note({
    what: `p99 of messages while ${devices} devices reconnect, beside quiet`,
    measured: `${p99[1]}, ${p99[0]} quiet, ${range(ratios)}`,
    wanted: `<= ${wanted}x`,
    remark: failed > 0 ? `${failed} of ${connected + failed} connections failed` : undefined,
  })
}
console.log(`wanted of fleetgate: <= ${wanted}x`)
for (const { name } of bench.targets) await bench.close(name)
