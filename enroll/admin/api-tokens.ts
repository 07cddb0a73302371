import { randomBytes } from 'node:crypto'
import { pageOf } from '../../contract/admin-api.ts'
import {
  type ApiTokenView,
  apiTokenView,
  createApiToken,
  listApiTokens as listQuery,
  newApiToken,
} from '../../contract/operator-api.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import {
  type ApiTokenRecord,
  deleteApiToken,
  getApiToken,
  listApiTokens,
  mintApiToken,
  writeApiToken,
} from '../registry/api-tokens.ts'
import type { Asked } from '../registry/asked.ts'
import type { AuditFact } from '../registry/audit-log.ts'
import { untilNoConflict } from '../registry/registry.ts'
import { readPage } from './paging.ts'
import { route } from './route.ts'

export const apiTokenRoutes = [
  route({
    method: 'GET',
    path: '/v1/api-tokens',
    role: 'viewer',
    summary: 'API tokens, without what is secret in them',
    answer: pageOf(apiTokenView),
    query: listQuery,
    handle: ({ query }, { registry }) =>
      readPage('api-tokens', query, (paging) => listApiTokens(registry, { ...query, ...paging }), show),
  }),
  route({
    method: 'POST',
    path: '/v1/api-tokens',
    // Whoever may make one may make one of every role: it is nobody below the highest.
    role: 'admin',
    summary: 'Make one; it is in this answer and never again',
    answer: newApiToken,
    problems: ['api_token_exists', 'conflict'],
    status: 201,
    body: createApiToken,
    handle: async ({ body: { name, role, ttlMs }, asked }, { registry }) => {
      const { token, digest } = mintApiToken(name, randomBytes)
      const doc: ApiTokenRecord = {
        ...{ name, digest, role, createdAt: asked.now.toISOString(), createdBy: asked.actor },
        expiresAt: new Date(asked.now.getTime() + ttlMs).toISOString(),
      }
      const { replayed } = await registry
        .commit({
          requestId: `${asked.requestId}-program`,
          digest: asked.digest,
          writes: [writeApiToken(doc, 0)],
          audit: [fact('apiToken.created', doc, asked)],
          at: asked.now,
        })
        .catch((cause: unknown) => {
          if (!isFleetError(cause, 'conflict') || cause.context.final) throw cause
          throw new FleetError('api_token_exists', `there is an API token ${name}; remove it, or take another name`, {
            cause,
          })
        })
      // Only the digest was kept, so the token of the first answer cannot be shown again.
      if (replayed)
        throw new FleetError('conflict', `this request made ${name} before; remove it, and ask for a new one`)
      return { ...show(doc), token }
    },
  }),
  route({
    method: 'DELETE',
    path: '/v1/api-tokens/:name',
    role: 'admin',
    summary: 'Remove one',
    answer: apiTokenView,
    problems: ['api_token_unknown', 'conflict'],
    // Its use is noted beside the answers, and would be a conflict just where somebody uses what is to go.
    handle: ({ params: { name = '' }, asked }, { registry }) =>
      untilNoConflict(async () => {
        const known = await getApiToken(registry, name)
        await registry.commit({
          requestId: `${asked.requestId}-program`,
          digest: asked.digest,
          writes: [deleteApiToken(known)],
          audit: [fact('apiToken.removed', known.doc, asked)],
          at: asked.now,
        })
        return show(known.doc)
      }),
  }),
]

const show = ({ digest: _digest, ...view }: ApiTokenRecord): ApiTokenView => view

const fact = (
  action: string,
  { name, role, expiresAt }: ApiTokenRecord,
  { actor, remoteAddress, requestId }: Asked,
): AuditFact => ({
  action,
  actor,
  subject: `api-token:${name}`,
  outcome: 'done',
  details: { role, expiresAt },
  remoteAddress,
  requestId,
})
