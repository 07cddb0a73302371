import { encodeLine, type FeedFact, genesis, maxLineBytes } from '../../contract/feed.ts'
import { FleetError } from '../../runtime/errors.ts'

/**
 * The text that the feed's chain is over.
 *
 * @throws FleetError `body_too_large` for an event that no broker would read: it would end the feed for all of them
 */
export function encodeFeed(fact: FeedFact, at: Date): string {
  const body = JSON.stringify({ at: at.toISOString(), type: fact.type, data: fact.data })
  // As a text inside of a line each of its characters takes two at most.
  if (2 * body.length + 1_000 < maxLineBytes) return body
  const line = encodeLine({ kind: 'event', seq: Number.MAX_SAFE_INTEGER, hash: genesis, body })
  if (line.length > maxLineBytes) {
    throw new FleetError(
      'body_too_large',
      `a ${fact.type} event of ${line.length} characters; the feed carries ${maxLineBytes}`,
    )
  }
  return body
}
