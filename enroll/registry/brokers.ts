import type { StaleBounds } from '../../contract/feed.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { Asked } from './asked.ts'
import type { Stored } from './engine.ts'
import type { Page, Paging, Registry, Write } from './registry.ts'

/** A broker that follows the feed, and the last event that it said is in force there. */
export type BrokerRecord = {
  id: string
  firstSeenAt: string
  lastSeenAt: string
  appliedSeq: number
  /** Absent of a broker that does not say. */
  bounds?: StaleBounds
  /** When it last asked for the head of the feed. While it follows, it is not written. */
  askedAt?: string
  /** How many restores this registry had had when it last followed this feed and no former one; absent for none. */
  forks?: number
}

export const findBroker = (registry: Registry, id: string): Promise<Stored<BrokerRecord> | undefined> =>
  registry.find('broker', id)

/** In id order. */
export const listBrokers = (registry: Registry, paging: Paging): Promise<Page<BrokerRecord>> =>
  registry.list('broker', { kind: 'broker' }, paging)

/** @param expect the revision it was read at; 0: it must not exist */
export const writeBroker = (doc: BrokerRecord, expect: number): Write => ({ kind: 'broker', id: doc.id, expect, doc })

/**
 * Nobody waits for this broker any more.
 *
 * @throws FleetError `not_found`
 */
export async function forgetBroker(registry: Registry, id: string, asked: Asked): Promise<void> {
  const { actor, remoteAddress, requestId, digest, now } = asked
  const known = await findBroker(registry, id)
  if (known === undefined) throw new FleetError('not_found', 'there is no such broker')
  await registry.commit({
    requestId: `${requestId}-forget`,
    digest,
    writes: [{ kind: 'broker', id, expect: known.rev, doc: undefined }],
    audit: [{ action: 'broker.forgotten', actor, subject: `broker:${id}`, outcome: 'done', remoteAddress, requestId }],
    at: now,
  })
}
