import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { after, before, test } from 'node:test'
import type { TLSSocket } from 'node:tls'
import type { MqttClient } from 'mqtt'
import { type ClientOptions, WebSocket } from 'ws'
import { encode } from '../../broker/wire/codec.ts'
import { BrokerHarness, closeOf, connectPacket, Inbox, readToEnd, type TestDevice } from '../harness/broker.ts'
import { type TestCertificate, TestPki } from '../harness/certificates.ts'
import { publishPacket } from '../harness/raw-mqtt.ts'

let harness: BrokerHarness
before(async () => {
  harness = await BrokerHarness.start({
    broker: {
      // A busy machine finishes a handshake in that, too.
      handshakeTimeoutMs: 2_000,
      maxPacketBytes: 8_192,
      maxConnectBytes: 1_024,
      maxBufferedBytes: 65_536,
      listeners: [
        { name: 'web', transport: 'wss', listen: '127.0.0.1:0' },
        { name: 'open', transport: 'wss', listen: '127.0.0.1:0', mode: 'permissive' },
      ],
    },
  })
})
after(() => harness[Symbol.asyncDispose]())

const url = (): string => harness.broker.endpoints.web!

async function mqttClient(device: TestDevice, protocolVersion: 4 | 5, clientId = device.id): Promise<MqttClient> {
  const client = harness.dialUrl(url(), device, { clientId, protocolVersion })
  await new Promise<void>((resolve) => client.once('connect', () => resolve()))
  return client
}

function webSocket(device: TestCertificate, protocols: string[] = ['mqtt'], more: ClientOptions = {}): WebSocket {
  const socket = new WebSocket(url(), protocols, {
    ca: harness.pki.root.pem,
    key: device.key,
    cert: device.chain,
    ...more,
  })
  socket.on('error', () => {})
  return socket
}

async function opened(device: TestCertificate, protocols?: string[]): Promise<WebSocket> {
  const socket = webSocket(device, protocols)
  await once(socket, 'open')
  return socket
}

/** Status and text of the answer in place of the upgrade. */
async function refused(socket: WebSocket): Promise<[number, string]> {
  const [, answer] = (await once(socket, 'unexpected-response')) as [unknown, IncomingMessage]
  let text = ''
  for await (const chunk of answer) text += chunk
  socket.terminate()
  return [answer.statusCode!, text]
}

const tlsSocket = (device: TestCertificate | undefined) => harness.socket(device, { port: Number(new URL(url()).port) })

for (const version of [4, 5] as const) {
  test(`MQTT.js speaks version ${version} over wss, with messages larger than a chunk both ways`, async () => {
    const device = await harness.device(`web-${version}`)
    const client = await mqttClient(device, version)
    const service = await harness.connect(await harness.device(`app-${version}`, { profile: 'service' }))
    const inbox = new Inbox(client)
    const atService = new Inbox(service)
    await client.subscribeAsync(`devices/${device.id}/commands/#`, { qos: 1 })
    await service.subscribeAsync(`devices/${device.id}/telemetry/#`, { qos: 1 })
    const large = 'x'.repeat(8_000)
    for (const qos of [0, 1, 2] as const) {
      await client.publishAsync(`devices/${device.id}/telemetry/${qos}`, large, { qos })
      await service.publishAsync(`devices/${device.id}/commands/${qos}`, large, { qos })
    }
    await Promise.all([inbox.untilCount(3), atService.untilCount(3)])
    const closed = harness.testLog.until('session.closed', { clientId: device.id, reason: 'disconnected' })
    await client.endAsync()
    await closed
  })
}

test('packets may be split and joined by WebSocket messages in any way', async () => {
  const device = await harness.device('split-1')
  const service = await harness.connect(await harness.device('app-split', { profile: 'service' }))
  const inbox = new Inbox(service)
  await service.subscribeAsync('devices/split-1/telemetry/#')
  const socket = await opened(device)
  for (const octet of connectPacket('split-1')) socket.send(Buffer.from([octet]))
  const publish = (text: string): Buffer => encode(publishPacket('devices/split-1/telemetry/x', text), 4)
  const both = Buffer.concat([publish('one'), publish('two'), publish('three')])
  socket.send(both.subarray(0, 40))
  socket.send(Buffer.alloc(0))
  socket.send(both.subarray(40))
  await inbox.untilCount(3)
  assert.deepEqual(inbox.payloads, ['one', 'two', 'three'])
  socket.close()
  await harness.testLog.until('session.closed', { clientId: 'split-1' })
})

test('the subprotocol is mqtt, or mqttv3.1 for a client that offers nothing else', async () => {
  const device = await harness.device('proto-1')
  const chosen = async (offered: string[]): Promise<string> => {
    const socket = await opened(device, offered)
    socket.terminate()
    return socket.protocol
  }
  assert.equal(await chosen(['mqttv3.1', 'mqtt']), 'mqtt')
  assert.equal(await chosen(['mqttv3.1']), 'mqttv3.1')
  for (const offered of [[], ['chat'], ['mqttx']]) {
    const [status, text] = await refused(webSocket(device, offered))
    assert.equal(status, 400)
    assert.match(text, /^no WebSocket: the subprotocol mqtt is wanted; denial [0-9a-f]{12}\n$/)
  }
  await harness.testLog.until('connection.refused', { reason: 'handshake_failed', serial: device.serial })
})

test('another path and a page of another origin are refused; one of our own origin is not', async () => {
  const device = await harness.device('origin-1')
  const { host } = new URL(url())
  assert.equal((await refused(webSocket(device, ['mqtt'], { origin: 'https://evil.example' })))[0], 403)
  assert.equal((await refused(webSocket(device, ['mqtt'], { origin: 'null' })))[0], 403)
  const own = webSocket(device, ['mqtt'], { origin: `https://${host}` })
  await once(own, 'open')
  own.terminate()
  const socket = await tlsSocket(device)
  socket.write('GET /chat HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n')
  assert.match(String(await readToEnd(socket)), /^HTTP\/1\.1 404 /)
})

test('HTTP without an upgrade is told to upgrade, and what is no HTTP ends', async () => {
  const device = await harness.device('plain-1')
  const socket = await tlsSocket(device)
  socket.write('GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n')
  assert.match(String(await readToEnd(socket)), /^HTTP\/1\.1 426 [\s\S]*Upgrade: websocket[\s\S]*MQTT over WebSocket/)
  const mqtt = await tlsSocket(device)
  mqtt.write(connectPacket('plain-1'))
  assert.match(String(await readToEnd(mqtt)), /^HTTP\/1\.1 400 /)
  await harness.testLog.until('connection.refused', { reason: 'handshake_failed', serial: device.serial })
})

test('an upgrade that does not come in time, or drips, ends the connection', async () => {
  const device = await harness.device('slow-1')
  const silent = await tlsSocket(device)
  const dripping = await tlsSocket(device)
  const timer = setInterval(() => dripping.writable && dripping.write('G'), 50)
  assert.equal((await readToEnd(silent)).length, 0)
  await readToEnd(dripping)
  clearInterval(timer)
  await harness.testLog.until('connection.refused', { detail: 'no WebSocket within 2000 ms', serial: device.serial })
})

test('a message of text ends the connection with 1003, before and after CONNECT', async () => {
  const device = await harness.device('text-1')
  for (const isConnected of [false, true]) {
    const socket = await opened(device)
    if (isConnected) {
      socket.send(connectPacket('text-1'))
      await once(socket, 'message')
    }
    socket.send('hello')
    assert.equal((await once(socket, 'close'))[0], 1003)
  }
  await harness.testLog.until('connection.refused', { reason: 'protocol_violation', serial: device.serial })
  await harness.testLog.until('session.closed', { reason: 'protocol_violation', clientId: 'text-1' })
})

test('a WebSocket message larger than any packet ends the connection with 1009', async () => {
  const socket = await opened(await harness.device('large-1'))
  socket.send(connectPacket('large-1'))
  await once(socket, 'message')
  socket.send(Buffer.alloc(10_000))
  assert.equal((await once(socket, 'close'))[0], 1009)
})

test('little is held of a message that does not end, as long as there was no CONNECT', async () => {
  const device = await harness.device('long-1')
  const stranger = await opened(device)
  stranger.send(Buffer.from([0x10]))
  for (let i = 0; i < 4; i++) stranger.send(Buffer.alloc(1_000), { fin: false })
  assert.equal((await once(stranger, 'close'))[0], 1009)
  await harness.testLog.until('connection.refused', { reason: 'packet_too_large', serial: device.serial })
  const client = await opened(device)
  client.send(connectPacket('long-1'))
  await once(client, 'message')
  const publish = encode(publishPacket('devices/long-1/telemetry/x', Buffer.alloc(7_000), { qos: 1, packetId: 1 }), 4)
  for (let at = 0; at < publish.length; at += 1_000)
    client.send(publish.subarray(at, at + 1_000), { fin: at + 1_000 >= publish.length })
  assert.equal(((await once(client, 'message'))[0] as Buffer)[0], 0x40)
  client.terminate()
})

test('no more is held of a message in quarantine, and pings in between do not count', async () => {
  const stranger = new WebSocket(harness.broker.endpoints.open!, ['mqtt'], { ca: harness.pki.root.pem })
  await once(stranger, 'open')
  stranger.send(connectPacket('stranger'))
  await once(stranger, 'message')
  for (let i = 0; i < 30; i++) {
    stranger.ping('x'.repeat(125))
    await once(stranger, 'pong')
  }
  stranger.send(Buffer.from([0xc0, 0]))
  await once(stranger, 'message')
  for (let i = 0; i < 4; i++) stranger.send(Buffer.alloc(1_000), { fin: false })
  assert.equal((await once(stranger, 'close'))[0], 1009)
})

test('a message in more pieces than its length asks for ends the connection with 1008', async () => {
  const fragmented = await opened(await harness.device('pieces-1'))
  fragmented.send(connectPacket('pieces-1'))
  await once(fragmented, 'message')
  for (let i = 0; i < 257; i++) fragmented.send(Buffer.from([0]), { fin: false })
  assert.equal((await once(fragmented, 'close'))[0], 1008)
  const device = await harness.device('pieces-2')
  const chopped = await opened(device)
  chopped.send(connectPacket('pieces-2'))
  await once(chopped, 'message')
  const closed = once(chopped, 'close')
  const { _socket: socket } = chopped as unknown as { _socket: TLSSocket }
  socket.write(Buffer.from('82fe100000000000', 'hex')) // a frame of 4,096 octets, of which every one is a TLS record
  for (let i = 0; i < 300 && socket.writable; i++)
    await new Promise<void>((resolve) => socket.write(Buffer.from([0]), () => resolve()))
  assert.equal((await closed)[0], 1008)
})

test('a ping is answered; a peer that pings and does not read is closed', async () => {
  const socket = await opened(await harness.device('ping-1'))
  socket.ping('x')
  assert.equal(String((await once(socket, 'pong'))[0]), 'x')
  const raw = await opened(await harness.device('ping-2'))
  raw.send(connectPacket('ping-2'))
  await once(raw, 'message')
  const closed = harness.testLog.until('session.closed', { reason: 'slow_reader', clientId: 'ping-2' })
  raw.pause()
  const flood = setInterval(() => {
    for (let i = 0; i < 5_000 && raw.bufferedAmount < 1_000_000; i++) raw.ping('x'.repeat(125))
  }, 5)
  await closed
  clearInterval(flood)
  raw.terminate()
  socket.terminate()
})

test('a client that breaks MQTT is closed in order, with 1000', async () => {
  const socket = await opened(await harness.device('rude-1'))
  socket.send(connectPacket('rude-1'))
  await once(socket, 'message')
  socket.send(Buffer.from([0xf0, 0]))
  assert.equal((await once(socket, 'close'))[0], 1000)
})

test('a revocation cuts a connection over wss at once, also one that has not upgraded yet', async () => {
  const device = await harness.device('cut-1')
  const client = await mqttClient(device, 5)
  const waiting = await tlsSocket(device)
  waiting.resume()
  const closed = Promise.all([closeOf(client), closeOf(waiting)])
  await harness.revokeDevice(device)
  await closed
  await harness.testLog.until('session.kicked', { clientId: 'cut-1', reason: 'device_revoked' })
})

test('a stranger is closed before a byte of HTTP is read', async () => {
  const socket = await tlsSocket(await TestPki.selfSigned('web-1'))
  socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
  assert.equal((await readToEnd(socket)).length, 0)
  await harness.testLog.until('connection.refused', { reason: 'certificate_self_signed' })
})
