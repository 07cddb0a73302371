import assert from 'node:assert/strict'
import { once } from 'node:events'
import { after, beforeEach, test } from 'node:test'
import { type FeedFact, type FromEnroll, startCursor } from '../../../contract/feed.ts'
import { BrokerHarness, closeOf, connectPacket, eventually, starter } from '../../harness/broker.ts'
import { TestPki } from '../../harness/certificates.ts'
import { FakeFeed } from '../../harness/feed.ts'

let harness: BrokerHarness
let started = 0
beforeEach(async () => {
  if (started++ > 0) await harness[Symbol.asyncDispose]()
  harness = await BrokerHarness.start()
})
after(() => harness[Symbol.asyncDispose]())

test('an event is in force and on disk when it is reported as applied', async () => {
  const device = await harness.device('sensor-1')
  const other = await harness.device('sensor-2')
  const client = await harness.connect(device)
  const closed = closeOf(client)
  let liveAtReport: number | undefined
  harness.feed.once('applied', () => {
    liveAtReport = harness.broker.sessions.ofDevice('sensor-1').filter(({ socket }) => !socket.destroyed).length
  })
  await harness.revokeDevice(device)
  assert.equal(liveAtReport, 0)
  await closed
  await harness.stopBroker()
  harness.feed.answering = false
  await harness.startBroker()
  assert.equal(await harness.refusal(device), 5, 'a revocation that is on disk needs nobody to confirm it')
  assert.equal(await harness.refusal(other), 3, 'stale: enroll says nothing')
})

test('a restart goes on from the cursor, and what it knew stays known', async () => {
  const device = await harness.device('sensor-1')
  await harness.stopBroker()
  const head = harness.feed.head
  await harness.startBroker()
  assert.equal(harness.feed.hellos.at(-1)!.cursor.seq, head)
  assert.equal(await harness.refusal(device), 0)
})

test('a revocation while the broker was down is in force before anybody is admitted', async () => {
  const device = await harness.device('sensor-1')
  const other = await harness.device('sensor-2')
  await harness.stopBroker()
  harness.feed.append({
    type: 'device.changed',
    data: { id: 'sensor-1', profile: 'sensor', groups: [], status: 'revoked' },
  })
  harness.feed.answering = false
  await harness.startBroker()
  assert.equal(await harness.refusal(device), 3)
  assert.equal(await harness.refusal(other), 3)
  harness.feed.answering = true
  harness.feed.drop()
  await harness.broker.feed.untilLive()
  assert.equal(await harness.refusal(device), 5)
  assert.equal(await harness.refusal(other), 0)
})

test('while enroll is away what is known stays in force, and a revocation is applied when it is back', async () => {
  const device = await harness.device('sensor-1')
  const other = await harness.device('sensor-2')
  const client = await harness.connect(device)
  const closed = closeOf(client)
  await harness.restartFeed(() => assert.ok(client.connected))
  await harness.testLog.until('feed.disconnected')
  assert.equal(await harness.refusal(other), 0, 'known devices come and go')
  harness.feed.append({
    type: 'device.changed',
    data: { id: 'sensor-1', profile: 'sensor', groups: [], status: 'revoked' },
  })
  await closed
  assert.equal(await harness.refusal(device), 5)
})

test('a refusal by enroll is told once, and what is known stays in force', async () => {
  const device = await harness.device('sensor-1')
  for (const _ of [1, 2]) harness.feed.put({ kind: 'refused', code: 'certificate_revoked' })
  await harness.testLog.until('feed.rejected')
  assert.equal(await harness.broker.feed.sync(2_000), true)
  const told = harness.testLog.lines.filter(({ event }) => event === 'feed.rejected')
  assert.deepEqual(
    told.map(({ reason }) => reason),
    ['certificate_revoked'],
  )
  assert.equal(await harness.refusal(device), 0)
})

test('sync tells whether everything committed before is in force', async () => {
  harness.feed.beforePong = () => harness.setPolicy(starter)
  assert.equal(await harness.broker.feed.sync(2_000), true)
  harness.feed.beforePong = undefined
  harness.feed.answering = false
  assert.equal(await harness.broker.feed.sync(50), false)
  harness.feed.drop()
  await harness.testLog.until('feed.disconnected')
  assert.equal(await harness.broker.feed.sync(50), false)
})

test('while enroll is away a certificate not known here hears to try again; one that waits gets in when enroll is back', async () => {
  harness.feed.answering = false
  harness.feed.drop()
  await harness.testLog.until('feed.disconnected')
  const device = await harness.device('sensor-1')
  assert.equal(await harness.refusal(device), 3)
  assert.ok(harness.testLog.find('connection.refused', { reason: 'snapshot_stale' }))
  const waiting = harness.refusal(device)
  harness.feed.answering = true
  harness.feed.drop()
  assert.equal(await waiting, 0)
})

test('the first session with a certificate is reported once, also over a loss of the feed and a restart', async () => {
  harness.feed.noting = false
  const device = await harness.device('sensor-1')
  await harness.connect(device)
  const report = await harness.feed.untilReport('certificate.used')
  assert.deepEqual([report.deviceId, report.serial, report.clientId], ['sensor-1', device.serial, 'sensor-1'])
  harness.feed.noting = true
  harness.feed.drop()
  await eventually(() => [...harness.feed.reports.values()][0]!.times === 2)
  await harness.stopBroker()
  await harness.startBroker()
  await harness.connect(device)
  const other = await harness.device('sensor-2')
  await harness.connect(other)
  await harness.feed.untilReport('certificate.used', ({ deviceId }) => deviceId === 'sensor-2')
  assert.equal(harness.feed.reports.size, 2)
})

test('a feed with another history is read anew beside the snapshot in force; whoever is unknown in it is kicked', async () => {
  const kept = await harness.device('kept-1')
  const gone = await harness.device('gone-1')
  const [keptClient, goneClient] = [await harness.connect(kept), await harness.connect(gone)]
  const closed = closeOf(goneClient)
  harness.feed.rewrite(
    { type: 'trust.changed', data: { anchors: harness.pki.anchors } },
    { type: 'policy.changed', data: { version: 1, document: starter } },
    { type: 'device.changed', data: { id: 'kept-1', profile: 'sensor', groups: [], status: 'active' } },
    harness.issuedFact(kept),
  )
  harness.feed.drop()
  await harness.testLog.until('feed.reset')
  await closed
  await harness.testLog.until('session.kicked', { deviceId: 'gone-1', reason: 'certificate_unregistered' })
  assert.ok(keptClient.connected)
  assert.equal(await harness.refusal(gone), 5)
  await harness.stopBroker()
  await harness.startBroker()
  assert.equal(harness.feed.hellos.at(-1)!.cursor.seq, harness.feed.head, 'the new snapshot is the stored one')
  assert.equal(await harness.refusal(gone), 5)
})

test('a reset that breaks off leaves the old snapshot in force', async () => {
  const device = await harness.device('sensor-1')
  const client = await harness.connect(device)
  const appliedBefore = harness.feed.appliedSeq
  harness.feed.rewrite(
    { type: 'trust.changed', data: { anchors: harness.pki.anchors } },
    { type: 'policy.changed', data: { version: 1, document: starter } },
  )
  let broken = 0
  harness.feed.distort = (event) => {
    if (event.seq === 2 && broken++ < 2) return { ...event, hash: '0'.repeat(64) }
    return event
  }
  const hellos = harness.feed.hellos.length
  harness.feed.drop()
  while (harness.feed.hellos.length < hellos + 2) await once(harness.feed, 'hello')
  assert.ok(client.connected)
  assert.equal(harness.feed.appliedSeq, appliedBefore, 'nothing of a draft is reported as applied')
  await harness.testLog.until('session.kicked', { deviceId: 'sensor-1' })
})

test('a feed that does not go on at the cursor is told as a snapshot: built aside, in force with what came behind it', async () => {
  const kept = await harness.device('kept-2')
  const thief = await harness.device('thief-2')
  const [keptClient, thiefClient] = [await harness.connect(kept), await harness.connect(thief)]
  const closed = closeOf(thiefClient)
  const { id: deviceId, serial, fingerprint } = thief
  // Behind the cursor with which the broker comes back.
  harness.feed.drop()
  harness.feed.append({ type: 'policy.changed', data: { version: 9, document: starter } })
  harness.feed.shorten(
    { type: 'trust.changed', data: { anchors: harness.pki.anchors } },
    { type: 'policy.changed', data: { version: 9, document: starter } },
    { type: 'device.changed', data: { id: 'kept-2', profile: 'sensor', groups: [], status: 'active' } },
    { type: 'device.changed', data: { id: deviceId, profile: 'sensor', groups: [], status: 'active' } },
    harness.issuedFact(kept),
    harness.issuedFact(thief),
  )
  harness.feed.append({ type: 'certificate.revoked', data: { serial, fingerprint, deviceId, reason: 'keyCompromise' } })
  await closed
  assert.ok(keptClient.connected)
  assert.equal(await harness.refusal(thief), 5)
  await harness.feed.untilApplied()
  await harness.stopBroker()
  await harness.startBroker()
  assert.equal(harness.feed.hellos.at(-1)!.cursor.seq, harness.feed.head, 'it is stored, with its place')
  assert.equal(await harness.refusal(thief), 5)
  ;(await harness.connect(kept)).end(true)
})

test('a snapshot that cannot be read, or ends before it has a place, leaves what is in force', async () => {
  const device = await harness.device('sensor-1')
  const client = await harness.connect(device)
  const trust: FeedFact = { type: 'trust.changed', data: { anchors: harness.pki.anchors } }
  const revoked: FeedFact = {
    type: 'device.changed',
    data: { id: 'sensor-1', profile: 'sensor', groups: [], status: 'revoked' },
  }
  const faults: FromEnroll[] = [
    { kind: 'facts', facts: [{ ...revoked, at: '', type: 'device.exchanged' as never }] },
    { kind: 'snapshot', cursor: { seq: 1, hash: '' } },
    { kind: 'live', seq: 1 },
  ]
  const applied = harness.feed.appliedSeq
  harness.feed.distortFacts = (message) => {
    const isFirst = message.kind === 'facts' && message.facts[0]!.type === 'trust.changed'
    return (isFirst && faults.shift()) || message
  }
  harness.feed.rewrite(trust, revoked)
  harness.feed.shorten(trust, revoked, harness.issuedFact(device))
  harness.feed.drop()
  while (faults.length > 0) await once(harness.feed, 'hello')
  assert.ok(client.connected)
  assert.equal(harness.feed.appliedSeq, applied, 'nothing of it is reported as applied')
  await harness.testLog.until('session.kicked', { deviceId: 'sensor-1', reason: 'device_revoked' })
})

test('an event that does not follow in the hash chain is not applied; the feed is read anew from the start', async () => {
  const device = await harness.device('sensor-1')
  const client = await harness.connect(device)
  harness.feed.distort = (event) => ({ ...event, body: event.body.replace('"active"', '"revoked"') })
  harness.feed.append({
    type: 'device.changed',
    data: { id: 'sensor-1', profile: 'sensor', groups: [], status: 'active' },
  })
  await harness.testLog.until('feed.broken')
  assert.ok(client.connected, 'a forged revocation is not believed')
  harness.feed.distort = (event) => event
  await harness.feed.untilApplied()
  assert.deepEqual(harness.feed.hellos.at(-1)!.cursor, startCursor)
  assert.ok(client.connected)
})

test('an event that cannot be read is not stepped over', async () => {
  await harness.feed.untilApplied()
  harness.feed.append({
    type: 'device.changed',
    data: { id: '../x', profile: 'sensor', groups: [], status: 'revoked' },
  })
  // The next would be readable.
  harness.feed.append({ type: 'device.changed', data: { id: 'x', profile: 'sensor', groups: [], status: 'active' } })
  const line = await harness.testLog.until('feed.broken')
  assert.match(JSON.stringify(line.err), /feed event 3 cannot be read/)
  assert.equal(harness.feed.appliedSeq, 2)
})

test('trust anchors that are no CA certificates are not put in force', async () => {
  harness.feed.append({
    type: 'trust.changed',
    data: { anchors: ['-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n'] },
  })
  await harness.testLog.until('feed.broken')
  assert.equal(await harness.refusal(await harness.strangeDevice('sensor-1')), 3, 'the listener still knows its own')
})

test('a feed server without the name of enroll is not believed', async () => {
  await harness.stopBroker()
  const credential = await harness.pki.service('impostor')
  await using impostor = await FakeFeed.start(harness.pki, { credential })
  const real = harness.feed
  harness.feed = impostor
  await harness.startDetached()
  const line = await harness.testLog.until('feed.disconnected', { seq: 2 })
  assert.match(String(line.detail), /enroll\.fleetgate\.internal|altnames/i)
  assert.equal(impostor.hellos.length, 0)
  assert.equal(harness.broker.feed.everLive, false)
  harness.feed = real
})

test('a feed server of a foreign root is not believed', async () => {
  await harness.stopBroker()
  const foreign = await TestPki.create('Foreign')
  await using impostor = await FakeFeed.start(foreign)
  const real = harness.feed
  harness.feed = impostor
  await harness.startDetached()
  await harness.testLog.until('feed.disconnected', { seq: 2 })
  assert.equal(impostor.hellos.length, 0)
  harness.feed = real
})

test('new trust anchors are in force for the next handshake', async () => {
  const next = await TestPki.create('Next')
  const device = { id: 'next-1', ...(await next.device('next-1')) }
  const facts = [
    {
      type: 'device.changed' as const,
      data: { id: 'next-1', profile: 'sensor', groups: [], status: 'active' as const },
    },
    harness.issuedFact(device),
  ]
  harness.feed.append(...facts)
  await harness.feed.untilApplied()
  const before = await harness.socket(device)
  before.write(connectPacket('next-1'))
  await closeOf(before)
  await harness.testLog.until('connection.refused', { reason: 'certificate_untrusted' })
  harness.feed.append({ type: 'trust.changed', data: { anchors: [...harness.pki.anchors, ...next.anchors] } })
  await harness.feed.untilApplied()
  assert.equal(await harness.refusal(device), 0)
})

test('ten thousand events arrive in order and in few batches', async () => {
  const facts = Array.from({ length: 10_000 }, (_, at) => ({
    type: 'device.changed' as const,
    data: { id: `bulk-${at}`, profile: 'sensor', groups: ['lab'], status: 'active' as const },
  }))
  harness.feed.append(...facts)
  await harness.feed.untilApplied()
  await eventually(() => harness.feed.appliedSeq === harness.feed.head)
  const batches = harness.testLog.lines.filter(({ event }) => event === 'snapshot.applied').length
  assert.ok(batches < 1_000, `${batches} batches`)
})

test('who is connected is told page by page in the order of client ids; a question it does not know is no answer', async () => {
  const { feed } = harness
  assert.deepEqual(feed.hellos[0]!.questions, ['sessions', 'kick', 'verdicts', 'key', 'reload'])
  const [one, two] = [await harness.device('sensor-1'), await harness.device('sensor-2')]
  const clients = [
    await harness.connect(two),
    await harness.connect(one, { clientId: 'sensor-1:b' }),
    await harness.connect(one),
  ]
  await harness.socket(two) // no session
  await clients[2]!.publishAsync('devices/sensor-1/telemetry', 'x', { qos: 1 })
  const ids = async (query: object): Promise<string[]> =>
    (await feed.ask('sessions', { limit: 9, ...query })).map(({ clientId }) => clientId)
  assert.deepEqual(await ids({}), ['sensor-1', 'sensor-1:b', 'sensor-2'])
  assert.deepEqual(await ids({ limit: 2 }), ['sensor-1', 'sensor-1:b'])
  assert.deepEqual(await ids({ from: 'sensor-1:b' }), ['sensor-1:b', 'sensor-2'])
  assert.deepEqual(await ids({ deviceIds: ['sensor-2', 'sensor-2', 'nobody'] }), ['sensor-2'])
  assert.deepEqual(await ids({ listener: 'other' }), [])
  const [first] = await feed.ask('sessions', { deviceIds: ['sensor-1'], limit: 1 })
  const { deviceId, serial, listener, remoteAddress, isResumed, packetsIn, lastPacket } = first!
  assert.deepEqual(
    [deviceId, serial, listener, remoteAddress, isResumed, packetsIn],
    ['sensor-1', one.serial, 'mqtts', '127.0.0.1', false, 2],
  )
  assert.deepEqual([lastPacket?.type, lastPacket?.topic], ['publish', 'devices/sensor-1/telemetry'])

  feed.put({ weather: {} })
  feed.put({ sessions: { limit: 1_000_000 } })
  feed.put({ kick: { clientId: '#' } })
  assert.deepEqual(await ids({ limit: 1 }), ['sensor-1'])
  assert.ok(harness.broker.feed.connected)
})
