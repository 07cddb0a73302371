import assert from 'node:assert/strict'
import { test } from 'node:test'
import { connectAsync } from 'mqtt'
import { decode } from '../../../broker/wire/codec.ts'
import { FrameReader } from '../../../broker/wire/frames.ts'
import type { Link } from '../../../broker/wire/link.ts'
import type { Delivered, LinkEnd } from '../../../broker/wire/link-events.ts'
import type { Properties } from '../../../broker/wire/properties.ts'
import { type Message, publishFrame, restOf, stampedFor } from '../../../broker/wire/publish-frames.ts'
import { reason } from '../../../broker/wire/reason.ts'
import { LinkServer, versions } from '../../harness/raw-mqtt.ts'

const messageOf = (payload: string | Buffer, more: Partial<Message> = {}): Message => ({
  topic: 'long/topic/name',
  payload: Buffer.from(payload),
  ...more,
})
const deliverAll = (link: Link, payloads: string[], qos: 0 | 1 | 2): Delivered[] =>
  payloads.map((payload) => link.deliver(messageOf(payload), { qos, retain: false }))

for (const version of versions) {
  test(`version ${version}: the window is the server’s where the client asks for none; who waited is called back`, async () => {
    await using server = await LinkServer.start({ limits: { maxInflight: 2 } })
    const { client, handler } = await server.connect(version)
    const { link } = handler
    assert.equal(link.nextPacketId(), 1)
    assert.deepEqual(deliverAll(link, ['a', 'b', 'c'], 1), ['sent', 'sent', 'waiting'])
    assert.deepEqual(deliverAll(link, ['zero'], 0), ['sent'])
    await client.expect('publish', { packetId: 1, qos: 1, dup: false })
    await client.expect('publish', { packetId: 2 })
    await client.expect('publish', { qos: 0 })
    assert.deepEqual(await client.ping(), [])
    assert.equal(handler.all('room').length, 0)
    client.send({ type: 'puback', packetId: 1, reason: 0 })
    await handler.until('room')
    assert.deepEqual(deliverAll(link, ['c', 'd'], 1), ['sent', 'waiting'])
    await client.expect('publish', { packetId: 3, payload: Buffer.from('c') })
    assert.deepEqual(handler.all('acknowledged'), [{ packetId: 1, reason: 0 }])
    client.send({ type: 'puback', packetId: 2, reason: 0 }, { type: 'puback', packetId: 3, reason: 0 })
    await handler.until('room', 2)
    await client.ping()
    assert.equal(handler.all('room').length, 2)
  })

  test(`version ${version}: QoS 2 goes through PUBREC, PUBREL and PUBCOMP; what is repeated is answered again`, async () => {
    await using server = await LinkServer.start()
    const { client, handler } = await server.connect(version)
    deliverAll(handler.link, ['a'], 2)
    await client.expect('publish', { packetId: 1, qos: 2 })
    client.send({ type: 'pubrec', packetId: 1, reason: 0 }, { type: 'pubrec', packetId: 1, reason: 0 })
    await client.expect('pubrel', { packetId: 1, reason: 0 })
    await client.expect('pubrel', { packetId: 1, reason: 0 })
    client.send({ type: 'pubcomp', packetId: 1, reason: 0 }, { type: 'pubcomp', packetId: 1, reason: 0 })
    assert.deepEqual(await client.ping(), [])
    assert.deepEqual(handler.all('received'), [1])
    assert.deepEqual(handler.all('acknowledged'), [{ packetId: 1, reason: 0 }])
  })

  test(`version ${version}: a PUBREC for no message is answered, other acknowledgements for none are not`, async () => {
    await using server = await LinkServer.start()
    const { client, handler } = await server.connect(version)
    client.send(
      { type: 'puback', packetId: 5, reason: 0 },
      { type: 'pubcomp', packetId: 5, reason: 0 },
      { type: 'pubrec', packetId: 5, reason: 0 },
    )
    const answers = await client.ping()
    assert.equal(answers.length, 1)
    assert.partialDeepStrictEqual(answers[0], {
      type: 'pubrel',
      packetId: 5,
      reason: version === 5 ? reason.packetIdentifierNotFound : 0,
    })
    assert.equal(handler.all('received').length + handler.all('acknowledged').length, 0)
  })

  test(`version ${version}: an acknowledgement of the wrong kind breaks the protocol`, async () => {
    await using server = await LinkServer.start()
    const wrong = [
      [1, 'pubrec'],
      [1, 'pubcomp'],
      [2, 'puback'],
      [2, 'pubcomp'],
    ] as const
    for (const [qos, type] of wrong) {
      const { client, handler } = await server.connect(version)
      deliverAll(handler.link, ['a'], qos)
      await client.expect('publish')
      client.send({ type, packetId: 1, reason: 0 })
      if (version === 5) await client.expect('disconnect', { reason: reason.protocolError })
      await client.expectEnd()
      assert.equal(handler.all('acknowledged').length, 0)
    }
  })

  test(`version ${version}: a session goes on with its packet identifiers, DUP and PUBRELs (trap T35)`, async () => {
    await using server = await LinkServer.start({ limits: { maxInflight: 3 } })
    const { client, handler } = await server.connect(version, { clean: false })
    const { link } = handler
    link.send({ type: 'pubrel', packetId: 4, reason: 0 })
    assert.equal(link.deliver(messageOf('b'), { qos: 1, retain: false, packetId: 9, dup: true }), 'sent')
    assert.equal(link.deliver(messageOf('c'), { qos: 2, retain: false }), 'sent')
    assert.equal(link.deliver(messageOf('d'), { qos: 2, retain: false }), 'waiting')
    await client.expect('pubrel', { packetId: 4 })
    await client.expect('publish', { packetId: 9, dup: true, qos: 1 })
    await client.expect('publish', { packetId: 10, dup: false, qos: 2 })
    client.send({ type: 'pubcomp', packetId: 4, reason: 0 })
    await handler.until('room')
    assert.throws(() => link.deliver(messageOf('e'), { qos: 1, retain: false, packetId: 9 }), RangeError)
  })

  test(`version ${version}: packet identifiers begin again behind 65,535 and step over those under way`, async () => {
    await using server = await LinkServer.start()
    const { client, handler } = await server.connect(version)
    const { link } = handler
    const one = { qos: 1, retain: false } as const
    link.deliver(messageOf('a'), { ...one, packetId: 1 })
    link.deliver(messageOf('b'), { ...one, packetId: 65_535 })
    assert.equal(link.nextPacketId(), 2)
    link.deliver(messageOf('c'), one)
    for (const packetId of [1, 65_535, 2]) await client.expect('publish', { packetId })
  })

  test(`version ${version}: a message goes out with the RETAIN flag that was chosen`, async () => {
    await using server = await LinkServer.start()
    const { client, handler } = await server.connect(version)
    const message = messageOf('a')
    for (const [qos, retain] of [
      [0, false],
      [0, true],
      [1, true],
      [1, false],
    ] as const) {
      handler.link.deliver(message, { qos, retain })
      await client.expect('publish', { qos, retain, topic: 'long/topic/name', payload: Buffer.from('a') })
    }
  })

  test(`version ${version}: properties go out where the version has them, the expiry less the time that passed`, async () => {
    let now = 1_000_000
    await using server = await LinkServer.start({ clock: () => new Date(now) })
    const { client, handler } = await server.connect(version)
    const properties: Properties = {
      payloadFormatIndicator: true,
      contentType: 'text/plain',
      responseTopic: 'answers',
      correlationData: Buffer.from('7'),
      userProperties: [
        ['k', '1'],
        ['k', '2'],
      ],
    }
    const message = messageOf('a', { properties, expiresAt: now + 10_000 })
    for (const [qos, seconds] of [
      [0, 10],
      [1, 10],
      [1, 6],
    ] as const) {
      now = 1_000_000 + (10 - seconds) * 1_000 + 400 * Number(seconds < 10)
      handler.link.deliver(message, { qos, retain: false, identifiers: qos === 0 ? [7, 300_000] : [] })
      const packet = await client.expect('publish', { qos })
      if (version < 5) assert.equal(packet.properties, undefined)
      else {
        const expected = { ...properties, messageExpiryInterval: seconds }
        assert.deepEqual(
          packet.properties,
          qos === 0 ? { ...expected, subscriptionIdentifiers: [7, 300_000] } : expected,
        )
      }
    }
  })

  test(`version ${version}: an expired message is done with, one that goes out again is not [MQTT-3.3.2-5]`, async () => {
    const now = Date.now()
    await using server = await LinkServer.start({ clock: () => new Date(now) })
    const { client, handler } = await server.connect(version)
    const { link } = handler
    const message = messageOf('late', { expiresAt: now })
    assert.equal(link.deliver(message, { qos: 0, retain: false }), 'dropped')
    assert.equal(link.deliver(message, { qos: 1, retain: false }), 'dropped')
    assert.equal(link.deliver(message, { qos: 1, retain: false, packetId: 3, dup: true }), 'sent')
    await client.expect('publish', { packetId: 3, dup: true })
    assert.deepEqual(link.counters.dropped, { slow: 0, tooLarge: 0, expired: 2 })
  })

  test(`version ${version}: what is delivered in one turn is one write`, async () => {
    await using server = await LinkServer.start({ limits: { maxInflight: 100 } })
    const { client, handler } = await server.connect(version)
    const socket = server.sockets[0]!
    const write = socket._write.bind(socket)
    let writes = 0
    socket._write = (...args) => {
      writes++
      write(...args)
    }
    deliverAll(
      handler.link,
      Array.from({ length: 50 }, (_, i) => String(i)),
      0,
    )
    deliverAll(
      handler.link,
      Array.from({ length: 50 }, (_, i) => String(i)),
      1,
    )
    for (let i = 0; i < 100; i++) await client.expect('publish', { payload: Buffer.from(String(i % 50)) })
    assert.equal(writes, 1)
  })

  test(`version ${version}: a slow reader loses QoS 0 messages, its others wait, and nobody else notices`, async () => {
    await using server = await LinkServer.start()
    const { client, handler } = await server.connect(version)
    const other = await server.connect(version)
    const { link } = handler
    client.socket.pause()
    const message = messageOf(Buffer.alloc(60_000))
    let sent = 0
    while (link.deliver(message, { qos: 0, retain: false }) === 'sent') {
      if (++sent % 16 === 0) await new Promise((resolve) => setImmediate(resolve))
    }
    // The kernel takes more in a later turn, until it does not.
    for (let calm = 0; calm < 20; ) {
      await new Promise((resolve) => setImmediate(resolve))
      if (link.deliver(message, { qos: 0, retain: false }) === 'sent') {
        sent++
        calm = 0
      } else calm++
    }
    const { dropped } = link.counters
    assert.ok(dropped.slow >= 20)
    assert.ok(link.pendingBytes > 131_072 && link.pendingBytes <= 262_144)
    assert.equal(link.deliver(message, { qos: 1, retain: false }), 'waiting')
    assert.equal(link.deliver(message, { qos: 0, retain: false, mayWait: true }), 'waiting')
    assert.equal(other.handler.link.deliver(message, { qos: 0, retain: false }), 'sent')
    await other.client.expect('publish')
    assert.deepEqual(link.counters.dropped, dropped)
    client.socket.resume()
    await handler.until('room')
    assert.equal(link.deliver(message, { qos: 1, retain: false }), 'sent')
    for (let i = 0; i < sent; i++) await client.expect('publish', { qos: 0 })
    await client.expect('publish', { qos: 1 })
    assert.equal(handler.all('closed').length, 0)
  })

  test(`version ${version}: a client that asks and does not read the answers is closed`, async () => {
    await using server = await LinkServer.start({ limits: { maxPacketBytes: 2_048, maxBufferedBytes: 4_096 } })
    const { client, handler } = await server.connect(version)
    client.socket.pause()
    const pings = Buffer.alloc(40_000, Buffer.from([0xc0, 0]))
    const flood = setInterval(() => client.socket.writable && client.socket.write(pings), 1)
    const end = await handler.until<LinkEnd>('closed')
    clearInterval(flood)
    assert.deepEqual([end.code, end.reason], ['slow_reader', reason.quotaExceeded])
  })

  test(`version ${version}: a healthy reader gets a message larger than the buffer`, async () => {
    await using server = await LinkServer.start({ limits: { maxBufferedBytes: 4_096 } })
    const { client, handler } = await server.connect(version)
    const message = messageOf(Buffer.alloc(65_000))
    assert.equal(handler.link.deliver(message, { qos: 0, retain: false }), 'sent')
    client.send({ type: 'pingreq' })
    await client.expect('publish', { payload: message.payload })
    await client.expect('pingresp')
  })
}

test('version 5: the client’s receive maximum bounds the window [MQTT-3.3.4-9]', async () => {
  await using server = await LinkServer.start({ limits: { maxInflight: 5 } })
  const small = await server.connect(5, { properties: { receiveMaximum: 1 } })
  assert.deepEqual(deliverAll(small.handler.link, ['a', 'b'], 2), ['sent', 'waiting'])
  await small.client.expect('publish', { packetId: 1 })
  small.client.send({ type: 'pubrec', packetId: 1, reason: 0 })
  await small.client.expect('pubrel')
  await small.client.ping()
  assert.deepEqual(deliverAll(small.handler.link, ['b'], 2), ['waiting'])
  small.client.send({ type: 'pubcomp', packetId: 1, reason: 0 })
  await small.handler.until('room')
  assert.deepEqual(deliverAll(small.handler.link, ['b'], 2), ['sent'])
  const large = await server.connect(5, { properties: { receiveMaximum: 100 } })
  const answers = deliverAll(large.handler.link, ['1', '2', '3', '4', '5', '6'], 1)
  assert.deepEqual([answers.filter((answer) => answer === 'sent').length, answers.at(-1)], [5, 'waiting'])
})

test('version 5: a message that the client refuses is done with', async () => {
  await using server = await LinkServer.start({ limits: { maxInflight: 2 } })
  const { client, handler } = await server.connect(5)
  deliverAll(handler.link, ['a'], 1)
  deliverAll(handler.link, ['b'], 2)
  await client.expect('publish', { packetId: 1 })
  await client.expect('publish', { packetId: 2 })
  const { notAuthorized, quotaExceeded } = reason
  client.send({ type: 'puback', packetId: 1, reason: notAuthorized })
  client.send({ type: 'pubrec', packetId: 2, reason: quotaExceeded })
  client.send({ type: 'pubrec', packetId: 2, reason: quotaExceeded })
  assert.deepEqual(await client.ping(), [])
  assert.deepEqual(handler.all('acknowledged'), [
    { packetId: 1, reason: notAuthorized },
    { packetId: 2, reason: quotaExceeded },
  ])
  assert.deepEqual(deliverAll(handler.link, ['c', 'd'], 1), ['sent', 'sent'])
})

test('version 5: a message above the client’s maximum packet size is done with and takes no identifier [MQTT-3.1.2-25]', async () => {
  await using server = await LinkServer.start()
  for (const identifiers of [[], [1]]) {
    const { client, handler } = await server.connect(5, { properties: { maximumPacketSize: 60 } })
    const { link } = handler
    for (const qos of [0, 1, 2] as const) {
      assert.equal(link.deliver(messageOf('x'.repeat(60)), { qos, retain: false, identifiers }), 'dropped')
    }
    assert.equal(link.counters.dropped.tooLarge, 3)
    assert.equal(link.nextPacketId(), 1)
    const fitting = 60 - 2 - 17 - 2 - 1 - 2 * identifiers.length
    assert.equal(link.deliver(messageOf('x'.repeat(fitting)), { qos: 1, retain: false, identifiers }), 'sent')
    assert.equal(link.deliver(messageOf('x'.repeat(fitting + 1)), { qos: 1, retain: false, identifiers }), 'dropped')
    await client.expect('publish', { packetId: 1 })
    assert.deepEqual(await client.ping(), [])
  }
})

test('version 5: topics get aliases up to the client’s maximum; the one used longest ago loses its own', async () => {
  await using server = await LinkServer.start({ limits: { topicAliasMaximum: 3 } })
  const { client, handler } = await server.connect(5, { properties: { topicAliasMaximum: 2, maximumPacketSize: 100 } })
  const { link } = handler
  const expectOf = async (topic: string, payload = ''): Promise<[string, number | undefined]> => {
    link.deliver(messageOf(payload, { topic }), { qos: 0, retain: false })
    const packet = await client.expect('publish')
    return [packet.topic, packet.properties?.topicAlias]
  }
  assert.deepEqual(await expectOf('a'), ['a', 1])
  assert.deepEqual(await expectOf('b'), ['b', 2])
  assert.deepEqual(await expectOf('a'), ['', 1])
  // One that does not go out teaches the client nothing.
  assert.equal(link.deliver(messageOf('x'.repeat(100), { topic: 'c' }), { qos: 0, retain: false }), 'dropped')
  assert.deepEqual(await expectOf('b'), ['', 2])
  assert.deepEqual(await expectOf('c'), ['c', 1])
  assert.deepEqual(await expectOf('b'), ['', 2])
  assert.deepEqual(await expectOf('a'), ['a', 1])
  assert.deepEqual(await expectOf('c'), ['c', 2])
})

test('version 5: a client that knows no aliases gets none, one that asks for many gets the server’s maximum', async () => {
  await using server = await LinkServer.start({ limits: { topicAliasMaximum: 1 } })
  const none = await server.connect(5)
  none.handler.link.deliver(messageOf('x'), { qos: 0, retain: false })
  assert.equal((await none.client.expect('publish', { topic: 'long/topic/name' })).properties, undefined)
  const many = await server.connect(5, { properties: { topicAliasMaximum: 100 } })
  for (const topic of ['a', 'b', 'b']) many.handler.link.deliver(messageOf('x', { topic }), { qos: 0, retain: false })
  await many.client.expect('publish', { topic: 'a', properties: { topicAlias: 1 } })
  await many.client.expect('publish', { topic: 'b', properties: { topicAlias: 1 } })
  await many.client.expect('publish', { topic: '', properties: { topicAlias: 1 } })
})

test('version 5: a QoS 2 message always carries its topic: clients keep it until PUBREL, and some with its alias', async () => {
  await using server = await LinkServer.start()
  const { client, handler } = await server.connect(5, { properties: { topicAliasMaximum: 3 } })
  for (const qos of [1, 2, 1] as const) handler.link.deliver(messageOf('x'), { qos, retain: false })
  await client.expect('publish', { qos: 1, topic: 'long/topic/name', properties: { topicAlias: 1 } })
  await client.expect('publish', { qos: 2, topic: 'long/topic/name', properties: undefined })
  await client.expect('publish', { qos: 1, topic: '', properties: { topicAlias: 1 } })
})

test('a message is encoded once for all receivers of a version', () => {
  const message = messageOf('a', { properties: { contentType: 'x' } })
  for (const version of versions) {
    const first = publishFrame(message, version, 0, false, undefined)
    assert.equal(publishFrame(message, version, 0, false, undefined), first)
    const numbered = publishFrame(message, version, 1, false, undefined)
    assert.equal(publishFrame(message, version, 2, true, undefined), numbered)
    assert.notEqual(publishFrame(message, version, 0, true, undefined), first)
    assert.equal(publishFrame(message, version, 0, false, undefined), first)
  }
  const three = publishFrame(message, 3, 0, false, undefined)
  assert.equal(publishFrame(message, 4, 0, false, undefined), three)
  assert.notEqual(publishFrame(message, 5, 0, false, undefined), three)
  assert.notEqual(publishFrame(message, 5, 0, false, 9), publishFrame(message, 5, 0, false, 8))
  assert.notEqual(publishFrame({ ...message }, 4, 0, false, undefined), three)
})

test('each receiver of a message has flags and a packet identifier of its own, the first in the octets encoded for it', () => {
  const message = messageOf('payload')
  for (const version of versions) {
    const frame = publishFrame({ ...message }, version, 1, false, undefined)
    const given = (
      [
        [1, false, false, 7],
        [2, true, true, 0x1234],
        [1, false, true, 9],
      ] as const
    ).map(([qos, retain, dup, packetId]) => {
      const head = stampedFor(frame, qos, retain, dup, packetId)
      return Buffer.concat([head, restOf(frame) ?? Buffer.alloc(0)])
    })
    const packets = given.map((octets) => {
      const [read] = [...new FrameReader(1_000).push(octets)]
      return decode(read!.header, Buffer.from(read!.body), version, 'server')
    })
    assert.deepEqual(
      packets.map((one) => one.type === 'publish' && [one.qos, one.retain, one.dup, one.packetId, `${one.payload}`]),
      [
        [1, false, false, 7, 'payload'],
        [2, true, true, 0x1234, 'payload'],
        [1, false, true, 9, 'payload'],
      ],
    )
  }
})

for (const protocolVersion of [4, 5] as const) {
  test(`MQTT.js in version ${protocolVersion} publishes, gets its messages back and leaves in peace`, async () => {
    await using server = await LinkServer.start({ limits: { maxInflight: 500, receiveMaximum: 100 } })
    const client = await connectAsync(`mqtt://127.0.0.1:${server.port}`, {
      protocolVersion,
      reconnectPeriod: 0,
      clientId: 'js',
      ...(protocolVersion === 5 ? { properties: { topicAliasMaximum: 5, receiveMaximum: 400 } } : {}),
    })
    const got: string[] = []
    const all = new Promise<void>((resolve) => {
      client.on('message', (topic, payload) => {
        got.push(`${topic} ${payload}`)
        if (got.length === 300) resolve()
      })
    })
    await client.subscribeAsync('echo/#', { qos: 2 })
    const sent: string[] = []
    await Promise.all(
      Array.from({ length: 300 }, (_, i) => {
        sent.push(`echo/${i % 3} ${i}`)
        return client.publishAsync(`echo/${i % 3}`, String(i), { qos: (i % 3) as 0 | 1 | 2 })
      }),
    )
    await all
    const ofTopic = (list: string[], topic: number): string[] => list.filter((one) => one.startsWith(`echo/${topic} `))
    for (const topic of [0, 1, 2]) assert.deepEqual(ofTopic(got, topic), ofTopic(sent, topic))
    await client.unsubscribeAsync('echo/#')
    await client.endAsync()
  })
}
