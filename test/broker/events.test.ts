import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { cpSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import type { IPublishPacket, MqttClient } from 'mqtt'
import { Events } from '../../broker/events.ts'
import { Presence } from '../../broker/presence.ts'
import type { Connection } from '../../broker/sessions.ts'
import type { FeedFact } from '../../contract/feed.ts'
import {
  type Presence as Body,
  type FleetEvent,
  fleetEvent,
  presence,
  presenceTopic,
} from '../../contract/fleet-events.ts'
import type { CertificateFacts } from '../../pki/certificate.ts'
import { FleetError } from '../../runtime/errors.ts'
import { BrokerHarness, EventInbox, eventually, Inbox, parsePolicy, type TestDevice } from '../harness/broker.ts'

const policy = parsePolicy(`
policies:
  - { name: own, match: { profile: sensor }, allow: { publish: ["devices/\${device.id}/#"], subscribe: ["x/#"] } }
  - { name: all, match: { profile: camera }, allow: { publish: ["#"], subscribe: ["#", "+/devices/#", "+/+/+/presence"] } }
  - name: watch
    match: { profile: service }
    allow: { subscribe: ["$fleetgate/events/#", "$fleetgate/devices/+/presence"] }
`)

let harness: BrokerHarness
let watcher: MqttClient
let received: Inbox
let events: EventInbox
let app: TestDevice

before(async () => {
  harness = await BrokerHarness.start({ policy, broker: { id: 'b-1' } })
  app = await harness.device('app-1', { profile: 'service' })
  watcher = await harness.connect(app, { protocolVersion: 5 })
  received = new Inbox(watcher)
  events = await EventInbox.open(watcher)
})
after(() => harness[Symbol.asyncDispose]())

test('an application hears who connects and disconnects and why, with what the certificate says', async () => {
  const device = await harness.device('s-1')
  const client = await harness.connect(device)
  const connected = await events.until('connected', { deviceId: 's-1' })
  const { at, id, message: _, remoteAddress, ...facts } = connected
  assert.deepEqual(facts, {
    type: 'connected',
    broker: 'b-1',
    deviceId: 's-1',
    clientId: 's-1',
    listener: 'mqtts',
    state: 'valid',
    action: 'admit',
    certificate: {
      fingerprint: device.fingerprint,
      serial: device.serial,
      subject: 'CN=s-1',
      issuer: facts.certificate!.issuer,
      notBefore: facts.certificate!.notBefore,
      notAfter: device.notAfter.toISOString(),
      authority: 'fleetgate',
    },
  })
  assert.match(id, /^[0-9a-f]{16}$/)
  assert.ok(remoteAddress?.includes('127.0.0.1'))
  assert.ok(Math.abs(Date.parse(at) - Date.now()) < 60_000)
  await client.endAsync()
  assert.equal((await events.until('disconnected', { deviceId: 's-1' })).reason, 'disconnected')
})

test('events say what they are to who does not read them: type of content, device and fingerprint', async () => {
  const device = await harness.device('s-2')
  const packet = new Promise<IPublishPacket>((resolve) => {
    watcher.on('message', (topic, _payload, told) => {
      if (topic === '$fleetgate/events/connected' && told.properties?.userProperties?.['device-id'] === 's-2')
        resolve(told)
    })
  })
  await harness.connect(device)
  const { qos, retain, properties } = await packet
  assert.deepEqual([qos, retain], [1, false])
  assert.equal(properties?.contentType, 'application/json')
  assert.equal(properties?.userProperties?.['certificate-fingerprint'], device.fingerprint)
})

test('who is refused is told of once in a minute, with the denial to ask about', async () => {
  const device = await harness.strangeDevice('s-3')
  for (let attempt = 0; attempt < 3; attempt++) assert.equal(await harness.refusal(device), 5)
  const refused = await events.until('refused', { clientId: 's-3' })
  const { state, action, stage, reason, denial, certificate } = refused
  assert.deepEqual([state, action, stage, reason], ['not_registered', 'reject', 'connect', 'certificate_unregistered'])
  assert.equal(denial, harness.testLog.find('connection.refused', { clientId: 's-3' })?.denial)
  assert.equal(certificate?.fingerprint, device.fingerprint)
  await harness.connect(await harness.device('s-4'))
  await events.until('connected', { deviceId: 's-4' })
  assert.equal(events.all('refused', { clientId: 's-3' }).length, 1)
})

test('a publish and a subscription that are denied are told of, with what was asked', async () => {
  const client = await harness.connect(await harness.device('s-5'))
  await client.publishAsync('devices/other/x', 'abc', { qos: 1, retain: true })
  await assert.rejects(client.subscribeAsync('$fleetgate/events/#'))
  const published = await events.until('denied', { deviceId: 's-5', reason: 'publish_denied' })
  assert.deepEqual(published.asked, { action: 'publish', topic: 'devices/other/x', qos: 1, retain: true, bytes: 3 })
  const subscribed = await events.until('denied', { deviceId: 's-5', reason: 'subscribe_denied' })
  assert.equal(subscribed.asked?.topic, '$fleetgate/events/#')
})

test('a will that is not allowed refuses its CONNECT, and members of a group share what is told', async () => {
  const inboxes = await Promise.all(
    ['app-1:a', 'app-1:b'].map(async (clientId) => {
      const client = await harness.connect(app, { clientId })
      await client.subscribeAsync('$share/g/$fleetgate/events/refused', { qos: 1 })
      return new Inbox(client)
    }),
  )
  const device = await harness.device('s-13')
  await harness.refusal(device, {
    will: { topic: 'devices/other/x', payload: Buffer.from('x'), qos: 0, retain: false },
  })
  await harness.refusal(device, { clientId: 'other' })
  const [first, second] = [
    await events.until('refused', { stage: 'will' }),
    await events.until('refused', { clientId: 'other' }),
  ]
  assert.deepEqual(
    [first.reason, first.asked?.topic, second.reason],
    ['will_denied', 'devices/other/x', 'client_id_mismatch'],
  )
  await Promise.all(inboxes.map((inbox) => inbox.untilCount(1)))
  const shared = inboxes.flatMap(({ payloads }) => payloads.map((payload) => JSON.parse(payload).id))
  assert.deepEqual(shared.sort(), [first.id, second.id].sort())
})

test('nobody but the broker publishes events, whatever it is allowed otherwise', async () => {
  await assert.rejects(watcher.publishAsync('$fleetgate/events/alert', '{}', { qos: 1 }), /Not authorized/)
  await events.until('denied', { deviceId: 'app-1' })
  assert.deepEqual(events.all('alert'), [])
})

const presenceOf = async (deviceId: string, isWanted: (body: Body) => boolean): Promise<Body> => {
  const { payload } = await received.until(
    ({ topic, payload }) =>
      topic === presenceTopic(deviceId) && payload !== '' && isWanted(presence.parse(JSON.parse(payload))),
  )
  return JSON.parse(payload)
}

test('presence is retained: connected while one client id is, then since when not, and why', async () => {
  const device = await harness.device('s-6')
  const first = await harness.connect(device)
  const second = await harness.connect(device, { clientId: 's-6:tool' })
  await watcher.subscribeAsync('$fleetgate/devices/+/presence', { qos: 1 })
  const both = await presenceOf('s-6', ({ clientIds }) => clientIds.length === 2)
  const { status, clientIds, certificate, listener, state, broker } = both
  assert.deepEqual(
    [status, clientIds, listener, state, broker],
    ['connected', ['s-6', 's-6:tool'], 'mqtts', 'valid', 'b-1'],
  )
  assert.deepEqual([certificate?.fingerprint, certificate?.authority], [device.fingerprint, 'fleetgate'])
  await first.endAsync()
  const one = await presenceOf('s-6', ({ clientIds }) => clientIds.join() === 's-6:tool')
  assert.deepEqual([one.status, one.since], ['connected', both.since])
  second.stream.destroy()
  const gone = await presenceOf('s-6', ({ clientIds }) => clientIds.length === 0)
  assert.deepEqual(
    [gone.status, gone.reason, gone.certificate?.serial],
    ['disconnected', 'connection_lost', device.serial],
  )
  assert.ok(gone.since > one.since)
  const later = await harness.connect(await harness.device('app-2', { profile: 'service' }))
  const inbox = new Inbox(later)
  await later.subscribeAsync('$fleetgate/devices/s-6/presence')
  const retained = await inbox.until(({ topic }) => topic === presenceTopic('s-6'))
  assert.deepEqual([retained.retain, JSON.parse(retained.payload)], [true, gone])
})

test('who may subscribe to everything gets nothing of it', async () => {
  const client = await harness.connect(await harness.device('all-1', { profile: 'camera' }))
  const inbox = new Inbox(client)
  await client.subscribeAsync(['#', '+/devices/#', '+/+/+/presence'])
  await harness.connect(await harness.device('s-7'))
  await presenceOf('s-7', ({ status }) => status === 'connected')
  await client.publishAsync('all-1', 'done', { qos: 1 })
  await inbox.until('done')
  assert.deepEqual(inbox.payloads, ['done'])
})

test('what the registry says of certificates and devices is told: enrolled, renewed, expiring, revoked', async () => {
  const device = await harness.device('s-8')
  const enrolled = await events.until('enrolled', { deviceId: 's-8' })
  const { fingerprint, serial, notAfter } = device
  assert.deepEqual(enrolled.certificate, { fingerprint, serial, notAfter: notAfter.toISOString() })
  const renewals: string[] = []
  for (const via of ['reenroll', 'reenroll+late']) {
    const next = await harness.strangeDevice('s-8')
    const fact = harness.issuedFact(next)
    harness.feed.append({ ...fact, data: { ...fact.data, via } } as FeedFact)
    await harness.feed.untilApplied()
    renewals.push(next.serial)
  }
  const expiring = { serial, fingerprint, deviceId: 's-8', notAfter: notAfter.toISOString() }
  harness.feed.append({ type: 'certificate.expiring', data: expiring })
  assert.deepEqual((await events.until('expiring', { deviceId: 's-8' })).certificate, enrolled.certificate)
  const use = { kind: 'key_reused', deviceId: 's-8', remoteAddress: '192.0.2.9', message: 'used', count: 3 } as const
  harness.feed.append({ type: 'alert.raised', data: { ...use, incident: '0123456789ab' } })
  const { type: _, id: _id, broker: _broker, at: raisedAt, ...alert } = await events.until('alert', { deviceId: 's-8' })
  assert.deepEqual(alert, { ...use, incident: '0123456789ab' })
  assert.ok(Date.parse(raisedAt) > 0)
  const told = events.all('renewed', { deviceId: 's-8' }).map(({ certificate }) => certificate?.serial)
  assert.deepEqual(told, renewals)
  await harness.connect(device)
  await presenceOf('s-8', ({ status }) => status === 'connected')
  await harness.revokeDevice(device)
  await events.until('revoked', { deviceId: 's-8', scope: 'device' })
  const revoked = await events.until('revoked', { deviceId: 's-8', scope: 'certificate' })
  assert.deepEqual([revoked.reason, revoked.certificate?.serial], ['keyCompromise', serial])
  assert.equal((await events.until('disconnected', { deviceId: 's-8' })).reason, 'device_revoked')
  const after = await presenceOf('s-8', ({ status }) => status === 'revoked')
  assert.deepEqual([after.reason, after.clientIds], ['device_revoked', []])
})

test('a device that is put on hold, and taken off it, is told of as such', async () => {
  const device = await harness.device('s-12')
  await harness.connect(device)
  const change = (status: 'active' | 'held') =>
    harness.feed.append({ type: 'device.changed', data: { id: 's-12', profile: 'sensor', groups: [], status } })
  change('held')
  const held = await presenceOf('s-12', ({ status }) => status === 'held')
  assert.deepEqual([held.reason, held.clientIds], ['device_held', []])
  change('active')
  const { reason, since } = await presenceOf('s-12', ({ status }) => status === 'disconnected')
  assert.equal(reason, undefined)
  assert.ok(since >= held.since)
  await events.until('held', { deviceId: 's-12' })
  await events.until('enabled', { deviceId: 's-12' })
})

test('a device that is revoked while it is away is told of as revoked', async () => {
  const device = await harness.device('s-9')
  await (await harness.connect(device)).endAsync()
  const gone = await presenceOf('s-9', ({ status }) => status === 'disconnected')
  await harness.revokeDevice(device)
  const revoked = await presenceOf('s-9', ({ status }) => status === 'revoked')
  assert.deepEqual(revoked.certificate, gone.certificate)
})

test('every event is as the published schema says', () => {
  assert.ok(events.events.length > 5)
  for (const event of events.events) assert.deepEqual(fleetEvent.parse(event) satisfies FleetEvent, event)
})

test('after a crash nobody is told of as connected, and PEM is told where the configuration says so', async () => {
  const device = await harness.device('s-10')
  await harness.connect(device)
  await presenceOf('s-10', ({ status }) => status === 'connected')
  const data = join(harness.folder, 'data')
  cpSync(data, `${data}.crashed`, { recursive: true })
  await harness.stopBroker()
  rmSync(data, { recursive: true })
  renameSync(`${data}.crashed`, data)
  harness.settings.broker = { id: 'b-1', events: { certificatePem: true } }
  await harness.startBroker()
  watcher = await harness.connect(app, { protocolVersion: 5 })
  received = new Inbox(watcher)
  await watcher.subscribeAsync('$fleetgate/devices/+/presence')
  const restarted = await presenceOf('s-10', () => true)
  assert.deepEqual([restarted.status, restarted.reason, restarted.clientIds], ['disconnected', 'broker_restarted', []])
  assert.equal((await presenceOf('s-9', () => true)).status, 'revoked')
  await harness.connect(device)
  const { certificate } = await presenceOf('s-10', ({ status }) => status === 'connected')
  assert.equal(
    new X509Certificate(decodeURIComponent(certificate!.pem!)).fingerprint256.replaceAll(':', '').toLowerCase(),
    device.fingerprint,
  )
})

test('of a device that the registry does not have any more there is no presence', async () => {
  const { pki, feed } = harness
  feed.rewrite(
    { type: 'trust.changed', data: { anchors: pki.anchors } },
    { type: 'policy.changed', data: { version: 1, document: policy } },
    { type: 'device.changed', data: { id: 'app-1', profile: 'service', groups: [], status: 'active' } },
    harness.issuedFact(app),
  )
  feed.drop()
  await received.until(({ topic, payload }) => topic === presenceTopic('s-9') && payload === '')
})

test('switched off, nothing is told and nothing is kept', async () => {
  await harness.stopBroker()
  harness.settings.broker = { events: { enabled: false } }
  await harness.startBroker()
  const client = await harness.connect(app)
  const inbox = new Inbox(client)
  await client.subscribeAsync(['$fleetgate/devices/+/presence', '$fleetgate/events/#'], { qos: 1 })
  const second = await harness.connect(app, { clientId: 'app-1:2' })
  await second.publishAsync('denied', 'x', { qos: 1 })
  await second.endAsync()
  await client.publishAsync('denied', 'x', { qos: 1 })
  assert.deepEqual(inbox.messages, [])
})

const settings = { enabled: true, maxPerSecond: 5, certificatePem: false }
const clock = (): Date => new Date('2026-03-01T09:00:00Z')

/** Events without a broker, and what of them went out. */
function alone({ isWanted = () => true }: { isWanted?: (topic: string) => boolean } = {}) {
  let ids = 0
  const published: FleetEvent[] = []
  const alone = new Events({ settings, brokerId: 'b-1', newId: () => `${ids++}`, clock })
  alone.attach({
    isWanted,
    publish: async (messages) => {
      published.push(...messages.map(({ payload }) => JSON.parse(String(payload))))
    },
  })
  return { events: alone, published }
}

test('of a storm of one type some are told and the rest as a number, and other types are told as ever', async () => {
  const { events, published } = alone()
  for (let n = 0; n < 10_000; n++) events.raise({ type: 'disconnected', deviceId: `d-${n}`, reason: 'connection_lost' })
  events.raise({ type: 'alert', deviceId: 'd-1', kind: 'clone' })
  await events[Symbol.asyncDispose]()
  const told = published.map(({ type, deviceId, count }) => [type, deviceId, count])
  assert.deepEqual(told, [
    ...[0, 1, 2, 3, 4].map((n) => ['disconnected', `d-${n}`, undefined]),
    ['alert', 'd-1', undefined],
    ['disconnected', undefined, 9_995],
  ])
})

test('what nobody has subscribed to is not written', async () => {
  const { events, published } = alone({ isWanted: (topic) => topic === '$fleetgate/events/alert' })
  const unread = {
    get subject(): never {
      throw new Error('it was read')
    },
    der: Buffer.alloc(0),
  } as unknown as CertificateFacts
  events.raise({ type: 'connected', deviceId: 'd-1', certificate: unread })
  events.raise({ type: 'alert', deviceId: 'd-1' })
  await events[Symbol.asyncDispose]()
  assert.deepEqual(
    published.map(({ type }) => type),
    ['alert'],
  )
})

test('an event that somebody may not have is denied without another event, a will that is due with one', async () => {
  const { events, published } = alone()
  const refusal = { stage: 'delivery', cause: 'delivery_denied', message: 'no' } as const
  const asked = { action: 'receive', topic: '$fleetgate/events/denied' } as const
  events.refused({ deviceId: 'd-1' }, { ...refusal, asked }, '0123456789ab')
  events.refused({ deviceId: 'd-1' }, { ...refusal, asked: { ...asked, topic: 'x' } }, '0123456789ac')
  events.refused({ deviceId: 'd-1' }, { ...refusal, stage: 'will' }, '0123456789ad')
  await events[Symbol.asyncDispose]()
  assert.deepEqual(
    published.map(({ type, denial }) => [type, denial]),
    [
      ['denied', '0123456789ac'],
      ['denied', '0123456789ad'],
    ],
  )
})

const connectionOf = (deviceId: string) => ({
  deviceId,
  clientId: deviceId,
  remoteAddress: '192.0.2.1',
  rules: { name: 'mqtts' },
  state: 'live',
})

test('who comes and goes until some time after a write is told in one, as it stands then, and who comes alone at once', async () => {
  const told: string[] = []
  const connections = ['d-1', 'd-2', 'd-3'].map(connectionOf)
  let go = (): void => {}
  const presence = await Presence.open({
    settings,
    brokerId: 'b-1',
    events: { raise: () => {} },
    store: { async *retained() {} },
    router: {
      retain: async ({ payload }) => {
        const { deviceId, status } = JSON.parse(String(payload)) as Body
        told.push(`${deviceId} ${status}`)
      },
      route: async () => false,
    },
    sessions: {
      ofDevice: (id) =>
        connections.filter(({ deviceId, state }) => deviceId === id && state === 'live') as unknown as Connection[],
    },
    gate: { standingOf: () => 'active' },
    clock,
    onFailed: assert.ifError,
    pause: (ms) => {
      told.push(`pause ${ms}`)
      return new Promise<void>((resolve) => {
        go = resolve
      })
    },
  })
  const [first, second, third] = connections as unknown as Connection[]
  presence.opened(first!)
  await eventually(() => told.length === 2)
  presence.opened(second!)
  // A turn of its own, in which what the one before has brought would be told.
  await new Promise((resolve) => setImmediate(() => setImmediate(resolve)))
  presence.opened(third!)
  connections[1]!.state = 'closed'
  presence.closed(second!, 'connection_lost')
  await new Promise((resolve) => setImmediate(() => setImmediate(resolve)))
  assert.deepEqual(told, ['d-1 connected', 'pause 25'])
  go()
  await eventually(() => told.length === 5)
  assert.deepEqual(told.slice(2), ['d-2 disconnected', 'd-3 connected', 'pause 25'])
  go()
  await presence[Symbol.asyncDispose]()
})

test('a presence is told as it stands when its turn comes, and again when the store did not take it', async ({
  mock,
}) => {
  mock.timers.enable({ apis: ['setInterval'] })
  const connection = connectionOf('d-1')
  const retained: (Body | undefined)[] = []
  const failed: unknown[] = []
  let isFull = false
  const presence = await Presence.open({
    settings,
    brokerId: 'b-1',
    events: { raise: () => {} },
    store: { async *retained() {} },
    router: {
      retain: async ({ payload }) => {
        if (isFull) throw new FleetError('unavailable', 'full')
        retained.push(JSON.parse(String(payload)))
      },
      route: async () => false,
    },
    sessions: { ofDevice: () => (connection.state === 'live' ? [connection as unknown as Connection] : []) },
    gate: { standingOf: () => 'active' },
    clock,
    onFailed: (error) => failed.push(error),
  })
  await using _ = presence
  const turn = (state: string): void => {
    connection.state = state
    if (state === 'live') presence.opened(connection as unknown as Connection)
    else presence.closed(connection as unknown as Connection, 'connection_lost')
  }
  for (let n = 0; n < 1_000; n++) turn(n % 2 === 0 ? 'live' : 'closed')
  await eventually(() => retained.length > 0)
  assert.deepEqual(
    retained.map((body) => [body?.status, body?.reason]),
    [['disconnected', 'connection_lost']],
  )
  isFull = true
  turn('live')
  await eventually(() => failed.length > 0)
  isFull = false
  mock.timers.tick(1_000)
  await eventually(() => retained.length > 1)
  assert.deepEqual([retained.length, retained[1]?.status, retained[1]?.clientIds], [2, 'connected', ['d-1']])
})
