import { verify } from 'node:crypto'
import { FleetError } from '../runtime/errors.ts'
import { type CertificateFacts, parseCertificate } from './certificate.ts'
import { DerError, readDer, tags } from './der.ts'
import { namesEqual } from './names.ts'
import { importPublicKey, keyTypeOf } from './public-key.ts'
import { signatureSchemes } from './signature-schemes.ts'
import { maxCertificateBytes } from './tbs-certificate.ts'

/** Whether this authority issued the certificate, with a signature that we accept. Dates and uses are not looked at. */
export function isIssuedBy(certificate: CertificateFacts, authority: CertificateFacts): boolean {
  if (!namesEqual(certificate.issuer, authority.subject)) return false
  const reader = readDer(certificate.der, maxCertificateBytes).enter()
  const tbs = reader.next(tags.sequence).der
  const scheme = signatureSchemes.get(reader.enter().oid())
  const signature = reader.bitString()
  if (!scheme?.keys.includes(keyTypeOf(authority.publicKeySpki))) return false
  return verify(scheme.hash, tbs, importPublicKey(authority.publicKeySpki), signature)
}

/**
 * A certificate that may vouch for others.
 *
 * @throws FleetError `request_malformed`, `csr_key_unsupported`, `csr_key_too_weak`, `csr_malformed` (its key)
 */
export function parseAuthority(der: Uint8Array): CertificateFacts {
  const authority = parseCertificate(der)
  const { isCa, keyUsage } = authority
  if (!isCa || (keyUsage.length > 0 && !keyUsage.includes('keyCertSign'))) {
    throw new FleetError('request_malformed', 'The certificate is not one of an authority')
  }
  try {
    keyTypeOf(authority.publicKeySpki)
    importPublicKey(authority.publicKeySpki)
  } catch (cause) {
    if (!(cause instanceof DerError)) throw cause
    throw new FleetError('request_malformed', 'The key of the authority cannot be read', { cause })
  }
  return authority
}
