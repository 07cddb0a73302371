import type { Gate } from './gate.ts'
import type { Connection, Receiver, Sessions } from './sessions.ts'
import type { Link } from './wire/link.ts'
import type { Qos } from './wire/packet.ts'
import type { PlainPublish } from './wire/plain-publish.ts'
import type { Delivery, RouteIndex } from './wire/route-index.ts'

/** Who gets what is published on one topic at QoS 0, as things stand. The same object for all who publish there. */
export type Audience = {
  readonly receivers: { readonly receiver: Receiver; readonly delivery: Delivery }[]
  /** Of the same receivers, where all of them can be given the same octets. */
  links: Link[] | undefined
  /** Whose sessions ask for QoS 1 or 2: what is published at those is stored for them first. */
  readonly stored: Delivery[]
  /** One of those is not connected. */
  hasAbsent: boolean
  /** Somebody has subscribed, connected or not. */
  readonly isWanted: boolean
  /** Who has subscriptions with no-local, and gets something else of what it publishes itself. */
  readonly own: ReadonlyMap<string, unknown> | undefined
}
export const isStored = ({ stored }: Audience, qos: Qos): boolean => qos > 0 && stored.length > 0

/** One topic that a connection publishes on. `audience` is undefined where a message has to take the general way. */
type Lane = { readonly topic: string; readonly octets: Buffer; epoch: number; audience: Audience | undefined }

type FastPathOptions = { index: RouteIndex; sessions: Sessions; gate: Gate }

const maxTopics = 16_384
/** Of all topics together. */
const maxReceivers = 262_144
/** Topics that are remembered for one connection. A power of two. */
const lanesPerConnection = 16
const maxTopicLength = 256

/**
 * From publisher to live receivers in one turn, without anything being made for the message that is not sent: most messages
 * are of QoS 0 or for subscribers at QoS 0, on topics that were published on before. What it knows is forgotten as soon as a
 * subscription, a session or the policy of anybody changes, so that each message meets the world as it is.
 *
 * Shared subscriptions, receivers that are refused a topic, what has to be stored or kept: for the router.
 */
export class FastPath {
  readonly #options: FastPathOptions
  readonly #audiences = new Map<string, Audience | undefined>()
  #receivers = 0
  /** Times that all was forgotten for room. */
  #rounds = 0
  #epoch = -1

  constructor(options: FastPathOptions) {
    this.#options = options
  }

  /** Grows with every change in the world; whoever kept an audience asks for it again. */
  get epoch(): number {
    const { index, sessions, gate } = this.#options
    return index.epoch + sessions.epoch + gate.epoch + this.#rounds
  }

  /** Lets go of who has gone. */
  refresh(): void {
    if (this.epoch === this.#epoch) return
    this.#forgetAll()
    this.#epoch = this.epoch
  }

  /** @returns undefined where a message has to take the general way */
  find(publisher: string, topic: string): Audience | undefined {
    this.refresh()
    const audience = this.#audienceOf(topic)
    return audience?.own?.has(publisher) ? undefined : audience
  }

  #audienceOf(topic: string): Audience | undefined {
    const known = this.#audiences.get(topic)
    if (known !== undefined || this.#audiences.has(topic)) return known
    const audience = this.#gather(topic)
    const size = audience?.receivers.length ?? 0
    if (topic.length > maxTopicLength) return audience
    if (this.#audiences.size >= maxTopics || this.#receivers + size > maxReceivers) {
      this.#forgetAll()
      this.#rounds++
    }
    this.#audiences.set(topic, audience)
    this.#receivers += size
    return audience
  }

  #gather(topic: string): Audience | undefined {
    const { index, sessions, gate } = this.#options
    const { deliveries, groups, own } = index.match(topic)
    if (groups.length > 0) return undefined
    const audience: Audience = {
      receivers: [],
      links: [],
      stored: [],
      hasAbsent: false,
      isWanted: deliveries.length > 0,
      own,
    }
    for (const delivery of deliveries) {
      const { clientId, granted, identifiers } = delivery
      if (granted > 0) audience.stored.push(delivery)
      const connection = sessions.findLive(clientId)
      if (connection === undefined) {
        audience.hasAbsent ||= granted > 0
        continue
      }
      if (!gate.matcherOf(connection).allowsDelivery(topic)) return undefined
      const { link, receiver } = connection
      audience.receivers.push({ receiver: receiver!, delivery })
      if (link.isPlain && identifiers.length === 0) audience.links?.push(link)
      else audience.links = undefined
    }
    return audience
  }

  /** Lanes that nobody publishes on any more keep what they know: it must not keep closed connections. */
  #forgetAll(): void {
    for (const audience of this.#audiences.values()) {
      if (audience === undefined) continue
      audience.receivers.length = 0
      audience.links = undefined
    }
    this.#audiences.clear()
    this.#receivers = 0
  }
}

/** What one connection publishes on, found by the octets of the topic as by the text that they were decoded to. */
export class Lanes {
  readonly #fastPath: FastPath
  readonly #connection: Connection
  #lanes: (Lane | undefined)[] | undefined

  constructor(fastPath: FastPath, connection: Connection) {
    this.#fastPath = fastPath
    this.#connection = connection
  }

  /** Of a topic that was published on before, which the message is told; one that never was has not been checked. */
  find(publish: PlainPublish): Audience | undefined {
    const { octets, topicFrom, topicTo } = publish
    let hash = topicTo - topicFrom
    for (let at = Math.max(topicFrom, topicTo - hashedEnd); at < topicTo; at++) hash = mixed(hash, octets[at]!)
    const lane = this.#lanes?.[slotOf(hash)]
    const length = topicTo - topicFrom
    if (lane === undefined || lane.octets.length !== length) return undefined
    // Octets with octets: each character of a text would be a look at how that text is kept.
    for (let at = 0; at < length; at++) if (lane.octets[at] !== octets[topicFrom + at]) return undefined
    publish.topic = lane.topic
    return this.#current(lane)
  }

  get(topic: string): Audience | undefined {
    // Others would have octets that are the text of another topic.
    if (topic.length > maxTopicLength || !isAscii(topic)) return this.#fastPath.find(this.#connection.clientId!, topic)
    let hash = topic.length
    for (let at = Math.max(0, topic.length - hashedEnd); at < topic.length; at++)
      hash = mixed(hash, topic.charCodeAt(at))
    this.#lanes ??= new Array(lanesPerConnection).fill(undefined)
    const slot = slotOf(hash)
    let lane = this.#lanes[slot]
    if (lane?.topic !== topic) {
      lane = { topic, octets: Buffer.from(topic, 'latin1'), epoch: -1, audience: undefined }
      this.#lanes[slot] = lane
    }
    return this.#current(lane)
  }

  #current(lane: Lane): Audience | undefined {
    if (lane.epoch !== this.#fastPath.epoch) {
      lane.audience = this.#fastPath.find(this.#connection.clientId!, lane.topic)
      lane.epoch = this.#fastPath.epoch
    }
    return lane.audience
  }
}

/** Topics of one device differ at their end. Whoever makes its own collide slows itself down. */
const hashedEnd = 8
const mixed = (hash: number, octet: number): number => (Math.imul(hash, 31) + octet) | 0
const slotOf = (hash: number): number => (hash ^ (hash >>> 4)) & (lanesPerConnection - 1)

function isAscii(text: string): boolean {
  for (let at = 0; at < text.length; at++) if (text.charCodeAt(at) >= 0x80) return false
  return true
}
