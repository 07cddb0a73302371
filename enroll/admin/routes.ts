import { createHash, randomUUID } from 'node:crypto'
import { Readable } from 'node:stream'
import type { TLSSocket } from 'node:tls'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import type { z } from 'zod'
import { type Problem, type ProblemCode, problems, problemType } from '../../contract/problems.ts'
import { splitAddress } from '../../runtime/config.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import { type EdgeCredential, reachableHost, tlsOptions } from '../../runtime/https.ts'
import type { Log } from '../../runtime/log.ts'
import { describeIssue } from '../../runtime/yaml.ts'
import { type Caller, Doorkeeper, requireRole } from './auth.ts'
import { Streams } from './events.ts'
import { withNearNames } from './near-names.ts'
import type { AdminContext, Route } from './route.ts'
import { routes } from './table.ts'

const maxBodyBytes = 2 * 1024 * 1024

/** The admin API: JSON over TLS, for operators, by certificate, and for programs, by API token. */
export async function createAdmin(
  given: Omit<AdminContext, 'streams'>,
  options: { listen: string; credential: EdgeCredential; anchors: string[] },
): Promise<AsyncDisposable & { address: { host: string; port: number }; renew(credential: EdgeCredential): void }> {
  const context: AdminContext = { ...given, streams: new Streams() }
  const app = Fastify({
    https: { ...tlsOptions(options.credential, options.anchors), handshakeTimeout: 10_000 },
    bodyLimit: maxBodyBytes,
    requestTimeout: 15_000,
    forceCloseConnections: true,
    // Named to the caller and in the log, so it has to be one of a kind over restarts too.
    genReqId: () => randomUUID(),
    // Ids are judged by their handlers, in the words of a problem; the size of a request head bounds them.
    routerOptions: { maxParamLength: 65_536 },
    frameworkErrors: (error, request, reply) => sendProblem(error, request, reply, context.log),
  })
  app.server.on('tlsClientError', (_error, socket) => socket.destroy())
  app.server.on('secureConnection', (socket: TLSSocket) => context.peers.note(socket, 'admin'))
  app.addHook('onResponse', async ({ raw: { socket } }) => {
    if (context.peers.isLeaving(socket as TLSSocket)) socket.destroySoon()
  })
  app.setErrorHandler(async (error, request, reply) => {
    const told = await withNearNames(error, context.registry).catch(() => error)
    return sendProblem(told, request, reply, context.log)
  })
  app.setNotFoundHandler(async (request, reply) =>
    sendProblem(
      new FleetError('not_found', 'there is nothing here; the API is under /v1'),
      request,
      reply,
      context.log,
    ),
  )
  const doorkeeper = new Doorkeeper(context.registry)
  for (const row of routes) addRoute(app, row, context, doorkeeper)
  const { host, port } = splitAddress(options.listen)
  try {
    await app.listen({ host, port })
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    throw new FleetError(
      'port_in_use',
      `${options.listen} ${code === 'EADDRINUSE' ? 'is in use' : `cannot be listened on (${code})`}; choose another address or stop what uses it`,
      { cause },
    )
  }
  const bound = app.server.address()
  return {
    address: { host: reachableHost(host), port: typeof bound === 'object' && bound ? bound.port : port },
    renew: (credential) =>
      (app.server as unknown as { setSecureContext(options: object): void }).setSecureContext(
        tlsOptions(credential, options.anchors),
      ),
    [Symbol.asyncDispose]: () => app.close(),
  }
}

function addRoute(app: FastifyInstance, row: Route, context: AdminContext, doorkeeper: Doorkeeper): void {
  const admit = async (request: FastifyRequest): Promise<Caller> => {
    const { authorization } = request.headers
    const shown = { socket: request.raw.socket as TLSSocket, authorization, remoteAddress: request.ip }
    const caller = await doorkeeper.authenticate(shown, context.clock())
    requireRole(caller, row.role)
    const { name } = request.params as { name?: string }
    if (row.roleForOthers !== undefined && caller.actor !== `operator:${name}`) requireRole(caller, row.roleForOthers)
    return caller
  }
  const identify = async (request: FastifyRequest): Promise<void> => {
    Object.assign(request, { caller: await admit(request) })
  }
  app.route({
    method: row.method,
    url: row.path,
    // Before the body is read: a stranger gets nothing parsed.
    onRequest: identify,
    // And once more when it is there: who sends it slowly may have lost its standing, or its role, since.
    preHandler: row.method === 'GET' ? [] : identify,
    handler: async (request, reply) => {
      const key = request.headers['idempotency-key']
      const now = context.clock()
      const { caller } = request as FastifyRequest & { caller: Caller }
      const ended = new AbortController()
      reply.raw.once('close', () => ended.abort())
      const input = {
        params: request.params as Record<string, string>,
        query: row.query ? check(row.query, request.query) : undefined,
        body: row.body ? check(row.body, request.body ?? {}) : undefined,
        asked: {
          actor: caller.actor,
          remoteAddress: request.ip,
          ...(key === undefined
            ? { requestId: `admin-${randomUUID()}` }
            : { requestId: `key-${requireKey(key)}`, digest: digestOf(request) }),
          ifMatch: revisionOf(row, request.headers['if-match']),
          now,
        },
        tag: (rev: number) => {
          reply.header('ETag', `"${rev}"`)
        },
        signal: ended.signal,
        socket: request.raw.socket as TLSSocket,
        lastEventId: request.headers['last-event-id']?.toString(),
        requireStanding: async () => {
          await admit(request)
        },
      }
      // Also where nothing would be written, and so nobody else would notice.
      if (key !== undefined && row.method !== 'GET')
        await context.registry.requireSameRequest(input.asked.requestId, digestOf(request))
      const answer = await row.handle(input, row.method === 'GET' ? context : whileStanding(context, caller))
      if (row.media !== undefined) {
        const pieces = Readable.from(answer as AsyncIterable<string | Buffer>, { objectMode: false })
        return reply.type(row.media).header('Cache-Control', 'no-store').send(pieces)
      }
      return reply.code(row.status ?? 200).send(answer)
    },
  })
}

/** What somebody changes is in the log before what takes their standing away, or it is not made. */
function whileStanding(context: AdminContext, { standing }: Caller): AdminContext {
  const registry = context.registry.while(standing)
  return { ...context, registry, approvals: context.approvals.over(registry) }
}

function digestOf({ method, url, body }: FastifyRequest): string {
  return createHash('sha256')
    .update(JSON.stringify([method, url, body]))
    .digest('hex')
}

/** RFC 9110 13.1.1. */
function revisionOf(row: Route, ifMatch: string | undefined): number | undefined {
  if (ifMatch === undefined) return undefined
  const [, rev] = /^"(\d{1,15})"$/.exec(ifMatch) ?? []
  if (row.conditional && rev !== undefined) return Number(rev)
  throw new FleetError('request_malformed', row.conditional ? 'If-Match is one ETag' : 'this takes no If-Match')
}

function requireKey(key: string | string[]): string {
  if (typeof key === 'string' && /^[A-Za-z0-9-]{8,64}$/.test(key)) return key
  throw new FleetError('request_malformed', 'an Idempotency-Key is 8 to 64 letters, digits and -')
}

function check<S extends z.ZodType>(schema: S, value: unknown): z.output<S> {
  const result = schema.safeParse(value)
  if (result.success) return result.data
  throw new FleetError('request_malformed', result.error.issues.map(describeIssue).join('; '))
}

function sendProblem(error: unknown, request: FastifyRequest, reply: FastifyReply, log: Log): FastifyReply {
  const { code, message } = toFleetError(error)
  const { status, title } = problems[code]
  const fields = {
    event: status < 500 ? 'request.refused' : 'request.failed',
    reason: code,
    requestId: request.id,
    method: request.method,
    path: request.url.slice(0, 200),
    remoteAddress: request.ip,
    detail: message,
  }
  if (status < 500) log.info(fields, 'admin request refused')
  else log.error({ ...fields, err: error }, 'admin request failed')
  if (isFleetError(error) && typeof error.context.retryAfterSeconds === 'number') {
    reply.header('Retry-After', error.context.retryAfterSeconds)
  }
  // RFC 9110 11.6.1
  if (status === 401) reply.header('WWW-Authenticate', 'Bearer realm="fleetgate"')
  const problem: Problem = { type: problemType(code), title, status, detail: message, instance: request.id, code }
  return reply.code(status).type('application/problem+json').send(problem)
}

function toFleetError(error: unknown): { code: ProblemCode; message: string } {
  if (isFleetError(error)) return error
  const status = (error as { statusCode?: number }).statusCode ?? 500
  if (status === 413) return { code: 'body_too_large', message: `the body is larger than ${maxBodyBytes} bytes` }
  if (status === 415) return { code: 'media_type_unsupported', message: 'the content type is not application/json' }
  if (status < 500) {
    const what =
      (error as { code?: string }).code === 'FST_ERR_BAD_URL' ? 'path cannot be decoded' : 'request is not valid JSON'
    return { code: 'request_malformed', message: `the ${what}` }
  }
  return { code: 'internal', message: 'the service failed; the log has more under this request id' }
}
