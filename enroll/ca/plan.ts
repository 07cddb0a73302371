import type { FeedFact } from '../../contract/feed.ts'
import { FleetError } from '../../runtime/errors.ts'
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
 * @param plan makes them, of what there is when it is called
 * @returns the plans, and the feed's number at which it has all of it
 * @throws FleetError `conflict` when something they rest on has changed, and, for good, when this request was carried out before and
 *   that has been taken back since: nobody is to be told that a device is out which is in
 */
export async function carryOut<P extends Plan<unknown>>(
  registry: Registry,
  plan: () => Promise<readonly P[]>,
  { requestId, digest, now }: Pick<Asked, 'requestId' | 'digest' | 'now'>,
): Promise<{ plans: readonly P[]; feedSeq: number }> {
  const plans = await plan()
  const changes = changesOf(plans)
  if (changes.length === 0) return { plans, feedSeq: (await registry.head()).feed.seq }
  // Two devices may have had one key: it is watched once.
  const writes = new Map(
    changes.flatMap((change) => change.writes.map((write) => [`${write.kind} ${write.id}`, write])),
  )
  const { feedSeq, replayed } = await registry.commit({
    requestId,
    digest,
    writes: [...writes.values()],
    audit: changes.map(({ audit }) => audit),
    feed: changes.flatMap(({ feed }) => feed),
    at: now,
  })
  if (replayed && changesOf(await plan()).length > 0) {
    const sentence = 'this Idempotency-Key was used for this before, and it has been taken back since; use another key'
    throw new FleetError('conflict', sentence, { context: { final: true } })
  }
  return { plans, feedSeq }
}

/** One for each device; what was ordered of it goes before what follows from the order of another. */
function changesOf(plans: readonly Plan<unknown>[]): Change[] {
  const all = [...plans, ...plans.flatMap(({ also = [] }) => also)].flatMap(({ change }) => change ?? [])
  const bySubject = new Map(all.toReversed().map((change) => [change.audit.subject, change]))
  return all.filter((change) => bySubject.get(change.audit.subject) === change)
}
