import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { randomBytes, X509Certificate } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after as afterAll, test } from 'node:test'
import { rootCertificates } from 'node:tls'
import 'reflect-metadata'
import * as peculiar from '@peculiar/x509'
import fc from 'fast-check'
import * as pkijs from 'pkijs'
import {
  type CertificateFacts,
  issue,
  newSerialNumber,
  type PreparedCertificate,
  parseCertificate,
  parsePem,
  prepare,
  toPem,
} from '../../pki/certificate.ts'
import { bitString, element, integer, octetString, oid, readDer, sequence, tags, utf8String } from '../../pki/der.ts'
import type { Signer } from '../../pki/keystore.ts'
import { buildName, formatName } from '../../pki/names.ts'
import { oids } from '../../pki/oids.ts'
import { issuingProfile, operatorProfile, registrationProfile, serverAndClientProfile } from '../../pki/profile.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import { after, createSpki, day, issueWith, issuingIssuer, leafInput, now, rootIssuer } from './hierarchy.ts'

const root = rootIssuer.certificate
const issuing = issuingIssuer.certificate
const sensor = await issueWith(issuingIssuer)
const server = await issueWith(issuingIssuer, {
  profile: registrationProfile,
  subject: buildName({ commonName: 'enroll' }),
  subjectAltName: { dns: ['localhost', 'gate.example'], ips: ['127.0.0.1', '::1'] },
})
const broker = await issueWith(issuingIssuer, {
  profile: serverAndClientProfile,
  subject: buildName({ commonName: 'broker-1' }),
  subjectAltName: { dns: ['gate.example'] },
})
const operator = await issueWith(issuingIssuer, {
  profile: operatorProfile,
  subject: buildName({ commonName: 'admin' }),
  subjectAltName: {},
})
/** Each artefact beside its issuer. */
const artefacts: [string, CertificateFacts, CertificateFacts][] = [
  ['root', root, root],
  ['issuing CA', issuing, root],
  ['sensor', sensor, issuing],
  ['server', server, issuing],
  ['broker', broker, issuing],
  ['operator', operator, issuing],
]

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-pki-'))
afterAll(() => rmSync(folder, { recursive: true }))
const opensslMissing = ((): string | false => {
  try {
    execFileSync('openssl', ['version'])
    return false
  } catch {
    return 'openssl is not installed'
  }
})()

for (const [what, certificate, issuer] of artefacts) {
  test(`node verifies the ${what} certificate and its issuer`, () => {
    const [x509, above] = [new X509Certificate(certificate.der), new X509Certificate(issuer.der)]
    assert.ok(x509.checkIssued(above))
    assert.ok(x509.verify(above.publicKey))
    assert.equal(x509.ca, certificate.isCa)
    assert.equal(x509.serialNumber.toLowerCase(), certificate.serial)
    assert.equal(x509.fingerprint256.replaceAll(':', '').toLowerCase(), certificate.fingerprint)
    assert.equal(x509.validToDate.getTime(), certificate.notAfter.getTime())
  })

  test(`@peculiar/x509 reads and verifies the ${what} certificate`, async () => {
    const x509 = new peculiar.X509Certificate(certificate.der)
    assert.ok(await x509.verify({ publicKey: new peculiar.X509Certificate(issuer.der).publicKey, date: after(day) }))
    assert.equal(x509.serialNumber, certificate.serial)
    assert.equal(x509.subject.replaceAll(', ', ','), formatName(certificate.subject))
    assert.deepEqual(Buffer.from(x509.rawData), certificate.der)
    const keyIdentifier = x509.getExtension(peculiar.AuthorityKeyIdentifierExtension)
    assert.equal(keyIdentifier?.keyId, issuer.subjectKeyId)
    const constraints = x509.getExtension(peculiar.BasicConstraintsExtension)
    assert.deepEqual([constraints?.critical, constraints?.ca], [true, certificate.isCa])
  })

  test(`pkijs reads and verifies the ${what} certificate, and writes the same bytes`, async () => {
    const x509 = pkijs.Certificate.fromBER(Uint8Array.from(certificate.der))
    assert.ok(await x509.verify(pkijs.Certificate.fromBER(Uint8Array.from(issuer.der))))
    assert.deepEqual(Buffer.from(x509.toSchema(true).toBER()), certificate.der)
  })
}

test('pkijs builds the path from a sensor to the root', async () => {
  const read = (facts: CertificateFacts) => pkijs.Certificate.fromBER(Uint8Array.from(facts.der))
  const engine = new pkijs.CertificateChainValidationEngine({
    trustedCerts: [read(root)],
    certs: [read(issuing), read(sensor)],
    checkDate: after(day),
  })
  const { result, resultMessage } = await engine.verify()
  assert.ok(result, resultMessage)
})

test('openssl verifies every artefact strictly, each for its purpose', { skip: opensslMissing }, () => {
  const file = (name: string, facts: CertificateFacts): string => {
    const path = join(folder, name)
    writeFileSync(path, toPem(facts.der))
    return path
  }
  const [anchor, untrusted] = [file('root.pem', root), file('issuing.pem', issuing)]
  const verify = (purpose: string, facts: CertificateFacts): string => {
    const at = String(after(day).getTime() / 1000)
    const options = ['-x509_strict', '-check_ss_sig', '-policy_check', '-attime', at, '-purpose', purpose]
    return execFileSync(
      'openssl',
      ['verify', ...options, '-CAfile', anchor, '-untrusted', untrusted, file('leaf.pem', facts)],
      {
        encoding: 'utf8',
        stdio: 'pipe',
      },
    )
  }
  assert.match(verify('sslclient', sensor), /OK/)
  assert.match(verify('sslserver', server), /OK/)
  assert.match(verify('sslserver', broker), /OK/)
  assert.match(verify('sslclient', broker), /OK/)
  assert.match(verify('sslclient', operator), /OK/)
  assert.throws(() => verify('sslserver', sensor))
  assert.throws(() => verify('sslclient', server))

  const text = execFileSync('openssl', ['x509', '-noout', '-text', '-in', file('leaf.pem', server)], {
    encoding: 'utf8',
  })
  assert.match(text, /DNS:localhost, DNS:gate\.example, IP Address:127\.0\.0\.1, IP Address:0:0:0:0:0:0:0:1/)
  assert.match(text, /Basic Constraints: critical\s+CA:FALSE/)
  assert.match(text, /Key Usage: critical\s+Digital Signature\n/)
  assert.match(text, /Extended Key Usage: \s+TLS Web Server Authentication, CMC Registration Authority\n/)
})

test('facts are what was asked for', () => {
  assert.deepEqual(sensor.subjectAltName, { uris: ['urn:fleetgate:device:cam-1'], dns: [], ips: [] })
  assert.deepEqual(sensor.extendedKeyUsage, ['clientAuth'])
  assert.deepEqual(broker.extendedKeyUsage, ['serverAuth', 'clientAuth'])
  assert.deepEqual(server.subjectAltName.ips, ['127.0.0.1', '::1'])
  assert.equal(formatName(sensor.issuer), 'CN=Issuing')
  assert.deepEqual([root.isCa, issuing.isCa, sensor.isCa], [true, true, false])
  assert.equal(sensor.authorityKeyId, issuing.subjectKeyId)
  assert.equal(sensor.notBefore.getTime(), now.getTime())
  assert.equal(sensor.notAfter.getTime(), after(30 * day).getTime())
  assert.equal(operator.subjectAltNameDer, undefined)
})

test('an answer with a sensor certificate stays under the 1024 bytes that every EST client reads', () => {
  assert.ok(sensor.der.length < 640, `${sensor.der.length} bytes`)
})

test('both dates are cut to those of the issuer and to whole seconds', () => {
  const prepared = prepare(
    leafInput(issuingIssuer, {
      profile: { ...issuingProfile, ca: undefined!, extendedKeyUsage: ['clientAuth'] },
      notBefore: after(-1_000),
      notAfter: after(9_000 * day),
    }),
  )
  assert.equal(prepared.notBefore.getTime(), issuing.notBefore.getTime())
  assert.equal(prepared.notAfter.getTime(), issuing.notAfter.getTime())
  const odd = prepare(leafInput(issuingIssuer, { notBefore: after(1_999), notAfter: after(day + 999) }))
  assert.equal(odd.notBefore.getTime(), after(1_000).getTime())
  assert.equal(odd.notAfter.getTime(), after(day).getTime())
})

test('a prepared certificate is issued once only, also when signing failed', async () => {
  const prepared = prepare(leafInput(issuingIssuer))
  await issue(prepared)
  await assert.rejects(issue(prepared), (error) => isFleetError(error, 'internal'))

  const broken: Signer = {
    ...issuingIssuer.signer,
    sign: () => Promise.reject(new FleetError('key_unavailable', 'away')),
  }
  const second = prepare(leafInput({ certificate: issuing, signer: broken }))
  await assert.rejects(issue(second), (error) => isFleetError(error, 'key_unavailable'))
  await assert.rejects(issue(second), (error) => isFleetError(error, 'internal'))

  const third = prepare(leafInput(issuingIssuer))
  const outcomes = await Promise.allSettled([issue(third), issue(third)])
  assert.deepEqual(outcomes.map(({ status }) => status).toSorted(), ['fulfilled', 'rejected'])
})

test('a prepared certificate cannot be forged', async () => {
  const prepared = prepare(leafInput(issuingIssuer))
  for (const forged of [{ ...prepared }, Object.create(prepared), {}]) {
    await assert.rejects(issue(forged as PreparedCertificate), TypeError)
  }
})

test('prepare refuses names that cannot stand in a certificate as lint_failed', () => {
  const refused = (input: Parameters<typeof leafInput>[1]) =>
    assert.throws(
      () => prepare(leafInput(issuingIssuer, input)),
      (error) => isFleetError(error, 'lint_failed'),
    )
  refused({ subjectAltName: { ips: ['1.2.3'] } })
  refused({ subjectAltName: { uris: ['urn:a b'] } })
  refused({ subject: Buffer.from('3000', 'hex') })
  refused({ subject: Buffer.from('0500', 'hex') })
  refused({ publicKeySpki: Buffer.from('3000', 'hex') })
})

test('serial numbers have 16 octets, the first from 01 to 7f', () => {
  assert.equal(
    newSerialNumber(() => Buffer.alloc(16)),
    `01${'00'.repeat(15)}`,
  )
  assert.equal(
    newSerialNumber(() => Buffer.alloc(16, 0xff)),
    `02${'ff'.repeat(15)}`,
  )
  assert.throws(
    () => newSerialNumber(() => Buffer.alloc(8)),
    (error) => isFleetError(error, 'internal'),
  )
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 16, maxLength: 16 }), (bytes) => {
      assert.match(
        newSerialNumber(() => bytes),
        /^(0[1-9a-f]|[1-7][0-9a-f])[0-9a-f]{30}$/,
      )
    }),
  )
  assert.notEqual(newSerialNumber(randomBytes), newSerialNumber(randomBytes))
})

test('PEM has 64 columns and reads back, all blocks of the label and no other', () => {
  const pem = toPem(sensor.der)
  assert.ok(pem.split('\n').every((line) => line.length <= 64))
  assert.deepEqual(parsePem(pem, 'CERTIFICATE'), [sensor.der])
  const bundle = `# ours\n${toPem(root.der)}${toPem(issuing.der)}${toPem(sensor.der, 'X509 CRL')}`
  assert.deepEqual(parsePem(bundle, 'CERTIFICATE'), [root.der, issuing.der])
  assert.deepEqual(parsePem(bundle.replaceAll('\n', '\r\n'), 'X509 CRL'), [sensor.der])
  assert.deepEqual(parsePem('-----BEGIN CERTIFICATE-----\nAAAA', 'CERTIFICATE'), [])
})

test('a certificate of version 1, without extensions, can be read', () => {
  const algorithm = sequence(oid(oids.ecdsaWithSha256))
  const dates = sequence(...['260101000000Z', '270101000000Z'].map((text) => element(tags.utcTime, Buffer.from(text))))
  const name = buildName({ commonName: 'old' })
  const tbs = sequence(integer(1), algorithm, name, dates, name, createSpki())
  const facts = parseCertificate(sequence(tbs, algorithm, bitString(Buffer.of(0))))
  assert.deepEqual([facts.isCa, facts.extendedKeyUsage, facts.subjectKeyId], [false, [], undefined])
})

test('parseCertificate reads the public roots that Node ships as Node reads them, but for serial zero', () => {
  for (const pem of rootCertificates) {
    const x509 = new X509Certificate(pem)
    // RFC 5280 4.1.2.2 has serials positive; a few roots of 2004 to 2015 have none.
    if (/^0*$/.test(x509.serialNumber)) {
      assert.throws(
        () => parseCertificate(x509.raw),
        (error) => isFleetError(error, 'request_malformed'),
      )
      continue
    }
    const facts = parseCertificate(x509.raw)
    assert.deepEqual(
      [facts.notBefore, facts.notAfter, facts.isCa, facts.serial],
      [x509.validFromDate, x509.validToDate, x509.ca, x509.serialNumber.toLowerCase()],
      x509.subject,
    )
  }
})

/** The sensor certificate with one field of its TBS replaced; the signature is no longer right, which nobody asks here. */
function withField(field: number, value: Buffer): Buffer {
  const outer = readDer(sensor.der, 10_000).enter()
  const fields = outer.enter()
  const list: Buffer[] = []
  while (!fields.done) list.push(fields.next().der)
  list[field] = value
  return sequence(sequence(...list), outer.next().der, outer.next().der)
}
const serialField = 1
const algorithmField = 2
const extensionsField = 7
const extensionList = (...extensions: Buffer[]): Buffer => element(0xa3, sequence(...extensions))
const extension = (type: string, value: Buffer): Buffer => sequence(oid(type), octetString(value))

const broken: [string, Buffer][] = [
  ['a byte after its end', Buffer.concat([sensor.der, Buffer.of(0)])],
  ['its last byte missing', sensor.der.subarray(0, -1)],
  ['a negative serial', withField(serialField, element(tags.integer, Buffer.of(0x80)))],
  ['serial zero', withField(serialField, integer(0))],
  ['a serial of 21 octets', withField(serialField, integer(Buffer.alloc(21, 0x11)))],
  ['another algorithm inside than outside', withField(algorithmField, sequence(oid(oids.ed25519)))],
  ['version 4', withField(0, element(0xa0, integer(3)))],
  ['version 1 written out', withField(0, element(0xa0, integer(0)))],
  [
    'an extension twice',
    withField(
      extensionsField,
      extensionList(...Array(2).fill(extension(oids.subjectKeyIdentifier, octetString(Buffer.of(1))))),
    ),
  ],
  [
    'more than 64 extensions',
    withField(
      extensionsField,
      extensionList(...Array.from({ length: 65 }, (_, at) => extension(`1.2.3.${at}`, sequence()))),
    ),
  ],
  [
    'bytes after an extension value',
    withField(
      extensionsField,
      extensionList(extension(oids.subjectAltName, Buffer.concat([sequence(), Buffer.of(0)]))),
    ),
  ],
  [
    'an extendedKeyUsage without purpose',
    withField(extensionsField, extensionList(extension(oids.extendedKeyUsage, sequence()))),
  ],
  [
    'a keyUsage without bits',
    withField(extensionsField, extensionList(extension(oids.keyUsage, bitString(Buffer.alloc(0))))),
  ],
  [
    'a keyUsage of no use that has a name',
    withField(extensionsField, extensionList(extension(oids.keyUsage, bitString(Buffer.of(0, 0x40), 6)))),
  ],
  [
    'a subjectAltName with NUL',
    withField(
      extensionsField,
      extensionList(extension(oids.subjectAltName, sequence(element(0x82, Buffer.from('a\0b'))))),
    ),
  ],
  [
    'a subject key identifier that is no octets',
    withField(extensionsField, extensionList(extension(oids.subjectKeyIdentifier, utf8String('a')))),
  ],
  ['more than 64 kB', withField(extensionsField, extensionList(extension('1.2.3', Buffer.alloc(66_000))))],
]
for (const [what, der] of broken) {
  test(`parseCertificate refuses a certificate with ${what}`, () => {
    assert.throws(
      () => parseCertificate(der),
      (error) => isFleetError(error, 'request_malformed'),
    )
  })
}

test('parseCertificate on changed bytes throws a FleetError or gives facts, nothing else (property)', () => {
  const change = fc.record({ at: fc.nat(), value: fc.integer({ min: 0, max: 255 }) })
  fc.assert(
    fc.property(
      fc.constantFrom(sensor.der, server.der, root.der),
      fc.array(change, { maxLength: 4 }),
      (source, changes) => {
        const bytes = Buffer.from(source)
        for (const { at, value } of changes) bytes[at % bytes.length] = value
        try {
          const facts = parseCertificate(bytes)
          formatName(facts.subject)
          assert.equal(facts.fingerprint === parseCertificate(source).fingerprint, bytes.equals(source))
        } catch (error) {
          assert.ok(isFleetError(error, 'request_malformed'), String(error))
        }
      },
    ),
    { numRuns: 1_500 },
  )
})
