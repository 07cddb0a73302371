import { createHash } from 'node:crypto'
import { FleetError } from '../../runtime/errors.ts'
import type { Page, Paging } from '../registry/registry.ts'

type Query = { cursor?: string | undefined; limit: number }

/**
 * One page of a list. Its cursor is good for the same list and the same filter alone: with another it would stand somewhere, and
 * leave things out without a word.
 *
 * @param list its name
 * @throws FleetError `request_malformed` for a cursor that is not of it
 */
export async function readPage<Q extends Query, T, V>(
  list: string,
  { cursor, limit, ...filter }: Q,
  read: (paging: Paging) => Promise<Page<T>>,
  show: (doc: T) => V,
): Promise<{ items: V[]; next?: string }> {
  const digest = createHash('sha256')
    .update(JSON.stringify([list, filter]))
    .digest('base64url')
    .slice(0, digestLength)
  const { items, next } = await read({ after: positionOf(cursor, digest), limit })
  const shown = items.map(({ doc }) => show(doc))
  return next === undefined
    ? { items: shown }
    : { items: shown, next: digest + Buffer.from(next).toString('base64url') }
}

const digestLength = 11

/** A position that was made up stays within its list: the registry sees to that. */
function positionOf(cursor: string | undefined, digest: string): string | undefined {
  if (cursor === undefined) return undefined
  if (cursor.startsWith(digest)) return Buffer.from(cursor.slice(digestLength), 'base64url').toString('latin1')
  throw new FleetError('request_malformed', 'cursor is not of this list with this filter; begin without one')
}
