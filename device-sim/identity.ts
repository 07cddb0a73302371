import { parseCertificate, parsePem } from '../pki/certificate.ts'
import { keyTypeOf } from '../pki/public-key.ts'
import { createCsr, generateKeyPem } from '../pki/x509.ts'
import type { EstClient, MakeCsr } from './est-client.ts'

/** What a device proves itself with; `chainPem` is what it shows: its certificate, then the issuing CA's. */
export type Identity = { privateKeyPem: string; certificatePem: string; chainPem: string }

/** A first certificate for a new key. */
export async function enrollIdentity(est: EstClient, id: string, token: string): Promise<Identity> {
  const privateKeyPem = generateKeyPem('P-256')
  const csr: MakeCsr = (challengePassword) => createCsr({ commonName: id, privateKeyPem, challengePassword })
  return identityOf(est, privateKeyPem, await est.simpleenroll({ id, token, csr }))
}

/** Of the type of the one that there is: a profile need not take another. */
export function nextKeyFor({ certificatePem }: Identity): string {
  const type = keyTypeOf(certificateOf(certificatePem).publicKeySpki)
  return generateKeyPem(type === 'RSA' ? 'RSA-2048' : type)
}

/** A certificate for a new key in place of the one that there is (rekey, RFC 7030 4.2.2). */
export async function renewIdentity(
  est: EstClient,
  current: Identity,
  privateKeyPem = nextKeyFor(current),
): Promise<Identity> {
  const { subject, subjectAltNameDer: subjectAltName } = certificateOf(current.certificatePem)
  // RFC 7030 4.2.2: subject and SubjectAltName are those of the current certificate, byte for byte.
  const csr: MakeCsr = (challengePassword) =>
    createCsr({ subject: subject.der, subjectAltName, privateKeyPem, challengePassword })
  return identityOf(est, privateKeyPem, await est.simplereenroll({ ...current, csr }))
}

export const identityOf = (est: EstClient, privateKeyPem: string, certificatePem: string): Identity => ({
  privateKeyPem,
  certificatePem,
  chainPem: certificatePem + est.trust.intermediatesPem,
})

export const certificateOf = (pem: string): ReturnType<typeof parseCertificate> =>
  parseCertificate(parsePem(pem, 'CERTIFICATE')[0]!)
