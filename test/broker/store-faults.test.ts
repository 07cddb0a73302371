/** A disk that is full, cannot be read or does not answer: what the broker says, and what it does once the disk works again. */
import assert from 'node:assert/strict'
import { after, before, beforeEach, test } from 'node:test'
import type { Connect, Packet, Publish, Subscription } from '../../broker/wire/packet.ts'
import { reason } from '../../broker/wire/reason.ts'
import { BrokerHarness, parsePolicy, type TestDevice } from '../harness/broker.ts'
import { FaultyDisk } from '../harness/faulty-disk.ts'
import { connectPacket, publishPacket, RawClient } from '../harness/raw-mqtt.ts'

const policy = parsePolicy(`
policies:
  - { name: all, match: { profile: service }, allow: { publish: ["#"], subscribe: ["#"] } }
`)
let disk: FaultyDisk
let harness: BrokerHarness
let service: TestDevice
let clients = 0
before(async () => {
  disk = new FaultyDisk()
  // Without presence, whose writes would take the room that a test has counted.
  harness = await BrokerHarness.start({ policy, broker: { maxConnectionsPerDevice: 100, events: { enabled: false } } })
  service = await harness.device('service', { profile: 'service' })
})
after(async () => {
  disk.heal()
  await harness[Symbol.asyncDispose]()
  disk[Symbol.dispose]()
})
beforeEach(async () => {
  await untilWorking()
  harness.testLog.lines.length = 0
})

const kept = { clean: false, properties: { sessionExpiryInterval: 1_000 } }

async function dial(more: Partial<Connect> = {}, device = service) {
  const client = RawClient.over(await harness.socket(device), 5)
  const clientId = more.clientId ?? `${device.id}:${++clients}`
  client.send(connectPacket(5, { clientId, ...more }))
  return { client, clientId }
}

async function connect(more: Partial<Connect> = {}, device = service) {
  const both = await dial(more, device)
  const connack = await both.client.expect('connack', { reason: reason.success })
  return { ...both, connack }
}

const subscription = (filter: string): Subscription => ({
  filter,
  qos: 2,
  noLocal: false,
  retainAsPublished: false,
  retainHandling: 0,
})

async function subscribe(client: RawClient, filter: string): Promise<void> {
  client.send({ type: 'subscribe', packetId: 1, subscriptions: [subscription(filter)] })
  await client.expect('suback', { reasons: [2] })
}

/** A session of nobody who is there, subscribed to `filter`. */
async function absent(filter: string): Promise<string> {
  const { client, clientId } = await connect(kept)
  await subscribe(client, filter)
  client.send({ type: 'disconnect', reason: reason.success })
  await client.closed()
  await harness.testLog.until('session.closed', { clientId })
  return clientId
}

/** All that its session has for it by now, acknowledged. */
async function takeAll(clientId: string): Promise<Publish[]> {
  const { client, connack } = await connect({ ...kept, clientId })
  assert.ok(connack.sessionPresent)
  const marker = `marker/${clientId}`
  client.send({ type: 'subscribe', packetId: 1, subscriptions: [subscription(marker)] })
  client.send(publishPacket(marker, '', { qos: 1, packetId: 9 }))
  const taken: Publish[] = []
  for (let packet = await client.next(); ; packet = await client.next()) {
    assert.ok(packet, 'the connection ended')
    if (packet.type !== 'publish') continue
    if (packet.topic === marker) return taken
    taken.push(packet)
  }
}

/** Nothing is acknowledged; messages may still come. */
async function expectUnavailable(client: RawClient): Promise<void> {
  let packet = await client.next()
  while (packet?.type === 'publish') packet = await client.next()
  assert.partialDeepStrictEqual(packet, { type: 'disconnect', reason: reason.serverBusy })
  await client.closed()
}

/** The broker answers again, at the first attempt or soon after. */
async function untilWorking(): Promise<void> {
  disk.heal()
  for (;;) {
    const { client } = await dial()
    const packet = await client.next()
    client.socket.destroy()
    if (packet?.type === 'connack' && packet.reason === reason.success) return
  }
}

for (const [what, packet] of [
  ['a message of QoS 1', publishPacket('full/q1', 'm', { qos: 1, packetId: 5 })],
  ['a message of QoS 2', publishPacket('full/q2', 'm', { qos: 2, packetId: 5 })],
  ['a retained message', publishPacket('full/retained', 'm', { qos: 1, packetId: 5, retain: true })],
  ['a subscription', { type: 'subscribe', packetId: 5, subscriptions: [subscription('full/new')] }],
  ['the end of one', { type: 'unsubscribe', packetId: 5, filters: ['full/#'] }],
] satisfies [string, Packet][]) {
  test(`on a full disk ${what} is not acknowledged, and is once there is room`, async () => {
    const { client, clientId } = await connect(kept)
    await subscribe(client, 'full/#')
    disk.fill()
    client.send(packet)
    await expectUnavailable(client)
    const closed = await harness.testLog.until('session.closed', { clientId })
    assert.match(closed.reason!, /^(unavailable|outcome_unknown)$/)
    assert.match(JSON.stringify(await harness.testLog.until('store.failed')), /ENOSPC/)
    // Nobody gets in meanwhile, and everybody is told why.
    const { client: other } = await dial()
    await other.expect('connack', { reason: reason.serverBusy })
    await untilWorking()
    const again = await connect({ ...kept, clientId })
    assert.ok(again.connack.sessionPresent)
    again.client.send(packet)
    const kind = { publish: packet.type === 'publish' && packet.qos === 2 ? 'pubrec' : 'puback', subscribe: 'suback' }
    const wanted = { unsubscribe: 'unsuback', ...kind }[packet.type]
    for (let answer = await again.client.next(); answer?.type !== wanted; answer = await again.client.next()) {
      assert.ok(answer, `${wanted} did not come`)
    }
    again.client.socket.destroy()
  })
}

test('on a disk that is full at each write of a CONNECT in turn the client is refused by name, and nothing of it is left', async () => {
  const will = { topic: 'full/will', payload: Buffer.from('gone'), qos: 1 as const, retain: false }
  for (const after of [0, 1]) {
    const watcher = await absent('full/will')
    disk.fill(after)
    const { client, clientId } = await dial({ ...kept, will })
    await client.expect('connack', { reason: reason.serverBusy })
    await client.closed()
    await untilWorking()
    // What was claimed is released, so that it can be had, and is not kept for somebody who was told no.
    const again = await connect({ ...kept, clientId })
    assert.equal(again.connack.sessionPresent, after === 1)
    again.client.send({ type: 'disconnect', reason: reason.success })
    await again.client.closed()
    assert.deepEqual(await takeAll(watcher), [], 'a will of nobody who was there')
  }
})

test('a will that is due while the disk is full is published when there is room', async () => {
  const watcher = await absent('full/due')
  const will = { topic: 'full/due', payload: Buffer.from('gone'), qos: 1 as const, retain: true }
  const { client, clientId } = await connect({ will })
  disk.fill()
  client.socket.destroy()
  await harness.testLog.until('session.closed', { clientId })
  assert.ok(harness.testLog.find('broker.failed'), 'it is told that a session was not released')
  await untilWorking()
  const { client: observer } = await connect()
  observer.send({ type: 'subscribe', packetId: 1, subscriptions: [subscription('full/due')] })
  // Published before it was asked for, or a moment after; that may come before the SUBACK [MQTT-3.8.4].
  const answers = [await observer.next(), await observer.next()]
  assert.deepEqual(answers.map((packet) => packet?.type).sort(), ['publish', 'suback'])
  observer.socket.destroy()
  const [first] = await takeAll(watcher)
  assert.equal(first?.payload.toString(), 'gone')
})

test('a message that went out while its note could not be written comes again with DUP [MQTT-3.3.1-1]', async () => {
  const reader = await connect(kept)
  await subscribe(reader.client, 'full/note')
  const { client: sender } = await connect()
  // The message is the last thing that fits.
  disk.fill(1)
  sender.send(publishPacket('full/note', 'm', { qos: 1, packetId: 5 }))
  const first = await reader.client.expect('publish', { topic: 'full/note', dup: false })
  await expectUnavailable(reader.client)
  await untilWorking()
  const [again] = await takeAll(reader.clientId)
  assert.deepEqual([again?.payload, again?.dup], [first.payload, true])
})

test('a queue that cannot be read ends the connection of its session alone, and is there once it can', async () => {
  const clientId = await absent('unread/#')
  const { client: sender } = await connect()
  sender.send(publishPacket('unread/1', 'm', { qos: 1, packetId: 5 }))
  await sender.expect('puback')
  await harness.stopBroker()
  await harness.startBroker()
  disk.breakReads()
  const { client } = await connect({ ...kept, clientId })
  await expectUnavailable(client)
  assert.match(JSON.stringify(await harness.testLog.until('store.failed')), /EIO/)
  const { client: other } = await connect()
  assert.deepEqual(await other.ping(), [])
  disk.heal()
  assert.deepEqual(
    (await takeAll(clientId)).map(({ topic }) => topic),
    ['unread/1'],
  )
})

test('while the disk is silent pings are answered, revocations cut, and what waits is bounded', async () => {
  const [first, second] = [
    await harness.device('hung-1', { profile: 'service' }),
    await harness.device('hung-2', { profile: 'service' }),
  ]
  const revoked = [await connect({}, first), await connect({}, second)]
  const { client } = await connect(kept)
  await subscribe(client, 'hung/#')
  const { client: flood } = await connect()
  disk.hang()
  client.send(publishPacket('hung/q1', 'm', { qos: 1, packetId: 5 }))
  const payload = Buffer.alloc(200_000)
  for (let n = 0; n < 200; n++) flood.send(publishPacket(`hung/retained/${n}`, payload, { retain: true }))
  assert.deepEqual(await flood.ping(), [])
  const early = await client.ping()
  assert.ok(!early.some(({ type }) => type === 'puback'), 'nothing is acknowledged')
  // The second comes behind one whose receipt waits for the disk.
  for (const [at, device] of [first, second].entries()) {
    const { serial, fingerprint, id } = device
    harness.feed.append({
      type: 'certificate.revoked',
      data: { serial, fingerprint, deviceId: id, reason: 'keyCompromise' },
    })
    await revoked[at]!.client.closed()
  }
  await expectUnavailable(client)
  assert.ok(disk.held > 0)
  await untilWorking()
  await harness.feed.untilApplied()
  const observer = await connect()
  await subscribe(observer.client, 'hung/retained/#')
  const stored = (await observer.client.ping()).filter(({ type }) => type === 'publish')
  assert.ok(stored.length < 10, `${stored.length} of 200 that may be dropped were not`)
})
