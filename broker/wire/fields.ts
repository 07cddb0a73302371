/** The data types of MQTT 5, section 1.5 (of 3.1.1 likewise): read with every check, written without. */
import { isUtf8 } from 'node:buffer'
import { maxTopicLevels } from '../../contract/topics.ts'
import { Malformed, reason } from './reason.ts'

/** The bytes of one packet, read front to back; every read beyond `end` is a refusal. */
export class Cursor {
  readonly body: Buffer
  at: number
  end: number

  constructor(body: Buffer, at = 0) {
    this.body = body
    this.at = at
    this.end = body.length
  }

  /** Moves over `length` octets. @returns where they begin */
  take(length: number): number {
    const from = this.at
    if (length > this.end - from) throw new Malformed(reason.malformedPacket, 'the packet ends inside a field')
    this.at = from + length
    return from
  }

  u8(): number {
    return this.body[this.take(1)]!
  }

  u16(): number {
    const at = this.take(2)
    return (this.body[at]! << 8) | this.body[at + 1]!
  }

  u32(): number {
    return this.body.readUInt32BE(this.take(4))
  }

  varint(): number {
    let value = 0
    for (let shift = 0; shift < 28; shift += 7) {
      const octet = this.u8()
      value |= (octet & 0x7f) << shift
      if (octet >= 0x80) continue
      // [MQTT-1.5.5-1]
      if (octet === 0 && shift > 0)
        throw new Malformed(reason.malformedPacket, 'a length with more octets than it needs')
      return value
    }
    throw new Malformed(reason.malformedPacket, 'a length of more than four octets')
  }

  text(): string {
    const length = this.u16()
    const from = this.take(length)
    return parseText(this.body, from, this.at)
  }

  topicName(): string {
    const length = this.u16()
    const from = this.take(length)
    return parseTopicName(this.body, from, this.at)
  }

  /** A view, not a copy. */
  binary(): Buffer {
    const length = this.u16()
    const from = this.take(length)
    return this.body.subarray(from, this.at)
  }

  finish(): void {
    if (this.at < this.end) throw new Malformed(reason.malformedPacket, 'octets behind the end of the packet')
  }
}

// MQTT 5, 1.5.4 and MQTT 3.1.1, 1.5.3: a receiver MAY refuse control characters and non-characters. We do: these strings
// become client ids, topics and log fields, where they only serve to deceive.
const disallowed = /[\p{Cc}\p{Noncharacter_Code_Point}]/u

/** Octets `from` to `to` as a UTF-8 Encoded String (MQTT 5, 1.5.4). */
export function parseText(body: Buffer, from: number, to: number): string {
  for (let i = from; i < to; i++) {
    const octet = body[i]!
    if (octet >= 0x20 && octet < 0x7f) continue
    if (octet < 0x80) throw new Malformed(reason.malformedPacket, 'a string with a control character') // [MQTT-1.5.4-2]
    return parseWideText(body, from, to)
  }
  return body.toString('latin1', from, to)
}

function parseWideText(body: Buffer, from: number, to: number): string {
  // [MQTT-1.5.4-1]
  if (!isUtf8(body.subarray(from, to))) throw new Malformed(reason.malformedPacket, 'a string that is not UTF-8')
  const text = body.toString('utf8', from, to) // [MQTT-1.5.4-3]: keeps a leading U+FEFF
  if (disallowed.test(text)) throw new Malformed(reason.malformedPacket, 'a string with a control or non-character')
  return text
}

const slash = 0x2f
const plus = 0x2b
const hash = 0x23

/** A topic that something can be published to: not empty, no wildcard, at most `maxTopicLevels` levels. */
export function parseTopicName(body: Buffer, from: number, to: number): string {
  if (from === to) throw new Malformed(reason.topicNameInvalid, 'an empty topic name') // [MQTT-4.7.3-1]
  let levels = 1
  let isPlain = true
  for (let i = from; i < to; i++) {
    const octet = body[i]!
    if (octet === slash) levels++
    else if (octet === plus || octet === hash)
      throw new Malformed(reason.topicNameInvalid, 'a topic name with a wildcard') // [MQTT-3.3.2-2] [MQTT-4.7.0-1]
    else if (octet < 0x20 || octet >= 0x7f) isPlain = false
  }
  if (levels > maxTopicLevels) throw new Malformed(reason.topicNameInvalid, `a topic name of ${levels} levels`)
  return isPlain ? body.toString('latin1', from, to) : parseText(body, from, to)
}

/** Octets of a Variable Byte Integer. @throws RangeError above 268,435,455 */
export function varintBytes(value: number): number {
  if (value < 0x80) return 1
  if (value < 0x4000) return 2
  if (value < 0x20_0000) return 3
  if (value < 0x1000_0000) return 4
  throw new RangeError(`${value} octets do not fit into an MQTT packet`)
}

/** @returns where the next octet goes */
export function writeVarint(frame: Buffer, at: number, value: number): number {
  let rest = value
  let next = at
  while (rest >= 0x80) {
    frame[next++] = (rest & 0x7f) | 0x80
    rest >>>= 7
  }
  frame[next++] = rest
  return next
}

/** Octets of a string or of binary data with its length in front. @throws RangeError above 65,535 [MQTT-4.7.3-3] */
export function fieldBytes(value: string | Buffer): number {
  const bytes = typeof value === 'string' ? Buffer.byteLength(value) : value.length
  if (bytes > 0xffff) throw new RangeError(`a field of ${bytes} octets; MQTT fields hold 65535`)
  return bytes + 2
}

/** @returns where the next octet goes */
export function writeField(frame: Buffer, at: number, value: string | Buffer): number {
  const bytes = typeof value === 'string' ? frame.write(value, at + 2) : value.copy(frame, at + 2)
  frame[at] = bytes >> 8
  frame[at + 1] = bytes & 0xff
  return at + 2 + bytes
}

/** A packet of exactly its size with its fixed header written; the body's `length` octets are the caller's. */
export function frameOf(header: number, length: number): Buffer {
  const frame = Buffer.allocUnsafe(1 + varintBytes(length) + length)
  frame[0] = header
  writeVarint(frame, 1, length)
  return frame
}
