import { createPublicKey, type KeyObject, verify } from 'node:crypto'
import { FleetError } from '../runtime/errors.ts'
import { contextConstructed, DerError, type DerReader, readDer, tags } from './der.ts'
import { readExtensions } from './extensions.ts'
import { type DistinguishedName, decodeValue, parseName } from './names.ts'
import { oids } from './oids.ts'
import { type KeyType, keyTypeOf, spkiHashOf } from './public-key.ts'

/** A PKCS#10 request whose signature has been checked: whoever made it holds the private key. */
export type CertificateRequest = {
  der: Buffer
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

// An RSA-4096 request with a full set of extensions is under 3 kB.
const maxCsrBytes = 16_384

/**
 * Reads a certificate request (RFC 2986 4) and checks its proof of possession.
 *
 * @throws FleetError `csr_malformed`, `csr_signature_invalid`, `csr_key_unsupported`, `csr_key_too_weak`
 */
export function parseCsr(der: Uint8Array): CertificateRequest {
  try {
    return readRequest(Buffer.from(der))
  } catch (cause) {
    if (!(cause instanceof DerError)) throw cause
    throw new FleetError('csr_malformed', `The certificate request is not DER as RFC 2986 asks: ${cause.message}`, {
      cause,
    })
  }
}

function readRequest(der: Buffer): CertificateRequest {
  const request = readDer(der, maxCsrBytes).enter()
  const info = request.next(tags.sequence)
  const algorithm = request.enter()
  const signature = request.bitString()
  request.end()

  const reader = readDer(info.der, maxCsrBytes).enter()
  if (reader.smallInteger() !== 0) throw new DerError('a version other than v1')
  const subject = parseName(reader.next(tags.sequence).der)
  const publicKeySpki = reader.next(tags.sequence).der
  const attributes = readAttributes(reader.enter(contextConstructed(0)))
  reader.end()

  const keyType = keyTypeOf(publicKeySpki)
  checkSignature(info.der, algorithm, signature, keyType, publicKeySpki)
  return { der, subject, publicKeySpki, spkiHash: spkiHashOf(publicKeySpki), keyType, ...attributes }
}

function readAttributes(list: DerReader): Pick<CertificateRequest, 'subjectAltName' | 'challengePassword'> {
  const seen = new Set<string>()
  let subjectAltName: Buffer | undefined
  let challengePassword: string | undefined
  while (!list.done) {
    const attribute = list.enter()
    const type = attribute.oid()
    const values = attribute.enter(tags.set)
    attribute.end()
    if (seen.has(type)) throw new DerError(`attribute ${type} stands twice`)
    seen.add(type)
    // RFC 2985 5.4.1, 5.4.2: both are single-valued.
    if (type === oids.extensionRequest) {
      subjectAltName = readExtensions(values.enter()).get(oids.subjectAltName)?.value
      values.end()
    } else if (type === oids.challengePassword) {
      challengePassword = decodeValue(values.next()).value
      values.end()
    }
  }
  return { subjectAltName, challengePassword }
}

type SignatureScheme = { keys: readonly KeyType[]; hash: string | null; parameters: 'absent' | 'null' }
const ecdsa = (hash: string): SignatureScheme => ({ keys: ['P-256', 'P-384'], hash, parameters: 'absent' })
const rsa = (hash: string): SignatureScheme => ({ keys: ['RSA'], hash, parameters: 'null' })

const schemes = new Map<string, SignatureScheme>([
  [oids.ecdsaWithSha256, ecdsa('sha256')],
  [oids.ecdsaWithSha384, ecdsa('sha384')],
  [oids.ecdsaWithSha512, ecdsa('sha512')],
  [oids.sha256WithRsa, rsa('sha256')],
  [oids.sha384WithRsa, rsa('sha384')],
  [oids.sha512WithRsa, rsa('sha512')],
  [oids.ed25519, { keys: ['Ed25519'], hash: null, parameters: 'absent' }],
])

/** Names for signatures that are refused. */
const otherSignatures = new Map([
  ['1.2.840.10045.4.1', 'ECDSA with SHA-1'],
  ['1.2.840.113549.1.1.4', 'RSA with MD5'],
  ['1.2.840.113549.1.1.5', 'RSA with SHA-1'],
  ['1.2.840.113549.1.1.10', 'RSASSA-PSS'],
])

function checkSignature(info: Buffer, algorithm: DerReader, signature: Buffer, keyType: KeyType, spki: Buffer): void {
  const type = algorithm.oid()
  const scheme = schemes.get(type)
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
  if (!verify(scheme.hash, info, importKey(spki), signature))
    throw notPossessed('its signature was not made by its own key')
}

function importKey(spki: Buffer): KeyObject {
  try {
    return createPublicKey({ key: spki, format: 'der', type: 'spki' })
  } catch (cause) {
    throw new FleetError('csr_malformed', 'The public key in the certificate request is not a valid key', { cause })
  }
}

const notPossessed = (why: string): FleetError =>
  new FleetError('csr_signature_invalid', `The certificate request does not prove possession of its key: ${why}`)

/**
 * The one name a device asks for.
 *
 * @throws FleetError `csr_malformed` unless there is exactly one CN, alone in its RDN, a non-empty UTF8String or
 *   PrintableString without control characters
 */
export function singleCommonName(request: CertificateRequest): string {
  const holders = request.subject.rdns.filter((rdn) => rdn.some(({ oid }) => oid === oids.commonName))
  const [rdn] = holders
  const [attribute] = rdn ?? []
  if (rdn === undefined || attribute === undefined) throw unclear('has no common name')
  if (holders.length > 1) throw unclear(`has ${holders.length} common names`)
  if (rdn.length > 1) throw unclear('has its common name in a multi-valued RDN')
  const { value, encoding } = attribute
  if (encoding !== 'utf8' && encoding !== 'printable') {
    throw unclear('has a common name that is not a well-formed UTF8String or PrintableString')
  }
  if (value === '' || /\p{C}/u.test(value)) throw unclear('has a common name that is empty or holds control characters')
  return value
}

const unclear = (seen: string): FleetError =>
  new FleetError('csr_malformed', `The subject of the certificate request ${seen}; exactly one common name is wanted`)
