import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { decode, encode } from '../../../broker/wire/codec.ts'
import { FrameReader } from '../../../broker/wire/frames.ts'
import type { Publish, Version } from '../../../broker/wire/packet.ts'
import { PlainPublish } from '../../../broker/wire/plain-publish.ts'
import { Malformed } from '../../../broker/wire/reason.ts'
import { publishPacket, versions } from '../../harness/raw-mqtt.ts'

const plain = new PlainPublish()
const limit = 65_536
const bodyOf = (frame: Buffer): Buffer => {
  return new FrameReader(limit).push(frame).next().value!.body
}

/** What the codec makes of a whole frame; undefined when it refuses it. */
function decoded(frame: Buffer, version: Version): Publish | undefined {
  try {
    return decode(frame[0]!, bodyOf(frame), version) as Publish
  } catch (error) {
    assert.ok(error instanceof Malformed)
    return undefined
  }
}

function assertSame(octets: Buffer, at: number, version: Version): void {
  const packet = decoded(octets.subarray(at, plain.end), version)
  if (packet === undefined) return // of its topic no more is looked at than that there is one
  const { topic, payload, qos, packetId } = packet
  assert.deepEqual(
    [octets.toString('utf8', plain.topicFrom, plain.topicTo), plain.qos, plain.packetId, packet.retain],
    [topic, qos, packetId, false],
  )
  assert.equal(packet.properties, undefined)
  for (const to of versions) {
    assert.deepEqual(plain.frame(to), encode(publishPacket(topic, payload), to))
    assert.equal(plain.frame(to), plain.frame(to), 'made once')
  }
}

const version = fc.constantFrom(...versions)
const packet = fc.record({
  topic: fc.constantFrom('a', 'devices/d-1/t', 'é/ü', 'x'.repeat(200)),
  payload: fc
    .oneof(fc.uint8Array({ maxLength: 40 }), fc.uint8Array({ minLength: 120, maxLength: 140 }))
    .map((octets) => Buffer.from(octets)),
  qos: fc.constantFrom(0, 1, 2),
  retain: fc.constantFrom(false, false, true),
  dup: fc.boolean(),
  packetId: fc.integer({ min: 1, max: 0xffff }),
  properties: fc.constantFrom(undefined, undefined, { contentType: 'x' }),
})

test('a plain PUBLISH is read where it lies as the codec reads it, and every other one is left to the codec', () => {
  fc.assert(
    fc.property(packet, version, fc.uint8Array({ maxLength: 5 }), (fields, version, before) => {
      const frame = encode(publishPacket(fields.topic, fields.payload, fields as Partial<Publish>), version)
      const octets = Buffer.concat([before, frame, Buffer.from([0xc0, 0])])
      const isPlain = fields.qos < 2 && !fields.retain && (version < 5 || fields.properties === undefined)
      assert.equal(plain.read(octets, before.length, version, limit), isPlain)
      if (!isPlain) return
      assert.equal(plain.end, before.length + frame.length)
      assertSame(octets, before.length, version)
      assert.equal(plain.read(octets.subarray(0, -3), before.length, version, limit), false, 'not whole')
      assert.equal(plain.read(octets, before.length, version, frame.length - 1), false, 'above the limit')
    }),
  )
})

test('what is read of altered octets is what the codec reads of them', () => {
  let seen = 0
  fc.assert(
    fc.property(
      packet,
      version,
      fc.array(fc.tuple(fc.nat(12), fc.nat(255)), { maxLength: 3 }),
      (fields, version, changes) => {
        const frame = encode(publishPacket(fields.topic, fields.payload, fields as Partial<Publish>), version)
        for (const [at, octet] of changes) frame[at % frame.length] = octet
        if (!plain.read(frame, 0, version, limit)) return
        seen++
        assertSame(frame, 0, version)
      },
    ),
    { numRuns: 2_000 },
  )
  assert.ok(seen > 100)
})

test('a reader gives a plain PUBLISH out in place between packets that it cuts out, and none that comes in pieces', () => {
  const frame = encode(publishPacket('a/b', 'hello'), 4)
  const reader = new FrameReader(limit)
  reader.push(Buffer.concat([frame, frame, Buffer.from([0xc0, 0]), frame.subarray(0, 4)]))
  for (let i = 0; i < 2; i++) {
    assert.ok(reader.peek(plain, 4))
    reader.take(plain)
  }
  assert.equal(reader.peek(plain, 4), false)
  assert.equal(reader.next().value?.header, 0xc0)
  assert.equal(reader.peek(plain, 4), false)
  assert.equal(reader.next().done, true)
  reader.push(frame.subarray(4))
  assert.equal(reader.peek(plain, 4), false)
  assert.deepEqual(decode(0x30, reader.next().value!.body, 4), {
    ...publishPacket('a/b', 'hello'),
    properties: undefined,
  })
})
