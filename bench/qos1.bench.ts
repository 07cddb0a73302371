/**
 * Messages of QoS 1: how long a PUBACK takes where each of 20 publishers has one message under way, and messages per second of
 * broker CPU where 50 have 2,000. All over mutual TLS, with one subscriber at QoS 0, at QoS 1, and at QoS 1 with a session that
 * outlives its connection: for the last our broker has each message on disk, with a sync, before its PUBACK. Beside it bare aedes
 * and mosquitto, both in memory, and mosquitto with persistence that saves after each change: PUBACK first, then the whole
 * database into a file, with an fsync.
 *
 *   npm run bench -- qos1 [rounds] [messages a round]
 */
import { ms, note, percentile, range } from './figures.ts'
import { Bench, type Sample, type Target } from './harness.ts'

const rounds = Number(process.argv[2] ?? 5)
const messages = Number(process.argv[3] ?? 50_000)
/** A round of a broker that is as slow as that is cut short. */
const patienceMs = 20_000
const common = { qos: 1, payloadBytes: 128, perSecond: 0, ms: patienceMs } as const

await using bench = await Bench.start({ hasMosquittoOnDisk: true })
const publishers = await bench.devices(50, 'sensor', 'pub')
const kinds = [
  { what: 'to QoS 0', granted: 0, isKept: false, subscriber: await bench.devices(1, 'service', 'zero') },
  { what: 'to QoS 1', granted: 1, isKept: false, subscriber: await bench.devices(1, 'service', 'one') },
  { what: 'to QoS 1, kept', granted: 1, isKept: true, subscriber: await bench.devices(1, 'service', 'kept') },
] as const

type Measured = { target: Target; samples: Sample[] }

/** In turns; the first round is to get warm. */
async function inTurns(
  open: (target: Target) => Promise<void>,
  run: (target: Target) => Promise<Sample>,
): Promise<Measured[]> {
  const measured = bench.targets.map((target): Measured => ({ target, samples: [] }))
  for (const target of bench.targets) await open(target)
  for (let round = -1; round < rounds; round++) {
    for (const { target, samples } of measured) {
      const sample = await run(target)
      if (round >= 0) samples.push(sample)
    }
  }
  for (const { name } of bench.targets) await bench.close(name)
  return measured
}

function table(
  title: string,
  measured: readonly Measured[],
  what: string,
  shownOf: (samples: Sample[]) => string[],
): void {
  console.log(`\n${title}`)
  for (const { target, samples } of measured) {
    const over = (name: string): string => {
      const theirs = measured.find((other) => other.target.name === name)?.samples
      if (theirs === undefined || name === target.name) return ''
      return `${range(samples.map(({ perCpuSecond }, round) => perCpuSecond / theirs[round]!.perCpuSecond))} ${name}`
    }
    const own = `${(
      percentile(
        samples.map(({ perCpuSecond }) => perCpuSecond),
        50,
      ) / 1_000
    ).toFixed(1)}k a CPU-second`
    const shown = [own, ...shownOf(samples)]
    const ratios = [over('mosquitto'), over('mosquitto on disk')].filter((text) => text !== '')
    const lost = samples.reduce((sum, one) => sum + one.lost, 0)
    const unheard = lost > 0 ? [`${lost} not delivered in time`] : []
    console.log(`  ${target.name.padEnd(20)}${[...shown, ...ratios, ...unheard].join('; ')}`)
    if (target.name === 'fleetgate') note({ what, measured: [...shown, ...ratios].join(', ') })
  }
}

for (const { what, granted, isKept, subscriber } of kinds) {
  const opened = (isPaced: boolean) => (target: Target) =>
    bench.open(target.name, target, 4, isPaced ? publishers.slice(0, 20) : publishers, subscriber, { isPaced, isKept })
  const alone = { ...common, granted, underWay: 1e9, messages: messages / 10, areRoundTrips: true }
  const trips = await inTurns(opened(true), (target) => bench.measure(target, { ...alone, name: target.name }))
  table(`PUBACK ${what}, one message of each publisher under way`, trips, `PUBACK ${what}`, (samples) => {
    const latencies = samples.flatMap((sample) => sample.latencies)
    return [`PUBACK p50 ${ms(percentile(latencies, 50))}, p99 ${ms(percentile(latencies, 99))}`]
  })
  const crowd = { ...common, granted, underWay: 2_000 }
  const many = await inTurns(opened(false), (target) => {
    const { name } = target
    // It writes all that waits for each of them: fewer, or it takes minutes.
    const few = name === 'mosquitto on disk' && granted === 1 ? messages / 50 : isKept ? messages / 5 : messages
    return bench.measure(target, { ...crowd, name, messages: few })
  })
  table(`QoS 1 ${what}, 2,000 messages under way`, many, `QoS 1 ${what}`, (samples) => {
    const rates = samples.map(({ received, ms }) => received / ms)
    return [`${percentile(rates, 50).toFixed(1)}k a second`]
  })
}
