/** Every place where a broker refuses: an id is told to the client and to the log, and asked for by it all is there. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import type { IClientOptions } from 'mqtt'
import { Denials } from '../../broker/denials.ts'
import { BrokerStore } from '../../broker/store.ts'
import { reason } from '../../broker/wire/reason.ts'
import type { Denial } from '../../contract/denials.ts'
import {
  BrokerHarness,
  closeOf,
  connectPacket,
  parsePolicy,
  readToEnd,
  starter,
  type TestDevice,
  TestLog,
} from '../harness/broker.ts'
import { TestPki } from '../harness/certificates.ts'
import { publishPacket, RawClient, connectPacket as rawConnect } from '../harness/raw-mqtt.ts'

let harness: BrokerHarness
let skewMs = 0
before(async () => {
  harness = await BrokerHarness.start({
    broker: {
      maxConnectionsPerDevice: 4,
      maxQueuedMessages: 2,
      maxRetainedPerDevice: 2,
      listeners: [
        { name: 'open', mode: 'permissive', listen: '127.0.0.1:0' },
        { name: 'web', transport: 'wss', listen: '127.0.0.1:0' },
        { name: 'proxied', listen: '127.0.0.1:0', proxyProtocol: { from: ['127.0.0.1/32'] } },
      ],
    },
    clock: () => new Date(Date.now() + skewMs),
    policy: parsePolicy(`policies:
      - name: own
        match: { profile: sensor }
        allow: { publish: ["devices/\${device.id}/#"], subscribe: ["devices/\${device.id}/#", "hall/#"] }
      - { name: quiet, deny: { publish: ["devices/+/firmware"], subscribe: ["hall/secret"] } }
      - { name: teller, match: { profile: service }, allow: { publish: ["#"] } }
      - { name: night, match: { group: night }, connect: { networks: [10.0.0.0/8] } }`),
  })
})
after(() => harness[Symbol.asyncDispose]())

async function denialOf(id: string): Promise<Denial> {
  const [denial] = await harness.feed.askDenials({ id, limit: 1 })
  assert.ok(denial, `denial ${id} is kept`)
  return denial
}
const idIn = (text: string | undefined): string => /denial ([0-9a-f]{12})/.exec(text ?? '')?.[1] ?? ''
const five = { protocolVersion: 5 } as const
const plainSubscription = { noLocal: false, retainAsPublished: false, retainHandling: 0 } as const

const portOf = (listener: string): number => Number(new URL(harness.broker.endpoints[listener]!).port)
const raw = async (device: TestDevice | undefined, listener = 'mqtts', options: object = {}): Promise<RawClient> => {
  const client = RawClient.over(await harness.socket(device, { port: portOf(listener) }), 5)
  client.send({ ...rawConnect(5), clientId: device?.id ?? 'nobody', ...options })
  await client.expect('connack', { reason: 0 })
  return client
}

async function told(device: TestDevice, options: IClientOptions = {}): Promise<string> {
  const client = harness.dial(device, { clientId: device.id, ...five, ...options })
  return new Promise((resolve) => {
    client.once('packetreceive', (packet) =>
      resolve(packet.cmd === 'connack' ? (packet.properties?.reasonString ?? '') : ''),
    )
  })
}

test('a stranger: the log line has the id, and the record what was seen of it', async () => {
  const socket = await harness.socket(undefined)
  socket.write(connectPacket('x'))
  await readToEnd(socket)
  const line = await harness.testLog.until('connection.refused', { reason: 'certificate_missing' })
  const { stage, cause, state, action, remoteAddress, deviceId, fix } = await denialOf(String(line.denial))
  assert.deepEqual([stage, cause, state, action, deviceId], ['tls', 'certificate_missing', 'none', 'reject', undefined])
  assert.match(remoteAddress!, /127\.0\.0\.1$/)
  assert.deepEqual(fix?.command?.slice(0, 2), ['token', 'create'])
})

test('a CONNECT: the CONNACK, the log line and the record have one id', async () => {
  const device = await harness.device('named-1')
  const id = idIn(await told(device, { clientId: 'other' }))
  const line = await harness.testLog.until('connection.refused', { reason: 'client_id_mismatch' })
  const denial = await denialOf(id)
  assert.equal(line.denial, id)
  assert.deepEqual([denial.stage, denial.deviceId, denial.clientId], ['connect', 'named-1', 'other'])
  assert.deepEqual([denial.certificate?.serial, denial.variables['subject.CN']], [device.serial, ['named-1']])
})

test('a condition and a will: the record has the variables of who would have been let in', async () => {
  const night = await harness.device('night-1', { groups: ['night'] })
  const conditional = await denialOf(idIn(await told(night)))
  assert.deepEqual([conditional.stage, conditional.cause], ['connect', 'connect_condition'])
  assert.deepEqual(conditional.variables['device.group'], ['night'])
  const device = await harness.device('will-1')
  const will = { topic: 'elsewhere/x', payload: Buffer.from('x'), qos: 1 as const, retain: false }
  const denied = await denialOf(idIn(await told(device, { will })))
  assert.deepEqual([denied.stage, denied.cause, denied.asked?.topic], ['will', 'will_denied', 'elsewhere/x'])
})

test('PUBLISH: PUBACK and PUBREC name it, the same again is counted, and the statements that were tried are told', async () => {
  const client = await harness.connect(await harness.device('pub-1'), five)
  const acks: string[] = []
  client.on('packetreceive', (packet) => {
    if (packet.cmd === 'puback' || packet.cmd === 'pubrec') acks.push(idIn(packet.properties?.reasonString))
  })
  for (const qos of [1, 2, 1] as const)
    await client.publishAsync('devices/pub-1/firmware', 'x', { qos }).catch(() => {})
  assert.equal(new Set(acks).size, 1)
  const denial = await denialOf(acks[0]!)
  assert.deepEqual([denial.count, denial.stage, denial.cause], [3, 'publish', 'publish_denied'])
  assert.deepEqual(denial.asked, {
    action: 'publish',
    topic: 'devices/pub-1/firmware',
    qos: 1,
    retain: false,
    bytes: 1,
  })
  assert.deepEqual(denial.statements, [
    // biome-ignore lint/suspicious/noTemplateCurlyInString: a variable of the policy language
    { statement: 'own', because: 'allows devices/${device.id}/#' },
    { statement: 'quiet', because: 'denies devices/+/firmware' },
    { statement: 'teller', because: 'is for profile service' },
  ])
  const line = await harness.testLog.until('publish.denied', { clientId: 'pub-1' })
  assert.equal(line.denial, acks[0])
})

test('a PUBLISH on the fast path is refused with an id too, once a policy has changed under it', async () => {
  const client = await harness.connect(await harness.device('fast-1'), five)
  await client.subscribeAsync('devices/fast-1/#')
  const policy = harness.settings.policy!
  const publish = (): Promise<string> =>
    new Promise((resolve) => {
      client.once('packetreceive', (packet) =>
        resolve(idIn((packet as { properties?: { reasonString?: string } }).properties?.reasonString)),
      )
      client.publish('devices/fast-1/state', 'x', { qos: 1 }, () => {})
    })
  await client.publishAsync('devices/fast-1/state', 'x', { qos: 1 })
  await client.publishAsync('devices/fast-1/state', 'x', { qos: 1 })
  const deny = { name: 'stop', match: {}, allow: {}, deny: { publish: ['devices/fast-1/state'] } }
  harness.setPolicy({ policies: [...policy.policies, deny] })
  await harness.feed.untilApplied()
  const denial = await denialOf(await publish())
  harness.setPolicy(policy)
  await harness.feed.untilApplied()
  assert.deepEqual([denial.cause, denial.statements?.at(-1)?.statement], ['publish_denied', 'teller'])
})

test('what was denied a moment ago is allowed by the very next policy, and counted again by the one after', async () => {
  const client = await raw(await harness.device('again-1'))
  const ask = async (packetId: number, wanted: number): Promise<string> => {
    client.send(publishPacket('elsewhere/again', 'x', { qos: 1, packetId }))
    const { reason: code, properties } = await client.expect('puback', { packetId })
    assert.equal(code < 0x80 ? 0 : code, wanted)
    return idIn(properties?.reasonString)
  }
  const put = async (policies: (typeof policy)['policies']): Promise<void> => {
    harness.setPolicy({ policies })
    await harness.feed.untilApplied()
  }
  const policy = harness.settings.policy!
  const id = await ask(1, reason.notAuthorized)
  assert.equal(await ask(2, reason.notAuthorized), id)
  await put([...policy.policies, { name: 'open', match: {}, allow: { publish: ['elsewhere/#'] }, deny: {} }])
  assert.equal(await ask(3, 0), '')
  await put(policy.policies)
  assert.equal(await ask(4, reason.notAuthorized), id)
  assert.equal((await denialOf(id)).count, 3)
  client.socket.destroy()
})

test('SUBSCRIBE: SUBACK names it, with the nearest statement', async () => {
  const client = await harness.connect(await harness.device('sub-1'), five)
  const suback = new Promise<string>((resolve) => {
    client.on('packetreceive', (packet) => packet.cmd === 'suback' && resolve(idIn(packet.properties?.reasonString)))
  })
  await client.subscribeAsync('devices/sub-2/x').catch(() => {})
  const denial = await denialOf(await suback)
  assert.deepEqual([denial.stage, denial.nearest?.statement], ['subscribe', 'own'])
})

test('a delivery that the policy no longer allows is noted, and counted', async () => {
  const device = await harness.device('hears-1')
  const client = await harness.connect(device)
  await client.subscribeAsync('hall/#')
  const teller = await harness.connect(await harness.device('teller-1', { profile: 'service' }))
  for (let i = 0; i < 3; i++) await teller.publishAsync('hall/secret', 'x', { qos: 1 })
  const [denial] = await harness.feed.askDenials({ deviceId: device.id, limit: 5 })
  assert.deepEqual([denial?.stage, denial?.cause, denial?.asked?.topic], ['delivery', 'delivery_denied', 'hall/secret'])
})

test('what is refused inside the quarantine has an id, and what has led there for its cause', async () => {
  const client = await raw(undefined, 'open')
  client.send(publishPacket('devices/x', 'x', { qos: 1, packetId: 1 }))
  const { properties } = await client.expect('puback', { reason: reason.notAuthorized })
  const published = await denialOf(idIn(properties?.reasonString))
  assert.deepEqual(
    [published.stage, published.cause, published.state, published.action, published.asked?.topic],
    ['publish', 'certificate_missing', 'none', 'quarantine', 'devices/x'],
  )
  assert.deepEqual([published.fix?.command?.[0], published.statements], ['token', undefined])
  client.send({ type: 'subscribe', packetId: 2, subscriptions: [{ filter: '#', qos: 0, ...plainSubscription }] })
  const suback = await client.expect('suback')
  const subscribed = await denialOf(idIn(suback.properties?.reasonString))
  assert.deepEqual([subscribed.stage, subscribed.cause], ['subscribe', 'certificate_missing'])
  const ask = '$fleetgate/quarantine/~none/ask'
  for (let packetId = 3; packetId < 15; packetId++) {
    client.send(publishPacket(ask, '', { qos: 1, packetId }))
    await client.expect('puback', { reason: 0 })
  }
  client.send(publishPacket(ask, '', { qos: 1, packetId: 15 }))
  const often = await client.expect('puback', { reason: reason.quotaExceeded })
  assert.equal((await denialOf(idIn(often.properties?.reasonString))).cause, 'too_many_requests')
  const line = await harness.testLog.until('publish.denied', { listener: 'open', reason: 'certificate_missing' })
  assert.equal(line.denial, published.id)
  client.socket.destroy()
})

test('a queue that is full, and as much retained as may be, are denials of delivery and of publishing', async () => {
  const device = await harness.device('full-1')
  const client = await harness.connect(device, { clean: false })
  await client.subscribeAsync('devices/full-1/in', { qos: 1 })
  await client.endAsync()
  const teller = await harness.connect(await harness.device('teller-2', { profile: 'service' }))
  for (let i = 0; i < 4; i++) await teller.publishAsync('devices/full-1/in', 'x', { qos: 1 })
  const queued = await harness.testLog.until('message.dropped', { what: 'queued', owner: 'full-1' })
  const { stage, cause, count, deviceId, clientId } = await denialOf(String(queued.denial))
  assert.deepEqual([stage, cause, count, deviceId, clientId], ['delivery', 'quota_exceeded', 2, 'full-1', 'full-1'])
  for (let i = 0; i < 3; i++) await teller.publishAsync(`devices/full-1/${i}`, 'x', { qos: 1, retain: true })
  const retained = await harness.testLog.until('message.dropped', { what: 'retained', owner: 'teller-2' })
  const kept = await denialOf(String(retained.denial))
  assert.deepEqual([kept.stage, kept.asked?.topic, kept.asked?.retain], ['publish', 'devices/full-1/2', true])
})

test('messages of QoS 0 that a slow reader misses are one denial with their number, and so is what is too large', async () => {
  const device = await harness.device('slow-1')
  const client = await raw(device, 'mqtts', { properties: { maximumPacketSize: 60_000 } })
  client.send({ type: 'subscribe', packetId: 1, subscriptions: [{ filter: 'hall/#', qos: 0, ...plainSubscription }] })
  await client.expect('suback')
  const teller = await harness.connect(await harness.device('teller-3', { profile: 'service' }))
  await teller.publishAsync('hall/a', Buffer.alloc(70_000), { qos: 1 })
  const large = await harness.testLog.until('message.dropped', { clientId: 'slow-1', reason: 'packet_too_large' })
  assert.equal((await denialOf(String(large.denial))).stage, 'delivery')
  client.socket.pause()
  const connection = harness.broker.sessions.findLive('slow-1')!
  while (connection.link.counters.dropped.slow < 20) {
    await teller.publishAsync('hall/a', Buffer.alloc(59_000), { qos: 1 })
  }
  const { slow } = connection.link.counters.dropped
  client.socket.destroy()
  await harness.testLog.until('session.closed', { clientId: 'slow-1' })
  const { denial: id } = await harness.testLog.until('message.dropped', { clientId: 'slow-1', reason: 'slow_reader' })
  const { stage, cause, count } = await denialOf(String(id))
  assert.deepEqual([stage, cause, count], ['delivery', 'slow_reader', slow])
})

test('an upgrade that is refused and a PROXY header that is none have an id', async () => {
  const device = await harness.device('edge-1')
  const socket = await harness.socket(device, { port: portOf('web') })
  socket.write('GET /chat HTTP/1.1\r\nHost: x\r\n\r\n')
  const body = String(await readToEnd(socket))
  const upgrade = await denialOf(idIn(body))
  assert.deepEqual([upgrade.stage, upgrade.cause, upgrade.listener], ['connect', 'handshake_failed', 'web'])
  assert.deepEqual([upgrade.count, upgrade.certificate?.serial], [1, device.serial])
  const plain = connect(portOf('proxied'), '127.0.0.1')
  plain.on('error', () => {})
  plain.write('GET / HTTP/1.1\r\n\r\n')
  await closeOf(plain)
  const line = await harness.testLog.until('connection.refused', { listener: 'proxied' })
  assert.match((await denialOf(String(line.denial))).message, /no PROXY header of version 2/)
})

test('a session that is ended for what its client did is noted, and its last line has the id', async () => {
  const device = await harness.device('twice-1')
  const first = await raw(device)
  await raw(device)
  await first.closed()
  const taken = await harness.testLog.until('session.closed', { clientId: 'twice-1', reason: 'session_taken_over' })
  assert.equal((await denialOf(String(taken.denial))).stage, 'session')
  const rude = await raw(await harness.device('rude-1'))
  rude.socket.write(Buffer.from([0xf0, 0]))
  await rude.closed()
  const ended = await harness.testLog.until('session.closed', { clientId: 'rude-1', reason: 'protocol_violation' })
  assert.equal((await denialOf(String(ended.denial))).cause, 'protocol_violation')
})

test('a session that a revocation ends is noted', async () => {
  const device = await harness.device('gone-1')
  const client = await harness.connect(device)
  const closed = closeOf(client)
  await harness.revokeDevice(device)
  await closed
  const { denial, reason: told } = await harness.testLog.until('session.kicked', { deviceId: 'gone-1' })
  const { stage, cause } = await denialOf(String(denial))
  assert.deepEqual([stage, cause], ['session', told])
  assert.match(cause, /^(device|certificate)_revoked$/, 'whichever of the two was heard first')
})

test('one device that is refused on thousands of topics keeps what others were refused', async () => {
  const [before] = await harness.feed.askDenials({ deviceId: 'sub-1', limit: 1 })
  const client = await harness.connect(await harness.device('loud-1'))
  for (let i = 0; i < 2_000; i++) client.publish(`elsewhere/${i}`, 'x')
  await client.publishAsync('devices/loud-1/end', 'x', { qos: 1 })
  const own = await harness.feed.askDenials({ deviceId: 'loud-1', limit: 200 })
  assert.equal(own.length, 33)
  assert.equal(
    own.reduce((sum, { count }) => sum + count, 0),
    2_000,
  )
  assert.equal(own.find(({ isMixed }) => isMixed)?.count, 2_000 - 32)
  assert.deepEqual((await harness.feed.askDenials({ id: before!.id, limit: 1 }))[0]?.id, before!.id)
  const lines = harness.testLog.lines.filter(
    ({ event, clientId }) => event === 'publish.denied' && clientId === 'loud-1',
  )
  assert.ok(lines.length <= 20, `${lines.length} lines`)
})

test('what was refused is still there after a restart', async () => {
  const before = await harness.feed.askDenials({ limit: 200 })
  await harness.stopBroker()
  await harness.startBroker()
  const after = await harness.feed.askDenials({ limit: 200 })
  const plain = (list: Denial[]) => list.map(({ id, count, cause }) => `${id} ${count} ${cause}`).toSorted()
  assert.deepEqual(plain(after), plain(before))
  assert.ok(after.every(({ policyVersion }) => policyVersion !== undefined))
})

const day = 86_400_000
type Credential = Parameters<BrokerHarness['socket']>[0]
type Row = {
  cause: string
  fix: RegExp

  make(id: string): Promise<Credential>
}
/** Certificates that are refused: the fix is a certificate of our own. Those of ours hear of it in their CONNACK. */
const certificates: Row[] = [
  { cause: 'certificate_missing', fix: /^token create --device/, make: async () => undefined },
  { cause: 'certificate_self_signed', fix: /^token create --device/, make: (id) => TestPki.selfSigned(id) },
  {
    cause: 'certificate_untrusted',
    fix: /^token create --device/,
    make: async (id) => (await TestPki.create('Foreign')).device(id),
  },
  {
    cause: 'certificate_expired',
    fix: /^token create --device/,
    make: (id) =>
      harness.device(id, { notBefore: new Date(Date.now() - 3 * day), notAfter: new Date(Date.now() - day) }),
  },
  {
    cause: 'certificate_not_yet_valid',
    fix: /begins at/,
    make: (id) => {
      skewMs -= day // our clock is wrong
      return harness.device(id, { notBefore: new Date(Date.now() - 60_000) })
    },
  },
  { cause: 'certificate_wrong_usage', fix: /^token create --device/, make: (id) => harness.device(id, { usage: [] }) },
  { cause: 'certificate_unregistered', fix: /^token create --device/, make: (id) => harness.strangeDevice(id) },
  {
    cause: 'certificate_revoked',
    fix: /^token create --device/,
    make: async (id) => {
      const device = await harness.device(id)
      await harness.revokeCertificate(device)
      return device
    },
  },
]
for (const { cause, fix, make } of certificates) {
  test(`${cause}: with the fix applied it gets in`, async () => {
    skewMs += 120_000 // so that the log tells it
    const id = `fix-${cause.replaceAll('_', '-')}`
    const credential = await make(id)
    const socket = await harness.socket(credential)
    socket.write(connectPacket(id))
    await readToEnd(socket)
    const line = await harness.testLog.until('connection.refused', {
      reason: cause,
      ...(credential && { serial: credential.serial }),
    })
    const denial = await denialOf(String(line.denial))
    assert.equal(denial.cause, cause)
    assert.match(denial.fix?.command?.join(' ') ?? denial.fix?.text ?? '', fix)
    if (denial.fix?.kind === 'wait') {
      skewMs += day
      assert.equal(await harness.refusal({ id, ...credential! }), 0)
    } else assert.equal(await harness.refusal(await harness.device(id)), 0)
  })
}

test('client_id_mismatch and too_many_connections: with the fix applied they get in', async () => {
  const device = await harness.device('fix-named')
  const mismatch = await denialOf(idIn(await told(device, { clientId: 'x' })))
  assert.match(mismatch.fix!.text, /client id fix-named,/)
  assert.equal(await harness.refusal(device), 0)
  for (const suffix of ['a', 'b', 'c', 'd']) await harness.refusal(device, { clientId: `fix-named:${suffix}` })
  const many = await denialOf(idIn(await told(device, { clientId: 'fix-named:z' })))
  assert.equal(many.cause, 'too_many_connections')
  const { path, value } = many.fix!.setting!
  assert.equal(path, 'broker.maxConnectionsPerDevice')
  await harness.stopBroker()
  harness.settings.broker = { maxConnectionsPerDevice: value as number }
  await harness.startBroker()
  for (const suffix of ['a', 'b', 'c', 'd', 'e']) {
    assert.equal(await harness.refusal(device, { clientId: `fix-named:${suffix}` }), 0)
  }
})

test('an answer is no longer than a line of the feed may be, however much a certificate says', async () => {
  const organizationalUnits = Array.from({ length: 40 }, (_, i) => `${i} ${'x'.repeat(60)}`)
  const ids = Array.from({ length: 8 }, (_, i) => `wordy-${i}`)
  for (const id of ids) {
    const device = await harness.device(id, { organizationalUnits })
    const client = await harness.connect(device)
    for (let at = 0; at < 32; at++) client.publish(`elsewhere/${at}/${'y'.repeat(900)}`, 'x')
    await client.publishAsync(`devices/${id}/end`, 'x', { qos: 1 })
    client.end(true)
  }
  const denials = await harness.feed.askDenials({ limit: 200 })
  assert.ok(JSON.stringify(denials).length < 1_100_000)
  assert.ok(denials.length > 50, `${denials.length}`)
})

test('a denial that is on disk alone is counted, told and restored as one in memory', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fleetgate-denials-'))
  await using cleanUp = new AsyncDisposableStack()
  cleanUp.defer(() => rmSync(folder, { recursive: true }))
  const store = cleanUp.use(await BrokerStore.open(folder))
  let minute = 0
  let ids = 0
  const open = (): Promise<Denials> =>
    Denials.open({
      area: store.denials,
      brokerId: 'broker-1',
      policy: () => ({ version: 1, document: starter }),
      newId: () => String(++ids).padStart(12, '0'),
      clock: () => new Date(Date.UTC(2026, 0, 1, 0, minute)),
      log: new TestLog().log,
    })
  const note = (denials: Denials, deviceId: string): string =>
    denials.note(
      { deviceId, facts: { 'device.id': [deviceId], 'device.profile': ['sensor'] } },
      { stage: 'publish', cause: 'publish_denied', message: 'no', asked: { action: 'publish', topic: 'elsewhere' } },
    )
  const told = async (denials: Denials): Promise<unknown[]> =>
    (await denials.list({ limit: 10 })).map(({ deviceId, count, firstAt, lastAt, statements }) => [
      deviceId,
      count,
      firstAt.slice(14, 16),
      lastAt.slice(14, 16),
      (statements ?? []).length > 0,
    ])
  const denials = await open()
  const id = note(denials, 'cam-1')
  await denials.flush()
  minute = 1
  note(denials, 'cam-2')
  minute = 2
  assert.equal(note(denials, 'cam-1'), id, 'the same refusal has the same id')
  const wanted = [
    ['cam-1', 2, '00', '02', true],
    ['cam-2', 1, '01', '01', true],
  ]
  assert.deepEqual(await told(denials), wanted, 'one from the disk, one from memory')
  await denials[Symbol.asyncDispose]()
  await using again = await open()
  assert.deepEqual(await told(again), wanted)
  assert.equal((await again.list({ id, limit: 1 }))[0]?.count, 2)
  assert.deepEqual(await again.list({ id: 'ffffffffffff', limit: 1 }), [])
  const stranger = (remoteAddress: string): string =>
    again.note({ remoteAddress }, { stage: 'tls', cause: 'certificate_missing', message: 'no' })
  assert.equal(stranger('2001:db8::1'), stranger('2001:db8::2'), 'one /64 is one stranger')
  assert.notEqual(stranger('2001:db8::1'), stranger('2001:db8:0:1::1'))
})
