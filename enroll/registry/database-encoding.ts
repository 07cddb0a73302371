/** How the registry's database has things; database.ts says which keys there are. */
import { type Cursor, genesis } from '../../contract/feed.ts'
import { chainHash } from '../../runtime/chain.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { AuditEntry } from './audit-log.ts'
import {
  type Changes,
  entryId,
  type Head,
  isKeyPart,
  type Range,
  type RecordKey,
  requireKeyPart,
  type Stored,
} from './engine.ts'

/** What a key is to hold; undefined where it goes. */
export type Batch = Map<string, string | undefined>

/** Keys strictly between `start` and `end`; undefined where nothing can be. `!` is the character after the space. */
/** @returns `from` is below `start`, as cursors are */
export function boundsOf(range: Range): { start: string; from: string; end: string } | undefined {
  if ('kind' in range) return { start: `r ${range.kind} `, from: '', end: `r ${range.kind}!` }
  if (range.before !== undefined) {
    return { start: `i ${range.index} `, from: range.from ?? '', end: `i ${range.index} ${range.before}` }
  }
  if (!isKeyPart(range.value)) return undefined
  return { start: `i ${range.index} ${range.value} `, from: '', end: `i ${range.index} ${range.value}!` }
}

/** A record as it is kept: of what was deleted, the revision alone. */
export type Revision = { rev: number; doc?: unknown }

/** Records as the changes of this group leave them, read for this decision alone. */
export function revisionsOf(
  keys: readonly RecordKey[],
  before: ReadonlyMap<RecordKey, string | undefined>,
  batch: Batch,
): Map<RecordKey, Revision | undefined> {
  const known = new Map<RecordKey, Revision | undefined>()
  for (const key of keys) {
    const name = `r ${key}`
    known.set(key, decodeRecord(batch.has(name) ? batch.get(name) : before.get(key)))
  }
  return known
}

export function viewOf(known: ReadonlyMap<RecordKey, Revision | undefined>): Map<RecordKey, Stored> {
  const records = new Map<RecordKey, Stored>()
  for (const [key, revision] of known) {
    const record = present(revision)
    if (record !== undefined) records.set(key, record)
  }
  return records
}

export const present = (revision: Revision | undefined): Stored | undefined =>
  revision === undefined || revision.doc === undefined ? undefined : { rev: revision.rev, doc: revision.doc }

export function encodeChanges(
  head: Head,
  changes: Changes,
  known: ReadonlyMap<RecordKey, Revision | undefined>,
): { batch: Batch; head: Head } {
  const batch: Batch = new Map()
  for (const { key, doc } of changes.records) {
    if (!known.has(key)) throw new Error(`${key} was not read before it is written`)
    batch.set(`r ${key}`, JSON.stringify({ rev: (known.get(key)?.rev ?? 0) + 1, doc }))
  }
  for (const key of changes.forgotten ?? []) batch.set(`r ${key}`, undefined)
  for (const { index, value, id, present } of changes.indexed) {
    batch.set(`i ${index} ${requireKeyPart(value)} ${requireKeyPart(id)}`, present ? '' : undefined)
  }
  const append = (log: 'f' | 'a', cursor: Cursor, bodies: readonly string[]): Cursor =>
    bodies.reduce((last, body) => {
      const next = { seq: last.seq + 1, hash: chainHash(last.hash, body) }
      batch.set(entryKey(log, next.seq), `${next.hash} ${body}`)
      return next
    }, cursor)
  const { feedFrom = head.feedFrom } = changes
  for (let seq = head.feedFrom ?? 1; seq < (feedFrom ?? 0); seq++) batch.set(entryKey('f', seq), undefined)
  return {
    batch,
    head: {
      ...head,
      feed: append('f', head.feed, changes.feed),
      audit: append('a', head.audit, changes.audit),
      ...(feedFrom === undefined ? {} : { feedFrom }),
      ...(changes.auditStart === undefined ? {} : { auditStart: changes.auditStart }),
    },
  }
}

export const entryKey = (log: 'f' | 'a', seq: number): string => `${log} ${entryId(seq)}`

export const decodeEntry = (seq: number, text: string): AuditEntry => ({
  seq,
  hash: text.slice(0, genesis.length),
  body: text.slice(genesis.length + 1),
})

export const decodeRecord = (text: string | undefined): Revision | undefined =>
  text === undefined ? undefined : (parse(text) as Revision)

export function decodeHead(text: string | undefined): Head {
  if (text === undefined) throw new FleetError('data_damaged', 'the registry has lost its head')
  return parse(text) as Head
}

export function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new FleetError('data_damaged', 'the registry holds a record that cannot be read', { cause })
  }
}
