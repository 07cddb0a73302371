import assert from 'node:assert/strict'
import { generateKeyPairSync } from 'node:crypto'
import { test } from 'node:test'
import {
  bitString,
  boolean,
  contextConstructed,
  contextPrimitive,
  element,
  integer,
  octetString,
  oid,
  readDer,
  sequence,
  setOf,
  tags,
  time,
  utf8String,
} from '../../pki/der.ts'
import { type LintContext, lintCertificate } from '../../pki/lint.ts'
import { buildAlternativeNames, buildName } from '../../pki/names.ts'
import { oids } from '../../pki/oids.ts'
import { type CertificateProfile, issuingProfile, registrationProfile } from '../../pki/profile.ts'
import { keyIdentifierOf } from '../../pki/public-key.ts'
import { pointerExtensions } from '../../pki/status-pointers.ts'
import { readTbsCertificate, type TbsCertificate } from '../../pki/tbs-certificate.ts'
import { isFleetError } from '../../runtime/errors.ts'
import { after, createSpki, day, issuingIssuer, now, rootIssuer, sensorProfile } from './hierarchy.ts'

/** The fields of a TBS in their order; each test replaces one. */
type Fields = {
  version: Buffer
  serial: Buffer
  algorithm: Buffer
  issuer: Buffer
  dates: Buffer
  subject: Buffer
  spki: Buffer
  uniqueId: Buffer
  extensions: Record<string, Buffer>
}

const tbsOf = (der: Buffer): TbsCertificate => readTbsCertificate(readDer(der, 10_000).enter().next().der)
const issuing = tbsOf(issuingIssuer.certificate.der)
const root = tbsOf(rootIssuer.certificate.der)
const spki = createSpki()

const extension = (type: string, value: Buffer, critical = false): Buffer =>
  sequence(oid(type), ...(critical ? [boolean(true)] : []), octetString(value))
const constraints = (...parts: Buffer[]): Buffer => extension(oids.basicConstraints, sequence(...parts), true)
const keyUsage = (octet: number, unused: number): Buffer =>
  extension(oids.keyUsage, bitString(Buffer.of(octet), unused), true)
const purposes = (...dotted: string[]): Buffer => extension(oids.extendedKeyUsage, sequence(...dotted.map(oid)))
const authority = (keyId: Buffer): Buffer =>
  extension(oids.authorityKeyIdentifier, sequence(element(contextPrimitive(0), keyId)))
const alternative = (names: Parameters<typeof buildAlternativeNames>[0]): Buffer =>
  extension(oids.subjectAltName, buildAlternativeNames(names))

const leaf = (): Fields => ({
  version: element(contextConstructed(0), integer(2)),
  serial: integer(Buffer.alloc(16, 0x11)),
  algorithm: sequence(oid(oids.ecdsaWithSha256)),
  issuer: issuing.subject.der,
  dates: sequence(time(now), time(after(30 * day))),
  subject: buildName({ commonName: 'cam-1' }),
  spki,
  uniqueId: Buffer.of(),
  extensions: {
    authority: authority(keyIdentifierOf(issuingIssuer.signer.publicKeySpki)),
    subject: extension(oids.subjectKeyIdentifier, octetString(keyIdentifierOf(spki))),
    constraints: constraints(),
    usage: keyUsage(0x80, 7),
    purposes: purposes(oids.clientAuth),
    names: alternative({ uris: ['urn:fleetgate:device:cam-1'] }),
  },
})

const { names: _names, purposes: _purposes, ...caExtensions } = leaf().extensions
const ca = (): Fields => ({
  ...leaf(),
  issuer: root.subject.der,
  extensions: {
    ...caExtensions,
    authority: authority(keyIdentifierOf(rootIssuer.signer.publicKeySpki)),
    constraints: constraints(boolean(true), integer(0)),
    usage: keyUsage(0x06, 1),
  },
})

const encode = ({ extensions, ...fields }: Fields): Buffer =>
  sequence(
    ...Object.values(fields),
    element(contextConstructed(3), sequence(...Object.values(extensions).filter((bytes) => bytes.length > 0))),
  )

const leafContext: LintContext = {
  profile: sensorProfile,
  issuer: issuing,
  signerSpki: issuingIssuer.signer.publicKeySpki,
  hasAlternativeNames: true,
}
const caContext: LintContext = {
  profile: issuingProfile,
  issuer: root,
  signerSpki: rootIssuer.signer.publicKeySpki,
  hasAlternativeNames: false,
}

type Case = [
  rule: string,
  words: RegExp,
  change: {
    fields?: Partial<Omit<Fields, 'extensions'>>
    extensions?: Record<string, Buffer>
    context?: Partial<LintContext>
  },
]

function lint(fields: Fields, context: LintContext, change: Case[2] = {}): void {
  const changed = { ...fields, ...change.fields, extensions: { ...fields.extensions, ...change.extensions } }
  lintCertificate(encode(changed), { ...context, ...change.context })
}

test('lint passes a certificate that keeps every rule', () => {
  lint(leaf(), leafContext)
  lint(ca(), caContext)
})

const absent = Buffer.of()
const dates = (from: Date, to: Date): Buffer => sequence(time(from), time(to))
const attribute = (type: string, value: Buffer): Buffer => sequence(oid(type), value)
const cn = (value: Buffer): Buffer => sequence(setOf(attribute(oids.commonName, value)))
const spkiOf = (curve: string): Buffer =>
  generateKeyPairSync('ec', { namedCurve: curve }).publicKey.export({ format: 'der', type: 'spki' })
const rsa = (modulusLength: number): Buffer =>
  generateKeyPairSync('rsa', { modulusLength }).publicKey.export({ format: 'der', type: 'spki' })
const organized: CertificateProfile = { ...sensorProfile, organization: 'Example' }
const twoPurposes: CertificateProfile = { ...sensorProfile, extendedKeyUsage: ['clientAuth', 'serverAuth'] }

const pointersTo = (name: string) => ({ crl: `http://s.test/${name}.crl`, caIssuers: 'http://s.test/ca.cer' })
const pointersOf = (name: string): Buffer => Buffer.concat(pointerExtensions(pointersTo(name)))
const pointers = pointersTo('1')

const leafCases: Case[] = [
  ['the pointers that were wanted', /2\.5\.29\.31.* is missing/, { context: { pointers } }],
  ['no others', /where its status/, { extensions: { pointers: pointersOf('2') }, context: { pointers } }],
  ['none that were not wanted', /has no extension 2\.5\.29\.31/, { extensions: { pointers: pointersOf('1') } }],
  ['version 3 (RFC 5280 4.1.2.1)', /version 2/, { fields: { version: element(contextConstructed(0), integer(1)) } }],
  ['a positive serial (RFC 5280 4.1.2.2)', /not positive/, { fields: { serial: integer(0) } }],
  ['no negative serial', /not positive/, { fields: { serial: element(tags.integer, Buffer.of(0x81, 0)) } }],
  ['a serial of at most 20 octets', /20 octets/, { fields: { serial: integer(Buffer.alloc(20, 0x81)) } }],
  [
    'the signature algorithm of the signer',
    /ECDSA with SHA-256/,
    { fields: { algorithm: sequence(oid(oids.ecdsaWithSha384)) } },
  ],
  [
    'no parameters beside ecdsa-with-SHA256 (RFC 5758 3.2)',
    /ECDSA with SHA-256/,
    { fields: { algorithm: sequence(oid(oids.ecdsaWithSha256), element(tags.null)) } },
  ],
  [
    'no unique identifiers',
    /unique identifiers/,
    { fields: { uniqueId: element(contextPrimitive(2), Buffer.of(0, 1)) } },
  ],
  [
    'UTCTime through 2049 (RFC 5280 4.1.2.5)',
    /UTCTime/,
    { fields: { dates: sequence(time(now), element(tags.generalizedTime, Buffer.from('20260310000000Z'))) } },
  ],
  ['an end after its beginning', /ends before/, { fields: { dates: dates(after(day), after(day)) } }],
  ["the profile's lifetime", /longer than profile sensor/, { fields: { dates: dates(now, after(32 * day)) } }],
  ['no beginning before its issuer', /its issuer is not/, { fields: { dates: dates(after(-1_000), after(day)) } }],
  [
    'no end after its issuer',
    /its issuer is not/,
    { context: { issuer: { ...issuing, notAfter: { date: after(29 * day), tag: tags.utcTime } } } },
  ],
  ['a subject', /subject is empty/, { fields: { subject: sequence() } }],
  [
    'no multi-valued RDN',
    /multi-valued/,
    {
      fields: {
        subject: sequence(
          setOf(attribute(oids.commonName, utf8String('a')), attribute(oids.organizationalUnit, utf8String('b'))),
        ),
      },
    },
  ],
  [
    'well-formed text in the subject',
    /no well-formed text/,
    { fields: { subject: cn(element(0x14, Buffer.from('cam-1'))) } },
  ],
  [
    'UTF-8 in the subject',
    /no well-formed text/,
    { fields: { subject: cn(element(tags.utf8String, Buffer.of(0xff))) } },
  ],
  ['values of at most 64 characters', /65 characters/, { fields: { subject: cn(utf8String('a'.repeat(65))) } }],
  ['values of at least one character', /0 characters/, { fields: { subject: cn(utf8String('')) } }],
  ['no control characters', /control characters/, { fields: { subject: cn(utf8String('cam\0-1')) } }],
  ["the profile's O", /O is not that/, { context: { profile: organized } }],
  [
    'no O beside the profile',
    /O is not that/,
    { fields: { subject: buildName({ commonName: 'a', organization: 'b' }) } },
  ],
  [
    "the issuer's own name, byte for byte",
    /issuing certificate's subject/,
    { fields: { issuer: buildName({ commonName: 'ISSUING' }) } },
  ],
  ['an issuer', /issuer is empty/, { fields: { issuer: sequence() } }],
  ['an issuer that is a CA', /not a CA/, { context: { issuer: { ...issuing, extensions: new Map() } } }],
  [
    'an issuer that may sign certificates',
    /may not sign/,
    {
      context: {
        issuer: {
          ...issuing,
          extensions: new Map([
            ...issuing.extensions,
            [oids.keyUsage, { critical: true, value: bitString(Buffer.of(2), 1) }],
          ]),
        },
      },
    },
  ],
  ["the signer's key to be the issuer's", /not that of the issuing/, { context: { signerSpki: spki } }],
  ["a key that is not its issuer's", /issuer's own key/, { fields: { spki: issuingIssuer.signer.publicKeySpki } }],
  ['a key of an accepted type', /curve P-521/, { fields: { spki: spkiOf('P-521') } }],
  ['a key that is strong enough', /1024 bits/, { fields: { spki: rsa(1024) } }],
  [
    'the extensions of the profile alone',
    /no extension 1\.2\.3/,
    { extensions: { other: extension('1.2.3', sequence()) } },
  ],
  ['no extension twice (RFC 5280 4.2)', /stands twice/, { extensions: { other: constraints() } }],
  ['basicConstraints', /2\.5\.29\.19 is missing/, { extensions: { constraints: absent } }],
  [
    'basicConstraints critical',
    /19 is not critical/,
    { extensions: { constraints: extension(oids.basicConstraints, sequence()) } },
  ],
  ['no CA bit on a leaf', /basicConstraints are wrong/, { extensions: { constraints: constraints(boolean(true)) } }],
  ['keyUsage', /15 is missing/, { extensions: { usage: absent } }],
  [
    'keyUsage critical',
    /15 is not critical/,
    { extensions: { usage: extension(oids.keyUsage, bitString(Buffer.of(0x80), 7)) } },
  ],
  ['digitalSignature on a leaf', /keyUsage is not digitalSignature/, { extensions: { usage: keyUsage(0x08, 3) } }],
  [
    'digitalSignature alone on a leaf',
    /keyUsage is not digitalSignature/,
    { extensions: { usage: keyUsage(0x84, 2) } },
  ],
  ['extendedKeyUsage', /37 is missing/, { extensions: { purposes: absent } }],
  ["the profile's extendedKeyUsage", /extendedKeyUsage/, { extensions: { purposes: purposes(oids.serverAuth) } }],
  [
    'no more extendedKeyUsage',
    /extendedKeyUsage/,
    { extensions: { purposes: purposes(oids.clientAuth, oids.serverAuth) } },
  ],
  ['all of extendedKeyUsage', /extendedKeyUsage/, { context: { profile: twoPurposes } }],
  ['extendedKeyUsage with a purpose', /cannot be read/, { extensions: { purposes: purposes() } }],
  ['subjectKeyIdentifier', /14 is missing/, { extensions: { subject: absent } }],
  [
    "its own key's subjectKeyIdentifier",
    /subjectKeyIdentifier is not/,
    { extensions: { subject: extension(oids.subjectKeyIdentifier, octetString(Buffer.alloc(20))) } },
  ],
  [
    'subjectKeyIdentifier not critical (RFC 5280 4.2.1.2)',
    /14 is critical/,
    { extensions: { subject: extension(oids.subjectKeyIdentifier, octetString(keyIdentifierOf(spki)), true) } },
  ],
  ['authorityKeyIdentifier', /35 is missing/, { extensions: { authority: absent } }],
  [
    "its issuer's authorityKeyIdentifier",
    /authorityKeyIdentifier is not/,
    { extensions: { authority: authority(Buffer.alloc(20)) } },
  ],
  [
    'an issuer with a subjectKeyIdentifier',
    /no subjectKeyIdentifier/,
    {
      context: {
        issuer: {
          ...issuing,
          extensions: new Map([...issuing.extensions].filter(([type]) => type !== oids.subjectKeyIdentifier)),
        },
      },
    },
  ],
  ['subjectAltName where names were asked for', /17 is missing/, { extensions: { names: absent } }],
  [
    'no subjectAltName that was not asked for',
    /no extension 2\.5\.29\.17/,
    { context: { hasAlternativeNames: false } },
  ],
  [
    'subjectAltName not critical beside a subject (RFC 5280 4.2.1.6)',
    /17 is critical/,
    { extensions: { names: extension(oids.subjectAltName, buildAlternativeNames({ dns: ['a'] }), true) } },
  ],
  ['a name in subjectAltName', /cannot be read/, { extensions: { names: extension(oids.subjectAltName, sequence()) } }],
  ['DNS names of host names', /no DNS name/, { extensions: { names: alternative({ dns: ['a_b.example'] }) } }],
  ['DNS names without empty labels', /no DNS name/, { extensions: { names: alternative({ dns: ['a..example'] }) } }],
  ['absolute URIs', /no absolute URI/, { extensions: { names: alternative({ uris: ['cam-1'] }) } }],
  [
    'a DNS name or IP address on a server',
    /without a DNS name/,
    { context: { profile: registrationProfile }, extensions: { purposes: purposes(oids.serverAuth, oids.cmcRA) } },
  ],
]

const caCases: Case[] = [
  [
    'an issuer that allows CAs below itself (RFC 5280 4.2.1.9)',
    /allows 0 CAs/,
    {
      fields: { issuer: issuing.subject.der },
      extensions: { authority: leaf().extensions.authority! },
      context: { issuer: issuing, signerSpki: issuingIssuer.signer.publicKeySpki },
    },
  ],
  ['a P-256 key for a CA', /P-384 key/, { fields: { spki: spkiOf('P-384') } }],
  ['the CA bit', /basicConstraints are wrong/, { extensions: { constraints: constraints() } }],
  [
    'the path length of the profile',
    /basicConstraints are wrong/,
    { extensions: { constraints: constraints(boolean(true)) } },
  ],
  ['keyCertSign and cRLSign', /keyCertSign and cRLSign/, { extensions: { usage: keyUsage(0x80, 7) } }],
  ['no extendedKeyUsage on a CA', /no extension 2\.5\.29\.37/, { extensions: { purposes: purposes(oids.clientAuth) } }],
  [
    'a trust anchor signed by its own key',
    /not that of the issuing/,
    { fields: { issuer: leaf().subject }, context: { issuer: 'self' } },
  ],
]

for (const [rule, words, change] of leafCases) {
  test(`lint asks a leaf for ${rule}`, () => {
    assert.throws(
      () => lint(leaf(), leafContext, change),
      (error) => isFleetError(error, 'lint_failed') && words.test(error.message),
    )
  })
}
for (const [rule, words, change] of caCases) {
  test(`lint asks a CA for ${rule}`, () => {
    assert.throws(
      () => lint(ca(), caContext, change),
      (error) => isFleetError(error, 'lint_failed') && words.test(error.message),
    )
  })
}

test('lint refuses bytes that cannot be read', () => {
  for (const bytes of [Buffer.of(), sequence(), Buffer.concat([encode(leaf()), Buffer.of(0)])]) {
    assert.throws(
      () => lintCertificate(bytes, leafContext),
      (error) => isFleetError(error, 'lint_failed'),
    )
  }
})
