import { createServer as createPlainServer, type Server as PlainServer, type Socket } from 'node:net'
import { createServer, type Server, type TLSSocket } from 'node:tls'
import { type EdgeCredential, listen, tlsOptions } from '../runtime/https.ts'
import { type Comer, HandshakeTurns } from './handshake-turns.ts'
import type { HandshakeRefusal, PeerFacts, PeerSocket } from './peer.ts'
import { addressList, readProxyHeader } from './proxy-protocol.ts'

/** What a handshake is made with. */
export type TlsContext = {
  credential: EdgeCredential
  /** PEM of every CA that a client's chain may be built from. */
  anchors: readonly string[]
  /** Shared by those who answer at one address; Node makes its own without. */
  ticketKeys?: Buffer | undefined
}
export type ListenerOptions = {
  listen: string
  context: TlsContext
  /** Server names that are answered to, in lower case; empty: any, and none. */
  names: readonly string[]
  /** Networks of proxies, which have to say in a PROXY header whom they connect. */
  proxies: readonly string[]
  handshakeTimeoutMs: number
  maxConnections: number
  /** Others listen at the same address, and the system deals connections out. */
  isShared?: boolean
  onPeer: (socket: PeerSocket, facts: PeerFacts) => void
  onRefused: (reason: HandshakeRefusal, message: string, remoteAddress: string) => void
}

/** Where peers come in. */
export type Door = {
  address: { host: string; port: number }
  /** New handshakes are made with this; earlier session tickets end here. */
  use(context: TlsContext): void
  /** Takes no new connection from here on; resolves when the last one is gone. */
  stop(): Promise<void>
}

type Handshake = Comer & {
  readonly timer: NodeJS.Timeout
  readonly onClose: () => void
  remoteAddress: string
}

const keepAliveMs = 60_000

/** Accepts TLS and asks every peer for a certificate. It refuses none for it: that is for admission, which can say why. */
export class Listener implements Door {
  readonly #options: ListenerOptions
  readonly #server: Server
  /** What listens; the TLS server is given one connection after the other. */
  readonly #acceptor: PlainServer
  readonly #turns = new HandshakeTurns()
  readonly #isProxy: (address: string) => boolean
  readonly #handshakes = new Map<string, Handshake>()
  #closed: Promise<void> | undefined
  address!: { host: string; port: number }

  private constructor(options: ListenerOptions) {
    this.#options = options
    this.#server = createServer({
      ...contextOptions(options.context),
      handshakeTimeout: options.handshakeTimeoutMs,
      ...(options.names.length === 0 ? {} : { SNICallback: this.#chooseName }),
    })
    this.#isProxy = addressList(options.proxies)
    // Keep-alive is for those who ask for none of MQTT (trap T26).
    const socketOptions = { noDelay: true, keepAlive: true, keepAliveInitialDelay: keepAliveMs }
    this.#acceptor = createPlainServer(socketOptions, (socket) => {
      void this.#admitPlain(socket, this.#watchHandshake(socket))
    })
    this.#acceptor.maxConnections = options.maxConnections
    this.#server.on('secureConnection', (socket) => this.#accept(socket))
    this.#server.on('tlsClientError', (error, socket) => {
      // Node reports a handshake that failed or timed out and leaves the socket open (trap T29).
      this.#refuse(socket, error.message.slice(0, 200))
    })
    this.#acceptor.on('drop', (peer) =>
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
    listener.address = await listen(listener.#acceptor, options.listen, { reusePort: options.isShared === true })
    listener.#acceptor.on('error', (error) => options.onRefused('handshake_failed', error.message, 'unknown'))
    return listener
  }

  use(context: TlsContext): void {
    this.#server.setSecureContext(contextOptions(context))
  }

  stop(): Promise<void> {
    this.#closed ??= new Promise((resolve) => this.#acceptor.close(() => resolve()))
    for (const { socket } of this.#handshakes.values()) socket.destroy()
    return this.#closed
  }

  /** Node's own timeout starts again with every octet that trickles in; this one does not. */
  #watchHandshake(socket: Socket): Handshake {
    const key = connectionOf(socket)
    const remoteAddress = socket.remoteAddress ?? 'unknown'
    const timer = setTimeout(() => {
      this.#refuse(socket, `no TLS within ${this.#options.handshakeTimeoutMs} ms`)
    }, this.#options.handshakeTimeoutMs)
    const onClose = (): void => {
      clearTimeout(timer)
      if (this.#handshakes.get(key) !== handshake) return
      this.#handshakes.delete(key)
      this.#turns.remove(handshake)
      this.#options.onRefused('handshake_failed', 'the connection ended before TLS', handshake.remoteAddress)
    }
    const begin = (): void => void this.#server.emit('connection', socket)
    const handshake: Handshake = { socket, begin, timer, onClose, remoteAddress }
    this.#handshakes.set(key, handshake)
    socket.once('close', onClose)
    return handshake
  }

  #handshakeOver(socket: Socket): Handshake | undefined {
    const key = connectionOf(socket)
    const handshake = this.#handshakes.get(key)
    this.#handshakes.delete(key)
    if (handshake === undefined) return undefined
    // What is known of it would stay with its connection.
    clearTimeout(handshake.timer)
    this.#turns.remove(handshake)
    handshake.socket.removeListener('close', handshake.onClose)
    return handshake
  }

  #refuse(socket: Socket, message: string): void {
    // Of a peer that has gone TLS does not know the address any more: that is told when its socket closes.
    const handshake = this.#handshakeOver(socket)
    if (handshake !== undefined) this.#options.onRefused('handshake_failed', message, handshake.remoteAddress)
    socket.destroy()
  }

  /** Of an unknown name nothing is shown, not even a certificate. */
  #chooseName = (name: string, done: (error: Error | null) => void): void =>
    done(this.#isNamed(name) ? null : new Error('the server name is not one of this listener'))

  #isNamed(name: string | false | null): boolean {
    const { names } = this.#options
    return names.length === 0 || (typeof name === 'string' && names.includes(name.toLowerCase()))
  }

  async #admitPlain(socket: Socket, handshake: Handshake): Promise<void> {
    socket.on('error', destroyThis)
    if (this.#isProxy(handshake.remoteAddress)) {
      try {
        handshake.remoteAddress = await readProxyHeader(socket)
      } catch (error) {
        if (!socket.destroyed) this.#refuse(socket, (error as Error).message)
        return
      }
    }
    // What is there when TLS begins is answered in that turn; what came later would be answered whenever it came.
    if (socket.readableLength > 0) this.#turns.add(handshake)
    else socket.once('readable', () => (socket.readableLength > 0 ? this.#turns.add(handshake) : socket.destroy()))
  }

  #accept(socket: TLSSocket): void {
    const handshake = this.#handshakeOver(socket)
    socket.on('error', destroyThis)
    if (socket.destroyed) return
    if (handshake === undefined) {
      socket.destroy()
      return
    }
    const { remoteAddress } = handshake
    if (!this.#isNamed(socket.servername)) {
      this.#options.onRefused('handshake_failed', 'the client names no server', remoteAddress)
      socket.destroy()
      return
    }
    // A renegotiation could change the certificate behind our back.
    socket.disableRenegotiation()
    const { authorized, authorizationError: fault } = socket
    const chainError = fault ? String((fault as { code?: string }).code ?? fault) : undefined
    this.#options.onPeer(socket, {
      remoteAddress,
      certificate: socket.getPeerX509Certificate(),
      authorized,
      chainError,
    })
  }
}

function contextOptions({ credential, anchors, ticketKeys }: TlsContext) {
  return {
    ...tlsOptions(credential, [...anchors]),
    ...(ticketKeys === undefined ? {} : { ticketKeys }),
    // Of the name alone, so that resumption does not hang on how the process was started.
    sessionIdContext: 'fleetgate-broker',
  }
}

/** One for all connections, each of which keeps it to its end. */
function destroyThis(this: Socket): void {
  this.destroy()
}

/** TLS and the socket below it have these in common. One peer may have a port of its own to several of our addresses. */
const connectionOf = ({ remoteAddress, remotePort, localAddress, localPort }: Socket): string =>
  `${remoteAddress} ${remotePort} ${localAddress} ${localPort}`
