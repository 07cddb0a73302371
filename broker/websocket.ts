/** MQTT over WebSocket (MQTT 5, 6): the only file that knows ws. */
import { createServer, type IncomingMessage, type Server } from 'node:http'
import { Duplex } from 'node:stream'
import { type WebSocket, WebSocketServer } from 'ws'
import type { ProblemCode } from '../contract/problems.ts'
import { FleetError } from '../runtime/errors.ts'
import type { PeerSocket } from './peer.ts'

type WebSocketOptions = {
  /** From the end of TLS to the end of the upgrade. */
  upgradeTimeoutMs: number
  /** Of one WebSocket message, which may hold several packets or a part of one. */
  maxMessageBytes: number
  /** Of what is held for a peer that is not a device that was let in: a message under way may be a stranger's. */
  maxFirstBytes: number
  /** Unread output: a peer that pings and does not read is closed above it. */
  maxBufferedBytes: number
}

const path = '/mqtt'
const upgradeHelp = `this is MQTT over WebSocket: upgrade to it at ${path} with the subprotocol mqtt`
const unsupportedData = 1003 // RFC 6455 7.4.1
const tooBig = 1009
/** Each piece of a message that is held, a fragment or what came at once, takes hundreds of octets beside its own. */
const leastPieces = 256
const pieceBytes = 256
/** Of a ping from a client, around its payload: RFC 6455 5.2, 5.5. */
const pingHeadBytes = 6
/** A peer that is being refused has this long to read why. */
const lingerMs = 1_000

/** Who is behind a stream, for as long as it is none yet. */
export type WebSocketPeer = {
  /** Asked as long as the answer is no. */
  isLetIn(): boolean
  /** No stream comes of it. @returns what to tell the peer */
  refused(cause: ProblemCode, sentence: string): string
}

/** Turns TLS connections into streams of MQTT bytes. */
export class WebSocketEdge {
  readonly #options: WebSocketOptions
  readonly #http: Server
  readonly #upgrades: WebSocketServer
  readonly #streams = new WeakMap<Duplex, WebSocketStream>()

  constructor(options: WebSocketOptions) {
    this.#options = options
    const maxPieces = Math.max(leastPieces, Math.ceil(options.maxMessageBytes / pieceBytes))
    this.#upgrades = new WebSocketServer({
      noServer: true,
      clientTracking: false,
      perMessageDeflate: false,
      autoPong: false,
      maxPayload: options.maxMessageBytes,
      maxFragments: maxPieces,
      maxBufferedChunks: maxPieces,
      handleProtocols: (offered) => (offered.has('mqtt') ? 'mqtt' : 'mqttv3.1'),
    })
    this.#upgrades.on('wsClientError', (error, socket) => this.#refuse(socket, '400 Bad Request', error.message))
    this.#http = createServer({ maxHeaderSize: 8_192 })
    this.#http.on('upgrade', (request, socket, head) => this.#upgrade(request, socket, head))
    this.#http.on('request', ({ socket }) => this.#refuse(socket, '426 Upgrade Required', upgradeHelp))
    this.#http.on('clientError', (error, socket) => this.#refuse(socket, '400 Bad Request', error.message))
    this.#http.on('connect', (_request, socket) => this.#refuse(socket, '405 Method Not Allowed', upgradeHelp))
  }

  /** Reads the upgrade from `socket`; what comes behind it is the stream. */
  open(socket: PeerSocket, peer: WebSocketPeer): Duplex {
    const stream = new WebSocketStream(socket, peer, this.#options)
    this.#streams.set(socket, stream)
    this.#http.emit('connection', socket)
    return stream
  }

  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const { host = '', origin, 'sec-websocket-protocol': offered = '' } = request.headers
    const protocols = offered.split(',').map((name) => name.trim())
    if (request.url?.split('?', 1)[0] !== path) this.#refuse(socket, '404 Not Found', upgradeHelp)
    // A browser shows its user's certificate to whatever page asks for a connection, so the page has to be ours (RFC 6455 10.2).
    else if (origin !== undefined && hostOf(origin) !== hostOf(`https://${host}`))
      this.#refuse(socket, '403 Forbidden', 'pages of another origin may not connect')
    // [MQTT-6.0.0-3], [MQTT-6.0.0-4]; mqttv3.1 is what clients of that version say.
    else if (!protocols.includes('mqtt') && !protocols.includes('mqttv3.1'))
      this.#refuse(socket, '400 Bad Request', 'the subprotocol mqtt is wanted')
    else
      this.#upgrades.handleUpgrade(request, socket, head, (webSocket) => this.#streams.get(socket)?.upgraded(webSocket))
  }

  #refuse(socket: Duplex, status: string, sentence: string): void {
    const stream = this.#streams.get(socket)
    const told = stream?.refuse(`no WebSocket: ${sentence}`) ?? sentence
    if (socket.writable) {
      const upgrade = status.startsWith('426')
        ? 'Upgrade: websocket\r\nConnection: Upgrade, close'
        : 'Connection: close'
      const body = `${told}\n`
      const type = `Content-Type: text/plain\r\nContent-Length: ${Buffer.byteLength(body)}`
      socket.end(`HTTP/1.1 ${status}\r\n${upgrade}\r\n${type}\r\n\r\n${body}`)
    }
    stream?.destroy(new FleetError('handshake_failed', `no WebSocket: ${sentence}`))
  }
}

/** The bytes in one peer's binary messages, wherever their borders are [MQTT-6.0.0-2]. */
class WebSocketStream extends Duplex {
  readonly #socket: PeerSocket
  readonly #peer: WebSocketPeer
  readonly #options: WebSocketOptions
  readonly #deadline: NodeJS.Timeout
  #webSocket: WebSocket | undefined
  /** Arrived since the last whole message; counted until the peer is let in. */
  #heldBytes = 0

  constructor(socket: PeerSocket, peer: WebSocketPeer, options: WebSocketOptions) {
    super({ autoDestroy: false })
    this.#socket = socket
    this.#peer = peer
    this.#options = options
    const { upgradeTimeoutMs } = options
    this.#deadline = setTimeout(() => {
      this.destroy(new FleetError('handshake_failed', `no WebSocket within ${upgradeTimeoutMs} ms`))
      socket.destroy()
    }, upgradeTimeoutMs)
    socket.once('close', () => {
      if (this.#webSocket === undefined) this.destroy()
    })
  }

  refuse(sentence: string): string {
    return this.#peer.refused('handshake_failed', sentence)
  }

  upgraded(webSocket: WebSocket): void {
    clearTimeout(this.#deadline)
    this.#webSocket = webSocket
    this.#socket.prependListener('data', this.#count)
    webSocket.on('message', (data: Buffer, isBinary) => {
      this.#heldBytes = 0
      if (!isBinary) {
        webSocket.close(unsupportedData, 'MQTT is binary') // [MQTT-6.0.0-1]
        this.destroy(new FleetError('protocol_violation', 'a WebSocket message of text'))
      } else if (!this.push(data)) webSocket.pause()
    })
    webSocket.on('ping', (data) => {
      this.#heldBytes = Math.max(0, this.#heldBytes - pingHeadBytes - data.length)
      if (webSocket.bufferedAmount <= this.#options.maxBufferedBytes) webSocket.pong(data)
      else this.destroy(new FleetError('slow_reader', 'pings are sent and their answers not read'))
    })
    // ws has sent the close code that belongs to it.
    webSocket.on('error', (error) => this.destroy(new FleetError('protocol_violation', error.message)))
    webSocket.on('close', () => this.push(null))
    this.once('end', () => this.destroy())
  }

  #count = (chunk: Buffer): void => {
    this.#heldBytes += chunk.length
    const isLetIn = this.#peer.isLetIn()
    if (!isLetIn && this.#heldBytes <= this.#options.maxFirstBytes) return
    this.#socket.off('data', this.#count)
    if (isLetIn) return
    this.#webSocket?.close(tooBig)
    this.destroy(
      new FleetError('packet_too_large', `${this.#heldBytes} octets of a message from a peer that was not let in`),
    )
  }

  override _read(): void {
    this.#webSocket?.resume()
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    if (this.#webSocket?.readyState === 1) this.#webSocket.send(chunk, done)
    else done()
  }

  override _final(done: () => void): void {
    if (this.#webSocket === undefined) this.#socket.end()
    else this.#webSocket.close(1000)
    done()
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    clearTimeout(this.#deadline)
    if (error === null) this.#socket.destroy()
    else {
      const linger = setTimeout(() => this.#socket.destroy(), lingerMs)
      this.#socket.once('close', () => clearTimeout(linger))
    }
    done(error)
  }
}

function hostOf(url: string): string | undefined {
  return URL.canParse(url) ? new URL(url).host : undefined
}
