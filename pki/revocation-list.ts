import { type KeyObject, verify } from 'node:crypto'
import { FleetError } from '../runtime/errors.ts'
import { contextConstructed, contextPrimitive, DerError, type DerReader, readDer, tags } from './der.ts'
import { type Extension, readExtensions } from './extensions.ts'
import { type DistinguishedName, formatName, parseName } from './names.ts'
import { oids } from './oids.ts'
import { type SignatureScheme, signatureSchemes } from './signature-schemes.ts'

/** Who is revoked, by one CA (RFC 5280 5.1). */
export type RevocationList = {
  issuer: DistinguishedName
  thisUpdate: Date
  /** until when it may be believed */
  nextUpdate: Date
  /** serial number in hex to the name of the reason, as in RFC 5280 5.3.1 */
  revoked: ReadonlyMap<string, string>
}

export type RevokedEntry = { serial: string; revokedAt: Date; reason: string }
/** `number` and `base` are decimal, of any length; `scope` is what the list is limited to. */
export type ListFacts = {
  issuer: string
  number: string | undefined
  base: string | undefined
  scope: string | undefined
  freshest: string | undefined
  thisUpdate: Date
  nextUpdate: Date
  entries: RevokedEntry[]
}

export const maxListBytes = 67_108_864
const maxExtensionBytes = 65_536
/** By the number that stands for each (RFC 5280 5.3.1); 7 is not used. */
export const revocationReasonNames = [
  'unspecified',
  'keyCompromise',
  'cACompromise',
  'affiliationChanged',
  'superseded',
  'cessationOfOperation',
  'certificateHold',
  'unspecified',
  'removeFromCRL',
  'privilegeWithdrawn',
  'aACompromise',
]
/**
 * Reads a revocation list that is signed with one of `keys`, and that is about all certificates of its issuer: one that says
 * something critical which is not understood here, a scope or a delta for example, is refused (RFC 5280 5.2).
 *
 * @throws FleetError `data_damaged`
 */
export function readRevocationList(der: Buffer, keys: readonly KeyObject[]): RevocationList {
  return orDamaged(() => {
    const signed = readSigned(der)
    if (schemeOf(signed) === undefined) throw new DerError(`signed by ${signed.type}, which is not accepted`)
    if (!keys.some((key) => isSigned(signed, key))) throw new DerError('not signed by its CA')
    const revoked = new Map<string, string>()
    const { extensions, ...list } = readTbs(signed, ({ serial, reason }) => revoked.set(serial, reason))
    refuseCritical(extensions)
    return { ...list, revoked }
  })
}

/**
 * What a list says, for a person: of any scope, and whoever signed it.
 *
 * @throws FleetError `data_damaged`
 */
export function describeRevocationList(der: Buffer): ListFacts {
  return orDamaged(() => {
    const entries: RevokedEntry[] = []
    const { issuer, extensions, ...times } = readTbs(readSigned(der), (entry) => entries.push(entry))
    const text = (type: string, read: (value: Buffer) => string): string | undefined => {
      const extension = extensions.get(type)
      return extension && read(extension.value)
    }
    return {
      issuer: formatName(issuer),
      number: text(oids.cRLNumber, readNumber),
      base: text(oids.deltaCRLIndicator, readNumber),
      scope: text(oids.issuingDistributionPoint, readScope),
      freshest: text(oids.freshestCRL, readPoints),
      ...times,
      entries,
    }
  })
}

/** Whether this key signed it, in a way that we accept. @throws FleetError `data_damaged` when it is no list */
export const isSignedBy = (der: Buffer, key: KeyObject): boolean => orDamaged(() => isSigned(readSigned(der), key))

function orDamaged<T>(read: () => T): T {
  try {
    return read()
  } catch (cause) {
    if (!(cause instanceof DerError)) throw cause
    throw new FleetError('data_damaged', `the revocation list cannot be used: ${cause.message}`, { cause })
  }
}

type Signed = { tbs: Buffer; algorithm: Buffer; type: string; signature: Buffer }

function readSigned(der: Buffer): Signed {
  const reader = readDer(der, maxListBytes).enter()
  const tbs = reader.next(tags.sequence).der
  const algorithm = reader.next(tags.sequence).der
  const signature = reader.bitString()
  reader.end()
  return { tbs, algorithm, type: readDer(algorithm, 1_024).enter().oid(), signature }
}

const schemeOf = ({ type }: Signed): SignatureScheme | undefined => signatureSchemes.get(type)

function isSigned(signed: Signed, key: KeyObject): boolean {
  const scheme = schemeOf(signed)
  try {
    return scheme !== undefined && verify(scheme.hash, signed.tbs, key, signed.signature)
  } catch {
    return false // a key of another kind
  }
}

function readTbs(
  { tbs, algorithm }: Signed,
  take: (entry: RevokedEntry) => void,
): Omit<RevocationList, 'revoked'> & { extensions: ReadonlyMap<string, Extension> } {
  const reader = readDer(tbs, maxListBytes).enter()
  if (reader.nextTag === tags.integer && reader.smallInteger() !== 1)
    throw new DerError('a version other than v1 and v2')
  // RFC 5280 5.1.2.2
  if (!reader.next(tags.sequence).der.equals(algorithm)) throw new DerError('two different signature algorithms')
  const issuer = parseName(reader.next(tags.sequence).der)
  const thisUpdate = reader.time()
  // RFC 5280 5.1.2.5: it is always there.
  const nextUpdate = reader.time()
  const entries = reader.enterOptional(tags.sequence)
  while (entries !== undefined && !entries.done) {
    const entry = entries.enter()
    take({ serial: serialOf(entry.integer()), revokedAt: entry.time(), reason: reasonOf(entry) })
    entry.end()
  }
  const extensions = reader.enterOptional(contextConstructed(0))
  reader.end()
  return {
    issuer,
    thisUpdate,
    nextUpdate,
    extensions: extensions === undefined ? new Map() : readExtensions(extensions.enter()),
  }
}

function reasonOf(entry: DerReader): string {
  const list = entry.enterOptional(tags.sequence)
  if (list === undefined) return 'unspecified'
  const extensions = readExtensions(list)
  refuseCritical(extensions)
  const value = extensions.get(oids.reasonCode)?.value
  if (value === undefined) return 'unspecified'
  const { tag, content } = readDer(value, 16).next()
  if (tag !== tags.enumerated || content.length !== 1) throw new DerError('a reason that is none')
  return revocationReasonNames[content[0]!] ?? 'unspecified'
}

function refuseCritical(extensions: ReadonlyMap<string, { critical: boolean }>): void {
  for (const [type, { critical }] of extensions) {
    if (critical && type !== oids.reasonCode) throw new DerError(`a critical extension ${type}`)
  }
}

const readNumber = (value: Buffer): string => {
  const hex = readDer(value, maxExtensionBytes).integer().toString('hex')
  return BigInt(`0x${hex}`).toString()
}

/** What IssuingDistributionPoint (RFC 5280 5.2.5) limits the list to. */
function readScope(value: Buffer): string {
  const scope = readDer(value, maxExtensionBytes).enter()
  const point = scope.enterOptional(contextConstructed(0))
  const limits = [
    'certificates of users',
    'certificates of CAs',
    'some reasons',
    'other CAs too',
    'attribute certificates',
  ]
  return [
    ...(point === undefined ? [] : urisIn(point)),
    ...limits.filter((_, at) => scope.optional(contextPrimitive(at + 1)) !== undefined),
  ].join(', ')
}

/** CRLDistributionPoints (RFC 5280 4.2.1.13) */
function readPoints(value: Buffer): string {
  const points = readDer(value, maxExtensionBytes).enter()
  const urls: string[] = []
  while (!points.done) urls.push(...urisIn(points.enter().enter(contextConstructed(0))))
  return urls.join(', ')
}

/** Of a DistributionPointName that is a fullName. */
function urisIn(name: DerReader): string[] {
  const names = name.enter(contextConstructed(0))
  const urls: string[] = []
  while (!names.done) {
    const { tag, content } = names.next()
    if (tag === contextPrimitive(6)) urls.push(content.toString('latin1'))
  }
  return urls
}

function serialOf(content: Buffer): string {
  return (content[0] === 0 && content.length > 1 ? content.subarray(1) : content).toString('hex')
}
