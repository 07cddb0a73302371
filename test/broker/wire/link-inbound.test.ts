import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { LinkEnd } from '../../../broker/wire/link-events.ts'
import type { Publish, Version } from '../../../broker/wire/packet.ts'
import { reason } from '../../../broker/wire/reason.ts'
import { LinkServer, publishPacket, versions } from '../../harness/raw-mqtt.ts'

const older: readonly Version[] = [3, 4]
const numbered = (qos: 1 | 2, count: number): Publish[] =>
  Array.from({ length: count }, (_, i) => publishPacket('t', String(i + 1), { qos, packetId: i + 1 }))
const silence = { publish: () => {} }

test('version 5: as many messages as the receive maximum may be under way, one more ends the connection with 0x93', async () => {
  for (const qos of [1, 2] as const) {
    await using server = await LinkServer.start({ limits: { receiveMaximum: 4 }, on: silence })
    const { client, handler } = await server.connect(5)
    client.send(...numbered(qos, 4))
    await handler.until('publish', 4)
    assert.deepEqual(await client.ping(), [])
    client.send(publishPacket('t', '5', { qos, packetId: 5 }))
    await client.expect('disconnect', { reason: reason.receiveMaximumExceeded })
    await client.expectEnd()
    assert.equal(handler.all('publish').length, 4)
    assert.equal((await handler.until<LinkEnd>('closed')).code, 'protocol_violation')
  }
})

test('version 5: QoS 2 is under way until its PUBCOMP, or until it was refused (4.9)', async () => {
  await using server = await LinkServer.start({
    limits: { receiveMaximum: 2 },
    on: {
      publish: ({ link }, { packetId, payload }: Publish) => {
        const code = String(payload) === 'refused' ? reason.notAuthorized : reason.success
        link.send({ type: 'pubrec', packetId, reason: code })
      },
    },
  })
  const { client } = await server.connect(5)
  client.send(publishPacket('t', 'refused', { qos: 2, packetId: 1 }))
  await client.expect('pubrec', { packetId: 1, reason: reason.notAuthorized })
  client.send(...numbered(2, 2))
  await client.expect('pubrec', { packetId: 1, reason: 0 })
  await client.expect('pubrec', { packetId: 2 })
  client.send({ type: 'pubrel', packetId: 1, reason: 0 })
  await client.expect('pubcomp', { packetId: 1 })
  client.send(publishPacket('t', '3', { qos: 2, packetId: 3 }))
  await client.expect('pubrec', { packetId: 3 })
  client.send(publishPacket('t', '4', { qos: 2, packetId: 4 }))
  await client.expect('disconnect', { reason: reason.receiveMaximumExceeded })
})

for (const version of older) {
  test(`version ${version}: a client without a maximum is read no faster than its messages are handled`, async () => {
    await using server = await LinkServer.start({ limits: { receiveMaximum: 4 }, on: silence })
    const { client, handler } = await server.connect(version)
    client.send(...numbered(1, 500))
    await handler.until('publish', 5)
    await new Promise((resolve) => setImmediate(resolve))
    assert.equal(handler.all('publish').length, 5)
    for (let answered = 0; answered < 500; answered++) {
      const { packetId } = await handler.until<Publish>('publish', answered + 1)
      assert.ok(handler.all('publish').length <= answered + 5)
      handler.link.send({ type: 'puback', packetId, reason: 0 })
    }
    for (let i = 1; i <= 500; i++) await client.expect('puback', { packetId: i })
    assert.deepEqual(
      handler.all<Publish>('publish').map(({ payload }) => Number(payload)),
      numbered(1, 500).map(({ packetId }) => packetId),
    )
  })

  test(`version ${version}: QoS 2 messages that wait for their PUBREL do not stop the reading`, async () => {
    await using server = await LinkServer.start({ limits: { receiveMaximum: 4 } })
    const { client } = await server.connect(version)
    client.send(...numbered(2, 300))
    for (let i = 1; i <= 300; i++) await client.expect('pubrec', { packetId: i })
    client.send(...numbered(2, 300).map(({ packetId }) => ({ type: 'pubrel' as const, packetId, reason: 0 })))
    for (let i = 1; i <= 300; i++) await client.expect('pubcomp', { packetId: i })
  })

  test(`version ${version}: a PUBREC cannot refuse, so the exchange goes on`, async () => {
    await using server = await LinkServer.start({
      on: {
        publish: ({ link }, { packetId }: Publish) =>
          link.send({ type: 'pubrec', packetId, reason: reason.notAuthorized }),
        released: ({ link }, packetId: number) =>
          link.send({ type: 'pubcomp', packetId, reason: reason.packetIdentifierNotFound }),
      },
    })
    const { client, handler } = await server.connect(version)
    client.send(publishPacket('t', '', { qos: 2, packetId: 9 }))
    await client.expect('pubrec', { packetId: 9, reason: 0 })
    client.send({ type: 'pubrel', packetId: 9, reason: 0 })
    await client.expect('pubcomp', { packetId: 9, reason: 0 })
    assert.deepEqual(handler.all('released'), [9])
  })
}

for (const version of versions) {
  test(`version ${version}: a QoS 2 message that is repeated is acknowledged again and not given again [MQTT-4.3.3-10]`, async () => {
    await using server = await LinkServer.start()
    const { client, handler } = await server.connect(version)
    for (const dup of [false, true, true]) {
      client.send(publishPacket('t', 'once', { qos: 2, packetId: 3, dup }))
      await client.expect('pubrec', { packetId: 3, reason: 0 })
    }
    client.send({ type: 'pubrel', packetId: 3, reason: 0 })
    await client.expect('pubcomp', { packetId: 3 })
    assert.equal(handler.all('publish').length, 1)
    client.send(publishPacket('t', 'anew', { qos: 2, packetId: 3 }))
    await client.expect('pubrec', { packetId: 3 })
    assert.equal(handler.all('publish').length, 2)
  })

  test(`version ${version}: a PUBREL of an earlier connection is the handler’s to answer, once`, async () => {
    await using server = await LinkServer.start({ on: { released: () => {} } })
    const { client, handler } = await server.connect(version)
    client.send({ type: 'pubrel', packetId: 77, reason: 0 }, { type: 'pubrel', packetId: 77, reason: 0 })
    assert.equal(await handler.until('released'), 77)
    handler.link.send({ type: 'pubcomp', packetId: 77, reason: reason.packetIdentifierNotFound })
    await client.expect('pubcomp', { packetId: 77, reason: version === 5 ? reason.packetIdentifierNotFound : 0 })
    assert.deepEqual(await client.ping(), [])
    assert.equal(handler.all('released').length, 1)
  })

  test(`version ${version}: a PUBREL for a message whose PUBREC is due breaks the protocol`, async () => {
    await using server = await LinkServer.start({ on: silence })
    const { client, handler } = await server.connect(version)
    client.send(publishPacket('t', '', { qos: 2, packetId: 1 }), { type: 'pubrel', packetId: 1, reason: 0 })
    if (version === 5) await client.expect('disconnect', { reason: reason.protocolError })
    await client.expectEnd()
    assert.equal(handler.all('released').length, 0)
  })
}

describe('a handler that is behind', { concurrency: true }, () => {
  for (const version of versions) {
    test(`version ${version}: SUBSCRIBE and UNSUBSCRIBE wait for a handler that is behind, and no keep-alive runs meanwhile`, async () => {
      await using server = await LinkServer.start({ limits: { receiveMaximum: 4 }, on: { unsubscribe: () => {} } })
      const { client, handler } = await server.connect(version, { keepAlive: 1 })
      client.send(
        ...Array.from({ length: 20 }, (_, i) => ({ type: 'unsubscribe' as const, packetId: i + 1, filters: ['a'] })),
      )
      await handler.until('unsubscribe', 5)
      await new Promise((resolve) => setTimeout(resolve, 1_700))
      assert.deepEqual([handler.all('unsubscribe').length, handler.all('closed').length], [5, 0])
      for (let i = 1; i <= 20; i++) {
        await handler.until('unsubscribe', i)
        handler.link.send({ type: 'unsuback', packetId: i, reasons: [0] })
        await client.expect('unsuback', { packetId: i })
      }
    })
  }
})

test('version 5: a PUBREL of an earlier connection is outside the receive maximum of this one', async () => {
  await using server = await LinkServer.start({ limits: { receiveMaximum: 2 }, on: { ...silence, released: () => {} } })
  const { client, handler } = await server.connect(5)
  client.send({ type: 'pubrel', packetId: 50, reason: 0 }, publishPacket('t', '', { qos: 2, packetId: 1 }))
  await handler.until('publish')
  handler.link.send({ type: 'pubrec', packetId: 1, reason: 0 })
  await client.expect('pubrec')
  client.send(publishPacket('t', '', { qos: 1, packetId: 2 }))
  await handler.until('publish', 2)
  assert.deepEqual(await client.ping(), [])
})

test('version 5: a topic alias is resolved, replaced, and known on its own connection alone [MQTT-3.3.2-7]', async () => {
  await using server = await LinkServer.start()
  const { client, handler } = await server.connect(5)
  const withAlias = (topic: string, topicAlias: number, contentType?: string): Publish =>
    publishPacket(topic, '', { properties: { topicAlias, ...(contentType ? { contentType } : {}) } })
  client.send(
    withAlias('long/topic', 1),
    withAlias('other', 3),
    withAlias('', 1, 'text/plain'),
    withAlias('new', 1),
    withAlias('', 1),
    withAlias('', 3),
  )
  await handler.until('publish', 6)
  assert.deepEqual(
    handler.all<Publish>('publish').map(({ topic }) => topic),
    ['long/topic', 'other', 'long/topic', 'new', 'new', 'other'],
  )
  assert.deepEqual(handler.all<Publish>('publish')[2]?.properties, { contentType: 'text/plain' })
  const other = await server.connect(5)
  other.client.send(withAlias('', 1))
  await other.client.expect('disconnect', { reason: reason.protocolError })
})

test('version 5: a topic alias of 0 or above the maximum ends the connection with 0x94 [MQTT-3.3.2-8] [MQTT-3.3.2-9]', async () => {
  await using server = await LinkServer.start({ limits: { topicAliasMaximum: 3 } })
  for (const topicAlias of [0, 4]) {
    const { client } = await server.connect(5)
    client.send(publishPacket('a', '', { properties: { topicAlias } }))
    await client.expect('disconnect', { reason: reason.topicAliasInvalid })
    await client.expectEnd()
  }
})

test('what was announced in the CONNACK is enforced: maximum QoS, retain, packet size, receive maximum', async () => {
  await using server = await LinkServer.start({
    on: {
      connect: ({ link }) =>
        link.accept({
          sessionPresent: false,
          properties: { maximumQos: 1, retainAvailable: false, maximumPacketSize: 100, receiveMaximum: 1 },
        }),
      ...silence,
    },
  })
  const wrong: [Publish[], code: number][] = [
    [[publishPacket('a', '', { qos: 2, packetId: 1 })], reason.qosNotSupported],
    [[publishPacket('a', '', { retain: true })], reason.retainNotSupported],
    [[publishPacket('a', Buffer.alloc(100))], reason.packetTooLarge],
    [numbered(1, 2), reason.receiveMaximumExceeded],
  ]
  for (const [packets, code] of wrong) {
    const { client } = await server.connect(5)
    client.send(...packets)
    await client.expect('disconnect', { reason: code })
    await client.expectEnd()
  }
  // An older client was told nothing of QoS and retain: its messages are the handler's to judge.
  const { client, handler } = await server.connect(4)
  client.send(publishPacket('a', '', { qos: 2, packetId: 1, retain: true }))
  assert.equal((await handler.until<Publish>('publish')).qos, 2)
})
