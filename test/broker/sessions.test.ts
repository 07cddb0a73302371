import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { connect as connectTcp } from 'node:net'
import { Duplex } from 'node:stream'
import { after, before, suite, test } from 'node:test'
import { connect as connectTls, type TLSSocket } from 'node:tls'
import type { IClientOptions, IDisconnectPacket, MqttClient } from 'mqtt'
import type { Sessions } from '../../broker/sessions.ts'
import { parseCertificate } from '../../pki/certificate.ts'
import {
  BrokerHarness,
  closeOf,
  connectPacket,
  EventInbox,
  eventually,
  Inbox,
  parsePolicy,
  type TestDevice,
} from '../harness/broker.ts'
import { TestPki } from '../harness/certificates.ts'
import { openPath } from '../harness/path.ts'

let harness: BrokerHarness
let skewMs = 60_000
let watcher: MqttClient
let seen: Inbox

before(async () => {
  harness = await BrokerHarness.start({
    clock: () => new Date(Date.now() + skewMs),
    policy: parsePolicy(`
policies:
  - { name: own, match: { profile: sensor }, allow: { publish: ["devices/\${device.id}/#"], subscribe: ["devices/\${device.id}/#"] } }
  - { name: desk, match: { profile: desk }, allow: { subscribe: ["$fleetgate/events/#"] } }
  - { name: all, match: { profile: service }, allow: { publish: ["devices/#"], subscribe: ["devices/#"] } }
`),
  })
  watcher = await harness.connect(await harness.device('watcher', { profile: 'service' }))
  seen = new Inbox(watcher)
  await watcher.subscribeAsync('devices/#', { qos: 1 })
})
after(() => harness[Symbol.asyncDispose]())

const willOf = (id: string, payload = 'gone') => ({
  will: { topic: `devices/${id}/will`, payload: Buffer.from(payload), qos: 1 as const, retain: false },
})
const willsOf = (id: string): string[] =>
  seen.messages.filter(({ topic }) => topic === `devices/${id}/will`).map(({ payload }) => payload)

/** What was published before this has been seen by the watcher when it resolves. */
let markers = 0
async function settle(): Promise<void> {
  const payload = `marker ${++markers}`
  await watcher.publishAsync('devices/marker', payload, { qos: 1 })
  await seen.until(payload)
}

/** Resolves when everybody who waited for the client id has had a turn. */
async function passTurn(sessions: Sessions, clientId: string): Promise<void> {
  const { before, end } = sessions.takeTurn(clientId)
  await before
  end()
}

test('a revoked device loses every connection at once: live, idle and in the middle of a CONNECT', async () => {
  const device = await harness.device('stolen-1')
  const live = await harness.connect(device, { clientId: 'stolen-1:a', ...willOf('stolen-1') })
  const idle = await harness.socket(device)
  const half = await harness.socket(device)
  half.write(connectPacket('stolen-1').subarray(0, 7))
  await eventually(() => harness.broker.sessions.ofDevice('stolen-1').length === 3)
  const closed = Promise.all([closeOf(live), closeOf(idle), closeOf(half)])
  await harness.revokeDevice(device)
  await closed
  await harness.testLog.until('session.kicked', { deviceId: 'stolen-1', reason: 'device_revoked' })
  await settle()
  assert.deepEqual(willsOf('stolen-1'), [], 'its will is not published')
  assert.equal(harness.broker.sessions.ofDevice('stolen-1').length, 0)
})

test('of each connection that a revocation ends enroll is told what it did last and could have done', async () => {
  const device = await harness.device('stolen-9')
  const live = await harness.connect(device)
  await live.publishAsync('devices/stolen-9/last', 'x', { qos: 1 })
  await live.publishAsync('devices/other/denied', 'x', { qos: 0 })
  await harness.socket(device)
  await eventually(() => harness.broker.sessions.ofDevice('stolen-9').length === 2)
  await harness.revokeDevice(device)
  const cuts = [...harness.feed.reports.values()].flatMap(({ report }) =>
    report.type === 'session.cut' && report.deviceId === 'stolen-9' ? [report] : [],
  )
  assert.equal(cuts.length, 2, 'told before the revocation is reported as applied')
  const [first, second] = cuts.toSorted((a, b) => b.packetsIn - a.packetsIn)
  assert.ok(first && second)
  assert.deepEqual([first.state, first.reason, first.clientId], ['live', 'device_revoked', 'stolen-9'])
  assert.deepEqual([first.lastPacket?.type, first.lastPacket?.topic], ['publish', 'devices/stolen-9/last'])
  assert.ok(Date.parse(first.lastPacket!.at) >= Date.parse(first.connectedAt))
  assert.deepEqual([first.publish, first.subscribe], [['devices/stolen-9/#'], ['devices/stolen-9/#']])
  assert.ok(first.packetsIn >= 2 && first.tookMs > 0)
  assert.deepEqual([second.state, second.lastPacket, second.publish], ['handshaken', undefined, []])
  assert.deepEqual([second.serial, second.remoteAddress], [device.serial, '127.0.0.1'])
})

test('a revoked certificate ends its own connections and leaves those of the device’s other certificate', async () => {
  const device = await harness.device('rekeyed-1')
  const newer: TestDevice = await harness.device('rekeyed-1')
  const old = await harness.connect(device, { clientId: 'rekeyed-1:old' })
  const current = await harness.connect(newer, { clientId: 'rekeyed-1:new' })
  const closed = closeOf(old)
  await harness.revokeCertificate(device)
  await closed
  await harness.testLog.until('session.kicked', { serial: device.serial, reason: 'certificate_revoked' })
  assert.ok(current.connected)
})

test('a hold ends the sessions of a device without its will, keeps what is stored for it, and ends itself', async () => {
  const device = await harness.device('held-1')
  const kept = { clientId: 'held-1', clean: false }
  const client = await harness.connect(device, { ...kept, ...willOf('held-1') })
  const closed = closeOf(client)
  const status = (status: 'held' | 'active') =>
    harness.feed.append({ type: 'device.changed', data: { id: 'held-1', profile: 'sensor', groups: [], status } })
  status('held')
  await closed
  await harness.testLog.until('session.kicked', { deviceId: 'held-1', reason: 'device_held' })
  assert.equal(await harness.refusal(device), 5)
  status('active')
  await harness.feed.untilApplied()
  const present = new Promise((resolve) => harness.dial(device, kept).once('connect', resolve))
  assert.partialDeepStrictEqual(await present, { sessionPresent: true })
  assert.deepEqual(willsOf('held-1'), [])
})

test('what a device has sent and the broker has not read when it is revoked is not published', async () => {
  const device = await harness.device('stolen-2')
  const client = await harness.connect(device)
  const closed = closeOf(client)
  harness.feed.append({
    type: 'device.changed',
    data: { id: device.id, profile: 'sensor', groups: [], status: 'revoked' },
  })
  const flood = setInterval(() => client.publish('devices/stolen-2/x', 'late'), 0)
  await harness.feed.untilApplied()
  await settle()
  const count = seen.messages.length
  await closed
  clearInterval(flood)
  await settle()
  assert.equal(seen.messages.length, count + 1, 'only the marker came after the revocation was confirmed')
})

test('a CONNECT that is being decided when its device is revoked does not come in', async () => {
  const device = await harness.device('stolen-3')
  const unknown = { ...(await harness.strangeDevice('stolen-3')) }
  const socket = await harness.socket(unknown)
  harness.feed.beforePong = () => {
    harness.feed.append(harness.issuedFact(unknown), {
      type: 'device.changed',
      data: { id: device.id, profile: 'sensor', groups: [], status: 'revoked' },
    })
  }
  try {
    socket.write(connectPacket('stolen-3'))
    const chunks: Buffer[] = []
    socket.on('data', (chunk: Buffer) => chunks.push(chunk))
    await closeOf(socket)
    assert.notDeepEqual(Buffer.concat(chunks), Buffer.from([0x20, 2, 0, 0]))
  } finally {
    harness.feed.beforePong = undefined
  }
})

/** What the broker says until it closes. */
function heardBy(socket: TLSSocket): Promise<Buffer> {
  const chunks: Buffer[] = []
  socket.on('data', (chunk: Buffer) => chunks.push(chunk))
  return closeOf(socket).then(() => Buffer.concat(chunks))
}

test('a handshake that is under way when its device is revoked ends in a refusal', async () => {
  const device = await harness.device('stolen-4')
  const raw = connectTcp(harness.port, '127.0.0.1')
  const held: Buffer[] = []
  let isHeld = true
  const wire = new Duplex({
    read() {},
    write(chunk: Buffer, _encoding, done) {
      // The ClientHello goes out; the certificate waits.
      if (isHeld && raw.bytesWritten > 0) held.push(chunk)
      else raw.write(chunk)
      done()
    },
  })
  raw.on('data', (chunk) => wire.push(chunk)).on('close', () => wire.destroy())
  const socket = harness.own(connectTls({ ...harness.tlsOptions(device), socket: wire }))
  await eventually(() => held.length > 0)
  await harness.revokeDevice(device)
  isHeld = false
  raw.write(Buffer.concat(held))
  socket.write(connectPacket('stolen-4'))
  assert.deepEqual(await heardBy(socket), Buffer.from([0x20, 2, 0, 5]))
})

test('a CONNECT that waits for its turn when its device is revoked does not get it', async () => {
  const device = await harness.device('stolen-5')
  const sessions = harness.broker.sessions as Sessions
  const { end: endTurn } = sessions.takeTurn('stolen-5')
  const socket = await harness.socket(device)
  const heard = heardBy(socket)
  socket.write(connectPacket('stolen-5'))
  await eventually(() => sessions.ofDevice('stolen-5')[0]?.state === 'connecting')
  await harness.revokeDevice(device)
  assert.deepEqual(await heard, Buffer.alloc(0))
  endTurn()
  await passTurn(sessions, 'stolen-5')
  assert.equal(sessions.isHeld('stolen-5'), false)
})

test('a session that is being taken over when its device is revoked is lost to both', async () => {
  const device = await harness.device('stolen-6')
  const former = await harness.connect(device, willOf('stolen-6'))
  const formerClosed = closeOf(former)
  const { promise: mayEnd, resolve: end } = Promise.withResolvers<void>()
  const sessions = harness.broker.sessions as Sessions
  const holder = sessions.findLive('stolen-6')!
  const { finished } = holder
  holder.finished = finished.then(() => mayEnd)
  const socket = await harness.socket(device)
  const heard = heardBy(socket)
  socket.write(connectPacket('stolen-6'))
  await eventually(() => holder.endReason === 'session_taken_over')
  await harness.revokeDevice(device)
  assert.deepEqual(await heard, Buffer.alloc(0))
  end()
  await formerClosed
  await passTurn(sessions, 'stolen-6')
  assert.deepEqual([sessions.isHeld('stolen-6'), sessions.ofDevice('stolen-6')], [false, []])
})

test('the key of a stolen device raises an alert in whatever certificate it comes, once a minute, after a restart too', async () => {
  const { id, key, pem, serial, fingerprint, chain, notAfter } = await harness.device('thief-9')
  const device = { id, key, pem, serial, fingerprint, chain, notAfter }
  const { spkiHash } = parseCertificate(new X509Certificate(pem).raw)
  const stolen = { id, profile: 'sensor', groups: [], status: 'revoked' as const, stolen: true as const }
  const revoked = { serial, fingerprint, deviceId: id, reason: 'keyCompromise' }
  harness.feed.append({ type: 'device.changed', data: stolen })
  harness.feed.append({ type: 'certificate.revoked', data: { ...revoked, watchedKey: spkiHash } })
  await harness.feed.untilApplied()
  const events = await EventInbox.open(await harness.connect(await harness.device('desk', { profile: 'desk' })))
  for (const _ of [1, 2]) assert.equal(await harness.refusal(device), 5)
  const alert = await harness.feed.untilReport('alert', ({ deviceId }) => deviceId === id)
  assert.deepEqual([alert.kind, alert.remoteAddress, alert.serial, alert.count], ['stolen', '127.0.0.1', serial, 1])
  await events.until('alert', { deviceId: id, kind: 'stolen' })
  const alerts = () => [...harness.feed.reports.values()].filter(({ report }) => report.type === 'alert')
  assert.equal(alerts().length, 1)
  await harness.stopBroker()
  await harness.startBroker()
  const copied = { id, ...(await TestPki.selfSigned('somebody', key)) }
  assert.equal(await harness.refusal(copied, { clientId: 'somebody' }), 'closed')
  const again = await harness.feed.untilReport('alert', (one) => one.fingerprint === copied.fingerprint)
  assert.equal(again.deviceId, id)
  watcher = await harness.connect(await harness.device('watcher', { profile: 'service' }))
  seen = new Inbox(watcher)
  await watcher.subscribeAsync('devices/#', { qos: 1 })
})

test('a will is published when the connection just ends, and not after a DISCONNECT', async () => {
  const device = await harness.device('will-1')
  const polite = await harness.connect(device, willOf('will-1', 'polite'))
  await polite.endAsync()
  const rude = await harness.connect(device, willOf('will-1', 'rude'))
  rude.stream.destroy()
  await seen.until('rude')
  await settle()
  assert.deepEqual(willsOf('will-1'), ['rude'])
})

test('a will is published when the keep alive runs out [MQTT-3.1.2-24]', async () => {
  const device = await harness.device('will-2')
  const socket = await harness.socket(device)
  const field = (text: string): Buffer => Buffer.concat([Buffer.from([0, text.length]), Buffer.from(text)])
  const tail = Buffer.concat([field('devices/will-2/will'), field('silent')])
  socket.write(connectPacket('will-2', { flags: 0x0e, keepAlive: 1, tail }))
  await seen.until('silent')
  await harness.testLog.until('session.closed', { clientId: 'will-2', reason: 'keep_alive_expired' })
})

test('an operator ends one session: it is told why, its will is published, it may come back at once', async () => {
  const device = await harness.device('kicked-1')
  const client = await harness.connect(device, { protocolVersion: 5, ...willOf('kicked-1', 'kicked') })
  const other = await harness.connect(device, { clientId: 'kicked-1:b' })
  const told = new Promise<IDisconnectPacket>((resolve) => client.once('disconnect', resolve))
  const [ended] = await harness.feed.ask('kick', { clientId: 'kicked-1' })
  assert.deepEqual([ended?.clientId, ended?.deviceId], ['kicked-1', 'kicked-1'])
  const { reasonCode, properties } = await told
  assert.deepEqual([reasonCode, properties?.reasonString], [0x98, 'an operator has ended the session'])
  await seen.until('kicked')
  const { denial } = await harness.testLog.until('session.closed', { clientId: 'kicked-1', reason: 'kicked' })
  const [explained] = await harness.feed.askDenials({ id: denial as string, limit: 1 })
  assert.deepEqual([explained?.cause, explained?.fix?.kind], ['kicked', 'wait'])
  assert.ok(other.connected)
  assert.deepEqual(await harness.feed.ask('kick', { clientId: 'kicked-1' }), [])
  assert.equal(await harness.refusal(device), 0)
})

test('a will is checked again when it is due: what the policy no longer allows is not published', async () => {
  const device = await harness.device('will-3', { groups: ['ok'] })
  const client = await harness.connect(device, willOf('will-3'))
  harness.feed.append({
    type: 'device.changed',
    data: { id: device.id, profile: 'camera', groups: [], status: 'active' },
  })
  await harness.feed.untilApplied()
  client.stream.destroy()
  await harness.testLog.until('publish.denied', { reason: 'will_denied', clientId: 'will-3' })
  await settle()
  assert.deepEqual(willsOf('will-3'), [])
})

test('a takeover closes the old connection and publishes its will before the new one is answered [MQTT-3.1.4-2]', async () => {
  const device = await harness.device('twice-1')
  const old = await harness.connect(device, willOf('twice-1', 'old'))
  const closed = closeOf(old)
  const current = await harness.connect(device, willOf('twice-1', 'new'))
  await closed
  await harness.testLog.until('session.closed', { clientId: 'twice-1', reason: 'session_taken_over' })
  await settle()
  assert.deepEqual(willsOf('twice-1'), ['old'])
  assert.ok(current.connected)
  await current.publishAsync('devices/twice-1/x', 'alive', { qos: 1 })
})

test('of 20 concurrent CONNECTs of one client id exactly one stays, and 19 wills are published', async () => {
  const device = await harness.device('storm-1')
  const sockets = await Promise.all(Array.from({ length: 20 }, () => harness.socket(device)))
  const field = (text: string): Buffer => Buffer.concat([Buffer.from([0, text.length]), Buffer.from(text)])
  const answered = sockets.map(async (socket, at) => {
    const tail = Buffer.concat([field('devices/storm-1/will'), field(String(at))])
    socket.write(connectPacket('storm-1', { flags: 0x0e, tail }))
    return (await once(socket, 'data'))[0] as Buffer
  })
  for (const answer of await Promise.all(answered)) assert.deepEqual(answer, Buffer.from([0x20, 2, 0, 0]))
  await seen.until(() => willsOf('storm-1').length === 19)
  await settle()
  const open = (): TLSSocket[] => sockets.filter((socket) => !socket.closed && !socket.readableEnded)
  while (open().length > 1) await Promise.race(open().map((socket) => closeOf(socket)))
  assert.equal(open().length, 1)
  assert.equal(harness.broker.sessions.ofDevice('storm-1').length, 1)
  assert.equal(new Set(willsOf('storm-1')).size, 19)
  const survivor = open()[0]!
  survivor.write(Buffer.from([0xc0, 0]))
  assert.deepEqual((await once(survivor, 'data'))[0], Buffer.from([0xd0, 0]), 'the one that stayed is served')
})

test('connections that die during their CONNECT leave the client id free and no ghost behind', async () => {
  const device = await harness.device('ghost-1')
  for (let round = 0; round < 5; round++) {
    const sockets = await Promise.all(Array.from({ length: 6 }, () => harness.socket(device)))
    for (const socket of sockets) {
      socket.write(connectPacket('ghost-1', { flags: 0 }))
      socket.destroy()
    }
    const client = await harness.connect(device, { clean: false })
    await client.subscribeAsync('devices/ghost-1/in', { qos: 1 })
    const inbox = new Inbox(client)
    await watcher.publishAsync('devices/ghost-1/in', String(round), { qos: 1 })
    await inbox.until(String(round))
    await client.endAsync()
  }
})

suite('one key in two places', () => {
  const takeovers = (clientId: string): number =>
    harness.testLog.lines.filter(
      (line) => line.event === 'session.closed' && line.clientId === clientId && line.reason === 'session_taken_over',
    ).length

  test('two clients that fight for a client id are both kept away after a takeover, with one alert', async () => {
    const device = await harness.device('clone-1')
    const will = willOf('clone-1').will
    const options = { clientId: 'clone-1', reconnectPeriod: 20, reconnectOnConnackError: true, will }
    const first = harness.dial(device, { ...options, localAddress: '127.0.0.1' } as IClientOptions)
    await new Promise((resolve) => first.once('connect', resolve))
    const second = harness.dial(device, { ...options, localAddress: '127.0.0.2' } as IClientOptions)
    const [seenAs, alert] = await Promise.all([
      harness.testLog.until('clone.seen', { deviceId: 'clone-1' }),
      harness.feed.untilReport('alert', ({ deviceId }) => deviceId === 'clone-1'),
    ])
    assert.deepEqual([seenAs.rule, alert.kind, alert.serial, alert.count], ['duel', 'clone', device.serial, 1])
    assert.match(
      alert.detail,
      /^duel: clone-1 from 127\.0\.0\.2 since .*\(TLSv1\.3 .*; clone-1 from 127\.0\.0\.1 since /,
    )
    for (const remoteAddress of ['127.0.0.1', '127.0.0.2']) {
      await harness.testLog.until('connection.refused', { deviceId: 'clone-1', reason: 'key_suspended', remoteAddress })
    }
    assert.deepEqual([first.connected, second.connected, takeovers('clone-1')], [false, false, 1])
    assert.equal(harness.testLog.lines.filter(({ event }) => event === 'clone.seen').length, 1)
    await Promise.all([first.endAsync(true), second.endAsync(true)])
    assert.equal(await harness.refusal(device, { clientId: 'clone-1:other' }), 3)
    assert.equal(await harness.refusal(device, { clientId: 'clone-1', protocolVersion: 5 }), 0x89)
    skewMs = 0
    assert.equal(await harness.refusal(device), 0, 'no longer because a clock was set back')
  })

  test('a key that is at another broker too is told of while it is heard, and suspended when enroll says so', async () => {
    const device = await harness.device('apart-1')
    const { spkiHash: key } = parseCertificate(new X509Certificate(device.pem).raw)
    const told = async (kind: 'arrived' | 'beside') => {
      for (;;) {
        const [message] = await once(harness.feed, kind)
        if (JSON.stringify(message).includes(key)) return message
      }
    }
    const arrived = told('arrived')
    const first = await harness.connect(device)
    const sighting = { key, from: '127.0.0.1', clientId: 'apart-1' }
    assert.deepEqual((await arrived).sessions.at(-1), sighting)
    const again = told('arrived')
    harness.feed.drop()
    await again // enroll may have been another process
    const elsewhere = { kind: 'elsewhere', broker: 'broker-2', isEarlier: false }
    harness.feed.put({ ...elsewhere, sessions: [{ key: 'no key' }] })
    // It yields its client id, and is back for it.
    skewMs = 2_000
    const yielded = closeOf(first)
    harness.feed.put({ ...elsewhere, sessions: [{ ...sighting, from: '192.0.2.7' }] })
    await yielded
    await harness.testLog.until('session.closed', { deviceId: 'apart-1', reason: 'session_elsewhere' })
    const back = told('beside')
    const client = await harness.connect(device)
    assert.partialDeepStrictEqual(await back, { broker: 'broker-2', isBack: true, session: { clientId: 'apart-1' } })
    harness.feed.put({ ...elsewhere, sessions: [{ key, from: '192.0.2.7' }] })
    assert.equal((await harness.feed.ask('key', { key, suspend: false })).length, 1)
    const beside = told('beside')
    skewMs = 13_000
    client.publish('devices/apart-1/x', 'x')
    const { broker, session } = await beside
    assert.deepEqual([broker, session.clientId, session.remoteAddress], ['broker-2', 'apart-1', '127.0.0.1'])
    const closed = closeOf(client)
    const [ended] = await harness.feed.ask('key', { key, suspend: true })
    assert.equal(ended!.clientId, 'apart-1')
    await closed
    assert.equal(await harness.refusal(device), 3)
    assert.deepEqual(await harness.feed.ask('key', { key, suspend: false }), [])
    skewMs = 0
  })

  test('a device that roams, with the old connection silent, and one that fights with itself at one address, are let be', async () => {
    const device = await harness.device('roams-1')
    await using paths = new AsyncDisposableStack()
    for (const localAddress of ['127.0.0.1', '127.0.0.2', '127.0.0.1', '127.0.0.2']) {
      const path = paths.use(await openPath(harness.port, localAddress))
      const socket = await harness.socket(device, { port: path.port })
      socket.write(connectPacket('roams-1'))
      assert.deepEqual((await once(socket, 'data'))[0], Buffer.from([0x20, 2, 0, 0]))
      path.leave()
    }
    const two = [1, 2].map(() => harness.dial(device, { clientId: 'roams-1:a', reconnectPeriod: 1 }))
    await eventually(() => takeovers('roams-1:a') >= 6)
    await Promise.all(two.map((client) => client.endAsync(true)))
    assert.equal(takeovers('roams-1'), 3)
    assert.equal(harness.testLog.find('clone.seen', { deviceId: 'roams-1' }), undefined)
  })
})
