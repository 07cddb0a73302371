import assert from 'node:assert/strict'
import { createPublicKey, generateKeyPairSync, X509Certificate } from 'node:crypto'
import { test } from 'node:test'
import { parseCertificate, parsePem } from '../../pki/certificate.ts'
import { parseCsr, singleCommonName } from '../../pki/csr.ts'
import { element, oid, sequence, setOf, tags } from '../../pki/der.ts'
import { buildAlternativeNames, buildName, formatName } from '../../pki/names.ts'
import { oids } from '../../pki/oids.ts'
import { createCsr, createKeyAndCsr, createSelfSigned } from '../../pki/x509.ts'
import { isFleetError } from '../../runtime/errors.ts'
import { after, day, now } from './hierarchy.ts'

const spkiOf = (pem: string): Buffer => createPublicKey(pem).export({ format: 'der', type: 'spki' })

for (const [keyType, seen] of [
  [undefined, 'P-256'],
  ['P-256', 'P-256'],
  ['P-384', 'P-384'],
  ['Ed25519', 'Ed25519'],
  ['RSA-2048', 'RSA'],
] as const) {
  test(`a new ${keyType ?? 'default'} key comes with a request that the CA accepts`, async () => {
    const { privateKeyPem, csrDer } = await createKeyAndCsr({ commonName: 'cam-1', ...(keyType && { keyType }) })
    const request = parseCsr(csrDer)
    assert.equal(request.keyType, seen)
    assert.equal(singleCommonName(request), 'cam-1')
    assert.deepEqual(request.publicKeySpki, spkiOf(privateKeyPem))
  })
}

test('a re-enrollment request keeps key, subject and alternative names byte for byte', async () => {
  const { privateKeyPem } = await createKeyAndCsr({ commonName: 'cam-1' })
  const printable = element(tags.printableString, Buffer.from('cam-1'))
  const subject = sequence(setOf(sequence(oid(oids.commonName), printable)))
  const subjectAltName = buildAlternativeNames({ uris: ['urn:fleetgate:device:cam-1'] })
  for (const name of [
    subject,
    buildName({ commonName: 'cam-1', organization: 'Example', organizationalUnits: ['hall'] }),
  ]) {
    const request = parseCsr(await createCsr({ privateKeyPem, subject: name, subjectAltName }))
    assert.deepEqual(request.subject.der, name)
    assert.deepEqual(request.subjectAltName, subjectAltName)
    assert.deepEqual(request.publicKeySpki, spkiOf(privateKeyPem))
  }
  assert.equal(parseCsr(await createCsr({ privateKeyPem, commonName: 'cam-2' })).subjectAltName, undefined)
})

test('a key that the CA would refuse is refused before it is used', async () => {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-521' })
  const privateKeyPem = privateKey.export({ format: 'pem', type: 'pkcs8' }).toString()
  await assert.rejects(createCsr({ privateKeyPem, commonName: 'cam-1' }), (error) =>
    isFleetError(error, 'csr_key_unsupported'),
  )
})

test('a self-signed certificate is signed by its own key and says it is for clients', async () => {
  const { privateKeyPem, certificatePem } = await createSelfSigned({
    commonName: 'stranger',
    notBefore: now,
    notAfter: after(day),
  })
  const x509 = new X509Certificate(certificatePem)
  assert.ok(x509.verify(x509.publicKey))
  const facts = parseCertificate(parsePem(certificatePem, 'CERTIFICATE')[0]!)
  assert.deepEqual(facts.publicKeySpki, spkiOf(privateKeyPem))
  assert.equal(formatName(facts.subject), 'CN=stranger')
  assert.deepEqual([facts.extendedKeyUsage, facts.isCa], [['clientAuth'], false])
  assert.deepEqual([facts.notBefore, facts.notAfter], [now, after(day)])
})
