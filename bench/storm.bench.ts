/**
 * What devices that all reconnect at once cost the others: from a publisher's write to the subscriber's read at 1,000 messages a
 * second of QoS 0, alone and while as many devices as are told go on making full handshakes, all of them at once.
 *
 * A storm takes processor time wherever it goes. So that the probe is not late by it, the devices run only when nothing else
 * wants the core of the load; and the same storm also goes against bare aedes, on the core of the brokers, while our messages go
 * on: what the storm adds to that is what our broker does with it. Quiet, storm elsewhere and storm take turns, each broker
 * beside the others in one run; a ratio is of the p99 of a round, and of ratios the middle one counts.
 *
 *   npm run bench -- storm [rounds] [seconds a round] [devices] [milliseconds that a device is away] [workers of ours]
 */
import { heading, ms, note, percentile, range, row } from './figures.ts'
import { Handshakes, type Storm } from './handshakes.ts'
import { Bench, type Device, type Target } from './harness.ts'

const [rounds = 5, seconds = 4, devices = 500, farMs = 0, workers = 0] = process.argv.slice(2).map(Number)
const wanted = 3
const perSecond = 1_000

await using bench = await Bench.start({ broker: { workers } })
await using stack = new AsyncDisposableStack()
const publishers = await bench.devices(50, 'sensor', 'pub')
const subscribers = await bench.devices(1, 'service', 'sub')
const comers = await bench.devices(devices, 'sensor', 'dev')
const stormOn = async (target: Target, those: readonly Device[]) =>
  stack.use(await Handshakes.of(target, those, { isBackground: true }))
const elsewhere = await stormOn(await bench.startAedes(), comers)

type Phase = { latencies: number[]; p99: number[]; lost: number; connected: number; failed: number }
type Side = { target: Target; quiet: Phase; elsewhere: Phase | undefined; stormy: Phase; storm: Handshakes }
const phase = (): Phase => ({ latencies: [], p99: [], lost: 0, connected: 0, failed: 0 })
const sides: Side[] = []
for (const target of bench.targets) {
  await bench.open(target.name, target, 4, publishers, subscribers, { isPaced: true })
  const isOurs = target.name === 'fleetgate'
  const storm = await stormOn(target, comers)
  sides.push({ target, quiet: phase(), elsewhere: isOurs ? phase() : undefined, stormy: phase(), storm })
}

async function measure(
  { name, target }: { name: string; target: Target },
  into: Phase | undefined,
  storm?: Handshakes,
) {
  const live = { qos: 0, granted: 0, payloadBytes: 128, underWay: 0, messages: 1e9, ms: seconds * 1_000 } as const
  const ends: Promise<Storm> | undefined = storm?.run({
    isResumed: false,
    atOnce: devices,
    count: 1e9,
    ms: seconds * 1_000,
    farMs,
  })
  const { latencies, lost } = await bench.measure(target, { ...live, name, perSecond })
  const { connected = 0, failed = 0 } = (await ends) ?? {}
  if (into === undefined) return
  for (const latency of latencies) into.latencies.push(latency)
  into.p99.push(percentile(latencies, 99))
  into.lost += lost
  into.connected += connected
  into.failed += failed
}

const away = farMs > 0 ? ` that are ${farMs} ms away` : ''
const by = workers > 0 ? `, ${workers} workers of ours` : ''
console.log(
  `${perSecond} messages a second beside ${devices} devices${away}${by}; ${rounds} rounds of ${seconds} s in turns\n`,
)
for (let round = -1; round < rounds; round++) {
  for (const { target, quiet, elsewhere: besides, stormy, storm } of sides) {
    const named = { name: target.name, target }
    // The first round is to get warm.
    const isCounted = round >= 0
    await measure(named, isCounted ? quiet : undefined)
    if (besides !== undefined) await measure(named, isCounted ? besides : undefined, elsewhere)
    await measure(named, isCounted ? stormy : undefined, storm)
  }
}

console.log(heading)
for (const { target, quiet, elsewhere, stormy } of sides) {
  const { name } = target
  const over = (other: Phase): string => range(stormy.p99.map((of, round) => of / other.p99[round]!))
  const toldOf = ({ connected, failed, lost }: Phase): string =>
    `${connected} connected, ${failed} not, ${lost} messages lost`
  console.log(row(`${name}, quiet`, quiet.latencies))
  if (elsewhere !== undefined) {
    console.log(row(`${name}, beside the storm on bare aedes`, elsewhere.latencies))
    console.log(`  ${toldOf(elsewhere)}`)
  }
  console.log(row(`${name}, in the storm`, stormy.latencies))
  console.log(
    `  p99 ${over(quiet)} of quiet (wanted: <= ${wanted}x); ${toldOf(stormy)}; ${stormy.latencies.length} messages`,
  )
  if (elsewhere === undefined) continue
  console.log(`  p99 ${over(elsewhere)} of that beside the same storm on bare aedes`)
  const [alone, beside, here] = [quiet, elsewhere, stormy].map((of) => ms(percentile(of.latencies, 99)))
  note({
    what: `p99 of messages while ${devices} devices reconnect, beside quiet`,
    measured: `${over(quiet)}, ${here} and ${alone}`,
    wanted: `<= ${wanted}x`,
    remark: stormy.failed > 0 ? `${stormy.failed} connections failed` : undefined,
  })
  note({
    what: 'the same, beside the same storm on bare aedes',
    measured: `${over(elsewhere)}, ${here} and ${beside}`,
  })
}
for (const { name } of bench.targets) await bench.close(name)
