import type { IConnackPacket, IConnectPacket, IPublishPacket, Packet, QoS } from 'mqtt-packet'
import { type Identity, type Server, type Version, Wire } from './wire.ts'

export type Filter = { topic: string; qos: QoS }
type ClientOptions = {
  identity: Identity
  server: Server
  version: Version
  /** The session is kept while there is no connection. */
  keeps: boolean
  will?: (connection: number) => NonNullable<IConnectPacket['will']>
  onMessage(message: IPublishPacket): void
  onPong(ms: number): void
  /** The connection or the session ended, and the client had no part in it. */
  onFault(fault: string): void
}
type Outgoing = {
  packet: IPublishPacket
  wasSent: boolean
  isReleased: boolean
  onRepeated: () => void
  settle: (code: number) => void
}

const pingMs = 5_000
const patienceMs = 30_000
/** Settles what nobody will answer any more. */
export const unanswered = -1

export class Refused extends Error {
  readonly code: number

  constructor(code: number) {
    super(`refused with ${code}`)
    this.code = code
  }
}

/** An MQTT client by the book: it keeps its part of the session, repeats what was not answered, and tells what is amiss. */
export class Client {
  readonly #options: ClientOptions
  readonly #outgoing = new Map<number, Outgoing>()
  readonly #incoming = new Set<number>()
  readonly #asked = new Map<number, (codes: number[]) => void>()
  readonly #aliases = new Map<number, string>()
  #wire: Wire | undefined
  #opening: PromiseWithResolvers<void> | undefined
  #hasSession = false
  #lastId = 0
  #ping: NodeJS.Timeout | undefined
  #pingedAt: number | undefined
  #isPaused = false
  connections = 0

  constructor(options: ClientOptions) {
    this.#options = options
  }

  get id(): string {
    return this.#options.identity.id
  }

  get version(): Version {
    return this.#options.version
  }

  get isConnected(): boolean {
    return this.#wire !== undefined && this.#opening === undefined
  }

  /** Publishes that are not answered. */
  get underWay(): number {
    return this.#outgoing.size
  }

  /**
   * On a connection that it has, this is a takeover: the old one stays for the broker to close.
   *
   * @throws Refused
   */
  async connect({ clean = !this.#options.keeps }: { clean?: boolean } = {}): Promise<void> {
    const { identity, server, version, will } = this.#options
    const wire = await Wire.dial(identity, server, version)
    const before = this.#detach()
    if (clean) this.#forget()
    this.connections++
    this.#wire = wire
    this.#opening = Promise.withResolvers()
    wire.onPacket = (packet) => this.#take(packet, wire)
    void wire.closed.then(() => this.#lost(wire))
    const expiry = this.#options.keeps && !clean ? { sessionExpiryInterval: 3_600 } : {}
    wire.send({
      cmd: 'connect',
      clientId: this.id,
      protocolVersion: version,
      protocolId: version === 3 ? 'MQIsdp' : 'MQTT',
      clean,
      keepalive: 60,
      ...(will === undefined ? {} : { will: will(this.connections) }),
      ...(version === 5 ? { properties: { receiveMaximum: 50, topicAliasMaximum: 10, ...expiry } } : {}),
    })
    await this.#opening.promise.catch((error: Error) => {
      before?.socket.destroy()
      throw error
    })
    this.#ping = setInterval(() => this.#sendPing(), pingMs)
    if (before !== undefined && !(await before.closedWithin(patienceMs))) {
      this.#options.onFault(`${this.id}: the connection that was taken over is still open`)
      before.socket.destroy()
    }
  }

  /** Cuts the connection without a word. */
  async drop(): Promise<void> {
    const wire = this.#detach()
    wire?.socket.destroy()
    await wire?.closed
  }

  async disconnect(options: { reasonCode?: number; sessionExpiryInterval?: number } = {}): Promise<void> {
    const wire = this.#detach()
    if (wire === undefined) return
    const { reasonCode = 0, ...properties } = options
    wire.send({ cmd: 'disconnect', ...(wire.version === 5 ? { reasonCode, properties } : {}) })
    wire.socket.end()
    if (await wire.closedWithin(patienceMs)) return
    this.#options.onFault(`${this.id}: the connection is still open after DISCONNECT`)
    wire.socket.destroy()
  }

  /** Ends the session too, the way its version has for that. */
  async leave(): Promise<void> {
    if (this.#options.keeps && this.version < 5) {
      await this.disconnect()
      await this.connect({ clean: true })
    }
    await this.disconnect(this.#options.keeps && this.version === 5 ? { sessionExpiryInterval: 0 } : {})
    this.#forget()
  }

  /** Stops and goes on reading from the socket. */
  set isPaused(isPaused: boolean) {
    this.#isPaused = isPaused
    this.#pingedAt = undefined
    if (isPaused) this.#wire?.socket.pause()
    else this.#wire?.socket.resume()
  }

  /** @returns the reason that it was answered with, 0 before version 5; on a later connection if need be */
  publish(
    message: Pick<IPublishPacket, 'topic' | 'payload' | 'qos'> & Partial<IPublishPacket>,
    onRepeated = () => {},
  ): Promise<number> {
    const packet: IPublishPacket = { cmd: 'publish', dup: false, retain: false, ...message }
    if (packet.qos === 0) {
      this.#wire?.send(packet)
      return Promise.resolve(0)
    }
    packet.messageId = this.#nextId()
    return new Promise((settle) => {
      const isOut = this.isConnected
      this.#outgoing.set(packet.messageId!, { packet, wasSent: isOut, isReleased: false, onRepeated, settle })
      if (isOut) this.#wire?.send(packet)
    })
  }

  async subscribe(subscriptions: readonly Filter[], identifier?: number): Promise<number[]> {
    const withIdentifier = this.version === 5 && identifier !== undefined
    return await this.#ask({
      cmd: 'subscribe',
      messageId: this.#nextId(),
      subscriptions: [...subscriptions],
      ...(withIdentifier ? { properties: { subscriptionIdentifier: identifier } } : {}),
    })
  }

  async unsubscribe(filters: readonly string[]): Promise<number[]> {
    return await this.#ask({ cmd: 'unsubscribe', messageId: this.#nextId(), unsubscriptions: [...filters] })
  }

  #ask(packet: Packet & { messageId: number }): Promise<number[]> {
    return new Promise((resolve) => {
      if (!this.isConnected) {
        resolve([])
        return
      }
      this.#asked.set(packet.messageId, resolve)
      this.#wire?.send(packet)
    })
  }

  #nextId(): number {
    do this.#lastId = (this.#lastId % 0xffff) + 1
    while (this.#outgoing.has(this.#lastId) || this.#asked.has(this.#lastId))
    return this.#lastId
  }

  #sendPing(): void {
    if (this.#pingedAt === undefined && !this.#isPaused) this.#pingedAt = performance.now()
    else if (!this.#isPaused && performance.now() - this.#pingedAt! > patienceMs) {
      this.#options.onFault(`${this.id}: no PINGRESP in ${patienceMs} ms`)
      this.#pingedAt = undefined
    } else if (!this.#isPaused) return
    this.#wire?.send({ cmd: 'pingreq' })
  }

  /** From here on the connection is not this client's any more. */
  #detach(): Wire | undefined {
    const wire = this.#wire
    this.#wire = undefined
    clearInterval(this.#ping)
    this.#pingedAt = undefined
    this.#isPaused = false
    if (wire === undefined) return undefined
    wire.onPacket = () => {}
    wire.socket.resume()
    this.#opening?.reject(new Refused(unanswered))
    this.#opening = undefined
    for (const settle of this.#asked.values()) settle([])
    this.#asked.clear()
    this.#aliases.clear()
    return wire
  }

  #lost(wire: Wire): void {
    if (this.#wire !== wire) return
    const wasOpening = this.#opening !== undefined
    this.#detach()
    if (!wasOpening) this.#options.onFault(`${this.id}: the broker closed the connection`)
  }

  #forget(): void {
    this.#hasSession = false
    this.#incoming.clear()
    for (const { settle } of this.#outgoing.values()) settle(unanswered)
    this.#outgoing.clear()
  }

  #take(packet: Packet, wire: Wire): void {
    switch (packet.cmd) {
      case 'connack':
        this.#opened(packet, wire)
        break
      case 'publish':
        this.#published(packet, wire)
        break
      case 'puback':
        this.#answered(packet.messageId!, packet.reasonCode ?? 0)
        break
      case 'pubcomp':
        // 0x92: the PUBCOMP that said so first was lost with its connection.
        this.#answered(packet.messageId!, packet.reasonCode === 0x92 ? 0 : (packet.reasonCode ?? 0))
        break
      case 'pubrec':
        this.#received(packet.messageId!, packet.reasonCode ?? 0, wire)
        break
      case 'pubrel':
        this.#incoming.delete(packet.messageId!)
        wire.send({ cmd: 'pubcomp', messageId: packet.messageId! })
        break
      case 'suback':
      case 'unsuback':
        this.#asked.get(packet.messageId!)?.((packet.granted ?? []) as number[])
        this.#asked.delete(packet.messageId!)
        break
      case 'pingresp':
        if (this.#pingedAt !== undefined) this.#options.onPong(performance.now() - this.#pingedAt)
        this.#pingedAt = undefined
        break
      case 'disconnect':
        this.#options.onFault(`${this.id}: the broker said DISCONNECT 0x${(packet.reasonCode ?? 0).toString(16)}`)
        break
      default:
        this.#options.onFault(`${this.id}: ${packet.cmd} from the broker`)
    }
  }

  #opened({ returnCode = 0, reasonCode = 0, sessionPresent }: IConnackPacket, wire: Wire): void {
    const opening = this.#opening
    const code = returnCode || reasonCode
    if (code !== 0) {
      opening?.reject(new Refused(code))
      this.#opening = undefined
      this.#detach()
      wire.socket.end()
      return
    }
    this.#opening = undefined
    // MQTT 3.1 has no such flag.
    if (this.version > 3 && sessionPresent !== this.#hasSession)
      this.#options.onFault(`${this.id}: session present is ${sessionPresent}`)
    this.#hasSession = this.#options.keeps
    for (const [messageId, outgoing] of this.#outgoing) {
      if (outgoing.isReleased) wire.send({ cmd: 'pubrel', messageId })
      else {
        if (outgoing.wasSent) outgoing.onRepeated()
        wire.send({ ...outgoing.packet, dup: outgoing.wasSent })
        outgoing.wasSent = true
      }
    }
    opening?.resolve()
  }

  #published(packet: IPublishPacket, wire: Wire): void {
    const alias = packet.properties?.topicAlias
    if (alias !== undefined) {
      if (packet.topic === '') packet.topic = this.#aliases.get(alias) ?? ''
      else this.#aliases.set(alias, packet.topic)
    }
    const { qos, messageId } = packet
    if (qos === 2) {
      wire.send({ cmd: 'pubrec', messageId: messageId! })
      if (this.#incoming.has(messageId!)) {
        if (!packet.dup) this.#options.onFault(`${this.id}: packet id ${messageId} for two messages of QoS 2`)
        return
      }
      this.#incoming.add(messageId!)
    }
    this.#options.onMessage(packet)
    if (qos === 1) wire.send({ cmd: 'puback', messageId: messageId! })
  }

  #received(messageId: number, code: number, wire: Wire): void {
    const outgoing = this.#outgoing.get(messageId)
    if (code >= 0x80) this.#answered(messageId, code)
    else {
      if (outgoing !== undefined) outgoing.isReleased = true
      wire.send({ cmd: 'pubrel', messageId })
    }
  }

  #answered(messageId: number, code: number): void {
    const outgoing = this.#outgoing.get(messageId)
    this.#outgoing.delete(messageId)
    outgoing?.settle(code)
  }
}
