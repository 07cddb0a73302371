import { bitString, contextConstructed, contextPrimitive, DerError, type DerReader, readDer, tags } from './der.ts'
import { type Extension, readExtensions } from './extensions.ts'
import { type DistinguishedName, readName } from './names.ts'
import { oids } from './oids.ts'

/** What is signed (RFC 5280 4.1.2), as it stands in the bytes: read, not judged. */
export type TbsCertificate = {
  /** 1 to 3 */
  version: number
  /** the INTEGER's content octets */
  serial: Buffer
  /** DER of the AlgorithmIdentifier */
  signatureAlgorithm: Buffer
  issuer: DistinguishedName
  notBefore: EncodedTime
  notAfter: EncodedTime
  subject: DistinguishedName
  publicKeySpki: Buffer
  hasUniqueIds: boolean
  extensions: ReadonlyMap<string, Extension>
}
export type EncodedTime = { date: Date; tag: number }

export const maxCertificateBytes = 65_536

/** @throws DerError */
export function readTbsCertificate(der: Uint8Array): TbsCertificate {
  const reader = readDer(der, maxCertificateBytes).enter()
  const version = readVersion(reader)
  const serial = reader.integer()
  const signatureAlgorithm = reader.next(tags.sequence).der
  const issuer = readName(reader.next(tags.sequence).der)
  const validity = reader.enter()
  const notBefore = readTime(validity)
  const notAfter = readTime(validity)
  validity.end()
  const subject = readName(reader.next(tags.sequence).der)
  const publicKeySpki = reader.next(tags.sequence).der
  const issuerUniqueId = reader.optional(contextPrimitive(1))
  const subjectUniqueId = reader.optional(contextPrimitive(2))
  const hasUniqueIds = issuerUniqueId !== undefined || subjectUniqueId !== undefined
  const extensions = readExtensionList(reader)
  reader.end()
  return {
    version,
    serial,
    signatureAlgorithm,
    issuer,
    notBefore,
    notAfter,
    subject,
    publicKeySpki,
    hasUniqueIds,
    extensions,
  }
}

function readVersion(reader: DerReader): number {
  const wrapper = reader.enterOptional(contextConstructed(0))
  if (wrapper === undefined) return 1
  const value = wrapper.smallInteger()
  wrapper.end()
  // v1 is the DEFAULT, so it is never written (X.690 11.5).
  if (value !== 1 && value !== 2) throw new DerError('a version other than v1, v2 and v3')
  return value + 1
}

function readTime(reader: DerReader): EncodedTime {
  const tag = reader.nextTag ?? 0
  return { date: reader.time(), tag }
}

function readExtensionList(reader: DerReader): Map<string, Extension> {
  const wrapper = reader.enterOptional(contextConstructed(3))
  if (wrapper === undefined) return new Map()
  const extensions = readExtensions(wrapper.enter())
  wrapper.end()
  return extensions
}

// Readers of the extensions that we have a use for; each gives `undefined` when the extension is absent.

const extensionOf = (tbs: TbsCertificate, oid: string): DerReader | undefined => {
  const extension = tbs.extensions.get(oid)
  return extension && readDer(extension.value, maxCertificateBytes)
}

/** RFC 5280 4.2.1.9 */
export function readBasicConstraints(tbs: TbsCertificate): { ca: boolean; pathLength: number | undefined } | undefined {
  const reader = extensionOf(tbs, oids.basicConstraints)?.enter()
  if (reader === undefined) return undefined
  const ca = reader.nextTag === tags.boolean && reader.boolean()
  const pathLength = reader.nextTag === tags.integer ? reader.smallInteger() : undefined
  reader.end()
  return { ca, pathLength }
}

export const keyUsages = [
  'digitalSignature',
  'nonRepudiation',
  'keyEncipherment',
  'dataEncipherment',
  'keyAgreement',
  'keyCertSign',
  'cRLSign',
  'encipherOnly',
  'decipherOnly',
] as const
export type KeyUsage = (typeof keyUsages)[number]

/** RFC 5280 4.2.1.3: one of them at least, as without any it would pass for one that is absent, which allows every use. */
export function readKeyUsage(tbs: TbsCertificate): KeyUsage[] | undefined {
  const reader = extensionOf(tbs, oids.keyUsage)
  if (reader === undefined) return undefined
  const { bytes } = reader.bits()
  const usages = keyUsages.filter((_, bit) => ((bytes[bit >> 3] ?? 0) & (0x80 >> (bit & 7))) !== 0)
  if (usages.length === 0) throw new DerError('a keyUsage that allows nothing')
  return usages
}

/** KeyUsage: named bits, trailing zeros dropped (X.690 11.2.2). */
export function keyUsageBits(usages: readonly KeyUsage[]): Buffer {
  const bits = usages.map((usage) => keyUsages.indexOf(usage))
  const length = Math.max(...bits) + 1
  const octets = Buffer.alloc(Math.ceil(length / 8))
  for (const bit of bits) octets[bit >> 3]! |= 0x80 >> (bit & 7)
  return bitString(octets, octets.length * 8 - length)
}

/** RFC 5280 4.2.1.12: dotted OIDs */
export function readExtendedKeyUsage(tbs: TbsCertificate): string[] | undefined {
  const reader = extensionOf(tbs, oids.extendedKeyUsage)?.enter()
  if (reader === undefined) return undefined
  const purposes = [reader.oid()]
  while (!reader.done) purposes.push(reader.oid())
  return purposes
}

/** RFC 5280 4.2.1.2 */
export const readSubjectKeyId = (tbs: TbsCertificate): Buffer | undefined =>
  extensionOf(tbs, oids.subjectKeyIdentifier)?.octetString()

/** RFC 5280 4.2.1.1: the key identifier, which may be absent from the extension too */
export function readAuthorityKeyId(tbs: TbsCertificate): Buffer | undefined {
  return extensionOf(tbs, oids.authorityKeyIdentifier)?.enter().optional(contextPrimitive(0))?.content
}
