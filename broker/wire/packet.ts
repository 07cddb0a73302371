/** The control packets of MQTT 3.1, 3.1.1 and 5, in version 5's shape whatever was spoken. */
import { isTopicFilter } from '../../contract/topics.ts'
import type { Properties } from './properties.ts'

/** Protocol level of MQTT 3.1, 3.1.1 and 5. */
export type Version = 3 | 4 | 5
export type Qos = 0 | 1 | 2
/** Who sent the octets: some packets, properties and reason codes are for one side only. */
export type Sender = 'client' | 'server'

type WithProperties = { properties?: Properties | undefined }
export type Will = WithProperties & { topic: string; payload: Buffer; qos: Qos; retain: boolean }
export type Connect = WithProperties & {
  type: 'connect'
  version: Version
  /** Clean Start; Clean Session before version 5 */
  clean: boolean
  /** seconds, 0 for none */
  keepAlive: number
  clientId: string
  will?: Will | undefined
  username?: string | undefined
  password?: Buffer | undefined
}
export type Connack = WithProperties & { type: 'connack'; sessionPresent: boolean; reason: number }
export type Publish = WithProperties & {
  type: 'publish'
  /** empty when a topic alias stands for it */
  topic: string
  /** a view of the packet's octets */
  payload: Buffer
  qos: Qos
  retain: boolean
  dup: boolean
  /** 0 at QoS 0 */
  packetId: number
}
export type Ack = WithProperties & {
  type: 'puback' | 'pubrec' | 'pubrel' | 'pubcomp'
  packetId: number
  reason: number
}
export type Subscription = {
  /** as the client wrote it, `$share/group/` included */
  filter: string
  qos: Qos
  noLocal: boolean
  retainAsPublished: boolean
  retainHandling: 0 | 1 | 2
}
export type Subscribe = WithProperties & { type: 'subscribe'; packetId: number; subscriptions: Subscription[] }
export type Unsubscribe = WithProperties & { type: 'unsubscribe'; packetId: number; filters: string[] }
/** `reasons` of an UNSUBACK are empty before version 5. */
export type SubscriptionAck = WithProperties & { type: 'suback' | 'unsuback'; packetId: number; reasons: number[] }
export type Ping = { type: 'pingreq' | 'pingresp' }
export type Disconnect = WithProperties & { type: 'disconnect'; reason: number }
export type Auth = WithProperties & { type: 'auth'; reason: number }
export type Packet =
  | Connect
  | Connack
  | Publish
  | Ack
  | Subscribe
  | SubscriptionAck
  | Unsubscribe
  | Ping
  | Disconnect
  | Auth

export type Shape = { type: Packet['type']; flags: number; from: Sender | 'both' }
/** MQTT 5 tables 2-1 and 2-2, by the number of the packet type; PUBLISH has flags of its own. */
export const shapes: readonly (Shape | undefined)[] = [
  undefined,
  { type: 'connect', flags: 0, from: 'client' },
  { type: 'connack', flags: 0, from: 'server' },
  { type: 'publish', flags: 0, from: 'both' },
  { type: 'puback', flags: 0, from: 'both' },
  { type: 'pubrec', flags: 0, from: 'both' },
  { type: 'pubrel', flags: 2, from: 'both' },
  { type: 'pubcomp', flags: 0, from: 'both' },
  { type: 'subscribe', flags: 2, from: 'client' },
  { type: 'suback', flags: 0, from: 'server' },
  { type: 'unsubscribe', flags: 2, from: 'client' },
  { type: 'unsuback', flags: 0, from: 'server' },
  { type: 'pingreq', flags: 0, from: 'client' },
  { type: 'pingresp', flags: 0, from: 'server' },
  { type: 'disconnect', flags: 0, from: 'both' },
  { type: 'auth', flags: 0, from: 'both' },
]
/** First octet of each packet, without a PUBLISH's flags. */
export const headers = Object.fromEntries(
  shapes.flatMap((shape, number) => (shape === undefined ? [] : [[shape.type, (number << 4) | shape.flags]])),
) as Record<Packet['type'], number>

const sharePrefix = '$share/'

/**
 * A topic filter, with the group of a shared subscription (MQTT 5, 4.8.2) split off. Versions 3 and 4 do not know shared
 * subscriptions; their clients get them all the same.
 *
 * @returns undefined when the filter, the group or the filter behind it is not well formed
 */
export function parseFilter(text: string): { group: string | undefined; filter: string } | undefined {
  if (!text.startsWith(sharePrefix)) return isTopicFilter(text) ? { group: undefined, filter: text } : undefined
  const slash = text.indexOf('/', sharePrefix.length)
  if (slash <= sharePrefix.length) return undefined
  const group = text.slice(sharePrefix.length, slash)
  const filter = text.slice(slash + 1)
  return /[+#]/.test(group) || !isTopicFilter(filter) ? undefined : { group, filter }
}
