/** What MQTT 3.1.1 and 5 demand by number and no other file shows, packet by packet (docs/mqtt-behaviour.md). */
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import type { Connect, Packet, Publish, Subscription, Version } from '../../broker/wire/packet.ts'
import type { Properties } from '../../broker/wire/properties.ts'
import { reason } from '../../broker/wire/reason.ts'
import { BrokerHarness, eventually, parsePolicy, type TestDevice } from '../harness/broker.ts'
import { connectPacket, publishPacket, RawClient } from '../harness/raw-mqtt.ts'

const policy = parsePolicy(
  'policies: [{ name: most, allow: { publish: ["#"], subscribe: ["#"] }, deny: { publish: ["denied/#"] } }]',
)
const versions = [4, 5] as const
let harness: BrokerHarness
/** Publishes to the others; gets nothing itself. */
let publisher: RawClient
let skewMs = 0
let devices = 0

before(async () => {
  harness = await BrokerHarness.start({
    policy,
    broker: { sessionExpiryMs: 60_000 },
    clock: () => new Date(Date.now() + skewMs),
  })
  publisher = await connect(await newDevice(), 5)
})
after(() => harness[Symbol.asyncDispose]())

const newDevice = (): Promise<TestDevice> => harness.device(`d-${++devices}`)

async function dial(device: TestDevice, version: Version, more: Partial<Connect> = {}) {
  const client = RawClient.over(await harness.socket(device), version)
  client.send(connectPacket(version, { clientId: device.id, ...more }))
  return { client, connack: await client.expect('connack', { reason: reason.success }) }
}

const connect = async (device: TestDevice, version: Version, more: Partial<Connect> = {}): Promise<RawClient> =>
  (await dial(device, version, more)).client

/** A CONNECT whose session is kept; one that was kept goes on. */
const keeping = (version: Version): Partial<Connect> => ({
  clean: false,
  ...(version === 5 ? { properties: { sessionExpiryInterval: 50 } } : {}),
})

/** Drops the connection; resolves when the broker has put the session away. */
async function drop(client: RawClient, { id }: TestDevice): Promise<void> {
  client.socket.destroy()
  await eventually(() => harness.broker.sessions.ofDevice(id).length === 0)
}

const subscription = (filter: string, more: Partial<Subscription> = {}): Subscription => ({
  filter,
  qos: 2,
  noLocal: false,
  retainAsPublished: false,
  retainHandling: 0,
  ...more,
})

let packetIds = 0
async function subscribe(client: RawClient, subscriptions: Subscription[], properties?: Properties): Promise<number[]> {
  const packetId = ++packetIds
  client.send({ type: 'subscribe', packetId, subscriptions, properties })
  return (await client.expect('suback', { packetId })).reasons
}

/** Acknowledged when it resolves: it is in every queue. */
async function publish(topic: string, payload: string, more: Partial<Publish> = {}, by = publisher): Promise<void> {
  const packetId = ++packetIds
  by.send(publishPacket(topic, payload, { qos: 1, packetId, ...more }))
  if (more.qos !== 2) await by.expect('puback', { packetId })
  else {
    await by.expect('pubrec', { packetId })
    answer(by, 'pubrel', packetId)
    await by.expect('pubcomp', { packetId })
  }
}

/** The next packet of whatever type. */
async function next(client: RawClient): Promise<Packet> {
  const packet = await client.next()
  assert.ok(packet, 'the connection ended')
  return packet
}

const answer = (
  client: RawClient,
  type: 'puback' | 'pubrec' | 'pubcomp' | 'pubrel',
  packetId: number,
  code = 0,
): void => client.send({ type, packetId, reason: code })

/** The next message, as text, answered to its end. */
async function message(client: RawClient): Promise<Publish & { text: string }> {
  const packet = await client.expect('publish')
  const { qos, packetId } = packet
  if (qos === 1) answer(client, 'puback', packetId)
  if (qos === 2) {
    answer(client, 'pubrec', packetId)
    await client.expect('pubrel', { packetId })
    answer(client, 'pubcomp', packetId)
  }
  return { ...packet, text: String(packet.payload) }
}

for (const version of versions) {
  test(`version ${version}: session present is said of a session that goes on, and of no other`, async () => {
    const device = await newDevice()
    const seen: boolean[] = []
    for (const more of [keeping(version), keeping(version), { ...keeping(version), clean: true }, keeping(version)]) {
      const { client, connack } = await dial(device, version, more)
      seen.push(connack.sessionPresent)
      await drop(client, device)
    }
    assert.deepEqual(seen, version === 5 ? [false, true, false, true] : [false, true, false, false])
  })

  test(`version ${version}: each client id has a session of its own`, async () => {
    const device = await newDevice()
    const one = await connect(device, version, keeping(version))
    await subscribe(one, [subscription('own/id')])
    const other = { ...keeping(version), clientId: `${device.id}:other` }
    const { client, connack } = await dial(device, version, other)
    assert.equal(connack.sessionPresent, false)
    await publish('own/id', 'for one')
    assert.equal((await message(one)).text, 'for one')
    assert.deepEqual(await client.ping(), [])
  })

  test(`version ${version}: what comes behind a CONNECT that is refused is not looked at`, async () => {
    const device = await newDevice()
    const witness = await connect(device, version)
    await subscribe(witness, [subscription('behind/#')])
    const refused = RawClient.over(await harness.socket(device), version)
    refused.send(connectPacket(version, { clientId: 'not-its-own' }), publishPacket('behind/refused', 'unseen'))
    await refused.expect('connack', { reason: reason.clientIdentifierNotValid, sessionPresent: false })
    await refused.expectEnd()
    await publish('behind/marker', 'marker')
    assert.equal((await message(witness)).text, 'marker')
  })

  test(`version ${version}: a will is published as it says, with or without RETAIN, once, and none where there was none`, async () => {
    const device = await newDevice()
    const witness = await connect(await newDevice(), version)
    const topic = `will/${device.id}`
    await subscribe(witness, [subscription(topic, { retainAsPublished: version === 5 })])
    const userProperties: [string, string][] = [
      ['b', '1'],
      ['a', '2'],
      ['b', '0'],
    ]
    for (const retain of [true, false]) {
      const payload = Buffer.from(retain ? 'kept' : 'not kept')
      const properties = version === 5 ? { userProperties } : undefined
      const client = await connect(device, version, { will: { topic, payload, qos: 1, retain, properties } })
      client.socket.destroy()
      const will = await message(witness)
      assert.deepEqual([will.text, will.retain], [String(payload), retain && version === 5])
      if (version === 5) assert.deepEqual(will.properties?.userProperties, userProperties)
    }
    // Who has no will leaves none.
    await drop(await connect(device, version), device)
    const late = await connect(await newDevice(), version)
    await subscribe(late, [subscription(topic)])
    assert.equal((await message(late)).text, 'kept')
    assert.deepEqual([...(await late.ping()), ...(await witness.ping())], [])
  })

  test(`version ${version}: a new subscription gets the last retained message of each topic with RETAIN 1, and later ones with 0`, async () => {
    const device = await newDevice()
    const topic = `kept/${device.id}`
    const leaving = await connect(device, version)
    await publish(`${topic}/a`, 'old', { retain: true }, leaving)
    leaving.send(publishPacket(`${topic}/a`, 'last, at QoS 0', { retain: true }))
    await publish(`${topic}/b`, 'b', { retain: true }, leaving)
    // Without RETAIN it neither replaces nor removes.
    await publish(`${topic}/b`, 'passing', {}, leaving)
    // What is retained is no part of the session that ends here.
    leaving.send({ type: 'disconnect', reason: 0 })
    await leaving.closed()
    const client = await connect(await newDevice(), version)
    await subscribe(client, [subscription(`${topic}/+`)])
    const kept = [await message(client), await message(client)]
    assert.deepEqual(kept.map(({ text, retain, qos }) => [text, retain, qos]).sort(), [
      ['b', true, 1],
      ['last, at QoS 0', true, 0],
    ])
    await publish(`${topic}/a`, 'now', { retain: true })
    const now = await message(client)
    assert.deepEqual([now.text, now.retain], ['now', false])
  })

  test(`version ${version}: an equal filter replaces the subscription; what is retained comes again, and nothing is lost`, async () => {
    const client = await connect(await newDevice(), version)
    const topic = `again/${version}`
    await publish(topic, 'kept', { retain: true })
    for (const qos of [2, 0] as const) {
      assert.deepEqual(await subscribe(client, [subscription(topic, { qos })]), [qos])
      const kept = await message(client)
      assert.deepEqual([kept.text, kept.qos], ['kept', Math.min(1, qos)])
    }
    const payloads = Array.from({ length: 10 }, (_, at) => String(at))
    for (const payload of payloads) {
      client.send({ type: 'subscribe', packetId: 100, subscriptions: [subscription(topic, { qos: 1 })] })
      await publish(topic, payload)
    }
    const seen: string[] = []
    while (seen.at(-1) !== payloads.at(-1)) {
      const packet = await next(client)
      if (packet.type !== 'publish' || packet.retain) continue
      if (packet.qos === 1) answer(client, 'puback', packet.packetId)
      seen.push(String(packet.payload))
    }
    assert.deepEqual(seen, payloads)
  })

  test(`version ${version}: several filters make one SUBACK and one UNSUBACK, and are compared character by character`, async () => {
    const client = await connect(await newDevice(), version)
    const filters = ['many/a', 'many/+', 'many/#']
    assert.deepEqual(
      await subscribe(
        client,
        filters.map((filter, at) => subscription(filter, { qos: at as 0 | 1 | 2 })),
      ),
      [0, 1, 2],
    )
    client.send({ type: 'unsubscribe', packetId: 7, filters: ['many/+', 'many/#', 'many/A', 'other'] })
    const { reasons } = await client.expect('unsuback', { packetId: 7 })
    if (version === 5) assert.deepEqual(reasons, [0, 0, reason.noSubscriptionExisted, reason.noSubscriptionExisted])
    await publish('many/b', 'gone')
    await publish('many/a', 'stays')
    const stays = await message(client)
    assert.deepEqual([stays.text, stays.qos], ['stays', 0])
    client.send({ type: 'unsubscribe', packetId: 8, filters: ['nothing/of/the/kind'] })
    await client.expect('unsuback', { packetId: 8 })
  })

  test(`version ${version}: after UNSUBSCRIBE nothing new comes, and a message that was on its way is brought to its end`, async () => {
    const device = await newDevice()
    const client = await connect(device, version, keeping(version))
    const topic = `begun/${version}`
    await subscribe(client, [subscription(topic)])
    await publish(topic, 'two', { qos: 2 })
    const begun = await client.expect('publish', { qos: 2 })
    client.send({ type: 'unsubscribe', packetId: 2, filters: [topic] })
    await client.expect('unsuback', { packetId: 2 })
    await publish(topic, 'new')
    assert.deepEqual(await client.ping(), [])
    await drop(client, device)
    const again = await connect(device, version, keeping(version))
    await again.expect('publish', { qos: 2, packetId: begun.packetId, dup: true })
    answer(again, 'pubrec', begun.packetId)
    await again.expect('pubrel', { packetId: begun.packetId })
    answer(again, 'pubcomp', begun.packetId)
    assert.deepEqual(await again.ping(), [])
  })

  test(`version ${version}: a packet identifier that was answered stands for a new message, whatever its DUP flag says`, async () => {
    const client = await connect(await newDevice(), version)
    const topic = `reused/${version}`
    await subscribe(client, [subscription(topic, { qos: 0 })])
    for (const dup of [false, true]) {
      client.send(publishPacket(topic, `one, ${dup}`, { qos: 1, packetId: 9, dup }))
      const got = [await next(client), await next(client)]
      assert.deepEqual(got.map((packet) => packet.type).sort(), ['puback', 'publish'])
      const published = got.find((packet) => packet.type === 'publish')
      // The DUP flag is the sender’s own.
      assert.partialDeepStrictEqual(published, { payload: Buffer.from(`one, ${dup}`), dup: false })
    }
    for (const dup of [false, true]) {
      client.send(publishPacket(topic, `two, ${dup}`, { qos: 2, packetId: 9, dup }))
      const got = [await next(client), await next(client)]
      assert.deepEqual(got.map((packet) => packet.type).sort(), ['publish', 'pubrec'])
      answer(client, 'pubrel', 9)
      await client.expect('pubcomp', { packetId: 9, reason: 0 })
    }
  })

  test(`version ${version}: what was not acknowledged is sent again on the next connection, in its order, with its identifiers, and at no other time`, async () => {
    const device = await newDevice()
    const client = await connect(device, version, keeping(version))
    const topic = `unacked/${version}`
    await subscribe(client, [subscription(topic)])
    for (const text of ['a', 'b', 'c', 'd']) await publish(topic, text, { qos: 1 })
    const sent: Publish[] = []
    while (sent.length < 4) sent.push(await client.expect('publish', { dup: false }))
    answer(client, 'puback', sent[1]!.packetId)
    assert.deepEqual(await client.ping(), [])
    await drop(client, device)
    const again = await connect(device, version, keeping(version))
    for (const { packetId, payload } of [sent[0]!, sent[2]!, sent[3]!]) {
      await again.expect('publish', { packetId, payload, dup: true })
    }
    assert.deepEqual(await again.ping(), [])
  })

  test(`version ${version}: topics are compared as they were written, never normalized`, async () => {
    const client = await connect(await newDevice(), version)
    await subscribe(client, [subscription('caf\u00e9/x', { qos: 0 })])
    for (const topic of [
      'cafe\u0301/x',
      'CAF\u00c9/x',
      'caf\u00e9//x',
      'caf\u00e9/x/',
      '/caf\u00e9/x',
      'caf\u00e9/x',
    ]) {
      client.send(publishPacket(topic, topic))
    }
    assert.equal((await message(client)).text, 'caf\u00e9/x')
    assert.deepEqual(await client.ping(), [])
  })

  test(`version ${version}: no session is given up while its connection lasts, however long that is`, async () => {
    const client = await connect(await newDevice(), version, keeping(version))
    await subscribe(client, [subscription(`lasting/${version}`)])
    skewMs += 120_000
    // What is due is looked at when somebody comes.
    await connect(await newDevice(), version)
    await publish(`lasting/${version}`, 'still there')
    assert.equal((await message(client)).text, 'still there')
  })

  test(`version ${version}: an empty client id is answered with one that nobody has`, async () => {
    const device = await newDevice()
    const first = await dial(device, version, { clientId: '' })
    const second = await dial(device, version, { clientId: '' })
    assert.deepEqual([await first.client.ping(), await second.client.ping()], [[], []])
    const held = harness.broker.sessions.ofDevice(device.id).map(({ clientId }) => clientId)
    assert.equal(new Set(held).size, 2)
    if (version === 5) {
      const told = [first, second].map(({ connack }) => connack.properties?.assignedClientIdentifier)
      assert.deepEqual(told.sort(), held.sort())
    }
  })
}

test('a packet identifier whose PUBREC refused stands for a new message [MQTT-4.3.3-9]', async () => {
  const client = await connect(await newDevice(), 5)
  await subscribe(client, [subscription('refused/#', { qos: 0 })])
  client.send(publishPacket('denied/x', 'no', { qos: 2, packetId: 3 }))
  await client.expect('pubrec', { packetId: 3, reason: reason.notAuthorized })
  client.send(publishPacket('refused/x', 'yes', { qos: 2, packetId: 3, dup: true }))
  const got = [await next(client), await next(client)]
  assert.deepEqual(got.map((packet) => packet.type).sort(), ['publish', 'pubrec'])
})

test('an exchange of QoS 2 goes to its end although its message has expired [MQTT-4.3.3-7] [MQTT-4.3.3-13]', async () => {
  const client = await connect(await newDevice(), 5)
  await subscribe(client, [subscription('short/x')])
  client.send(publishPacket('short/x', 'short', { qos: 2, packetId: 3, properties: { messageExpiryInterval: 5 } }))
  // Both wait for the disk, in one write: which of them goes out first is not said.
  const packets = [await next(client), await next(client)]
  const packetId = packets.map((packet) => (packet.type === 'publish' ? packet.packetId : 0)).find((id) => id > 0)!
  assert.deepEqual(packets.map(({ type }) => type).toSorted(), ['publish', 'pubrec'])
  skewMs += 10_000
  answer(client, 'pubrel', 3)
  await client.expect('pubcomp', { packetId: 3, reason: 0 })
  answer(client, 'pubrec', packetId)
  await client.expect('pubrel', { packetId, reason: 0 })
  answer(client, 'pubcomp', packetId)
})

test('a message that its receiver refused is not sent again [MQTT-4.4.0-2]', async () => {
  const device = await newDevice()
  const client = await connect(device, 5, keeping(5))
  await subscribe(client, [subscription('unwanted/#')])
  client.send(publishPacket('unwanted/1', '1', { qos: 1, packetId: 1 }))
  client.send(publishPacket('unwanted/2', '2', { qos: 2, packetId: 2 }))
  for (let left = 2; left > 0; ) {
    const packet = await next(client)
    if (packet.type !== 'publish') continue
    left--
    answer(client, packet.qos === 1 ? 'puback' : 'pubrec', packet.packetId, reason.implementationSpecificError)
  }
  await client.ping()
  await drop(client, device)
  const again = await connect(device, 5, keeping(5))
  assert.deepEqual(await again.ping(), [])
})

test('every topic alias up to the maximum is taken [MQTT-3.3.2-12]', async () => {
  const { client, connack } = await dial(await newDevice(), 5)
  await subscribe(client, [subscription('alias/#', { qos: 0 })])
  const highest = connack.properties!.topicAliasMaximum!
  for (let topicAlias = 1; topicAlias <= highest; topicAlias++) {
    client.send(publishPacket(`alias/${topicAlias}`, 'named', { properties: { topicAlias } }))
  }
  for (let topicAlias = 1; topicAlias <= highest; topicAlias++) {
    client.send(publishPacket('', 'short', { properties: { topicAlias } }))
  }
  const topics: string[] = []
  while (topics.length < 2 * highest) topics.push((await message(client)).topic)
  const expected = Array.from({ length: highest }, (_, at) => `alias/${at + 1}`)
  assert.deepEqual(topics, [...expected, ...expected])
})

/** Two members of one group; the message that is published next goes to the first of the two that is returned. */
async function group(name: string, granted: 1 | 2) {
  const owners = [await newDevice(), await newDevice()] as const
  const members: RawClient[] = []
  for (const device of owners) {
    const client = await connect(device, 5, keeping(5))
    await subscribe(client, [subscription(`$share/${name}/${name}/x`, { qos: granted })])
    members.push(client)
  }
  await publish(`${name}/x`, 'shared', { qos: 2 })
  const answers = await Promise.all(members.map((client) => client.ping()))
  const chosen = answers.findIndex((packets) => packets.some(({ type }) => type === 'publish'))
  const packet = answers[chosen]!.find(({ type }) => type === 'publish') as Publish
  assert.deepEqual(answers[1 - chosen], [])
  return { packet, chosen: members[chosen]!, owner: owners[chosen]!, other: members[1 - chosen]! }
}

test('a member of a group gets the QoS it was granted, and what it refuses goes to nobody else [MQTT-4.8.2-3] [MQTT-4.8.2-6]', async () => {
  const { packet, chosen, other } = await group('refusing', 1)
  assert.equal(packet.qos, 1)
  answer(chosen, 'puback', packet.packetId, reason.unspecifiedError)
  assert.deepEqual([...(await chosen.ping()), ...(await other.ping())], [])
})

test('a QoS 2 message that a member of a group began to get waits for it [MQTT-4.8.2-4]', async () => {
  const { packet, chosen, owner, other } = await group('breaking', 2)
  await drop(chosen, owner)
  assert.deepEqual(await other.ping(), [])
  const again = await connect(owner, 5, keeping(5))
  await again.expect('publish', { packetId: packet.packetId, dup: true, qos: 2 })
})

test('a message of a group that ends with the session of its member goes to nobody else [MQTT-4.8.2-5]', async () => {
  const { chosen, owner, other } = await group('ending', 2)
  chosen.send({ type: 'disconnect', reason: 0, properties: { sessionExpiryInterval: 0 } })
  await chosen.closed()
  await eventually(() => harness.broker.sessions.ofDevice(owner.id).length === 0)
  assert.equal((await dial(owner, 5, keeping(5))).connack.sessionPresent, false)
  assert.deepEqual(await other.ping(), [])
})

test('no explanation makes a CONNACK larger than its client takes [MQTT-3.2.2-19]', async () => {
  const device = await newDevice()
  for (const [maximumPacketSize, explains] of [
    [1_000, true],
    [20, false],
  ] as const) {
    const client = RawClient.over(await harness.socket(device), 5)
    client.send(connectPacket(5, { clientId: 'not-its-own', properties: { maximumPacketSize } }))
    const { properties } = await client.expect('connack', { reason: reason.clientIdentifierNotValid })
    assert.equal(properties?.reasonString !== undefined, explains)
    await client.expectEnd()
  }
})
