import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { decode, encode } from '../../../broker/wire/codec.ts'
import { FrameReader } from '../../../broker/wire/frames.ts'
import { type Packet, parseFilter, type Version } from '../../../broker/wire/packet.ts'
import type { Properties } from '../../../broker/wire/properties.ts'
import { connackCode, Malformed, reason } from '../../../broker/wire/reason.ts'
import { fuzzCodec } from '../../fuzz/codec.ts'
import { type Answer, type MqttVector, mqttVectors } from '../../vectors/mqtt/load.ts'
import { decodeAll, decodeOne, older, packetArbitrary, plain, withoutEmpty } from './packets.ts'

const versions = [3, 4, 5] as const
const vectors = mqttVectors()

const stateOf = ({ state, version }: MqttVector): Version | undefined => (state === 'fresh' ? undefined : version)

function refusalOf(work: () => unknown): Malformed {
  try {
    work()
  } catch (error) {
    if (error instanceof Malformed) return error
    throw error
  }
  return assert.fail('nothing was refused')
}

/** What a server says before it closes, by the words of `Malformed` and nothing else. */
function answerTo(vector: MqttVector, { reason: code, version }: Malformed): Answer {
  if (vector.state === 'connected') return vector.version === 5 ? { disconnect: code } : 'close'
  const said = version === 5 ? code : connackCode(code)
  return version === undefined || said === undefined ? 'close' : { connack: said, version }
}

for (const [file, cases] of vectors) {
  test(`the ${cases.length} vectors of ${file} decode to their packet or are refused with their reason`, () => {
    const broken: string[] = []
    for (const vector of cases) {
      try {
        const { bytes, from } = vector
        if (vector.packet !== undefined) assert.deepEqual(plain(decodeOne(bytes, stateOf(vector), from)), vector.packet)
        else {
          const refusal = refusalOf(() => decodeAll(bytes, stateOf(vector), from))
          assert.equal(refusal.reason, reason[vector.refuse])
          if (from === 'client' && vector.answer !== undefined)
            assert.deepEqual(answerTo(vector, refusal), vector.answer)
        }
      } catch (error) {
        broken.push(`${vector.name} [${vector.clause}]: ${(error as Error).message}`)
      }
    }
    assert.deepEqual(broken, [])
  })
}

test('every packet of the vectors encodes to octets that decode to it', () => {
  for (const { name, packet, version, from } of [...vectors.values()].flat()) {
    if (packet === undefined) continue
    const bytes = encode(packet, version)
    const back = decodeOne(bytes, packet.type === 'connect' ? undefined : version, from)
    assert.deepEqual(plain(back), packet, name)
    assert.deepEqual(encode(back, version), bytes, name)
  }
})

test('vectors have names of their own', () => {
  const names = [...vectors.values()].flat().map(({ name }) => name)
  assert.equal(new Set(names).size, names.length)
})

for (const version of versions) {
  test(`what is encoded in version ${version} decodes to what that version can say`, () => {
    fc.assert(
      fc.property(packetArbitrary, (sent) => {
        const expected = version === 5 ? sent[1] : older(sent, version)
        if (expected === undefined) return
        const bytes = encode(sent[1], version)
        const back = decodeOne(bytes, expected.type === 'connect' ? undefined : version, sent[0])
        assert.deepEqual(plain(back), plain(withoutEmpty(expected)))
        assert.deepEqual(encode(back, version), bytes)
      }),
      { numRuns: 1_000 },
    )
  })
}

test('a payload is a view of the octets that were read', () => {
  const bytes = encode(
    { type: 'publish', topic: 'a', payload: Buffer.from('hi'), qos: 0, retain: false, dup: false, packetId: 0 },
    4,
  )
  const packet = decode(bytes[0]!, bytes.subarray(2), 4)
  assert.ok(packet.type === 'publish')
  assert.equal(packet.payload.buffer, bytes.buffer)
  bytes[bytes.length - 1] = 0x6f
  assert.equal(packet.payload.toString(), 'ho')
})

test('a topic of 65535 octets passes both ways, one more is not encoded [MQTT-4.7.3-3]', () => {
  const publish = { type: 'publish', payload: Buffer.alloc(0), qos: 0, retain: false, dup: false, packetId: 0 } as const
  const topic = 'ü'.repeat(32_767)
  const packet = decodeOne(encode({ ...publish, topic: `${topic}a` }, 4), 4)
  assert.ok(packet.type === 'publish' && packet.topic === `${topic}a`)
  assert.throws(() => encode({ ...publish, topic: `${topic}aa` }, 4), RangeError)
})

test('what must not be sent is not encoded', () => {
  const payload = Buffer.alloc(0)
  const publish = { type: 'publish', topic: 'a', payload, qos: 1, retain: false, dup: false, packetId: 0 } as const
  assert.throws(() => encode(publish, 4), /packet identifier 0/)
  assert.throws(() => encode({ type: 'puback', packetId: 0, reason: 0 }, 5), /packet identifier 0/)
  assert.throws(() => encode({ type: 'auth', reason: 0x18 }, 4), /AUTH in version 4/)
  assert.throws(() => encode({ type: 'connack', sessionPresent: false, reason: 0x81 }, 4), /reason 129 in a CONNACK/)
  const misplaced = { ...publish, packetId: 1, properties: { willDelayInterval: 1 } }
  assert.throws(() => encode(misplaced, 5), /property willDelayInterval in publish/)
  const unknown = { ...publish, packetId: 1, properties: { __proto__: null, toString: 1 } as unknown as Properties }
  assert.throws(() => encode(unknown, 5), /property toString in publish/)
  const tooMany: Properties = { correlationData: Buffer.alloc(65_536) }
  assert.throws(() => encode({ ...publish, packetId: 1, properties: tooMany }, 5), /65535/)
  const tooHigh: Properties = { subscriptionIdentifiers: [0x1000_0000] }
  assert.throws(() => encode({ ...publish, packetId: 1, properties: tooHigh }, 5), RangeError)
})

test('properties that an older version cannot carry are left out', () => {
  const properties = { contentType: 'x', topicAlias: 1 }
  const packet = { type: 'publish', topic: 'a', payload: Buffer.from('b'), retain: true, properties } as const
  assert.equal(encode({ ...packet, qos: 0, dup: true, packetId: 9 }, 4).toString('hex'), '310400016162')
  assert.equal(encode({ type: 'disconnect', reason: 0x8e, properties: {} }, 4).toString('hex'), 'e000')
})

test('lengths pass both ways on either side of each octet more (1.5.5)', () => {
  const subscriptionIdentifiers = [1, 0x7f, 0x80, 0x3fff, 0x4000, 0x1f_ffff, 0x20_0000, 0x0fff_ffff]
  const packet = { type: 'publish', topic: 'a', qos: 0, retain: false, dup: false, packetId: 0 } as const
  const read = new FrameReader(3_000_000)
  for (const length of [0x7f, 0x80, 0x3fff, 0x4000, 0x1f_ffff, 0x20_0000]) {
    const sent = { ...packet, payload: Buffer.alloc(length - 3), properties: undefined }
    assert.equal([...read.push(encode(sent, 4))][0]?.body.length, length)
  }
  const back = decodeOne(
    encode({ ...packet, payload: Buffer.from('x'), properties: { subscriptionIdentifiers } }, 5),
    5,
    'server',
  )
  assert.deepEqual(plain(back), { ...packet, payload: Buffer.from('x'), properties: { subscriptionIdentifiers } })
})

test('a property that is undefined is none', () => {
  const properties = { contentType: undefined } as unknown as Properties
  assert.equal(encode({ type: 'puback', packetId: 1, reason: 0, properties }, 5).toString('hex'), '40020001')
})

test('short forms are written where the specification has them (3.4.2.1, 3.14.2.1, 3.15.2.1)', () => {
  const hex = (packet: Packet): string => encode(packet, 5).toString('hex')
  assert.equal(hex({ type: 'puback', packetId: 1, reason: 0 }), '40020001')
  assert.equal(hex({ type: 'puback', packetId: 1, reason: 0x87 }), '4003000187')
  assert.equal(hex({ type: 'puback', packetId: 1, reason: 0, properties: { reasonString: '' } }), '4007000100031f0000')
  assert.equal(hex({ type: 'disconnect', reason: 0 }), 'e000')
  assert.equal(hex({ type: 'disconnect', reason: 0x8e }), 'e0018e')
  assert.equal(hex({ type: 'auth', reason: 0 }), 'f000')
  assert.equal(hex({ type: 'auth', reason: 0x18 }), 'f0021800')
})

test('a shared subscription has a group and a filter of its own (4.8.2)', () => {
  assert.deepEqual(parseFilter('a/+/#'), { group: undefined, filter: 'a/+/#' })
  assert.deepEqual(parseFilter('$share/pool 1/a/+/#'), { group: 'pool 1', filter: 'a/+/#' })
  assert.deepEqual(parseFilter('$share/g//'), { group: 'g', filter: '/' })
  assert.deepEqual(parseFilter('$share'), { group: undefined, filter: '$share' })
  for (const bad of [
    '',
    'a#',
    '$share/',
    '$share//a',
    '$share/g',
    '$share/g/',
    '$share/g+/a',
    '$share/#/a',
    '$share/g/+a',
  ])
    assert.equal(parseFilter(bad), undefined, bad)
})

test('a refusal is a problem of the registry and tells no octets of the packet', () => {
  const refusal = refusalOf(() => decode(0x30, Buffer.from('0003736563\u0000'), 4))
  assert.equal(refusal.code, 'protocol_violation')
  assert.doesNotMatch(refusal.message, /sec/)
})

test('50,000 mutated inputs meet nothing but Malformed, and leave memory as it was', () => {
  const { decoded, refused, heapGrowthBytes } = fuzzCodec({ frames: 50_000, seed: 7 })
  assert.ok(decoded > 10_000, `only ${decoded} decoded`)
  assert.ok(refused.size >= 6, `only reasons ${[...refused.keys()]}`)
  assert.ok(heapGrowthBytes < 8 * 1_048_576, `${heapGrowthBytes} octets more`)
})
