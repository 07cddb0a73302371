import { createPublicKey, generateKeyPairSync, type KeyObject, randomBytes } from 'node:crypto'
import { issue, newSerialNumber, parseCertificate, prepare, toPem } from '../pki/certificate.ts'
import { signerOf } from '../pki/keystore.ts'
import { issuingProfile } from '../pki/profile.ts'
import { createSelfSigned } from '../pki/x509.ts'
import { certificateOf, type Identity } from './identity.ts'

/** Identities that a broker must not take, each as convincing as its maker can do without our keys. */

const day = 86_400_000

export async function selfSignedIdentity(id: string, now: Date): Promise<Identity> {
  const notAfter = new Date(now.getTime() + day)
  const { privateKeyPem, certificatePem } = await createSelfSigned({ commonName: id, notBefore: now, notAfter })
  return { privateKeyPem, certificatePem, chainPem: certificatePem }
}

/**
 * A certificate that says what `model` says, word for word, below a CA with the name of the true one and another key.
 *
 * @param model a true device certificate, PEM
 */
export async function foreignIdentity(model: string, now: Date): Promise<Identity> {
  const copied = certificateOf(model)
  const notAfter = new Date(now.getTime() + day)
  const authority = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey
  const device = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey
  const signer = signerOf(authority)
  const common = { notBefore: now, notAfter }
  const ca = await issue(
    prepare({
      ...common,
      profile: issuingProfile,
      issuer: { certificate: 'self', signer },
      serial: newSerialNumber(randomBytes),
      subject: copied.issuer.der,
      subjectAltName: {},
      publicKeySpki: signer.publicKeySpki,
    }),
  )
  const leaf = await issue(
    prepare({
      ...common,
      profile: { name: 'foreign', validityMs: day, extendedKeyUsage: ['clientAuth'] },
      issuer: { certificate: parseCertificate(ca.der), signer },
      serial: copied.serial,
      subject: copied.subject.der,
      subjectAltName: copied.subjectAltName,
      publicKeySpki: spkiOf(device),
    }),
  )
  return {
    privateKeyPem: device.export({ format: 'pem', type: 'pkcs8' }).toString(),
    certificatePem: leaf.pem,
    chainPem: leaf.pem + toPem(ca.der),
  }
}

const spkiOf = (key: KeyObject): Buffer => createPublicKey(key).export({ format: 'der', type: 'spki' })
