import { type CrlView, crlPage, publishReceipt } from '../../contract/crl-api.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { ServedList } from '../ca/revocation-lists.ts'
import { route } from './route.ts'

/** A million entries take less than a second; a key store that is away is asked again after five. */
const publishWithinMs = 20_000

export const crlRoutes = [
  route({
    method: 'GET',
    path: '/v1/crls',
    role: 'viewer',
    summary: 'Revocation lists that are served',
    answer: crlPage,
    handle: async (_input, { served }) => ({ items: served().map(viewOf) }),
  }),
  route({
    method: 'POST',
    path: '/v1/crls/publish',
    role: 'operator',
    summary: 'Sign all lists anew',
    answer: publishReceipt,
    problems: ['not_found', 'conflict'],
    handle: async ({ asked, signal }, { lists, registry }) => {
      if (lists === undefined)
        throw new FleetError('not_found', 'no lists are published: enroll.status.url is not configured')
      const { actor, remoteAddress, requestId, digest, now } = asked
      const subject = `authority:${lists.name}`
      const fact = { action: 'revocationLists.ordered', actor, subject, remoteAddress, requestId }
      const audit = [{ ...fact, outcome: 'done' as const }]
      await registry.commit({ requestId: `${requestId}-publish`, digest, writes: [], audit, at: now })
      const number = await lists.publish(AbortSignal.any([signal, AbortSignal.timeout(publishWithinMs)]))
      if (number !== undefined) return { number }
      throw new FleetError('unavailable', 'the lists could not be signed yet; the log of enroll says why')
    },
  }),
]

const viewOf = ({ authority, file, thisUpdate, nextUpdate, ...list }: ServedList): CrlView => ({
  name: `${authority}/${file}`,
  scope: list.scope,
  url: list.url,
  number: list.number,
  ...(list.base === undefined ? {} : { base: list.base }),
  thisUpdate: thisUpdate.toISOString(),
  nextUpdate: nextUpdate.toISOString(),
  entries: list.entries,
  bytes: list.bytes,
})
