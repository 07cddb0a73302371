import assert from 'node:assert/strict'
import { once } from 'node:events'
import { after, afterEach, before, test } from 'node:test'
import type { IClientOptions, MqttClient } from 'mqtt'
import {
  BrokerHarness,
  closeOf,
  connectPacket,
  Inbox,
  packet,
  parsePolicy,
  readToEnd,
  textField,
} from '../harness/broker.ts'

const policy = parsePolicy(`
policies:
  - name: own
    match: { profile: sensor }
    allow: { publish: ["devices/\${device.id}/#"], subscribe: ["devices/\${device.id}/#", "shared/#"] }
    deny: { publish: ["devices/+/secret"], subscribe: ["shared/secret/#"] }
  - name: all
    match: { profile: service }
    allow: { publish: ["#"], subscribe: ["#"] }
`)
const strict = parsePolicy(
  'policies: [{ name: none, allow: {} }, { name: all, match: { profile: service }, allow: { publish: ["#"], subscribe: ["#"] } }]',
)

let harness: BrokerHarness
let service: MqttClient
let received: Inbox

before(async () => {
  harness = await BrokerHarness.start({ policy, broker: { maxQueuedMessages: 20, maxRetainedPerDevice: 3 } })
  service = await harness.connect(await harness.device('service', { profile: 'service' }))
  received = new Inbox(service)
  await service.subscribeAsync('#', { qos: 2 })
})
after(() => harness[Symbol.asyncDispose]())
afterEach(() => {
  received.messages.length = 0
})

const topicsAndPayloads = (): string[][] => received.messages.map(({ topic, payload }) => [topic, payload])

/** A client that listens before it is connected, so that a restored session loses nothing. */
async function resume(device: Parameters<BrokerHarness['dial']>[0] & { id: string }, options: IClientOptions = {}) {
  const client = harness.dial(device, { clientId: device.id, clean: false, ...options })
  const box = new Inbox(client)
  const { sessionPresent } = await new Promise<{ sessionPresent: boolean }>((resolve) =>
    client.once('connect', resolve),
  )
  return { client, box, sessionPresent }
}

const granted = async (client: MqttClient, filters: string[]): Promise<number[]> =>
  new Promise((resolve) => {
    client.once('packetreceive', function listen(answer) {
      if (answer.cmd === 'suback') resolve(answer.granted as number[])
      else client.once('packetreceive', listen)
    })
    client.subscribe(filters, { qos: 1 }, () => {})
  })

test('a publish that the policy does not allow reaches nobody, is acknowledged at every QoS, and the connection stays', async () => {
  const device = await harness.device('sensor-1')
  const client = await harness.connect(device)
  for (const qos of [0, 1, 2] as const) {
    await client.publishAsync('devices/other/x', 'denied', { qos })
    await client.publishAsync('devices/sensor-1/secret', 'denied', { qos, retain: true })
  }
  await client.publishAsync('devices/sensor-1/x', 'after', { qos: 2 })
  await received.until('after')
  assert.deepEqual(topicsAndPayloads(), [['devices/sensor-1/x', 'after']])
  const line = await harness.testLog.until('publish.denied', { clientId: 'sensor-1', topic: 'devices/sensor-1/secret' })
  assert.equal(line.statement, 'own')
})

test('denied publishes are logged ten times, then in summary', async () => {
  const client = await harness.connect(await harness.device('noisy-1'))
  for (let i = 0; i < 30; i++) client.publish('devices/other/x', 'denied')
  await client.publishAsync('devices/noisy-1/x', 'done', { qos: 1 })
  await received.until('done')
  const lines = harness.testLog.lines.filter(
    ({ event, clientId }) => event === 'publish.denied' && clientId === 'noisy-1',
  )
  assert.equal(lines.length, 10)
})

test('$SYS is closed in both directions, also to who may do everything', async () => {
  const client = await harness.connect(await harness.device('service-2', { profile: 'service' }))
  assert.deepEqual(
    await granted(client, ['$SYS/#', '$share/g/$SYS/#', '$SYS/+/new/clients', 'devices/#']),
    [128, 128, 128, 1],
  )
  const victim = await harness.connect(await harness.device('victim-1'))
  // aedes' own bus would end another client by this one (trap T12).
  await client.publishAsync('$SYS/other/new/clients', 'victim-1', { qos: 1 })
  await client.publishAsync('devices/victim-1/x', 'marker', { qos: 1 })
  await received.until('marker')
  assert.ok(victim.connected)
  assert.ok(received.messages.every(({ topic }) => !topic.startsWith('$')))
})

test('SUBACK answers each filter for itself', async () => {
  const client = await harness.connect(await harness.device('sensor-2'))
  const answers = await granted(client, [
    'devices/sensor-2/a',
    'devices/other/a',
    'devices/+/a',
    '#',
    'shared/secret/x',
    'shared/#',
  ])
  assert.deepEqual(answers, [1, 128, 128, 128, 128, 1])
  await harness.testLog.until('subscribe.denied', { clientId: 'sensor-2', topic: 'devices/other/a' })
})

test('a connection has a hundred filters; one more is answered 0x80, one of the hundred again is granted', async () => {
  const client = await harness.connect(await harness.device('sensor-many'))
  const filters = Array.from({ length: 100 }, (_, n) => `devices/sensor-many/${n}`)
  assert.deepEqual(new Set(await granted(client, filters)), new Set([1]))
  assert.deepEqual(await granted(client, ['devices/sensor-many/100']), [128])
})

test('a filter that is none ends its sender’s connection [MQTT-4.7.1-3]', async () => {
  const socket = await harness.socket(await harness.device('service-3', { profile: 'service' }))
  socket.write(connectPacket('service-3'))
  await once(socket, 'data')
  socket.write(packet(0x82, Buffer.concat([Buffer.from([0, 7]), textField('x/+a'), Buffer.from([0])])))
  assert.equal((await readToEnd(socket)).length, 0)
  await harness.testLog.until('session.closed', { clientId: 'service-3', reason: 'protocol_violation' })
})

test('what is denied inside a wider subscription is not delivered, live or retained', async () => {
  const client = await harness.connect(await harness.device('sensor-3'))
  await service.publishAsync('shared/secret/kept', 'retained secret', { qos: 1, retain: true })
  await service.publishAsync('shared/kept', 'retained', { qos: 1, retain: true })
  const box = new Inbox(client)
  await client.subscribeAsync('shared/#', { qos: 1 })
  await box.until('retained')
  await service.publishAsync('shared/secret/x', 'secret', { qos: 1 })
  await service.publishAsync('shared/x', 'open', { qos: 1 })
  await box.until('open')
  assert.deepEqual(box.payloads, ['retained', 'open'])
  await service.publishAsync('shared/kept', '', { retain: true, qos: 1 })
  await service.publishAsync('shared/secret/kept', '', { retain: true, qos: 1 })
})

test('a denied filter is not stored with the session: nothing is queued for it (trap T8)', async () => {
  const device = await harness.device('stored-1')
  const first = await resume(device)
  assert.deepEqual(
    await granted(first.client, ['devices/stored-1/in', 'devices/other/in', 'devices/stored-1/also']),
    [1, 128, 1],
  )
  await first.client.endAsync()
  harness.setPolicy(parsePolicy('policies: [{ name: everything, allow: { publish: ["#"], subscribe: ["#"] } }]'))
  await harness.feed.untilApplied()
  await service.publishAsync('devices/other/in', 'leak', { qos: 1 })
  await service.publishAsync('devices/stored-1/in', 'one', { qos: 1 })
  await service.publishAsync('devices/stored-1/also', 'two', { qos: 1 })
  const again = await resume(device)
  assert.ok(again.sessionPresent)
  await again.box.until('two')
  assert.deepEqual(again.box.payloads, ['one', 'two'])
  await again.client.endAsync()
  harness.setPolicy(policy)
  await harness.feed.untilApplied()
})

test('a restored session gets nothing that the policy of today does not allow', async () => {
  const device = await harness.device('stored-2')
  const first = await resume(device)
  await first.client.subscribeAsync(['devices/stored-2/in', 'shared/x'], { qos: 1 })
  await first.client.endAsync()
  await service.publishAsync('shared/x', 'queued before', { qos: 1 })
  harness.setPolicy(
    parsePolicy(`
policies:
  - { name: own, match: { profile: sensor }, allow: { subscribe: ["devices/\${device.id}/#"] } }
  - { name: all, match: { profile: service }, allow: { publish: ["#"], subscribe: ["#"] } }
`),
  )
  await harness.feed.untilApplied()
  await service.publishAsync('shared/x', 'queued after', { qos: 1 })
  await service.publishAsync('devices/stored-2/in', 'allowed', { qos: 1 })
  const again = await resume(device)
  await again.box.until('allowed')
  await service.publishAsync('shared/x', 'live', { qos: 1 })
  await service.publishAsync('devices/stored-2/in', 'end', { qos: 1 })
  await again.box.until('end')
  assert.deepEqual(again.box.payloads, ['allowed', 'end'])
  await again.client.endAsync()
  harness.setPolicy(policy)
  await harness.feed.untilApplied()
})

test('a new policy reaches an open session at its next message, both ways', async () => {
  const client = await harness.connect(await harness.device('open-1'))
  const box = new Inbox(client)
  await client.subscribeAsync('devices/open-1/in', { qos: 1 })
  await service.publishAsync('devices/open-1/in', 'before', { qos: 1 })
  await box.until('before')
  harness.setPolicy(strict)
  await harness.feed.untilApplied()
  await service.publishAsync('devices/open-1/in', 'while denied', { qos: 1 })
  await client.publishAsync('devices/open-1/out', 'denied', { qos: 1 })
  await harness.testLog.until('delivery.denied', { clientId: 'open-1' })
  harness.setPolicy(policy)
  await harness.feed.untilApplied()
  await service.publishAsync('devices/open-1/in', 'after', { qos: 1 })
  await box.until('after')
  assert.deepEqual(box.payloads, ['before', 'after'])
  assert.ok(received.payloads.every((payload) => payload !== 'denied'))
  assert.ok(client.connected)
})

test('a change of a device’s groups and profile reaches its open session', async () => {
  const client = await harness.connect(await harness.device('open-2'))
  await client.publishAsync('devices/open-2/x', 'first', { qos: 1 })
  harness.feed.append({
    type: 'device.changed',
    data: { id: 'open-2', profile: 'camera', groups: [], status: 'active' },
  })
  await harness.feed.untilApplied()
  await client.publishAsync('devices/open-2/x', 'second', { qos: 1 })
  await harness.testLog.until('publish.denied', { clientId: 'open-2' })
  await service.publishAsync('marker', 'marker', { qos: 1 })
  await received.until('marker')
  assert.deepEqual(received.payloads, ['first', 'marker'])
})

test('each subscription’s granted QoS caps what is delivered, wildcards too, and the highest of several counts (T25, T30)', async () => {
  const client = await harness.connect(await harness.device('qos-1'))
  const box = new Inbox(client)
  await client.subscribeAsync('devices/qos-1/#', { qos: 0 })
  await service.publishAsync('devices/qos-1/a', 'capped', { qos: 2 })
  await client.subscribeAsync('devices/qos-1/a', { qos: 1 })
  await service.publishAsync('devices/qos-1/a', 'higher', { qos: 2 })
  await service.publishAsync('devices/qos-1/b', 'other', { qos: 1 })
  await box.until('other')
  assert.deepEqual(
    box.messages.map(({ payload, qos }) => [payload, qos]),
    [
      ['capped', 0],
      ['higher', 1],
      ['other', 0],
    ],
  )
})

test('overlapping filters of an absent session queue a message once, at the highest QoS (T31)', async () => {
  const device = await harness.device('overlap-1')
  const first = await resume(device)
  await first.client.subscribeAsync('devices/overlap-1/#', { qos: 1 })
  await first.client.subscribeAsync('devices/overlap-1/a', { qos: 2 })
  await first.client.endAsync()
  for (const payload of ['1', '2', '3']) await service.publishAsync('devices/overlap-1/a', payload, { qos: 2 })
  await service.publishAsync('devices/overlap-1/b', 'end', { qos: 2 })
  const again = await resume(device)
  await Promise.all([again.box.until('3'), again.box.until('end')])
  assert.deepEqual(again.box.messages.map(({ payload, qos }) => [payload, qos]).toSorted(), [
    ['1', 2],
    ['2', 2],
    ['3', 2],
    ['end', 1],
  ])
  await again.client.endAsync()
  const third = await resume(device)
  await service.publishAsync('devices/overlap-1/b', 'only', { qos: 1 })
  await third.box.until('only')
  assert.deepEqual(third.box.payloads, ['only'], 'nothing is delivered twice (T32)')
})

test('what was sent and not acknowledged comes again with the DUP flag when the session is resumed', async () => {
  const device = await harness.device('dup-1')
  const socket = await harness.socket(device)
  socket.write(connectPacket('dup-1', { flags: 0 }))
  await once(socket, 'data')
  socket.write(packet(0x82, Buffer.concat([Buffer.from([0, 1]), textField('devices/dup-1/in'), Buffer.from([1])])))
  await once(socket, 'data')
  const sent = once(socket, 'data')
  await service.publishAsync('devices/dup-1/in', 'again', { qos: 1 })
  assert.equal(((await sent)[0] as Buffer)[0], 0x32)
  socket.destroy()
  await closeOf(socket)
  const { box } = await resume(device)
  await box.until('again')
  assert.equal(box.messages[0]!.dup, true)
})

test('an absent session keeps maxQueuedMessages, and a full queue does not disturb a live one', async () => {
  const device = await harness.device('queue-1')
  const first = await resume(device)
  await first.client.subscribeAsync('devices/queue-1/in', { qos: 1 })
  await first.client.endAsync()
  for (let i = 0; i < 30; i++) await service.publishAsync('devices/queue-1/in', String(i), { qos: 1 })
  await harness.testLog.until('message.dropped', { what: 'queued', owner: 'queue-1' })
  const again = await resume(device)
  await again.box.until('19')
  await service.publishAsync('devices/queue-1/in', 'live', { qos: 1 })
  await again.box.until('live')
  assert.deepEqual(again.box.payloads, [...Array.from({ length: 20 }, (_, at) => String(at)), 'live'])
})

test('a clean session ends the one that was stored, its queue included [MQTT-3.1.2-6]', async () => {
  const device = await harness.device('clean-1')
  const first = await resume(device)
  await first.client.subscribeAsync('devices/clean-1/in', { qos: 1 })
  await first.client.endAsync()
  await service.publishAsync('devices/clean-1/in', 'queued', { qos: 1 })
  await (await harness.connect(device)).endAsync()
  const again = await resume(device)
  assert.equal(again.sessionPresent, false)
  await again.client.subscribeAsync('devices/clean-1/in', { qos: 1 })
  await service.publishAsync('devices/clean-1/in', 'fresh', { qos: 1 })
  await again.box.until('fresh')
  assert.deepEqual(again.box.payloads, ['fresh'])
})

test('the stored session of a revoked device is dropped', async () => {
  const device = await harness.device('stored-3')
  const first = await resume(device)
  await first.client.subscribeAsync('devices/stored-3/in', { qos: 1 })
  await first.client.endAsync()
  await harness.revokeDevice(device)
  await service.publishAsync('devices/stored-3/in', 'late', { qos: 1 })
  harness.feed.append({
    type: 'device.changed',
    data: { id: device.id, profile: 'sensor', groups: [], status: 'active' },
  })
  const second = await harness.device('stored-3')
  const again = await resume(second)
  assert.equal(again.sessionPresent, false)
})

test('a device keeps maxRetainedPerDevice retained messages; more are delivered and not kept', async () => {
  const client = await harness.connect(await harness.device('retain-1'))
  for (const name of ['a', 'b', 'c', 'd'])
    await client.publishAsync(`devices/retain-1/${name}`, name, { qos: 1, retain: true })
  await client.publishAsync('devices/retain-1/a', 'a2', { qos: 1, retain: true })
  await received.until('a2')
  await harness.testLog.until('message.dropped', { what: 'retained', owner: 'retain-1' })
  const box = new Inbox(client)
  await client.subscribeAsync('devices/retain-1/+', { qos: 1 })
  await client.publishAsync('devices/retain-1/end', 'end', { qos: 1 })
  await Promise.all(['a2', 'b', 'c', 'end'].map((payload) => box.until(payload)))
  assert.deepEqual(box.payloads.toSorted(), ['a2', 'b', 'c', 'end'])
  assert.deepEqual(box.messages.map(({ retain }) => retain).toSorted(), [false, true, true, true])
  await client.publishAsync('devices/retain-1/b', '', { qos: 1, retain: true })
  await client.publishAsync('devices/retain-1/d', 'd2', { qos: 1, retain: true })
  const other = await harness.connect(await harness.device('retain-1'), { clientId: 'retain-1:two' })
  const second = new Inbox(other)
  await other.subscribeAsync('devices/retain-1/+', { qos: 1 })
  await second.until('d2')
  assert.ok(!second.payloads.includes('b'), 'an empty one takes a retained message away and makes room')
})

test('a hundred packets pipelined behind CONNECT are all taken (T22)', async () => {
  const socket = await harness.socket(await harness.device('pipe-1'))
  const publish = (at: number): Buffer =>
    packet(0x30, Buffer.concat([textField('devices/pipe-1/x'), Buffer.from(String(at))]))
  socket.write(Buffer.concat([connectPacket('pipe-1'), ...Array.from({ length: 100 }, (_, at) => publish(at))]))
  await received.until('99')
  assert.equal(received.messages.length, 100)
})

test('a topic with U+0000 or a hundred levels too many ends its sender’s connection, and nobody else’s', async () => {
  for (const [id, topic] of [
    ['odd-1', 'devices/odd-1/\u0000'],
    ['odd-2', `devices/odd-2${'/x'.repeat(200)}`],
  ] as const) {
    const client = await harness.connect(await harness.device(id))
    const closed = closeOf(client)
    client.publish(topic, 'odd')
    await closed
    await harness.testLog.until('session.closed', { clientId: id, reason: 'protocol_violation' })
  }
  await service.publishAsync('marker', 'fine', { qos: 1 })
  await received.until('fine')
  assert.deepEqual(topicsAndPayloads(), [['marker', 'fine']])
})

test('more inbound QoS 2 messages without a PUBREL than may wait end their sender’s connection', async () => {
  const socket = await harness.socket(await harness.device('half-1'))
  const publishes = Array.from({ length: 1_001 }, (_, at) =>
    packet(0x34, Buffer.concat([textField('devices/half-1/x'), Buffer.from([(at + 1) >> 8, (at + 1) & 255])])),
  )
  socket.write(Buffer.concat([connectPacket('half-1'), ...publishes]))
  await readToEnd(socket)
  await harness.testLog.until('session.closed', { clientId: 'half-1', reason: 'quota_exceeded' })
})
