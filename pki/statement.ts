/** Texts that a service of ours has signed for whoever reads them later, without it. */
import { verify } from 'node:crypto'
import { FleetError } from '../runtime/errors.ts'
import { type CertificateFacts, parseCertificate } from './certificate.ts'
import { DerError } from './der.ts'
import { isIssuedBy } from './issued-by.ts'
import type { Signer } from './keystore.ts'
import { importPublicKey } from './public-key.ts'

/** `body` is signed byte for byte; signature and certificate (DER) are base64. */
export type Statement = { body: string; signature: string; certificate: string }

// A signature under one kind of statement is none under another, whatever their texts.
const signedText = (kind: string, body: string): Buffer => Buffer.from(`fleetgate ${kind} 1\n${body}`)

export async function signStatement(
  kind: string,
  body: string,
  { certificate, signer }: { certificate: CertificateFacts; signer: Signer },
): Promise<Statement> {
  const signature = await signer.sign(signedText(kind, body))
  return { body, signature: signature.toString('base64'), certificate: certificate.der.toString('base64') }
}

/**
 * Sees that a statement was signed with a key that one of the authorities has certified for signing documents (RFC 9336).
 *
 * @param at when it says that it was made: the certificate was good then
 * @throws FleetError `request_malformed` with what is wrong with it
 */
export function requireSigned(
  kind: string,
  { body, signature, certificate: der }: Statement,
  { authorities, at }: { authorities: readonly CertificateFacts[]; at: Date },
): void {
  const wrong = (what: string, cause?: unknown): FleetError => new FleetError('request_malformed', what, { cause })
  let certificate: CertificateFacts
  let isVouchedFor: boolean
  try {
    certificate = parseCertificate(Buffer.from(der, 'base64'))
    isVouchedFor = authorities.some((authority) => authority.isCa && isIssuedBy(certificate, authority))
  } catch (cause) {
    if (!(cause instanceof FleetError || cause instanceof DerError)) throw cause
    throw wrong('it has no certificate that can be read', cause)
  }
  if (!isVouchedFor) throw wrong('its key is not certified by an authority of this gateway')
  if (!certificate.extendedKeyUsage.includes('documentSigning')) throw wrong('its key is not one for the audit log')
  if (!(at >= certificate.notBefore && at <= certificate.notAfter)) {
    throw wrong('its certificate was not good at the time that it names')
  }
  const key = importPublicKey(certificate.publicKeySpki)
  if (!verify('sha256', signedText(kind, body), key, Buffer.from(signature, 'base64'))) {
    throw wrong('its signature does not fit its text')
  }
}
