/**
 * MQTT 3.1, 3.1.1 and 5 as functions: octets to packets, with every check that one packet allows, and back.
 * Numbers in [MQTT-...] are those of MQTT 5 unless another version is named.
 */
import { decodeConnack, decodeConnect, encodeConnack, encodeConnect } from './connect.ts'
import { Cursor, fieldBytes, frameOf, parseTopicName, writeField } from './fields.ts'
import {
  type Ack,
  type Auth,
  type Disconnect,
  headers,
  type Packet,
  type Publish,
  parseFilter,
  type Qos,
  type Sender,
  type Shape,
  type Subscribe,
  type Subscription,
  type SubscriptionAck,
  shapes,
  type Unsubscribe,
  type Version,
} from './packet.ts'
import {
  blockBytes,
  type Place,
  type Properties,
  parseProperties,
  propertiesBytes,
  writeProperties,
} from './properties.ts'
import { Malformed, malformed, mayCarry, protocolError, type ReasonCarrier, reason, subackCode } from './reason.ts'

/**
 * One control packet. Payloads, passwords and binary properties are views of `body`.
 *
 * @param header  first octet of the packet
 * @param body    everything behind the fixed header, and nothing else
 * @param version what the connection's CONNECT said; undefined before it: then only a CONNECT decodes
 * @throws Malformed alone, whatever the octets
 */
export function decode(header: number, body: Buffer, version: Version | undefined, from: Sender = 'client'): Packet {
  const type = header >> 4
  if (version === undefined) {
    if (type !== 1 || from !== 'client') throw protocolError('the first packet is not a CONNECT') // [MQTT-3.1.0-1]
    return decodeConnect(header, body)
  }
  if (type === 3) return decodePublish(header, body, version, from)
  const shape = shapeOf(header, version, from)
  switch (shape.type) {
    case 'puback':
    case 'pubrec':
    case 'pubrel':
    case 'pubcomp':
      return decodeAck(shape.type, body, version)
    case 'subscribe':
      return decodeSubscribe(body, version)
    case 'unsubscribe':
      return decodeUnsubscribe(body, version)
    case 'pingreq':
    case 'pingresp':
      if (body.length > 0) throw malformed(`${shape.type} with a body`)
      return { type: shape.type }
    case 'disconnect':
      return decodeDisconnect(body, version, from)
    case 'auth':
      return decodeAuth(body, from)
    case 'connack':
      return decodeConnack(body, version)
    case 'suback':
    case 'unsuback':
      return decodeSubscriptionAck(shape.type, body, version)
    default:
      throw protocolError('a second CONNECT') // [MQTT-3.1.0-2]
  }
}

function shapeOf(header: number, version: Version, from: Sender): Shape {
  const shape = shapes[header >> 4]
  if (shape === undefined || (shape.type === 'auth' && version < 5)) throw malformed(`packet type ${header >> 4}`)
  let flags = header & 0x0f
  // MQTT 3.1 sets DUP when it repeats these three (its 3.6, 3.8 and 3.10).
  if (version === 3 && shape.flags === 2) flags &= 0x07
  // [MQTT-2.1.3-1] [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1] [MQTT-3.14.1-1] [MQTT-3.15.1-1]
  if (flags !== shape.flags) throw malformed(`${shape.type} with flags ${flags}`)
  const isTheirs =
    shape.from === from || (shape.from === 'both' && !(shape.type === 'disconnect' && version < 5 && from === 'server'))
  if (!isTheirs) throw protocolError(`${shape.type} from a ${from}`)
  return shape
}

function decodePublish(header: number, body: Buffer, version: Version, from: Sender): Publish {
  const qos = (header >> 1) & 0x03
  const dup = (header & 0x08) !== 0
  if (qos === 3) throw malformed('a PUBLISH of QoS 3') // [MQTT-3.3.1-4]
  if (qos === 0 && dup) throw malformed('a PUBLISH of QoS 0 with DUP') // [MQTT-3.3.1-2]
  const topicEnd = body.length < 2 ? 2 : 2 + ((body[0]! << 8) | body[1]!)
  let at = qos === 0 ? topicEnd : topicEnd + 2
  if (at > body.length) throw malformed('the packet ends inside a field')
  // [MQTT-3.3.2-1]; empty it is allowed in version 5 alone, beside an alias
  const topic = topicEnd === 2 && version === 5 ? '' : parseTopicName(body, 2, topicEnd)
  const packetId = qos === 0 ? 0 : (body[topicEnd]! << 8) | body[topicEnd + 1]!
  if (qos !== 0 && packetId === 0) throw protocolError('packet identifier 0') // [MQTT-2.2.1-3]
  let properties: Properties | undefined
  if (version === 5) {
    if (body[at] === 0) at++
    else {
      const cursor = new Cursor(body, at)
      properties = parseProperties(cursor, 'publish')
      at = cursor.at
      if (from === 'client' && properties?.subscriptionIdentifiers !== undefined)
        throw protocolError('a subscription identifier from a client') // [MQTT-3.3.4-6]
    }
    // 3.3.2.1
    if (topic === '' && properties?.topicAlias === undefined) throw protocolError('neither a topic nor an alias')
  }
  const payload = body.subarray(at)
  return { type: 'publish', topic, payload, qos: qos as Qos, retain: (header & 1) !== 0, dup, packetId, properties }
}

function decodeAck(type: Ack['type'], body: Buffer, version: Version): Ack {
  if (body.length < 2) throw malformed('the packet ends inside a field')
  if (version !== 5 && body.length > 2) throw malformed('octets behind the end of the packet')
  const packetId = (body[0]! << 8) | body[1]!
  if (packetId === 0) throw protocolError('packet identifier 0') // [MQTT-2.2.1-5]
  if (body.length === 2) return { type, packetId, reason: reason.success, properties: undefined }
  const code = body[2]!
  // [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1]
  if (!mayCarry(type, code)) throw protocolError(`${type} with reason ${code}`)
  return { type, packetId, reason: code, properties: lastProperties(body, 3, type) }
}

/** Properties that end the packet and may be left out with their length (3.4.2.2.1, 3.14.2.2.1). */
function lastProperties(body: Buffer, at: number, place: Place): Properties | undefined {
  if (at === body.length) return undefined
  const cursor = new Cursor(body, at)
  const properties = parseProperties(cursor, place)
  cursor.finish()
  return properties
}

function packetIdOf(cursor: Cursor): number {
  const packetId = cursor.u16()
  if (packetId === 0) throw protocolError('packet identifier 0') // [MQTT-2.2.1-3] [MQTT-2.2.1-6]
  return packetId
}

function decodeSubscribe(body: Buffer, version: Version): Subscribe {
  const cursor = new Cursor(body)
  const packetId = packetIdOf(cursor)
  const properties = version === 5 ? parseProperties(cursor, 'subscribe') : undefined
  if (cursor.at === cursor.end) throw protocolError('a SUBSCRIBE without a topic filter') // [MQTT-3.8.3-2]
  const subscriptions: Subscription[] = []
  while (cursor.at < cursor.end) subscriptions.push(decodeSubscription(cursor, version))
  return { type: 'subscribe', packetId, subscriptions, properties }
}

function decodeSubscription(cursor: Cursor, version: Version): Subscription {
  const filter = cursor.text() // [MQTT-3.8.3-1]
  const options = cursor.u8()
  // [MQTT-3.8.3-5], and [MQTT-3-8.3-4] of 3.1.1
  if ((options & (version === 5 ? 0xc0 : 0xfc)) !== 0) throw malformed('reserved subscription options')
  const qos = options & 0x03
  // 3.8.3.1 calls it a protocol error, 3.1.1 a malformed packet.
  if (qos === 3) throw (version === 5 ? protocolError : malformed)('a subscription of QoS 3')
  const retainHandling = options >> 4
  if (retainHandling === 3) throw protocolError('retain handling 3') // 3.8.3.1
  const { group } = filterOf(filter)
  const noLocal = (options & 0x04) !== 0
  if (noLocal && group !== undefined) throw protocolError('no local on a shared subscription') // [MQTT-3.8.3-4]
  return {
    filter,
    qos: qos as Qos,
    noLocal,
    retainAsPublished: (options & 0x08) !== 0,
    retainHandling: retainHandling as 0 | 1 | 2,
  }
}

function decodeUnsubscribe(body: Buffer, version: Version): Unsubscribe {
  const cursor = new Cursor(body)
  const packetId = packetIdOf(cursor)
  const properties = version === 5 ? parseProperties(cursor, 'unsubscribe') : undefined
  if (cursor.at === cursor.end) throw protocolError('an UNSUBSCRIBE without a topic filter') // [MQTT-3.10.3-2]
  const filters: string[] = []
  while (cursor.at < cursor.end) {
    const filter = cursor.text() // [MQTT-3.10.3-1]
    filterOf(filter)
    filters.push(filter)
  }
  return { type: 'unsubscribe', packetId, filters, properties }
}

function filterOf(text: string): { group: string | undefined; filter: string } {
  const parts = parseFilter(text)
  // [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.3-1] [MQTT-4.8.2-1] [MQTT-4.8.2-2]
  if (parts === undefined) throw new Malformed(reason.topicFilterInvalid, 'a topic filter that is not valid')
  return parts
}

function decodeSubscriptionAck(type: 'suback' | 'unsuback', body: Buffer, version: Version): SubscriptionAck {
  const cursor = new Cursor(body)
  const packetId = packetIdOf(cursor)
  const properties = version === 5 ? parseProperties(cursor, type) : undefined
  const hasReasons = version === 5 || type === 'suback'
  if (!hasReasons) cursor.finish()
  else if (cursor.at === cursor.end) throw protocolError(`${type} without a reason`) // [MQTT-3.8.4-6]
  const reasons = [...body.subarray(cursor.at)]
  for (const code of reasons) {
    const isKnown = version === 5 ? mayCarry(type, code) : code <= 2 || code === reason.unspecifiedError
    if (!isKnown) throw protocolError(`${type} with reason ${code}`) // [MQTT-3.9.3-2] [MQTT-3.11.3-2]
  }
  return { type, packetId, reasons, properties }
}

function decodeDisconnect(body: Buffer, version: Version, from: Sender): Disconnect {
  if (version !== 5 && body.length > 0) throw malformed('disconnect with a body')
  const code = body[0] ?? reason.success
  const carrier: ReasonCarrier = from === 'client' ? 'clientDisconnect' : 'serverDisconnect'
  if (!mayCarry(carrier, code)) throw protocolError(`disconnect with reason ${code}`) // [MQTT-3.14.2-1]
  const properties = body.length > 1 ? lastProperties(body, 1, 'disconnect') : undefined
  if (from === 'server' && properties?.sessionExpiryInterval !== undefined)
    throw protocolError('a session expiry interval from a server') // [MQTT-3.14.2-2]
  return { type: 'disconnect', reason: code, properties }
}

function decodeAuth(body: Buffer, from: Sender): Auth {
  const code = body[0] ?? reason.success
  // [MQTT-3.15.2-1]
  if (!mayCarry(from === 'client' ? 'clientAuth' : 'serverAuth', code)) throw protocolError(`auth with reason ${code}`)
  if (body.length === 0) return { type: 'auth', reason: code, properties: undefined }
  const cursor = new Cursor(body, 1)
  const properties = parseProperties(cursor, 'auth')
  cursor.finish()
  if (properties?.authenticationMethod === undefined) throw protocolError('auth without a method') // 3.15.2.2.2
  return { type: 'auth', reason: code, properties }
}

/**
 * The octets of one packet, in one allocation of exactly its size. What the version cannot say (properties and
 * acknowledgement reasons before 5) is left out.
 *
 * @throws RangeError for what must not be sent: a CONNACK code, a packet or a property that does not exist there, a packet
 * identifier 0, a field above 65,535 octets
 */
export function encode(packet: Packet, version: Version): Buffer {
  switch (packet.type) {
    case 'publish':
      return encodePublish(packet, version)
    case 'puback':
    case 'pubrec':
    case 'pubrel':
    case 'pubcomp':
      return encodeAck(packet, version)
    case 'suback':
    case 'unsuback':
      return encodeSubscriptionAck(packet, version)
    case 'connack':
      return encodeConnack(packet, version)
    case 'pingreq':
    case 'pingresp':
      return frameOf(headers[packet.type], 0)
    case 'disconnect':
      return version === 5 ? encodeReason(packet) : frameOf(headers.disconnect, 0)
    case 'auth':
      if (version !== 5) throw new RangeError(`AUTH in version ${version}`)
      return encodeReason(packet)
    case 'connect':
      return encodeConnect(packet, version)
    case 'subscribe':
      return encodeSubscribe(packet, version)
    case 'unsubscribe':
      return encodeUnsubscribe(packet, version)
  }
}

function writePacketId(frame: Buffer, at: number, packetId: number): number {
  if (packetId === 0) throw new RangeError('packet identifier 0') // [MQTT-2.2.1-4]
  return frame.writeUInt16BE(packetId, at)
}

function encodePublish(packet: Publish, version: Version): Buffer {
  const { topic, payload, qos, properties } = packet
  const bytes = version === 5 ? propertiesBytes(properties, 'publish') : 0
  const length = fieldBytes(topic) + (qos === 0 ? 0 : 2) + blockBytes(version, bytes) + payload.length
  const dup = packet.dup && qos !== 0 ? 0x08 : 0 // [MQTT-3.3.1-2]
  const frame = frameOf(headers.publish | dup | (qos << 1) | (packet.retain ? 1 : 0), length)
  let at = writeField(frame, frame.length - length, topic)
  if (qos !== 0) at = writePacketId(frame, at, packet.packetId) // [MQTT-2.2.1-2]
  if (version === 5) at = writeProperties(frame, at, properties, bytes)
  payload.copy(frame, at)
  return frame
}

function encodeAck({ type, packetId, reason: code, properties }: Ack, version: Version): Buffer {
  const bytes = version === 5 ? propertiesBytes(properties, type) : 0
  const hasReason = version === 5 && (code !== reason.success || bytes > 0)
  const length = 2 + (hasReason ? 1 : 0) + (bytes > 0 ? blockBytes(version, bytes) : 0)
  const frame = frameOf(headers[type], length)
  const at = writePacketId(frame, frame.length - length, packetId)
  if (hasReason) frame[at] = code
  if (bytes > 0) writeProperties(frame, at + 1, properties, bytes)
  return frame
}

function encodeReason({ type, reason: code, properties }: Disconnect | Auth): Buffer {
  const bytes = propertiesBytes(properties, type)
  if (bytes === 0 && code === reason.success) return frameOf(headers[type], 0)
  // 3.14.2.2.1: a DISCONNECT may leave out the length of no properties, an AUTH may not.
  const hasBlock = bytes > 0 || type === 'auth'
  const length = 1 + (hasBlock ? blockBytes(5, bytes) : 0)
  const frame = frameOf(headers[type], length)
  frame[frame.length - length] = code
  if (hasBlock) writeProperties(frame, frame.length - length + 1, properties, bytes)
  return frame
}

function encodeSubscriptionAck(packet: SubscriptionAck, version: Version): Buffer {
  const { type, packetId, properties } = packet
  const reasons = version === 5 || type === 'suback' ? packet.reasons : []
  const bytes = version === 5 ? propertiesBytes(properties, type) : 0
  const length = 2 + blockBytes(version, bytes) + reasons.length
  const frame = frameOf(headers[type], length)
  let at = writePacketId(frame, frame.length - length, packetId)
  if (version === 5) at = writeProperties(frame, at, properties, bytes)
  for (const code of reasons) frame[at++] = version === 5 ? code : subackCode(code)
  return frame
}

function encodeSubscribe({ packetId, subscriptions, properties }: Subscribe, version: Version): Buffer {
  const bytes = version === 5 ? propertiesBytes(properties, 'subscribe') : 0
  let length = 2 + blockBytes(version, bytes)
  for (const { filter } of subscriptions) length += fieldBytes(filter) + 1
  const frame = frameOf(headers.subscribe, length)
  let at = writePacketId(frame, frame.length - length, packetId)
  if (version === 5) at = writeProperties(frame, at, properties, bytes)
  for (const { filter, qos, noLocal, retainAsPublished, retainHandling } of subscriptions) {
    at = writeField(frame, at, filter)
    const options = (noLocal ? 0x04 : 0) | (retainAsPublished ? 0x08 : 0) | (retainHandling << 4)
    frame[at++] = version === 5 ? options | qos : qos
  }
  return frame
}

function encodeUnsubscribe({ packetId, filters, properties }: Unsubscribe, version: Version): Buffer {
  const bytes = version === 5 ? propertiesBytes(properties, 'unsubscribe') : 0
  let length = 2 + blockBytes(version, bytes)
  for (const filter of filters) length += fieldBytes(filter)
  const frame = frameOf(headers.unsubscribe, length)
  let at = writePacketId(frame, frame.length - length, packetId)
  if (version === 5) at = writeProperties(frame, at, properties, bytes)
  for (const filter of filters) at = writeField(frame, at, filter)
  return frame
}
