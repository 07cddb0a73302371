/** The same load on every broker and version in turns, told as messages per second of broker CPU and as ratios. */
import { note, percentile, range } from './figures.ts'
import type { Bench, Peer, Sample, Target } from './harness.ts'

type Devices = Awaited<ReturnType<Bench['devices']>>
type Comparison = {
  title: string
  publishers: Devices
  subscribers: Devices
  /** `wanted`: of mosquitto's figure */
  modes: { name: string; qos: 0 | 1; granted: 0 | 1; wanted: number; messages?: number }[]
  underWay: number
  payloadBytes: number
  rounds: number
  /** of a round, all subscribers together, where a mode does not say fewer */
  messages: number
}

/** A round of a broker that is as slow as that is cut short. */
const patienceMs = 60_000

/** Those of BENCH_VERSIONS alone, with commas, where that is given. aedes speaks no version 5 on its own. */
const versionsOf = (name: Peer): (4 | 5)[] => {
  const wanted = process.env.BENCH_VERSIONS?.split(',') ?? ['4', '5']
  return ([4, 5] as const).filter((version) => wanted.includes(String(version)) && (version === 4 || name !== 'aedes'))
}

export async function compare(bench: Bench, comparison: Comparison): Promise<void> {
  const { title, publishers, subscribers, modes, underWay, payloadBytes, rounds } = comparison
  const cases: { fleet: string; target: Target }[] = []
  for (const target of bench.targets) {
    for (const version of versionsOf(target.name)) {
      const fleet = `${target.name}, version ${version}`
      await bench.open(fleet, target, version, publishers, subscribers)
      cases.push({ fleet, target })
    }
  }
  console.log(`${title}; at most ${underWay} messages under way; ${rounds} rounds in turns\n`)
  for (const { name, qos, granted, wanted, messages = comparison.messages } of modes) {
    const samples = new Map<string, Sample[]>(cases.map(({ fleet }) => [fleet, []]))
    for (let round = -1; round < rounds; round++) {
      for (const { fleet, target } of cases) {
        // The first round is to get warm; what was compiled before it started needs little of that.
        const share = round < 0 && target.name === 'mosquitto' ? 0.1 : 1
        const run = { name: fleet, qos, granted, payloadBytes, underWay, perSecond: 0, ms: patienceMs }
        const sample = await bench.measure(target, { ...run, messages: share * messages })
        if (round >= 0) samples.get(fleet)!.push(sample)
      }
    }
    report(`${name}, ${messages} messages`, `${title}, ${name}`, samples, wanted)
  }
  for (const { fleet } of cases) await bench.close(fleet)
}

function report(name: string, what: string, samples: Map<string, Sample[]>, wanted: number): void {
  const columns = ['a CPU-second', 'a second', 'broker CPU', 'generator', 'of mosquitto (spread)', 'of bare aedes']
  console.log(`${name.padEnd(44)}${columns.map((column) => column.padStart(22)).join('')}`)
  for (const [fleet, own] of samples) {
    const over = (other: string): string => {
      const theirs = samples.get(other) ?? samples.get(other.replace('version 5', 'version 4'))
      if (theirs === undefined || other === fleet) return ''
      const ratios = own.map(({ perCpuSecond }, round) => perCpuSecond / theirs[round]!.perCpuSecond)
      return range(ratios)
    }
    const version = fleet.slice(fleet.indexOf(','))
    const middle = (value: (sample: Sample) => number): number => percentile(own.map(value), 50)
    const cells = [
      `${Math.round(middle(({ perCpuSecond }) => perCpuSecond) / 1_000)}k`,
      `${Math.round(middle(({ received, ms }) => received / ms))}k`,
      `${Math.round(100 * middle(({ brokerCpuMs, ms }) => brokerCpuMs / ms))} %`,
      `${Math.round(100 * middle(({ cpuMs, ms }) => cpuMs / ms))} %`,
      over(`mosquitto${version}`),
      over(`aedes${version}`),
    ]
    console.log(`${fleet.padEnd(44)}${cells.map((cell) => cell.padStart(22)).join('')}`)
    const lost = own.reduce((sum, one) => sum + one.lost, 0)
    if (lost > 0) console.log(`  ${lost} messages were not delivered`)
    const waited = own.filter(({ isBusy }) => !isBusy).length
    const bottleneck =
      waited > 0 ? `in ${waited} of ${own.length} rounds the load generator was the bottleneck` : undefined
    if (bottleneck !== undefined) console.log(`  ${bottleneck}`)
    if (!fleet.startsWith('fleetgate')) continue
    const ratio = over(`mosquitto${version}`)
    note({
      what: `${what}${version}`,
      measured: `${cells[0]} a CPU-second${ratio === '' ? '' : `, ${ratio} mosquitto`}`,
      wanted: `${wanted}x`,
      remark: bottleneck,
    })
  }
  console.log(`wanted of fleetgate: ${wanted}x mosquitto\n`)
}
