/**
 * From an operator's `device revoke` to the thief's socket closed: 100 live devices on a gateway of two processes, revoked
 * one after the other. Beside it, in the same run and in turns, what the same admin connection needs for a read, and for a
 * durable write that no broker has to confirm: what is left is the price of the cut.
 */
import { once } from 'node:events'
import { enrolledDevice } from '../device-sim/fleet.ts'
import { LiveGateway } from '../test/harness/live-gateway.ts'
import { heading, ms, percentile, row } from './figures.ts'

const devices = Number(process.argv[2] ?? 100)
const wantedP99Ms = 250

await using live = await LiveGateway.start()
const fleet = []
for (let i = 0; i < devices; i++) {
  const device = await enrolledDevice(live.server, `cam-${i}`, 'camera', { onCommand: () => 'done' })
  await device.publish(`devices/cam-${i}/telemetry/temp`, '21.5')
  fleet.push(device)
}
console.log(`${devices} devices connected over mutual TLS, each subscribed; revoking them one after the other\n`)

const cut: number[] = []
const receipt: number[] = []
const confirmed: number[] = []
const read: number[] = []
const write: number[] = []
const time = async (samples: number[], work: () => Promise<unknown>): Promise<void> => {
  const started = performance.now()
  await work()
  samples.push(performance.now() - started)
}
for (const [i, device] of fleet.entries()) {
  await time(read, () => live.admin.getDevice(device.id))
  await time(write, () => live.admin.createDevice({ id: `spare-${i}`, profile: 'camera' }))
  const closed = once(device, 'closed')
  const revoked = live.admin.revokeDevice(device.id, 'keyCompromise', 10_000)
  await Promise.all([time(cut, () => closed), time(receipt, () => revoked)])
  const { inForce, brokers } = await revoked
  if (!inForce) throw new Error(`${device.id}: the broker has not confirmed`)
  confirmed.push(brokers[0]!.confirmedMs!)
  device.drop()
}

console.log(heading)
console.log(row('revoke sent -> socket closed at the device', cut))
console.log(row('revoke sent -> receipt back', receipt))
console.log(row('durable commit -> broker confirmed', confirmed))
console.log(row('a read over the same connection', read))
console.log(row('a durable write, no broker waited for', write))
const p99 = percentile(cut, 99)
console.log(
  `\ncut / durable write  p50 ${(percentile(cut, 50) / percentile(write, 50)).toFixed(2)}x  p99 ${(p99 / percentile(write, 99)).toFixed(2)}x`,
)
console.log(`p99 of the cut ${ms(p99)}, wanted under ${wantedP99Ms} ms: ${p99 < wantedP99Ms ? 'held' : 'NOT HELD'}`)
process.exitCode = p99 < wantedP99Ms ? 0 : 1
