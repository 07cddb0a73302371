import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import type { IPublishPacket, MqttClient } from 'mqtt'
import { anyEvent, type FleetEvent, fleetEvent } from '../../contract/fleet-events.ts'
import { BrokerHarness, EventInbox, parsePolicy } from '../harness/broker.ts'

const policy = parsePolicy(`
policies:
  - { name: own, match: { profile: sensor }, allow: { publish: ["devices/\${device.id}/#"], subscribe: ["x/#"] } }
  - name: watch
    match: { profile: service }
    allow: { subscribe: ["$fleetgate/events/#", "$fleetgate/devices/+/presence"] }
`)

let harness: BrokerHarness
let watcher: MqttClient
let events: EventInbox

before(async () => {
  harness = await BrokerHarness.start({ policy, broker: { id: 'b-1' } })
  watcher = await harness.connect(await harness.device('app-1', { profile: 'service' }), { protocolVersion: 5 })
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

test('nobody but the broker publishes events, whatever it is allowed otherwise', async () => {
  await assert.rejects(watcher.publishAsync('$fleetgate/events/alert', '{}', { qos: 1 }), /Not authorized/)
  await events.until('denied', { deviceId: 'app-1' })
  assert.deepEqual(events.all('alert'), [])
})

test('every event is as the published schema says', () => {
  assert.ok(events.events.length > 5)
  for (const event of events.events) assert.deepEqual(fleetEvent.parse(event) satisfies FleetEvent, event)
  assert.equal(anyEvent, '$fleetgate/events/#')
})
