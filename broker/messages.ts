/** Messages of the wire as the store and the router have them. */
import { brokerItself, type Message, type Will as StoredWill } from './backends/session-store.ts'
import type { Publish, Will } from './wire/packet.ts'
import type { PlainPublish } from './wire/plain-publish.ts'
import type { Properties } from './wire/properties.ts'

const forGood = 0xffff_ffff

type Published = Pick<Publish, 'topic' | 'payload' | 'qos' | 'retain'> & {
  readonly properties?: Readonly<Properties> | undefined
}

/** The message expiry interval becomes a point in time; it begins when the server has the message [MQTT-3.3.2-5]. */
export function messageOf(packet: Published, from: string, now: number): Message {
  const { topic, payload, qos, retain, properties } = packet
  const { messageExpiryInterval, willDelayInterval: _, ...kept } = properties ?? {}
  return {
    topic,
    payload,
    qos,
    retain,
    from,
    publishedAt: now,
    ...(Object.keys(kept).length === 0 ? {} : { properties: kept }),
    ...(messageExpiryInterval === undefined ? {} : { expiresAt: now + messageExpiryInterval * 1_000 }),
  }
}

/** With octets of its own. */
export const messageOfPlain = (publish: PlainPublish, from: string, now: number): Message => ({
  topic: publish.topic,
  payload: publish.copyPayload(),
  qos: publish.qos,
  retain: false,
  from,
  publishedAt: now,
})

/**
 * A will is kept with its interval, which begins when it is published.
 *
 * @param certificate DER
 */
export function storedWill(will: Will, from: string, certificate: Buffer | undefined, now: number): StoredWill {
  const { messageExpiryInterval, willDelayInterval = 0, ...kept } = will.properties ?? {}
  const interval = messageExpiryInterval === undefined ? {} : { messageExpiryInterval }
  const message = messageOf({ ...will, properties: kept }, from, now)
  return {
    message: { ...message, properties: { ...kept, ...interval } },
    delayMs: willDelayInterval * 1_000,
    ...(certificate === undefined ? {} : { certificate }),
  }
}

/** The message that a stored will is when it becomes due. */
export const dueWill = (message: Message, now: number): Message => messageOf(message, message.from, now)

/** What takes a retained message away [MQTT-3.3.1-6], from nobody: it is not void with what it clears. */
export const clearing = ({ topic, qos }: Message, now: number): Message => ({
  topic,
  payload: Buffer.alloc(0),
  qos,
  retain: true,
  from: brokerItself,
  publishedAt: now,
})

/** Milliseconds of a session expiry interval; 0xffffffff seconds are for good (MQTT 5, 3.1.2.11.2). */
export const expiryMs = (seconds: number, atMostMs: number): number =>
  seconds === forGood ? atMostMs : Math.min(seconds * 1_000, atMostMs)
