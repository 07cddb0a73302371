import { type KeyObject, verify } from 'node:crypto'
import { FleetError } from '../runtime/errors.ts'
import { contextConstructed, DerError, type DerReader, readDer, tags } from './der.ts'
import { readExtensions } from './extensions.ts'
import { type DistinguishedName, parseName } from './names.ts'
import { oids } from './oids.ts'
import { signatureSchemes } from './signature-schemes.ts'

/** Who is revoked, by one CA (RFC 5280 5.1). */
export type RevocationList = {
  issuer: DistinguishedName
  thisUpdate: Date
  /** until when it may be believed */
  nextUpdate: Date
  /** serial number in hex to the name of the reason, as in RFC 5280 5.3.1 */
  revoked: ReadonlyMap<string, string>
}

const maxListBytes = 67_108_864
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
  try {
    const reader = readDer(der, maxListBytes).enter()
    const tbs = reader.next(tags.sequence).der
    const algorithm = reader.next(tags.sequence).der
    const signature = reader.bitString()
    reader.end()
    const type = readDer(algorithm, 1_024).enter().oid()
    const scheme = signatureSchemes.get(type)
    if (scheme === undefined) throw new DerError(`signed by ${type}, which is not accepted`)
    if (!keys.some((key) => isSigned(scheme.hash, tbs, key, signature))) throw new DerError('not signed by its CA')
    return readTbs(tbs, algorithm)
  } catch (cause) {
    if (!(cause instanceof DerError)) throw cause
    throw new FleetError('data_damaged', `the revocation list cannot be used: ${cause.message}`, { cause })
  }
}

function isSigned(hash: string | null, tbs: Buffer, key: KeyObject, signature: Buffer): boolean {
  try {
    return verify(hash, tbs, key, signature)
  } catch {
    return false // a key of another kind
  }
}

function readTbs(der: Buffer, algorithm: Buffer): RevocationList {
  const reader = readDer(der, maxListBytes).enter()
  if (reader.nextTag === tags.integer && reader.smallInteger() !== 1)
    throw new DerError('a version other than v1 and v2')
  // RFC 5280 5.1.2.2
  if (!reader.next(tags.sequence).der.equals(algorithm)) throw new DerError('two different signature algorithms')
  const issuer = parseName(reader.next(tags.sequence).der)
  const thisUpdate = reader.time()
  // RFC 5280 5.1.2.5: it is always there.
  const nextUpdate = reader.time()
  const revoked = new Map<string, string>()
  const entries = reader.enterOptional(tags.sequence)
  while (entries !== undefined && !entries.done) {
    const entry = entries.enter()
    const serial = serialOf(entry.integer())
    entry.time()
    revoked.set(serial, reasonOf(entry))
    entry.end()
  }
  const extensions = reader.enterOptional(contextConstructed(0))
  if (extensions !== undefined) refuseCritical(readExtensions(extensions.enter()))
  reader.end()
  return { issuer, thisUpdate, nextUpdate, revoked }
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

function serialOf(content: Buffer): string {
  return (content[0] === 0 && content.length > 1 ? content.subarray(1) : content).toString('hex')
}
