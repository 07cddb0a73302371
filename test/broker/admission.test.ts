import assert from 'node:assert/strict'
import { once } from 'node:events'
import { after, before, beforeEach, test } from 'node:test'
import type { Connect } from '../../broker/wire/packet.ts'
import { reason } from '../../broker/wire/reason.ts'
import {
  BrokerHarness,
  connectPacket,
  packet,
  parsePolicy,
  readToEnd,
  starter,
  type TestDevice,
  textField,
} from '../harness/broker.ts'
import { TestPki } from '../harness/certificates.ts'
import { RawClient, connectPacket as rawConnect } from '../harness/raw-mqtt.ts'

const day = 86_400_000
let harness: BrokerHarness
/** Moved on before each test, so that the refusals of one do not silence the log lines of the next. */
let skewMs = 0
beforeEach(() => {
  skewMs += 120_000
})

before(async () => {
  harness = await BrokerHarness.start({
    clock: () => new Date(Date.now() + skewMs),
    broker: { maxConnectionsPerDevice: 2 },
  })
})
after(() => harness[Symbol.asyncDispose]())

async function refusedAtHandshake(credential: Parameters<BrokerHarness['socket']>[0]): Promise<void> {
  const socket = await harness.socket(credential)
  socket.write(connectPacket('x'))
  assert.equal((await readToEnd(socket)).length, 0, 'not one byte is answered')
}

test('a client without a certificate is closed before a byte of MQTT is read', async () => {
  await refusedAtHandshake(undefined)
  await harness.testLog.until('connection.refused', { reason: 'certificate_missing' })
})

test('a client with a self-signed certificate is closed before a byte of MQTT is read', async () => {
  await refusedAtHandshake(await TestPki.selfSigned('sensor-1'))
  await harness.testLog.until('connection.refused', { reason: 'certificate_self_signed' })
})

test('a client of a foreign CA is a stranger, also when its CA has the name of ours and sends itself along', async () => {
  const foreign = await TestPki.create('Test')
  const device = await foreign.device('sensor-1')
  await refusedAtHandshake({ ...device, chain: device.chain + foreign.root.pem })
  await harness.testLog.until('connection.refused', { reason: 'certificate_untrusted', serial: device.serial })
})

test('a foreign certificate that has also expired or is for servers is a stranger all the same', async () => {
  const foreign = await TestPki.create('Elsewhere')
  const expired = await foreign.device('sensor-1', {
    notBefore: new Date(Date.now() - 3 * day),
    notAfter: new Date(Date.now() - day),
  })
  const server = await foreign.device('sensor-1', { usage: ['1.3.6.1.5.5.7.3.1'] })
  for (const device of [expired, server]) {
    await refusedAtHandshake({ ...device, chain: device.chain + foreign.root.pem })
    await harness.testLog.until('connection.refused', { reason: 'certificate_untrusted', serial: device.serial })
  }
})

async function hearsCode(device: TestDevice, code: number, reason: string, options = {}): Promise<void> {
  assert.equal(await harness.refusal(device, options), code)
  await harness.testLog.until('connection.refused', { reason, serial: device.serial })
}

test('a device of ours with an expired certificate hears CONNACK 5', async () => {
  const device = await harness.device('expired-1', {
    notBefore: new Date(Date.now() - 3 * day),
    notAfter: new Date(Date.now() - day),
  })
  await hearsCode(device, 5, 'certificate_expired')
})

test('a certificate that expires by our clock, not by the machine’s, hears CONNACK 5', async () => {
  const device = await harness.device('expires-1', { notAfter: new Date(Date.now() + 10 * day) })
  assert.equal(await harness.refusal(device), 0)
  skewMs += 11 * day
  try {
    await hearsCode(device, 5, 'certificate_expired')
  } finally {
    skewMs -= 11 * day
  }
})

test('a certificate that is not valid yet hears CONNACK 5', async () => {
  const device = await harness.device('early-1', { notBefore: new Date(Date.now() + day) })
  await hearsCode(device, 5, 'certificate_not_yet_valid')
})

test('a certificate of ours that is not for client authentication hears CONNACK 5', async () => {
  await hearsCode(await harness.device('server-1', { usage: ['1.3.6.1.5.5.7.3.1'] }), 5, 'certificate_wrong_usage')
  await hearsCode(await harness.device('any-1', { usage: [] }), 5, 'certificate_wrong_usage')
})

test('a certificate that chains but is not registered hears CONNACK 5 after enroll was asked', async () => {
  const device = await harness.strangeDevice('unknown-1')
  await hearsCode(device, 5, 'certificate_unregistered')
})

test('a device that connects before the event of its enrollment came round is let in', async () => {
  const device = await harness.strangeDevice('quick-1')
  let asked = false
  harness.feed.beforePong = () => {
    asked = true
    harness.feed.append(
      { type: 'device.changed', data: { id: 'quick-1', profile: 'sensor', groups: [], status: 'active' } },
      harness.issuedFact(device),
    )
  }
  try {
    assert.equal(await harness.refusal(device), 0)
  } finally {
    harness.feed.beforePong = undefined
  }
  assert.ok(asked)
})

test('a revoked certificate hears CONNACK 5', async () => {
  const device = await harness.device('revoked-1')
  await harness.revokeCertificate(device)
  await hearsCode(device, 5, 'certificate_revoked')
})

test('a revoked device hears CONNACK 5 with a certificate that nobody revoked', async () => {
  const device = await harness.device('revoked-2')
  harness.feed.append({
    type: 'device.changed',
    data: { id: device.id, profile: 'sensor', groups: [], status: 'revoked' },
  })
  await harness.feed.untilApplied()
  await hearsCode(device, 5, 'device_revoked')
})

test('a client id that is not of the device hears CONNACK 2', async () => {
  const device = await harness.device('named-1')
  for (const clientId of [
    'named-2',
    'named-1x',
    'NAMED-1',
    ':named-1',
    '__proto__',
    'constructor',
    `named-1:${'x'.repeat(65)}`,
  ]) {
    assert.equal(await harness.refusal(device, { clientId }), 2, clientId)
  }
  await harness.testLog.until('connection.refused', { reason: 'client_id_mismatch', clientId: '__proto__' })
})

test('the device id, or it with a suffix, is a client id', async () => {
  const device = await harness.device('named-3')
  assert.equal(await harness.refusal(device, { clientId: 'named-3' }), 0)
  assert.equal(await harness.refusal(device, { clientId: 'named-3:console' }), 0)
})

test('an empty client id is given the device id and a suffix, and refused with CONNACK 2 where a session is to be kept', async () => {
  const device = await harness.device('nameless-1')
  const kept = await harness.socket(device)
  kept.write(connectPacket('', { flags: 0 }))
  assert.deepEqual(await readToEnd(kept), Buffer.from([0x20, 2, 0, 2]))
  const socket = await harness.socket(device)
  socket.write(connectPacket(''))
  assert.deepEqual((await once(socket, 'data'))[0], Buffer.from([0x20, 2, 0, 0]))
  const { clientId } = await harness.testLog.until('session.opened', { deviceId: 'nameless-1' })
  assert.match(String(clientId), /^nameless-1:[\da-f-]{36}$/)
})

test('the connection after the last that a device may have hears CONNACK 3', async () => {
  const device = await harness.device('many-1')
  await harness.connect(device, { clientId: 'many-1:a' })
  await harness.connect(device, { clientId: 'many-1:b' })
  await hearsCode(device, 3, 'too_many_connections', { clientId: 'many-1:c' })
  assert.equal(await harness.refusal(device, { clientId: 'many-1:b' }), 0, 'a takeover needs no room')
})

test('a device that opens connections without a CONNECT is refused at the handshake in the end', async () => {
  const device = await harness.device('flood-1')
  for (let i = 0; i < 8; i++) await harness.socket(device)
  assert.equal((await readToEnd(await harness.socket(device))).length, 0)
  await harness.testLog.until('connection.refused', { reason: 'too_many_connections', deviceId: 'flood-1' })
})

test('whoever has a revoked certificate of a device cannot use up the connections of its new one', async () => {
  const stolen = await harness.device('stolen-1')
  await harness.revokeCertificate(stolen)
  const device = await harness.strangeDevice('stolen-1')
  harness.feed.append(harness.issuedFact(device))
  await harness.feed.untilApplied()
  for (let i = 0; i < 8; i++) await harness.socket(stolen)
  assert.equal((await readToEnd(await harness.socket(stolen))).length, 0)
  assert.equal(await harness.refusal(device), 0)
})

test('a will that the policy does not allow is refused at CONNECT', async () => {
  const device = await harness.device('will-1')
  const will = { payload: Buffer.from('gone'), qos: 0 as const, retain: false }
  for (const topic of ['devices/other/state', '$SYS/broker/new/clients']) {
    await hearsCode(device, 5, 'will_denied', { will: { topic, ...will } })
  }
  assert.equal(await harness.refusal(device, { will: { topic: 'devices/will-1/state', ...will } }), 0)
})

test('a will of QoS 3, with a wildcard or with an empty topic is no CONNECT at all', async () => {
  const device = await harness.device('will-2')
  const field = (text: string): Buffer => Buffer.concat([Buffer.from([0, text.length]), Buffer.from(text)])
  const connect = (flags: number, topic: string): Buffer =>
    connectPacket('will-2', { flags, tail: Buffer.concat([field(topic), field('x')]) })
  const broken = [
    connect(0x1e, 'devices/will-2/state'),
    connect(0x06, ''),
    connect(0x06, 'devices/will-2/#'),
    connect(0x06, 'devices/+/state'),
  ]
  for (const bytes of broken) {
    const socket = await harness.socket(device)
    socket.write(bytes)
    assert.equal((await readToEnd(socket)).length, 0)
  }
  await harness.testLog.until('connection.refused', { reason: 'protocol_violation', serial: device.serial })
})

test('version 5 hears why it is refused, by its code and in a sentence', async () => {
  const device = await harness.device('five-1')
  const refused = async (connect: Partial<Connect>): Promise<[number, string | undefined]> => {
    const client = RawClient.over(await harness.socket(device), 5)
    client.send({ ...rawConnect(5, { clientId: 'five-1' }), ...connect })
    const { reason: code, properties } = await client.expect('connack')
    await client.expectEnd()
    return [code, properties?.reasonString]
  }
  const [code, sentence] = await refused({ clientId: 'five-2' })
  assert.equal(code, reason.clientIdentifierNotValid)
  assert.match(sentence!, /must be five-1/)
  const will = { topic: 'devices/other/x', payload: Buffer.from('x'), qos: 0 as const, retain: false }
  assert.equal((await refused({ will }))[0], reason.notAuthorized)
  await harness.connect(device, { clientId: 'five-1:a' })
  await harness.connect(device, { clientId: 'five-1:b' })
  assert.equal((await refused({ clientId: 'five-1:c' }))[0], reason.quotaExceeded)
  await harness.revokeCertificate(device)
  const [revoked, why] = await refused({})
  assert.equal(revoked, reason.notAuthorized)
  assert.match(why!, /revoked/)
})

test('a version that does not exist is told so in the words of version 5, and does not end the session that has the client id', async () => {
  const device = await harness.device('six-1')
  const client = await harness.connect(device)
  const socket = await harness.socket(device)
  socket.write(packet(0x10, Buffer.concat([textField('MQTT'), Buffer.from([6, 2, 0, 60]), textField('six-1')])))
  assert.deepEqual((await readToEnd(socket)).subarray(2, 4), Buffer.from([0, reason.unsupportedProtocolVersion]))
  await harness.testLog.until('connection.refused', { reason: 'protocol_violation', serial: device.serial })
  assert.ok(client.connected)
})

for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
  /** Connects once and hands over a ticket to come back with. */
  async function ticketOf(device: TestDevice): Promise<Buffer> {
    const first = await harness.socket(device, { maxVersion })
    let ticket = first.getSession()
    first.on('session', (session) => {
      ticket = session
    })
    first.write(connectPacket(device.id))
    await once(first, 'data')
    if (maxVersion === 'TLSv1.3' && !first.isSessionReused()) await new Promise((resolve) => setImmediate(resolve))
    first.end()
    await once(first, 'close')
    assert.ok(ticket)
    return ticket
  }

  async function resumed(device: TestDevice, session: Buffer): Promise<Buffer> {
    const socket = await harness.socket(device, { maxVersion, session })
    assert.ok(socket.isSessionReused(), 'the session was resumed')
    socket.write(connectPacket(device.id))
    const answer = await once(socket, 'data')
    socket.destroy()
    return answer[0] as Buffer
  }

  test(`a resumed ${maxVersion} session is let in while its certificate stands`, async () => {
    const device = await harness.device(`resume-1-${maxVersion}`)
    assert.deepEqual(await resumed(device, await ticketOf(device)), Buffer.from([0x20, 2, 0, 0]))
  })

  test(`a resumed ${maxVersion} session of a revoked certificate is refused`, async () => {
    const device = await harness.device(`resume-2-${maxVersion}`)
    const ticket = await ticketOf(device)
    await harness.revokeCertificate(device)
    assert.deepEqual(await resumed(device, ticket), Buffer.from([0x20, 2, 0, 5]))
    await harness.testLog.until('connection.refused', { reason: 'certificate_revoked', serial: device.serial })
  })

  test(`a resumed ${maxVersion} session of an expired certificate is refused`, async () => {
    const device = await harness.device(`resume-3-${maxVersion}`)
    const ticket = await ticketOf(device)
    skewMs += 31 * day
    try {
      assert.deepEqual(await resumed(device, ticket), Buffer.from([0x20, 2, 0, 5]))
    } finally {
      skewMs -= 31 * day
    }
    await harness.testLog.until('connection.refused', { reason: 'certificate_expired', serial: device.serial })
  })

  test(`a ${maxVersion} ticket of a connection without a certificate opens nothing`, async () => {
    // The server may have closed it before the client knows that the handshake is over.
    const first = await harness.socket(undefined, { maxVersion }).catch(() => undefined)
    let ticket = first?.getSession()
    first?.on('session', (session) => {
      ticket = session
    })
    if (first) await readToEnd(first)
    const second = await harness
      .socket(undefined, { maxVersion, ...(ticket ? { session: ticket } : {}) })
      .catch(() => undefined)
    second?.write(connectPacket('resume-1'))
    assert.equal(second ? (await readToEnd(second)).length : 0, 0)
    await harness.testLog.until('connection.refused', { reason: 'certificate_missing' })
  })
}

test('a broker that has not heard who is revoked answers CONNACK 3 to its own and still nothing to strangers', async () => {
  await using fresh = await BrokerHarness.start({ live: false })
  const device = await fresh.strangeDevice('sensor-1')
  assert.equal(await fresh.refusal(device), 3)
  await fresh.testLog.until('connection.refused', { reason: 'snapshot_stale' })
  assert.equal((await readToEnd(await fresh.socket(await TestPki.selfSigned('sensor-1')))).length, 0)
})

test('policy decides by the record and the certificate’s own RDNs', async () => {
  const policy = parsePolicy(`
policies:
  - { name: unit, match: { subject.OU: north }, allow: { publish: ["sites/\${subject.OU}/x"] } }
  - { name: group, match: { group: lab }, allow: { publish: ["labs/\${device.group}/x"] } }
`)
  harness.setPolicy(policy)
  const unit = await harness.device('unit-1', { organizationalUnits: ['north'], groups: ['lab', 'office'] })
  try {
    const will = (topic: string) => ({ will: { topic, payload: Buffer.from('x'), qos: 0 as const, retain: false } })
    assert.equal(await harness.refusal(unit, will('sites/north/x')), 0)
    assert.equal(await harness.refusal(unit, will('labs/office/x')), 0)
    assert.equal(await harness.refusal(unit, will('sites/south/x')), 5)
    assert.equal(await harness.refusal(unit, will('labs/other/x')), 5)
  } finally {
    harness.setPolicy(starter)
    await harness.feed.untilApplied()
  }
})
