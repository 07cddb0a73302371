import type { CertificateFacts } from './certificate.ts'
import {
  bitString,
  contextConstructed,
  contextPrimitive,
  element,
  elementHeader,
  enumerated,
  integer,
  lengthOf,
  oid,
  sequence,
  tags,
  time,
} from './der.ts'
import { writeExtension } from './extensions.ts'
import type { Signer } from './keystore.ts'
import { oids } from './oids.ts'
import { revocationReasonNames } from './revocation-list.ts'
import { distributionPointName, distributionPoints } from './status-pointers.ts'

export type ListEntry = {
  /** hex, two digits an octet */
  serial: string
  revokedAt: Date
  /** of RFC 5280 5.3.1; `removeFromCRL` in delta CRLs alone */
  reason: string
}

/** crlEntryExtensions, by the number of the reason. RFC 5280 5.3.1: left out instead of unspecified. */
const reasons = revocationReasonNames.map((_, code) =>
  code === 0 ? Buffer.of() : sequence(writeExtension(oids.reasonCode, enumerated(code))),
)

/** One of revokedCertificates (RFC 5280 5.1.2.6): the bytes that every list with it is signed over. */
export function encodeEntry({ serial, revokedAt, reason }: ListEntry): Buffer {
  const code = revocationReasonNames.indexOf(reason)
  if (code < 0) throw new RangeError(`${reason} is no reason of RFC 5280`)
  return sequence(integer(Buffer.from(serial, 'hex')), time(revokedAt), reasons[code]!)
}

export type ListIssuer = { certificate: CertificateFacts; signer: Signer }

/** A signed list in pieces: its entries are not copied out of the table that holds them. */
export type SignedList = {
  number: number
  thisUpdate: Date
  nextUpdate: Date
  parts: readonly Buffer[]
  bytes: number
}

const signatureAlgorithm = sequence(oid(oids.ecdsaWithSha256))

/**
 * Builds and signs a list (RFC 5280 5), over the entries as they are: nothing is encoded again, nothing copied.
 *
 * @param entries  encoded, any number in each piece
 * @param scope    URL of the distribution point whose certificates alone the list is about; without it, all of the issuer's
 * @param freshest URL of the delta CRL
 * @param base     makes a delta CRL: the number of the complete one that it adds to
 * @throws FleetError `key_unavailable`
 */
export async function signList(input: {
  issuer: ListIssuer
  number: number
  thisUpdate: Date
  nextUpdate: Date
  entries: readonly Buffer[]
  scope?: string | undefined
  freshest?: string
  base?: number
}): Promise<SignedList> {
  const { issuer, number, thisUpdate, nextUpdate, entries } = input
  const entryBytes = lengthOf(entries)
  const head = Buffer.concat([
    integer(1),
    signatureAlgorithm,
    issuer.certificate.subject.der,
    time(thisUpdate),
    time(nextUpdate),
    // RFC 5280 5.1.2.6: absent, not empty, when nothing is revoked.
    ...(entryBytes === 0 ? [] : [elementHeader(tags.sequence, entryBytes)]),
  ])
  const tail = element(contextConstructed(0), sequence(...extensions(input)))
  const tbs = [
    elementHeader(tags.sequence, head.length + entryBytes + tail.length),
    head,
    ...entries.filter(({ length }) => length > 0),
    tail,
  ]
  const signature = [signatureAlgorithm, bitString(await issuer.signer.signParts(tbs))]
  const content = [...tbs, ...signature]
  const parts = [elementHeader(tags.sequence, lengthOf(content)), ...content]
  return { number, thisUpdate, nextUpdate, parts, bytes: lengthOf(parts) }
}

function extensions({ issuer, number, scope, freshest, base }: Parameters<typeof signList>[0]): Buffer[] {
  const keyId = Buffer.from(issuer.certificate.subjectKeyId!, 'hex')
  const list = [
    writeExtension(oids.authorityKeyIdentifier, sequence(element(contextPrimitive(0), keyId))),
    writeExtension(oids.cRLNumber, integer(number)),
  ]
  // RFC 5280 5.2.4, 5.2.5: both critical, and a delta has the scope of its base.
  if (base !== undefined) list.push(writeExtension(oids.deltaCRLIndicator, integer(base), true))
  if (scope !== undefined)
    list.push(writeExtension(oids.issuingDistributionPoint, sequence(distributionPointName(scope)), true))
  if (freshest !== undefined) list.push(writeExtension(oids.freshestCRL, distributionPoints(freshest)))
  return list
}
