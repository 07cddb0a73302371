/** What outlives the broker: sessions, wills, retained messages. test/long/persistence.test.ts kills its process. */
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import type { IClientOptions, MqttClient } from 'mqtt'
import { BrokerHarness, eventually, Inbox, parsePolicy, type TestDevice } from '../harness/broker.ts'

const policy = parsePolicy(`
policies:
  - { name: own, match: { profile: sensor }, allow: { publish: ["devices/\${device.id}/#"], subscribe: ["#"] } }
  - { name: all, match: { profile: service }, allow: { publish: ["#"], subscribe: ["#"] } }
`)
let harness: BrokerHarness
let service: TestDevice
let skewMs = 0
before(async () => {
  harness = await BrokerHarness.start({ policy, clock: () => new Date(Date.now() + skewMs) })
  service = await harness.device('service', { profile: 'service' })
})
after(() => harness[Symbol.asyncDispose]())

const kept: IClientOptions = { clean: false, protocolVersion: 5, properties: { sessionExpiryInterval: 1_000 } }

const connackOf = (client: MqttClient): Promise<{ sessionPresent: boolean }> =>
  new Promise((resolve) => client.once('connect', resolve))

/** Listens before it is connected, so that a session that goes on loses nothing. */
async function resume(device: TestDevice, options: IClientOptions = kept) {
  const client = harness.dial(device, { clientId: device.id, ...options })
  const inbox = new Inbox(client)
  const { sessionPresent } = await connackOf(client)
  return { client, inbox, sessionPresent }
}

async function subscribed(id: string, options?: IClientOptions): Promise<TestDevice> {
  const device = await harness.device(id)
  const { client } = await resume(device, options)
  await client.subscribeAsync(`devices/${id}/in`, { qos: 2 })
  await client.endAsync()
  return device
}

async function publish(publisher: MqttClient, id: string, payloads: string[]): Promise<void> {
  for (const [at, payload] of payloads.entries()) {
    const properties = { contentType: 'text/plain' }
    await publisher.publishAsync(`devices/${id}/in`, payload, { qos: at % 2 === 0 ? 1 : 2, properties })
  }
}

test('sessions of versions 4 and 5 and their queues survive a restart of the broker', async () => {
  const five = await subscribed('restart-5')
  const four = await subscribed('restart-4', { clean: false })
  const publisher = await harness.connect(service, { protocolVersion: 5 })
  await publish(publisher, five.id, ['1', '2', '3'])
  await publish(publisher, four.id, ['1', '2', '3'])
  await harness.stopBroker()
  await harness.startBroker()
  for (const [device, options] of [
    [five, kept],
    [four, { clean: false }],
  ] as const) {
    const again = await resume(device, options)
    assert.ok(again.sessionPresent)
    await again.inbox.untilCount(3)
    const next = await harness.connect(service, { protocolVersion: 5 })
    await publish(next, device.id, ['4'])
    await again.inbox.until('4')
    assert.deepEqual(again.inbox.payloads.toSorted(), ['1', '2', '3', '4'])
    await again.client.endAsync()
  }
})

test('retained messages survive a restart, and a will that was delayed is published after it', async () => {
  const device = await harness.device('will-1')
  const will = {
    topic: 'devices/will-1/will',
    payload: Buffer.from('gone'),
    qos: 1 as const,
    retain: false,
    properties: { willDelayInterval: 100 },
  }
  const { client } = await resume(device, { ...kept, will })
  await client.publishAsync('devices/will-1/kept', 'kept', { qos: 1, retain: true })
  client.stream.destroy()
  await eventually(() => harness.broker.sessions.ofDevice('will-1').length === 0)
  await harness.stopBroker()
  await harness.startBroker()
  const watcher = await harness.connect(service)
  const inbox = new Inbox(watcher)
  await watcher.subscribeAsync('devices/will-1/#', { qos: 1 })
  await inbox.until('kept')
  skewMs += 101_000
  await inbox.until('gone')
  assert.deepEqual(inbox.payloads, ['kept', 'gone'])
  await watcher.publishAsync('devices/will-1/kept', '', { qos: 1, retain: true })
})

test('a session that ended while the broker was away is not there', async () => {
  const device = await subscribed('ended-1')
  await harness.stopBroker()
  skewMs += 1_001_000
  await harness.startBroker()
  const { sessionPresent } = await resume(device)
  assert.equal(sessionPresent, false)
})

test('a device that was revoked while the broker was away leaves nothing behind', async () => {
  const device = await subscribed('revoked-1')
  await harness.stopBroker()
  harness.feed.append({
    type: 'device.changed',
    data: { id: device.id, profile: 'sensor', groups: [], status: 'revoked' },
  })
  await harness.startBroker()
  await harness.feed.untilApplied()
  const renewed = await harness.device('revoked-1')
  assert.equal((await resume(renewed)).sessionPresent, false)
})

const now = (): string => new Date(Date.now() + skewMs).toISOString()

test('what a revoked device has left behind is purged where its revocation says so, for those who are there and those who are not', async () => {
  const reader = await harness.device('reader-1')
  const { client: absent } = await resume(reader)
  await absent.subscribeAsync(['devices/thief-1/#', 'devices/retired-1/#'], { qos: 1 })
  await absent.endAsync()
  const [thief, retired] = [await harness.device('thief-1'), await harness.device('retired-1')]
  for (const device of [thief, retired]) {
    const client = await harness.connect(device)
    await client.publishAsync(`devices/${device.id}/state`, `${device.id} is up`, { qos: 1, retain: true })
    await client.publishAsync(`devices/${device.id}/log`, `${device.id} says`, { qos: 1 })
  }
  const watcher = await harness.connect(service, { clientId: 'service:watcher' })
  const seen = new Inbox(watcher)
  await watcher.subscribeAsync('devices/+/state', { qos: 1 })
  await seen.until('thief-1 is up')
  await harness.revokeDevice(thief, { purge: { retained: now(), queued: now() } })
  await harness.revokeDevice(retired)
  await seen.until(({ topic, payload }) => topic === 'devices/thief-1/state' && payload === '')
  const late = await harness.connect(service, { clientId: 'service:late' })
  const found = new Inbox(late)
  await late.subscribeAsync('devices/+/state', { qos: 1 })
  await found.until('retired-1 is up')
  const { inbox, client } = await resume(reader)
  await inbox.until('retired-1 says')
  await client.endAsync()
  assert.deepEqual(inbox.payloads.toSorted(), ['', 'retired-1 is up', 'retired-1 says'])
  assert.deepEqual(
    found.messages.filter(({ topic }) => topic === 'devices/thief-1/state'),
    [],
  )
})

test('a broker that was away while a device was revoked and let in again purges what is older, and keeps what is newer', async () => {
  const device = await harness.device('thief-2')
  const client = await harness.connect(device)
  await client.publishAsync('devices/thief-2/state', 'old', { qos: 1, retain: true })
  await harness.stopBroker()
  const purge = { retained: now() }
  const readmitted = { id: device.id, profile: 'sensor', groups: [], purge }
  harness.feed.append({ type: 'device.changed', data: { ...readmitted, status: 'revoked' } })
  harness.feed.append({ type: 'device.changed', data: { ...readmitted, status: 'active' } })
  skewMs += 1_000
  await harness.startBroker()
  await harness.testLog.until('retained.purged', { deviceId: 'thief-2' })
  const again = await harness.connect(device)
  await again.publishAsync('devices/thief-2/other', 'new', { qos: 1, retain: true })
  await harness.stopBroker()
  await harness.startBroker()
  const watcher = await harness.connect(service)
  const seen = new Inbox(watcher)
  await watcher.subscribeAsync('devices/thief-2/#', { qos: 1 })
  await seen.until('new')
  assert.deepEqual(seen.payloads, ['new'])
})

test('a revocation that keeps messages keeps those from after an earlier theft, and takes none of before back', async () => {
  const device = await harness.device('twice-1')
  const publish = async (name: string): Promise<void> => {
    const client = await harness.connect(device)
    await client.publishAsync(`devices/twice-1/${name}`, name, { qos: 1, retain: true })
    await client.endAsync()
  }
  const change = async (status: 'active' | 'revoked', more: object): Promise<void> => {
    harness.feed.append({
      type: 'device.changed',
      data: { id: device.id, profile: 'sensor', groups: [], status, ...more },
    })
    await harness.feed.untilApplied()
  }
  await publish('before')
  const purge = { retained: now(), queued: now() }
  await change('revoked', { purge })
  await harness.testLog.until('retained.purged', { deviceId: 'twice-1' })
  await change('active', { purge })
  await publish('after')
  await change('revoked', { purge, kept: ['retained', 'queued'] })
  const watcher = await harness.connect(service)
  const seen = new Inbox(watcher)
  await watcher.subscribeAsync('devices/twice-1/#', { qos: 1 })
  await seen.until('after')
  assert.deepEqual(seen.payloads, ['after'])
})

test('what was queued before a readmission stays void where the clock of the broker is an hour ahead, and what came after it is delivered although that is set back', async () => {
  skewMs += 3_600_000
  const reader = await harness.device('reader-3')
  const { client: absent } = await resume(reader)
  await absent.subscribeAsync('devices/thief-3/#', { qos: 1 })
  await absent.endAsync()
  const thief = await harness.device('thief-3')
  const purge = () => ({ retained: new Date().toISOString(), queued: new Date().toISOString() })
  const client = await harness.connect(thief)
  await client.publishAsync('devices/thief-3/log', 'lie', { qos: 1 })
  await harness.revokeDevice(thief, { purge: purge() })
  const readmitted = { id: thief.id, profile: 'sensor', groups: [], status: 'active' as const, purge: purge() }
  const again = await harness.strangeDevice(thief.id)
  harness.feed.append({ type: 'device.changed', data: readmitted }, harness.issuedFact(again))
  await harness.feed.untilApplied()
  await (await harness.connect(again)).publishAsync('devices/thief-3/log', 'truth', { qos: 1 })
  // Set back by more than was too much, it is behind what it has stamped, and behind the purge.
  skewMs -= 3_630_000
  const will = { topic: 'devices/thief-3/will', payload: Buffer.from('gone'), qos: 1 as const, retain: false }
  const later = await harness.connect(again, { clientId: 'thief-3:later', will })
  await later.publishAsync('devices/thief-3/log', 'more of it', { qos: 1 })
  later.stream.destroy()
  await harness.testLog.until('session.closed', { clientId: 'thief-3:later' })
  await harness.stopBroker()
  await harness.startBroker()
  const { inbox, client: back } = await resume(reader)
  await inbox.until('gone')
  await back.endAsync()
  assert.deepEqual(inbox.payloads, ['truth', 'more of it', 'gone'])
  skewMs += 30_000
})
