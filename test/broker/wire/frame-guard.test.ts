import assert from 'node:assert/strict'
import { once } from 'node:events'
import { after, before, test } from 'node:test'
import {
  BrokerHarness,
  closeOf,
  connectPacket,
  Inbox,
  packet,
  parsePolicy,
  readToEnd,
  textField,
} from '../../harness/broker.ts'

let harness: BrokerHarness
before(async () => {
  harness = await BrokerHarness.start({
    broker: {
      maxConnectBytes: 1_024,
      maxPacketBytes: 65_536,
      maxBufferedBytes: 262_144,
      connectTimeoutMs: 400,
      handshakeTimeoutMs: 400,
    },
    policy: parsePolicy('policies: [{ name: all, allow: { publish: ["#"], subscribe: ["#"] } }]'),
  })
})
after(() => harness[Symbol.asyncDispose]())

const publish = (topic: string, payload: Buffer | string): Buffer =>
  packet(0x30, Buffer.concat([textField(topic), Buffer.from(payload)]))

test('a 16 MiB packet before CONNECT ends the connection at its length, with nothing of it kept', async () => {
  const device = await harness.device('big-1')
  const before = process.memoryUsage().external
  for (const type of [0x10, 0x30]) {
    const socket = await harness.socket(device)
    socket.write(Buffer.from([type, 0x80, 0x80, 0x80, 0x08]))
    assert.equal((await readToEnd(socket)).length, 0)
  }
  await harness.testLog.until('connection.refused', { reason: 'packet_too_large', serial: device.serial })
  assert.ok(process.memoryUsage().external - before < 4 * 1024 * 1024)
})

test('an oversized packet is refused at the first length octet that gives it away', async () => {
  const socket = await harness.socket(await harness.device('big-2'))
  socket.write(Buffer.from([0x10, 0xff, 0xff]))
  assert.equal((await readToEnd(socket)).length, 0)
})

test('after CONNECT a packet may have maxPacketBytes and not one more', async () => {
  const device = await harness.device('big-3')
  const client = await harness.connect(device)
  const topic = 'x'
  await client.subscribeAsync(topic)
  const inbox = new Inbox(client)
  await client.publishAsync(topic, Buffer.alloc(65_536 - 3))
  await inbox.until(({ payload }) => payload.length === 65_533)
  const closed = closeOf(client)
  client.publish(topic, Buffer.alloc(65_536 - 2))
  await closed
  await harness.testLog.until('session.closed', { clientId: 'big-3', reason: 'packet_too_large' })
})

const violations: [name: string, bytes: number[]][] = [
  ['a packet other than CONNECT first [MQTT-3.1.0-1]', [0xc0, 0]],
  ['a CONNECT with flags', [0x11, 12]],
  ['a CONNECT too short to be one', [0x10, 2]],
  ['a remaining length of five octets', [0x10, 0x80, 0x80, 0x80, 0x80, 1]],
  ['packet type 0', [0x00, 0]],
  ['packet type 15', [0xf0, 0]],
]
for (const [name, bytes] of violations) {
  test(`before CONNECT, ${name} ends the connection`, async () => {
    const socket = await harness.socket(await harness.device('first-1'))
    socket.write(Buffer.from(bytes))
    assert.equal((await readToEnd(socket)).length, 0)
  })
}

const later: [name: string, bytes: Buffer][] = [
  ['a second CONNECT [MQTT-3.1.0-2]', connectPacket('later-1')],
  ['a PUBLISH of QoS 3 [MQTT-3.3.1-4]', Buffer.from([0x36, 5])],
  ['a SUBSCRIBE with wrong flags [MQTT-3.8.1-1]', Buffer.from([0x80, 6])],
  ['a PUBREL with wrong flags [MQTT-3.6.1-1]', Buffer.from([0x60, 2])],
  ['a PINGREQ with a body', Buffer.from([0xc0, 1])],
  ['a CONNACK from a client', Buffer.from([0x20, 2])],
  ['an AUTH of version 5', Buffer.from([0xf0, 0])],
  ['a PUBLISH whose length has a fifth octet', Buffer.from([0x30, 0x80, 0x80, 0x80, 0x80, 1])],
]
for (const [name, bytes] of later) {
  test(`after CONNECT, ${name} ends the connection`, async () => {
    const socket = await harness.socket(await harness.device('later-1'))
    socket.write(connectPacket('later-1'))
    await once(socket, 'data')
    socket.write(bytes)
    await readToEnd(socket)
    await harness.testLog.until('session.closed', { clientId: 'later-1' })
    harness.testLog.lines.length = 0
  })
}

test('a CONNECT and a PUBLISH that come octet by octet are understood', async () => {
  const device = await harness.device('slow-1')
  const socket = await harness.socket(device)
  const watcher = await harness.connect(device, { clientId: 'slow-1:watch' })
  await watcher.subscribeAsync('octets')
  const inbox = new Inbox(watcher)
  for (const octet of Buffer.concat([connectPacket('slow-1'), publish('octets', 'x'.repeat(200))]))
    socket.write(Buffer.from([octet]))
  await inbox.until('x'.repeat(200))
})

test('what follows a DISCONNECT in the same segment is not read, and the will is gone', async () => {
  const device = await harness.device('bye-1')
  const watcher = await harness.connect(device, { clientId: 'bye-1:watch' })
  const seen = new Inbox(watcher)
  await watcher.subscribeAsync('#')
  const socket = await harness.socket(device)
  socket.write(connectPacket('bye-1', { flags: 0x06, tail: Buffer.concat([textField('will'), textField('x')]) }))
  await once(socket, 'data')
  socket.write(Buffer.concat([publish('before', 'x'), Buffer.from([0xe0, 0]), publish('after', 'x')]))
  await readToEnd(socket)
  await harness.testLog.until('session.closed', { clientId: 'bye-1', reason: 'disconnected' })
  await watcher.publishAsync('end', 'end')
  await seen.until('end')
  assert.deepEqual(
    seen.messages.map(({ topic }) => topic),
    ['before', 'end'],
  )
})

test('a TLS connection without a byte is closed at the connect deadline', async () => {
  const device = await harness.device('silent-1')
  const started = performance.now()
  const socket = await harness.socket(device)
  assert.equal((await readToEnd(socket)).length, 0)
  assert.ok(performance.now() - started < 3_000)
  await harness.testLog.until('connection.refused', { reason: 'connect_timeout', serial: device.serial })
})

test('a CONNECT that trickles past the deadline is closed', async () => {
  const socket = await harness.socket(await harness.device('trickle-1'))
  const octets = [...connectPacket('trickle-1')]
  const timer = setInterval(() => octets.length > 1 && socket.write(Buffer.from([octets.shift()!])), 40)
  assert.equal((await readToEnd(socket)).length, 0)
  clearInterval(timer)
})

test('a slow reader is closed for itself; others get everything, promptly', async () => {
  const device = await harness.device('crowd-1')
  const slow = await harness.socket(device)
  slow.write(connectPacket('crowd-1:slow'))
  await once(slow, 'data')
  slow.write(packet(0x82, Buffer.concat([Buffer.from([0, 1]), textField('flood'), Buffer.from([1])])))
  await once(slow, 'data')
  slow.pause()
  const fast = await harness.connect(device, { clientId: 'crowd-1:fast' })
  const inbox = new Inbox(fast)
  await fast.subscribeAsync('flood', { qos: 1 })
  const sender = await harness.connect(device, { clientId: 'crowd-1:sender' })
  const payload = Buffer.alloc(16_384)
  const closed = harness.testLog.until('session.closed', { clientId: 'crowd-1:slow', reason: 'slow_reader' })
  let sent = 0
  let over = false
  void closed.then(() => {
    over = true
  })
  while (!over) {
    await sender.publishAsync('flood', payload, { qos: 1 })
    sent++
  }
  await inbox.untilCount(sent)
})

test('QoS 0 messages to a slow reader are dropped before it would be closed for them', async () => {
  const device = await harness.device('crowd-2')
  const slow = await harness.socket(device)
  slow.write(connectPacket('crowd-2:slow'))
  await once(slow, 'data')
  slow.write(packet(0x82, Buffer.concat([Buffer.from([0, 1]), textField('flood0'), Buffer.from([0])])))
  await once(slow, 'data')
  slow.pause()
  const sender = await harness.connect(device, { clientId: 'crowd-2:sender' })
  // Far more than the kernel's buffers and ours together hold.
  for (let i = 0; i < 800; i++) await sender.publishAsync('flood0', Buffer.alloc(16_384), { qos: i % 50 === 0 ? 1 : 0 })
  assert.equal(harness.broker.sessions.findLive('crowd-2:slow')?.state, 'live')
  slow.resume()
  slow.write(Buffer.from([0xc0, 0]))
  await once(slow, 'data')
})

test('a store of retained messages larger than a connection’s buffer reaches a reader that reads', async () => {
  const device = await harness.device('library-1')
  const owner = await harness.connect(device, { clientId: 'library-1:owner' })
  for (let i = 0; i < 60; i++)
    await owner.publishAsync(`library/${i}`, Buffer.alloc(20_000, i), { qos: 1, retain: true })
  const reader = await harness.connect(device, { clientId: 'library-1:reader' })
  const inbox = new Inbox(reader)
  await reader.subscribeAsync('library/#', { qos: 1 })
  await inbox.untilCount(60)
  assert.ok(reader.connected)
})
