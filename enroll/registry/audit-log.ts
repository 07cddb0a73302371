/** The audit log: append-only and hash-chained, each entry in the same batch as the fact it tells of. */
import type { Cursor } from '../../contract/feed.ts'
import { isDeviceId, isSerialNumber, type StatusReason } from '../../contract/ids.ts'
import type { ProblemCode } from '../../contract/problems.ts'
import { chainHash } from '../../runtime/chain.ts'

export type AuditFact = {
  /** noun.pastTense: `certificate.issued` */
  action: string
  /** `operator:<cn>`, `device:<id>` or `system` */
  actor: string
  /** `device:<id>`, `certificate:<serial>`, ... */
  subject: string
  outcome: 'done' | 'refused' | 'intended'
  reason?: ProblemCode | StatusReason
  details?: Record<string, string | number | boolean | string[]>
  /** Of the subject, what differs: as it was, and as it is. Added where the change is written. */
  before?: AuditFact['details']
  after?: AuditFact['details']
  remoteAddress?: string
  requestId: string
}

/** As stored: the hash is over `body`, byte for byte. */
export type AuditEntry = { seq: number; hash: string; body: string }
/** As shown. */
export type AuditView = AuditFact & { seq: number; at: string; hash: string }

// Refused attempts are recorded too, so part of an entry may be what a hostile sender wrote.
const maxText = 300
const maxItems = 32

export function encodeAudit(fact: AuditFact, at: Date): string {
  const { action, actor, subject, outcome, reason, details, before, after, remoteAddress, requestId } = fact
  return JSON.stringify({
    at: at.toISOString(),
    action: clean(action),
    actor: clean(actor),
    subject: clean(subject),
    outcome,
    reason,
    details: details && cleanDetails(details),
    before: before && cleanDetails(before),
    after: after && cleanDetails(after),
    remoteAddress: remoteAddress === undefined ? undefined : clean(remoteAddress),
    requestId: clean(requestId),
  })
}

export const decodeAudit = ({ seq, hash, body }: AuditEntry): AuditView => ({ seq, ...JSON.parse(body), hash })

/** Whom an entry tells of, devices and certificates alike, so that the life of one can be read without the whole log. */
export function aboutOf({ actor, subject, details = {} }: Pick<AuditFact, 'actor' | 'subject' | 'details'>): string[] {
  const { device, certificates, replaces, before, by } = details
  const about = new Set<string>()
  const add = (text: string): void => {
    if (isAbout(text)) about.add(text)
  }
  add(actor)
  add(subject)
  if (device !== undefined) add(`device:${device}`)
  for (const serials of [certificates, replaces, before, by]) {
    if (Array.isArray(serials)) for (const serial of serials) add(`certificate:${serial}`)
    else if (serials !== undefined) add(`certificate:${serials}`)
  }
  return [...about]
}

const isAbout = (text: string): boolean =>
  (text.startsWith('device:') && isDeviceId(text.slice(7))) ||
  (text.startsWith('certificate:') && isSerialNumber(text.slice(12)))

/** The index of it; ids are the numbers of entries. */
export const aboutIndex = 'audit.about'

/**
 * Follows the chain. Entries are consecutive and start right after `from`; a long log is checked page by page, each from
 * the `intact` of the page before. The last of them must then be the registry's head, or entries were cut off.
 *
 * @returns the last place that holds, and the number at which the chain breaks, if it does
 */
export function verifyAudit(entries: Iterable<AuditEntry>, from: Cursor): { intact: Cursor; brokenAt?: number } {
  let intact = from
  for (const { seq, hash, body } of entries) {
    if (seq !== intact.seq + 1 || hash !== chainHash(intact.hash, body)) return { intact, brokenAt: intact.seq + 1 }
    intact = { seq, hash }
  }
  return { intact }
}

function cleanDetails(details: NonNullable<AuditFact['details']>): NonNullable<AuditFact['details']> {
  // Most are: what we write ourselves.
  if (isClean(details)) return details
  const entries = Object.entries(details).slice(0, maxItems)
  return Object.fromEntries(entries.map(([name, value]) => [clean(name), cleanValue(value)]))
}

function isClean(details: NonNullable<AuditFact['details']>): boolean {
  let items = 0
  for (const name of Object.keys(details)) {
    const value = details[name]!
    if (++items > maxItems || !isPlain(name)) return false
    if (typeof value === 'string' ? !isPlain(value) : Array.isArray(value)) return false
  }
  return true
}

function cleanValue(value: string | number | boolean | string[]): string | number | boolean | string[] {
  if (typeof value === 'string') return clean(value)
  if (!Array.isArray(value)) return value
  const more = value.length - maxItems
  return [...value.slice(0, maxItems).map(clean), ...(more > 0 ? [`… ${more} more`] : [])]
}

function clean(text: string): string {
  if (isPlain(text)) return text
  return cut(
    cut(text.toWellFormed()).replaceAll(unseen, (found) => `\\u${found.charCodeAt(0).toString(16).padStart(4, '0')}`),
  )
}

// Control characters, and the ones that turn the direction of text or break a line: an operator reads this in a terminal.
const unseen = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g

const plain = /^[ -~]*$/
const isPlain = (text: string): boolean => text.length <= maxText && plain.test(text)

const cut = (text: string): string => (text.length <= maxText ? text : `${text.slice(0, maxText - 1).toWellFormed()}…`)
