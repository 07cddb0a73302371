import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  bitString,
  boolean,
  DerError,
  element,
  integer,
  oid,
  readDer,
  sequence,
  setOf,
  tags,
  time,
} from '../../pki/der.ts'

const fromHex = (text: string): Buffer => Buffer.from(text.replaceAll(' ', ''), 'hex')
const read = (bytes: Uint8Array) => readDer(bytes, 1_000_000)

const refused: [string, string][] = [
  ['', 'nothing'],
  ['30', 'a tag alone'],
  ['30 03 02 01', 'content that is cut off'],
  ['04 85 00 00 00 00 01 00', 'a length of five octets'],
  ['04 82 01', 'a length that is cut off'],
  ['04 84 ff ff ff ff', 'an announced length that is not there'],
  ['30 00 00', 'a byte after the end'],
  ['30 06 30 02 04 03 aa bb', 'a value longer than what it is in'],
  ['30 04 30 01 04 00', 'a header longer than what it is in'],
  ['30 80 00 00', 'an indefinite length'],
  ['04 81 01 aa', 'a long form where the short one does'],
  ['04 82 00 80', 'a length with a leading zero octet'],
  ['1f 81 00 00', 'a tag number above 30'],
  ['24 03 04 01 aa', 'a constructed OCTET STRING'],
  ['10 00', 'a primitive SEQUENCE'],
  ['11 00', 'a primitive SET'],
  ['30 02 00 00', 'an end-of-contents mark'],
  ['01 01 01', 'a BOOLEAN of 01'],
  ['01 02 00 ff', 'a BOOLEAN of two octets'],
  ['01 00', 'a BOOLEAN of none'],
  ['02 00', 'an INTEGER of none'],
  ['02 02 00 7f', 'a positive INTEGER with a needless octet'],
  ['02 02 ff 80', 'a negative INTEGER with a needless octet'],
  ['03 00', 'a BIT STRING without its count'],
  ['03 01 01', 'a BIT STRING of unused bits alone'],
  ['03 02 08 00', 'a BIT STRING with 8 unused bits'],
  ['03 02 04 0f', 'a BIT STRING with unused bits set'],
  ['05 01 00', 'a NULL with content'],
  ['06 00', 'an OBJECT IDENTIFIER of none'],
  ['06 02 80 01', 'an OBJECT IDENTIFIER with a padded arc'],
  ['06 02 2a 86', 'an OBJECT IDENTIFIER cut off in an arc'],
]
for (const [bytes, what] of refused) {
  test(`the reader refuses ${what}`, () => assert.throws(() => read(fromHex(bytes)), DerError))
}

test('a fault deep inside is found before anything is read', () => {
  assert.throws(() => read(sequence(sequence(sequence(fromHex('01 01 01'))))), DerError)
})

test('size and depth are bounded', () => {
  const nested = (levels: number): Buffer => (levels === 0 ? sequence() : sequence(nested(levels - 1)))
  assert.ok(read(nested(15)))
  assert.throws(() => read(nested(16)), { name: 'DerError', message: /16 levels/ })
  assert.throws(() => readDer(sequence(), 1), { name: 'DerError', message: /at most 1/ })
  assert.throws(() => read(element(tags.oid, Buffer.alloc(65, 1))), DerError)
})

test('reading something else than what is there is refused', () => {
  assert.throws(() => read(integer(1)).oid(), DerError)
  assert.throws(() => read(sequence()).enter().next(), DerError)
  assert.throws(
    () =>
      read(sequence(integer(1)))
        .enter()
        .end(),
    DerError,
  )
  assert.throws(() => read(integer(128 & 0x7f)).time(), DerError)
  assert.throws(() => read(integer(Buffer.of(1, 0))).smallInteger(), DerError)
  assert.throws(() => read(bitString(Buffer.of(0x80), 7)).bitString(), DerError)
})

test('times are read in the one form of RFC 5280 4.1.2.5', () => {
  const utc = (text: string) =>
    read(element(tags.utcTime, Buffer.from(text)))
      .time()
      .toISOString()
  const generalized = (text: string) =>
    read(element(tags.generalizedTime, Buffer.from(text)))
      .time()
      .toISOString()
  assert.equal(utc('491231235959Z'), '2049-12-31T23:59:59.000Z')
  assert.equal(utc('500101000000Z'), '1950-01-01T00:00:00.000Z')
  assert.equal(generalized('99991231235959Z'), '9999-12-31T23:59:59.000Z')
  const wrong = [
    '4912312359Z',
    '491231235959',
    '491231235959+0100',
    '490230000000Z',
    '491331000000Z',
    '490101240000Z',
    '',
  ]
  for (const text of wrong) assert.throws(() => utc(text), DerError, text)
  for (const text of ['20500101000000.5Z', '500101000000Z']) assert.throws(() => generalized(text), DerError, text)
})

test('times change form at 2050', () => {
  assert.equal(time(new Date('2049-12-31T23:59:59.999Z')).toString('latin1', 2), '491231235959Z')
  assert.equal(time(new Date('2050-01-01T00:00:00Z')).toString('latin1', 2), '20500101000000Z')
  assert.equal(time(new Date('1949-12-31T00:00:00Z')).toString('latin1', 2), '19491231000000Z')
})

test('a SET OF is written in the order of its bytes', () => {
  assert.deepEqual(setOf(integer(2), integer(1)), setOf(integer(1), integer(2)))
})

test('an oid of ours that is not one is refused', () => {
  for (const text of ['3.1', '1.40', '1']) assert.throws(() => oid(text), DerError, text)
})

test('integers round-trip (property)', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 1, maxLength: 40 }), (magnitude) => {
      const content = read(integer(magnitude)).integer()
      assert.ok(content[0]! < 0x80)
      assert.equal(BigInt(`0x${content.toString('hex')}`), BigInt(`0x${Buffer.from(magnitude).toString('hex')}`))
    }),
  )
})

test('lengths round-trip (property)', () => {
  const lengths = fc.oneof(fc.integer({ min: 0, max: 70_000 }), fc.constantFrom(127, 128, 255, 256, 65_535, 65_536))
  fc.assert(
    fc.property(lengths, (length) => {
      assert.equal(read(element(tags.octetString, Buffer.alloc(length))).octetString().length, length)
    }),
  )
})

test('object identifiers round-trip, also beyond 2^53 (property)', () => {
  const arcs = fc.tuple(
    fc.constantFrom('0.39', '1.2', '2.999', '2.25'),
    fc.array(fc.bigInt(0n, 2n ** 128n), { maxLength: 3 }),
  )
  fc.assert(
    fc.property(arcs, ([start, rest]) => {
      const dotted = [start, ...rest].join('.')
      assert.equal(read(oid(dotted)).oid(), dotted)
    }),
  )
})

test('times round-trip to the second (property)', () => {
  const dates = fc.date({ min: new Date('0001-01-01'), max: new Date('9999-12-31'), noInvalidDate: true })
  fc.assert(
    fc.property(dates, (date) => {
      assert.equal(read(time(date)).time().getTime(), Math.floor(date.getTime() / 1000) * 1000)
    }),
  )
})

test('what is accepted has one encoding: writing it again gives the same bytes (property)', () => {
  const rewrite = (tag: number, content: Buffer): Buffer => {
    if ((tag & 0x20) === 0) return element(tag, content)
    const parts: Buffer[] = []
    for (let at = 0; at < content.length; ) {
      // A reader over one element needs its end, which its own reader finds.
      const child = read(sequence(content.subarray(at)))
        .enter()
        .next()
      parts.push(rewrite(child.tag, child.content))
      at += child.der.length
    }
    return element(tag, ...parts)
  }
  const source = sequence(
    integer(5),
    sequence(oid('1.2.3'), boolean(true)),
    bitString(Buffer.of(0x80), 7),
    setOf(integer(1)),
  )
  fc.assert(
    fc.property(fc.nat({ max: source.length - 1 }), fc.integer({ min: 0, max: 255 }), (at, value) => {
      const bytes = Buffer.from(source)
      bytes[at] = value
      try {
        const { tag, content } = read(bytes).next()
        assert.deepEqual(rewrite(tag, content), bytes)
      } catch (error) {
        assert.ok(error instanceof DerError)
      }
    }),
    { numRuns: 2_000 },
  )
})
