import type { Ack, Packet, Publish } from './packet.ts'
import type { Properties } from './properties.ts'
import { isRefusal, Malformed, protocolError, reason } from './reason.ts'

/** How far a QoS 2 message of the client has come. */
type State =
  /** PUBREC is due */
  | 'published'
  /** PUBREC is out, PUBREL has not come */
  | 'received'
  /** PUBCOMP is due */
  | 'released'
  /** the same for a message that came on an earlier connection: outside this connection's receive maximum */
  | 'resumed'

/**
 * What a client has sent and is owed an answer for: the server's receive maximum (MQTT 5, 4.9). A client that was not told
 * of it may have all 65,535 identifiers at QoS 2 under way.
 */
export class InboundWindow {
  readonly #maximum: number
  readonly #isEnforced: boolean
  /** Made when it is needed. */
  #qos2: Map<number, State> | undefined
  #qos1 = 0
  #resumed = 0
  #owed = 0

  /**
   * @param maximum    PUBLISH packets of QoS 1 and 2 that may be under way, and answers that may be missing
   * @param isEnforced whether the client was told
   */
  constructor(maximum: number, isEnforced: boolean) {
    this.#maximum = maximum
    this.#isEnforced = isEnforced
  }

  /**
   * The handler is behind, and who was not told of a maximum is slowed down instead. A message that awaits its PUBREL does
   * not count: that PUBREL would never be read.
   */
  get isBehind(): boolean {
    return this.#owed > this.#maximum
  }

  /** Has caught up far enough to go on reading. */
  get hasRoom(): boolean {
    return this.#owed <= this.#maximum / 2
  }

  /** Whether one more message may come. */
  get isOpen(): boolean {
    return !this.#isEnforced || this.#qos1 + (this.#qos2?.size ?? 0) - this.#resumed < this.#maximum
  }

  /** A SUBSCRIBE or UNSUBSCRIBE. */
  asked(): void {
    this.#owed++
  }

  /**
   * @returns whether the message is a new one; a QoS 2 packet identifier under way is not [MQTT-4.3.3-10], whatever its DUP
   *   flag says. QoS 1 is at least once, and clients that reuse an identifier too early would lose messages.
   * @throws Malformed `receiveMaximumExceeded` [MQTT-3.3.4-7]
   */
  published({ qos, packetId }: Publish): boolean {
    if (qos === 2 && this.#qos2?.has(packetId)) return false
    if (!this.isOpen)
      throw new Malformed(reason.receiveMaximumExceeded, `more than ${this.#maximum} messages under way`)
    if (qos === 1) this.#qos1++
    else this.#note(packetId, 'published')
    this.#owed++
    return true
  }

  /** Whether the PUBREC of a repeated QoS 2 message has gone out, and goes out again. */
  wasReceived(packetId: number): boolean {
    return this.#qos2?.get(packetId) === 'received'
  }

  /** @returns whether a PUBREL is to be handled; one whose PUBCOMP is due already is not */
  released(packetId: number): boolean {
    const state = this.#qos2?.get(packetId)
    if (state === 'released' || state === 'resumed') return false
    if (state === 'published') throw protocolError('a PUBREL before its PUBREC')
    if (state === undefined) this.#resumed++
    this.#note(packetId, state === undefined ? 'resumed' : 'released')
    this.#owed++
    return true
  }

  /** @param canRefuse false before version 5, where a PUBREC has no reason and the client goes on with its PUBREL */
  answered({ type, packetId, reason: code }: Ack, canRefuse: boolean): void {
    if (type === 'puback') {
      if (this.#qos1 === 0) return
      this.#qos1--
      this.#owed--
      return
    }
    const state = this.#qos2?.get(packetId)
    if (type === 'pubrec' && state === 'published') {
      if (canRefuse && isRefusal(code)) this.#qos2?.delete(packetId)
      else this.#note(packetId, 'received')
      this.#owed--
    } else if (type === 'pubcomp' && (state === 'released' || state === 'resumed')) {
      if (state === 'resumed') this.#resumed--
      this.#qos2?.delete(packetId)
      this.#owed--
    }
  }

  /** The SUBACK or UNSUBACK went out. */
  told(): void {
    if (this.#owed > 0) this.#owed--
  }

  #note(packetId: number, state: State): void {
    this.#qos2 ??= new Map()
    this.#qos2.set(packetId, state)
  }
}

/** @throws Malformed for what the client was told that it may not use */
export function requireAvailable(packet: Publish, { maximumQos = 2, retainAvailable = true }: Properties): void {
  if (packet.qos > maximumQos)
    throw new Malformed(reason.qosNotSupported, `QoS ${packet.qos}; ${maximumQos} is the highest`) // [MQTT-3.2.2-11]
  if (packet.retain && !retainAvailable)
    throw new Malformed(reason.retainNotSupported, 'messages are not retained for this client') // [MQTT-3.2.2-14]
}

/** What a client calls its topics on one connection [MQTT-3.3.2-7]. */
export class InboundAliases {
  readonly #maximum: number
  #topics: Map<number, string> | undefined

  constructor(maximum: number) {
    this.#maximum = maximum
  }

  /** Gives the packet its topic and takes the alias off: it means nothing to anybody else. @throws Malformed */
  resolve(packet: Publish): void {
    const { properties } = packet
    const alias = properties?.topicAlias
    if (properties === undefined || alias === undefined) return
    if (alias > this.#maximum)
      throw new Malformed(reason.topicAliasInvalid, `topic alias ${alias}; ${this.#maximum} is the highest`) // [MQTT-3.3.2-9]
    if (packet.topic === '') {
      const topic = this.#topics?.get(alias)
      if (topic === undefined) throw protocolError(`topic alias ${alias} stands for nothing`) // 3.3.2.3.4
      packet.topic = topic
    } else {
      this.#topics ??= new Map()
      this.#topics.set(alias, packet.topic)
    }
    delete properties.topicAlias
  }
}

/** The last packet that was taken from a client: of a PUBLISH one that was allowed, which its handler knows. */
export class LastTaken {
  type: Packet['type'] | undefined
  topic: string | undefined
  #at: number | undefined

  note(type: Packet['type'], topic?: string): void {
    this.type = type
    this.topic = topic
    this.#at = undefined
  }

  /** What was read in one turn came at one time: the clock is asked once for all of it. @param now `performance.now()` */
  endTurn(now: number): void {
    this.#at ??= now
  }

  /** `performance.now()` */
  get at(): number {
    return this.#at ?? performance.now()
  }
}
