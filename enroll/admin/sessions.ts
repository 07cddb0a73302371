import {
  countEnded,
  endedCount,
  type KickReceipt,
  type KickSession,
  kickReceipt,
  kickSession,
  listSessions,
  sessionPage,
} from '../../contract/session-api.ts'
import { FleetError } from '../../runtime/errors.ts'
import { countEndedSince } from '../ca/receipts.ts'
import type { Asked } from '../registry/asked.ts'
import type { AuditFact } from '../registry/audit-log.ts'
import type { Registry } from '../registry/registry.ts'
import { route } from './route.ts'

export const sessionRoutes = [
  route({
    method: 'GET',
    path: '/v1/sessions',
    role: 'viewer',
    summary: 'Who is connected, as brokers tell when they are asked',
    answer: sessionPage,
    problems: ['not_found'],
    query: listSessions,
    handle: ({ query }, { feed }) => feed.questions.sessions(query),
  }),
  route({
    method: 'GET',
    path: '/v1/sessions/ended',
    role: 'viewer',
    summary: 'How many connections of these devices were ended since then',
    answer: endedCount,
    query: countEnded,
    handle: async ({ query: { deviceId, since } }, { registry, feed }) => {
      await feed.untilTaken()
      return countEndedSince(registry, { deviceIds: deviceId, since: new Date(since).toISOString() })
    },
  }),
  route({
    method: 'POST',
    path: '/v1/sessions/kick',
    role: 'operator',
    summary: 'End a session; the device may come back',
    answer: kickReceipt,
    problems: ['not_found', 'conflict'],
    body: kickSession,
    handle: async ({ body, asked }, { registry, feed, clock }) => {
      const { clientId, broker } = body
      await intend(registry, body, asked)
      const receipt = await feed.questions.kick(clientId, broker)
      await record(registry, { clientId, ...receipt }, { ...asked, now: clock() })
      if (receipt.kicked.length > 0) return receipt
      const { unheard } = receipt
      if (unheard.length === 0) throw new FleetError('not_found', `no live session has the client id ${clientId}`)
      const names = unheard.map(({ broker }) => broker).join(', ')
      throw new FleetError('unavailable', `no broker that answered has the client id ${clientId}; ${names} did not`)
    },
  }),
]

const fact = (clientId: string, { actor, remoteAddress, requestId }: Asked) => ({
  action: 'session.kicked',
  actor,
  subject: `device:${clientId.split(':', 1)[0]}`,
  remoteAddress,
  requestId,
})

/** Before any broker hears of it, so that no session is ended without a line. */
async function intend(registry: Registry, { clientId, broker }: KickSession, asked: Asked): Promise<void> {
  const { requestId, digest, now } = asked
  const details = { clientId, ...(broker === undefined ? {} : { broker }) }
  const { replayed } = await registry.commit({
    requestId: `${requestId}-kick`,
    digest,
    writes: [],
    audit: [{ ...fact(clientId, asked), outcome: 'intended', details }],
    at: now,
  })
  // The client may have come back since: it is not ended twice for one order.
  if (replayed) throw new FleetError('conflict', `that order was given before; see whether ${clientId} is connected`)
}

async function record(
  registry: Registry,
  { clientId, kicked, unheard }: KickReceipt & { clientId: string },
  asked: Asked,
): Promise<void> {
  const { requestId, digest, now } = asked
  const where = kicked.map(({ broker, listener, remoteAddress }) => `${broker} ${listener} ${remoteAddress}`)
  const result: Pick<AuditFact, 'outcome' | 'reason'> =
    kicked.length > 0
      ? { outcome: 'done' }
      : { outcome: 'refused', reason: unheard.length > 0 ? 'unavailable' : 'not_found' }
  await registry.commit({
    requestId: `${requestId}-kicked`,
    digest,
    writes: [],
    audit: [
      {
        ...fact(clientId, asked),
        ...result,
        details: { clientId, sessions: where, unheard: unheard.map(({ broker, why }) => `${broker} ${why}`) },
      },
    ],
    at: now,
  })
}
