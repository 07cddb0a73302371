import { encode } from './codec.ts'
import type { Qos, Version } from './packet.ts'
import type { Properties } from './properties.ts'

/** What a message is to a link. The same object for all its receivers, never mutated. */
export type Message = {
  readonly topic: string
  readonly payload: Buffer
  /** Those of a PUBLISH but the topic alias; `expiresAt` takes the place of the message expiry interval. */
  readonly properties?: Readonly<Properties> | undefined
  /** milliseconds of the epoch */
  readonly expiresAt?: number | undefined
}

/**
 * A PUBLISH. Above QoS 0 its octets are a pattern up to `idEnd`, where the packet identifier ends, and the first receiver's own
 * once it was given them; what follows is the same for every receiver.
 */
export type PublishFrame = {
  readonly octets: Buffer
  readonly idEnd: number
  isGiven: boolean
  rest: Buffer | undefined
}

/** Of the last message that was delivered: QoS 0 with each RETAIN flag and QoS 1 or 2, before version 5 and in it. */
const frames: (PublishFrame | undefined)[] = new Array(6).fill(undefined)
let last: Message | undefined
let lastSeconds: number | undefined

/**
 * The PUBLISH that every receiver of `message` gets in one version, encoded once: fan-out goes through its receivers in one
 * go, so the last message is all that needs to be remembered. Complete at QoS 0; above it for `stampedFor`.
 *
 * @param secondsLeft until the message expires
 */
export function publishFrame(
  message: Message,
  version: Version,
  qos: Qos,
  retain: boolean,
  secondsLeft: number | undefined,
): PublishFrame {
  if (message !== last || secondsLeft !== lastSeconds) {
    frames.fill(undefined)
    last = message
    lastSeconds = secondsLeft
  }
  const at = (version === 5 ? 3 : 0) + (qos > 0 ? 2 : retain ? 1 : 0)
  const known = frames[at]
  if (known !== undefined) return known
  const { topic, payload } = message
  const properties = version === 5 ? propertiesOf(message, secondsLeft) : undefined
  const bytes = encode(
    { type: 'publish', topic, payload, qos: qos > 0 ? 1 : 0, retain, dup: false, packetId: 1, properties },
    version,
  )
  const idEnd = qos > 0 ? packetIdEnd(bytes) : 0
  const frame = { octets: bytes, idEnd, isGiven: false, rest: undefined }
  frames[at] = frame
  return frame
}

/** [MQTT-3.3.2-4] [MQTT-3.3.2-15] to [MQTT-3.3.2-20]: as they came, but for the expiry [MQTT-3.3.2-6]. */
export function propertiesOf(
  { properties }: Message,
  secondsLeft: number | undefined,
  own?: Properties,
): Properties | undefined {
  if (secondsLeft === undefined && own === undefined) return properties
  return secondsLeft === undefined
    ? { ...properties, ...own }
    : { ...properties, messageExpiryInterval: secondsLeft, ...own }
}

/**
 * The pattern with the flags and the identifier of one delivery.
 *
 * @returns the whole PUBLISH for its first receiver, which most messages have alone; for others what comes before `restOf`
 */
export function stampedFor(frame: PublishFrame, qos: 1 | 2, retain: boolean, dup: boolean, packetId: number): Buffer {
  const { octets, idEnd } = frame
  let head = octets
  if (frame.isGiven) {
    head = Buffer.allocUnsafe(idEnd)
    octets.copy(head, 0, 0, idEnd)
  }
  head[0] = 0x30 | (dup ? 0x08 : 0) | (qos << 1) | (retain ? 1 : 0)
  head[idEnd - 2] = packetId >> 8
  head[idEnd - 1] = packetId & 0xff
  return head
}

/** Behind what `stampedFor` gives to this receiver, who is the first if it was never asked before. */
export function restOf(frame: PublishFrame): Buffer | undefined {
  if (frame.isGiven) frame.rest ??= frame.octets.subarray(frame.idEnd)
  frame.isGiven = true
  return frame.rest
}

function packetIdEnd(frame: Buffer): number {
  let at = 1
  while (frame[at]! >= 0x80) at++
  return at + 3 + frame.readUInt16BE(at + 1) + 2
}
