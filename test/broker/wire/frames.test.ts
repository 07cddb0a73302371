import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { type Frame, FrameReader } from '../../../broker/wire/frames.ts'
import { Malformed, reason } from '../../../broker/wire/reason.ts'

/** A packet with `length` octets behind its fixed header, in as few length octets as it takes. */
function packet(header: number, length: number): Buffer {
  const octets: number[] = [header]
  let rest = length
  do {
    octets.push((rest & 0x7f) | (rest >= 0x80 ? 0x80 : 0))
    rest >>= 7
  } while (rest > 0)
  return Buffer.concat([Buffer.from(octets), Buffer.alloc(length, header)])
}

const all = (reader: FrameReader, chunk: Buffer): Frame[] => [...reader.push(chunk)]
const refusedFor = (code: number) => (error: unknown) => error instanceof Malformed && error.reason === code

test('packets come out whole, with their first octet and their body', () => {
  const frames = all(new FrameReader(1_000), Buffer.concat([packet(0x30, 5), packet(0xc0, 0), packet(0x82, 200)]))
  assert.deepEqual(
    frames.map(({ header, body }) => [header, body.length]),
    [
      [0x30, 5],
      [0xc0, 0],
      [0x82, 200],
    ],
  )
  assert.ok(frames[2]!.body.every((octet) => octet === 0x82))
})

test('a body that lies in one chunk is a view of it', () => {
  const chunk = packet(0x30, 50)
  const [frame] = all(new FrameReader(1_000), chunk)
  assert.equal(frame!.body.buffer, chunk.buffer)
})

test('where the stream is cut makes no difference', () => {
  const stream = fc.array(fc.tuple(fc.constantFrom(0x30, 0x40, 0x82), fc.integer({ min: 0, max: 5_000 })), {
    maxLength: 8,
  })
  const cuts = fc.array(fc.integer({ min: 1, max: 3_000 }), { minLength: 1, maxLength: 20 })
  fc.assert(
    fc.property(stream, cuts, (packets, sizes) => {
      const bytes = Buffer.concat(packets.map(([header, length]) => packet(header, length)))
      const reader = new FrameReader(6_000)
      const frames: Frame[] = []
      for (let at = 0, i = 0; at < bytes.length; i++) {
        const size = sizes[i % sizes.length]!
        frames.push(...all(reader, bytes.subarray(at, at + size)))
        at += size
      }
      assert.deepEqual(
        frames.map(({ header, body }) => [header, body.length]),
        packets,
      )
      assert.ok(frames.every(({ header, body }) => body.every((octet) => octet === header)))
      assert.equal(reader.heldBytes, 0)
    }),
    { numRuns: 200 },
  )
})

test('a packet may have the limit, its fixed header included, and not one octet more (2.1.4)', () => {
  assert.equal(all(new FrameReader(130), packet(0x30, 127)).length, 1)
  assert.equal(all(new FrameReader(131), packet(0x30, 128)).length, 1)
  assert.throws(() => all(new FrameReader(130), packet(0x30, 128)), refusedFor(reason.packetTooLarge))
})

test('a packet that is too large is refused at the length octet that gives it away', () => {
  const reader = new FrameReader(16_384)
  assert.deepEqual(all(reader, Buffer.from([0x30, 0xff])), [])
  assert.throws(() => all(reader, Buffer.from([0xff])), refusedFor(reason.packetTooLarge))
})

test('nothing is allocated for what was announced, only for what has come', () => {
  const length = 200_000_000
  const reader = new FrameReader(268_435_460)
  const start = packet(0x30, 300).subarray(0, 1)
  all(
    reader,
    Buffer.concat([
      start,
      Buffer.from([
        0x80 | (length & 0x7f),
        0x80 | ((length >> 7) & 0x7f),
        0x80 | ((length >> 14) & 0x7f),
        length >> 21,
      ]),
    ]),
  )
  assert.ok(reader.heldBytes <= 1_024)
  let sent = 0
  for (let i = 0; i < 2_000; i++) {
    all(reader, Buffer.alloc(17))
    sent += 17
    assert.ok(reader.heldBytes <= Math.max(1_024, 2 * sent))
  }
})

test('a packet in single octets holds twice its size at most', () => {
  const bytes = packet(0x30, 5_000)
  const reader = new FrameReader(10_000)
  let frames: Frame[] = []
  for (const octet of bytes) {
    frames = all(reader, Buffer.from([octet]))
    assert.ok(reader.heldBytes <= 5_000)
  }
  assert.equal(frames[0]!.body.length, 5_000)
  assert.ok(frames[0]!.body.every((octet) => octet === 0x30))
})

test('more than four length octets are refused, also across chunks (MQTT 3.1.1, 2.2.3)', () => {
  for (const chunks of [[[0x30, 0x80, 0x80, 0x80, 0x80]], [[0x30, 0x80], [0x80, 0x80], [0x80]]]) {
    const reader = new FrameReader(1_000)
    assert.throws(
      () => chunks.forEach((chunk) => void all(reader, Buffer.from(chunk))),
      refusedFor(reason.malformedPacket),
    )
  }
})

test('a length with idle octets passes before version 5 and is refused in it [MQTT-1.5.5-1]', () => {
  const padded = Buffer.from([0xc0, 0x80, 0x80, 0x00])
  assert.deepEqual(all(new FrameReader(100), padded), [{ header: 0xc0, body: Buffer.alloc(0) }])
  const reader = new FrameReader(100)
  reader.limit(100, true)
  assert.throws(() => all(reader, padded), refusedFor(reason.malformedPacket))
})

test('reading may stop after a packet, and goes on under the limits that have changed meanwhile', () => {
  const reader = new FrameReader(20)
  const headers: number[] = []
  for (const { header } of reader.push(Buffer.concat([packet(0x10, 10), packet(0x30, 100), packet(0xc0, 0)]))) {
    headers.push(header)
    break
  }
  reader.limit(1_000, true)
  for (const { header } of reader.push(packet(0xe0, 0))) headers.push(header)
  assert.deepEqual(headers, [0x10, 0x30, 0xc0, 0xe0])
})

test('after a refusal every reading is refused the same way', () => {
  const reader = new FrameReader(10)
  let first: unknown
  try {
    all(reader, packet(0x30, 100))
  } catch (error) {
    first = error
  }
  assert.ok(first instanceof Malformed)
  assert.throws(
    () => all(reader, packet(0xc0, 0)),
    (error) => error === first,
  )
})
