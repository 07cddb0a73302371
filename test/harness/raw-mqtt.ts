/** Both ends of an MQTT connection without a broker: a client of single packets, and a server that answers by the book. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { decode, encode } from '../../broker/wire/codec.ts'
import { FrameReader } from '../../broker/wire/frames.ts'
import { Link } from '../../broker/wire/link.ts'
import type { Goodbye, LinkEnd, LinkEvents, LinkLimits } from '../../broker/wire/link-events.ts'
import type { Connect, Packet, Publish, Subscribe, Unsubscribe, Version } from '../../broker/wire/packet.ts'
import { reason } from '../../broker/wire/reason.ts'

export const versions: readonly Version[] = [3, 4, 5]

export const connectPacket = (version: Version, more: Partial<Connect> = {}): Connect => ({
  type: 'connect',
  version,
  clean: true,
  keepAlive: 0,
  clientId: 'raw',
  ...more,
})

export const publishPacket = (topic: string, payload: string | Buffer, more: Partial<Publish> = {}): Publish => ({
  type: 'publish',
  topic,
  payload: Buffer.from(payload),
  qos: 0,
  retain: false,
  dup: false,
  packetId: 0,
  ...more,
})

type PacketOf<T, P extends Packet = Packet> = P extends { type: infer Type } ? (T extends Type ? P : never) : never

/** A client of single packets, or of octets that are none. */
export class RawClient {
  readonly socket: Socket
  readonly version: Version
  readonly #reader = new FrameReader(268_435_455)
  readonly #packets: Packet[] = []
  readonly #waiting: (() => void)[] = []
  /** The server's FIN was read: a reset does not count. */
  hasEnded = false
  isClosed = false
  bytes = 0

  private constructor(socket: Socket, version: Version) {
    this.socket = socket
    this.version = version
    socket.on('data', (chunk: Buffer) => {
      this.bytes += chunk.length
      for (const { header, body } of this.#reader.push(chunk)) {
        this.#packets.push(decode(header, Buffer.from(body), this.version, 'server'))
      }
      this.#wake()
    })
    socket.on('error', () => {})
    socket.on('end', () => {
      this.hasEnded = true
      this.#wake()
    })
    socket.on('close', () => {
      this.isClosed = true
      this.#wake()
    })
  }

  /** @param allowHalfOpen leaves it to the test to close this side */
  static async dial(port: number, version: Version, allowHalfOpen = false): Promise<RawClient> {
    const socket = connect({ port, host: '127.0.0.1', allowHalfOpen })
    await once(socket, 'connect')
    socket.setNoDelay(true)
    return new RawClient(socket, version)
  }

  /** On a connection that is there already, over TLS for one. */
  static over(socket: Socket, version: Version): RawClient {
    return new RawClient(socket, version)
  }

  send(...packets: (Packet | Buffer)[]): void {
    this.socket.write(
      Buffer.concat(packets.map((packet) => (Buffer.isBuffer(packet) ? packet : encode(packet, this.version)))),
    )
  }

  /** The next packet, which has these fields. */
  async expect<T extends Packet['type']>(type: T, fields: Partial<PacketOf<T>> = {}): Promise<PacketOf<T>> {
    const packet = await this.next()
    assert.ok(packet, `the connection ended, ${type} was expected`)
    assert.partialDeepStrictEqual(packet, { type, ...fields })
    return packet as PacketOf<T>
  }

  /** Undefined when the server has closed its side. */
  async next(): Promise<Packet | undefined> {
    while (this.#packets.length === 0 && !this.hasEnded && !this.isClosed) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve))
    }
    return this.#packets.shift()
  }

  /** The server closes its side without another packet. */
  async expectEnd(): Promise<void> {
    assert.equal(await this.next(), undefined)
    assert.ok(this.hasEnded, 'reset instead of closed')
  }

  async closed(): Promise<void> {
    while (!this.isClosed) await new Promise<void>((resolve) => this.#waiting.push(resolve))
  }

  /** Every answer to what was sent before has been read: PINGREQ is answered in its turn. */
  async ping(): Promise<Packet[]> {
    this.send({ type: 'pingreq' })
    const before: Packet[] = []
    for (;;) {
      const packet = await this.next()
      assert.ok(packet, 'the connection ended')
      if (packet.type === 'pingresp') return before
      before.push(packet)
    }
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve()
  }
}

type Seen = { event: keyof LinkEvents; value: unknown }
type Behaviour = Partial<{ [Event in keyof LinkEvents]: (handler: Handler, value: never) => void }>

/** Answers everything at once and gives a subscriber its own messages back, unless the test behaves otherwise. */
export class Handler implements LinkEvents {
  readonly seen: Seen[] = []
  readonly #behaviour: Behaviour
  readonly #looks = new Set<() => void>()
  link!: Link
  hasSubscribed = false

  constructor(behaviour: Behaviour) {
    this.#behaviour = behaviour
  }

  /** Values of one event, in order. */
  all<T>(event: keyof LinkEvents): T[] {
    return this.seen.filter((one) => one.event === event).map(({ value }) => value as T)
  }

  async until<T>(event: keyof LinkEvents, count = 1): Promise<T> {
    while (this.all(event).length < count) {
      await new Promise<void>((resolve) => this.#looks.add(resolve))
    }
    return this.all<T>(event)[count - 1]!
  }

  connect(packet: Connect): void {
    this.#on('connect', packet, () => this.link.accept({ sessionPresent: false }))
  }

  publish(packet: Publish): void {
    this.#on('publish', packet, () => {
      const { packetId, topic, payload, qos, properties } = packet
      if (qos > 0) this.link.send({ type: qos === 1 ? 'puback' : 'pubrec', packetId, reason: reason.success })
      if (this.hasSubscribed) this.link.deliver({ topic, payload, properties }, { qos, retain: false })
    })
  }

  released(packetId: number): void {
    this.#on('released', packetId, () => this.link.send({ type: 'pubcomp', packetId, reason: reason.success }))
  }

  subscribe(packet: Subscribe): void {
    this.#on('subscribe', packet, () => {
      this.hasSubscribed = true
      const { packetId, subscriptions } = packet
      this.link.send({ type: 'suback', packetId, reasons: subscriptions.map(({ qos }) => qos) })
    })
  }

  unsubscribe(packet: Unsubscribe): void {
    this.#on('unsubscribe', packet, () => {
      this.hasSubscribed = false
      this.link.send({ type: 'unsuback', packetId: packet.packetId, reasons: packet.filters.map(() => reason.success) })
    })
  }

  acknowledged(packetId: number, code: number): void {
    this.#on('acknowledged', { packetId, reason: code }, () => {})
  }

  received(packetId: number): void {
    this.#on('received', packetId, () => this.link.send({ type: 'pubrel', packetId, reason: reason.success }))
  }

  room(): void {
    this.#on('room', undefined, () => {})
  }

  disconnected(goodbye: Goodbye): void {
    this.#on('disconnected', goodbye, () => {})
  }

  closed(end: LinkEnd): void {
    this.#on('closed', end, () => {})
  }

  #on(event: keyof LinkEvents, value: unknown, byTheBook: () => void): void {
    this.seen.push({ event, value })
    const behaviour = this.#behaviour[event]
    if (behaviour === undefined) byTheBook()
    else behaviour(this, value as never)
    for (const look of this.#looks) look()
    this.#looks.clear()
  }
}

export const testLimits: LinkLimits = {
  maxConnectBytes: 1_024,
  maxPacketBytes: 65_536,
  maxBufferedBytes: 262_144,
  connectTimeoutMs: 5_000,
  receiveMaximum: 10,
  maxInflight: 5,
  topicAliasMaximum: 3,
}

type Settings = { limits?: Partial<LinkLimits>; on?: Behaviour; clock?: () => Date }

/** A server of nothing but links. */
export class LinkServer implements AsyncDisposable {
  readonly #server: Server
  readonly #handlers: Handler[] = []
  readonly #waiting: (() => void)[] = []
  readonly #clients: RawClient[] = []
  readonly sockets: Socket[] = []

  private constructor(settings: Settings) {
    const limits = { ...testLimits, ...settings.limits }
    this.#server = createServer((socket) => {
      socket.setNoDelay(true)
      const handler = new Handler(settings.on ?? {})
      handler.link = new Link({ socket, limits, events: handler, clock: settings.clock ?? (() => new Date()) })
      this.sockets.push(socket)
      this.#handlers.push(handler)
      for (const resolve of this.#waiting.splice(0)) resolve()
    })
  }

  static async start(settings: Settings = {}): Promise<LinkServer> {
    const server = new LinkServer(settings)
    server.#server.listen(0, '127.0.0.1')
    await once(server.#server, 'listening')
    return server
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  /** A connection whose CONNECT has not been sent, and its other end. */
  async dial(version: Version, allowHalfOpen = false): Promise<{ client: RawClient; handler: Handler }> {
    const index = this.#handlers.length
    const client = await RawClient.dial(this.port, version, allowHalfOpen)
    this.#clients.push(client)
    while (this.#handlers.length <= index) await new Promise<void>((resolve) => this.#waiting.push(resolve))
    return { client, handler: this.#handlers[index]! }
  }

  async connect(version: Version, more: Partial<Connect> = {}): Promise<{ client: RawClient; handler: Handler }> {
    const both = await this.dial(version)
    both.client.send(connectPacket(version, more))
    await both.client.expect('connack', { reason: reason.success })
    return both
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients) client.socket.destroy()
    for (const socket of this.sockets) socket.destroy()
    this.#server.close()
    await once(this.#server, 'close')
  }
}
