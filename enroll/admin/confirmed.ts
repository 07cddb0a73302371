import type { FeedServer } from '../feed-server.ts'

/** A change with what the brokers say of it, after at most `waitMs`. */
export async function confirmed<T extends { feedSeq: number }>(feed: FeedServer, change: T, waitMs: number) {
  const brokers = await feed.confirmations(change.feedSeq, waitMs)
  return { ...change, inForce: brokers.every(({ confirmed }) => confirmed), brokers }
}
