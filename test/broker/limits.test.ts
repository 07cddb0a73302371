// biome-ignore-all lint/suspicious/noTemplateCurlyInString: the variables of the policy language look like those of templates
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import type { MqttClient } from 'mqtt'
import type { Connect, Publish, Version } from '../../broker/wire/packet.ts'
import { reason } from '../../broker/wire/reason.ts'
import type { PolicyDocument } from '../../contract/policy-document.ts'
import { BrokerHarness, Inbox, parsePolicy, type TestDevice } from '../harness/broker.ts'
import { connectPacket, publishPacket, RawClient } from '../harness/raw-mqtt.ts'

const own = 'allow: { publish: ["devices/${device.id}/#"], subscribe: ["devices/${device.id}/#"] }'
const inThreeDays = ['wed', 'thu', 'fri', 'sat', 'sun', 'mon', 'tue'][new Date().getUTCDay()]
const policy = parsePolicy(`
policies:
  - { name: own, match: { profile: sensor }, ${own} }
  - { name: low, match: { device.id: "low-*" }, maxQos: 1, retain: false, ${own} }
  - { name: mixed, match: { device.id: "mixed-*" }, maxQos: 1, retain: false, ${own} }
  - { name: mixed-high, match: { device.id: "mixed-*" }, allow: { publish: ["high/#"] } }
  - { name: strict, match: { device.id: "*-strict" }, onDeny: disconnect }
  - { name: rate, match: { device.id: "rate-*" }, limits: { messagesPerSecond: { rate: 20, burst: 3 } } }
  - { name: burst, match: { device.id: "burst-*" }, limits: { messagesPerSecond: { rate: 0.01, burst: 3 } } }
  - { name: bytes, match: { device.id: "bytes-*" }, limits: { bytesPerSecond: { rate: 1, burst: 100 } } }
  - { name: size, match: { device.id: "size-*" }, limits: { payloadBytes: 10 } }
  - { name: few, match: { device.id: "few-*" }, limits: { subscriptions: 2, inFlight: 2, connections: 1, keepAliveSeconds: { min: 10, max: 60 } } }
  - { name: kept, match: { device.id: "kept-*" }, limits: { retainedMessages: 1 } }
  - { name: silent, match: { device.id: "silent-*" }, limits: { keepAliveSeconds: { max: 1 } } }
  - { name: hours, match: { device.id: "hours-*" }, connect: { times: [{ days: [${inThreeDays}] }] } }
  - { name: place, match: { device.id: "place-*" }, connect: { networks: ["10.0.0.0/8"] } }
  - { name: home, match: { device.id: "home-*" }, connect: { networks: ["127.0.0.0/8"] }, responseTopic: "devices/\${device.id}/answers" }
  - { name: site, match: { device.attributes.site: berlin, client.suffix: "a*", verify.state: valid, issuer.label: fleetgate }, allow: { publish: ["sites/\${device.attributes.site}/\${client.suffix}"] } }
  - { name: hall, match: { group: hall }, allow: { publish: ["halls/#"], subscribe: ["halls/#"] } }
  - { name: service, match: { profile: service }, allow: { publish: ["#"], subscribe: ["#"] } }
`)

let harness: BrokerHarness
let inbox: Inbox
let service: MqttClient

before(async () => {
  harness = await BrokerHarness.start({ policy: policy })
  service = await harness.connect(await harness.device('service', { profile: 'service' }))
  inbox = new Inbox(service)
  await service.subscribeAsync('#', { qos: 2 })
})
after(() => harness[Symbol.asyncDispose]())

type Dialled = { client: RawClient; device: TestDevice; connack: Awaited<ReturnType<RawClient['expect']>> }

async function dial(version: Version, device: TestDevice, connect: Partial<Connect> = {}): Promise<Dialled> {
  const client = RawClient.over(await harness.socket(device), version)
  client.send(connectPacket(version, { clientId: device.id, ...connect }))
  return { client, device, connack: await client.expect('connack') }
}

let devices = 0
/** A device of its own for each version, so that what it was told once holds for no other. */
const named = (kind: string, profile = 'sensor') =>
  harness.device(kind.includes('*') ? kind.replace('*', `${++devices}`) : `${kind}-${++devices}`, { profile })

const publish = ({ device }: Dialled, name: string, payload: string, rest: Partial<Publish> = {}): Publish =>
  publishPacket(`devices/${device.id}/${name}`, payload, rest)

const unheard = async (payload: string): Promise<void> => {
  const marker = `after ${payload}`
  await service.publishAsync('marker', marker, { qos: 1 })
  await inbox.until(marker)
  assert.equal(inbox.payloads.includes(payload), false, payload)
}

const logged = (reasonCode: string, { id }: TestDevice) =>
  harness.testLog.lines.find((line) => line.reason === reasonCode && line.deviceId === id)

test('version 5 is told the highest QoS and that nothing is retained, and leaves with the reason when it does not listen', async () => {
  for (const [packet, code, problem] of [
    [{ qos: 2, packetId: 1 }, reason.qosNotSupported, 'qos_denied'],
    [{ retain: true }, reason.retainNotSupported, 'retain_denied'],
  ] as const) {
    const low = await dial(5, await named('low', 'camera'))
    assert.partialDeepStrictEqual(low.connack, { properties: { maximumQos: 1, retainAvailable: false } })
    const filter = {
      filter: `devices/${low.device.id}/#`,
      noLocal: false,
      retainAsPublished: false,
      retainHandling: 0 as const,
    }
    low.client.send({ type: 'subscribe', packetId: 9, subscriptions: [{ ...filter, qos: 2 }] })
    await low.client.expect('suback', { reasons: [2] }) // [MQTT-3.2.2-10]
    low.client.send(publish(low, 'x', problem, packet))
    await low.client.expect('disconnect', { reason: code })
    await low.client.closed()
    await harness.testLog.until('session.closed', { reason: problem, deviceId: low.device.id })
    await unheard(problem)
  }
})

test('a topic that allows less than another is refused at that topic: acknowledged with the reason where there is one', async () => {
  for (const version of [4, 5] as const) {
    const mixed = await dial(version, await named('mixed', 'camera'))
    assert.equal(mixed.connack.type === 'connack' && mixed.connack.properties?.maximumQos, undefined)
    mixed.client.send(publish(mixed, 'x', 'too high', { qos: 2, packetId: 1 }))
    await mixed.client.expect('pubrec', { packetId: 1, reason: version === 5 ? reason.notAuthorized : 0 })
    mixed.client.send(publish(mixed, 'x', 'kept', { qos: 1, packetId: 2, retain: true }))
    await mixed.client.expect('puback', { packetId: 2, reason: version === 5 ? reason.notAuthorized : 0 })
    mixed.client.send(publishPacket('high/x', `high ${version}`, { qos: 2, packetId: 3 }))
    await mixed.client.expect('pubrec', { packetId: 3, reason: 0 })
    await inbox.until(`high ${version}`)
    for (const payload of ['too high', 'kept']) await unheard(payload)
    assert.ok(logged('qos_denied', mixed.device))
    assert.ok(logged('retain_denied', mixed.device))
    mixed.client.socket.destroy()
  }
})

test('onDeny: disconnect ends a connection at its first refusal, and version 5 hears why', async () => {
  const refusals: [kind: string, send: (one: Dialled) => void, code: number, problem: string][] = [
    ['any', ({ client }) => client.send(publishPacket('other/x', 'no')), reason.notAuthorized, 'publish_denied'],
    [
      'any',
      ({ client }) =>
        client.send({
          type: 'subscribe',
          packetId: 1,
          subscriptions: [{ filter: 'other/#', qos: 0, noLocal: false, retainAsPublished: false, retainHandling: 0 }],
        }),
      reason.notAuthorized,
      'subscribe_denied',
    ],
    [
      'mixed',
      (one) => one.client.send(publish(one, 'x', 'no', { qos: 2, packetId: 1 })),
      reason.qosNotSupported,
      'qos_denied',
    ],
    [
      'mixed',
      (one) => one.client.send(publish(one, 'x', 'no', { retain: true })),
      reason.retainNotSupported,
      'retain_denied',
    ],
    ['size', (one) => one.client.send(publish(one, 'x', 'eleven chars')), reason.packetTooLarge, 'payload_too_large'],
  ]
  for (const [kind, send, code, problem] of refusals) {
    for (const version of [4, 5] as const) {
      const one = await dial(version, await named(`${kind}-*-strict`, kind === 'mixed' ? 'camera' : 'sensor'))
      send(one)
      if (version === 5) await one.client.expect('disconnect', { reason: code })
      else assert.equal(await one.client.next(), undefined, problem)
      await harness.testLog.until('session.closed', { reason: problem, deviceId: one.device.id })
    }
  }
})

test('a will is held to QoS, RETAIN and size like any message', async () => {
  const will = { topic: '', payload: Buffer.from('gone'), qos: 0 as const, retain: false }
  const cases = [
    ['low', { qos: 2 as const }, reason.qosNotSupported, 'qos_denied'],
    ['low', { retain: true }, reason.retainNotSupported, 'retain_denied'],
    ['size', { payload: Buffer.from('eleven chars') }, reason.packetTooLarge, 'payload_too_large'],
  ] as const
  for (const [kind, change, code, problem] of cases) {
    const device = await named(kind, kind === 'low' ? 'camera' : 'sensor')
    const wanted = { will: { ...will, topic: `devices/${device.id}/x`, ...change } }
    const { connack } = await dial(5, device, wanted)
    assert.partialDeepStrictEqual(connack, { reason: code })
    await harness.testLog.until('connection.refused', { reason: problem, deviceId: device.id })
    const older = RawClient.over(await harness.socket(device), 4)
    older.send(connectPacket(4, { clientId: device.id, ...wanted }))
    // Version 3.1.1 has no word for a size, and the connection is closed without one.
    if (problem === 'payload_too_large') await older.expectEnd()
    else await older.expect('connack', { reason: reason.notAuthorized })
  }
})

test('above its rate version 5 is refused, QoS 0 is dropped, and what the device may burst is shared by its connections', async () => {
  const device = await named('burst')
  const one = await dial(5, device)
  const two = await dial(5, device, { clientId: `${device.id}:two` })
  for (let at = 1; at <= 3; at++) {
    const from = at === 2 ? two : one
    from.client.send(publish(from, 'x', `burst ${at}`, { qos: 1, packetId: at }))
    await from.client.expect('puback', { packetId: at, reason: 0 })
  }
  one.client.send(
    publish(one, 'x', 'fourth', { qos: 1, packetId: 4 }),
    publish(one, 'x', 'fifth', { qos: 2, packetId: 5 }),
    publish(one, 'x', 'sixth'),
  )
  two.client.send(publish(two, 'x', 'seventh', { qos: 1, packetId: 7 }))
  await one.client.expect('puback', { packetId: 4, reason: reason.quotaExceeded })
  await one.client.expect('pubrec', { packetId: 5, reason: reason.quotaExceeded })
  await two.client.expect('puback', { packetId: 7, reason: reason.quotaExceeded })
  assert.deepEqual(await one.client.ping(), [])
  for (const payload of ['fourth', 'fifth', 'sixth', 'seventh']) await unheard(payload)
  await harness.testLog.until('publish.limited', { reason: 'rate_limited', deviceId: device.id, slowed: false })
})

test('above its rate 3.1.1 is slowed down: everything arrives, in order and acknowledged, but for QoS 0', async () => {
  const slow = await dial(4, await named('rate'))
  const begun = performance.now()
  const count = 9
  slow.client.send(
    ...Array.from({ length: count }, (_, at) => publish(slow, 'x', `paced ${at}`, { qos: 1, packetId: at + 1 })),
    publish(slow, 'x', 'at most once'),
  )
  for (let at = 1; at <= count; at++) await slow.client.expect('puback', { packetId: at, reason: 0 })
  // Three at once, then twenty a second.
  assert.ok(performance.now() - begun > ((count - 3) * 1_000) / 20 - 20)
  await inbox.until(`paced ${count - 1}`)
  const paced = inbox.payloads.filter((payload) => payload.startsWith('paced'))
  assert.deepEqual(
    paced,
    Array.from({ length: count }, (_, at) => `paced ${at}`),
  )
  await unheard('at most once')
  await harness.testLog.until('publish.limited', { deviceId: slow.device.id, slowed: true })
})

test('what waits for its turn when the connection ends is not acknowledged and not delivered', async () => {
  const device = await named('bytes')
  const one = await dial(4, device)
  one.client.send(publish(one, 'x', 'x'.repeat(200), { qos: 1, packetId: 1 }))
  await one.client.expect('puback', { packetId: 1 })
  one.client.send(publish(one, 'x', 'in debt', { qos: 1, packetId: 2 }))
  await harness.testLog.until('publish.limited', { deviceId: device.id, slowed: true })
  one.client.send({ type: 'disconnect', reason: 0 })
  await one.client.expectEnd()
  await harness.testLog.until('session.closed', { deviceId: device.id })
  await unheard('in debt')
})

test('a payload over the limit is dropped, and refused where the version can say so', async () => {
  for (const version of [4, 5] as const) {
    const one = await dial(version, await named('size'))
    one.client.send(publish(one, 'x', 'eleven chars', { qos: 1, packetId: 1 }), publish(one, 'x', 'also too long'))
    await one.client.expect('puback', { packetId: 1, reason: version === 5 ? reason.quotaExceeded : 0 })
    one.client.send(publish(one, 'x', `short ${version}`, { qos: 1, packetId: 2 }))
    await inbox.until(`short ${version}`)
    await unheard('eleven chars')
    await unheard('also too long')
    assert.ok(logged('payload_too_large', one.device))
    if (version === 5) assert.partialDeepStrictEqual(one.connack, { properties: { maximumPacketSize: 65_546 } })
  }
})

test('filters over the limit of the policy are refused one by one, and messages under way are bounded both ways', async () => {
  const few = await dial(5, await named('few'))
  assert.partialDeepStrictEqual(few.connack, { properties: { receiveMaximum: 2 } })
  const filter = (name: string) => ({
    filter: `devices/${few.device.id}/${name}`,
    qos: 1 as const,
    noLocal: true,
    retainAsPublished: false,
    retainHandling: 0 as const,
  })
  few.client.send({ type: 'subscribe', packetId: 1, subscriptions: ['a', 'b', 'c', 'a'].map(filter) })
  await few.client.expect('suback', { reasons: [1, 1, reason.quotaExceeded, 1] })
  assert.ok(logged('quota_exceeded', few.device))
  for (let at = 0; at < 3; at++) await service.publishAsync(`devices/${few.device.id}/a`, `${at}`, { qos: 1 })
  const first = await few.client.expect('publish')
  await few.client.expect('publish')
  assert.deepEqual(await few.client.ping(), [])
  few.client.send({ type: 'puback', packetId: first.packetId, reason: 0 })
  assert.equal(String((await few.client.expect('publish')).payload), '2')
})

test('connections of a device are those that its policy gives it', async () => {
  const device = await named('few')
  await dial(5, device)
  const { connack } = await dial(5, device, { clientId: `${device.id}:two` })
  assert.partialDeepStrictEqual(connack, { reason: reason.quotaExceeded })
  await harness.testLog.until('connection.refused', { reason: 'too_many_connections', deviceId: device.id })
})

test('version 5 is told the keep-alive of the policy, and older clients are ended by it', async () => {
  for (const [asked, told] of [
    [5, 10],
    [30, undefined],
    [0, 60],
    [3_600, 60],
  ] as const) {
    const { connack, client } = await dial(5, await named('few'), { keepAlive: asked })
    assert.equal(connack.type === 'connack' && connack.properties?.serverKeepAlive, told, `${asked}`)
    client.socket.destroy()
  }
  const silent = await dial(4, await named('silent'), { keepAlive: 0 })
  await silent.client.expectEnd()
  await harness.testLog.until('session.closed', { reason: 'keep_alive_expired', deviceId: silent.device.id })
})

test('a device retains as many messages as its policy gives it', async () => {
  const one = await dial(4, await named('kept'))
  for (const [packetId, name] of [
    [1, 'a'],
    [2, 'b'],
    [3, 'a'],
  ] as const) {
    one.client.send(publish(one, name, `kept ${packetId}`, { qos: 1, packetId, retain: true }))
    await one.client.expect('puback', { packetId })
  }
  await harness.testLog.until('message.dropped', { what: 'retained', reason: 'quota_exceeded', owner: one.device.id })
  const reader = await harness.connect(await named('reader', 'service'))
  const kept = new Inbox(reader)
  await reader.subscribeAsync(`devices/${one.device.id}/#`)
  await kept.until('kept 3')
  assert.deepEqual(kept.payloads, ['kept 3'])
})

test('a CONNECT outside its hours or its networks is refused with the condition that did not hold', async () => {
  for (const [kind, sentence] of [
    ['hours', /^not at this time: .* UTC \(policy statement hours\)$/],
    ['place', /^not from this network: (::ffff:)?127\.0\.0\.1 \(policy statement place\)$/],
  ] as const) {
    const device = await named(kind)
    const { connack } = await dial(5, device)
    assert.partialDeepStrictEqual(connack, { reason: reason.notAuthorized })
    const line = await harness.testLog.until('connection.refused', { reason: 'connect_condition', deviceId: device.id })
    assert.match(String(line.detail), sentence)
    const older = await dial(4, device)
    assert.partialDeepStrictEqual(older.connack, { reason: reason.notAuthorized })
  }
})

test('a client that asks for response information is told a topic that it may use', async () => {
  const device = await named('home')
  const asked = await dial(5, device, { properties: { requestResponseInformation: true } })
  assert.partialDeepStrictEqual(asked.connack, {
    reason: 0,
    properties: { responseInformation: `devices/${device.id}/answers` },
  })
  asked.client.send({ type: 'disconnect', reason: 0 })
  await asked.client.closed()
  const { connack } = await dial(5, device)
  assert.equal(connack.type === 'connack' && connack.properties?.responseInformation, undefined)
})

test('attributes, client suffix and what was verified count in a policy; a change of attributes at the next message', async () => {
  const device = await named('any')
  const { client } = await dial(5, device, { clientId: `${device.id}:app` })
  const attempt = async (packetId: number): Promise<number> => {
    client.send(publishPacket('sites/berlin/app', `attempt ${packetId}`, { qos: 1, packetId }))
    return (await client.expect('puback', { packetId })).reason
  }
  const facts = { id: device.id, profile: 'sensor', groups: [], status: 'active' } as const
  assert.equal(await attempt(1), reason.notAuthorized)
  const note = async (attributes: Record<string, string>): Promise<void> => {
    harness.feed.append({ type: 'device.changed', data: { ...facts, groups: [], attributes } })
    await harness.feed.untilApplied()
  }
  await note({ site: 'berlin' })
  assert.equal(await attempt(2), 0)
  await note({ site: 'b+' })
  assert.equal(await attempt(3), reason.notAuthorized)
})

test('a device that leaves a group loses what the group may do, on its open session at the next message', async () => {
  const { device, client } = await dial(5, await named('member'))
  const put = async (profile: string, ...groups: string[]): Promise<void> => {
    harness.feed.append({ type: 'device.changed', data: { id: device.id, profile, groups, status: 'active' } })
    await harness.feed.untilApplied()
  }
  const filter = { qos: 1 as const, noLocal: false, retainAsPublished: false, retainHandling: 0 as const }
  const join = async (packetId: number): Promise<number> => {
    client.send({ type: 'subscribe', packetId, subscriptions: [{ filter: 'halls/#', ...filter }] })
    return (await client.expect('suback', { packetId })).reasons[0]!
  }
  assert.equal(await join(1), reason.notAuthorized)
  await put('sensor', 'hall', 'roof')
  assert.equal(await join(2), 1)
  await service.publishAsync('halls/x', 'as a member', { qos: 0 })
  assert.equal(String((await client.expect('publish')).payload), 'as a member')
  await put('sensor', 'roof')
  for (const qos of [0, 1] as const) await service.publishAsync('halls/x', `as a stranger ${qos}`, { qos })
  client.send(publishPacket('halls/x', 'from a stranger', { qos: 1, packetId: 3 }))
  assert.equal((await client.expect('puback', { packetId: 3 })).reason, reason.notAuthorized)
  assert.deepEqual(
    (await client.ping()).filter(({ type }) => type === 'publish'),
    [],
  )
  assert.equal(await join(4), reason.notAuthorized)
  // What a profile may do goes with it likewise.
  await put('service')
  assert.equal(await join(5), 1)
})

test('a policy that takes a topic away stops what is live, queued, retained and shared, without a reconnect', async () => {
  const denying = (document: PolicyDocument, topic: string): PolicyDocument => ({
    policies: [...document.policies, { name: 'away', match: {}, allow: {}, deny: { subscribe: [topic] } }],
  })
  const reader = await dial(5, await named('reader', 'service'))
  const other = await harness.connect(await named('other', 'service'))
  const others = new Inbox(other)
  await other.subscribeAsync('$share/g/away/#', { qos: 1 })
  const subscription = { qos: 1 as const, noLocal: false, retainAsPublished: false, retainHandling: 0 as const }
  const subscriptions = ['away/#', '$share/g/away/#'].map((filter) => ({ filter, ...subscription }))
  reader.client.send({ type: 'subscribe', packetId: 1, subscriptions })
  await reader.client.expect('suback', { reasons: [1, 1] })
  await service.publishAsync('away/x', 'before', { qos: 0 })
  assert.equal(String((await reader.client.expect('publish')).payload), 'before')
  // For the readers alone: others in the group go on.
  const only = denying(policy, 'away/#')
  only.policies.at(-1)!.match = { 'device.id': [reader.device.id] }
  harness.setPolicy(only)
  await harness.feed.untilApplied()
  for (const qos of [0, 1, 2] as const) await service.publishAsync('away/x', `after ${qos}`, { qos, retain: true })
  await others.until('after 2')
  reader.client.send({ type: 'subscribe', packetId: 2, subscriptions: [{ filter: '#', ...subscription }] })
  await reader.client.expect('suback', { reasons: [1] })
  const seen = (await reader.client.ping()).flatMap((packet) => (packet.type === 'publish' ? [packet.topic] : []))
  assert.equal(seen.includes('away/x'), false)
  harness.setPolicy(policy)
  await harness.feed.untilApplied()
})
