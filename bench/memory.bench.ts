/**
 * What an idle connection takes of a broker's memory: 500 devices over mutual TLS that say nothing.
 *
 *   npm run bench -- memory [connections]
 */
import { note } from './figures.ts'
import { Bench } from './harness.ts'

const connections = Number(process.argv[2] ?? 500)
const settleMs = 3_000

await using bench = await Bench.start()
const devices = await bench.devices(connections, 'service', 'idle')
const settled = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, settleMs))
const taken = new Map<string, number>()
for (const target of bench.targets) {
  // The first ones make a broker allocate what it needs once.
  await bench.open('first', target, 4, devices.slice(0, 50), [])
  await settled()
  const before = target.program.residentKiB
  await bench.open('more', target, 4, devices.slice(50), [])
  await settled()
  taken.set(target.name, (target.program.residentKiB - before) / (connections - 50))
  for (const name of ['first', 'more']) await bench.close(name)
}
const theirs = taken.get('mosquitto')
for (const [name, kib] of taken) {
  const ratio = theirs === undefined ? '' : `${(kib / theirs).toFixed(1)}x of mosquitto`
  if (name === 'fleetgate') {
    const beside = theirs === undefined ? '' : `, ${(kib / theirs).toFixed(1)}x mosquitto`
    note({ what: 'memory of an idle connection', measured: `${kib.toFixed(0)} KiB${beside}`, wanted: '<= 3.3x' })
  }
  console.log(`${name.padEnd(12)}${`${kib.toFixed(0)} KiB a connection`.padStart(24)}${ratio.padStart(22)}`)
}
console.log('wanted of fleetgate: <= 3.3x of mosquitto')
