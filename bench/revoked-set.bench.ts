/**
 * A million revoked certificates: what they take in memory, what a look at one costs, how long a start with them takes, and
 * whether devices connect more slowly. Two brokers, processes of their own, one without and one with them, are connected to in
 * turns over mutual TLS; what is judged is the CPU time of the broker for a connection, which other programs on the machine
 * change less than the clock's.
 *
 *   npm run bench -- revoked-set [certificates] [rounds]
 */
import { hash } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { connect } from 'node:tls'
import { BrokerStore } from '../broker/store.ts'
import { CertificateTable } from '../broker/trust/certificate-table.ts'
import { SnapshotLog } from '../broker/trust/snapshot-log.ts'
import { SnapshotState } from '../broker/trust/snapshot-state.ts'
import { BrokerHarness, type TestDevice } from '../test/harness/broker.ts'
import { startBrokerProcess } from '../test/harness/broker-process.ts'
import { connectPacket, RawClient } from '../test/harness/raw-mqtt.ts'
import { heading, note, percentile, row } from './figures.ts'

const [certificates = 1_000_000, rounds = 20] = process.argv.slice(2).map(Number)
const perRound = 50
const atOnce = 5
const wanted = { ratio: 1.05, loadMs: 1_000, lookUpNs: 1_000 }
const mebibytes = (bytes: number): string => `${(bytes / 1_048_576).toFixed(1)} MiB`
const verdict = (isHeld: boolean): string => (isHeld ? 'held' : 'NOT HELD')

const fingerprints = Array.from({ length: certificates }, (_, n) => hash('sha256', `revoked ${n}`))
const strangers = Array.from({ length: 100_000 }, (_, n) => hash('sha256', `stranger ${n}`))

/** The folder of a stopped broker gets them beside what is in it. */
async function fill(folder: string): Promise<void> {
  await using store = await BrokerStore.open(folder)
  const log = await SnapshotLog.open(store.snapshot)
  const state = new SnapshotState()
  await log.read((record) => state.read(record))
  for (const [n, fingerprint] of fingerprints.entries()) {
    const owner = state.devices.numberOf(`gone-${n % 10_000}`)
    state.certificates.set(fingerprint, { owner, notAfter: 2_000_000_000, reason: 'superseded' })
  }
  await log.replace(state.records())
}

/** @returns milliseconds of CPU, and by the clock */
async function load(folder: string): Promise<{ cpu: number; clock: number }> {
  await using store = await BrokerStore.open(folder)
  const begun = performance.now()
  const before = process.cpuUsage()
  const log = await SnapshotLog.open(store.snapshot)
  const state = new SnapshotState()
  await log.read((record) => state.read(record))
  const { user, system } = process.cpuUsage(before)
  const clock = performance.now() - begun
  if (state.certificates.size < certificates) throw new Error(`${state.certificates.size} certificates`)
  return { cpu: (user + system) / 1_000, clock }
}

/** @returns nanoseconds of CPU for one */
function lookUp(table: CertificateTable, asked: readonly string[], isThere: boolean): number {
  let found = 0
  const before = process.threadCpuUsage()
  for (const fingerprint of asked) if (table.find(fingerprint) !== undefined) found++
  const { user, system } = process.threadCpuUsage(before)
  if (found !== (isThere ? asked.length : 0)) throw new Error('a wrong answer')
  return ((user + system) * 1_000) / asked.length
}

type Side = { harness: BrokerHarness; device: TestDevice; pid: number; port: number }

async function startSide(isFilled: boolean): Promise<Side> {
  const harness = await BrokerHarness.start()
  const device = await harness.device('cam-1')
  await harness.stopBroker()
  if (isFilled) await fill(join(harness.folder, 'data'))
  const { child, port } = await startBrokerProcess(harness)
  return { harness, device, pid: child.pid!, port }
}

// Of the scheduler: 100 ticks a second on Linux, whatever the machine.
const cpuMs = (pid: number): number => {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ')
  return (Number(fields[11]) + Number(fields[12])) * 10
}
const residentBytes = (pid: number): number =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) * 1_024

async function connectMany({ harness, device, port }: Side, count: number): Promise<void> {
  const { key, chain } = device
  await Promise.all(
    Array.from({ length: atOnce }, async (_, first) => {
      for (let n = first; n < count; n += atOnce) {
        const socket = connect({ host: '127.0.0.1', port, ca: harness.pki.root.pem, key, cert: chain })
        await once(socket, 'secureConnect')
        const client = RawClient.over(socket, 5)
        client.send(connectPacket(5, { clientId: `${device.id}:${first}` }))
        await client.expect('connack', { reason: 0 })
        socket.destroy()
        await once(socket, 'close')
      }
    }),
  )
}

const table = new CertificateTable()
for (const fingerprint of fingerprints) table.set(fingerprint, { owner: 1, notAfter: 1, reason: 'superseded' })
const asked = fingerprints.slice(0, strangers.length)
const passes = Array.from({ length: 9 }, () => [lookUp(table, asked, true), lookUp(table, strangers, false)])
const lookUpNs = [0, 1].map((which) =>
  percentile(
    passes.map((pass) => pass[which]!),
    50,
  ),
)
console.log(
  `${certificates} certificates: ${mebibytes(table.bytes)}, ${(table.bytes / certificates).toFixed(1)} octets each`,
)
console.log(
  `a look at one that is revoked ${lookUpNs[0]!.toFixed(0)} ns, at one that is not there ${lookUpNs[1]!.toFixed(0)} ns, wanted under ${wanted.lookUpNs}: ${verdict(Math.max(...lookUpNs) < wanted.lookUpNs)}`,
)

const empty = await startSide(false)
const full = await startSide(true)
console.log(
  `resident: broker without them ${mebibytes(residentBytes(empty.pid))}, with them ${mebibytes(residentBytes(full.pid))}`,
)

const cpu: Record<'empty' | 'full', number[]> = { empty: [], full: [] }
const time: Record<'empty' | 'full', number[]> = { empty: [], full: [] }
for (let round = -2; round < rounds; round++) {
  for (const [name, side] of round % 2 === 0
    ? ([
        ['empty', empty],
        ['full', full],
      ] as const)
    : ([
        ['full', full],
        ['empty', empty],
      ] as const)) {
    const before = { cpu: cpuMs(side.pid), at: performance.now() }
    await connectMany(side, perRound)
    if (round < 0) continue
    cpu[name].push((cpuMs(side.pid) - before.cpu) / perRound)
    time[name].push((performance.now() - before.at) / perRound)
  }
}
console.log(`\n${rounds} rounds of ${perRound} connections to each\n${heading}`)
for (const name of ['empty', 'full'] as const) {
  console.log(row(`CPU of the broker for a connection, ${name}`, cpu[name]))
  console.log(row(`time for a connection, ${name}`, time[name]))
}
const sum = (samples: number[]): number => samples.reduce((total, sample) => total + sample, 0)
const ratio = sum(cpu.full) / sum(cpu.empty)
note({
  what: `a connection beside ${certificates} revoked`,
  measured: `${ratio.toFixed(2)}x CPU`,
  wanted: `${wanted.ratio}x`,
})
console.log(
  `CPU for a connection, full / empty: ${ratio.toFixed(3)}x, p50 of the time ${(percentile(time.full, 50) / percentile(time.empty, 50)).toFixed(3)}x; wanted at most ${wanted.ratio}x: ${verdict(ratio <= wanted.ratio)}`,
)

process.kill(full.pid, 'SIGTERM')
process.kill(empty.pid, 'SIGTERM')
await new Promise((resolve) => setTimeout(resolve, 1_000))
const loads: { cpu: number; clock: number }[] = []
for (let times = 0; times < 5; times++) loads.push(await load(join(full.harness.folder, 'data')))
const loadCpu = loads.map(({ cpu }) => cpu)
console.log(row('CPU of reading them from disk', loadCpu))
console.log(
  row(
    'time of reading them from disk',
    loads.map(({ clock }) => clock),
  ),
)
console.log(`wanted under ${wanted.loadMs} ms: ${verdict(percentile(loadCpu, 50) < wanted.loadMs)} (CPU)`)
process.exitCode =
  ratio <= wanted.ratio && percentile(loadCpu, 50) < wanted.loadMs && Math.max(...lookUpNs) < wanted.lookUpNs ? 0 : 1
process.exit()
