/** CONNECT and CONNACK: the two packets that begin a connection and differ most between the versions. */
import { Cursor, fieldBytes, frameOf, writeField } from './fields.ts'
import { type Connack, type Connect, headers, type Qos, type Version, type Will } from './packet.ts'
import { blockBytes, parseProperties, propertiesBytes, writeProperties } from './properties.ts'
import { connackCode, Malformed, malformed, mayCarry, protocolError, reason, reasonOfConnackCode } from './reason.ts'

/** In what an unknown level is answered. Bit 7 marks a mosquitto bridge of level 3 or 4, which falls back at return code 1. */
const answerableAs = (level: number): Version => (level > 5 && level < 0x80 ? 5 : 4)

export function decodeConnect(header: number, body: Buffer): Connect {
  if (header !== headers.connect) throw malformed(`connect with flags ${header & 0x0f}`) // [MQTT-2.1.3-1]
  const cursor = new Cursor(body)
  const name = cursor.text()
  if (name !== 'MQTT' && name !== 'MQIsdp')
    throw new Malformed(reason.unsupportedProtocolVersion, 'an unknown protocol name') // [MQTT-3.1.2-1]
  const level = cursor.u8()
  const isKnown = name === 'MQTT' ? level === 4 || level === 5 : level === 3
  try {
    if (!isKnown) throw new Malformed(reason.unsupportedProtocolVersion, `${name} of level ${level}`) // [MQTT-3.1.2-2]
    return decodeConnectOf(cursor, level as Version)
  } catch (error) {
    if (error instanceof Malformed) error.version = isKnown ? (level as Version) : answerableAs(level)
    throw error
  }
}

function decodeConnectOf(cursor: Cursor, version: Version): Connect {
  const flags = cursor.u8()
  if ((flags & 0x01) !== 0) throw malformed('connect with its reserved flag set') // [MQTT-3.1.2-3]
  const hasWill = (flags & 0x04) !== 0
  const willQos = (flags >> 3) & 0x03
  if (willQos === 3) throw malformed('a will of QoS 3') // [MQTT-3.1.2-12]
  // [MQTT-3.1.2-11] [MQTT-3.1.2-13]
  if (!hasWill && (flags & 0x38) !== 0) throw malformed('will flags without a will')
  const hasUsername = (flags & 0x80) !== 0
  const hasPassword = (flags & 0x40) !== 0
  // [MQTT-3.1.2-22] of 3.1.1; version 5 allows it.
  if (version < 5 && hasPassword && !hasUsername) throw malformed('a password without a user name')
  const keepAlive = cursor.u16()
  const properties = version === 5 ? parseProperties(cursor, 'connect') : undefined
  if (properties?.authenticationData !== undefined && properties.authenticationMethod === undefined)
    throw protocolError('authentication data without a method') // 3.1.2.11.10
  const clientId = cursor.text() // [MQTT-3.1.3-1] [MQTT-3.1.3-3] [MQTT-3.1.3-4]
  // [MQTT-3.1.2-9] [MQTT-3.1.3-11]
  const will = hasWill ? decodeWill(cursor, version, willQos as Qos, (flags & 0x20) !== 0) : undefined
  // MQTT 3.1, section 3.1: the remaining length takes precedence over these two flags, the fields may be missing.
  const mayMiss = version === 3
  // [MQTT-3.1.2-16] to [MQTT-3.1.2-19] [MQTT-3.1.3-12]
  const username = hasUsername && !(mayMiss && cursor.at === cursor.end) ? cursor.text() : undefined
  const password = hasPassword && !(mayMiss && cursor.at === cursor.end) ? cursor.binary() : undefined
  cursor.finish()
  const clean = (flags & 0x02) !== 0
  if (!isClientId(clientId, version, clean))
    throw new Malformed(reason.clientIdentifierNotValid, `a client id of ${clientId.length} characters`)
  return { type: 'connect', version, clean, keepAlive, clientId, will, username, password, properties }
}

/** An empty id is for the server to replace: never in MQTT 3.1 (1 to 23 characters), in 3.1.1 for clean sessions alone. */
function isClientId(clientId: string, version: Version, clean: boolean): boolean {
  if (version === 3) return clientId.length > 0 && clientId.length <= 23
  return version === 5 || clientId.length > 0 || clean // [MQTT-3.1.3-7] and [MQTT-3.1.3-8] of 3.1.1
}

function decodeWill(cursor: Cursor, version: Version, qos: Qos, retain: boolean): Will {
  const properties = version === 5 ? parseProperties(cursor, 'will') : undefined
  const topic = cursor.topicName()
  return { topic, payload: cursor.binary(), qos, retain, properties }
}

export function decodeConnack(body: Buffer, version: Version): Connack {
  const cursor = new Cursor(body)
  const flags = cursor.u8()
  const code = cursor.u8()
  if (flags > 1 || (version === 3 && flags > 0)) throw malformed(`connack with flags ${flags}`) // [MQTT-3.2.2-1]
  const said = version === 5 ? (mayCarry('connack', code) ? code : undefined) : reasonOfConnackCode(code)
  if (said === undefined) throw protocolError(`connack with code ${code}`) // [MQTT-3.2.2-8]
  if (flags === 1 && said !== reason.success) throw protocolError('connack of a session with a refusal') // [MQTT-3.2.2-6]
  const properties = version === 5 ? parseProperties(cursor, 'connack') : undefined
  cursor.finish()
  return { type: 'connack', sessionPresent: flags === 1, reason: said, properties }
}

export function encodeConnect(packet: Connect, version: Version): Buffer {
  const { clientId, will, username, password, properties } = packet
  const name = version === 3 ? 'MQIsdp' : 'MQTT'
  const bytes = version === 5 ? propertiesBytes(properties, 'connect') : 0
  const willBytes = version === 5 ? propertiesBytes(will?.properties, 'will') : 0
  let length = fieldBytes(name) + 4 + blockBytes(version, bytes) + fieldBytes(clientId)
  if (will !== undefined) length += blockBytes(version, willBytes) + fieldBytes(will.topic) + fieldBytes(will.payload)
  if (username !== undefined) length += fieldBytes(username)
  if (password !== undefined) length += fieldBytes(password)
  const frame = frameOf(headers.connect, length)
  let at = writeField(frame, frame.length - length, name)
  frame[at++] = version
  let flags = packet.clean ? 0x02 : 0
  if (will !== undefined) flags |= 0x04 | (will.qos << 3) | (will.retain ? 0x20 : 0)
  if (password !== undefined) flags |= 0x40
  if (username !== undefined) flags |= 0x80
  frame[at++] = flags
  at = frame.writeUInt16BE(packet.keepAlive, at)
  if (version === 5) at = writeProperties(frame, at, properties, bytes)
  at = writeField(frame, at, clientId)
  if (will !== undefined) {
    if (version === 5) at = writeProperties(frame, at, will.properties, willBytes)
    at = writeField(frame, writeField(frame, at, will.topic), will.payload)
  }
  if (username !== undefined) at = writeField(frame, at, username)
  if (password !== undefined) writeField(frame, at, password)
  return frame
}

export function encodeConnack({ sessionPresent, reason: code, properties }: Connack, version: Version): Buffer {
  const said = version === 5 ? code : connackCode(code)
  if (said === undefined) throw new RangeError(`reason ${code} in a CONNACK of version ${version}`)
  const bytes = version === 5 ? propertiesBytes(properties, 'connack') : 0
  const length = 2 + blockBytes(version, bytes)
  const frame = frameOf(headers.connack, length)
  const at = frame.length - length
  // [MQTT-3.2.2-6]; MQTT 3.1 has no such flag.
  frame[at] = sessionPresent && said === 0 && version !== 3 ? 1 : 0
  frame[at + 1] = said
  if (version === 5) writeProperties(frame, at + 2, properties, bytes)
  return frame
}
