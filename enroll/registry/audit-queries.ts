/** Looking things up in the audit log. Entries are in the order of their writing, which is nearly that of their times. */
import { type Cursor, startCursor } from '../../contract/feed.ts'
import { type AuditView, decodeAudit } from './audit-log.ts'
import type { Registry } from './registry.ts'

const pageSize = 1_000
/** Of one question; who wants more asks on. */
const lookAtMost = 20_000

export type AuditFilter = {
  action?: string | undefined
  actor?: string | undefined
  subject?: string | undefined
  outcome?: string | undefined
}

export const startOf = async (registry: Registry): Promise<Cursor> => (await registry.head()).auditStart ?? startCursor

/** @returns the last entry before the first one of this time or later */
export async function placeBefore(registry: Registry, at: string): Promise<Cursor> {
  const { audit, auditStart = startCursor } = await registry.head()
  const wanted = Date.parse(at)
  let [low, high] = [auditStart.seq, audit.seq]
  while (low < high) {
    const middle = Math.floor((low + high) / 2)
    const [entry] = await registry.auditAfter(middle, 1)
    if (entry === undefined || Date.parse(decodeAudit(entry).at) >= wanted) high = middle
    else low = entry.seq
  }
  return low === auditStart.seq ? auditStart : { seq: low, hash: (await registry.auditHashAt(low))! }
}

/** Behind `after` the first ones that pass. @returns with the number to go on behind, which is the last that was looked at */
export async function entriesAfter(
  registry: Registry,
  after: number,
  { limit, ...filter }: AuditFilter & { limit: number },
): Promise<{ items: AuditView[]; next: number }> {
  const passes = passing(filter)
  const items: AuditView[] = []
  let next = after
  for (let looked = 0; looked < lookAtMost; looked += pageSize) {
    const entries = await registry.auditAfter(next, pageSize)
    for (const entry of entries) {
      const view = decodeAudit(entry)
      next = entry.seq
      if (passes(view)) items.push(view)
      if (items.length === limit) return { items, next }
    }
    if (entries.length < pageSize) break
  }
  return { items, next }
}

/** The last ones that pass, in their order. */
export async function lastEntries(
  registry: Registry,
  { limit, ...filter }: AuditFilter & { limit: number },
): Promise<{ items: AuditView[]; next: number }> {
  const { seq } = (await registry.head()).audit
  const passes = passing(filter)
  let items: AuditView[] = []
  for (let to = seq, length = limit; to > Math.max(0, seq - lookAtMost) && items.length < limit; ) {
    const from = Math.max(0, to - length)
    const entries = await registry.auditAfter(from, to - from)
    items = [
      ...entries
        .filter((entry) => entry.seq <= to)
        .map(decodeAudit)
        .filter(passes),
      ...items,
    ]
    to = from
    length = pageSize
  }
  return { items: items.slice(-limit), next: seq }
}

function passing({ action, actor, subject, outcome }: AuditFilter): (view: AuditView) => boolean {
  const fits = (wanted: string | undefined, text: string): boolean =>
    wanted === undefined || (wanted.endsWith('*') ? text.startsWith(wanted.slice(0, -1)) : text === wanted)
  return (view) =>
    fits(action, view.action) && fits(actor, view.actor) && fits(subject, view.subject) && fits(outcome, view.outcome)
}
