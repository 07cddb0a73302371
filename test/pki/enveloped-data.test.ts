import assert from 'node:assert/strict'
import { generateKeyPairSync } from 'node:crypto'
import { test } from 'node:test'
import { type CertificateFacts, parseCertificate } from '../../pki/certificate.ts'
import { envelop, planEncryption } from '../../pki/enveloped-data.ts'
import { oids } from '../../pki/oids.ts'
import { contentInfo } from '../../pki/signed-data.ts'
import { isFleetError } from '../../runtime/errors.ts'
import { openEnvelope } from '../harness/envelope.ts'
import { issueWith, issuingIssuer } from './hierarchy.ts'

const makers = {
  'P-256': () => generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  'P-384': () => generateKeyPairSync('ec', { namedCurve: 'P-384' }),
  RSA: () => generateKeyPairSync('rsa', { modulusLength: 2048 }),
  Ed25519: () => generateKeyPairSync('ed25519'),
}

async function recipientOf(
  type: keyof typeof makers,
  receivesKeys = true,
): Promise<{ certificate: CertificateFacts; privateKeyPem: string }> {
  const { publicKey, privateKey } = makers[type]()
  const { der } = await issueWith(issuingIssuer, {
    publicKeySpki: publicKey.export({ format: 'der', type: 'spki' }),
    profile: { name: 'camera', validityMs: 86_400_000, extendedKeyUsage: ['clientAuth'], receivesKeys },
  })
  return {
    certificate: parseCertificate(der),
    privateKeyPem: privateKey.export({ format: 'pem', type: 'pkcs8' }).toString(),
  }
}

const secret = Buffer.from('what nobody else may read')

for (const type of ['P-256', 'P-384', 'RSA'] as const) {
  test(`pkijs opens what was encrypted for a ${type} key, with each content encryption`, async () => {
    const { certificate, privateKeyPem } = await recipientOf(type)
    for (const capabilities of [[], [oids.aes128Cbc], [oids.aes192Cbc, oids.aes256Cbc]]) {
      const plan = planEncryption(certificate, capabilities)
      const der = contentInfo(oids.envelopedData, envelop({ type: oids.data, octets: secret }, plan))
      assert.equal(der.includes(secret), false)
      assert.deepEqual(await openEnvelope(der, privateKeyPem), secret)
    }
  })
}

test('the first content encryption that the client lists and that is offered is used', async () => {
  const { certificate } = await recipientOf('P-256')
  const tripleDes = '1.2.840.113549.3.7'
  const chosen = (...capabilities: string[]): string => planEncryption(certificate, capabilities).cipher.name
  assert.equal(chosen(), 'aes-256-cbc')
  assert.equal(chosen(oids.ecdhSha256Kdf), 'aes-256-cbc')
  assert.equal(chosen(tripleDes, oids.aes128Cbc, oids.aes256Cbc), 'aes-128-cbc')
})

test('a key that cannot decrypt, a certificate that does not allow it and algorithms that are not offered are refused', async () => {
  const refuses = (certificate: CertificateFacts, capabilities: string[], why: RegExp): void =>
    assert.throws(
      () => planEncryption(certificate, capabilities),
      (error) => isFleetError(error, 'key_encryption_unavailable') && why.test(error.message),
    )
  refuses((await recipientOf('Ed25519')).certificate, [], /Ed25519/)
  refuses((await recipientOf('P-256', false)).certificate, [], /does not allow keyAgreement/)
  refuses((await recipientOf('RSA', false)).certificate, [], /does not allow keyEncipherment/)
  refuses((await recipientOf('P-256')).certificate, ['1.2.840.113549.3.7'], /no content encryption/)
  refuses(
    (await recipientOf('RSA')).certificate,
    [oids.rsaEncryption, oids.aes256Cbc],
    /1.2.840.113549.1.1.7 is offered/,
  )
})
