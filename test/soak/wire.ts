/** A device's end of the wire: TLS with a certificate, and packets as other people's codec makes and reads them. */
import { once } from 'node:events'
import { connect as connectTls, createSecureContext, type SecureContext, type TLSSocket } from 'node:tls'
import mqttPacket, { type Packet } from 'mqtt-packet'
import type { TestCertificate } from '../harness/certificates.ts'

export type Version = 3 | 4 | 5
export type Server = { port: number; ca: string }

/** A certificate with what TLS makes of it once, and the ticket of its last connection. */
export class Identity {
  readonly id: string
  readonly certificate: TestCertificate
  readonly context: SecureContext
  ticket: Buffer | undefined

  constructor(id: string, certificate: TestCertificate, server: Pick<Server, 'ca'>) {
    this.id = id
    this.certificate = certificate
    this.context = createSecureContext({ ca: server.ca, key: certificate.key, cert: certificate.chain })
  }
}

export class Wire {
  readonly socket: TLSSocket
  readonly version: Version
  readonly closed: Promise<void>
  onPacket: (packet: Packet) => void = () => {}

  private constructor(socket: TLSSocket, version: Version) {
    this.socket = socket
    this.version = version
    this.closed = new Promise((resolve) => socket.once('close', () => resolve()))
    const parser = mqttPacket.parser({ protocolVersion: version })
    parser.on('packet', (packet) => this.onPacket(packet))
    parser.on('error', (error: Error) => socket.destroy(error))
    socket.on('data', (chunk: Buffer) => parser.parse(chunk))
    socket.on('error', () => {})
  }

  static async dial(identity: Identity, server: Server, version: Version): Promise<Wire> {
    const { context, ticket } = identity
    const socket = connectTls({
      host: '127.0.0.1',
      port: server.port,
      secureContext: context,
      ...(ticket === undefined ? {} : { session: ticket }),
    })
    socket.on('session', (fresh) => {
      identity.ticket = fresh
    })
    await once(socket, 'secureConnect')
    socket.setNoDelay(true)
    return new Wire(socket, version)
  }

  send(packet: Packet | Buffer): void {
    const octets = Buffer.isBuffer(packet) ? packet : mqttPacket.generate(packet, { protocolVersion: this.version })
    if (this.socket.writable) this.socket.write(octets)
  }

  /** @returns whether it is closed by then */
  async closedWithin(ms: number): Promise<boolean> {
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<boolean>((resolve) => {
      timer = setTimeout(() => resolve(false), ms)
    })
    const isClosed = await Promise.race([this.closed.then(() => true), late])
    clearTimeout(timer)
    return isClosed
  }
}
