import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { DeviceId } from '../../contract/ids.ts'
import { DerError, element, oid, sequence, setOf, tags, utf8String } from '../../pki/der.ts'
import {
  buildAlternativeNames,
  buildName,
  deviceUri,
  formatName,
  namesEqual,
  parseAlternativeNames,
  parseName,
  valuesOf,
} from '../../pki/names.ts'
import { oids } from '../../pki/oids.ts'

const attribute = (type: string, value: Buffer): Buffer => sequence(oid(type), value)
const string = (tag: number, ...octets: number[]): Buffer => element(tag, Buffer.from(octets))
const cn = (value: Buffer): Buffer => attribute(oids.commonName, value)
const nameOf = (...rdns: Buffer[][]) => parseName(sequence(...rdns.map((rdn) => setOf(...rdn))))
const cnName = (text: string) => parseName(buildName({ commonName: text }))
const printable = (text: string): Buffer => element(tags.printableString, Buffer.from(text))

test('a built name reads O, OU, CN and gives its values back', () => {
  const name = parseName(
    buildName({ commonName: 'cam-1', organizationalUnits: ['hall 3', 'north'], organization: 'Example' }),
  )
  assert.equal(formatName(name), 'CN=cam-1,OU=north,OU=hall 3,O=Example')
  assert.deepEqual(valuesOf(name, 'OU'), ['hall 3', 'north'])
  assert.deepEqual(valuesOf(name, 'serialNumber'), [])
  assert.equal(parseName(buildName({})).rdns.length, 0)
})

test('values that are not what their type says are kept as hex and never read as text', () => {
  const latin = nameOf([cn(string(tags.utf8String, 0x64, 0xff, 0xfe))])
  const honest = cnName('dÿþ')
  assert.equal(latin.rdns[0]![0]!.encoding, 'other')
  assert.equal(latin.rdns[0]![0]!.value, '#0c0364fffe')
  assert.deepEqual(valuesOf(latin, 'CN'), [])
  assert.equal(namesEqual(latin, honest), false)
  assert.notEqual(formatName(latin), formatName(honest))
  for (const value of [
    string(0x14, 0x61),
    string(0x1e, 0, 0x61),
    string(0x1c, 0, 0, 0, 0x61),
    printable('a@b'),
    sequence(),
  ]) {
    assert.equal(nameOf([cn(value)]).rdns[0]![0]!.encoding, 'other')
  }
})

test('text that looks like the hex form of another value stays apart from it', () => {
  const text = cnName('#0c0364fffe')
  assert.equal(formatName(text), 'CN=\\#0c0364fffe')
  assert.equal(namesEqual(text, nameOf([cn(string(tags.utf8String, 0x64, 0xff, 0xfe))])), false)
})

test('a byte-order mark is part of the value', () => {
  assert.deepEqual(valuesOf(cnName('\ufeffcam-1'), 'CN'), ['\ufeffcam-1'])
  assert.equal(formatName(cnName('\ufeffcam-1')), 'CN=<U+FEFF>cam-1')
})

test('values are not taken from a multi-valued RDN', () => {
  const name = nameOf([cn(utf8String('cam-1')), attribute(oids.organizationalUnit, utf8String('hall'))])
  assert.deepEqual([valuesOf(name, 'CN'), valuesOf(name, 'OU')], [[], []])
  assert.equal(formatName(name), 'OU=hall+CN=cam-1')
})

test('names compare as RFC 5280 7.1 says: no case, no extra white space, any of the two string types', () => {
  assert.ok(namesEqual(cnName('Cam  One '), nameOf([cn(printable('cam one'))])))
  assert.ok(namesEqual(cnName('ﬁxture'), cnName('FIXTURE')))
  assert.equal(namesEqual(cnName('cam-1'), cnName('cam-2')), false)
  assert.equal(namesEqual(cnName('cam-1'), nameOf([cn(element(tags.ia5String, Buffer.from('cam-1')))])), false)
  assert.equal(namesEqual(cnName('cam-1'), nameOf([attribute(oids.organization, utf8String('cam-1'))])), false)
})

test('names compare RDN by RDN: order, count and multi-valued RDNs matter', () => {
  const a = attribute(oids.organizationalUnit, utf8String('a'))
  const b = attribute(oids.organizationalUnit, utf8String('b'))
  assert.equal(namesEqual(nameOf([a], [b]), nameOf([b], [a])), false)
  assert.equal(namesEqual(nameOf([a], [b]), nameOf([a, b])), false)
  assert.equal(namesEqual(nameOf([a]), nameOf([a], [a])), false)
  assert.ok(namesEqual(nameOf([a, cn(utf8String('X'))]), nameOf([cn(utf8String('x')), a])))
  assert.equal(namesEqual(nameOf([a, a]), nameOf([a, b])), false)
})

test('a name with characters that do not show is equal to itself only', () => {
  assert.equal(namesEqual(cnName('cam\u200b-1'), cnName('cam-1')), false)
  assert.equal(namesEqual(cnName('CAM\0'), cnName('cam\0')), false)
  assert.ok(namesEqual(cnName('cam\0'), cnName('cam\0')))
})

test('formatName escapes as RFC 4514 2.4 says and shows what would hide or turn', () => {
  const cases: [string, string][] = [
    ['a,b+c"d;e<f>g\\h', 'CN=a\\,b\\+c\\"d\\;e\\<f\\>g\\\\h'],
    [' a ', 'CN=\\ a\\ '],
    [' ', 'CN=\\ '],
    ['#a', 'CN=\\#a'],
    ['a\0b\n', 'CN=a<U+0000>b<U+000A>'],
    ['1-\u202emac', 'CN=1-<U+202E>mac'],
    ['a\u2028\u00a0b', 'CN=a<U+2028><U+00A0>b'],
    ['a<U+0000>b', 'CN=a\\<U\\+0000\\>b'],
    ['größe 水', 'CN=größe 水'],
  ]
  for (const [value, text] of cases) assert.equal(formatName(cnName(value)), text)
  assert.equal(formatName(nameOf([attribute('1.2.3.4', utf8String('x'))])), '1.2.3.4=x')
})

test('different values never format alike (property)', () => {
  const text = fc.string({
    unit: fc.constantFrom('a', ' ', '\\', '<', '>', '#', 'U', '+', '0', '\0', '\u202e', ','),
    maxLength: 8,
  })
  fc.assert(
    fc.property(text, text, (a, b) => {
      assert.equal(formatName(cnName(a)) === formatName(cnName(b)), a === b)
    }),
    { numRuns: 3_000 },
  )
})

test('names that are not names are refused', () => {
  const many = Array.from({ length: 101 }, () => [cn(utf8String('a'))])
  assert.throws(() => nameOf(...many), { name: 'DerError', message: /100 attributes/ })
  assert.throws(() => nameOf([]), DerError)
  assert.throws(() => parseName(sequence(setOf(sequence(oid(oids.commonName))))), DerError)
  assert.throws(
    () => parseName(sequence(setOf(sequence(oid(oids.commonName), utf8String('a'), utf8String('b'))))),
    DerError,
  )
  assert.throws(() => parseName(sequence(sequence())), DerError)
  assert.throws(() => parseName(buildName({ commonName: 'x'.repeat(9_000) })), DerError)
})

test('a device has one URI', () => {
  assert.equal(deviceUri('cam-1' as DeviceId), 'urn:fleetgate:device:cam-1')
})

test('alternative names round-trip, addresses in the form of RFC 5952', () => {
  const names = {
    uris: ['urn:fleetgate:device:cam-1'],
    dns: ['localhost', 'gate.example'],
    ips: ['127.0.0.1', '::1', '2001:DB8:0:0:1::5', '::ffff:10.0.0.1', '1:2:3:4:5:6:7:8', '::'],
  }
  const read = parseAlternativeNames(buildAlternativeNames(names))
  assert.deepEqual(read.uris, names.uris)
  assert.deepEqual(read.dns, names.dns)
  assert.deepEqual(read.ips, ['127.0.0.1', '::1', '2001:db8::1:0:0:5', '::ffff:a00:1', '1:2:3:4:5:6:7:8', '::'])
})

test('alternative names of other kinds are passed over', () => {
  const email = element(0x81, Buffer.from('a@example'))
  assert.deepEqual(parseAlternativeNames(sequence(email)), { uris: [], dns: [], ips: [] })
})

test('alternative names that cannot be right are refused', () => {
  const dns = (text: string): Buffer => sequence(element(0x82, Buffer.from(text)))
  for (const text of ['a\0.example', 'a b', 'bücher.example', '']) {
    assert.throws(() => parseAlternativeNames(dns(text)), DerError, text)
    assert.throws(() => buildAlternativeNames({ dns: [text] }), DerError, text)
  }
  assert.throws(() => parseAlternativeNames(sequence()), DerError)
  assert.throws(() => parseAlternativeNames(sequence(element(0x87, Buffer.alloc(5)))), DerError)
  for (const ip of ['1.2.3', '1.2.3.256', '01.2.3.4', 'localhost', '::1%eth0', ':::', '1::2::3', '']) {
    assert.throws(() => buildAlternativeNames({ ips: [ip] }), DerError, ip)
  }
})
