import type { Socket } from 'node:net'
import { createServer, type Server, type TLSSocket } from 'node:tls'
import { type EdgeCredential, listen, tlsOptions } from '../runtime/https.ts'
import type { Trust } from './authorities.ts'
import { type PeerEvidence, readEvidence } from './verification.ts'

type ListenerOptions = {
  listen: string
  credential: EdgeCredential
  trust: Trust
  handshakeTimeoutMs: number
  maxConnections: number
  onPeer: (socket: TLSSocket, evidence: PeerEvidence, remoteAddress: string) => void
  onRefused: (reason: 'handshake_failed' | 'too_many_connections', message: string, remoteAddress: string) => void
}

const keepAliveMs = 60_000

/** Accepts TLS and asks every peer for a certificate. It refuses none for it: that is for admission, which can say why. */
export class Listener implements AsyncDisposable {
  readonly #options: ListenerOptions
  readonly #server: Server
  readonly #handshakes = new Map<string, { socket: Socket; timer: NodeJS.Timeout }>()
  #closed: Promise<void> | undefined
  #credential: EdgeCredential
  #trust: Trust
  address!: { host: string; port: number }

  private constructor(options: ListenerOptions) {
    this.#options = options
    this.#credential = options.credential
    this.#trust = options.trust
    this.#server = createServer({ ...this.#contextOptions(), handshakeTimeout: options.handshakeTimeoutMs })
    this.#server.maxConnections = options.maxConnections
    this.#server.on('connection', (socket: Socket) => this.#watchHandshake(socket))
    this.#server.on('secureConnection', (socket) => this.#accept(socket))
    this.#server.on('tlsClientError', (error, socket) => {
      // Node reports a handshake that failed or timed out and leaves the socket open (trap T29).
      this.#options.onRefused('handshake_failed', error.message.slice(0, 200), socket.remoteAddress ?? 'unknown')
      socket.destroy()
    })
    this.#server.on('drop', (peer) =>
      this.#options.onRefused(
        'too_many_connections',
        `${options.maxConnections} connections are open`,
        peer?.remoteAddress ?? 'unknown',
      ),
    )
  }

  /** @throws FleetError `port_in_use` */
  static async open(options: ListenerOptions): Promise<Listener> {
    const listener = new Listener(options)
    listener.address = await listen(listener.#server, options.listen)
    listener.#server.on('error', (error) => options.onRefused('handshake_failed', error.message, 'unknown'))
    return listener
  }

  /** New handshakes are judged by this; earlier session tickets end here. */
  trust(trust: Trust): void {
    this.#trust = trust
    this.#server.setSecureContext(this.#contextOptions())
  }

  renew(credential: EdgeCredential): void {
    this.#credential = credential
    this.#server.setSecureContext(this.#contextOptions())
  }

  /** Takes no new connection from here on; resolves when the last one is gone. */
  stop(): Promise<void> {
    this.#closed ??= new Promise((resolve) => this.#server.close(() => resolve()))
    for (const { socket } of this.#handshakes.values()) socket.destroy()
    return this.#closed
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }

  #contextOptions() {
    return {
      ...tlsOptions(this.#credential, [...this.#trust.anchors]),
      // Of the name alone, so that resumption does not hang on how the process was started.
      sessionIdContext: 'fleetgate-broker',
    }
  }

  /** Node's own timeout starts again with every octet that trickles in; this one does not. */
  #watchHandshake(socket: Socket): void {
    const peer = peerOf(socket)
    const remoteAddress = socket.remoteAddress ?? 'unknown'
    const timer = setTimeout(() => {
      this.#options.onRefused('handshake_failed', `no TLS within ${this.#options.handshakeTimeoutMs} ms`, remoteAddress)
      socket.destroy()
    }, this.#options.handshakeTimeoutMs)
    this.#handshakes.set(peer, { socket, timer })
    socket.once('close', () => {
      if (this.#handshakes.get(peer)?.socket === socket) this.#handshakeOver(peer)
    })
  }

  #handshakeOver(peer: string): void {
    clearTimeout(this.#handshakes.get(peer)?.timer)
    this.#handshakes.delete(peer)
  }

  #accept(socket: TLSSocket): void {
    this.#handshakeOver(peerOf(socket))
    socket.on('error', () => socket.destroy())
    if (socket.destroyed) return
    // A renegotiation could change the certificate behind our back.
    socket.disableRenegotiation()
    socket.setNoDelay(true)
    socket.setKeepAlive(true, keepAliveMs) // for those who ask for no MQTT keep alive (trap T26)
    const { authorized, authorizationError } = socket
    const certificate = socket.getPeerX509Certificate()
    const evidence = readEvidence({ authorized, authorizationError, certificate }, (leaf) =>
      this.#trust.findIssuer(leaf, authorized),
    )
    this.#options.onPeer(socket, evidence, socket.remoteAddress ?? 'unknown')
  }
}

const peerOf = (socket: Socket): string => `${socket.remoteAddress} ${socket.remotePort}`
