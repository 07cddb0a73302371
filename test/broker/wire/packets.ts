/** Packets of every kind for the codec's tests, and reading octets back. */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import { decode } from '../../../broker/wire/codec.ts'
import { FrameReader } from '../../../broker/wire/frames.ts'
import type { Packet, Sender, Subscription, Version, Will } from '../../../broker/wire/packet.ts'
import type { Properties } from '../../../broker/wire/properties.ts'

/** Everything that a stream of octets holds. */
export function decodeAll(bytes: Buffer, version: Version | undefined, from: Sender = 'client'): Packet[] {
  const reader = new FrameReader(300_000)
  reader.limit(300_000, version === 5)
  return [...reader.push(bytes)].map(({ header, body }) => decode(header, body, version, from))
}

export function decodeOne(bytes: Buffer, version: Version | undefined, from: Sender = 'client'): Packet {
  const packets = decodeAll(bytes, version, from)
  assert.equal(packets.length, 1)
  return packets[0]!
}

/** Without the keys that hold undefined. */
export const plain = (value: unknown): unknown =>
  Array.isArray(value)
    ? value.map(plain)
    : value === null || typeof value !== 'object' || Buffer.isBuffer(value)
      ? value
      : Object.fromEntries(Object.entries(value).flatMap(([key, of]) => (of === undefined ? [] : [[key, plain(of)]])))

const allowed = /^[^\p{Cc}\p{Noncharacter_Code_Point}\p{Cs}]*$/u
const text = fc.string({ unit: 'grapheme', maxLength: 24 }).filter((value) => allowed.test(value))
const level = text.map((value) => value.replaceAll(/[+#/]/g, ''))
const topic = fc
  .array(level, { minLength: 1, maxLength: 6 })
  .map((levels) => levels.join('/'))
  .filter((name) => name.length > 0)
const filter = fc.oneof(
  topic.filter((name) => !name.startsWith('$share/')),
  topic.map((name) => `+/${name}/#`),
  topic.map((name) => `$share/group/${name}`),
)
const octets = (maxLength = 40) => fc.uint8Array({ maxLength }).map((value) => Buffer.from(value))
const u16 = fc.integer({ min: 0, max: 0xffff })
const id = fc.integer({ min: 1, max: 0xffff })
const u32 = fc.integer({ min: 0, max: 0xffff_ffff })
const positive = fc.integer({ min: 1, max: 0xffff_ffff })
const qos = fc.constantFrom(0, 1, 2) as fc.Arbitrary<0 | 1 | 2>
const userProperties = fc.array(fc.tuple(text, text), { minLength: 1, maxLength: 4 })
const propertiesOf = (model: { [Name in keyof Properties]: fc.Arbitrary<NonNullable<Properties[Name]>> }) =>
  fc.record({ userProperties, ...model }, { requiredKeys: [] }) as fc.Arbitrary<Properties>

const messageProperties = {
  payloadFormatIndicator: fc.boolean(),
  messageExpiryInterval: u32,
  contentType: text,
  responseTopic: topic,
  correlationData: octets(),
}
const authentication = { authenticationMethod: text }
const willArbitrary: fc.Arbitrary<Will> = fc.record({
  topic,
  payload: octets(),
  qos,
  retain: fc.boolean(),
  properties: propertiesOf({ ...messageProperties, willDelayInterval: u32 }),
})
const connectArbitrary = fc.record({
  type: fc.constant('connect' as const),
  version: fc.constant(5 as Version),
  clean: fc.boolean(),
  keepAlive: u16,
  clientId: fc.string({ unit: fc.constantFrom('a', 'B', '7', 'ü'), minLength: 1, maxLength: 23 }),
  will: fc.option(willArbitrary, { nil: undefined }),
  username: text,
  password: fc.option(octets(), { nil: undefined }),
  properties: propertiesOf({
    sessionExpiryInterval: u32,
    receiveMaximum: id,
    maximumPacketSize: positive,
    topicAliasMaximum: u16,
    requestResponseInformation: fc.boolean(),
    requestProblemInformation: fc.boolean(),
    ...authentication,
  }),
})
const subscription: fc.Arbitrary<Subscription> = fc
  .record({
    filter,
    qos,
    noLocal: fc.boolean(),
    retainAsPublished: fc.boolean(),
    retainHandling: fc.constantFrom(0, 1, 2) as fc.Arbitrary<0 | 1 | 2>,
  })
  .map((of) => ({ ...of, noLocal: of.noLocal && !of.filter.startsWith('$share/') }))
const ackArbitrary = (type: 'puback' | 'pubrec' | 'pubrel' | 'pubcomp', ...codes: number[]) =>
  fc.record({
    type: fc.constant(type),
    packetId: id,
    reason: fc.constantFrom(0, ...codes),
    properties: propertiesOf({ reasonString: text }),
  })
const listAck = (type: 'suback' | 'unsuback', ...codes: number[]) =>
  fc.record({
    type: fc.constant(type),
    packetId: id,
    reasons: fc.array(fc.constantFrom(...codes), { minLength: 1, maxLength: 5 }),
    properties: propertiesOf({ reasonString: text }),
  })

/** Packets with the side that sends them, in version 5. */
export const packetArbitrary: fc.Arbitrary<[Sender, Packet]> = fc.oneof(
  fc.tuple(fc.constant('client' as const), connectArbitrary),
  fc.tuple(
    fc.constantFrom('client' as const, 'server' as const),
    fc
      .record({
        type: fc.constant('publish' as const),
        topic,
        payload: octets(300),
        qos,
        retain: fc.boolean(),
        dup: fc.boolean(),
        packetId: id,
        properties: propertiesOf({ ...messageProperties, topicAlias: id }),
      })
      .map((of) => (of.qos === 0 ? { ...of, dup: false, packetId: 0 } : of)),
  ),
  fc.tuple(
    fc.constantFrom('client' as const, 'server' as const),
    fc.oneof(
      ackArbitrary('puback', 0x10, 0x87, 0x97),
      ackArbitrary('pubrec', 0x10, 0x87, 0x91),
      ackArbitrary('pubrel', 0x92),
      ackArbitrary('pubcomp', 0x92),
    ),
  ),
  fc.tuple(
    fc.constant('client' as const),
    fc.oneof(
      fc.record({
        type: fc.constant('subscribe' as const),
        packetId: id,
        subscriptions: fc.array(subscription, { minLength: 1, maxLength: 4 }),
        properties: propertiesOf({ subscriptionIdentifiers: fc.integer({ min: 1, max: 0x0fff_ffff }).map((n) => [n]) }),
      }),
      fc.record({
        type: fc.constant('unsubscribe' as const),
        packetId: id,
        filters: fc.array(filter, { minLength: 1, maxLength: 4 }),
        properties: propertiesOf({}),
      }),
      fc.record({ type: fc.constant('pingreq' as const) }),
      fc.record({
        type: fc.constant('disconnect' as const),
        reason: fc.constantFrom(0, 4, 0x81),
        properties: propertiesOf({ sessionExpiryInterval: u32, reasonString: text }),
      }),
      fc.record({
        type: fc.constant('auth' as const),
        reason: fc.constantFrom(0x18, 0x19),
        properties: propertiesOf({ authenticationData: octets() }).map((of) => ({ ...of, authenticationMethod: 'x' })),
      }),
    ),
  ),
  fc.tuple(
    fc.constant('server' as const),
    fc.oneof(
      fc
        .record({
          type: fc.constant('connack' as const),
          sessionPresent: fc.boolean(),
          reason: fc.constantFrom(0, 0x84, 0x85, 0x86, 0x87, 0x88),
          properties: propertiesOf({
            sessionExpiryInterval: u32,
            receiveMaximum: id,
            maximumQos: fc.constantFrom(0, 1),
            retainAvailable: fc.boolean(),
            maximumPacketSize: positive,
            assignedClientIdentifier: text,
            topicAliasMaximum: u16,
            reasonString: text,
            wildcardSubscriptionAvailable: fc.boolean(),
            subscriptionIdentifiersAvailable: fc.boolean(),
            sharedSubscriptionAvailable: fc.boolean(),
            serverKeepAlive: u16,
            responseInformation: text,
            serverReference: text,
          }),
        })
        .map((of) => ({ ...of, sessionPresent: of.sessionPresent && of.reason === 0 })),
      listAck('suback', 0, 1, 2, 0x80, 0x87, 0x8f),
      listAck('unsuback', 0, 0x11, 0x87),
      fc.record({ type: fc.constant('pingresp' as const) }),
      fc.record({
        type: fc.constant('disconnect' as const),
        reason: fc.constantFrom(0x8b, 0x8e, 0x9d),
        properties: propertiesOf({ reasonString: text, serverReference: text }),
      }),
    ),
  ),
)

/** What is left of a packet when an older version has carried it; undefined when it has no such packet. */
export function older([from, packet]: [Sender, Packet], version: 3 | 4): Packet | undefined {
  switch (packet.type) {
    case 'connect': {
      const will = packet.will && { ...packet.will, properties: undefined }
      return { ...packet, version, will, properties: undefined }
    }
    case 'connack':
      return { ...packet, sessionPresent: packet.sessionPresent && version === 4, properties: undefined }
    case 'puback':
    case 'pubrec':
    case 'pubrel':
    case 'pubcomp':
      return { ...packet, reason: 0, properties: undefined }
    case 'subscribe': {
      const bare = { noLocal: false, retainAsPublished: false, retainHandling: 0 as const }
      const subscriptions = packet.subscriptions.map((of) => ({ ...of, ...bare }))
      return { ...packet, subscriptions, properties: undefined }
    }
    case 'suback':
      return { ...packet, reasons: packet.reasons.map((code) => Math.min(code, 0x80)), properties: undefined }
    case 'unsuback':
      return { ...packet, reasons: [], properties: undefined }
    case 'disconnect':
      return from === 'server' ? undefined : { ...packet, reason: 0, properties: undefined }
    case 'auth':
      return undefined
    case 'pingreq':
    case 'pingresp':
      return packet
    default:
      return { ...packet, properties: undefined }
  }
}

/** Properties without a single one are none. */
export function withoutEmpty(packet: Packet): Packet {
  const isEmpty = (of: Properties | undefined): boolean => of !== undefined && Object.keys(of).length === 0
  const copy = { ...packet }
  if ('properties' in copy && isEmpty(copy.properties)) copy.properties = undefined
  if (copy.type === 'connect' && copy.will && isEmpty(copy.will.properties))
    copy.will = { ...copy.will, properties: undefined }
  return copy
}
