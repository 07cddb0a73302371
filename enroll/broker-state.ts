import type { StaleBounds } from '../contract/feed.ts'

/**
 * Up to when a broker that hears nothing more of us lets devices in, and goes on with sessions; null: without end. Absent of
 * a broker that does not say.
 */
export type Ends = { admitsUntil?: string | null | undefined; servesUntil?: string | null | undefined }
export type BrokerState = { id: string; connected: boolean; appliedSeq: number; lastSeenAt: string } & Ends
export type Confirmation = Ends & {
  broker: string
  connected: boolean
  confirmed: boolean
  confirmedMs?: number
  /** Of one that is not connected. */
  lastSeenAt?: string
}

/** @param askedAt when it last asked for the head of the feed */
export function endsOf(bounds: StaleBounds | undefined, askedAt: Date): Ends {
  if (bounds === undefined) return {}
  const end = (ms: number | null): string | null =>
    ms === null ? null : new Date(askedAt.getTime() + ms).toISOString()
  return { admitsUntil: end(bounds.admitsMs), servesUntil: end(bounds.servesMs) }
}
