import { createHash } from 'node:crypto'
import type { CertificateFacts } from './certificate.ts'
import {
  contextConstructed,
  DerError,
  type DerReader,
  element,
  integer,
  octetString,
  oid,
  readDer,
  sequence,
  setOf,
  tags,
  time,
} from './der.ts'
import type { Signer } from './keystore.ts'
import { oids } from './oids.ts'
import { importPublicKey, keyTypeOf } from './public-key.ts'
import { signatureSchemes } from './signature-schemes.ts'
import { verifySignature } from './verify-signature.ts'

/** A certificate with the use of its key. `chain` is DER of it and of the CAs between it and the root, which go along. */
export type MessageSigner = { certificate: CertificateFacts; chain: Uint8Array[]; signer: Signer }

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
 * @param certificates DER of what the message hands over beside the signer's own chain
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
    element(contextConstructed(0), ...certificates, ...by.chain),
    setOf(signerInfo),
  )
}

/** The same content under an IMPLICIT tag. */
function retagged(der: Buffer, tag: number): Buffer {
  const copy = Buffer.from(der)
  copy[0] = tag
  return copy
}

/** One signature over one content, as it was sent: nothing of it is verified yet. */
export type SignedMessage = {
  content: { type: string; octets: Buffer }
  /** DER of the SignerIdentifier: IssuerAndSerialNumber, or `[0]` with a subjectKeyIdentifier */
  signerId: Buffer
  digestAlgorithm: string
  /** `der` is the SET OF; undefined where the content itself is signed */
  signedAttributes: { der: Buffer; type: string; messageDigest: Buffer } | undefined
  signatureAlgorithm: string
  signature: Buffer
}

/**
 * Reads a ContentInfo with SignedData (RFC 5652 3, 5) of one signer.
 *
 * @throws DerError also for no signer, more than one, or content that is not there
 */
export function readSignedData(der: Uint8Array, maxBytes: number): SignedMessage {
  const info = readDer(der, maxBytes).enter()
  if (info.oid() !== oids.signedData) throw new DerError('content other than SignedData')
  const signedData = readOnly(info, contextConstructed(0), (content) => content.enter())
  signedData.smallInteger()
  for (const algorithms = signedData.enter(tags.set); !algorithms.done; ) readAlgorithm(algorithms)
  const encapsulated = signedData.enter()
  const type = encapsulated.oid()
  const octets = readOnly(encapsulated, contextConstructed(0), (content) => content.octetString())
  signedData.optional(contextConstructed(0))
  signedData.optional(contextConstructed(1))
  const signers = signedData.enter(tags.set)
  signedData.end()
  const signer = signers.enter()
  signers.end()

  signer.smallInteger()
  const signerId = signer.next().der
  const digestAlgorithm = readAlgorithm(signer)
  const attributes = signer.optional(contextConstructed(0))?.der
  const signatureAlgorithm = readAlgorithm(signer)
  const signature = signer.octetString()
  signer.optional(contextConstructed(1))
  signer.end()
  const signedAttributes = attributes && readSignedAttributes(retagged(attributes, tags.set))
  return { content: { type, octets }, signerId, digestAlgorithm, signedAttributes, signatureAlgorithm, signature }
}

/** The one value inside the last element of `outer`. */
function readOnly<T>(outer: DerReader, tag: number, read: (inner: DerReader) => T): T {
  const inner = outer.enter(tag)
  outer.end()
  const value = read(inner)
  inner.end()
  return value
}

/** RFC 5754 2, 3: parameters are absent or NULL in every algorithm that is accepted. */
function readAlgorithm(list: DerReader): string {
  const algorithm = list.enter()
  const type = algorithm.oid()
  algorithm.optional(tags.null)
  algorithm.end()
  return type
}

const digests = new Map<string, string>([
  [oids.sha256, 'sha256'],
  [oids.sha384, 'sha384'],
  [oids.sha512, 'sha512'],
])

/** @returns whether this key signed this content; false also for algorithms that are not accepted */
export async function isSignedBy(message: SignedMessage, publicKeySpki: Buffer): Promise<boolean> {
  const { content, signedAttributes, signature } = message
  const digest = digests.get(message.digestAlgorithm)
  const keyType = keyTypeOf(publicKeySpki)
  // RFC 3370 3.2: rsaEncryption takes its hash from the digest algorithm.
  const isPlainRsa = message.signatureAlgorithm === oids.rsaEncryption
  const scheme = signatureSchemes.get(message.signatureAlgorithm)
  const fits = isPlainRsa ? keyType === 'RSA' : scheme?.keys.includes(keyType)
  if (digest === undefined || !fits) return false
  const hash = isPlainRsa ? digest : scheme!.hash
  const key = importPublicKey(publicKeySpki)
  // RFC 5652 5.3: without attributes only id-data may be signed.
  if (signedAttributes === undefined) {
    return content.type === oids.data && verifySignature([hash, content.octets, key, signature], keyType)
  }
  const wanted = createHash(digest).update(content.octets).digest()
  const { der, type, messageDigest } = signedAttributes
  if (type !== content.type || !messageDigest.equals(wanted)) return false
  return verifySignature([hash, der, key, signature], keyType)
}

/** RFC 5652 11.1, 11.2: both stand once and have one value. */
function readSignedAttributes(der: Buffer): NonNullable<SignedMessage['signedAttributes']> {
  const list = readDer(der, der.length).enter(tags.set)
  const values = new Map<string, DerReader>()
  while (!list.done) {
    const attribute = list.enter()
    const type = attribute.oid()
    if (values.has(type)) throw new DerError(`signed attribute ${type} stands twice`)
    values.set(type, attribute.enter(tags.set))
    attribute.end()
  }
  const only = <T>(name: string, read: (reader: DerReader) => T): T | undefined => {
    const reader = values.get(name)
    const value = reader && read(reader)
    reader?.end()
    return value
  }
  const type = only(oids.contentType, (reader) => reader.oid())
  const messageDigest = only(oids.messageDigest, (reader) => reader.octetString())
  if (type === undefined || messageDigest === undefined) throw new DerError('signed attributes without type or digest')
  return { der, type, messageDigest }
}
