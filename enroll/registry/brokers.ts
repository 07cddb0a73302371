import type { StaleBounds } from '../../contract/feed.ts'
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

export const removeBroker = ({ doc: { id }, rev }: Stored<BrokerRecord>): Write => ({
  kind: 'broker',
  id,
  expect: rev,
  doc: undefined,
})
