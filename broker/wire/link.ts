import type { Duplex } from 'node:stream'
import { isFleetError } from '../../runtime/errors.ts'
import { decode, encode } from './codec.ts'
import { FrameReader } from './frames.ts'
import { silenceMs, Watchdog } from './keep-alive.ts'
import { termsOf } from './link-connack.ts'
import { LinkDelivery } from './link-delivery.ts'
import type {
  Acceptance,
  Delivered,
  Delivery,
  Goodbye,
  LinkCounters,
  LinkEnd,
  LinkEvents,
  LinkLimits,
} from './link-events.ts'
import { InboundAliases, InboundWindow, LastTaken, requireAvailable } from './link-inbound.ts'
import { encodeWithin, farewellFrame, pubackBytes, pubackFrame, refusalFrame } from './link-outbound.ts'
import { LinkWriter } from './link-writer.ts'
import {
  type Ack,
  type Connack,
  type Connect,
  type Disconnect,
  headers,
  type Packet,
  type Publish,
  type SubscriptionAck,
  type Version,
} from './packet.ts'
import { PlainPublish } from './plain-publish.ts'
import type { Properties } from './properties.ts'
import type { Message } from './publish-frames.ts'
import { Malformed, protocolError, reason } from './reason.ts'

type State = 'new' | 'connecting' | 'open' | 'ended'
type Cause = Pick<LinkEnd, 'code' | 'cause'>

const pingresp = encode({ type: 'pingresp' }, 4)
/** A packet under way that holds more is arriving, not dripping. */
const trickleBytes = 1_024
/** After our last packet a peer has this long to read it; then the socket goes. */
const lingerMs = 1_000
const plain = new PlainPublish()

/**
 * One MQTT connection of any version on one stream. It knows packets, limits and times, and nothing of sessions, topics or
 * policy. Memory is bounded by the limits: what does not fit waits in the peer's socket or with the caller.
 */
export class Link {
  readonly #socket: Duplex
  readonly #limits: LinkLimits
  readonly #maxBufferedBytes: number
  readonly #events: LinkEvents
  readonly #clock: () => Date
  readonly #reader: FrameReader
  readonly #writer: LinkWriter
  readonly #watchdog = new Watchdog(() => this.#silent())
  #state: State = 'new'
  readonly taken = new LastTaken()
  /** Undefined before the CONNECT. */
  version: Version | undefined
  #connect: Connect | undefined
  #inbound = new InboundWindow(0, false)
  #inboundAliases = new InboundAliases(0)
  #delivery: LinkDelivery | undefined
  #peerMaxBytes = Number.POSITIVE_INFINITY
  #explains = true
  #passesQos1 = false
  #announced: Properties = {}
  #reading = false
  #paused = false
  #silenceMs = 0
  #linger: NodeJS.Timeout | undefined
  readonly #heard = { packetsIn: 0, bytesIn: 0, messagesIn: 0 }

  constructor(options: { socket: Duplex; limits: LinkLimits; events: LinkEvents; clock: () => Date }) {
    const { socket, limits, events, clock } = options
    this.#socket = socket
    this.#limits = limits
    // Half of it is as much as may wait before a message, so the largest message has to fit into the other half.
    this.#maxBufferedBytes = Math.max(limits.maxBufferedBytes, 2 * limits.maxPacketBytes)
    this.#events = events
    this.#clock = clock
    this.#reader = new FrameReader(limits.maxConnectBytes)
    this.#writer = new LinkWriter(socket, () => this.#offerRoom())
    this.#watchdog.start(limits.connectTimeoutMs)
    socket.on('data', this.#ingest)
    socket.on('error', (error) => this.#lost(error))
    socket.on('end', () => this.#lost())
    socket.on('close', () => {
      clearTimeout(this.#linger)
      this.#lost()
    })
  }

  /** Written and not yet taken by the peer's side of the socket. */
  get pendingBytes(): number {
    return this.#writer.pendingBytes
  }

  /** For logs; `dropped` are messages that will not be delivered. */
  get counters(): LinkCounters {
    return {
      ...this.#heard,
      packetsOut: this.#writer.packets,
      bytesOut: this.#writer.bytes,
      messagesOut: this.#delivery?.sent ?? 0,
      dropped: { ...(this.#delivery?.dropped ?? { slow: 0, tooLarge: 0, expired: 0 }) },
    }
  }

  /** Lets the client in. What it sent behind its CONNECT is read in a later turn. */
  accept(acceptance: Acceptance): void {
    if (this.#state !== 'connecting' || this.#connect === undefined || this.version === undefined) return
    const terms = termsOf(this.#limits, acceptance, this.#connect.properties ?? {})
    const { sessionPresent } = acceptance
    this.#write({ type: 'connack', sessionPresent, reason: reason.success, properties: terms })
    if (this.#is('ended')) return // the client takes no packet as large as that
    const isTold = this.version === 5
    if (isTold) this.#announced = terms
    this.#passesQos1 = (this.#announced.maximumQos ?? 2) > 0 && this.#peerMaxBytes >= pubackBytes
    this.#reader.limit(terms.maximumPacketSize, isTold)
    this.#inbound = new InboundWindow(terms.receiveMaximum, isTold)
    this.#inboundAliases = new InboundAliases(terms.topicAliasMaximum)
    const shared = { limits: this.#limits, clock: this.#clock, events: this.#events }
    this.#delivery = new LinkDelivery(this.#writer, this.#connect, shared)
    this.#state = 'open'
    this.#silenceMs = silenceMs(terms.serverKeepAlive ?? this.#connect.keepAlive) // [MQTT-3.2.2-21]
    this.#watchdog.start(this.#silenceMs)
    process.nextTick(this.#read)
  }

  /** Answers a CONNECT that was not accepted with what its version can say, and closes. */
  refuse(code: number, sentence = ''): void {
    this.#refuse(this.version, code, sentence, { code: 'closed' })
  }

  /**
   * Ends the connection; the client hears why in version 5.
   *
   * @param code as a DISCONNECT may carry it, 0x80 is said for others
   */
  fail(code: number, sentence = ''): void {
    this.#fail(code, sentence, { code: 'closed' })
  }

  /** Lets what was sent go out, then closes without a word. */
  end(): void {
    this.#close({ code: 'closed', reason: reason.success, sentence: '' })
  }

  /** Closes at once; nothing more goes out. */
  destroy(): void {
    this.#finish({ code: 'closed', reason: reason.success, sentence: '' })
    this.#socket.destroy()
  }

  /** An answer to a packet of the client, or PUBREL. Explanations are left out for a client that does not want them. */
  send(packet: Ack | SubscriptionAck): void {
    if (this.#state !== 'open') return
    switch (packet.type) {
      case 'puback':
      case 'pubrec':
      case 'pubcomp':
        this.#inbound.answered(packet, this.version === 5)
        break
      case 'pubrel':
        this.#delivery?.window.released(packet.packetId)
        break
      default:
        this.#inbound.told()
    }
    this.#write(packet)
    this.#catchUp()
  }

  /** The packet identifier that the next delivery of QoS 1 or 2 will have. */
  nextPacketId(): number {
    return this.#delivery?.window.nextPacketId() ?? 1
  }

  /** @throws RangeError when another message under way has `packetId` */
  deliver(message: Message, delivery: Delivery): Delivered {
    if (this.#state === 'open' && this.#delivery !== undefined) return this.#delivery.deliver(message, delivery)
    return delivery.qos > 0 || delivery.mayWait === true ? 'waiting' : 'dropped'
  }

  /** Whether `forward` gives the client what it is to get of a message that is plain. */
  get isPlain(): boolean {
    return this.#delivery?.isPlain === true
  }

  /** At QoS 0; the octets are those of every receiver of its version. */
  forward(publish: PlainPublish): void {
    if (this.#state === 'open') this.#delivery!.forward(publish)
  }

  /** Control packets cannot be dropped: a client that asks and does not read is closed. */
  #write(packet: Ack | SubscriptionAck | Connack): void {
    const frame = encodeWithin(packet, this.version!, this.#peerMaxBytes, this.#explains)
    if (frame !== undefined) this.#pushControl(frame)
    else
      this.#fail(reason.packetTooLarge, `${packet.type} is larger than the client takes`, { code: 'packet_too_large' })
  }

  #pushControl(frame: Buffer): void {
    this.#writer.push(frame)
    if (this.pendingBytes > this.#maxBufferedBytes)
      this.#fail(reason.quotaExceeded, `${this.pendingBytes} octets wait to be read`, { code: 'slow_reader' })
  }

  #offerRoom(): void {
    if (this.#state !== 'open' || !this.#delivery?.takeRoom()) return
    try {
      this.#events.room()
    } catch (error) {
      this.#thrown(error)
    }
  }

  #ingest = (chunk: Buffer): void => {
    const isFirst = this.#heard.bytesIn === 0
    this.#heard.bytesIn += chunk.length
    if (isFirst && chunk[0] !== headers.connect) {
      // [MQTT-3.1.0-1]: seen at the first octet, or other protocols would be kept waiting for what they never send.
      this.#thrown(protocolError('the first packet is not a CONNECT'))
      return
    }
    this.#reader.push(chunk)
    this.#read()
  }

  /** Reads packets until there are no more, or until the handler has to do its part first. */
  #read = (): void => {
    if (this.#reading || (this.#state !== 'new' && this.#state !== 'open')) return
    this.#reading = true
    const before = this.#heard.packetsIn
    try {
      while (!this.#is('ended')) {
        if (this.#passOn()) continue
        const { done, value } = this.#reader.next()
        if (done) break
        this.#heard.packetsIn++
        const packet = decode(value.header, value.body, this.version)
        this.#dispatch(packet)
        if (packet.type === 'connect' || this.#inbound.isBehind) break
      }
    } catch (error) {
      this.#thrown(error)
    } finally {
      this.#reading = false
    }
    if (this.#is('connecting')) this.#socket.pause()
    if (!this.#is('open')) return
    // A packet that takes long to arrive is a sign of life where it grows by more than a few octets.
    const now = performance.now()
    if (this.#heard.packetsIn > before || this.#reader.heldBytes > trickleBytes) this.#watchdog.heard(now)
    this.taken.endTurn(now)
    this.#offerRoom()
    this.#paused = this.#inbound.isBehind
    if (!this.#paused) this.#socket.resume()
    else {
      this.#socket.pause()
      this.#watchdog.stop() // the client may have spoken; it is us who do not listen
    }
  }

  /** @returns whether the next packet was a PUBLISH that could be passed on as it lies */
  #passOn(): boolean {
    if (this.#state !== 'open' || !this.#reader.peek(plain, this.version!)) return false
    if (plain.qos === 1 && !(this.#inbound.isOpen && this.#passesQos1)) return false
    const code = this.#events.passOn?.(plain)
    if (code === undefined) return false
    this.#heard.packetsIn++
    this.#heard.messagesIn++
    this.#reader.take(plain)
    if (code < 0x80) this.taken.note('publish', plain.topic)
    if (plain.qos === 0 || !this.#is('open')) return true
    const { packetId, sentence: reasonString } = plain
    if (code < 0x80) this.#pushControl(pubackFrame(packetId, code, this.version!))
    else this.#write({ type: 'puback', packetId, reason: code, properties: { reasonString } })
    return true
  }

  #catchUp(): void {
    if (!this.#paused || !this.#is('open') || !this.#inbound.hasRoom) return
    this.#paused = false
    this.#watchdog.start(this.#silenceMs)
    process.nextTick(this.#read)
  }

  #is(state: State): boolean {
    return this.#state === state
  }

  #dispatch(packet: Packet): void {
    if (packet.type !== 'publish' && packet.type !== 'connect') this.taken.note(packet.type)
    switch (packet.type) {
      case 'connect':
        this.#connected(packet)
        break
      case 'publish':
        this.#heard.messagesIn++
        this.#published(packet)
        break
      case 'puback':
      case 'pubrec':
      case 'pubcomp':
        this.#acknowledged(packet)
        break
      case 'pubrel':
        if (this.#inbound.released(packet.packetId)) this.#events.released(packet.packetId)
        break
      case 'subscribe':
        this.#inbound.asked()
        this.#events.subscribe(packet)
        break
      case 'unsubscribe':
        this.#inbound.asked()
        this.#events.unsubscribe(packet)
        break
      case 'pingreq':
        this.#pushControl(pingresp) // [MQTT-3.12.4-1]
        break
      case 'disconnect':
        this.#left(packet)
        break
      default:
        // [MQTT-4.12.0-7]: with a method CONNECT was refused. 3.15 calls it this, and table 3-10 has no 0x8C for a DISCONNECT.
        throw protocolError(`${packet.type} without an authentication method`)
    }
  }

  #connected(packet: Connect): void {
    const { version, clean, properties: asked } = packet
    this.#state = 'connecting'
    this.version = version
    this.#connect = packet
    this.#peerMaxBytes = asked?.maximumPacketSize ?? Number.POSITIVE_INFINITY
    this.#explains = asked?.requestProblemInformation !== false
    if (asked?.authenticationMethod !== undefined) {
      const sentence = 'no authentication but that of TLS is spoken here' // [MQTT-4.12.0-1]
      this.#refuse(version, reason.badAuthenticationMethod, sentence, { code: 'protocol_violation' })
      return
    }
    // Clean Session says both whether to begin anew and whether to keep (3.1.2.11.2).
    if (version < 5) packet.properties = { sessionExpiryInterval: clean ? 0 : 0xffff_ffff }
    this.#events.connect(packet)
  }

  #published(packet: Publish): void {
    this.#inboundAliases.resolve(packet)
    requireAvailable(packet, this.#announced)
    if (packet.qos === 0 || this.#inbound.published(packet)) this.#events.publish(packet)
    else if (this.#inbound.wasReceived(packet.packetId))
      this.#write({ type: 'pubrec', packetId: packet.packetId, reason: reason.success }) // [MQTT-4.3.3-10]
  }

  #acknowledged(packet: Ack): void {
    const { packetId } = packet
    switch (this.#delivery?.window.acknowledged(packet)) {
      case 'acknowledged':
        this.#events.acknowledged(packetId, packet.reason)
        break
      case 'received':
        this.#events.received(packetId)
        break
      case 'repeat PUBREL':
        this.#write({ type: 'pubrel', packetId, reason: reason.success })
        break
      case 'unknown PUBREC':
        this.#write({ type: 'pubrel', packetId, reason: reason.packetIdentifierNotFound }) // table 3-6
    }
  }

  #left({ reason: code, properties }: Disconnect): void {
    const sessionExpiry = properties?.sessionExpiryInterval
    if (sessionExpiry && !this.#connect?.properties?.sessionExpiryInterval)
      throw protocolError('a session that was to end with its connection cannot be kept') // 3.14.2.2.2
    const goodbye: Goodbye = { clean: code < 0x80, reason: code, willDue: code !== reason.success }
    if (sessionExpiry !== undefined) goodbye.sessionExpiry = sessionExpiry
    this.#events.disconnected(goodbye)
    this.#close({ code: 'disconnected', reason: code, sentence: properties?.reasonString ?? '' })
  }

  #refuse(version: Version | undefined, code: number, sentence: string, end: Cause): void {
    if (this.#state !== 'new' && this.#state !== 'connecting') return
    const why = version && refusalFrame(code, sentence, version, this.#peerMaxBytes, this.#explains)
    this.#close({ ...end, reason: code, sentence }, why)
  }

  #fail(code: number, sentence: string, end: Cause): void {
    if (this.#state !== 'open') {
      this.#refuse(this.version, code, sentence, end)
      return
    }
    const why = farewellFrame(code, sentence, this.#peerMaxBytes, this.#explains)
    this.#close({ ...end, reason: code, sentence }, this.version === 5 ? why : undefined)
  }

  /** Closed at once with input unread, the connection would be reset and our last packet lost on its way (trap T36). */
  #close(end: LinkEnd, why?: Buffer): void {
    if (this.#is('ended')) return
    if (why !== undefined) this.#writer.push(why)
    this.#writer.flush()
    this.#finish(end)
    if (this.#socket.destroyed) return
    this.#socket.end()
    this.#socket.resume()
    this.#linger = setTimeout(() => this.#socket.destroy(), lingerMs)
  }

  #finish(end: LinkEnd): void {
    if (this.#is('ended')) return
    this.#state = 'ended'
    this.#watchdog.stop()
    this.#socket.off('data', this.#ingest)
    process.nextTick(() => this.#events.closed(end))
  }

  /** @param error of the stream; it may name a problem of its own */
  #lost(error?: Error): void {
    const code = isFleetError(error) ? error.code : 'connection_lost'
    this.#close({ code, reason: reason.unspecifiedError, sentence: error?.message ?? '' })
  }

  #silent(): void {
    if (this.#state === 'open') {
      this.#fail(reason.keepAliveTimeout, `no packet for ${this.#silenceMs} ms`, { code: 'keep_alive_expired' })
      return
    }
    const sentence = `no CONNECT was accepted within ${this.#limits.connectTimeoutMs} ms`
    if (this.#state === 'connecting')
      this.#refuse(this.version, reason.serverUnavailable, sentence, { code: 'connect_timeout' })
    else {
      this.#finish({ code: 'connect_timeout', reason: reason.unspecifiedError, sentence })
      this.#socket.destroy()
    }
  }

  #thrown(error: unknown): void {
    if (!(error instanceof Malformed)) this.#fail(reason.unspecifiedError, '', { code: 'internal', cause: error })
    else if (this.#state === 'new') this.#refuse(error.version, error.reason, error.message, { code: error.code })
    else this.#fail(error.reason, error.message, { code: error.code })
  }
}
