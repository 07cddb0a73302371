/**
 * What a device takes of the broker's memory, whether it is connected or not: registered, connected, gone again, revoked, and
 * refused since. Heap and buffers after a collection, of a broker that is a process of its own.
 *
 *   npm run bench -- device-memory [devices]
 */
import { once } from 'node:events'
import { connect } from 'node:tls'
import type { FeedFact } from '../contract/feed.ts'
import { policyDocument, starterPolicy } from '../contract/policy-document.ts'
import { parseYaml } from '../runtime/yaml.ts'
import { type TestCertificate, TestPki } from '../test/harness/certificates.ts'
import { FakeFeed } from '../test/harness/feed.ts'
import { connectPacket, RawClient } from '../test/harness/raw-mqtt.ts'
import { BrokerProcess } from '../test/soak/broker.ts'
import { note } from './figures.ts'

type Device = TestCertificate & { id: string }

const count = Number(process.argv[2] ?? 1_000)
const warmedBy = 300
const atOnce = 5
const settleMs = 2_000

const pki = await TestPki.create()
// Before there is a broker, which would miss the feed while they are made.
const first = await made('first', warmedBy)
const devices = await made('cam', count)
await using feed = await FakeFeed.start(pki)
const document = parseYaml(starterPolicy, policyDocument, 'starter', 'policy_invalid')
feed.append(
  { type: 'trust.changed', data: { anchors: pki.anchors } },
  { type: 'policy.changed', data: { version: 1, document } },
)
await using broker = await BrokerProcess.start(pki, feed, undefined)
let faults = 0
broker.on('fault', (fault) => {
  if (faults++ === 0) console.error(fault)
})

async function each(devices: readonly Device[], work: (device: Device) => Promise<void>): Promise<void> {
  const waiting = devices.values()
  const worker = async (): Promise<void> => {
    for (const device of waiting) await work(device)
  }
  await Promise.all(Array.from({ length: atOnce }, worker))
}

const changed = (id: string, status: 'active' | 'revoked'): FeedFact => ({
  type: 'device.changed',
  data: { id, profile: 'sensor', groups: ['hall-1', 'line-3'], status },
})

async function register(devices: readonly Device[]): Promise<void> {
  for (const { id, serial, fingerprint, notAfter } of devices) {
    const data = { serial, fingerprint, deviceId: id, notAfter: notAfter.toISOString() }
    feed.append(changed(id, 'active'), { type: 'certificate.issued', data })
  }
  await feed.untilApplied()
}

async function revoke(devices: readonly Device[]): Promise<void> {
  for (const { id, serial, fingerprint } of devices) {
    const data = { serial, fingerprint, deviceId: id, reason: 'keyCompromise' }
    feed.append(changed(id, 'revoked'), { type: 'certificate.revoked', data })
  }
  await feed.untilApplied()
}

async function open({ id, key, chain }: Device): Promise<RawClient> {
  const socket = connect({ host: '127.0.0.1', port: broker.port, ca: pki.root.pem, key, cert: chain })
  await once(socket, 'secureConnect')
  const client = RawClient.over(socket, 5)
  client.send(connectPacket(5, { clientId: id }))
  return client
}

/** @returns octets of heap and buffers, without compiled code: that comes and goes by what was busy lately */
async function taken(): Promise<number> {
  await new Promise((resolve) => setTimeout(resolve, settleMs))
  const { heapBytes, codeBytes } = await broker.figures(true)
  return heapBytes - codeBytes
}

/** What devices do in their lives, and after each part what the broker has. */
async function* lives(devices: readonly Device[]): AsyncGenerator<string> {
  await register(devices)
  yield 'registered'
  const clients: RawClient[] = []
  await each(devices, async (device) => {
    const client = await open(device)
    await client.expect('connack', { reason: 0 })
    clients.push(client)
  })
  yield 'connected'
  for (const client of clients) {
    client.socket.destroy()
    await client.closed()
  }
  yield 'not connected any more'
  await revoke(devices)
  yield 'revoked'
  await each(devices, async (device) => {
    const client = await open(device)
    await client.closed()
  })
  yield 'refused since'
}

for await (const _ of lives(first)) await taken()
const before = await taken()
console.log(`${count} devices, octets of heap and buffers for each`)
for await (const state of lives(devices)) {
  const octets = ((await taken()) - before) / count
  note({ what: `memory of a device: ${state}`, measured: `${octets.toFixed(0)} octets` })
  console.log(`${state.padEnd(24)}${octets.toFixed(0).padStart(10)}`)
}
if (faults > 0) console.log(`${faults} faults of the broker: what it kept for them is in the figures`)

async function made(prefix: string, length: number): Promise<Device[]> {
  const numbers = Array.from({ length }, (_, n) => n)
  return Promise.all(
    numbers.map(async (n) => {
      const id = `${prefix}-${String(n).padStart(5, '0')}`
      return { id, ...(await pki.device(id)) }
    }),
  )
}
