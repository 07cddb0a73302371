/** SUBSCRIBE and UNSUBSCRIBE close behind each other, refused half-way, or while the session changes hands. */
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import type { Connect, Subscription } from '../../broker/wire/packet.ts'
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
let devices = 0
before(async () => {
  disk = new FaultyDisk()
  harness = await BrokerHarness.start({ policy, broker: { maxStoredBytesPerDevice: 65_536 } })
})
after(async () => {
  disk.heal()
  await harness[Symbol.asyncDispose]()
  disk[Symbol.dispose]()
})

const kept = { clean: false, properties: { sessionExpiryInterval: 1_000 } }
const subscription = (filter: string, more: Partial<Subscription> = {}): Subscription => ({
  filter,
  qos: 2,
  noLocal: false,
  retainAsPublished: false,
  retainHandling: 0,
  ...more,
})

const newDevice = (): Promise<TestDevice> => harness.device(`sub-${++devices}`, { profile: 'service' })

async function connect(device: TestDevice, more: Partial<Connect> = {}) {
  const client = RawClient.over(await harness.socket(device), 5)
  client.send(connectPacket(5, { clientId: device.id, ...kept, ...more }))
  return { client, connack: await client.expect('connack', { reason: reason.success }) }
}

/** What comes of a message on `topic`: its QoS, or nothing. */
async function qosOf(client: RawClient, topic: string): Promise<number | undefined> {
  const publisher = await connect(await newDevice())
  publisher.client.send(publishPacket(topic, 'm', { qos: 1, packetId: 1 }))
  const { reason: code } = await publisher.client.expect('puback')
  publisher.client.socket.destroy()
  if (code === reason.noMatchingSubscribers) return undefined
  return (await client.expect('publish', { topic })).qos
}

const tooMuch = (): Subscription[] => Array.from({ length: 40 }, (_, n) => subscription(`${n}/`.padEnd(1_000, 'x')))

test('a SUBSCRIBE over quota changes nothing, the options of what was there before included', async () => {
  const { client } = await connect(await newDevice())
  client.send({ type: 'subscribe', packetId: 1, subscriptions: [subscription('quota/old', { qos: 0 })] })
  await client.expect('suback', { reasons: [0] })
  const subscriptions = [subscription('quota/old'), subscription('quota/new'), ...tooMuch()]
  client.send({ type: 'subscribe', packetId: 2, subscriptions })
  const suback = await client.expect('suback', { packetId: 2 })
  assert.deepEqual(
    suback.reasons,
    subscriptions.map(() => reason.quotaExceeded),
  )
  const [id] = /[0-9a-f]{12}/.exec(suback.properties?.reasonString ?? '') ?? []
  const [denial] = await harness.feed.askDenials({ id: id!, limit: 1 })
  assert.deepEqual([denial?.stage, denial?.cause], ['subscribe', 'quota_exceeded'])
  assert.equal(await qosOf(client, 'quota/old'), 0)
  assert.equal(await qosOf(client, 'quota/new'), undefined)
  client.send({ type: 'subscribe', packetId: 3, subscriptions: [subscription('quota/new')] })
  await client.expect('suback', { packetId: 3, reasons: [2] })
  assert.equal(await qosOf(client, 'quota/new'), 1)
})

test('what comes right behind a SUBSCRIBE over quota holds', async () => {
  const { client } = await connect(await newDevice())
  client.send(
    { type: 'subscribe', packetId: 1, subscriptions: [subscription('behind/gone'), subscription('behind/stays')] },
    { type: 'subscribe', packetId: 2, subscriptions: [subscription('behind/gone', { qos: 1 }), ...tooMuch()] },
    { type: 'unsubscribe', packetId: 3, filters: ['behind/gone'] },
    { type: 'subscribe', packetId: 4, subscriptions: [subscription('behind/stays', { qos: 0 })] },
  )
  const answers = [await client.next(), await client.next(), await client.next(), await client.next()]
  assert.deepEqual(answers.map((answer) => (answer as { packetId: number }).packetId).sort(), [1, 2, 3, 4])
  assert.equal(await qosOf(client, 'behind/gone'), undefined)
  assert.equal(await qosOf(client, 'behind/stays'), 0)
})

test('a subscription that the disk did not take is not in force when its session goes on, nor one that was not ended gone', async () => {
  const device = await newDevice()
  const { client } = await connect(device)
  client.send({ type: 'subscribe', packetId: 1, subscriptions: [subscription('disk/old')] })
  await client.expect('suback')
  disk.fill()
  client.send(
    { type: 'subscribe', packetId: 2, subscriptions: [subscription('disk/new')] },
    { type: 'unsubscribe', packetId: 3, filters: ['disk/old'] },
  )
  await client.expect('disconnect', { reason: reason.serverBusy })
  await client.closed()
  disk.heal()
  // The store opens its folder again for the first who asks, who may come too early.
  for (let isOpen = false; !isOpen; ) {
    const early = RawClient.over(await harness.socket(device), 5)
    early.send(connectPacket(5, { clientId: `${device.id}:early` }))
    isOpen = (await early.expect('connack')).reason === reason.success
    early.socket.destroy()
  }
  const again = await connect(device)
  assert.ok(again.connack.sessionPresent)
  assert.equal(await qosOf(again.client, 'disk/new'), undefined)
  assert.equal(await qosOf(again.client, 'disk/old'), 1)
})

test('a SUBSCRIBE whose connection is taken over before it is stored is in force on the next one', async () => {
  const device = await newDevice()
  const { client } = await connect(device)
  disk.hang()
  client.send({ type: 'subscribe', packetId: 1, subscriptions: [subscription('taken/over')] })
  await client.ping()
  const next = connect(device)
  await client.expect('disconnect', { reason: reason.sessionTakenOver })
  disk.heal()
  const { client: again, connack } = await next
  assert.ok(connack.sessionPresent)
  assert.equal(await qosOf(again, 'taken/over'), 1)
})

test('a SUBSCRIBE of a device that is revoked before it is stored leaves no route behind', async () => {
  const device = await newDevice()
  const { client } = await connect(device)
  disk.hang()
  client.send({ type: 'subscribe', packetId: 1, subscriptions: [subscription('revoked/one')] })
  await client.ping()
  const { id } = device
  harness.feed.append({ type: 'device.changed', data: { id, profile: 'service', groups: [], status: 'revoked' } })
  await client.closed()
  disk.heal()
  await harness.testLog.until('session.closed', { deviceId: id })
  await harness.feed.untilApplied()
  const { client: other } = await connect(await newDevice())
  assert.equal(await qosOf(other, 'revoked/one'), undefined)
})

test('what is retained waits for a client that acknowledges slowly, and is not lost for want of room in its queue', async () => {
  const topics: string[] = []
  for (let device = 0; device < 3; device++) {
    const { client } = await connect(await newDevice())
    for (let n = 0; n < 50; n++) {
      const packetId = n + 1
      topics.push(`slow/${device}/${n}`)
      client.send(publishPacket(topics.at(-1)!, 'x'.repeat(250), { qos: 1, retain: true, packetId }))
      await client.expect('puback')
    }
    client.socket.destroy()
  }
  const device = await newDevice()
  const { client } = await connect(device, { clean: true, properties: { receiveMaximum: 10 } })
  client.send({ type: 'subscribe', packetId: 1, subscriptions: [subscription('slow/#', { qos: 1 })] })
  await client.expect('suback', { reasons: [1] })
  const got = new Set<string>()
  let unacknowledged: number[] = []
  while (got.size < topics.length) {
    const { topic, packetId } = await client.expect('publish')
    got.add(topic)
    unacknowledged.push(packetId)
    if (unacknowledged.length < 10 && got.size < topics.length) continue
    // Turns enough for whoever would not wait to have put all of it into the queue.
    for (let n = 0; got.size === 10 && n < 100; n++) assert.deepEqual(await client.ping(), [])
    client.send(...unacknowledged.map((id) => ({ type: 'puback', packetId: id, reason: reason.success }) as const))
    unacknowledged = []
  }
  assert.equal(harness.testLog.find('message.dropped', { clientId: device.id }), undefined)
})
