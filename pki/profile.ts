import { keyTypeOf } from './public-key.ts'
import type { KeyUsage } from './tbs-certificate.ts'

/** What a certificate will say, whatever its request asked for. */
export type CertificateProfile = {
  name: string
  /** lifetime in milliseconds */
  validityMs: number
  /** O of the subject; the subject has none when this is absent */
  organization?: string
  extendedKeyUsage: ('clientAuth' | 'serverAuth' | 'cmcRA' | 'OCSPSigning' | 'documentSigning')[]
  /** lets others encrypt keys for this one: keyAgreement for EC, keyEncipherment for RSA (RFC 5280 4.2.1.3) */
  receivesKeys?: boolean
  /** makes a CA certificate; `pathLength` is the number of CAs that may follow below (RFC 5280 4.2.1.9) */
  ca?: { pathLength: number }
}

const day = 86_400_000

export const rootProfile: CertificateProfile = {
  name: 'root',
  validityMs: 3_652 * day,
  extendedKeyUsage: [],
  ca: { pathLength: 1 },
}

export const issuingProfile: CertificateProfile = {
  name: 'issuing',
  validityMs: 1_826 * day,
  extendedKeyUsage: [],
  ca: { pathLength: 0 },
}

/** The EST service, which may also speak for the CA in CMC (RFC 7030 3.6.1, RFC 6402 2.10). */
export const registrationProfile: CertificateProfile = {
  name: 'registration',
  validityMs: 365 * day,
  extendedKeyUsage: ['serverAuth', 'cmcRA'],
}

/** A service that both listens and calls its neighbour: the broker towards devices and towards enroll. */
export const serverAndClientProfile: CertificateProfile = {
  name: 'server-and-client',
  validityMs: 365 * day,
  extendedKeyUsage: ['serverAuth', 'clientAuth'],
}

export const operatorProfile: CertificateProfile = {
  name: 'operator',
  validityMs: 365 * day,
  extendedKeyUsage: ['clientAuth'],
}

/** Answers for a CA about its certificates (RFC 6960 4.2.2.2), and for a week at most: it cannot be revoked. */
export const ocspProfile: CertificateProfile = {
  name: 'ocsp',
  validityMs: 7 * day,
  extendedKeyUsage: ['OCSPSigning'],
}

/** Signs what the audit log says of itself, and nothing else: no device has a certificate for that. */
export const auditorProfile: CertificateProfile = {
  name: 'auditor',
  validityMs: 365 * day,
  extendedKeyUsage: ['documentSigning'],
}

export const isOcspResponder = ({ extendedKeyUsage }: CertificateProfile): boolean =>
  extendedKeyUsage.includes('OCSPSigning')

/** RFC 5280 4.2.1.3: every key that we certify signs; none enciphers in TLS 1.2 with (EC)DHE or in TLS 1.3. */
export function keyUsagesOf({ ca, receivesKeys }: CertificateProfile, publicKeySpki: Uint8Array): KeyUsage[] {
  if (ca) return ['keyCertSign', 'cRLSign']
  const type = receivesKeys ? keyTypeOf(publicKeySpki) : undefined
  const forKeys: KeyUsage[] =
    type === 'RSA' ? ['keyEncipherment'] : type === 'P-256' || type === 'P-384' ? ['keyAgreement'] : []
  return ['digitalSignature', ...forKeys]
}
