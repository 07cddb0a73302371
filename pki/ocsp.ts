import { createHash } from 'node:crypto'
import { FleetError } from '../runtime/errors.ts'
import type { CertificateFacts } from './certificate.ts'
import {
  bitString,
  contextConstructed,
  contextPrimitive,
  DerError,
  DerReader,
  element,
  enumerated,
  generalizedTime,
  octetString,
  oid,
  readDer,
  sequence,
  tags,
} from './der.ts'
import { type Extension, readExtensions, writeExtension } from './extensions.ts'
import type { Signer } from './keystore.ts'
import { oids } from './oids.ts'
import { revocationReasonNames } from './revocation-list.ts'

/** Whose status is asked for (CertID, RFC 6960 4.1.1). `issuer` is one of `issuerIds`; `der` goes back as it came, a view of the request. */
export type CertificateId = { der: Buffer; issuer: string; serial: string }
/** `nonce` is the extension's value as it was sent, the OCTET STRING; a view of the request. */
export type OcspRequest = { ids: CertificateId[]; nonce: Buffer | undefined }

/** More than any request of one certificate, or of a chain, has. */
export const maxOcspRequestBytes = 4_096
const maxIds = 8

/**
 * Reads a request. A signature on it is not looked at: everybody may ask.
 *
 * @throws FleetError `request_malformed`
 */
export function parseOcspRequest(der: Uint8Array): OcspRequest {
  try {
    const request = readDer(der, maxOcspRequestBytes).enter()
    const tbs = request.enter()
    const version = tbs.enterOptional(contextConstructed(0))
    if (version !== undefined && version.smallInteger() !== 0) throw new DerError('a version other than v1')
    tbs.optional(contextConstructed(1))
    const list = tbs.enter()
    const ids: CertificateId[] = []
    while (!list.done) {
      if (ids.length === maxIds) throw new DerError(`more than ${maxIds} certificates`)
      const single = list.enter()
      ids.push(readId(single))
      readRequestExtensions(single.enterOptional(contextConstructed(0)))
      single.end()
    }
    if (ids.length === 0) throw new DerError('no certificate')
    const extensions = readRequestExtensions(tbs.enterOptional(contextConstructed(2)))
    tbs.end()
    request.optional(contextConstructed(0))
    request.end()
    return { ids, nonce: readNonce(extensions) }
  } catch (cause) {
    if (!(cause instanceof DerError)) throw cause
    throw new FleetError('request_malformed', `The OCSP request cannot be read: ${cause.message}`, { cause })
  }
}

function readId(single: DerReader): CertificateId {
  const { der, content } = single.next(tags.sequence)
  const id = new DerReader(content, 0, content.length)
  const algorithm = id.enter()
  algorithm.next(tags.oid)
  algorithm.optional(tags.null)
  algorithm.end()
  id.next(tags.octetString)
  id.next(tags.octetString)
  const number = id.next(tags.integer)
  id.end()
  const serial = number.content
  if (serial[0]! > 0x7f || serial.length > 21) throw new DerError('a serial number that no certificate has')
  const issuer = content.toString('latin1', 0, content.length - number.der.length)
  const text = serial.toString('hex', serial[0] === 0 && serial.length > 1 ? 1 : 0)
  return { der, issuer, serial: text }
}

function readRequestExtensions(wrapper: DerReader | undefined): ReadonlyMap<string, Extension> {
  if (wrapper === undefined) return new Map()
  const extensions = readExtensions(wrapper.enter())
  wrapper.end()
  // RFC 6960 4.4: what is not understood is passed over, unless it is critical.
  for (const [type, { critical }] of extensions) {
    if (critical && type !== oids.ocspNonce) throw new DerError(`a critical extension ${type}`)
  }
  return extensions
}

function readNonce(extensions: ReadonlyMap<string, Extension>): Buffer | undefined {
  const extension = extensions.get(oids.ocspNonce)
  if (extension === undefined) return undefined
  const nonce = readDer(extension.value, maxOcspRequestBytes).next(tags.octetString)
  // RFC 9654 2.1: others are to be refused as malformed.
  if (nonce.content.length < 1 || nonce.content.length > 128)
    throw new DerError(`a nonce of ${nonce.content.length} octets`)
  return nonce.der
}

/**
 * What stands in a CertID before the serial number, as latin1: the hashes of the issuer's name and of its key's bits, by SHA-1 and
 * by SHA-256, whose parameters are absent or NULL.
 */
export function issuerIds(issuer: CertificateFacts): string[] {
  const key = publicKeyBits(issuer)
  return (['sha1', 'sha256'] as const).flatMap((hash) => {
    const hashes = [issuer.subject.der, key].map((part) => octetString(createHash(hash).update(part).digest()))
    return [[], [element(tags.null)]].map((parameters) =>
      Buffer.concat([sequence(oid(oids[hash]), ...parameters), ...hashes]).toString('latin1'),
    )
  })
}

function publicKeyBits({ publicKeySpki }: CertificateFacts): Buffer {
  const spki = readDer(publicKeySpki, publicKeySpki.length).enter()
  spki.next(tags.sequence)
  return spki.bitString()
}

export type CertificateStatus =
  | { status: 'good' }
  /** of RFC 5280 5.3.1 */
  | { status: 'revoked'; revokedAt: Date; reason: string }
  | { status: 'unknown' }

/** Who signs answers: a certificate for nothing else, of the very CA that is asked about (RFC 6960 4.2.2.2). */
export type OcspSigner = { certificate: CertificateFacts; signer: Signer }

const signatureAlgorithm = sequence(oid(oids.ecdsaWithSha256))

/**
 * A signed answer (RFC 6960 4.2.1), to one or to several.
 *
 * @param nextUpdate until when it may be believed and kept
 * @throws FleetError `key_unavailable`
 */
export async function signOcspResponse(input: {
  by: OcspSigner
  answers: readonly { id: CertificateId; status: CertificateStatus }[]
  nonce: Buffer | undefined
  thisUpdate: Date
  nextUpdate: Date
}): Promise<Buffer> {
  const { by, answers, nonce, thisUpdate, nextUpdate } = input
  const { id, certificates } = partsOf(by.certificate)
  const update = generalizedTime(thisUpdate)
  const until = element(contextConstructed(0), generalizedTime(nextUpdate))
  const data = sequence(
    id,
    update,
    sequence(...answers.map(({ id, status }) => sequence(id.der, encodeStatus(status), update, until))),
    ...(nonce === undefined ? [] : [element(contextConstructed(1), sequence(writeExtension(oids.ocspNonce, nonce)))]),
  )
  const basic = sequence(data, signatureAlgorithm, bitString(await by.signer.sign(data)), certificates)
  return sequence(successful, element(contextConstructed(0), sequence(oid(oids.ocspBasic), octetString(basic))))
}

const successful = enumerated(0)

/** What is the same in all answers that one certificate vouches for. */
type SignerParts = { id: Buffer; certificates: Buffer }
const signerParts = new WeakMap<CertificateFacts, SignerParts>()

function partsOf(certificate: CertificateFacts): SignerParts {
  const known = signerParts.get(certificate)
  if (known !== undefined) return known
  // byKey: SHA-1 of the key's bits, whatever hash the request used (RFC 6960 4.2.1).
  const hash = createHash('sha1').update(publicKeyBits(certificate)).digest()
  const parts = {
    id: element(contextConstructed(2), octetString(hash)),
    certificates: element(contextConstructed(0), sequence(certificate.der)),
  }
  signerParts.set(certificate, parts)
  return parts
}

const good = element(contextPrimitive(0))
const unknown = element(contextPrimitive(2))

function encodeStatus(status: CertificateStatus): Buffer {
  if (status.status === 'good') return good
  if (status.status === 'unknown') return unknown
  const reason = revocationReasonNames.indexOf(status.reason)
  return element(
    contextConstructed(1),
    generalizedTime(status.revokedAt),
    // As in a list, unspecified is left out (RFC 5280 5.3.1).
    ...(reason > 0 ? [element(contextConstructed(0), enumerated(reason))] : []),
  )
}

const failures = { malformedRequest: 1, tryLater: 3, unauthorized: 6 } as const

/** An answer without a signature, which says nothing of any certificate (RFC 6960 2.3). */
export const ocspFailure = (failure: keyof typeof failures): Buffer => sequence(enumerated(failures[failure]))
