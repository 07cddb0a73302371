import assert from 'node:assert/strict'
import { after, before, beforeEach, test } from 'node:test'
import fc from 'fast-check'
import type { Verdict } from '../../broker/admission.ts'
import { Quarantine } from '../../broker/quarantine.ts'
import { type Connect, parseFilter, type Version } from '../../broker/wire/packet.ts'
import { connackCode, reason } from '../../broker/wire/reason.ts'
import { type QuarantineStatus, quarantineName, quarantineTopics } from '../../contract/quarantine.ts'
import type { VerificationFault } from '../../contract/verification.ts'
import {
  BrokerHarness,
  EventInbox,
  eventually,
  Inbox,
  type LogLine,
  parsePolicy,
  type TestDevice,
} from '../harness/broker.ts'
import { type TestCertificate, TestPki } from '../harness/certificates.ts'
import { connectPacket, publishPacket, RawClient } from '../harness/raw-mqtt.ts'

const day = 86_400_000
let harness: BrokerHarness
let skewMs = 0
/** Everything is allowed to everybody but in quarantine. */
const generous = parsePolicy(`policies:
  - { name: all, allow: { publish: ["#"], subscribe: ["#"] } }
  - { name: watch, match: { profile: service }, allow: { subscribe: ["$fleetgate/events/#"] } }
  - { name: late, match: { verify.state: expired }, deny: { publish: ["fresh/#"], subscribe: ["fresh/#"] } }`)

before(async () => {
  harness = await BrokerHarness.start({
    clock: () => new Date(Date.now() + skewMs),
    policy: generous,
    broker: {
      maxConnectionsPerDevice: 3,
      maxQuarantined: 6,
      listeners: [
        { name: 'told', handling: { revoked: 'quarantine' }, listen: '127.0.0.1:0' },
        { name: 'open', mode: 'permissive', listen: '127.0.0.1:0' },
        { name: 'table', listen: '127.0.0.1:0', handling: { expired: 'grace(2d)', wrong_eku: 'log-only' } },
      ],
    },
  })
})
after(() => harness[Symbol.asyncDispose]())
// Refusals of one test are not to silence the lines of the next, nor use its turns up.
beforeEach(() => {
  skewMs += 120_000
})

const portOf = (listener: string): number => Number(new URL(harness.broker.endpoints[listener]!).port)

async function dial(listener: string, device: TestCertificate | undefined, version: Version = 5): Promise<RawClient> {
  return RawClient.over(await harness.socket(device, { port: portOf(listener) }), version)
}

/** Connected to the quarantine. */
async function quarantined(
  device: TestCertificate | undefined,
  more: Partial<Connect> = {},
  version: Version = 5,
): Promise<RawClient> {
  const client = await dial('open', device, version)
  client.send(connectPacket(version, { clientId: 'firmware-1', ...more }))
  await client.expect('connack', { reason: 0, sessionPresent: false })
  return client
}

const subscribe = (filter: string, packetId = 1) => ({
  type: 'subscribe' as const,
  packetId,
  subscriptions: [{ filter, qos: 1 as const, noLocal: false, retainAsPublished: false, retainHandling: 0 as const }],
})

async function statusOf(client: RawClient): Promise<QuarantineStatus> {
  const { payload } = await client.expect('publish', { qos: 0, retain: true })
  return JSON.parse(String(payload))
}

async function leave(...clients: RawClient[]): Promise<void> {
  for (const client of clients) client.socket.destroy()
  await eventually(() => harness.broker.sessions.size === 0)
}

const expired = (id: string) =>
  harness.device(id, { notBefore: new Date(Date.now() - 9 * day), notAfter: new Date(Date.now() - 5 * day) })
/** The file and the table are made for clocks that run: this one expired an hour ago, by any of them. */
const lately = (id: string) =>
  harness.device(id, { notBefore: new Date(Date.now() - 9 * day), notAfter: new Date(Date.now() - 3_600_000) })

test('a client without a certificate reads its state, why, and what to do, and may ask again', async () => {
  const client = await quarantined(undefined)
  const { status, ask } = quarantineTopics('~none')
  client.send(subscribe(status))
  await client.expect('suback', { reasons: [0] })
  const told = await statusOf(client)
  assert.deepEqual([told.state, told.cause, told.ask], ['none', 'certificate_missing', ask])
  assert.match(told.advice, /enroll with a token over EST/)
  client.send(publishPacket(ask, '', { qos: 1, packetId: 7 }))
  assert.equal((await statusOf(client)).state, 'none')
  await client.expect('puback', { packetId: 7, reason: 0 })
  await harness.testLog.until('quarantine.entered', { verification: 'none', listener: 'open', action: 'quarantine' })
  await harness.testLog.until('quarantine.asked', { verification: 'none' })
  await leave(client)
})

test('an application hears of who is in quarantine as refused, and not as connected', async () => {
  const application = await harness.connect(await harness.device('app-1', { profile: 'service' }))
  const events = await EventInbox.open(application)
  const device = await expired('late-1')
  const client = await quarantined(device, { clientId: 'late-1' })
  const { reason: why, state, action, deviceId, certificate } = await events.until('refused', { clientId: 'late-1' })
  assert.deepEqual(
    [why, state, action, deviceId, certificate?.serial],
    ['certificate_expired', 'expired', 'quarantine', 'late-1', device.serial],
  )
  client.socket.destroy()
  await application.endAsync()
  await leave()
  assert.deepEqual(events.all('connected', { deviceId: 'late-1' }), [])
})

test('a client of version 3.1.1 that does not know its fingerprint gets its own status by a wildcard', async () => {
  const device = await TestPki.selfSigned('cam-1')
  const client = await quarantined(device, {}, 4)
  client.send(subscribe('$fleetgate/quarantine/+/status'))
  await client.expect('suback', { reasons: [0] })
  const { topic, payload } = await client.expect('publish')
  assert.equal(topic, quarantineTopics(quarantineName(device.fingerprint)).status)
  assert.partialDeepStrictEqual(JSON.parse(String(payload)), { state: 'self_signed', fingerprint: device.fingerprint })
  await leave(client)
})

test('quarantine is left by connecting again once the cause is gone, and asking tells when', async () => {
  const device = await harness.strangeDevice('late-1')
  const client = await quarantined(device, { clientId: 'late-1' })
  client.send(subscribe('$fleetgate/quarantine/+/status'))
  await client.expect('suback')
  assert.equal((await statusOf(client)).state, 'not_registered')
  harness.feed.append(
    { type: 'device.changed', data: { id: 'late-1', profile: 'camera', groups: [], status: 'active' } },
    harness.issuedFact(device),
  )
  await harness.feed.untilApplied()
  client.send(publishPacket(quarantineTopics(quarantineName(device.fingerprint)).ask, ''))
  assert.partialDeepStrictEqual(await statusOf(client), { state: 'valid', advice: 'connect again' })
  const promoted = await dial('open', device)
  promoted.send(connectPacket(5, { clientId: 'late-1' }))
  await promoted.expect('connack', { reason: 0 })
  assert.equal(harness.broker.sessions.findLive('late-1')?.verdict?.policy, 'normal')
  await leave(client, promoted)
})

test('a client in quarantine takes nobody’s session over and leaves none behind', async () => {
  const good = await harness.device('cam-7')
  const owner = await dial('mqtts', good)
  owner.send(connectPacket(5, { clientId: 'cam-7', properties: { sessionExpiryInterval: 3_600 } }))
  await owner.expect('connack', { reason: 0 })
  const client = await quarantined(await TestPki.selfSigned('cam-7'), {
    clientId: 'cam-7',
    clean: false,
    properties: { sessionExpiryInterval: 3_600 },
  })
  assert.ok(!owner.hasEnded)
  assert.equal(harness.broker.sessions.findLive('cam-7')?.certificate?.fingerprint, good.fingerprint)
  await leave(client, owner)
  const again = await quarantined(undefined, { clientId: 'cam-7', clean: false })
  await leave(again)
})

test('whatever it names, a client in quarantine reaches nobody and nobody reaches it', {
  timeout: 60_000,
}, async () => {
  const watcher = await harness.connect(await harness.device('watcher'))
  const inbox = new Inbox(watcher)
  await watcher.subscribeAsync(['#', '+/+/#', 'devices/watcher/#'])
  const stranger = await TestPki.selfSigned('cam-1')
  const { status, ask } = quarantineTopics(quarantineName(stranger.fingerprint))
  const will = { topic: 'devices/cam-1/state', payload: Buffer.from('will'), qos: 1 as const, retain: true }
  const client = await quarantined(stranger, { clientId: 'watcher:x', will })
  const level = fc.constantFrom(
    'devices',
    'watcher',
    'cam-1',
    '$fleetgate',
    'quarantine',
    '~none',
    'status',
    'ask',
    '',
    'é',
  )
  const wild = fc.oneof(
    { weight: 3, arbitrary: level },
    { weight: 1, arbitrary: fc.constantFrom('+', '$SYS', '$share', 'g') },
  )
  const name = fc.array(level, { minLength: 1, maxLength: 5 }).map((levels) => levels.join('/') || 'x')
  const anyFilter = fc
    .tuple(fc.array(wild, { minLength: 1, maxLength: 5 }), fc.boolean(), fc.boolean())
    .map(
      ([levels, isShared, isOpen]) => `${isShared ? '$share/g/' : ''}${levels.join('/')}${isOpen ? '/#' : ''}` || 'x',
    )
  const filter = fc.oneof({ weight: 9, arbitrary: anyFilter }, fc.constantFrom('#', status, `$share/g/${status}`, ask))
  const seen: string[] = []
  let packetId = 0
  const nextId = (): number => (packetId = (packetId % 60_000) + 1)
  await fc.assert(
    fc.asyncProperty(name, filter, fc.constantFrom(0, 1), async (topic, asked, qos) => {
      // What ends the connection as malformed, as a bad share name does, is not what is asked about here.
      fc.pre(parseFilter(asked) !== undefined)
      client.send({ ...publishPacket(topic, 'stray', { qos: qos as 0 | 1, packetId: qos === 0 ? 0 : nextId() }) })
      if (qos === 1) await client.expect('puback', { reason: reason.notAuthorized })
      client.send(subscribe(asked, nextId()))
      const { reasons } = await client.expect('suback')
      const isOwn = asked === status || asked === '$fleetgate/quarantine/+/status'
      assert.equal(reasons[0]! < 0x80, isOwn, asked)
      if (isOwn) await client.expect('publish', { topic: status })
      watcher.publish(topic.startsWith('$') ? 'devices/x' : topic, 'fence', { retain: true })
    }),
    { numRuns: 60 },
  )
  await watcher.publishAsync('devices/watcher/end', 'end', { qos: 1 })
  await inbox.until('end')
  client.send({ type: 'pingreq' })
  for (let packet = await client.next(); packet?.type !== 'pingresp'; packet = await client.next()) {
    if (packet?.type === 'publish') seen.push(packet.topic)
  }
  assert.deepEqual(seen, [])
  assert.ok(!inbox.payloads.includes('stray'))
  client.socket.destroy()
  await harness.testLog.until('quarantine.left', { clientId: undefined })
  const retained = await harness.connect(await harness.device('reader'))
  const kept = new Inbox(retained)
  await retained.subscribeAsync('#')
  await retained.publishAsync('devices/reader/end', 'end', { qos: 1 })
  await kept.until('end')
  assert.ok(!kept.payloads.includes('stray') && !kept.payloads.includes('will'))
  watcher.end(true)
  retained.end(true)
  await leave()
})

test('QoS 2 and unsubscribing are answered by the book, larger packets are not taken', async () => {
  const client = await quarantined(undefined, {}, 4)
  client.send(publishPacket('devices/x', 'x', { qos: 2, packetId: 3 }))
  await client.expect('pubrec', { packetId: 3 })
  client.send({ type: 'pubrel', packetId: 3, reason: 0 })
  await client.expect('pubcomp', { packetId: 3 })
  const five = await quarantined(undefined)
  five.send({ type: 'unsubscribe', packetId: 4, filters: ['x'] })
  await five.expect('unsuback', { reasons: [reason.noSubscriptionExisted] })
  five.send(publishPacket('devices/x', Buffer.alloc(5_000)))
  await five.expect('disconnect', { reason: reason.packetTooLarge })
  await leave(client, five)
})

test('quarantine is bounded: connections of one peer and of all, how often they come, and how often they ask', async () => {
  const peers: RawClient[] = []
  for (let i = 0; i < 3; i++) peers.push(await quarantined(undefined))
  const refused = async (device: TestCertificate | undefined): Promise<void> => {
    const client = await dial('open', device)
    client.send(connectPacket(5))
    await client.expect('connack', { reason: reason.quotaExceeded })
    await client.expectEnd()
  }
  await refused(undefined)
  for (let i = 0; i < 3; i++) peers.push(await quarantined(await TestPki.selfSigned(`peer-${i}`)))
  await refused(await TestPki.selfSigned('peer-9'))
  await harness.testLog.until('connection.refused', { reason: 'too_many_connections', verification: 'self_signed' })
  const [first] = peers
  const { ask } = quarantineTopics('~none')
  for (let packetId = 1; packetId <= 13; packetId++) {
    first!.send(publishPacket(ask, '', { qos: 1, packetId }))
    await first!.expect('puback', { reason: packetId <= 12 ? 0 : reason.quotaExceeded })
  }
  await leave(...peers)
  for (let i = 0; i < 52; i++) await leave(await quarantined(undefined))
  await refused(undefined)
  await leave()
})

test('how often they come is counted for a network, not for each of its addresses', () => {
  const config = { maxQuarantined: 100, maxConnectionsPerDevice: 100 } as never
  const quarantine = new Quarantine({
    gate: {} as never,
    log: {} as never,
    denials: {} as never,
    events: {} as never,
    clock: () => new Date(0),
    config,
  })
  const enter = (fingerprint: string, remoteAddress: string): string | undefined =>
    quarantine.enter({ certificate: { fingerprint }, remoteAddress } as never)
  for (let i = 0; i < 60; i++) assert.equal(enter(String(i), `2001:db8::${i}:1`), undefined)
  assert.match(enter('60', '2001:db8::60:1') ?? '', /in a minute/)
  assert.equal(enter('60', '2001:db8:1::1'), undefined)
})

test('those without a certificate keep nobody out but their own network, and each has a client id of its own', async () => {
  const quarantine = new Quarantine({
    gate: {} as never,
    log: {} as never,
    denials: {} as never,
    events: {} as never,
    clock: () => new Date(0),
    config: { maxQuarantined: 100, maxConnectionsPerDevice: 2 } as never,
  })
  const enter = (remoteAddress: string) => quarantine.enter({ certificate: undefined, remoteAddress } as never)
  assert.deepEqual(['192.0.2.1', '192.0.2.1'].map(enter), [undefined, undefined])
  assert.match(enter('192.0.2.1') ?? '', /too many connections are in quarantine/)
  assert.equal(enter('192.0.2.2'), undefined)
  const clients = [await dial('open', undefined), await dial('open', undefined)]
  const ids: unknown[] = []
  for (const client of clients) {
    client.send(connectPacket(5, { clientId: '' }))
    ids.push((await client.expect('connack', { reason: 0 })).properties?.assignedClientIdentifier)
  }
  assert.ok(ids.every((id) => /^~none:\d+$/.test(String(id))) && ids[0] !== ids[1], String(ids))
  await leave(...clients)
})

test('who has been in quarantine for long enough is told so, why it is there, and under which id to ask', async () => {
  const client = await quarantined(undefined)
  skewMs += 599_000
  const late = await quarantined(undefined)
  skewMs += 2_000
  const { properties } = await client.expect('disconnect', { reason: reason.notAuthorized })
  const sentence = String(properties?.reasonString)
  assert.match(sentence, /^quarantine is for 600000 ms: .*certificate.*; denial [0-9a-f]{12}$/)
  const [denial] = await harness.feed.askDenials({ id: sentence.slice(-12), limit: 1 })
  assert.deepEqual(
    [denial?.stage, denial?.cause, denial?.fix?.command?.[0]],
    ['session', 'certificate_missing', 'token'],
  )
  await harness.testLog.until('quarantine.left', { denial: denial!.id })
  assert.ok(!late.hasEnded)
  await leave(late)
})

test('a revocation reaches into the quarantine', async () => {
  const device = await expired('old-1')
  const client = await quarantined(device, { clientId: 'old-1' })
  await harness.revokeDevice(device)
  await client.expectEnd().catch(() => {})
  await harness.testLog.until('session.kicked', { reason: 'device_revoked', serial: device.serial })
  await leave(client)
})

type Outcome = { listener: string; five: number; action: Verdict['action'] }
const matrix: [VerificationFault, () => Promise<TestDevice>, Outcome[]][] = [
  [
    'expired',
    () => lately('matrix-1'),
    [
      { listener: 'mqtts', five: 0x87, action: 'reject' },
      { listener: 'open', five: 0, action: 'quarantine' },
      { listener: 'table', five: 0, action: 'grace' },
    ],
  ],
  [
    'wrong_eku',
    () => harness.device('matrix-2', { usage: ['1.3.6.1.5.5.7.3.1'] }),
    [
      { listener: 'mqtts', five: 0x87, action: 'reject' },
      { listener: 'open', five: 0, action: 'quarantine' },
      { listener: 'table', five: 0, action: 'log-only' },
    ],
  ],
  [
    'revoked',
    async () => {
      const device = await harness.device('matrix-3')
      await harness.revokeCertificate(device)
      return device
    },
    ['mqtts', 'open', 'table'].map((listener) => ({ listener, five: 0x87, action: 'reject' as const })),
  ],
  [
    'not_registered',
    () => harness.strangeDevice('matrix-4'),
    [
      { listener: 'table', five: 0x87, action: 'reject' },
      { listener: 'open', five: 0, action: 'quarantine' },
    ],
  ],
]

for (const [state, make, outcomes] of matrix) {
  test(`${state}: CONNACK of either version, log and the connection’s verdict say the same at each listener`, async () => {
    const device = await make()
    for (const { listener, five, action } of outcomes) {
      for (const version of [4, 5] as const) {
        const client = await dial(listener, device, version)
        client.send(connectPacket(version, { clientId: device.id }))
        const { reason: code } = await client.expect('connack')
        assert.equal(code, version === 5 || five === 0 ? five : code)
        if (version === 4) assert.equal(connackCode(code), connackCode(five), listener)
        const said: LogLine = { serial: device.serial, listener, verification: state, action }
        const event =
          action === 'quarantine' ? 'quarantine.entered' : five === 0 ? 'session.opened' : 'connection.refused'
        await harness.testLog.until(event, said)
        const [connection] = five === 0 ? [...harness.broker.sessions] : []
        if (five === 0) assert.partialDeepStrictEqual(connection?.verdict, { state, action, listener })
        await leave(client)
      }
    }
  })
}

test('a device that is revoked while it is given its session does not get one, where the revoked are quarantined', async () => {
  const device = await harness.device('late-1')
  const first = await dial('told', device)
  first.send(connectPacket(5, { clientId: 'late-1' }))
  await first.expect('connack', { reason: 0 })
  const holder = harness.broker.sessions.findLive('late-1')!
  const { promise, resolve } = Promise.withResolvers<void>()
  holder.finished = promise
  const second = await dial('told', device)
  second.send(connectPacket(5, { clientId: 'late-1' }))
  await eventually(() => [...harness.broker.sessions].some((one) => one !== holder && one.clientId === 'late-1'))
  await harness.revokeDevice(device)
  resolve()
  await second.closed()
  await harness.testLog.until('session.kicked', { deviceId: 'late-1', reason: 'device_revoked' })
})

test('a session ends when its certificate does, or the grace of its listener', async () => {
  const device = await harness.device('ends-1', { notAfter: new Date(Date.now() + skewMs + 3_600_000) })
  const strict = await dial('mqtts', device)
  strict.send(connectPacket(5, { clientId: 'ends-1:a' }))
  await strict.expect('connack', { reason: 0 })
  const graced = await dial('table', device)
  graced.send(connectPacket(5, { clientId: 'ends-1:b' }))
  await graced.expect('connack', { reason: 0 })
  skewMs += 3_700_000
  await strict.expect('disconnect', { reason: reason.notAuthorized })
  await harness.testLog.until('session.closed', { clientId: 'ends-1:a', reason: 'certificate_expired' })
  assert.partialDeepStrictEqual(harness.broker.sessions.findLive('ends-1:b')?.verdict, {
    state: 'expired',
    action: 'grace',
  })
  skewMs += 2 * day
  await graced.expect('disconnect', { reason: reason.notAuthorized })
  await leave(strict, graced)
})

test('a policy that looks at the verification state holds from when it changes, without a new CONNECT', async () => {
  const device = await harness.device('ends-3', { notAfter: new Date(Date.now() + skewMs + 3_600_000) })
  const graced = await dial('table', device)
  graced.send(connectPacket(5, { clientId: 'ends-3' }))
  await graced.expect('connack', { reason: 0 })
  const other = await dial('mqtts', await harness.device('ends-2', { notAfter: new Date(Date.now() + 90 * day) }))
  other.send(connectPacket(5, { clientId: 'ends-2' }))
  await other.expect('connack', { reason: 0 })
  graced.send(subscribe('fresh/#'))
  await graced.expect('suback', { reasons: [1] })
  other.send(publishPacket('fresh/x', 'in time'))
  await graced.expect('publish', { topic: 'fresh/x' })
  graced.send(publishPacket('fresh/y', 'in time', { qos: 1, packetId: 1 }))
  // Which of the two is first is open: what it gets of its own message, or the answer to it.
  const both = [await graced.next(), await graced.next()].toSorted((a, b) => a!.type.localeCompare(b!.type))
  assert.partialDeepStrictEqual(both, [
    { type: 'puback', packetId: 1, reason: 0 },
    { type: 'publish', topic: 'fresh/y', qos: 1 },
  ])
  skewMs += 3_700_000
  await eventually(() => harness.broker.sessions.findLive('ends-3')?.verdict?.state === 'expired')
  graced.send(publishPacket('fresh/y', 'too late', { qos: 1, packetId: 2 }))
  await graced.expect('puback', { packetId: 2, reason: reason.notAuthorized })
  other.send(publishPacket('fresh/x', 'too late'))
  await other.ping()
  assert.deepEqual(await graced.ping(), [])
  await leave(graced, other)
})
