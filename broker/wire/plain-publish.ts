import { varintBytes, writeVarint } from './fields.ts'
import type { Version } from './packet.ts'

const none = Buffer.alloc(0)
// First octets.
const atQos0 = 0x30
const atQos1 = 0x32
const repeated = 0x3a
/** A topic of one octet with its length, behind a fixed header of two. */
const leastBytes = 5

/**
 * A PUBLISH of QoS 0 or 1 without RETAIN and without properties, read where it lies: no packet, topic or payload is made of
 * it. Of its topic no more is checked than that there is one, so it is worth nothing before its octets are known to be those
 * of a topic that was decoded. One object is used for packet after packet; what is kept are the frames alone.
 */
export class PlainPublish {
  octets: Buffer = none
  /** For whoever knows it by its octets to say. */
  topic = ''
  /** For whoever refuses it to say why; means nothing otherwise. */
  sentence = ''
  readonly retain = false
  readonly payload = { length: 0 }
  topicFrom = 0
  topicTo = 0
  /** behind the packet */
  end = 0
  qos: 0 | 1 = 0
  /** 0 at QoS 0 */
  packetId = 0
  #at = 0
  #payloadFrom = 0
  #isVersion5 = false
  readonly #frames: [Buffer | undefined, Buffer | undefined] = [undefined, undefined]

  /**
   * @param maxBytes of a whole packet
   * @returns false for every other packet, one that has not arrived whole, and one that is not well formed
   */
  read(octets: Buffer, at: number, version: Version, maxBytes: number): boolean {
    if (octets.length - at < leastBytes) return false
    const header = octets[at]!
    if (header !== atQos0 && header !== atQos1 && header !== repeated) return false
    const qos = header === atQos0 ? 0 : 1
    let length = octets[at + 1]!
    let from = at + 2
    if (length >= 0x80) {
      const high = octets[from++]!
      if (high >= 0x80 || high === 0) return false // longer than 16,383 octets, or with more octets than it needs
      length = (length & 0x7f) | (high << 7)
    }
    const end = from + length
    if (end > octets.length || end - at > maxBytes || length < 3) return false
    const topicTo = from + 2 + ((octets[from]! << 8) | octets[from + 1]!)
    let payloadFrom = topicTo + 2 * qos
    if (topicTo === from + 2 || payloadFrom > end) return false
    const packetId = qos === 0 ? 0 : (octets[topicTo]! << 8) | octets[topicTo + 1]!
    if (qos === 1 && packetId === 0) return false
    if (version === 5) {
      if (payloadFrom === end || octets[payloadFrom] !== 0) return false
      payloadFrom++
    }
    this.octets = octets
    this.topicFrom = from + 2
    this.topicTo = topicTo
    this.end = end
    this.payload.length = end - payloadFrom
    this.qos = qos
    this.packetId = packetId
    this.#at = at
    this.#payloadFrom = payloadFrom
    this.#isVersion5 = version === 5
    this.#frames[0] = undefined
    this.#frames[1] = undefined
    return true
  }

  copyPayload(): Buffer {
    const payload = Buffer.allocUnsafe(this.payload.length)
    this.octets.copy(payload, 0, this.#payloadFrom, this.end)
    return payload
  }

  /** What every receiver of a version gets at QoS 0; not to be changed. */
  frame(version: Version): Buffer {
    const at = version === 5 ? 1 : 0
    this.#frames[at] ??= this.#frameOf(version === 5)
    return this.#frames[at]
  }

  #frameOf(isVersion5: boolean): Buffer {
    const { octets, topicFrom, topicTo, end, qos } = this
    if (qos === 0 && isVersion5 === this.#isVersion5) return octets.subarray(this.#at, end)
    const length = topicTo - topicFrom + 2 + (isVersion5 ? 1 : 0) + end - this.#payloadFrom
    const frame = Buffer.allocUnsafe(1 + varintBytes(length) + length)
    frame[0] = atQos0
    let at = writeVarint(frame, 1, length)
    at += octets.copy(frame, at, topicFrom - 2, topicTo)
    if (isVersion5) frame[at++] = 0
    octets.copy(frame, at, this.#payloadFrom, end)
    return frame
  }
}
