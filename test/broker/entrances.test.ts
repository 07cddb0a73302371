/** Listeners with names, behind proxies and with CAs of others, on one broker. */
import assert from 'node:assert/strict'
import { argon2Sync, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, beforeEach, test } from 'node:test'
import { connect as connectTls, type TLSSocket } from 'node:tls'
import type { Connect } from '../../broker/wire/packet.ts'
import { reason } from '../../broker/wire/reason.ts'
import { BrokerHarness, closeOf, connectPacket, eventually, readToEnd, type TestDevice } from '../harness/broker.ts'
import { revocationList, TestPki } from '../harness/certificates.ts'
import { RawClient, connectPacket as rawConnect } from '../harness/raw-mqtt.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-entrances-'))
let harness: BrokerHarness
let partner: TestPki
/** A partner too, whose certificates can be on a revocation list. */
let listed: TestPki
let skewMs = 0
beforeEach(() => {
  skewMs += 30_000
})
before(async () => {
  partner = await TestPki.create('Partner')
  listed = await TestPki.create('Listed')
  writeFileSync(join(folder, 'partner.pem'), partner.anchors.join(''))
  writeFileSync(join(folder, 'listed.pem'), listed.anchors.join(''))
  await writeList([])
  setPasswords('correct horse')
  harness = await BrokerHarness.start({
    clock: () => new Date(Date.now() + skewMs),
    broker: {
      // A busy machine finishes a handshake in that, too.
      handshakeTimeoutMs: 2_000,
      listeners: [
        { name: 'named', listen: '127.0.0.1:0', names: ['mqtt.example', 'gate.example'] },
        { name: 'proxied', listen: '127.0.0.1:0', proxyProtocol: { from: ['127.0.0.1/32'] } },
        { name: 'direct', listen: '127.0.0.1:0', proxyProtocol: { from: ['192.0.2.0/24'] } },
        { name: 'both', listen: '127.0.0.1:0', trust: ['fleetgate', 'partner', 'listed'] },
        { name: 'alone', listen: '127.0.0.1:0', trust: ['partner'] },
        { name: 'second', listen: '127.0.0.1:0', password: { file: join(folder, 'passwords') } },
        { name: 'listing', listen: '127.0.0.1:0', trust: ['listed'] },
      ],
      trust: [
        { label: 'partner', file: join(folder, 'partner.pem'), deviceId: 'subject.CN' },
        { label: 'listed', file: join(folder, 'listed.pem'), deviceId: 'subject.CN', crl: join(folder, 'list.pem') },
      ],
    },
  })
})
after(async () => {
  await harness[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true })
})

async function writeList(serials: string[], signer = listed.issuing, forMs = 86_400_000): Promise<void> {
  const nextUpdate = new Date(Date.now() + skewMs + forMs)
  writeFileSync(join(folder, 'list.pem'), await revocationList(signer, { serials, nextUpdate }))
}

/** Of the least cost: guessing is tested here, not hashing. */
function setPasswords(password: string): void {
  const cost = { nonce: randomBytes(16), memory: 8, passes: 1, parallelism: 1, tagLength: 32 }
  const tag = argon2Sync('argon2id', { ...cost, message: password })
  const [salt, hash] = [cost.nonce, tag].map((bytes) => bytes.toString('base64').replaceAll('=', ''))
  const lines = ['second-1', 'second-2'].map((id) => `${id}:$argon2id$v=19$m=8,t=1,p=1$${salt}$${hash}\n`)
  writeFileSync(join(folder, 'passwords'), lines.join(''))
}

const portOf = (listener: string): number => Number(new URL(harness.broker.endpoints[listener]!).port)

async function answerOf(socket: TLSSocket, id: string): Promise<Buffer> {
  socket.write(connectPacket(id))
  const [answer] = (await Promise.race([once(socket, 'data'), once(socket, 'close')])) as [Buffer | boolean]
  return Buffer.isBuffer(answer) ? answer : Buffer.alloc(0)
}
const accepted = Buffer.from([0x20, 2, 0, 0])
const refused = Buffer.from([0x20, 2, 0, 5])
const unavailable = Buffer.from([0x20, 2, 0, 3])

async function connectTo(listener: string, device: TestDevice, options = {}): Promise<Buffer> {
  const socket = await harness.socket(device, { port: portOf(listener), ...options })
  const answer = await answerOf(socket, device.id)
  socket.destroy()
  return answer
}

test('a listener with names answers to them, in any case, and to no other name or none', async () => {
  const device = await harness.device('named-1')
  const checkServerIdentity = () => undefined
  for (const servername of ['mqtt.example', 'GATE.example'])
    assert.deepEqual(await connectTo('named', device, { servername, checkServerIdentity }), accepted)
  await assert.rejects(connectTo('named', device, { servername: 'other.example', checkServerIdentity }))
  await harness.testLog.until('connection.refused', { reason: 'handshake_failed', listener: 'named' })
  const nameless = await harness.socket(device, { port: portOf('named') })
  assert.equal((await answerOf(nameless, device.id)).length, 0)
})

const header = (command: number, family: number, body: Buffer): Buffer =>
  Buffer.concat([
    Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1'),
    Buffer.from([command, family, body.length >> 8, body.length & 255]),
    body,
  ])
const ports = Buffer.from([0x12, 0x34, 0x22, 0xb3])
const v4 = (last: number): Buffer =>
  header(0x21, 0x11, Buffer.concat([Buffer.from([203, 0, 113, last, 10, 0, 0, 1]), ports]))
const v6 = header(
  0x21,
  0x21,
  Buffer.concat([Buffer.from('20010db8000000000000000000000007', 'hex'), Buffer.alloc(16), ports]),
)

async function plain(listener: string): Promise<Socket> {
  const socket = connect(portOf(listener), '127.0.0.1')
  socket.on('error', () => {})
  await once(socket, 'connect')
  return socket
}

async function through(socket: Socket, device: TestDevice): Promise<Buffer> {
  const { host: _host, port: _port, ...options } = harness.tlsOptions(device)
  const tls = connectTls({ ...options, socket, checkServerIdentity: () => undefined })
  tls.on('error', () => {})
  await once(tls, 'secureConnect')
  const answer = await answerOf(tls, device.id)
  tls.destroy()
  return answer
}

test('behind a proxy the client’s address is the one in the header, in whatever pieces it comes', async () => {
  const device = await harness.device('proxied-1')
  const inOne = await plain('proxied')
  inOne.write(v4(7))
  assert.deepEqual(await through(inOne, device), accepted)
  await harness.testLog.until('session.opened', { remoteAddress: '203.0.113.7', listener: 'proxied' })
  const inPieces = await plain('proxied')
  inPieces.setNoDelay(true)
  for (const octet of v6) {
    inPieces.write(Buffer.from([octet]))
    await new Promise((resolve) => setImmediate(resolve))
  }
  assert.deepEqual(await through(inPieces, device), accepted)
  await harness.testLog.until('session.opened', { remoteAddress: '2001:db8::7' })
  const withMore = await plain('proxied')
  withMore.write(header(0x21, 0x11, Buffer.concat([v4(8).subarray(16), Buffer.alloc(100, 4)])))
  assert.deepEqual(await through(withMore, device), accepted)
  await harness.testLog.until('session.opened', { remoteAddress: '203.0.113.8' })
  const dual = await plain('proxied')
  const dressed = Buffer.from('00000000000000000000ffffcb007109', 'hex')
  dual.write(header(0x21, 0x21, Buffer.concat([dressed, Buffer.alloc(16), ports])))
  assert.deepEqual(await through(dual, device), accepted)
  await harness.testLog.until('session.opened', { remoteAddress: '203.0.113.9' })
  const check = await plain('proxied')
  check.write(header(0x20, 0, Buffer.alloc(0)))
  assert.deepEqual(await through(check, device), accepted)
  await harness.testLog.until('session.opened', { remoteAddress: '127.0.0.1', listener: 'proxied' })
})

const malformed: [string, Buffer][] = [
  ['no header at all', Buffer.from('16030100c4010000c00303aabbccddeeff00112233445566778899', 'hex')],
  ['a header of version 1', Buffer.from('PROXY TCP4 203.0.113.7 10.0.0.1 4660 8883\r\n')],
  ['a version that does not exist', header(0x31, 0x11, v4(7).subarray(16))],
  ['a command that does not exist', header(0x22, 0x11, v4(7).subarray(16))],
  ['UDP', header(0x21, 0x12, v4(7).subarray(16))],
  ['a UNIX socket', header(0x21, 0x31, Buffer.alloc(216))],
  ['addresses that are cut off', header(0x21, 0x21, v4(7).subarray(16))],
  ['a body larger than any', header(0x21, 0x11, Buffer.alloc(2_000))],
]
for (const [what, bytes] of malformed) {
  test(`from a proxy, ${what} closes the connection`, async () => {
    const socket = await plain('proxied')
    socket.write(bytes)
    socket.resume()
    await closeOf(socket)
    await harness.testLog.until('connection.refused', { reason: 'handshake_failed', listener: 'proxied' })
  })
}

test('a proxy that does not finish its header is closed in time', async () => {
  const socket = await plain('proxied')
  socket.write(v4(7).subarray(0, 20))
  socket.resume()
  await closeOf(socket)
})

test('a header from anybody else is no TLS; without one they are served', async () => {
  const device = await harness.device('direct-1')
  const spoofed = await plain('direct')
  spoofed.write(v4(7))
  spoofed.resume()
  await closeOf(spoofed)
  assert.deepEqual(await connectTo('direct', device), accepted)
  await harness.testLog.until('session.opened', { remoteAddress: '127.0.0.1', listener: 'direct' })
})

async function register(id: string, pki = partner): Promise<TestDevice> {
  const device = { id, ...(await pki.device(id)) }
  harness.feed.append({ type: 'device.changed', data: { id, profile: 'sensor', groups: [], status: 'active' } })
  await harness.feed.untilApplied()
  return device
}

test('a device with a certificate of another CA comes in where that CA is trusted, and nowhere else', async () => {
  const device = await register('partner-1')
  assert.deepEqual(await connectTo('both', device), accepted)
  assert.deepEqual(await connectTo('alone', device), accepted)
  const socket = await harness.socket(device, { port: portOf('mqtts') })
  assert.equal((await answerOf(socket, device.id)).length, 0)
  await harness.testLog.until('connection.refused', { listener: 'mqtts', verification: 'unknown_ca' })
  const own = await harness.device('own-1')
  assert.deepEqual(await connectTo('both', own), accepted)
  const stranger = await harness.socket(own, { port: portOf('alone') })
  assert.equal((await answerOf(stranger, own.id)).length, 0)
  const unknown = { id: 'partner-9', ...(await partner.device('partner-9')) }
  assert.deepEqual(await connectTo('both', unknown), refused)
  await harness.testLog.until('connection.refused', { verification: 'not_registered', serial: unknown.serial })
})

test('a device of another CA is cut off when it is revoked here', async () => {
  const device = await register('partner-2')
  const socket = await harness.socket(device, { port: portOf('both') })
  assert.deepEqual(await answerOf(socket, device.id), accepted)
  const end = readToEnd(socket)
  harness.feed.append({
    type: 'device.changed',
    data: { id: device.id, profile: 'sensor', groups: [], status: 'revoked' },
  })
  await end
  await harness.testLog.until('session.kicked', { deviceId: 'partner-2', reason: 'device_revoked' })
})

test('a revocation list is read again when it changes: who is on it goes, an old one is told by name', {
  timeout: 60_000,
}, async () => {
  const device = await register('listed-1', listed)
  const socket = await harness.socket(device, { port: portOf('listing') })
  assert.deepEqual(await answerOf(socket, device.id), accepted)
  const end = readToEnd(socket)
  await writeList([device.serial])
  await end
  await harness.testLog.until('session.kicked', { deviceId: 'listed-1', reason: 'certificate_revoked' })
  assert.deepEqual(await connectTo('listing', device), refused)

  const other = await register('listed-2', listed)
  const isRead = (): boolean =>
    harness.testLog.lines.filter(({ event, authority }) => event === 'revocationList.read' && authority === 'listed')
      .length > 2
  await writeList([], listed.root)
  await eventually(isRead)
  assert.deepEqual(await connectTo('listing', other), unavailable, 'no list of its issuer')
  await harness.testLog.until('connection.refused', { reason: 'certificate_status_stale', serial: other.serial })
  writeFileSync(join(folder, 'list.pem'), 'nothing')
  await harness.testLog.until('revocationList.notRead', { authority: 'listed' })
})

const listsRead = (): number =>
  harness.testLog.lines.filter(({ event, authority }) => event === 'revocationList.read' && authority === 'listed')
    .length

async function replaceList(...list: Parameters<typeof writeList>): Promise<void> {
  const before = listsRead()
  await writeList(...list)
  await eventually(() => listsRead() > before)
}

test('a session goes on with the next revocation list, and ends when the last one has run out', async () => {
  await replaceList([], listed.issuing, 3_600_000)
  const device = await register('listed-3', listed)
  const socket = await harness.socket(device, { port: portOf('listing') })
  assert.deepEqual(await answerOf(socket, device.id), accepted)
  await replaceList([], listed.issuing, 7_200_000)
  const { verdict } = harness.broker.sessions.findLive(device.id)!
  assert.ok(verdict?.until && verdict.until.getTime() > Date.now() + skewMs + 3_700_000)
  const end = readToEnd(socket)
  skewMs += 7_300_000
  await end
  await harness.testLog.until('session.closed', { clientId: device.id, reason: 'certificate_status_stale' })
})

test('a will that waits is not published once its certificate is on a revocation list', async () => {
  await replaceList([])
  const device = await register('listed-4', listed)
  const client = RawClient.over(await harness.socket(device, { port: portOf('listing') }), 5)
  const topic = `devices/${device.id}/telemetry/gone`
  const will = {
    topic,
    payload: Buffer.from('x'),
    qos: 0 as const,
    retain: false,
    properties: { willDelayInterval: 60 },
  }
  client.send(rawConnect(5, { clientId: device.id, will, properties: { sessionExpiryInterval: 3_600 } }))
  await client.expect('connack', { reason: 0 })
  const closed = harness.testLog.until('session.closed', { clientId: device.id })
  client.socket.destroy()
  await closed
  await replaceList([device.serial])
  skewMs += 61_000
  await harness.testLog.until('publish.denied', { clientId: device.id, reason: 'will_denied' })
})

test('a second factor is asked for beside the certificate, in either version', async () => {
  const device = await harness.device('second-1')
  const asked = async (version: 4 | 5, more: Partial<Connect>): Promise<number> => {
    const client = RawClient.over(await harness.socket(device, { port: portOf('second') }), version)
    client.send(rawConnect(version, { clientId: device.id, ...more }))
    const { reason: code } = await client.expect('connack')
    client.socket.destroy()
    return code
  }
  const password = Buffer.from('correct horse')
  assert.equal(await asked(5, { password }), 0)
  assert.equal(await asked(5, { username: '', password }), 0)
  assert.equal(await asked(4, { username: 'second-1', password }), 0)
  const bad = reason.badUserNameOrPassword
  assert.equal(await asked(5, {}), bad)
  assert.equal(await asked(5, { password: Buffer.from('correct') }), bad)
  assert.equal(await asked(5, { username: 'second-2', password }), bad, 'somebody else’s name')
  assert.equal(await asked(4, { username: 'second-1', password: Buffer.alloc(2_000) }), bad)
  await harness.testLog.until('connection.refused', {
    reason: 'password_wrong',
    serial: device.serial,
    action: 'reject',
  })
})

test('a certificate that is refused is not asked for a password, and a device without one is refused as if it had another', async () => {
  const revoked = await harness.device('second-2')
  await harness.revokeCertificate(revoked)
  assert.deepEqual(await connectTo('second', revoked), refused)
  const none = await harness.device('second-3')
  const client = RawClient.over(await harness.socket(none, { port: portOf('second') }), 5)
  client.send(rawConnect(5, { clientId: none.id, password: Buffer.from('correct horse') }))
  await client.expect('connack', { reason: reason.badUserNameOrPassword })
})

test('guessing is slowed down for the device, and a new file is read by itself', async () => {
  const device = await harness.device('second-1')
  const tried = async (text: string): Promise<number> => {
    const client = RawClient.over(await harness.socket(device, { port: portOf('second') }), 5)
    client.send(rawConnect(5, { clientId: device.id, password: Buffer.from(text) }))
    const { reason: code } = await client.expect('connack')
    client.socket.destroy()
    return code
  }
  skewMs += 60_000
  for (let i = 0; i < 10; i++) assert.equal(await tried(`guess ${i}`), reason.badUserNameOrPassword)
  assert.equal(await tried('correct horse'), reason.connectionRateExceeded)
  skewMs += 60_000
  setPasswords('battery staple')
  await harness.testLog.until('passwords.read', { listener: 'second' })
  assert.equal(await tried('correct horse'), reason.badUserNameOrPassword)
  assert.equal(await tried('battery staple'), 0)
  writeFileSync(join(folder, 'passwords'), 'nonsense')
  await harness.testLog.until('passwords.notRead', { listener: 'second' })
  assert.equal(await tried('battery staple'), 0, 'what was read before stays in force')
})
