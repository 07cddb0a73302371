/** What a link and whoever serves it say to each other. */
import type { ProblemCode } from '../../contract/problems.ts'
import type { Connect, Publish, Qos, Subscribe, Unsubscribe } from './packet.ts'
import type { PlainPublish } from './plain-publish.ts'
import type { Properties } from './properties.ts'

export type LinkLimits = {
  /** of the packets before `accept`, fixed header included; likewise the next */
  maxConnectBytes: number
  maxPacketBytes: number
  /** unread output: above half of it messages are dropped or wait, above all of it the connection ends */
  maxBufferedBytes: number
  /** until `accept` */
  connectTimeoutMs: number
  /** messages of QoS 1 and 2 that the client may have under way, and that the handler may be behind */
  receiveMaximum: number
  /** messages of QoS 1 and 2 under way to the client, which may ask for fewer */
  maxInflight: number
  /** in either direction */
  topicAliasMaximum: number
}

/** How a connection ended. `code` is `closed` where its handler ended it, which knows why. */
export type LinkEnd = {
  code: ProblemCode | 'disconnected' | 'connection_lost' | 'keep_alive_expired' | 'closed'
  /** MQTT 5 reason code */
  reason: number
  sentence: string
  /** with code `internal` */
  cause?: unknown
}

export type Dropped = 'slow' | 'tooLarge'

export type LinkCounters = {
  packetsIn: number
  bytesIn: number
  packetsOut: number
  bytesOut: number
  /** PUBLISH packets, of those. */
  messagesIn: number
  messagesOut: number
  dropped: { slow: number; tooLarge: number; expired: number }
}

/** The client's DISCONNECT. */
export type Goodbye = {
  /** false: the client left because of an error that it names */
  clean: boolean
  reason: number
  /** [MQTT-3.14.4-3]: the will is not due after a normal disconnection */
  willDue: boolean
  /** seconds, in place of what the CONNECT said */
  sessionExpiry?: number
}

/**
 * Who serves one connection. Packets are in version 5's shape whatever was spoken: a session expiry interval says what
 * Clean Session did, topic aliases are resolved. Payloads are views of a larger buffer: who keeps one copies it.
 *
 * Every PUBLISH of QoS 1 and 2, PUBREL, SUBSCRIBE and UNSUBSCRIBE is answered once with `Link.send`; while too many answers
 * are missing nothing more is read. What a method throws ends the connection with code `internal`.
 */
export interface LinkEvents {
  /** Answer with `accept` or `refuse`, now or later; nothing else comes before. */
  connect(packet: Connect): void
  publish(packet: Publish): void
  /**
   * A PUBLISH that can be handled as it lies and in this turn.
   *
   * @returns the reason of its acknowledgement; undefined when nothing was done: it comes to `publish` then
   */
  passOn?(publish: PlainPublish): number | undefined
  /** PUBREL; also of a message that came on an earlier connection, or never did (0x92). */
  released(packetId: number): void
  subscribe(packet: Subscribe): void
  unsubscribe(packet: Unsubscribe): void
  /** The client has a message that was delivered, or refused it; its packet identifier is free again. */
  acknowledged(packetId: number, reason: number): void
  /** PUBREC: note that the message must not go out again, then send PUBREL. */
  received(packetId: number): void
  /** A delivery that was told to wait can be made now. */
  room(): void
  /** A message that the client will not have: it reads too slowly, or takes no packet so large. */
  dropped?(why: Dropped, topic: string): void
  disconnected(goodbye: Goodbye): void
  /** The last one, in a turn of its own. The socket may be open for another second, for the client to read why. */
  closed(end: LinkEnd): void
}

/** Says to the client what it was given; `properties` take precedence over the limits, and what they say is enforced. */
export type Acceptance = {
  sessionPresent: boolean
  assignedClientId?: string
  /** seconds; our clock goes by it, whether the client could be told or not */
  serverKeepAlive?: number
  properties?: Properties
}

export type Delivery = {
  qos: Qos
  retain: boolean
  /** of the subscriptions that matched */
  identifiers?: readonly number[]
  /** the one that the message had before, on a session that goes on; chosen here when missing */
  packetId?: number
  /** it went out before [MQTT-3.3.1-1] */
  dup?: boolean
  /** at QoS 0: `waiting` instead of `dropped` for a reader that is slow, where the message can be had again */
  mayWait?: boolean
}
/**
 * `waiting`: nothing was sent or kept; deliver it again after `LinkEvents.room`, or on the session's next connection.
 * `dropped`: done with, as if it had been sent [MQTT-3.1.2-25].
 */
export type Delivered = 'sent' | 'waiting' | 'dropped'
