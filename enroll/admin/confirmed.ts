import { endedSince, recordReceipt } from '../ca/receipts.ts'
import type { Asked } from '../registry/asked.ts'
import type { AdminContext } from './route.ts'

type Change = {
  deviceId: string
  feedSeq: number
  revokedAt?: string
  heldAt?: string
  /** Of one that ends certificates and not their device: those. */
  serial?: string
  certificates: string[]
}

/**
 * A change that is on disk by now, with what the brokers say of it, after at most `waitMs`, and the connections that were ended since it was made, by
 * this call or an earlier one.
 */
export async function confirmed<T extends Change>(
  { registry, feed, lists, clock }: AdminContext,
  change: T,
  { waitMs, asked }: { waitMs: number; asked: Asked },
) {
  const { deviceId, feedSeq, revokedAt, heldAt, serial, certificates } = change
  const since = revokedAt ?? heldAt
  // Who repeats an order hears of the change that the first one made.
  const onDiskAt = registry.onDiskAt(feedSeq, asked.now)
  const committed: { committedMs?: number } =
    onDiskAt === undefined ? {} : { committedMs: sinceOrder(asked.now, onDiskAt, clock()) }
  const [brokers, crlNumber] = await Promise.all([
    feed.confirmations(feedSeq, waitMs, onDiskAt),
    since === undefined ? undefined : lists?.carriedAt(feedSeq, AbortSignal.timeout(waitMs)),
  ])
  await feed.untilTaken()
  const serials = serial === undefined ? undefined : [serial, ...certificates]
  // What was stolen may have been revoked before: its connections ended then.
  const { committedMs } = since === asked.now.toISOString() ? committed : {}
  const sessions = since === undefined ? [] : await endedSince(registry, { deviceId, since, serials, committedMs })
  const inForce = brokers.every(({ confirmed }) => confirmed)
  const carried = crlNumber === undefined ? {} : { crlNumber }
  if (waitMs > 0)
    await recordReceipt(
      registry,
      { subject: `device:${deviceId}`, certificates, feedSeq, ...committed, brokers, sessions, ...carried },
      asked,
    )
  return {
    ...change,
    inForce,
    ticketsVoid: inForce && since !== undefined,
    ...carried,
    ...committed,
    brokers,
    sessions,
  }
}

/** @param ms `performance.now()` @returns whole milliseconds: the order has no finer time */
const sinceOrder = (ordered: Date, ms: number, now: Date): number =>
  Math.max(0, Math.round(now.getTime() - (performance.now() - ms) - ordered.getTime()))
