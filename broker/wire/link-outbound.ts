import { encode } from './codec.ts'
import { type Ack, type Connack, type Disconnect, headers, type SubscriptionAck, type Version } from './packet.ts'
import { connackCode, isRefusal, mayCarry, protocolError, reason } from './reason.ts'

/** How far a message to the client has come. */
type State =
  /** QoS 1, PUBACK has not come */
  | 'sent at QoS 1'
  /** QoS 2, PUBREC has not come */
  | 'sent at QoS 2'
  /** PUBREC has come, PUBREL is the handler's to send */
  | 'received'
  /** PUBREL is out, PUBCOMP has not come */
  | 'released'
/** What an acknowledgement brings about. */
export type AckOutcome = 'acknowledged' | 'received' | 'repeat PUBREL' | 'unknown PUBREC' | 'nothing'

/** Packet identifiers of the server, and the messages that are under way with them (MQTT 5, 4.9). */
export class OutboundWindow {
  readonly #maximum: number
  /** Made when it is needed: most devices are sent nothing above QoS 0. */
  #states: Map<number, State> | undefined
  #last = 0

  constructor(maximum: number) {
    this.#maximum = maximum
  }

  get isFull(): boolean {
    return this.#states !== undefined && this.#states.size >= this.#maximum // [MQTT-3.3.4-9]
  }

  /** The identifier for the next message; no message under way has it [MQTT-2.2.1-4]. @throws RangeError when all are */
  nextPacketId(): number {
    const states = this.#states
    if (states?.size === 0xffff) throw new RangeError('every packet identifier is under way')
    let packetId = this.#last
    do packetId = packetId === 0xffff ? 1 : packetId + 1
    while (states?.has(packetId))
    return packetId
  }

  /** @throws RangeError when a message under way has that identifier */
  sent(packetId: number, qos: 1 | 2): void {
    this.#states ??= new Map()
    if (this.#states.has(packetId)) throw new RangeError(`packet identifier ${packetId} is under way`)
    this.#states.set(packetId, qos === 1 ? 'sent at QoS 1' : 'sent at QoS 2')
    this.#last = packetId
  }

  /** PUBREL goes out; of a resumed session it is the first that this connection hears of the message. */
  released(packetId: number): void {
    this.#states ??= new Map()
    this.#states.set(packetId, 'released')
  }

  /** @throws Malformed for an acknowledgement of another kind than the message has to get (4.3) */
  acknowledged({ type, packetId, reason: code }: Ack): AckOutcome {
    const states = this.#states
    const state = states?.get(packetId)
    if (states === undefined || state === undefined)
      return type === 'pubrec' && !isRefusal(code) ? 'unknown PUBREC' : 'nothing'
    if (type === 'pubrec' && state === 'received') return 'nothing'
    if (type === 'pubrec' && state === 'released') return 'repeat PUBREL'
    if (type === 'pubrec' && state === 'sent at QoS 2' && !isRefusal(code)) {
      states.set(packetId, 'received')
      return 'received'
    }
    const wanted = state === 'sent at QoS 1' ? 'puback' : state === 'released' ? 'pubcomp' : 'pubrec'
    if (type !== wanted) throw protocolError(`${type} for a message ${state}`)
    states.delete(packetId)
    return 'acknowledged'
  }
}

/** Short names for topics on one connection; the topic that was used longest ago loses its own first. */
export class OutboundAliases {
  readonly #maximum: number
  readonly #aliases = new Map<string, number>()

  /** @param maximum at least 1 */
  constructor(maximum: number) {
    this.#maximum = maximum
  }

  /** @returns what the client knows the topic by, undefined when it does not */
  find(topic: string): number | undefined {
    const alias = this.#aliases.get(topic)
    if (alias === undefined) return undefined
    this.#aliases.delete(topic)
    this.#aliases.set(topic, alias)
    return alias
  }

  /** The alias that a topic can be given; nothing changes before `give`, since the packet may not go out. */
  free(): number {
    if (this.#aliases.size < this.#maximum) return this.#aliases.size + 1
    for (const alias of this.#aliases.values()) return alias
    return 1
  }

  /** The client was told that `alias`, which `free` named, is `topic`. */
  give(topic: string, alias: number): void {
    for (const [oldest, its] of this.#aliases) {
      if (its === alias) this.#aliases.delete(oldest)
      break
    }
    this.#aliases.set(topic, alias)
  }
}

/** Of the longest `pubackFrame`. */
export const pubackBytes = 5

/** @param code is left out where it is success, and before version 5 */
export function pubackFrame(packetId: number, code: number, version: Version): Buffer {
  const hasReason = version === 5 && code !== reason.success
  const frame = Buffer.allocUnsafe(hasReason ? pubackBytes : 4)
  frame[0] = headers.puback
  frame[1] = frame.length - 2
  frame[2] = packetId >> 8
  frame[3] = packetId & 0xff
  if (hasReason) frame[4] = code
  return frame
}

/** The CONNACK that refuses; undefined where the version has no word for it, or the client no room. */
export function refusalFrame(
  code: number,
  sentence: string,
  version: Version,
  maxBytes: number,
  explains: boolean,
): Buffer | undefined {
  if (version !== 5 && connackCode(code) === undefined) return undefined
  const said = version === 5 && !mayCarry('connack', code) ? reason.unspecifiedError : code
  const properties = sentence === '' ? undefined : { reasonString: sentence }
  return encodeWithin({ type: 'connack', sessionPresent: false, reason: said, properties }, version, maxBytes, explains)
}

/** The DISCONNECT that says why; only version 5 has one from a server. */
export function farewellFrame(code: number, sentence: string, maxBytes: number, explains: boolean): Buffer | undefined {
  const said = mayCarry('serverDisconnect', code) ? code : reason.unspecifiedError
  const properties = sentence === '' ? undefined : { reasonString: sentence }
  return encodeWithin({ type: 'disconnect', reason: said, properties }, 5, maxBytes, explains)
}

/**
 * Encodes what is not a message. Reason string and user properties go first where the client wants no explanations
 * [MQTT-3.1.2-29], or has no room for them ([MQTT-3.2.2-19], [MQTT-3.2.2-20] and the like of each acknowledgement).
 *
 * @returns undefined when the packet is larger than `maxBytes` all the same [MQTT-3.1.2-24]
 */
export function encodeWithin(
  packet: Ack | SubscriptionAck | Connack | Disconnect,
  version: Version,
  maxBytes: number,
  explains: boolean,
): Buffer | undefined {
  // Nearly all that is said of QoS 1.
  if (packet.type === 'puback' && packet.properties === undefined && maxBytes >= pubackBytes)
    return pubackFrame(packet.packetId, packet.reason, version)
  const { reasonString, userProperties, ...rest } = packet.properties ?? {}
  const says = version === 5 && (reasonString !== undefined || userProperties !== undefined)
  if (!says || explains) {
    const whole = encode(packet, version)
    if (whole.length <= maxBytes) return whole
    if (!says) return undefined
  }
  if (explains && reasonString !== undefined && userProperties !== undefined) {
    const shorter = encode({ ...packet, properties: { ...rest, reasonString } }, version)
    if (shorter.length <= maxBytes) return shorter
  }
  const bare = encode({ ...packet, properties: rest }, version)
  return bare.length <= maxBytes ? bare : undefined
}
