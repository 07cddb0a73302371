import { createHash } from 'node:crypto'
import type { CertificateFacts } from './certificate.ts'
import { contextConstructed, element, integer, octetString, oid, sequence, setOf, time } from './der.ts'
import type { Signer } from './keystore.ts'
import { oids } from './oids.ts'

/** A certificate with the use of its key. */
export type MessageSigner = { certificate: CertificateFacts; signer: Signer }

export type Content = { type: string; octets: Uint8Array }

/** ContentInfo (RFC 5652 3). */
export const contentInfo = (type: string, content: Uint8Array): Buffer =>
  sequence(oid(type), element(contextConstructed(0), content))

/** IssuerAndSerialNumber (RFC 5652 10.2.4). */
export const issuerAndSerial = ({ issuer, serial }: CertificateFacts): Buffer =>
  sequence(issuer.der, integer(Buffer.from(serial, 'hex')))

/**
 * SignedData (RFC 5652 5) around its content, without the ContentInfo.
 *
 * @param certificates DER of what a reader needs to follow the signature, and of what the message itself hands over
 */
export async function signData(input: {
  content: Content
  by: MessageSigner
  certificates: Uint8Array[]
  now: Date
}): Promise<Buffer> {
  const { content, by, certificates, now } = input
  const sha256 = sequence(oid(oids.sha256))
  const attribute = (type: string, value: Buffer): Buffer => sequence(oid(type), setOf(value))
  const signed = setOf(
    attribute(oids.contentType, oid(content.type)),
    attribute(oids.signingTime, time(now)),
    attribute(oids.messageDigest, octetString(createHash('sha256').update(content.octets).digest())),
  )
  const signerInfo = sequence(
    integer(1),
    issuerAndSerial(by.certificate),
    sha256,
    retagged(signed, contextConstructed(0)),
    sequence(oid(oids.ecdsaWithSha256)),
    // RFC 5652 5.4: what is signed is the SET OF, not the [0] that it is carried as.
    octetString(await by.signer.sign(signed)),
  )
  return sequence(
    integer(3), // RFC 5652 5.1: the content is not id-data
    setOf(sha256),
    sequence(oid(content.type), element(contextConstructed(0), octetString(content.octets))),
    element(contextConstructed(0), ...certificates),
    setOf(signerInfo),
  )
}

/** The same content under an IMPLICIT tag. */
function retagged(der: Buffer, tag: number): Buffer {
  const copy = Buffer.from(der)
  copy[0] = tag
  return copy
}
