import type { FeedFact } from '../../contract/feed.ts'
import type { Asked } from '../registry/asked.ts'
import type { AuditFact } from '../registry/audit-log.ts'
import type { Registry, Write } from '../registry/registry.ts'

type Change = { writes: Write[]; audit: AuditFact; feed: FeedFact[] }
/**
 * What is to be made of one device: the answer, and the parts of the batch that make it true; none where it is so already.
 * `also`: of other devices, where nothing else is planned for them.
 */
export type Plan<T> = { answer: T; change?: Change; also?: readonly Plan<unknown>[] }

/**
 * Makes plans true, all of them in one durable batch.
 *
 * @returns the feed's number at which it has all of it
 * @throws FleetError `conflict` when something they rest on has changed
 */
export async function carryOut(
  registry: Registry,
  plans: readonly Plan<unknown>[],
  { requestId, digest, now }: Pick<Asked, 'requestId' | 'digest' | 'now'>,
): Promise<number> {
  const changes = changesOf(plans)
  if (changes.length === 0) return (await registry.head()).feed.seq
  // Two devices may have had one key: it is watched once.
  const writes = new Map(
    changes.flatMap((change) => change.writes.map((write) => [`${write.kind} ${write.id}`, write])),
  )
  const { feedSeq } = await registry.commit({
    requestId,
    digest,
    writes: [...writes.values()],
    audit: changes.map(({ audit }) => audit),
    feed: changes.flatMap(({ feed }) => feed),
    at: now,
  })
  return feedSeq
}

/** One for each device; what was ordered of it goes before what follows from the order of another. */
function changesOf(plans: readonly Plan<unknown>[]): Change[] {
  const all = [...plans, ...plans.flatMap(({ also = [] }) => also)].flatMap(({ change }) => change ?? [])
  const bySubject = new Map(all.toReversed().map((change) => [change.audit.subject, change]))
  return all.filter((change) => bySubject.get(change.audit.subject) === change)
}
