import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { encode } from '../../../broker/wire/codec.ts'
import type { Goodbye, LinkEnd } from '../../../broker/wire/link-events.ts'
import type { Ack, Connect, Publish, Version } from '../../../broker/wire/packet.ts'
import { reason } from '../../../broker/wire/reason.ts'
import { connectPacket, type Handler, LinkServer, publishPacket, versions } from '../../harness/raw-mqtt.ts'

const older: readonly Version[] = [3, 4]

for (const version of versions) {
  test(`version ${version}: a CONNECT that is accepted is answered and its packets are served`, async () => {
    await using server = await LinkServer.start()
    const { client, handler } = await server.connect(version)
    client.send({
      type: 'subscribe',
      packetId: 1,
      subscriptions: [{ filter: 'a', qos: 2, noLocal: false, retainAsPublished: false, retainHandling: 0 }],
    })
    await client.expect('suback', { packetId: 1, reasons: [2] })
    client.send(publishPacket('a', 'zero'), publishPacket('a', 'one', { qos: 1, packetId: 7 }))
    await client.expect('publish', { topic: 'a', payload: Buffer.from('zero') })
    await client.expect('puback', { packetId: 7 })
    const { packetId } = await client.expect('publish', { payload: Buffer.from('one'), qos: 1 })
    client.send({ type: 'puback', packetId, reason: 0 })
    client.send({ type: 'unsubscribe', packetId: 2, filters: ['a'] })
    await client.expect('unsuback', { packetId: 2 })
    assert.deepEqual(await client.ping(), [])
    assert.deepEqual(handler.all('acknowledged'), [{ packetId, reason: 0 }])
    assert.deepEqual(handler.link.counters, {
      packetsIn: 7,
      bytesIn: client.socket.bytesWritten,
      packetsOut: 7,
      bytesOut: client.bytes,
      messagesIn: 2,
      messagesOut: 2,
      dropped: { slow: 0, tooLarge: 0, expired: 0 },
    })
  })

  test(`version ${version}: a session that goes on is said in the CONNACK where the version can`, async () => {
    await using server = await LinkServer.start({
      on: { connect: ({ link }) => link.accept({ sessionPresent: true }) },
    })
    const { client } = await server.dial(version)
    client.send(connectPacket(version, { clean: false }))
    await client.expect('connack', { sessionPresent: version !== 3 })
  })

  test(`version ${version}: 100 packets behind the CONNECT wait until it is accepted, and come in order (trap T22)`, async () => {
    await using server = await LinkServer.start({ on: { connect: () => {} } })
    const { client, handler } = await server.dial(version)
    client.send(
      connectPacket(version),
      ...Array.from({ length: 100 }, (_, i) => publishPacket('t', String(i), { qos: 1, packetId: i + 1 })),
    )
    await handler.until('connect')
    client.send({ type: 'pingreq' })
    await new Promise((resolve) => setImmediate(resolve))
    assert.equal(handler.link.counters.packetsIn, 1)
    handler.link.accept({ sessionPresent: false })
    await client.expect('connack')
    for (let i = 0; i < 100; i++) await client.expect('puback', { packetId: i + 1 })
    await client.expect('pingresp')
    assert.deepEqual(
      handler.all<Publish>('publish').map(({ payload }) => String(payload)),
      Array.from({ length: 100 }, (_, i) => String(i)),
    )
  })

  test(`version ${version}: what comes before a CONNECT ends the connection without a word`, async () => {
    await using server = await LinkServer.start()
    const garbage: [string, Buffer][] = [
      ['PINGREQ', encode({ type: 'pingreq' }, version)],
      ['PUBLISH', encode(publishPacket('a', 'b'), version)],
      ['an HTTP request', Buffer.from('GET / HTTP/1.1\r\nHost: mqtt\r\n\r\n')],
      ['packet type 0', Buffer.from([0, 0])],
      ['a length of five octets', Buffer.from([0x10, 0x80, 0x80, 0x80, 0x80, 1])],
      ['a CONNECT of nothing', Buffer.from([0x10, 0])],
      ['random octets', Buffer.from('d3a1f00f9c', 'hex')],
    ]
    for (const [name, bytes] of garbage) {
      const { client, handler } = await server.dial(version)
      client.send(bytes)
      await client.expectEnd()
      const end = await handler.until<LinkEnd>('closed')
      assert.match(end.code, /^(protocol_violation|packet_too_large)$/, name)
      assert.equal(handler.all('connect').length, 0, name)
    }
  })

  test(`version ${version}: after CONNECT, a packet that is none ends the connection with its reason`, async () => {
    await using server = await LinkServer.start()
    const { malformedPacket, protocolError, topicNameInvalid, topicFilterInvalid } = reason
    const wrong: [string, Buffer, code: number][] = [
      ['a second CONNECT [MQTT-3.1.0-2]', encode(connectPacket(version), version), protocolError],
      ['a CONNACK', Buffer.from([0x20, 2, 0, 0]), protocolError],
      ['a SUBACK', Buffer.from([0x90, 3, 0, 1, 0]), protocolError],
      ['an UNSUBACK', Buffer.from([0xb0, 2, 0, 1]), protocolError],
      ['a PINGRESP', Buffer.from([0xd0, 0]), protocolError],
      ['an AUTH', Buffer.from([0xf0, 0]), version === 5 ? protocolError : malformedPacket],
      ['packet type 0', Buffer.from([0, 0]), malformedPacket],
      ['a PUBLISH of QoS 3', Buffer.from([0x36, 5, 0, 1, 97, 0, 1]), malformedPacket],
      ['a topic with a wildcard', encode(publishPacket('a/#', ''), version), topicNameInvalid],
      ['a SUBSCRIBE with wrong flags', Buffer.from([0x80, 2, 0, 1]), malformedPacket],
      [
        'a filter that is none',
        encode({ type: 'unsubscribe', packetId: 1, filters: ['a/#/b'] }, version),
        topicFilterInvalid,
      ],
    ]
    for (const [name, bytes, code] of wrong) {
      const { client, handler } = await server.connect(version)
      client.send(bytes, { type: 'pingreq' })
      if (version === 5) {
        const { reason: said } = await client.expect('disconnect')
        assert.equal(said, code, name)
      }
      await client.expectEnd()
      const end = await handler.until<LinkEnd>('closed')
      assert.deepEqual([end.code, end.reason], ['protocol_violation', code], name)
      assert.equal(handler.all('publish').length, 0)
    }
  })

  test(`version ${version}: before CONNECT a packet is judged by its length alone, by a limit of its own (trap T20)`, async () => {
    await using server = await LinkServer.start({ limits: { maxConnectBytes: 256, maxPacketBytes: 4_096 } })
    const { client, handler } = await server.dial(version)
    client.send(Buffer.from([0x10, 0xff, 0x01]))
    await client.expectEnd()
    assert.equal((await handler.until<LinkEnd>('closed')).code, 'packet_too_large')
    const other = await server.connect(version)
    other.client.send(publishPacket('a', Buffer.alloc(3_000)))
    assert.deepEqual(await other.client.ping(), [])
  })

  test(`version ${version}: after CONNECT a packet may have maxPacketBytes and not one more`, async () => {
    await using server = await LinkServer.start({ limits: { maxPacketBytes: 4_096 } })
    const { client, handler } = await server.connect(version)
    const overhead = encode(publishPacket('a', Buffer.alloc(4_000)), version).length - 4_000
    client.send(publishPacket('a', Buffer.alloc(4_096 - overhead)))
    assert.deepEqual(await client.ping(), [])
    client.send(publishPacket('a', Buffer.alloc(4_096 - overhead + 1)))
    if (version === 5) await client.expect('disconnect', { reason: reason.packetTooLarge })
    await client.expectEnd()
    assert.equal(handler.all('publish').length, 1)
    assert.equal((await handler.until<LinkEnd>('closed')).code, 'packet_too_large')
  })

  test(`version ${version}: a client that reads sees the last word and the end while it goes on sending (trap T36)`, async () => {
    await using server = await LinkServer.start()
    const { client, handler } = await server.connect(version)
    const flood = setInterval(() => client.socket.writable && client.send(publishPacket('t', Buffer.alloc(60_000))), 1)
    try {
      await handler.until('publish', 3)
      handler.link.fail(reason.sessionTakenOver, 'somebody else has this client id')
      const heard = handler.all('publish').length
      if (version === 5) {
        const { properties } = await client.expect('disconnect', { reason: reason.sessionTakenOver })
        assert.deepEqual(properties, { reasonString: 'somebody else has this client id' })
      }
      await client.expectEnd()
      const end = await handler.until<LinkEnd>('closed')
      assert.deepEqual([end.code, end.reason], ['closed', reason.sessionTakenOver])
      assert.equal(handler.all('publish').length, heard)
    } finally {
      clearInterval(flood)
    }
  })

  test(`version ${version}: DISCONNECT is told, nothing behind it is read, and the connection closes`, async () => {
    await using server = await LinkServer.start()
    const { client, handler } = await server.connect(version)
    client.send({ type: 'disconnect', reason: 0 }, publishPacket('a', 'late'))
    await client.expectEnd()
    const end = await handler.until<LinkEnd>('closed')
    assert.deepEqual(handler.all<Goodbye>('disconnected'), [{ clean: true, reason: 0, willDue: false }])
    assert.equal(end.code, 'disconnected')
    assert.equal(handler.all('publish').length, 0)
  })

  test(`version ${version}: a connection that breaks is lost, once, without a DISCONNECT`, async () => {
    await using server = await LinkServer.start()
    const { client, handler } = await server.connect(version)
    client.socket.resetAndDestroy()
    assert.partialDeepStrictEqual(await handler.until<LinkEnd>('closed'), {
      code: 'connection_lost',
      sentence: 'read ECONNRESET',
    })
    const quiet = await server.connect(version)
    quiet.client.socket.end()
    assert.equal((await quiet.handler.until<LinkEnd>('closed')).code, 'connection_lost')
    await quiet.client.closed()
    assert.deepEqual([handler.all('closed').length, quiet.handler.all('closed').length], [1, 1])
    assert.equal(handler.all('disconnected').length, 0)
  })

  test(`version ${version}: a handler that throws ends its own connection and no other`, async () => {
    const cause = new Error('the store is away')
    await using server = await LinkServer.start({
      on: {
        publish: (_handler, { topic }: Publish) => {
          if (topic === 'bad') throw cause
        },
      },
    })
    const { client, handler } = await server.connect(version)
    const other = await server.connect(version)
    client.send(publishPacket('bad', ''))
    if (version === 5) {
      const { properties } = await client.expect('disconnect', { reason: reason.unspecifiedError })
      assert.equal(properties, undefined)
    }
    await client.expectEnd()
    const end = await handler.until<LinkEnd>('closed')
    assert.deepEqual([end.code, end.cause], ['internal', cause])
    assert.deepEqual(await other.client.ping(), [])
  })

  test(`version ${version}: destroy closes at once, end lets out what was sent`, async () => {
    await using server = await LinkServer.start()
    const first = await server.connect(version)
    first.handler.link.deliver({ topic: 'a', payload: Buffer.from('x') }, { qos: 0, retain: false })
    first.handler.link.destroy()
    assert.equal(await first.client.next(), undefined)
    assert.equal((await first.handler.until<LinkEnd>('closed')).code, 'closed')
    const second = await server.connect(version)
    second.handler.link.deliver({ topic: 'a', payload: Buffer.from('x') }, { qos: 0, retain: false })
    second.handler.link.end()
    await second.client.expect('publish', { topic: 'a' })
    await second.client.expectEnd()
    assert.equal((await second.handler.until<LinkEnd>('closed')).code, 'closed')
  })

  test(`version ${version}: after its end a link takes nothing and gives nothing`, async () => {
    await using server = await LinkServer.start()
    const { client, handler } = await server.connect(version)
    const { link } = handler
    link.end()
    await client.expectEnd()
    const message = { topic: 'a', payload: Buffer.from('x') }
    assert.equal(link.deliver(message, { qos: 0, retain: false }), 'dropped')
    assert.equal(link.deliver(message, { qos: 1, retain: false }), 'waiting')
    link.send({ type: 'puback', packetId: 1, reason: 0 })
    link.accept({ sessionPresent: false })
    link.refuse(reason.banned)
    link.fail(reason.banned)
    link.destroy()
    await client.closed()
    assert.equal(handler.all('closed').length, 1)
    assert.equal(link.counters.packetsOut, 1)
  })
}

for (const version of older) {
  test(`version ${version}: what Clean Session says arrives as a session expiry interval`, async () => {
    await using server = await LinkServer.start()
    for (const [clean, sessionExpiryInterval] of [
      [true, 0],
      [false, 0xffff_ffff],
    ] as const) {
      const { handler } = await server.connect(version, { clean })
      assert.deepEqual(handler.all<Connect>('connect')[0]?.properties, { sessionExpiryInterval })
    }
  })

  test(`version ${version}: a refusal is a CONNACK where there is a code for it, else the connection just closes`, async () => {
    let code: number = reason.notAuthorized
    await using server = await LinkServer.start({ on: { connect: ({ link }) => link.refuse(code, 'not you') } })
    const first = await server.dial(version)
    first.client.send(connectPacket(version))
    await first.client.expect('connack', { reason: reason.notAuthorized, sessionPresent: false })
    await first.client.expectEnd()
    code = reason.topicNameInvalid
    const second = await server.dial(version)
    second.client.send(connectPacket(version))
    await second.client.expectEnd()
    assert.deepEqual(await second.handler.until('closed'), { code: 'closed', reason: code, sentence: 'not you' })
  })
}

test('version 5: the CONNACK says what the connection may do, and nothing that was not asked for', async () => {
  await using server = await LinkServer.start({
    on: {
      connect: ({ link }) =>
        link.accept({
          sessionPresent: false,
          assignedClientId: 'sensor-1',
          serverKeepAlive: 30,
          properties: { maximumQos: 2, retainAvailable: true, responseInformation: 'replies/1', topicAliasMaximum: 2 },
        }),
    },
  })
  const announced = {
    receiveMaximum: 10,
    maximumPacketSize: 65_536,
    topicAliasMaximum: 2,
    sharedSubscriptionAvailable: true,
    retainAvailable: true,
    assignedClientIdentifier: 'sensor-1',
    serverKeepAlive: 30,
  }
  for (const requestResponseInformation of [false, true]) {
    const { client } = await server.dial(5)
    client.send(connectPacket(5, { clientId: '', properties: { requestResponseInformation } }))
    const { properties } = await client.expect('connack', { reason: reason.success })
    assert.deepEqual(
      properties,
      requestResponseInformation ? { ...announced, responseInformation: 'replies/1' } : announced,
    )
  }
})

test('version 5: a refusal is a CONNACK with its reason, and 0x80 where a CONNACK has no such reason', async () => {
  let code: number = reason.banned
  await using server = await LinkServer.start({ on: { connect: ({ link }) => link.refuse(code, 'not you') } })
  const first = await server.dial(5)
  first.client.send(connectPacket(5))
  await first.client.expect('connack', { reason: reason.banned, properties: { reasonString: 'not you' } })
  await first.client.expectEnd()
  code = reason.keepAliveTimeout
  const second = await server.dial(5)
  second.client.send(connectPacket(5))
  await second.client.expect('connack', { reason: reason.unspecifiedError })
  await second.client.expectEnd()
})

test('a connection that fails before it was accepted is refused in its CONNACK', async () => {
  await using server = await LinkServer.start({ on: { connect: ({ link }) => link.fail(reason.serverBusy) } })
  for (const version of versions) {
    const { client } = await server.dial(version)
    client.send(connectPacket(version))
    await client.expect('connack', { reason: version === 5 ? reason.serverBusy : reason.serverUnavailable })
    await client.expectEnd()
  }
})

test('an authentication method is refused with 0x8C, and AUTH is nobody’s to send [MQTT-4.12.0-1]', async () => {
  await using server = await LinkServer.start()
  const { client, handler } = await server.dial(5)
  client.send(connectPacket(5, { properties: { authenticationMethod: 'SCRAM-SHA-1' } }))
  await client.expect('connack', { reason: reason.badAuthenticationMethod })
  await client.expectEnd()
  assert.equal(handler.all('connect').length, 0)
  const open = await server.connect(5)
  open.client.send({ type: 'auth', reason: reason.reauthenticate, properties: { authenticationMethod: 'SCRAM-SHA-1' } })
  await open.client.expect('disconnect', { reason: reason.protocolError })
  await open.client.expectEnd()
})

test('an unknown protocol version is refused in words that its client can read', async () => {
  await using server = await LinkServer.start()
  for (const [level, version] of [
    [2, 4],
    [6, 5],
  ] as const) {
    const { client, handler } = await server.dial(version)
    const bytes = encode(connectPacket(version), version)
    bytes[bytes.indexOf('MQTT') + 4] = level
    client.send(bytes)
    await client.expect('connack', { reason: reason.unsupportedProtocolVersion })
    await client.expectEnd()
    assert.equal((await handler.until<LinkEnd>('closed')).code, 'protocol_violation')
  }
})

test('an empty client id with Clean Session 0 is refused with CONNACK 2 in 3.1.1', async () => {
  await using server = await LinkServer.start()
  const { client } = await server.dial(4)
  client.send(connectPacket(4, { clientId: '', clean: false }))
  await client.expect('connack', { reason: reason.clientIdentifierNotValid })
  await client.expectEnd()
})

describe('version 5: DISCONNECT', () => {
  const cases: { name: string; code: number; expect: Goodbye }[] = [
    { name: 'normal', code: 0, expect: { clean: true, reason: 0, willDue: false } },
    { name: 'with will', code: 0x04, expect: { clean: true, reason: 0x04, willDue: true } },
    { name: 'unspecified error', code: 0x80, expect: { clean: false, reason: 0x80, willDue: true } },
  ]
  for (const { name, code, expect } of cases) {
    test(`${name}: whether the will is due`, async () => {
      await using server = await LinkServer.start()
      const { client, handler } = await server.connect(5)
      client.send({ type: 'disconnect', reason: code })
      await client.expectEnd()
      assert.deepEqual(handler.all('disconnected'), [expect])
    })
  }

  test('changes the session expiry, but not of a session that was to end with its connection', async () => {
    await using server = await LinkServer.start()
    const kept = await server.connect(5, { properties: { sessionExpiryInterval: 60 } })
    kept.client.send({ type: 'disconnect', reason: 0, properties: { sessionExpiryInterval: 5 } })
    await kept.client.expectEnd()
    assert.deepEqual(kept.handler.all('disconnected'), [{ clean: true, reason: 0, willDue: false, sessionExpiry: 5 }])
    for (const properties of [undefined, { sessionExpiryInterval: 0 }]) {
      const { client, handler } = await server.connect(5, { properties })
      client.send({ type: 'disconnect', reason: 0, properties: { sessionExpiryInterval: 5 } })
      await client.expect('disconnect', { reason: reason.protocolError })
      await client.expectEnd()
      assert.equal((await handler.until<LinkEnd>('closed')).code, 'protocol_violation')
      assert.equal(handler.all('disconnected').length, 0)
    }
    const ending = await server.connect(5)
    ending.client.send({ type: 'disconnect', reason: 0, properties: { sessionExpiryInterval: 0 } })
    await ending.client.expectEnd()
  })
})

describe('version 5: explanations', () => {
  const properties = { reasonString: 'because of that', userProperties: [['k', 'v'.repeat(50)]] as [string, string][] }
  const explaining = {
    publish: ({ link }: Handler, { packetId }: Publish) =>
      link.send({ type: 'puback', packetId, reason: 0x10, properties }),
  }
  const askWith = async (asked: Connect['properties']): Promise<Ack> => {
    await using server = await LinkServer.start({ on: explaining })
    const { client } = await server.connect(5, { properties: asked })
    client.send(publishPacket('a', '', { qos: 1, packetId: 1 }))
    return await client.expect('puback', { packetId: 1, reason: 0x10 })
  }

  test('go with an acknowledgement', async () => {
    assert.deepEqual(await askWith({}), { type: 'puback', packetId: 1, reason: 0x10, properties })
  })

  test('are left out for a client that asked for none [MQTT-3.1.2-29]', async () => {
    assert.partialDeepStrictEqual(await askWith({ requestProblemInformation: false }), { properties: undefined })
  })

  test('are left out as far as they do not fit [MQTT-3.4.2-2] [MQTT-3.4.2-3]', async () => {
    const some = await askWith({ maximumPacketSize: 40 })
    assert.deepEqual(some.properties, { reasonString: 'because of that' })
    assert.partialDeepStrictEqual(await askWith({ maximumPacketSize: 20 }), { properties: undefined })
  })

  test('are left out of a DISCONNECT that the client would not take, and so is the DISCONNECT', async () => {
    await using server = await LinkServer.start()
    const brief = await server.connect(5, { properties: { maximumPacketSize: 30 } })
    brief.handler.link.fail(reason.administrativeAction, 'x'.repeat(40))
    const { properties } = await brief.client.expect('disconnect', { reason: reason.administrativeAction })
    assert.equal(properties, undefined)
    await brief.client.expectEnd()
  })

  test('a client that takes no packet as large as its CONNACK is closed [MQTT-3.1.2-24]', async () => {
    await using server = await LinkServer.start()
    const { client, handler } = await server.dial(5)
    client.send(connectPacket(5, { properties: { maximumPacketSize: 4 } }))
    await client.expectEnd()
    assert.equal((await handler.until<LinkEnd>('closed')).code, 'packet_too_large')
    const room = await server.dial(5)
    room.client.send(connectPacket(5, { properties: { maximumPacketSize: 8 } }))
    await room.client.expect('connack', { reason: reason.packetTooLarge, properties: undefined })
    await room.client.expectEnd()
  })
})

describe('deadlines', { concurrency: true }, () => {
  for (const version of versions) {
    test(`version ${version}: a peer without a CONNECT is closed (trap T21)`, async () => {
      await using server = await LinkServer.start({ limits: { connectTimeoutMs: 100 } })
      const { client, handler } = await server.dial(version)
      client.send(encode(connectPacket(version), version).subarray(0, 9))
      await client.closed()
      assert.equal((await handler.until<LinkEnd>('closed')).code, 'connect_timeout')
    })

    test(`version ${version}: a CONNECT that nobody decides is refused`, async () => {
      await using server = await LinkServer.start({ limits: { connectTimeoutMs: 100 }, on: { connect: () => {} } })
      const { client, handler } = await server.dial(version)
      client.send(connectPacket(version), publishPacket('a', 'b'))
      await client.expect('connack', { reason: reason.serverUnavailable })
      await client.expectEnd()
      assert.equal((await handler.until<LinkEnd>('closed')).code, 'connect_timeout')
    })

    test(`version ${version}: a silent client is closed after one and a half keep-alives, a speaking one is not`, async () => {
      await using server = await LinkServer.start()
      const silent = await server.connect(version, { keepAlive: 1 })
      const quiet = await server.connect(version, { keepAlive: 0 })
      const speaking = await server.connect(version, { keepAlive: 1 })
      const pings = setInterval(() => speaking.client.send({ type: 'pingreq' }), 500)
      try {
        const from = performance.now()
        if (version === 5) await silent.client.expect('disconnect', { reason: reason.keepAliveTimeout })
        await silent.client.expectEnd()
        const ms = performance.now() - from
        assert.ok(ms > 1_400, `${ms} ms`)
        assert.equal((await silent.handler.until<LinkEnd>('closed')).code, 'keep_alive_expired')
        for (let i = 0; i < 4; i++) await speaking.client.expect('pingresp')
        assert.deepEqual([quiet.client.isClosed, speaking.client.isClosed], [false, false])
      } finally {
        clearInterval(pings)
      }
    })

    test(`version ${version}: a peer that does not close its side is destroyed after a second`, async () => {
      await using server = await LinkServer.start()
      const { client, handler } = await server.dial(version, true)
      client.send(connectPacket(version))
      await client.expect('connack')
      const from = performance.now()
      handler.link.end()
      await client.expectEnd()
      const socket = server.sockets[0]!
      if (!socket.closed) await new Promise((resolve) => socket.once('close', resolve))
      const ms = performance.now() - from
      assert.ok(ms > 900, `${ms} ms`)
    })
  }

  test('version 5: the server’s keep-alive takes the place of the client’s [MQTT-3.2.2-21]', async () => {
    await using server = await LinkServer.start({
      on: { connect: ({ link }) => link.accept({ sessionPresent: false, serverKeepAlive: 1 }) },
    })
    const { client } = await server.connect(5, { keepAlive: 0 })
    await client.expect('disconnect', { reason: reason.keepAliveTimeout })
    await client.expectEnd()
  })

  test('a packet that drips octet by octet is no sign of life', async () => {
    await using server = await LinkServer.start()
    const { client, handler } = await server.connect(4, { keepAlive: 1 })
    const bytes = encode(publishPacket('a', Buffer.alloc(500)), 4)
    let at = 0
    const drip = setInterval(() => client.socket.writable && client.send(bytes.subarray(at, ++at)), 100)
    await handler.until('closed')
    clearInterval(drip)
    assert.equal(handler.all<LinkEnd>('closed')[0]?.code, 'keep_alive_expired')
  })
})
