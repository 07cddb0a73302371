import type { Stored } from './engine.ts'
import type { Registry, Write } from './registry.ts'

/**
 * Where this registry went on from a backup: the last feed event that the former one had in common with it, of each restore. Behind
 * that, the former one may have told brokers something else under the same numbers.
 */
export type FeedForksRecord = { lastCommon: number[] }

const only = 'feed'

export const findForks = (registry: Registry): Promise<Stored<FeedForksRecord> | undefined> =>
  registry.find('feedForks', only)

/** One more, behind this event. */
export async function addFork(registry: Registry, lastCommon: number): Promise<Write> {
  const known = await findForks(registry)
  const doc: FeedForksRecord = { lastCommon: [...(known?.doc.lastCommon ?? []), lastCommon] }
  return { kind: 'feedForks', id: only, expect: known?.rev ?? 0, doc }
}
