import { encode } from './codec.ts'
import type { Delivered, Delivery, Dropped, LinkEvents, LinkLimits } from './link-events.ts'
import { OutboundAliases, OutboundWindow } from './link-outbound.ts'
import type { LinkWriter } from './link-writer.ts'
import type { Connect, Version } from './packet.ts'
import type { PlainPublish } from './plain-publish.ts'
import type { Properties } from './properties.ts'
import { type Message, propertiesOf, publishFrame, restOf, stampedFor } from './publish-frames.ts'

/** Messages to one client: what may go out now, and as what octets. Nothing is queued here. */
export class LinkDelivery {
  readonly #writer: LinkWriter
  readonly #version: Version
  /** of a packet that the client takes */
  readonly #maxBytes: number
  /** unread output from which on the client counts as slow */
  readonly #slowBytes: number
  readonly #clock: () => Date
  readonly #events: Pick<LinkEvents, 'dropped'>
  readonly #aliases: OutboundAliases | undefined
  readonly window: OutboundWindow
  #isAwaited = false
  /** Messages that went out, one that goes out again each time. */
  sent = 0
  /** Messages that were not delivered, by reason. */
  readonly dropped = { slow: 0, tooLarge: 0, expired: 0 }

  constructor(
    writer: LinkWriter,
    { version, properties: asked }: Connect,
    { limits, clock, events }: { limits: LinkLimits; clock: () => Date; events: Pick<LinkEvents, 'dropped'> },
  ) {
    this.#writer = writer
    this.#events = events
    this.#version = version
    this.#maxBytes = asked?.maximumPacketSize ?? Number.POSITIVE_INFINITY
    // The largest message has to fit into what is left.
    this.#slowBytes = Math.max(limits.maxBufferedBytes / 2, limits.maxPacketBytes)
    this.#clock = clock
    this.window = new OutboundWindow(Math.min(limits.maxInflight, asked?.receiveMaximum ?? 0xffff))
    const aliases = Math.min(limits.topicAliasMaximum, asked?.topicAliasMaximum ?? 0) // [MQTT-3.1.2-26] [MQTT-3.1.2-27]
    if (aliases > 0) this.#aliases = new OutboundAliases(aliases)
  }

  /** @returns once after a `waiting`, whether there is room now */
  takeRoom(): boolean {
    if (!this.#isAwaited || this.window.isFull || this.#isSlow()) return false
    this.#isAwaited = false
    return true
  }

  /** @throws RangeError when another message under way has the packet identifier */
  deliver(message: Message, delivery: Delivery): Delivered {
    const { qos } = delivery
    if (this.#isSlow() || (qos > 0 && this.window.isFull)) {
      if (qos > 0 || delivery.mayWait === true) {
        this.#isAwaited = true
        return 'waiting'
      }
      this.#drop('slow', message.topic)
      return 'dropped'
    }
    const secondsLeft = this.#secondsLeft(message)
    if (secondsLeft === 0 && !delivery.dup) {
      this.dropped.expired++ // [MQTT-3.3.2-5]
      return 'dropped'
    }
    // A client that keeps a QoS 2 message until its PUBREL may have kept the alias for its topic (MQTT.js does).
    const aliases = qos < 2 ? this.#aliases : undefined
    const isSent =
      aliases === undefined && (delivery.identifiers?.length ?? 0) === 0
        ? this.#sendShared(message, delivery, secondsLeft)
        : this.#sendOwn(message, delivery, secondsLeft, aliases)
    if (isSent) {
      this.sent++
      return 'sent'
    }
    this.#drop('tooLarge', message.topic)
    return 'dropped'
  }

  /** Whether a message without properties and identifiers has the same octets for this client as for others of its version. */
  get isPlain(): boolean {
    return this.#aliases === undefined
  }

  /** At QoS 0. */
  forward(publish: PlainPublish): void {
    const frame = publish.frame(this.#version)
    if (this.#isSlow()) this.#drop('slow', publish.topic)
    else if (frame.length > this.#maxBytes) this.#drop('tooLarge', publish.topic)
    else {
      this.#writer.push(frame)
      this.sent++
    }
  }

  #drop(why: Dropped, topic: string): void {
    this.dropped[why]++
    this.#events.dropped?.(why, topic)
  }

  #isSlow(): boolean {
    return this.#writer.pendingBytes > this.#slowBytes
  }

  #secondsLeft({ expiresAt }: Message): number | undefined {
    if (expiresAt === undefined) return undefined
    return Math.max(0, Math.ceil((expiresAt - this.#clock().getTime()) / 1_000))
  }

  /** Sends the octets that every receiver of its version gets. @returns false when the client takes no packet so large */
  #sendShared(message: Message, delivery: Delivery, secondsLeft: number | undefined): boolean {
    const { qos, retain } = delivery
    const frame = publishFrame(message, this.#version, qos, retain, secondsLeft)
    if (frame.octets.length > this.#maxBytes) return false
    if (qos === 0) {
      this.#writer.push(frame.octets)
      return true
    }
    const packetId = delivery.packetId ?? this.window.nextPacketId()
    this.window.sent(packetId, qos)
    this.#writer.push(stampedFor(frame, qos, retain, delivery.dup === true, packetId), restOf(frame))
    return true
  }

  /** Sends octets of this connection's own: with its subscription identifiers and topic aliases. */
  #sendOwn(
    message: Message,
    delivery: Delivery,
    secondsLeft: number | undefined,
    aliases: OutboundAliases | undefined,
  ): boolean {
    const { qos, retain, identifiers = [], dup = false } = delivery
    const { payload } = message
    const known = aliases?.find(message.topic)
    const alias = known ?? aliases?.free()
    const packetId = qos === 0 ? 0 : (delivery.packetId ?? this.window.nextPacketId())
    const own: Properties = {}
    if (identifiers.length > 0) own.subscriptionIdentifiers = [...identifiers] // [MQTT-3.3.4-3] [MQTT-3.3.4-4]
    if (alias !== undefined) own.topicAlias = alias
    const properties = propertiesOf(message, secondsLeft, own)
    const topic = known === undefined ? message.topic : ''
    const frame = encode({ type: 'publish', topic, payload, qos, retain, dup, packetId, properties }, this.#version)
    if (frame.length > this.#maxBytes) return false
    if (qos > 0) this.window.sent(packetId, qos as 1 | 2)
    if (known === undefined && alias !== undefined) aliases?.give(message.topic, alias)
    this.#writer.push(frame)
    return true
  }
}
