import { randomBytes } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer } from 'node:https'
import type { AddressInfo, Server } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { splitAddress } from './config.ts'
import { FleetError } from './errors.ts'
import type { Log } from './log.ts'

/** What a peer asked, read whole: the handler never touches the socket's bytes. */
export type EdgeRequest = {
  id: string
  method: string
  path: string
  /** Lower-case names, as Node gives them. */
  headers: IncomingMessage['headers']
  body: Buffer
  remoteAddress: string
  /** DER of the client certificate, and OpenSSL's word on its chain (undefined: it is fine). */
  certificate: Buffer | undefined
  certificateFault: string | undefined
}

/** `headers` in the exact case to send: some EST clients compare names byte by byte. */
export type EdgeAnswer = { status: number; headers?: Record<string, string>; body?: string }

export type EdgeCredential = { key: string; passphrase?: string | undefined; cert: string }

type EdgeOptions = {
  listen: string
  credential: EdgeCredential
  /** PEM of every CA that a client's chain may be built from. */
  clientAuthorities: string[]
  maxBodyBytes: number
  maxConnections: number
  requestTimeoutMs: number
  handshakeTimeoutMs: number
  log: Log
  handle(request: EdgeRequest): Promise<EdgeAnswer>
  /** Renders what `handle` threw, and what was refused before it ran. */
  fail(error: unknown, request: { id: string; path: string }): EdgeAnswer
}

export type Edge = AsyncDisposable & {
  address: { host: string; port: number }
  renew(credential: EdgeCredential): void
}

/**
 * An HTTPS server for devices: TLS 1.2 and 1.3, a client certificate asked for but not demanded, everything bounded,
 * each answer in one write with a Content-Length.
 *
 * @throws FleetError `port_in_use`
 */
export async function createEdge(options: EdgeOptions): Promise<Edge> {
  const { log } = options
  const server = createServer({
    ...tlsOptions(options.credential, options.clientAuthorities),
    handshakeTimeout: options.handshakeTimeoutMs,
    requestTimeout: options.requestTimeoutMs,
    headersTimeout: Math.min(options.requestTimeoutMs, 10_000),
    connectionsCheckingInterval: Math.min(1_000, options.requestTimeoutMs),
    keepAliveTimeout: 15_000,
    maxHeaderSize: 8_192,
  })
  server.maxConnections = options.maxConnections
  server.maxRequestsPerSocket = 1_000
  server.on('tlsClientError', (error, socket) => {
    // Node only reports a handshake that timed out; closing the socket is left to the listener.
    log.debug({ event: 'handshake.failed', remoteAddress: socket.remoteAddress, err: error }, 'handshake failed')
    socket.destroy()
  })
  server.on('drop', (peer) =>
    log.warn(
      { event: 'connection.refused', reason: 'too_many_requests', remoteAddress: peer?.remoteAddress },
      'connection refused',
    ),
  )
  server.on('clientError', (error: NodeJS.ErrnoException, socket) => {
    const status =
      error.code === 'HPE_HEADER_OVERFLOW'
        ? '431 Request Header Fields Too Large'
        : error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
          ? '408 Request Timeout'
          : '400 Bad Request'
    log.debug({ event: 'request.malformed', code: error.code }, 'request malformed')
    if (socket.writable) socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`)
    else socket.destroy()
  })
  server.on('request', (message: IncomingMessage, response: ServerResponse) => void answer(message, response, options))
  const address = await listen(server, options.listen)
  return {
    address,
    renew: (credential) => server.setSecureContext(tlsOptions(credential, options.clientAuthorities)),
    async [Symbol.asyncDispose]() {
      await new Promise<void>((resolve) => {
        server.close(() => resolve())
        server.closeIdleConnections()
        setTimeout(() => server.closeAllConnections(), 2_000).unref()
      })
    },
  }
}

async function answer(message: IncomingMessage, response: ServerResponse, options: EdgeOptions): Promise<void> {
  const id = randomBytes(8).toString('hex')
  const path = (message.url ?? '/').split('?', 1)[0]!
  const log = options.log.child({ requestId: id })
  const started = performance.now()
  let result: EdgeAnswer
  try {
    const body = await readBody(message, options.maxBodyBytes)
    const socket = message.socket as TLSSocket
    const certificate = socket.getPeerX509Certificate()
    result = await options.handle({
      id,
      method: message.method ?? 'GET',
      path,
      headers: message.headers,
      body,
      remoteAddress: socket.remoteAddress ?? 'unknown',
      certificate: certificate?.raw,
      certificateFault: socket.authorized ? undefined : String(socket.authorizationError ?? 'unauthorized'),
    })
  } catch (error) {
    if (message.destroyed && !message.complete) return
    result = options.fail(error, { id, path })
  }
  const body = result.body ?? ''
  const headers: Record<string, string> = { ...result.headers, 'Content-Length': String(Buffer.byteLength(body)) }
  // What is left of an unread body would be taken for the next request.
  if (!message.complete) headers.Connection = 'close'
  response.writeHead(result.status, headers)
  response.end(message.method === 'HEAD' ? undefined : body)
  log.debug(
    {
      event: 'request.answered',
      method: message.method,
      path: path.slice(0, 200),
      status: result.status,
      durationMs: Math.round(performance.now() - started),
    },
    'request answered',
  )
}

function readBody(message: IncomingMessage, maxBytes: number): Promise<Buffer> {
  const tooLarge = (): FleetError => new FleetError('body_too_large', `the body is larger than ${maxBytes} bytes`)
  if (Number(message.headers['content-length'] ?? 0) > maxBytes) return Promise.reject(tooLarge())
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let size = 0
    message.on('data', (chunk: Buffer) => {
      size += chunk.length
      if (size <= maxBytes) chunks.push(chunk)
      else {
        // Not destroyed: the peer is to read the 413 first.
        message.pause().removeAllListeners('data')
        reject(tooLarge())
      }
    })
    message.on('end', () => resolve(Buffer.concat(chunks)))
    message.on('error', reject)
    message.on('close', () => reject(new FleetError('request_malformed', 'the connection ended inside the body')))
  })
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
  }
}

/** @throws FleetError `port_in_use` with the address */
export function listen(server: Server, address: string): Promise<{ host: string; port: number }> {
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
    server.listen(port, host, () => {
      server.off('error', failed)
      resolve({ host, port: (server.address() as AddressInfo).port })
    })
  })
}

/** The host that a client on this machine can use for a listen address. */
export const reachableHost = (host: string): string => (host === '0.0.0.0' || host === '::' ? 'localhost' : host)
