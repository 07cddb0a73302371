import type { CheckpointBody } from '../../contract/audit-api.ts'
import { startCursor } from '../../contract/feed.ts'
import type { Statement } from '../../pki/statement.ts'
import { entryId, type Stored } from './engine.ts'
import type { Registry } from './registry.ts'

/** A statement that the audit log has this hash at this entry. */
export type CheckpointRecord = Statement & { number: number; seq: number }
/** The last of them. */
export type AuditStateRecord = { checkpoint: number }

const only = 'audit'
const idOf = (number: number): string => String(number).padStart(12, '0')

export async function findLastCheckpoint(registry: Registry): Promise<Stored<CheckpointRecord> | undefined> {
  const state = await registry.find('auditState', only)
  return state && registry.find('checkpoint', idOf(state.doc.checkpoint))
}

/** Of the last one about this entry or one before it; 0 for none. */
export async function numberUpTo(registry: Registry, seq: number): Promise<number> {
  const range = { index: 'checkpoint.seq', from: entryId(seq + 1), before: entryId(Number.MAX_SAFE_INTEGER) }
  const [next] = (await registry.list('checkpoint', range, { limit: 1 })).items
  if (next !== undefined) return next.doc.number - 1
  return (await findLastCheckpoint(registry))?.doc.number ?? 0
}

/** Those about entries from `from` to `to`, both included, in their order. */
export async function listCheckpoints(
  registry: Registry,
  { from, to }: { from: number; to: number },
): Promise<CheckpointRecord[]> {
  const items: CheckpointRecord[] = []
  const range = { index: 'checkpoint.seq', from: entryId(from), before: entryId(to + 1) }
  for (let after: string | undefined; ; ) {
    const page = await registry.list('checkpoint', range, { after, limit: 500 })
    items.push(...page.items.map(({ doc }) => doc))
    if (page.next === undefined) return items
    after = page.next
  }
}

export async function addCheckpoint(registry: Registry, doc: CheckpointRecord, at: Date): Promise<void> {
  const state = await registry.find('auditState', only)
  await registry.commit({
    requestId: `checkpoint-${doc.number}`,
    writes: [
      { kind: 'checkpoint', id: idOf(doc.number), expect: 0, doc },
      { kind: 'auditState', id: only, expect: state?.rev ?? 0, doc: { checkpoint: doc.number } },
    ],
    audit: [],
    at,
  })
}

const pruneAtOnce = 500

/**
 * Lets the audit log begin at the last checkpoint, of the first hundreds, from before a time; that one stays and vouches for what the next entry follows.
 *
 * @returns the checkpoint that the log begins with since, where that has changed
 */
export async function pruneBefore(
  registry: Registry,
  before: Date,
  read: (checkpoint: CheckpointRecord) => CheckpointBody,
): Promise<CheckpointBody | undefined> {
  const { auditStart = startCursor } = await registry.head()
  const range = { index: 'checkpoint.seq', from: entryId(auditStart.seq), before: entryId(Number.MAX_SAFE_INTEGER) }
  const { items } = await registry.list('checkpoint', range, { limit: pruneAtOnce })
  const old = items
    .map(({ doc }) => ({ id: idOf(doc.number), doc, said: read(doc) }))
    .filter(({ said }) => new Date(said.at) < before)
  const first = old.pop()
  if (first === undefined || first.said.seq === auditStart.seq) return undefined
  const { seq, hash } = first.said
  await registry.pruneAudit({ seq, hash }, old)
  return first.said
}
