/**
 * Writes test/vectors/csr: certificate requests with one defect each. Run by hand, `node test/harness/csr-vectors.ts`, when
 * a vector is added: those that are there stay. The private keys are thrown away.
 */
import { generateKeyPairSync, type KeyObject, sign } from 'node:crypto'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import {
  bitString,
  contextConstructed,
  element,
  integer,
  octetString,
  oid,
  sequence,
  setOf,
  tags,
  utf8String,
} from '../../pki/der.ts'
import { oids } from '../../pki/oids.ts'

type Vector = { code: string | null; refusedBy: 'parseCsr' | 'singleCommonName'; note: string; der: Buffer }

const makers = {
  p256: () => generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  p384: () => generateKeyPairSync('ec', { namedCurve: 'P-384' }),
  p521: () => generateKeyPairSync('ec', { namedCurve: 'P-521' }),
  secp256k1: () => generateKeyPairSync('ec', { namedCurve: 'secp256k1' }),
  explicit: () => generateKeyPairSync('ec', { namedCurve: 'P-256', paramEncoding: 'explicit' }),
  ed25519: () => generateKeyPairSync('ed25519'),
  ed448: () => generateKeyPairSync('ed448'),
  dsa: () => generateKeyPairSync('dsa', { modulusLength: 2048, divisorLength: 256 }),
  rsa1024: () => generateKeyPairSync('rsa', { modulusLength: 1024 }),
  rsa2048: () => generateKeyPairSync('rsa', { modulusLength: 2048 }),
  rsa4104: () => generateKeyPairSync('rsa', { modulusLength: 4104 }),
  rsaExponent3: () => generateKeyPairSync('rsa', { modulusLength: 2048, publicExponent: 3 }),
  pss: () => generateKeyPairSync('rsa-pss', { modulusLength: 2048 }),
}
type Pair = { publicKey: KeyObject; privateKey: KeyObject }

const made = new Map<string, Pair>()
function key(name: keyof typeof makers): Pair {
  const pair = made.get(name) ?? makers[name]()
  made.set(name, pair)
  return pair
}

const algorithms = {
  ecdsaSha256: sequence(oid(oids.ecdsaWithSha256)),
  ecdsaSha1: sequence(oid('1.2.840.10045.4.1')),
  rsaSha256: sequence(oid(oids.sha256WithRsa), element(tags.null)),
  rsaSha1: sequence(oid('1.2.840.113549.1.1.5'), element(tags.null)),
  rsaMd5: sequence(oid('1.2.840.113549.1.1.4'), element(tags.null)),
  ed25519: sequence(oid(oids.ed25519)),
  ed448: sequence(oid('1.3.101.113')),
  dsaSha256: sequence(oid('2.16.840.1.101.3.4.3.2')),
  pss: sequence(oid('1.2.840.113549.1.1.10'), sequence()),
}

const attribute = (type: string, value: Buffer): Buffer => sequence(oid(type), value)
const rdn = (...attributes: Buffer[]): Buffer => setOf(...attributes)
const cn = (text: string): Buffer => attribute(oids.commonName, utf8String(text))
const spkiOf = (pair: Pair): Buffer => pair.publicKey.export({ format: 'der', type: 'spki' })

type Parts = {
  version?: Buffer
  subject?: Buffer
  spki?: Buffer
  attributes?: Buffer
  pair?: Pair
  hash?: string | null
  algorithm?: Buffer
  signature?: (info: Buffer) => Buffer
}

function request(parts: Parts = {}): Buffer {
  const pair = parts.pair ?? key('p256')
  const info = sequence(
    parts.version ?? integer(0),
    parts.subject ?? sequence(rdn(cn('cam-1'))),
    parts.spki ?? spkiOf(pair),
    parts.attributes ?? element(contextConstructed(0)),
  )
  const hash = parts.hash === undefined ? 'sha256' : parts.hash
  const signature = parts.signature?.(info) ?? sign(hash, info, pair.privateKey)
  return sequence(info, parts.algorithm ?? algorithms.ecdsaSha256, element(tags.bitString, Buffer.of(0), signature))
}

function flipLastBit(bytes: Buffer): Buffer {
  const copy = Buffer.from(bytes)
  copy[copy.length - 1] = copy.at(-1)! ^ 1
  return copy
}

/** The outer length written with one octet more than it needs. */
function paddedLength(der: Buffer): Buffer {
  const start = der[1]! < 0x80 ? 2 : 2 + (der[1]! & 0x7f)
  const content = der.subarray(start)
  return Buffer.concat([Buffer.of(0x30, 0x83, 0, content.length >> 8, content.length & 0xff), content])
}

function indefinite(der: Buffer): Buffer {
  const start = der[1]! < 0x80 ? 2 : 2 + (der[1]! & 0x7f)
  return Buffer.concat([Buffer.of(0x30, 0x80), der.subarray(start), Buffer.of(0, 0)])
}

function nested(levels: number): Buffer {
  let value = sequence()
  for (let level = 1; level < levels; level++) value = sequence(value)
  return value
}

function offCurve(): Buffer {
  return flipLastBit(spkiOf(key('p256')))
}

function hybrid(point: Buffer): Buffer {
  return Buffer.concat([Buffer.of(6 + (point.at(-1)! & 1)), point.subarray(1)])
}

function compressed(): Buffer {
  const point = spkiOf(key('p256')).subarray(-65)
  const form = point.at(-1)! % 2 === 0 ? 2 : 3
  return sequence(
    sequence(oid(oids.ecPublicKey), oid(oids.p256)),
    element(tags.bitString, Buffer.of(0, form), point.subarray(1, 33)),
  )
}

const rsaKey = (modulus: Buffer, exponent: Buffer = Buffer.of(1, 0, 1)): Buffer =>
  sequence(
    sequence(oid(oids.rsaEncryption), element(tags.null)),
    bitString(sequence(element(tags.integer, modulus), element(tags.integer, exponent))),
  )
const oddModulus = (bits: number): Buffer => Buffer.concat([Buffer.of(0), Buffer.alloc(bits / 8, 0xff)])
const pointOf = (octets: Buffer, curve: string = oids.p256): Buffer =>
  sequence(sequence(oid(oids.ecPublicKey), oid(curve)), bitString(octets))

/** A key and a signature that fits it, though nobody holds it: R is the base point, S is 1 (RFC 8032 5.1.7). */
function smallOrder(y: string): Buffer {
  const basePoint = Buffer.from(`58${'66'.repeat(31)}`, 'hex')
  const spki = sequence(sequence(oid(oids.ed25519)), bitString(Buffer.from(y, 'hex')))
  const signature = Buffer.concat([basePoint, Buffer.of(1), Buffer.alloc(31)])
  return request({ spki, algorithm: algorithms.ed25519, signature: () => signature })
}

const extensionRequest = (...extensions: Buffer[]): Buffer =>
  sequence(oid(oids.extensionRequest), setOf(sequence(...extensions)))
const challenge = (text: string): Buffer => sequence(oid(oids.challengePassword), setOf(utf8String(text)))
const subjectAltName = (dns: string): Buffer =>
  sequence(oid(oids.subjectAltName), octetString(sequence(element(0x82, Buffer.from(dns)))))
const attributes = (...list: Buffer[]): Buffer => element(contextConstructed(0), ...list)

const accepted = (note: string, der: Buffer): Vector => ({ code: null, refusedBy: 'parseCsr', note, der })
const refused = (code: string, note: string, der: Buffer): Vector => ({ code, refusedBy: 'parseCsr', note, der })
const noName = (note: string, subject: Buffer): Vector => ({
  code: 'csr_malformed',
  refusedBy: 'singleCommonName',
  note,
  der: request({ subject }),
})

/** A request as EST clients make it that bind it to their TLS session (RFC 7030 3.5). */
export const csrWithChallenge = (commonName: string, text: string): Buffer =>
  csrWithAttributes(commonName, challenge(text))

export const csrWithAttributes = (commonName: string, ...list: Buffer[]): Buffer =>
  request({ subject: sequence(rdn(cn(commonName))), attributes: attributes(...list) })

/** What a request for server-side key generation names its decryption key by (RFC 7030 4.4.1). */
export const keyEncryption = (
  keyId: Buffer,
  capabilities: string[] = [],
  type: string = oids.asymmetricDecryptKeyId,
): Buffer[] => [
  sequence(oid(type), setOf(octetString(keyId))),
  ...(capabilities.length === 0
    ? []
    : [sequence(oid(oids.smimeCapabilities), setOf(sequence(...capabilities.map((each) => sequence(oid(each))))))]),
]

/** The same request with its signature broken. */
export const badlySigned = flipLastBit

const otherSigner = (info: Buffer): Buffer => sign('sha256', info, key('secp256k1').privateKey)

function makeVectors(): Record<string, Vector> {
  const good = request()
  return {
    'accepted-p256': accepted('P-256, ECDSA with SHA-256', good),
    'accepted-p384': accepted('P-384, ECDSA with SHA-256', request({ pair: key('p384') })),
    'accepted-ed25519': accepted(
      'Ed25519',
      request({ pair: key('ed25519'), hash: null, algorithm: algorithms.ed25519 }),
    ),
    'accepted-rsa-2048': accepted('RSA-2048', request({ pair: key('rsa2048'), algorithm: algorithms.rsaSha256 })),
    'accepted-rsa-parameters-absent': accepted(
      'RSA signature without its NULL parameters (RFC 4055 5 has them accepted)',
      request({ pair: key('rsa2048'), algorithm: sequence(oid(oids.sha256WithRsa)) }),
    ),
    'accepted-attributes': accepted(
      'a challengePassword and a subjectAltName',
      request({ attributes: attributes(challenge('secret'), extensionRequest(subjectAltName('cam-1.example'))) }),
    ),

    'accepted-critical-name': accepted(
      'a subjectAltName that is critical',
      request({
        attributes: attributes(
          extensionRequest(
            sequence(
              oid(oids.subjectAltName),
              element(tags.boolean, Buffer.of(0xff)),
              octetString(sequence(element(0x82, Buffer.from('cam-1.example')))),
            ),
          ),
        ),
      }),
    ),
    'accepted-long-oid': accepted(
      'an attribute nobody knows, whose OID has an arc of 440 bits',
      request({
        attributes: attributes(
          sequence(element(tags.oid, Buffer.concat([Buffer.alloc(63, 0x81), Buffer.of(1)])), setOf(utf8String('x'))),
        ),
      }),
    ),

    'oid-of-65-octets': refused(
      'csr_malformed',
      'an attribute whose OID has 65 octets',
      request({
        attributes: attributes(
          sequence(element(tags.oid, Buffer.concat([Buffer.alloc(64, 0x81), Buffer.of(1)])), setOf(utf8String('x'))),
        ),
      }),
    ),
    'many-attributes': refused(
      'csr_malformed',
      '1000 attributes',
      request({
        attributes: attributes(...Array.from({ length: 1_000 }, (_, at) => sequence(oid(`1.2.${at}`), setOf()))),
      }),
    ),
    'extension-request-twice': refused(
      'csr_malformed',
      'two extensionRequest attributes, one name in each',
      request({
        attributes: attributes(
          extensionRequest(subjectAltName('a.example')),
          extensionRequest(subjectAltName('b.example')),
        ),
      }),
    ),
    'extension-request-of-two-values': refused(
      'csr_malformed',
      'one extensionRequest with two lists of extensions',
      request({
        attributes: attributes(
          sequence(
            oid(oids.extensionRequest),
            setOf(sequence(subjectAltName('a.example')), sequence(subjectAltName('b.example'))),
          ),
        ),
      }),
    ),
    'challenge-password-without-value': refused(
      'csr_malformed',
      'a challengePassword with an empty SET',
      request({ attributes: attributes(sequence(oid(oids.challengePassword), setOf())) }),
    ),
    'empty-rdn': refused('csr_malformed', 'a subject with an empty RDN', request({ subject: sequence(setOf()) })),
    'many-rdns': refused(
      'csr_malformed',
      'a subject of 101 RDNs',
      request({
        subject: sequence(
          ...Array.from({ length: 101 }, () => rdn(attribute(oids.organizationalUnit, utf8String('x')))),
        ),
      }),
    ),
    'length-of-127-octets': refused('csr_malformed', 'a length that says it has 127 octets', Buffer.of(0x30, 0xff, 1)),
    'length-of-4-gib': refused(
      'csr_malformed',
      'four octets of length, all ff',
      Buffer.of(0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0),
    ),
    'rsa-even-modulus': refused(
      'csr_malformed',
      'an RSA modulus of 2048 bits that is even',
      request({
        spki: rsaKey(Buffer.concat([oddModulus(2040), Buffer.of(0xfe)])),
        algorithm: algorithms.rsaSha256,
      }),
    ),
    'rsa-padded-modulus': refused(
      'csr_malformed',
      'an RSA modulus with a zero octet in front of its sign',
      request({ spki: rsaKey(Buffer.concat([Buffer.of(0), oddModulus(2048)])), algorithm: algorithms.rsaSha256 }),
    ),
    'rsa-negative-modulus': refused(
      'csr_malformed',
      'an RSA modulus below zero',
      request({ spki: rsaKey(Buffer.alloc(256, 0x81)), algorithm: algorithms.rsaSha256 }),
    ),
    'rsa-16384': refused(
      'csr_key_unsupported',
      'RSA of 16384 bits',
      request({ spki: rsaKey(oddModulus(16_384)), algorithm: algorithms.rsaSha256 }),
    ),
    'rsa-exponent-1': refused(
      'csr_key_unsupported',
      'RSA with e = 1, where every message is its own signature',
      request({ spki: rsaKey(oddModulus(2048), Buffer.of(1)), algorithm: algorithms.rsaSha256 }),
    ),
    'rsa-exponent-of-2048-bits': refused(
      'csr_key_unsupported',
      'RSA with an exponent as large as its modulus',
      request({ spki: rsaKey(oddModulus(2048), oddModulus(2048)), algorithm: algorithms.rsaSha256 }),
    ),
    'rsa-trailing-value': refused(
      'csr_malformed',
      'a NULL behind the RSAPublicKey, inside its BIT STRING',
      request({
        pair: key('rsa2048'),
        spki: sequence(
          sequence(oid(oids.rsaEncryption), element(tags.null)),
          bitString(
            Buffer.concat([key('rsa2048').publicKey.export({ format: 'der', type: 'pkcs1' }), element(tags.null)]),
          ),
        ),
        algorithm: algorithms.rsaSha256,
      }),
    ),
    'rsa-md5': refused(
      'csr_key_unsupported',
      'RSA with MD5',
      request({ pair: key('rsa2048'), hash: 'md5', algorithm: algorithms.rsaMd5 }),
    ),
    'point-at-infinity': refused('csr_malformed', 'the point at infinity', request({ spki: pointOf(Buffer.of(0)) })),
    'point-of-zeros': refused(
      'csr_malformed',
      'a P-256 point of zeros',
      request({ spki: pointOf(Buffer.concat([Buffer.of(4), Buffer.alloc(64)])) }),
    ),
    'point-not-reduced': refused(
      'csr_malformed',
      'the P-256 point with x = 0, its x written as p',
      request({
        spki: pointOf(
          Buffer.from(
            '04ffffffff00000001000000000000000000000000ffffffffffffffffffffffff66485c780e2f83d72433bd5d84a06bb6541c2af31dae871728bf856a174f93f4',
            'hex',
          ),
        ),
      }),
    ),
    'point-hybrid': refused(
      'csr_malformed',
      'a P-256 point in hybrid form',
      request({ spki: pointOf(hybrid(spkiOf(key('p256')).subarray(-65))) }),
    ),
    'point-of-another-curve': refused(
      'csr_malformed',
      'a P-256 point said to be on P-384',
      request({ spki: pointOf(spkiOf(key('p256')).subarray(-65), oids.p384) }),
    ),
    'ed25519-neutral-element': refused(
      'csr_key_too_weak',
      'the neutral element, for which one signature fits every message',
      smallOrder(`01${'00'.repeat(31)}`),
    ),
    'ed25519-order-2': refused('csr_key_too_weak', 'the point of order 2', smallOrder(`ec${'ff'.repeat(30)}7f`)),
    'ed25519-order-4': refused('csr_key_too_weak', 'a point of order 4', smallOrder('00'.repeat(32))),
    'ed25519-order-8': refused(
      'csr_key_too_weak',
      'a point of order 8, with the sign of x set',
      smallOrder('c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa'),
    ),
    'ed25519-not-reduced': refused(
      'csr_malformed',
      'the neutral element, its y written as p + 1',
      smallOrder(`ee${'ff'.repeat(30)}7f`),
    ),
    'signature-of-zeros': refused(
      'csr_signature_invalid',
      'ECDSA with r = s = 0',
      request({ signature: () => sequence(integer(0), integer(0)) }),
    ),
    'signature-parameters': refused(
      'csr_malformed',
      'ECDSA with NULL parameters (RFC 5758 3.2: they are absent)',
      request({ algorithm: sequence(oid(oids.ecdsaWithSha256), element(tags.null)) }),
    ),

    truncated: refused('csr_malformed', 'the last octet is missing', good.subarray(0, -1)),
    empty: refused('csr_malformed', 'no octet at all', Buffer.of()),
    'trailing-byte': refused('csr_malformed', 'one zero octet after the end', Buffer.concat([good, Buffer.of(0)])),
    'second-request': refused('csr_malformed', 'two requests one after the other', Buffer.concat([good, good])),
    'indefinite-length': refused('csr_malformed', 'BER indefinite length outside', indefinite(good)),
    'padded-length': refused('csr_malformed', 'length with a leading zero octet', paddedLength(good)),
    'deep-nesting': refused('csr_malformed', '2000 SEQUENCEs inside each other', nested(2000)),
    large: refused(
      'csr_malformed',
      '17 kB of challengePassword',
      request({ attributes: attributes(challenge('x'.repeat(17_000))) }),
    ),
    'padded-version': refused(
      'csr_malformed',
      'version 00 00',
      request({ version: element(tags.integer, Buffer.of(0, 0)) }),
    ),
    'version-2': refused('csr_malformed', 'version v2', request({ version: integer(1) })),
    'attributes-missing': refused(
      'csr_malformed',
      'no [0] at all (RFC 2986 4.1 has it always)',
      request({ attributes: Buffer.of() }),
    ),
    'attribute-twice': refused(
      'csr_malformed',
      'two challengePassword attributes',
      request({ attributes: attributes(challenge('a'), challenge('b')) }),
    ),
    'extension-twice': refused(
      'csr_malformed',
      'two subjectAltName extensions',
      request({ attributes: attributes(extensionRequest(subjectAltName('a.example'), subjectAltName('b.example'))) }),
    ),
    'boolean-not-der': refused(
      'csr_malformed',
      'critical as 01 instead of ff',
      request({
        attributes: attributes(
          extensionRequest(
            sequence(oid(oids.subjectAltName), element(tags.boolean, Buffer.of(1)), octetString(sequence())),
          ),
        ),
      }),
    ),
    'constructed-string': refused(
      'csr_malformed',
      'CN as a constructed UTF8String (BER)',
      request({ subject: sequence(rdn(attribute(oids.commonName, element(0x2c, utf8String('cam-1'))))) }),
    ),
    'off-curve': refused('csr_malformed', 'a point that is not on P-256', request({ spki: offCurve() })),
    'signature-unused-bits': refused(
      'csr_malformed',
      'signature BIT STRING not of whole octets',
      sequence(
        sequence(integer(0), sequence(rdn(cn('cam-1'))), spkiOf(key('p256')), attributes()),
        algorithms.ecdsaSha256,
        element(tags.bitString, Buffer.of(4, 0xf0)),
      ),
    ),

    'signature-flipped': refused('csr_signature_invalid', 'last bit of the signature flipped', flipLastBit(good)),
    'signature-of-another-key': refused(
      'csr_signature_invalid',
      'signed by another key',
      request({ signature: otherSigner }),
    ),
    'signature-empty': refused(
      'csr_signature_invalid',
      'signature of no octets',
      request({ signature: () => Buffer.of() }),
    ),
    'signature-algorithm-of-another-key': refused(
      'csr_signature_invalid',
      'P-256 key, RSA signature algorithm',
      request({ algorithm: algorithms.rsaSha256 }),
    ),
    'subject-replaced': refused(
      'csr_signature_invalid',
      'subject changed after signing',
      request({
        subject: sequence(rdn(cn('cam-2'))),
        signature: () => sign('sha256', Buffer.from('cam-1'), key('p256').privateKey),
      }),
    ),

    'rsa-1024': refused(
      'csr_key_too_weak',
      'RSA-1024',
      request({ pair: key('rsa1024'), algorithm: algorithms.rsaSha256 }),
    ),
    'rsa-4104': refused(
      'csr_key_unsupported',
      'RSA of 4104 bits',
      request({ pair: key('rsa4104'), algorithm: algorithms.rsaSha256 }),
    ),
    'rsa-exponent-3': refused(
      'csr_key_unsupported',
      'RSA with e = 3',
      request({ pair: key('rsaExponent3'), algorithm: algorithms.rsaSha256 }),
    ),
    'rsa-pss-key': refused(
      'csr_key_unsupported',
      'id-RSASSA-PSS key',
      request({ pair: key('pss'), algorithm: algorithms.pss }),
    ),
    'rsa-pss-signature': refused(
      'csr_key_unsupported',
      'RSA key, PSS signature',
      request({ pair: key('rsa2048'), algorithm: algorithms.pss }),
    ),
    'p-521': refused('csr_key_unsupported', 'P-521', request({ pair: key('p521') })),
    secp256k1: refused('csr_key_unsupported', 'secp256k1', request({ pair: key('secp256k1') })),
    'explicit-parameters': refused(
      'csr_key_unsupported',
      'P-256 spelled out as explicit parameters',
      request({ pair: key('explicit') }),
    ),
    'compressed-point': refused(
      'csr_key_unsupported',
      'P-256 point in compressed form',
      request({ spki: compressed() }),
    ),
    ed448: refused(
      'csr_key_unsupported',
      'Ed448',
      request({ pair: key('ed448'), hash: null, algorithm: algorithms.ed448 }),
    ),
    dsa: refused('csr_key_unsupported', 'DSA-2048', request({ pair: key('dsa'), algorithm: algorithms.dsaSha256 })),
    'ecdsa-sha1': refused(
      'csr_key_unsupported',
      'ECDSA with SHA-1',
      request({ hash: 'sha1', algorithm: algorithms.ecdsaSha1 }),
    ),
    'rsa-sha1': refused(
      'csr_key_unsupported',
      'RSA with SHA-1',
      request({ pair: key('rsa2048'), hash: 'sha1', algorithm: algorithms.rsaSha1 }),
    ),

    'subject-empty': noName('empty subject', sequence()),
    'two-common-names': noName('two CNs', sequence(rdn(cn('cam-1')), rdn(cn('cam-2')))),
    'multi-valued-rdn': noName(
      'CN and OU in one RDN',
      sequence(rdn(cn('cam-1'), attribute(oids.organizationalUnit, utf8String('hall')))),
    ),
    'two-common-names-in-one-rdn': noName('two CNs in one RDN', sequence(rdn(cn('cam-1'), cn('cam-2')))),
    'common-name-t61': noName(
      'CN as T61String',
      sequence(rdn(attribute(oids.commonName, element(0x14, Buffer.from('cam-1'))))),
    ),
    'common-name-bmp': noName(
      'CN as BMPString',
      sequence(rdn(attribute(oids.commonName, element(0x1e, Buffer.from('\0c\0a\0m'))))),
    ),
    'common-name-universal': noName(
      'CN as UniversalString',
      sequence(rdn(attribute(oids.commonName, element(0x1c, Buffer.from('\0\0\0c\0\0\0a'))))),
    ),
    'common-name-ia5': noName(
      'CN as IA5String',
      sequence(rdn(attribute(oids.commonName, element(tags.ia5String, Buffer.from('cam-1'))))),
    ),
    'common-name-not-utf8': noName(
      'CN as UTF8String of 64 ff fe',
      sequence(rdn(attribute(oids.commonName, element(tags.utf8String, Buffer.of(0x64, 0xff, 0xfe))))),
    ),
    'common-name-not-printable': noName(
      'PrintableString with @',
      sequence(rdn(attribute(oids.commonName, element(tags.printableString, Buffer.from('cam@1'))))),
    ),
    'common-name-nul': noName('cam-1, NUL, .example', sequence(rdn(cn('cam-1\0.example')))),
    'common-name-direction': noName('a right-to-left override in the CN', sequence(rdn(cn('cam\u202e-1')))),
    'common-name-empty': noName('CN of no characters', sequence(rdn(cn('')))),
    'common-name-sequence': noName('CN that is no string', sequence(rdn(attribute(oids.commonName, sequence())))),
  }
}

function writeVectors(): void {
  const folder = new URL('../vectors/csr/', import.meta.url)
  mkdirSync(folder, { recursive: true })
  for (const [name, { der, ...vector }] of Object.entries(makeVectors())) {
    const file = new URL(`${name}.json`, folder)
    if (existsSync(file)) continue
    const content = { ...vector, origin: 'test/harness/csr-vectors.ts', der: der.toString('base64') }
    writeFileSync(file, `${JSON.stringify(content, null, 2)}\n`)
  }
}

if (import.meta.main) writeVectors()
