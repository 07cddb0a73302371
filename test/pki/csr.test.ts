import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { test } from 'node:test'
import fc from 'fast-check'
import { type CertificateRequest, parseCsr, singleCommonName, verifyCsr } from '../../pki/csr.ts'
import { parseAlternativeNames } from '../../pki/names.ts'
import { importPublicKey } from '../../pki/public-key.ts'
import { createKeyAndCsr } from '../../pki/x509.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import { withOneMore } from '../harness/der-variants.ts'

type Vector = {
  code: string | null
  refusedBy: 'parseCsr' | 'singleCommonName'
  note: string
  origin: string
  der: string
}

const folder = new URL('../vectors/csr/', import.meta.url)
const vectors = readdirSync(folder).map((file): [string, Vector] => [
  file.replace('.json', ''),
  JSON.parse(readFileSync(new URL(file, folder), 'utf8')),
])
const bytesOf = (name: string): Buffer => Buffer.from(vectors.find(([found]) => found === name)![1].der, 'base64')

function codeOf(action: () => unknown): string {
  try {
    action()
  } catch (error) {
    assert(error instanceof FleetError, `not a FleetError: ${error}`)
    assert.match(error.message, /[A-Za-z]/)
    return error.code
  }
  return 'accepted'
}

for (const [name, { code, refusedBy, note, der }] of vectors) {
  const bytes = Buffer.from(der, 'base64')
  if (code === null) {
    test(`parseCsr accepts ${name}: ${note}`, () => assert.equal(singleCommonName(parseCsr(bytes)), 'cam-1'))
  } else if (refusedBy === 'parseCsr') {
    test(`parseCsr refuses ${name} as ${code}: ${note}`, () =>
      assert.equal(
        codeOf(() => parseCsr(bytes)),
        code,
      ))
  } else {
    test(`singleCommonName refuses ${name} as ${code}: ${note}`, () => {
      const request = parseCsr(bytes)
      assert.equal(
        codeOf(() => singleCommonName(request)),
        code,
      )
    })
  }
}

test('verifyCsr says the same of every request, here and on a thread', async () => {
  const said = (run: () => CertificateRequest | Promise<CertificateRequest>) =>
    Promise.resolve()
      .then(run)
      .then(
        ({ der, ...request }) => request,
        ({ code, message }: FleetError) => ({ code, message }),
      )
  for (const [, { der }] of vectors) {
    const bytes = Buffer.from(der, 'base64')
    const wanted = await said(() => parseCsr(bytes))
    for (const onThread of [false, true]) assert.deepEqual(await said(() => verifyCsr(bytes, { onThread })), wanted)
  }
})

test('parseCsr verifies with a key that is known already where it is the one of the request, and with no other', async () => {
  const [one, other] = [await createKeyAndCsr({ commonName: 'cam-1' }), await createKeyAndCsr({ commonName: 'cam-1' })]
  const [{ publicKeySpki: spki, spkiHash }, { publicKeySpki: otherSpki }] = [
    parseCsr(one.csrDer),
    parseCsr(other.csrDer),
  ]
  let asked = 0
  const key = () => {
    asked++
    return importPublicKey(spki)
  }
  assert.deepEqual(parseCsr(one.csrDer, { spki, spkiHash, key }), parseCsr(one.csrDer))
  assert.equal(asked, 1)
  const forged = Buffer.from(one.csrDer)
  forged[forged.length - 1]! ^= 1
  assert.equal(
    codeOf(() => parseCsr(forged, { spki, spkiHash, key })),
    'csr_signature_invalid',
  )
  assert.deepEqual(parseCsr(other.csrDer, { spki, spkiHash, key }).publicKeySpki, otherSpki)
  assert.equal(asked, 2)
})

test('parseCsr gives the key type, the requested names and whether there is a challengePassword', () => {
  const request: CertificateRequest = parseCsr(bytesOf('accepted-strongswan'))
  assert.equal(request.keyType, 'P-256')
  assert.equal(request.challengePassword, 'secret')
  assert.deepEqual(parseAlternativeNames(request.subjectAltName!).dns, ['cam-1.example'])
  assert.match(request.spkiHash, /^[0-9a-f]{64}$/)

  const plain = parseCsr(bytesOf('accepted-openssl-p256'))
  assert.deepEqual([plain.challengePassword, plain.subjectAltName], [undefined, undefined])
  assert.equal(parseCsr(bytesOf('accepted-rsa-2048')).keyType, 'RSA')
  assert.equal(parseCsr(bytesOf('accepted-ed25519')).keyType, 'Ed25519')
})

test('a refusal says what was seen and what is wanted', () => {
  const expectations: [string, RegExp][] = [
    ['rsa-1024', /RSA key has 1024 bits; 2048 to 4096 are wanted/],
    ['p-521', /curve P-521; P-256, P-384, Ed25519 or RSA/],
    ['explicit-parameters', /explicit EC parameters/],
    ['rsa-exponent-3', /exponent 3; 65537 is wanted/],
    ['ecdsa-sha1', /ECDSA with SHA-1; .*SHA-256/],
    ['trailing-byte', /1 bytes after the end/],
  ]
  for (const [name, message] of expectations) assert.throws(() => parseCsr(bytesOf(name)), { message })
  const names: [string, RegExp][] = [
    ['common-name-t61', / has a T61String as its common name; .* wanted, a UTF8String or PrintableString$/],
    ['common-name-bmp', / a BMPString /],
    ['common-name-universal', / a UniversalString /],
    ['common-name-ia5', / an IA5String /],
    ['common-name-not-utf8', / a UTF8String that is not UTF-8 /],
    ['common-name-not-printable', / a PrintableString with a character that has no place in one /],
    ['common-name-sequence', / no string /],
  ]
  for (const [name, message] of names) assert.throws(() => singleCommonName(parseCsr(bytesOf(name))), { message })
})

test('parseCsr keeps its own copy of the bytes', () => {
  const bytes = bytesOf('accepted-p256')
  const request = parseCsr(bytes)
  bytes.fill(0)
  assert.equal(parseCsr(request.der).spkiHash, request.spkiHash)
  assert.equal(singleCommonName(request), 'cam-1')
})

test('every cut of a request is refused as csr_malformed', () => {
  const bytes = bytesOf('accepted-attributes')
  for (let length = 0; length < bytes.length; length++) {
    assert.equal(
      codeOf(() => parseCsr(bytes.subarray(0, length))),
      'csr_malformed',
      `${length} bytes`,
    )
  }
})

test('a value more at the end of any level of a request is refused before its signature is looked at', () => {
  for (const name of ['accepted-attributes', 'accepted-rsa-2048', 'accepted-strongswan']) {
    const variants = [...withOneMore(bytesOf(name))]
    assert.ok(variants.length > 8, `${variants.length} levels`)
    for (const der of variants) {
      assert.equal(
        codeOf(() => parseCsr(der)),
        'csr_malformed',
        der.toString('hex'),
      )
    }
  }
})

test('changed bytes are refused with a FleetError and nothing else (property)', () => {
  const sources = vectors.filter(([, { code }]) => code === null).map(([, { der }]) => Buffer.from(der, 'base64'))
  const change = fc.record({ at: fc.nat(), value: fc.integer({ min: 0, max: 255 }) })
  fc.assert(
    fc.property(fc.constantFrom(...sources), fc.array(change, { minLength: 1, maxLength: 4 }), (source, changes) => {
      const bytes = Buffer.from(source)
      for (const { at, value } of changes) bytes[at % bytes.length] = value
      if (bytes.equals(source)) return
      assert.throws(
        () => singleCommonName(parseCsr(bytes)),
        (error) => isFleetError(error),
      )
    }),
    { numRuns: 1_500 },
  )
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
      assert.throws(
        () => parseCsr(bytes),
        (error) => isFleetError(error, 'csr_malformed'),
      )
    }),
    { numRuns: 500 },
  )
})
