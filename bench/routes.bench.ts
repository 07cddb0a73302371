/**
 * Who gets a message: RouteIndex beside qlobber, in turns, on the same 10,000 subscriptions. qlobber answers with every
 * matching subscription (what a live core does); "qlobber, one per client" also makes one entry of those of a client with
 * the highest QoS (what the core's store does), which is the least that a delivery needs. Topics are made from octets each
 * time, as a codec does; the price of that alone is the first column.
 */
import { createRequire } from 'node:module'
import { type Route, RouteIndex, type Subscription } from '../broker/wire/route-index.ts'
import { note, percentile } from './figures.ts'

type Value = { clientId: string; granted: number }
type Matcher = {
  add(filter: string, value: Value): void
  remove(filter: string, value: Value): void
  match(topic: string): Value[]
}
// It comes with the core and has no types.
const { Qlobber } = createRequire(import.meta.url)('qlobber') as { Qlobber: new (options: object) => Matcher }

const rounds = Number(process.argv[2] ?? 15)
const matchesPerRound = 20_000

const subscriptions: Subscription[] = []
const subscribe = (clientId: string, filter: string, options: Partial<Subscription> = {}): void => {
  const defaults = { granted: 1, noLocal: false, retainAsPublished: false, retainHandling: 0 } as const
  subscriptions.push({ clientId, filter, ...defaults, ...options })
}
for (let i = 0; i < 4_000; i++) {
  subscribe(`dev-${i}`, `devices/dev-${i}/commands/#`)
  subscribe(`dev-${i}`, `sites/site-${i % 40}/broadcast`, { granted: 0 })
}
for (let i = 0; i < 995; i++) subscribe('historian', `devices/dev-${i}/telemetry/+`, { identifier: i + 1 })
for (let i = 0; i < 1_000; i++) subscribe(`wall-${i}`, 'plant/alarms')
subscribe('historian', 'devices/+/telemetry/#', { granted: 2, identifier: 1_000 })
subscribe('dashboard', 'devices/+/telemetry/temp')
subscribe('dashboard', 'devices/+/state')
subscribe('auditor', 'devices/#', { granted: 0 })
subscribe('alarms', '+/+/telemetry/alarm')

const index = new RouteIndex({ seed: 0x5eed })
const qlobber = new Qlobber({ separator: '/', wildcard_one: '+', wildcard_some: '#', match_empty_levels: true })
const values = subscriptions.map(({ clientId, granted }) => ({ clientId, granted }))
for (const [i, one] of subscriptions.entries()) {
  index.add(one)
  qlobber.add(one.filter, values[i]!)
}

function onePerClient(found: Value[]): Map<string, number> {
  const clients = new Map<string, number>()
  for (const { clientId, granted } of found) {
    const before = clients.get(clientId)
    if (before === undefined || before < granted) clients.set(clientId, granted)
  }
  return clients
}

const size = ({ deliveries, groups }: Route): number => deliveries.length + groups.length
const guests = Array.from({ length: 1_000 }, (_, i) => {
  const subscription: Subscription = {
    ...subscriptions[0]!,
    clientId: `guest-${i}`,
    filter: `devices/dev-${i}/other/#`,
  }
  return { subscription, value: { clientId: subscription.clientId, granted: 1 } }
})
let next = 0
const nextGuest = () => guests[next++ % guests.length]!
/** Each tells how much it found, so that nothing is optimised away. */
const contenders = {
  'topic alone': (topic: string) => topic.length,
  RouteIndex: (topic: string) => size(index.match(topic)),
  qlobber: (topic: string) => qlobber.match(topic).length,
  'qlobber, one per client': (topic: string) => onePerClient(qlobber.match(topic)).size,
}
const changes: Partial<Record<keyof typeof contenders, () => void>> = {
  RouteIndex: () => {
    const { subscription } = nextGuest()
    index.add(subscription)
    index.remove(subscription.clientId, subscription.filter)
  },
  qlobber: () => {
    const { subscription, value } = nextGuest()
    qlobber.add(subscription.filter, value)
    qlobber.remove(subscription.filter, value)
  },
}
changes['qlobber, one per client'] = changes.qlobber!
const numbers = (count: number): number[] => Array.from({ length: count }, (_, i) => i)
const spread = 7_919 // a prime, so that neighbours in time are not neighbours in the tree
const scenarios: { name: string; topics: string[]; matches?: number; changeEvery?: number }[] = [
  { name: 'telemetry of 20 devices', topics: numbers(100).map((i) => `devices/dev-${i % 20}/telemetry/m${i}`) },
  {
    name: 'telemetry of 4,000 devices, 20,000 topics',
    topics: numbers(20_000).map((i) => `devices/dev-${(i * spread) % 4_000}/telemetry/m${Math.floor(i / 4_000)}`),
  },
  {
    name: '  the same, a client comes and goes every 100',
    topics: numbers(20_000).map((i) => `devices/dev-${(i * spread) % 4_000}/telemetry/m${Math.floor(i / 4_000)}`),
    changeEvery: 100,
  },
  {
    name: 'commands to 4,000 devices',
    topics: numbers(4_000).map((i) => `devices/dev-${(i * spread) % 4_000}/commands/go`),
  },
  { name: 'topics that nobody wants', topics: numbers(20_000).map((i) => `sites/site-${i % 40}/rooms/room-${i}`) },
  { name: '100 receivers', topics: numbers(40).map((i) => `sites/site-${i}/broadcast`), matches: 5_000 },
  { name: '1,000 receivers', topics: ['plant/alarms'], matches: 500 },
]

const names = Object.keys(contenders) as (keyof typeof contenders)[]
console.log(
  `${subscriptions.length} subscriptions; millions of matches per CPU-second, median of ${rounds} rounds in turns\n`,
)
console.log(`${''.padEnd(46)}${names.map((name) => name.padStart(26)).join('')}`)
for (const { name, topics, matches = matchesPerRound, changeEvery } of scenarios) {
  const octets = topics.map((topic) => Buffer.from(topic))
  let found = 0
  const samples = new Map(names.map((contender) => [contender, [] as number[]]))
  for (let round = -2; round < rounds; round++) {
    for (const contender of names) {
      const match = contenders[contender]
      const change = changeEvery === undefined ? undefined : changes[contender]
      const started = process.cpuUsage()
      for (let i = 0, at = 0; i < matches; i++) {
        found += match(octets[at]!.toString('latin1'))
        if (++at === octets.length) at = 0
        if (change !== undefined && i % changeEvery! === 0) change()
      }
      const { user, system } = process.cpuUsage(started)
      if (round >= 0) samples.get(contender)!.push((matches / (user + system)) * 1e6)
    }
  }
  const medians = names.map((contender) => percentile(samples.get(contender)!, 50))
  const ours = medians[names.indexOf('RouteIndex')]!
  const cells = medians.map((median, i) => {
    const ratio = i < 2 ? '' : ` (${(ours / median).toFixed(1)}x)`
    return `${(median / 1e6).toFixed(3)}${ratio}`.padStart(26)
  })
  console.log(`${name.padEnd(46)}${cells.join('')}`)
  const theirs = medians[names.indexOf('qlobber, one per client')]!
  note({ what: `routes: ${name.trim()}`, measured: `${(ours / theirs).toFixed(1)}x qlobber` })
  if (found === 0) throw new Error('nothing was matched')
}
console.log('\nIn brackets: how many times as fast RouteIndex is.')

function allocatedBy(match: (topic: string) => number, topics: string[]): number {
  const samples = numbers(40).map(() => {
    const before = process.memoryUsage().heapUsed
    // By number: an iterator would allocate on its own.
    for (let i = 0; i < topics.length; i++) match(topics[i]!)
    return (process.memoryUsage().heapUsed - before) / topics.length
  })
  return percentile(samples.slice(-15), 50) // once all is compiled
}
const unwanted = numbers(20_000).map((i) => `sites/site-${i % 40}/rooms/room-${i}`)
console.log(
  `Octets allocated for a topic that nobody wants: RouteIndex ${allocatedBy(contenders.RouteIndex, unwanted).toFixed(1)}, ` +
    `qlobber ${allocatedBy(contenders.qlobber, unwanted).toFixed(1)}`,
)
