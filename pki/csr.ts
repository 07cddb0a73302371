import { type KeyObject, verify } from 'node:crypto'
import { FleetError } from '../runtime/errors.ts'
import { contextConstructed, DerError, type DerReader, readDer, tags } from './der.ts'
import { readExtensions } from './extensions.ts'
import { type DistinguishedName, decodeValue, parseName } from './names.ts'
import { oids } from './oids.ts'
import { importPublicKey, type KeyType, keyTypeOf, spkiHashOf } from './public-key.ts'
import { signatureSchemes } from './signature-schemes.ts'
import { type SignatureProof, verifySignature } from './verify-signature.ts'

/** What is asked for, and for which key. */
export type RequestedCertificate = {
  subject: DistinguishedName
  publicKeySpki: Buffer
  /** SHA-256 of `publicKeySpki`, lower-case hex */
  spkiHash: string
  keyType: KeyType
  /** the requested subjectAltName's GeneralNames, as they stand */
  subjectAltName: Buffer | undefined
  /** the value as text, or `#` and hex where it is no well-formed string; undefined without the attribute */
  challengePassword: string | undefined
}

/** A PKCS#10 request whose signature has been checked: whoever made it holds the private key. */
export type CertificateRequest = RequestedCertificate & { der: Buffer }

// An RSA-4096 request with a full set of extensions is under 3 kB.
const maxCsrBytes = 16_384
const maxAttributes = 32

/** A key as OpenSSL has read it already: reading one takes a third of what verifying with it does. */
export type KnownKey = { spki: Buffer; spkiHash: string; key: () => KeyObject }

/**
 * Reads a certificate request (RFC 2986 4) and checks its proof of possession.
 *
 * @param known a key that may be the one of the request
 * @throws FleetError `csr_malformed`, `csr_signature_invalid`, `csr_key_unsupported`, `csr_key_too_weak`
 */
export function parseCsr(der: Uint8Array, known?: KnownKey): CertificateRequest {
  const { request, proof } = orMalformed(() => readRequest(Buffer.from(der), known))
  requirePossession(verify(...proof))
  return request
}

/**
 * The same, with the signature checked on a thread where that is worth it.
 *
 * @throws as `parseCsr`
 */
export async function verifyCsr(
  der: Uint8Array,
  { known, onThread }: { known?: KnownKey; onThread?: boolean } = {},
): Promise<CertificateRequest> {
  const { request, proof } = orMalformed(() => readRequest(Buffer.from(der), known))
  requirePossession(await verifySignature(proof, request.keyType, onThread))
  return request
}

function orMalformed<T>(read: () => T): T {
  try {
    return read()
  } catch (cause) {
    if (!(cause instanceof DerError)) throw cause
    throw new FleetError('csr_malformed', `The certificate request is not DER as RFC 2986 asks: ${cause.message}`, {
      cause,
    })
  }
}

/** `proof` is still to be verified. */
function readRequest(der: Buffer, known: KnownKey | undefined): { request: CertificateRequest; proof: SignatureProof } {
  const { info, algorithm, signature, subject, publicKeySpki, attributes } = readParts(der)
  const keyType = keyTypeOf(publicKeySpki)
  const hash = readScheme(algorithm, keyType)
  const isKnown = known?.spki.equals(publicKeySpki) === true
  const key = isKnown ? known.key() : importPublicKey(publicKeySpki)
  const { subjectAltName, challengePassword } = attributes
  const request = {
    der,
    subject,
    publicKeySpki,
    spkiHash: isKnown ? known.spkiHash : spkiHashOf(publicKeySpki),
    keyType,
    subjectAltName,
    challengePassword,
  }
  return { request, proof: [hash, info, key, signature] }
}

/** A request for a key too: its own key and signature say nothing (RFC 7030 4.4.1). */
export type KeyGenerationRequest = Pick<RequestedCertificate, 'subject' | 'subjectAltName' | 'challengePassword'> & {
  /** of the key that the request carries, which is taken as a wish; undefined when it is none that we certify */
  keyType: KeyType | undefined
  /** what the new key is to be encrypted for; undefined when nothing was asked for */
  encryption: KeyEncryption | undefined
}
export type KeyEncryption = {
  /** `symmetric`: a secret that both know, by name (RFC 7030 4.4.1.1); `asymmetric`: a key of the client (4.4.1.2) */
  kind: 'symmetric' | 'asymmetric'
  keyId: Buffer
  /** dotted OIDs of SMIMECapabilities in the client's order, empty without the attribute */
  capabilities: string[]
}

/**
 * Reads what is asked of server-side key generation (RFC 7030 4.4.1). The signature is not looked at.
 *
 * @throws FleetError `csr_malformed`
 */
export function parseKeyGenerationRequest(der: Uint8Array): KeyGenerationRequest {
  return orMalformed(() => {
    const { subject, publicKeySpki, attributes } = readParts(Buffer.from(der))
    return { ...attributes, subject, keyType: findKeyType(publicKeySpki) }
  })
}

function findKeyType(spki: Buffer): KeyType | undefined {
  try {
    return keyTypeOf(spki)
  } catch (error) {
    if (error instanceof FleetError || error instanceof DerError) return undefined
    throw error
  }
}

function readParts(der: Buffer) {
  const request = readDer(der, maxCsrBytes).enter()
  const info = request.next(tags.sequence).der
  const algorithm = request.enter()
  const signature = request.bitString()
  request.end()

  const reader = readDer(info, maxCsrBytes).enter()
  if (reader.smallInteger() !== 0) throw new DerError('a version other than v1')
  const subject = parseName(reader.next(tags.sequence).der)
  const publicKeySpki = reader.next(tags.sequence).der
  const attributes = readAttributes(reader.enter(contextConstructed(0)))
  reader.end()
  return { info, algorithm, signature, subject, publicKeySpki, attributes }
}

type RequestAttributes = Pick<KeyGenerationRequest, 'subjectAltName' | 'challengePassword' | 'encryption'>

function readAttributes(list: DerReader): RequestAttributes {
  const attributes = new Map<string, DerReader>()
  while (!list.done) {
    if (attributes.size === maxAttributes) throw new DerError(`more than ${maxAttributes} attributes`)
    const attribute = list.enter()
    const type = attribute.oid()
    const values = attribute.enter(tags.set)
    attribute.end()
    if (attributes.has(type)) throw new DerError(`attribute ${type} stands twice`)
    attributes.set(type, values)
  }
  // RFC 2985 5.4.1, 5.4.2, RFC 8551 2.5.2, RFC 7030 4.4.1: each is single-valued.
  const read = <T>(type: string, value: (reader: DerReader) => T): T | undefined => {
    const values = attributes.get(type)
    if (values === undefined) return undefined
    const found = value(values)
    values.end()
    return found
  }
  const asymmetric = read(oids.asymmetricDecryptKeyId, (value) => value.octetString())
  const symmetric = read(oids.decryptKeyId, (value) => value.octetString())
  const capabilities = read(oids.smimeCapabilities, (value) => readCapabilities(value.enter())) ?? []
  const keyId = asymmetric ?? symmetric
  return {
    subjectAltName: read(oids.extensionRequest, (value) => readExtensions(value.enter()))?.get(oids.subjectAltName)
      ?.value,
    challengePassword: read(oids.challengePassword, (value) => decodeValue(value.next()).value),
    encryption: keyId && { kind: asymmetric ? 'asymmetric' : 'symmetric', keyId, capabilities },
  }
}

function readCapabilities(list: DerReader): string[] {
  const capabilities: string[] = []
  while (!list.done) capabilities.push(list.enter().oid())
  return capabilities
}

/** Names for signatures that are refused. */
const otherSignatures = new Map([
  ['1.2.840.10045.4.1', 'ECDSA with SHA-1'],
  ['1.2.840.113549.1.1.4', 'RSA with MD5'],
  ['1.2.840.113549.1.1.5', 'RSA with SHA-1'],
  ['1.2.840.113549.1.1.10', 'RSASSA-PSS'],
])

/** @returns the hash of the signature; `null` where it has one of its own */
function readScheme(algorithm: DerReader, keyType: KeyType): string | null {
  const type = algorithm.oid()
  const scheme = signatureSchemes.get(type)
  if (scheme === undefined) {
    throw new FleetError(
      'csr_key_unsupported',
      `The request is signed by ${otherSignatures.get(type) ?? type}; ECDSA or RSA (PKCS#1 v1.5) with SHA-256, SHA-384 or SHA-512, or Ed25519 is wanted`,
    )
  }
  // RFC 4055 5: NULL for RSA, but absent is accepted too.
  if (scheme.parameters === 'null') algorithm.optional(tags.null)
  algorithm.end()
  if (!scheme.keys.includes(keyType)) throw notPossessed(`its signature algorithm is not one of a ${keyType} key`)
  return scheme.hash
}

function requirePossession(holds: boolean): void {
  if (!holds) throw notPossessed('its signature was not made by its own key')
}

const notPossessed = (why: string): FleetError =>
  new FleetError('csr_signature_invalid', `The certificate request does not prove possession of its key: ${why}`)

/**
 * The one name a device asks for.
 *
 * @throws FleetError `csr_malformed` unless there is exactly one CN, alone in its RDN, a non-empty UTF8String or
 *   PrintableString without control characters
 */
export function singleCommonName(request: Pick<RequestedCertificate, 'subject'>): string {
  const holders = request.subject.rdns.filter((rdn) => rdn.some(({ oid }) => oid === oids.commonName))
  const [rdn] = holders
  const [attribute] = rdn ?? []
  if (rdn === undefined || attribute === undefined) throw unclear('has no common name')
  if (holders.length > 1) throw unclear(`has ${holders.length} common names`)
  if (rdn.length > 1) throw unclear('has its common name in a multi-valued RDN')
  const { value, encoding } = attribute
  if (encoding === 'ia5') throw unclear('has an IA5String as its common name')
  if (encoding === 'other') throw unclear(`has ${otherStrings[value.slice(1, 3)] ?? 'no string'} as its common name`)
  if (value === '' || /\p{C}/u.test(value)) throw unclear('has a common name that is empty or holds control characters')
  return value
}

/** By the tag, as the value shows it. */
const otherStrings: Partial<Record<string, string>> = {
  '0c': 'a UTF8String that is not UTF-8',
  '13': 'a PrintableString with a character that has no place in one',
  '14': 'a T61String',
  '1c': 'a UniversalString',
  '1e': 'a BMPString',
}

const unclear = (seen: string): FleetError =>
  new FleetError(
    'csr_malformed',
    `The subject of the certificate request ${seen}; exactly one common name is wanted, a UTF8String or PrintableString`,
  )
