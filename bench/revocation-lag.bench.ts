/**
 * From the durable commit of a revocation to the thief's socket closed, on a gateway of two processes with devices that are
 * connected over mutual TLS: some are revoked one after the other while nothing else happens, then more while each device
 * publishes once a second and an application hears all of them. Two figures are known that are not less than the one wanted:
 * from the commit to enroll knowing the socket to be closed, and from the request being sent to the device seeing that. Of each
 * revocation the smaller one is judged. Where the time goes is told by the receipts, in whole milliseconds. Beside it, in the same run and in turns: a durable write that no broker has to confirm.
 *
 *   npm run bench -- revocation-lag [devices] [revoked at idle] [revoked under load]
 */
import { once } from 'node:events'
import type { Device } from '../device-sim/device.ts'
import { enrolledDevice } from '../device-sim/fleet.ts'
import { LiveGateway } from '../test/harness/live-gateway.ts'
import { heading, ms, note, percentile, row } from './figures.ts'

const [devices = 1_000, atIdle = 30, underLoad = 100] = process.argv.slice(2).map(Number)
const everyMs = 1_000
const enrolledAtOnce = 8
const wantedMs = { idle: 10, load: 50 }
const boundMs = 50
/** The first ones run code that is not compiled yet. */
const warmUps = 10

await using live = await LiveGateway.start()
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

type Samples = {
  closed: number[]
  seen: number[]
  committed: number[]
  told: number[]
  took: number[]
  receipt: number[]
  write: number[]
}
/** After the latest time that the commit can have been at, and the bound. */
const late: string[] = []
const ended: { id: string; committedBy: number }[] = []
let spare = 0

async function revoke(count: number): Promise<Samples> {
  const samples: Samples = { closed: [], seen: [], committed: [], told: [], took: [], receipt: [], write: [] }
  const time = async (into: number[], work: () => Promise<unknown>): Promise<void> => {
    const started = performance.now()
    await work()
    into.push(performance.now() - started)
  }
  for (const device of fleet.splice(0, count)) {
    await time(samples.write, () => live.admin.createDevice({ id: `spare-${spare++}`, profile: 'camera' }))
    const closed = once(device, 'closed')
    const revoked = live.admin.revokeDevice(device.id, 'keyCompromise', 10_000)
    await Promise.all([time(samples.seen, () => closed), time(samples.receipt, () => revoked)])
    const { inForce, committedMs, brokers, sessions } = await revoked
    if (!inForce || sessions.length !== 1) throw new Error(`${device.id}: ${inForce}, ${sessions.length} sessions`)
    const { closedMs, tookMs } = sessions[0]!
    samples.closed.push(Math.min(closedMs, samples.seen.at(-1)!))
    samples.committed.push(committedMs!)
    samples.took.push(tookMs)
    samples.told.push(Math.max(0, closedMs - committedMs! - tookMs))
    ended.push({ id: device.id, committedBy: performance.now() - brokers[0]!.confirmedMs! })
    device.drop()
  }
  return samples
}

function tell(what: string, samples: Samples, wanted: number): boolean {
  console.log(heading)
  console.log(row(`${what}: commit -> socket closed`, samples.closed))
  console.log(row('of that, until it is on disk', samples.committed))
  console.log(row('of that, broker has heard -> socket closed', samples.took))
  console.log(row('of that, to the broker and back', samples.told))
  console.log(row('revoke sent -> socket closed at the device', samples.seen))
  console.log(row('revoke sent -> receipt back', samples.receipt))
  console.log(row('a durable write, no broker waited for', samples.write))
  const p99 = percentile(samples.closed, 99)
  const ratio = (p: number): string => (percentile(samples.closed, p) / percentile(samples.write, p)).toFixed(2)
  console.log(`commit -> closed / durable write: p50 ${ratio(50)}x, p99 ${ratio(99)}x`)
  console.log(`p99 ${ms(p99)}, wanted ${wanted} ms: ${p99 <= wanted ? 'held' : 'NOT HELD'}\n`)
  note({ what: `${what}: commit of a revocation to socket closed, p99`, measured: ms(p99), wanted: `${wanted} ms` })
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
