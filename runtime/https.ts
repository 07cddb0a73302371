import { constants, type KeyObject, X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { type IncomingMessage, type ServerResponse, STATUS_CODES } from 'node:http'
import { createServer } from 'node:https'
import { type AddressInfo, isIP, type Server, type Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import type { ProblemCode } from '../contract/problems.ts'
import { channelBindingOf } from './channel-binding.ts'
import { splitAddress } from './config.ts'
import { FleetError } from './errors.ts'
import { networkOf } from './limits.ts'
import type { Log } from './log.ts'
import { LogLimit } from './log-limit.ts'
import { randomOctets } from './random.ts'
import { pathOf, requireClear } from './request-target.ts'

/** What a peer asked, read whole: the handler never touches the socket's bytes. */
export type EdgeRequest = {
  id: string
  method: string
  path: string
  /** Lower-case names, as Node gives them. */
  headers: IncomingMessage['headers']
  body: Buffer
  remoteAddress: string
  /** DER of the client certificate, one object for each connection, and OpenSSL's word on its chain (undefined: it is fine). */
  certificate: Buffer | undefined
  certificateFault: string | undefined
  /** The key of the client certificate, as the handshake has read it. */
  certificateKey(): KeyObject | undefined
  /** What names this TLS connection and no other; undefined where nothing does so safely. */
  channelBinding(): Buffer | undefined
}

/** What is known of a request before its body, which is all there is when the body is refused. */
export type EdgeRequestHead = Omit<EdgeRequest, 'body'>

/**
 * `headers` in the exact case to send: some EST clients compare names byte by byte. A body of octets is overwritten once it
 * is sent: there may be a key in it.
 */
export type EdgeAnswer = { status: number; headers?: Record<string, string>; body?: string | Buffer }

export type EdgeCredential = { key: string; passphrase?: string | undefined; cert: string }

type EdgeOptions = {
  listen: string
  credential: EdgeCredential
  /** PEM of every CA that a client's chain may be built from; asked again at every renewal. */
  clientAuthorities: () => string[]
  maxBodyBytes: number
  maxConnections: number
  /** for an IPv6 peer, its /64 */
  maxConnectionsPerAddress: number
  requestTimeoutMs: number
  handshakeTimeoutMs: number
  log: Log
  /** Of who waits to be asked for its body: throws what can be refused without one. */
  admit(request: EdgeRequestHead): Promise<void>
  handle(request: EdgeRequest): Promise<EdgeAnswer>
  /** Renders what was thrown, here or by `handle`; of octets that are no request, path and method are empty. It does not throw. */
  fail(error: unknown, request: EdgeRequestHead): EdgeAnswer | Promise<EdgeAnswer>
  /** Of a peer that never came to asking. @returns the id under which that can be asked about */
  drop(cause: ProblemCode, message: string, remoteAddress: string): string
}

export type Edge = AsyncDisposable & {
  address: { host: string; port: number }
  /** For connections that are made from now on. */
  renew(credential: EdgeCredential): void
}

/** How long, and for how much, a peer that is being refused may go on talking: it has to come to reading the answer. */
const linger = { ms: 1_000, bytes: 1_048_576 }
const drainMs = 2_000
const maxHeaderBytes = 8_192
/** Node reads on while requests are handled, and keeps what they brought. Nobody who enrolls asks before it has its answer. */
const maxUnanswered = 8

/**
 * An HTTPS server for devices: TLS 1.2 and 1.3, a client certificate asked for but not demanded, everything bounded,
 * each answer in one write with a Content-Length.
 *
 * @throws FleetError `port_in_use`
 */
export async function createEdge(options: EdgeOptions): Promise<Edge> {
  const { log } = options
  let own = new X509Certificate(options.credential.cert)
  const isOwnName = (host: string): boolean => (isIP(host) ? own.checkIP(host) : own.checkHost(host)) !== undefined
  const server = createServer({
    ...tlsOptions(options.credential, options.clientAuthorities()),
    handshakeTimeout: options.handshakeTimeoutMs,
    requestTimeout: options.requestTimeoutMs,
    headersTimeout: Math.min(options.requestTimeoutMs, 10_000),
    connectionsCheckingInterval: Math.min(1_000, options.requestTimeoutMs),
    keepAliveTimeout: 15_000,
    maxHeaderSize: maxHeaderBytes,
    // Node answers its lack past every limit and record; requireClear looks.
    requireHostHeader: false,
    // RFC 7301 3.2: a client that speaks HTTP/1.0 alone says so, and is closed unless that is on the list.
    ALPNProtocols: ['http/1.1', 'http/1.0'],
  })
  server.maxConnections = options.maxConnections
  server.maxRequestsPerSocket = 1_000
  server.on('tlsClientError', (error, socket) => {
    // Node only reports a handshake that timed out; closing the socket is left to the listener.
    const { remoteAddress = 'unknown' } = socket
    const denial = options.drop('handshake_failed', error.message.slice(0, 200), remoteAddress)
    log.debug({ event: 'handshake.failed', remoteAddress, denial, err: error }, 'handshake failed')
    socket.destroy()
  })
  // Node's own lists leave out a peer in its handshake and one that has not asked anything yet.
  const connections = new Set<Socket>()
  const idle = new Set<TLSSocket>()
  let closing = false
  const ofNetwork = new Map<string, number>()
  server.on('connection', (socket: Socket) => {
    const network = networkOf(socket.remoteAddress ?? 'unknown')
    const open = ofNetwork.get(network) ?? 0
    if (open >= options.maxConnectionsPerAddress) {
      noteDrop(socket.remoteAddress)
      return void socket.destroy()
    }
    connections.add(socket)
    ofNetwork.set(network, open + 1)
    socket.once('close', () => {
      connections.delete(socket)
      const left = ofNetwork.get(network)! - 1
      if (left > 0) ofNetwork.set(network, left)
      else ofNetwork.delete(network)
    })
  })
  server.on('secureConnection', (socket) => {
    idle.add(socket)
    socket.once('close', () => idle.delete(socket))
  })
  const drops = new LogLimit({ burst: 20, everyMs: 10_000 })
  const noteDrop = (remoteAddress = 'unknown'): void => {
    const reason = 'too_many_connections'
    const denial = options.drop(reason, 'too many connections are open', remoteAddress)
    const told = drops.take(networkOf(remoteAddress), performance.now())
    const fields = { event: 'connection.refused', reason, denial, remoteAddress, ...told }
    if (told) log.warn(fields, 'connection refused')
  }
  server.on('drop', (peer) => noteDrop(peer?.remoteAddress))
  const serving = {
    sending: { ...options, isOwnName, isWaiting: false },
    waiting: { ...options, isOwnName, isWaiting: true },
  }
  const unanswered = new WeakMap<Socket, Set<ServerResponse>>()
  const broken = new WeakSet<Socket>()
  server.on('clientError', (error: NodeJS.ErrnoException & { reason?: string }, peer) => {
    const socket = peer as TLSSocket
    if (broken.has(socket)) return // what comes after the octets that were no request
    broken.add(socket)
    const [code, sentence] = unreadable[error.code ?? ''] ?? [
      'request_malformed' as const,
      `this is no HTTP request: ${error.reason ?? 'it broke off'}`,
    ]
    // Nobody hears an answer, or nobody has asked.
    if (!socket.writable || socket.bytesRead === 0) {
      const denial = options.drop(code, error.message.slice(0, 200), socket.remoteAddress ?? 'unknown')
      log.debug({ event: 'request.malformed', code: error.code, denial }, 'request malformed')
      return void socket.destroy()
    }
    refuseUnread(socket, new FleetError(code, sentence, { cause: error }))
  })
  // Node would close it without an answer.
  server.on('connect', (_message, socket) =>
    refuseUnread(socket as TLSSocket, new FleetError('request_malformed', 'this is no proxy: CONNECT leads nowhere')),
  )
  const refuseUnread = (socket: TLSSocket, error: FleetError): void =>
    void answerUnread(socket, error).catch((err: unknown) => {
      log.error({ event: 'request.failed', err }, 'request failed')
      socket.destroy()
    })
  const answerUnread = async (socket: TLSSocket, error: FleetError): Promise<void> => {
    const open = [...(unanswered.get(socket) ?? [])]
    // RFC 9112 9.3.2: answers come in the order of their requests.
    await Promise.all(open.filter(({ req }) => req.complete).map((response) => once(response, 'close')))
    if (open.some(({ req, headersSent }) => !req.complete && headersSent)) return // refused already
    const answer = await options.fail(error, { ...headOf(socket), method: '', path: '', headers: {} })
    if (!socket.writable) return void socket.destroy()
    socket.end(wireOf(answer))
    // A peer that never ends its own half would keep the socket for ever.
    setTimeout(() => socket.destroy(), linger.ms).unref()
  }
  const serve = (message: IncomingMessage, response: ServerResponse, isWaiting = false): void => {
    const socket = message.socket as TLSSocket
    if (socket.destroyed) return // what stood behind the request that was one too many
    const open = unanswered.get(socket) ?? new Set()
    if (open.size >= maxUnanswered) {
      const told = `more than ${maxUnanswered} requests of one connection wait for their answers`
      options.drop('too_many_requests', told, socket.remoteAddress ?? 'unknown')
      return void socket.destroy()
    }
    unanswered.set(socket, open.add(response))
    idle.delete(socket)
    response.once('close', () => {
      open.delete(response)
      if (closing) socket.destroySoon()
      else if (!socket.destroyed) idle.add(socket)
    })
    answer(message, response, isWaiting ? serving.waiting : serving.sending).catch((err: unknown) => {
      log.error({ event: 'request.failed', err }, 'request failed')
      response.destroy()
    })
  }
  server.on('request', (message, response) => serve(message, response))
  // RFC 9110 10.1.1: an expectation that nobody knows may be passed over. Node would answer 417, past every limit and record.
  server.on('checkExpectation', (message, response) => serve(message, response))
  server.on('checkContinue', (message, response) => serve(message, response, true))
  const address = await listen(server, options.listen)
  return {
    address,
    renew(credential) {
      server.setSecureContext(tlsOptions(credential, options.clientAuthorities()))
      own = new X509Certificate(credential.cert)
    },
    async [Symbol.asyncDispose]() {
      await new Promise<void>((resolve) => {
        closing = true
        server.close(() => resolve())
        for (const socket of idle) socket.destroy()
        setTimeout(() => {
          for (const socket of connections) socket.destroy()
        }, drainMs).unref()
      })
    },
  }
}

/** By the code of Node's error. */
const unreadable: Partial<Record<string, [ProblemCode, string]>> = {
  HPE_HEADER_OVERFLOW: ['headers_too_large', `the headers are longer than ${maxHeaderBytes} bytes`],
  ERR_HTTP_REQUEST_TIMEOUT: ['request_timeout', 'the request did not become complete in time'],
}

/** What there is no response object for. */
function wireOf({ status, headers, body = '' }: EdgeAnswer): string {
  const lines = Object.entries({
    ...headers,
    Date: new Date().toUTCString(),
    'Content-Length': Buffer.byteLength(body),
    Connection: 'close',
  }).map(([name, value]) => `${name}: ${value}`)
  return [`HTTP/1.1 ${status} ${STATUS_CODES[status]}`, ...lines, '', body].join('\r\n')
}

/** `isWaiting`: the client holds its body back until it is asked for (RFC 9110 10.1.1). */
type Serving = EdgeOptions & { isOwnName(host: string): boolean; isWaiting: boolean }

async function answer(message: IncomingMessage, response: ServerResponse, options: Serving): Promise<void> {
  const started = performance.now()
  const socket = message.socket as TLSSocket
  const path = pathOf(message.url ?? '/')
  const head = { ...headOf(socket), method: message.method ?? 'GET', path, headers: message.headers }
  let result: EdgeAnswer
  try {
    requireClear(message, options.isOwnName)
    requireFitting(message, options.maxBodyBytes)
    if (options.isWaiting) {
      await options.admit(head)
      if (socket.destroyed) return
      response.writeContinue()
    }
    result = await options.handle({ ...head, body: await readBody(message, options.maxBodyBytes) })
  } catch (error) {
    if (message.destroyed && !message.complete) return
    result = await options.fail(error, head)
  }
  const body = result.body ?? ''
  // RFC 9110 8.6: a 204 has no Content-Length.
  const octets = Buffer.byteLength(body)
  const length = result.status === 204 ? {} : { 'Content-Length': String(octets) }
  const headers: Record<string, string> = { ...result.headers, ...length }
  if (!message.complete) headers.Connection = 'close'
  // Node waits for ever for a peer that does not read.
  const unread = setTimeout(() => socket.destroy(), options.requestTimeoutMs)
  response.once('close', () => {
    clearTimeout(unread)
    if (Buffer.isBuffer(body)) body.fill(0)
  })
  response.writeHead(result.status, headers)
  // A text of ASCII is the same in both, and is written in half the time where nobody has to look for what is longer.
  if (message.complete) response.end(message.method === 'HEAD' ? '' : body, octets === body.length ? 'latin1' : 'utf8')
  else refuseRest(message, response, body)
  options.log.debug(
    {
      event: 'request.answered',
      requestId: head.id,
      method: message.method,
      path: path.slice(0, 200),
      status: result.status,
      durationMs: Math.round(performance.now() - started),
    },
    'request answered',
  )
}

/** Of the connection. */
const headOf = (socket: TLSSocket): Omit<EdgeRequestHead, 'method' | 'path' | 'headers'> => ({
  id: randomOctets(8).toString('hex'),
  remoteAddress: socket.remoteAddress ?? 'unknown',
  certificate: certificateOf(socket)?.raw,
  certificateFault: socket.authorized ? undefined : String(socket.authorizationError ?? 'unauthorized'),
  certificateKey: () => certificateOf(socket)?.publicKey,
  channelBinding: () => channelBindingOf(socket, 'server'),
})

const certificates = new WeakMap<TLSSocket, X509Certificate | undefined>()

/** The same octets for all requests of a connection: what is shown is shown in its handshake, and there is no second one. */
function certificateOf(socket: TLSSocket): X509Certificate | undefined {
  if (!certificates.has(socket)) certificates.set(socket, socket.getPeerX509Certificate())
  return certificates.get(socket)
}

const tooLarge = (maxBytes: number): FleetError =>
  new FleetError('body_too_large', `the body is larger than ${maxBytes} bytes`)

function requireFitting({ headers }: IncomingMessage, maxBytes: number): void {
  if (Number(headers['content-length'] ?? 0) > maxBytes) throw tooLarge(maxBytes)
}

function readBody(message: IncomingMessage, maxBytes: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    // One piece of memory: a chunk may be a single octet, which as an object of its own takes hundreds.
    let held: Buffer = Buffer.alloc(0)
    let size = 0
    message.on('data', (chunk: Buffer) => {
      const wanted = size + chunk.length
      if (wanted > maxBytes) {
        message.pause()
        reject(tooLarge(maxBytes))
        return
      }
      // Most bodies are one chunk, that has been read for them alone.
      if (size === 0 && chunk.length === Number(message.headers['content-length'])) {
        held = chunk
        size = chunk.length
        return
      }
      if (wanted > held.length) {
        const larger = Buffer.allocUnsafeSlow(Math.min(maxBytes, Math.max(1_024, wanted * 2)))
        held.copy(larger, 0, 0, size)
        held = larger
      }
      chunk.copy(held, size)
      size = wanted
    })
    message.on('end', () => resolve(held.subarray(0, size)))
    message.on('error', reject)
    message.on('close', () => {
      if (!message.complete) reject(new FleetError('request_malformed', 'the connection ended inside the body'))
    })
  })
}

/**
 * Answers a peer that is still sending. The connection is not closed at once: what arrives at a closed one is met with a
 * reset, and that throws away the answer before it is read.
 */
function refuseRest(message: IncomingMessage, response: ServerResponse, body: string | Buffer): void {
  response.write(body)
  const end = (): void => {
    clearTimeout(timer)
    response.end()
  }
  const timer = setTimeout(end, linger.ms)
  let size = 0
  message.removeAllListeners('data').on('data', (chunk: Buffer) => {
    size += chunk.length
    if (size > linger.bytes) end()
  })
  message.once('end', end).once('close', end).resume()
}

/** TLS settings shared by every listener that asks its clients for a certificate and decides about it itself. */
export function tlsOptions(credential: EdgeCredential, clientAuthorities: string[]) {
  return {
    key: credential.key,
    ...(credential.passphrase === undefined ? {} : { passphrase: credential.passphrase }),
    cert: credential.cert,
    ca: clientAuthorities,
    requestCert: true,
    rejectUnauthorized: false,
    minVersion: 'TLSv1.2' as const,
    // What is known of a peer is of its first handshake.
    secureOptions: constants.SSL_OP_NO_RENEGOTIATION,
  }
}

/** @throws FleetError `port_in_use` with the address */
export function listen(
  server: Server,
  address: string,
  { reusePort = false }: { reusePort?: boolean } = {},
): Promise<{ host: string; port: number }> {
  const { host, port } = splitAddress(address)
  return new Promise((resolve, reject) => {
    const failed = (error: NodeJS.ErrnoException): void => {
      const why =
        error.code === 'EADDRINUSE'
          ? 'is in use'
          : error.code === 'EACCES'
            ? 'needs more rights'
            : `cannot be listened on (${error.code})`
      reject(
        new FleetError('port_in_use', `${address} ${why}; choose another address or stop what uses it`, {
          cause: error,
        }),
      )
    }
    server.once('error', failed)
    server.listen({ port, host, reusePort }, () => {
      server.off('error', failed)
      resolve({ host, port: (server.address() as AddressInfo).port })
    })
  })
}

/** The host that a client on this machine can use for a listen address. */
export const reachableHost = (host: string): string => (host === '0.0.0.0' || host === '::' ? 'localhost' : host)
