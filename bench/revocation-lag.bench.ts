/**
 * From a revocation being on disk, which is its commit, to the thief's socket closed, on a gateway of two processes that publishes
 * revocation lists, with devices that are connected over mutual TLS: some are revoked one after the other while nothing else
 * happens, then more while each device publishes once a second and an application hears all of them. It is told in three parts,
 * from the receipts and so in whole milliseconds: from the order to the disk, from there to enroll knowing the socket to be
 * closed, which is judged, and both together. Beside them, in the same run and in turns: a durable write that no broker has to confirm.
 *
 *   npm run bench -- revocation-lag [devices] [revoked at idle] [revoked under load]
 */
import { once } from 'node:events'
import type { Device } from '../device-sim/device.ts'
import { enrolledDevice } from '../device-sim/fleet.ts'
import { LiveGateway } from '../test/harness/live-gateway.ts'
import { heading, ms, note, percentile, row } from './figures.ts'

const [devices = 1_000, atIdle = 100, underLoad = 100] = process.argv.slice(2).map(Number)
const everyMs = 1_000
const enrolledAtOnce = 8
const wantedMs = { idle: 10, load: 50 }
const boundMs = 50
/** The first ones run code that is not compiled yet. */
const warmUps = 10

if (devices < warmUps + atIdle + underLoad) throw new RangeError(`${devices} devices are too few to revoke so many`)

const settings = `enroll:
  status:
    listen: 127.0.0.1:0
    url: http://status.example
`
await using live = await LiveGateway.start(settings)
const begun = performance.now()
const listener = await enrolledDevice(live.server, 'app-1', 'service')
const fleet: Device[] = []
await Promise.all(
  Array.from({ length: enrolledAtOnce }, async (_, first) => {
    for (let i = first; i < devices; i += enrolledAtOnce)
      fleet.push(await enrolledDevice(live.server, `cam-${i}`, 'camera'))
  }),
)
console.log(`${fleet.length} devices enrolled and connected in ${((performance.now() - begun) / 1_000).toFixed(0)} s\n`)

/** When the application last heard each, and how much in all. */
const lastHeard = new Map<string, number>()
let heard = 0
listener.on('message', (topic) => {
  heard++
  lastHeard.set(topic.split('/')[1]!, performance.now())
})
await listener.subscribe('devices/+/telemetry/#')

type Samples = Record<'committed' | 'closed' | 'ended' | 'took' | 'seen' | 'receipt' | 'write', number[]>
/** After the latest time that the commit can have been at, and the bound. */
const late: string[] = []
const ended: { id: string; committedBy: number }[] = []
let spare = 0

async function revoke(count: number): Promise<Samples> {
  const samples: Samples = { committed: [], closed: [], ended: [], took: [], seen: [], receipt: [], write: [] }
  const time = async (into: number[], work: () => Promise<unknown>): Promise<void> => {
    const started = performance.now()
    await work()
    into.push(performance.now() - started)
  }
  for (const device of fleet.splice(0, count)) {
    await time(samples.write, () => live.admin.createDevice({ id: `spare-${spare++}`, profile: 'camera' }))
    const closed = once(device, 'closed').then(() => performance.now())
    const revoked = live.admin.revokeDevice(device.id, 'keyCompromise', 10_000)
    await Promise.all([time(samples.seen, () => closed), time(samples.receipt, () => revoked)])
    const { inForce, committedMs, brokers, sessions } = await revoked
    if (!inForce || sessions.length !== 1) throw new Error(`${device.id}: ${inForce}, ${sessions.length} sessions`)
    const { closedMs, sinceCommitMs, tookMs } = sessions[0]!
    samples.committed.push(committedMs!)
    samples.closed.push(sinceCommitMs!)
    samples.ended.push(closedMs)
    samples.took.push(tookMs)
    const confirmedBy = performance.now() - brokers[0]!.confirmedMs!
    ended.push({ id: device.id, committedBy: Math.min(confirmedBy, await closed) })
    device.drop()
  }
  return samples
}

function tell(what: string, samples: Samples, wanted: number): boolean {
  console.log(heading)
  console.log(row(`${what}: order -> on disk (commit)`, samples.committed))
  console.log(row('commit -> socket closed', samples.closed))
  console.log(row('of that, broker has heard -> socket closed', samples.took))
  console.log(row('order -> socket closed', samples.ended))
  console.log(row('revoke sent -> socket closed at the device', samples.seen))
  console.log(row('revoke sent -> receipt back', samples.receipt))
  console.log(row('a durable write sent -> answered', samples.write))
  const ratio = (p: number): string => (percentile(samples.seen, p) / percentile(samples.write, p)).toFixed(2)
  const ratios = `p50 ${ratio(50)}x, p99 ${ratio(99)}x`
  console.log(`revoke sent -> socket closed at the device / a durable write: ${ratios}`)
  const p99 = percentile(samples.closed, 99)
  console.log(`commit -> socket closed, p99 ${ms(p99)}, wanted ${wanted} ms: ${p99 <= wanted ? 'held' : 'NOT HELD'}\n`)
  note({ what: `${what}: commit of a revocation to socket closed, p99`, measured: ms(p99), wanted: `${wanted} ms` })
  note({ what: `${what}: order of a revocation to socket closed, p99`, measured: ms(percentile(samples.ended, 99)) })
  note({ what: `${what}: revoke sent to socket closed at the device, beside a durable write`, measured: ratios })
  return p99 <= wanted
}

await revoke(warmUps)
const isIdleHeld = tell('idle', await revoke(atIdle), wantedMs.idle)

const timers = fleet.map((device, at) => {
  const publish = (): void => void device.publish(`devices/${device.id}/telemetry/t`, '21.5', 0).catch(() => undefined)
  return setTimeout(() => timers.push(setInterval(publish, everyMs)), (at * everyMs) / fleet.length)
})
await new Promise((resolve) => setTimeout(resolve, 2 * everyMs))
const before = { heard, at: performance.now() }
const loaded = await revoke(underLoad)
const perSecond = ((heard - before.heard) * 1_000) / (performance.now() - before.at)
await new Promise((resolve) => setTimeout(resolve, 2 * everyMs))
const isLoadHeld = tell(`${perSecond.toFixed(0)} messages/s`, loaded, wantedMs.load)
for (const { id, committedBy } of ended) if ((lastHeard.get(id) ?? 0) > committedBy + boundMs) late.push(id)
console.log(`heard of a revoked device after commit + ${boundMs} ms: ${late.length} of ${ended.length}, wanted 0`)

for (const timer of timers) clearInterval(timer)
for (const device of [...fleet, listener]) device.drop()
process.exitCode = isIdleHeld && isLoadHeld && late.length === 0 ? 0 : 1
