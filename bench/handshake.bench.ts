/**
 * Devices that connect over mutual TLS 1.3, hear CONNACK and go: connections per second of broker CPU, by a full handshake and by
 * a session ticket, beside bare aedes and mosquitto in one run and in turns. The start of a broker does not count, nor its first
 * connections: JavaScript has to be compiled, which the broker of an operator has behind it, and mosquitto needs no such time.
 * `mosquitto` looks at the chain alone; `mosquitto checking` has been told to refuse the revoked, too, of which it has a list, and to
 * have an ACL, names from certificates and a log. At a resumption it looks at no list: each new one ends all of its tickets.
 *
 *   npm run bench -- handshake [rounds] [connections a round] [at once] [connections before it counts] [revoked certificates]
 */
import { note, percentile, range } from './figures.ts'
import { Handshakes, type Storm } from './handshakes.ts'
import { Bench } from './harness.ts'

const [rounds = 5, connections = 500, atOnce = 16, warmUp = 2_000, revoked = 1_000] = process.argv.slice(2).map(Number)
/** A round of a broker that is as slow as that is cut short. */
const patienceMs = 60_000
const modes = [
  { name: 'full', isResumed: false, wanted: 1.1 },
  { name: 'resumed', isResumed: true, wanted: 1.2 },
]

await using bench = await Bench.start({ revoked })
const devices = await bench.devices(100, 'sensor', 'dev')
await using stack = new AsyncDisposableStack()
const fleets: { name: string; handshakes: Handshakes }[] = []
for (const target of bench.targets) {
  fleets.push({ name: target.name, handshakes: stack.use(await Handshakes.of(target, devices)) })
}
// What is compared are brokers that check: one that does not is no peer.
for (const target of bench.targets) {
  await using stranger = await Handshakes.of(target, [bench.revokedDevice!])
  const { failed } = await stranger.run({ isResumed: false, atOnce: 1, count: 1, ms: patienceMs })
  const isChecking = target.name === 'fleetgate' || target.name === 'mosquitto checking'
  if (isChecking && failed === 0) throw new Error(`${target.name} has let in a device whose certificate is revoked`)
}
console.log(
  `100 devices, ${atOnce} at once; ${rounds} rounds of ${connections} connections in turns; ${revoked} revoked\n`,
)
const columns = [
  'a CPU-second',
  'a second',
  'broker CPU',
  'devices',
  'resumed',
  'of mosquitto (spread)',
  'of one that checks',
  'of bare aedes',
]
for (const { name, isResumed, wanted } of modes) {
  const samples = new Map(fleets.map((fleet) => [fleet.name, [] as (Storm & { perCpuSecond: number })[]]))
  for (let round = -1; round < rounds; round++) {
    for (const fleet of fleets) {
      const count = round < 0 ? warmUp : connections
      const storm = await fleet.handshakes.run({ isResumed, atOnce, count, ms: patienceMs })
      const { connected, resumed, failed } = storm
      if (failed > 0) throw new Error(`${fleet.name} refused ${failed} of ${connected} connections`)
      // The first round is to get warm, and to be given tickets.
      if (round < 0) continue
      if (isResumed && resumed === 0) throw new Error(`${fleet.name} has resumed none of ${connected} connections`)
      samples.get(fleet.name)!.push({ ...storm, perCpuSecond: (storm.connected * 1_000) / storm.brokerCpuMs })
    }
  }
  console.log(`${`${name} handshakes`.padEnd(24)}${columns.map((column) => column.padStart(22)).join('')}`)
  for (const [broker, own] of samples) {
    const over = (other: string): string => {
      const theirs = samples.get(other)
      if (theirs === undefined || other === broker) return ''
      return range(own.map(({ perCpuSecond }, round) => perCpuSecond / theirs[round]!.perCpuSecond))
    }
    const middle = (value: (storm: Storm & { perCpuSecond: number }) => number): number =>
      percentile(own.map(value), 50)
    const cells = [
      String(Math.round(middle(({ perCpuSecond }) => perCpuSecond))),
      String(Math.round(middle(({ connected, ms }) => (connected * 1_000) / ms))),
      `${Math.round(100 * middle(({ brokerCpuMs, ms }) => brokerCpuMs / ms))} %`,
      `${Math.round(100 * middle(({ cpuMs, ms }) => cpuMs / ms))} %`,
      `${Math.round(100 * share(own))} %`,
      over('mosquitto'),
      over('mosquitto checking'),
      over('aedes'),
    ]
    console.log(`${broker.padEnd(24)}${cells.map((value) => value.padStart(22)).join('')}`)
    const waited = own.filter(({ isBusy }) => !isBusy).length
    const bottleneck = waited > 0 ? `in ${waited} of ${own.length} rounds the devices were the bottleneck` : undefined
    if (bottleneck !== undefined) console.log(`  ${bottleneck}`)
    const remark = [...(isResumed ? [`${cells[4]} were resumed`] : []), ...(bottleneck ? [bottleneck] : [])].join('; ')
    if (broker !== 'fleetgate') continue
    const ratios = [
      ['mosquitto', 'mosquitto'],
      ['mosquitto checking', `one that checks ${revoked} revoked`],
    ] as const
    const told = ratios.flatMap(([peer, as]) => (over(peer) === '' ? [] : [`${over(peer)} ${as}`]))
    note({
      what: `${name} TLS 1.3 handshakes`,
      measured: [`${cells[0]} a CPU-second`, ...told].join(', '),
      wanted: `${wanted}x`,
      remark: remark || undefined,
    })
  }
  console.log(`wanted of fleetgate: ${wanted}x mosquitto\n`)
}

function share(storms: readonly Storm[]): number {
  const sum = (value: (storm: Storm) => number): number => storms.reduce((total, storm) => total + value(storm), 0)
  return sum(({ resumed }) => resumed) / sum(({ connected }) => connected)
}
