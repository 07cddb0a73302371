import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { OcspAnswerKind } from '../contract/metrics.ts'
import type { StatusSettings } from '../contract/service-settings.ts'
import type { SignedList } from '../pki/crl.ts'
import { lengthOf } from '../pki/der.ts'
import { maxOcspRequestBytes, ocspFailure } from '../pki/ocsp.ts'
import { FleetError } from '../runtime/errors.ts'
import { listen } from '../runtime/https.ts'
import type { Log } from '../runtime/log.ts'
import { pathOf } from '../runtime/request-target.ts'
import type { OcspAnswer, OcspResponder } from './ca/ocsp-responder.ts'
import type { ListReaders } from './list-readers.ts'

/** What is served of one CA. */
export type Published = {
  /** DER of its certificate */
  certificate: Buffer
  /** @returns undefined for a file that there is not */
  find(file: string): SignedList | undefined
  /** Before that, lists that there are may not have been made yet. */
  isLoaded: boolean
}
type Options = {
  settings: Pick<StatusSettings, 'listen' | 'url' | 'maxAgeMs' | 'maxConnections'>
  /** by the name that stands in paths */
  authorities: ReadonlyMap<string, Published>
  ocsp: OcspResponder
  /** Hears of each OCSP answer. */
  answered: (kind: OcspAnswerKind) => void
  readers: ListReaders
  clock: () => Date
  log: Log
}
type Answer = {
  status: number
  headers: Record<string, string>
  parts: readonly Buffer[]
  /** To be called before the parts of a list are written. */
  sends?: (response: ServerResponse) => void
}
/** What a cache may know of an answer. */
type Kept = { thisUpdate: Date; nextUpdate: Date; etag: string }

const requestTimeoutMs = 10_000
const idleTimeoutMs = 30_000
/** Up to this size a body is copied behind its head. */
const joinedBytes = 4_096

/**
 * The status port: revocation lists, OCSP and CA certificates over plain HTTP, for everybody. All of it is signed, so
 * nothing is lost by the lack of TLS, and caches may stand before it.
 *
 * @throws FleetError `port_in_use`
 */
export async function createStatus(
  options: Options,
): Promise<AsyncDisposable & { address: { host: string; port: number } }> {
  const { log, settings } = options
  const prefix = new URL(settings.url).pathname.replace(/\/$/, '')
  const server: Server = createServer(
    {
      requestTimeout: requestTimeoutMs,
      headersTimeout: requestTimeoutMs,
      connectionsCheckingInterval: 1_000,
      keepAliveTimeout: 5_000,
      maxHeaderSize: 8_192,
    },
    (message, response) => {
      answer(message, prefix, options)
        .then((found) => send(message, response, found))
        .catch((err: unknown) => {
          if (response.headersSent || message.destroyed) return void response.destroy()
          log.error({ event: 'request.failed', err, path: message.url?.slice(0, 200) }, 'status request failed')
          send(message, response, refusal(503, 'unavailable: try again', { 'Retry-After': '5' }))
        })
    },
  )
  server.maxConnections = settings.maxConnections
  server.setTimeout(idleTimeoutMs)
  const address = await listen(server, settings.listen)
  return {
    address,
    async [Symbol.asyncDispose]() {
      await new Promise<void>((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      })
    },
  }
}

/** @param prefix a path of the URL, which a proxy may have taken away */
async function answer(message: IncomingMessage, prefix: string, options: Options): Promise<Answer> {
  const path = pathOf(message.url ?? '/')
  const [first = '', ...rest] = (path.startsWith(`${prefix}/`) ? path.slice(prefix.length) : path).slice(1).split('/')
  if (first === 'ocsp') return answerOcsp(message, rest.join('/'), options)
  const authority = options.authorities.get(first)
  const [file = ''] = rest
  if (authority === undefined || rest.length !== 1) return refusal(404, 'not_found: there is nothing here')
  if (message.method !== 'GET' && message.method !== 'HEAD') return notAllowed('GET, HEAD')
  if (file === 'ca.cer') return certificateOf(authority, options)
  const list = authority.find(file)
  if (list !== undefined) {
    const { thisUpdate, nextUpdate, number } = list
    const info = { thisUpdate, nextUpdate, etag: String(number) }
    const sends = (response: ServerResponse): void => options.readers.add(response, list, () => authority.find(file))
    return { ...kept(message, options, list.parts, 'application/pkix-crl', info), sends }
  }
  return authority.isLoaded
    ? refusal(404, 'not_found: there is no such list')
    : refusal(503, 'unavailable: the lists are being made', { 'Retry-After': '5' })
}

// RFC 5280 4.2.2.1, RFC 2585 3: one certificate, DER.
const certificateOf = ({ certificate }: Published, { settings }: Options): Answer => ({
  status: 200,
  headers: {
    'Content-Type': 'application/pkix-cert',
    'Cache-Control': `public, max-age=${seconds(settings.maxAgeMs)}`,
  },
  parts: [certificate],
})

/** RFC 9110 8.3.1: in any case, and with parameters, of which this one has none that mean anything. */
const ocspRequestType = /^application\/ocsp-request[ \t]*(;|$)/i

/** RFC 6960 appendix A: POST, or GET with base64 in the path. */
async function answerOcsp(message: IncomingMessage, encoded: string, options: Options): Promise<Answer> {
  const { ocsp, answered, clock, log } = options
  const isGet = message.method === 'GET' || message.method === 'HEAD'
  if (!isGet && message.method !== 'POST') return notAllowed('GET, HEAD, POST')
  if (!isGet && !ocspRequestType.test(message.headers['content-type'] ?? '')) {
    return refusal(415, 'media_type_unsupported: application/ocsp-request is wanted')
  }
  const request = isGet ? decodePath(encoded) : await readBody(message)
  if (request === undefined) return refusal(413, `body_too_large: more than ${maxOcspRequestBytes} bytes`)
  const {
    der,
    kind,
    kept: info,
  } = await ocsp.answer(request, clock()).catch((err: unknown): OcspAnswer => {
    log.error({ event: 'ocsp.failed', err }, 'OCSP answer failed')
    return { der: ocspFailure('tryLater'), kind: 'tryLater' }
  })
  answered(kind)
  const type = 'application/ocsp-response'
  if (isGet && info !== undefined) return kept(message, options, [der], type, info)
  // Signed for this one alone: those of one turn leave together. A write may wake a peer on this machine, a cache say, and to
  // do so between any two signatures takes longer than the answers.
  await nextTurn()
  return { status: 200, headers: { 'Content-Type': type, 'Cache-Control': 'no-store' }, parts: [der] }
}

/**
 * Clients leave `+`, `/` and `=` as they are or not (RFC 6960 A.1), and put a slash behind a URL that has one: no request
 * begins with it, a SEQUENCE begins with `M`. What cannot be decoded is no request, and refused as such by whoever reads it.
 */
function decodePath(encoded: string): Buffer {
  try {
    return Buffer.from(decodeURIComponent(encoded).replace(/^\/+/, ''), 'base64')
  } catch {
    return Buffer.alloc(0)
  }
}

/** @returns undefined when it is longer than any request */
function readBody(message: IncomingMessage): Promise<Buffer | undefined> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let size = 0
    message.on('data', (chunk: Buffer) => {
      size += chunk.length
      if (size <= maxOcspRequestBytes) chunks.push(chunk)
      else resolve(undefined)
    })
    message.on('end', () => resolve(Buffer.concat(chunks)))
    message.on('close', () => {
      if (!message.complete) reject(new FleetError('request_malformed', 'the connection ended inside the body'))
    })
  })
}

/** With what caches need (RFC 5019 6.2, RFC 9111), or 304 for one that has it already. */
function kept(
  message: IncomingMessage,
  { clock, settings }: Options,
  parts: readonly Buffer[],
  type: string,
  { thisUpdate, nextUpdate, etag }: Kept,
): Answer {
  const now = clock().getTime()
  const freshMs = Math.max(0, Math.min(settings.maxAgeMs, nextUpdate.getTime() - now))
  const headers = {
    'Content-Type': type,
    'Last-Modified': thisUpdate.toUTCString(),
    Expires: new Date(now + freshMs).toUTCString(),
    ETag: `"${etag}"`,
    'Cache-Control': `max-age=${seconds(freshMs)}, public, no-transform, must-revalidate`,
  }
  // If-Modified-Since is passed over: two lists may be of one second, and who has the first must not be told that it is the last.
  const known = message.headers['if-none-match']?.split(',').map((tag) => tag.trim().replace(/^W\//, ''))
  return known?.includes(headers.ETag) ? { status: 304, headers, parts: [] } : { status: 200, headers, parts }
}

const seconds = (ms: number): number => Math.floor(ms / 1_000)

const notAllowed = (allow: string): Answer =>
  refusal(405, `method_not_allowed: ${allow} is what there is`, { Allow: allow })

const refusal = (status: number, text: string, headers: Record<string, string> = {}): Answer => ({
  status,
  headers: { 'Content-Type': 'text/plain', 'Cache-Control': 'no-store', ...headers },
  parts: [Buffer.from(`${text}\n`)],
})

function send(message: IncomingMessage, response: ServerResponse, found: Answer): void {
  const { status, headers, parts, sends } = found
  // RFC 9110 8.6: a 304 has the length of what it stands for, or none.
  const length = status === 304 ? {} : { 'Content-Length': lengthOf(parts) }
  response.writeHead(status, { ...headers, ...length, ...(message.complete ? {} : { Connection: 'close' }) })
  if (message.method === 'HEAD' || parts.length === 0) return void response.end()
  sends?.(response)
  const [only, ...others] = parts
  // One piece for the socket, head and body, where a Buffer would be another one behind the head.
  if (only !== undefined && others.length === 0 && only.length <= joinedBytes)
    return void response.end(only.toString('latin1'), 'latin1')
  // Pieces of a list go to the socket as they are: a list of megabytes is not copied for anybody.
  for (const part of parts.slice(0, -1)) response.write(part)
  response.end(parts.at(-1))
}
