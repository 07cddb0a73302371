import { type Cursor, fieldBytes, varintBytes, writeField, writeVarint } from './fields.ts'
import { Malformed, reason } from './reason.ts'

/** The properties of MQTT 5 table 2-4 as decoded. User properties keep their order, and a name may come twice. */
export type Properties = {
  payloadFormatIndicator?: boolean
  /** seconds */
  messageExpiryInterval?: number
  contentType?: string
  responseTopic?: string
  /** a view of the packet's bytes */
  correlationData?: Buffer
  /** one in a SUBSCRIBE; in a PUBLISH of the server one for each subscription that matched */
  subscriptionIdentifiers?: number[]
  /** seconds; 0xffffffff never */
  sessionExpiryInterval?: number
  assignedClientIdentifier?: string
  /** seconds */
  serverKeepAlive?: number
  authenticationMethod?: string
  /** a view of the packet's bytes */
  authenticationData?: Buffer
  requestProblemInformation?: boolean
  /** seconds */
  willDelayInterval?: number
  requestResponseInformation?: boolean
  responseInformation?: string
  serverReference?: string
  reasonString?: string
  receiveMaximum?: number
  topicAliasMaximum?: number
  topicAlias?: number
  maximumQos?: number
  retainAvailable?: boolean
  userProperties?: [name: string, value: string][]
  /** octets of a whole packet, fixed header included */
  maximumPacketSize?: number
  wildcardSubscriptionAvailable?: boolean
  subscriptionIdentifiersAvailable?: boolean
  sharedSubscriptionAvailable?: boolean
}

/** Packets that have properties; `will` are those in a CONNECT's payload. */
const places = [
  'connect',
  'will',
  'connack',
  'publish',
  'puback',
  'pubrec',
  'pubrel',
  'pubcomp',
  'subscribe',
  'suback',
  'unsubscribe',
  'unsuback',
  'disconnect',
  'auth',
] as const
export type Place = (typeof places)[number]

type Kind = 'flag' | 'bit' | 'u16' | 'u32' | 'varint' | 'text' | 'topic' | 'binary' | 'pair'
/** `zero` is the refusal of the value 0 where that is not allowed; `list` says that it may come more than once. */
type Row = {
  id: number
  name: keyof Properties
  kind: Kind
  in: readonly Place[]
  list?: readonly Place[]
  zero?: number
}

const message = ['publish', 'will'] as const
const acks = ['puback', 'pubrec', 'pubrel', 'pubcomp', 'suback', 'unsuback'] as const

const table: readonly Row[] = [
  { id: 0x01, name: 'payloadFormatIndicator', kind: 'flag', in: message },
  { id: 0x02, name: 'messageExpiryInterval', kind: 'u32', in: message },
  { id: 0x03, name: 'contentType', kind: 'text', in: message },
  { id: 0x08, name: 'responseTopic', kind: 'topic', in: message }, // [MQTT-3.3.2-13] [MQTT-3.3.2-14]
  { id: 0x09, name: 'correlationData', kind: 'binary', in: message },
  {
    id: 0x0b,
    name: 'subscriptionIdentifiers',
    kind: 'varint',
    in: ['publish', 'subscribe'],
    list: ['publish'],
    zero: reason.protocolError, // 3.8.2.1.2
  },
  { id: 0x11, name: 'sessionExpiryInterval', kind: 'u32', in: ['connect', 'connack', 'disconnect'] },
  { id: 0x12, name: 'assignedClientIdentifier', kind: 'text', in: ['connack'] },
  { id: 0x13, name: 'serverKeepAlive', kind: 'u16', in: ['connack'] },
  { id: 0x15, name: 'authenticationMethod', kind: 'text', in: ['connect', 'connack', 'auth'] },
  { id: 0x16, name: 'authenticationData', kind: 'binary', in: ['connect', 'connack', 'auth'] },
  { id: 0x17, name: 'requestProblemInformation', kind: 'flag', in: ['connect'] },
  { id: 0x18, name: 'willDelayInterval', kind: 'u32', in: ['will'] },
  { id: 0x19, name: 'requestResponseInformation', kind: 'flag', in: ['connect'] },
  { id: 0x1a, name: 'responseInformation', kind: 'text', in: ['connack'] },
  { id: 0x1c, name: 'serverReference', kind: 'text', in: ['connack', 'disconnect'] },
  { id: 0x1f, name: 'reasonString', kind: 'text', in: ['connack', ...acks, 'disconnect', 'auth'] },
  { id: 0x21, name: 'receiveMaximum', kind: 'u16', in: ['connect', 'connack'], zero: reason.protocolError }, // 3.1.2.11.3
  { id: 0x22, name: 'topicAliasMaximum', kind: 'u16', in: ['connect', 'connack'] },
  { id: 0x23, name: 'topicAlias', kind: 'u16', in: ['publish'], zero: reason.topicAliasInvalid }, // [MQTT-3.3.2-8]
  { id: 0x24, name: 'maximumQos', kind: 'bit', in: ['connack'] },
  { id: 0x25, name: 'retainAvailable', kind: 'flag', in: ['connack'] },
  { id: 0x26, name: 'userProperties', kind: 'pair', in: places, list: places },
  { id: 0x27, name: 'maximumPacketSize', kind: 'u32', in: ['connect', 'connack'], zero: reason.protocolError }, // 3.1.2.11.4
  { id: 0x28, name: 'wildcardSubscriptionAvailable', kind: 'flag', in: ['connack'] },
  { id: 0x29, name: 'subscriptionIdentifiersAvailable', kind: 'flag', in: ['connack'] },
  { id: 0x2a, name: 'sharedSubscriptionAvailable', kind: 'flag', in: ['connack'] },
]

type Compiled = { id: number; name: keyof Properties; kind: Kind; in: number; list: number; zero: number }
const bits = Object.fromEntries(places.map((place, i) => [place, 1 << i])) as Record<Place, number>
const mask = (of: readonly Place[] = []): number => of.reduce((sum, place) => sum | bits[place], 0)
const byId: (Compiled | undefined)[] = new Array(0x2b).fill(undefined)
const byName: Record<string, Compiled> = Object.create(null)
for (const row of table) {
  const compiled = { ...row, in: mask(row.in), list: mask(row.list), zero: row.zero ?? 0 }
  byId[row.id] = compiled
  byName[row.name] = compiled
}
const isList = (row: Compiled): boolean => row.list !== 0

/** @returns undefined when the property length is 0 */
export function parseProperties(cursor: Cursor, place: Place): Properties | undefined {
  const length = cursor.varint()
  if (length === 0) return undefined
  const outerEnd = cursor.end
  const end = cursor.take(length) + length
  cursor.at = end - length
  cursor.end = end
  const here = bits[place]
  const properties: Record<string, unknown> = {}
  while (cursor.at < end) {
    const id = cursor.u8()
    const row = byId[id]
    // 2.2.2.2: an identifier that is not valid for the packet makes it malformed.
    if (row === undefined || (row.in & here) === 0)
      throw new Malformed(reason.malformedPacket, `property ${id} in ${place}`)
    const value = parseValue(cursor, row)
    const before = properties[row.name]
    if (isList(row)) {
      if (before === undefined) properties[row.name] = [value]
      else if ((row.list & here) !== 0) (before as unknown[]).push(value)
      else throw duplicate(row)
    } else {
      if (before !== undefined) throw duplicate(row)
      properties[row.name] = value
    }
  }
  cursor.end = outerEnd
  return properties
}

const duplicate = (row: Compiled): Malformed => new Malformed(reason.protocolError, `${row.name} more than once`)

function parseValue(cursor: Cursor, row: Compiled): unknown {
  switch (row.kind) {
    case 'flag':
    case 'bit': {
      const value = cursor.u8()
      if (value > 1) throw new Malformed(reason.protocolError, `${row.name} of ${value}`)
      return row.kind === 'flag' ? value === 1 : value
    }
    case 'u16':
      return notZero(cursor.u16(), row)
    case 'u32':
      return notZero(cursor.u32(), row)
    case 'varint':
      return notZero(cursor.varint(), row)
    case 'text':
      return cursor.text()
    case 'topic':
      return cursor.topicName()
    case 'binary':
      return cursor.binary()
    case 'pair':
      return [cursor.text(), cursor.text()] // [MQTT-1.5.7-1]
  }
}

function notZero(value: number, row: Compiled): number {
  if (value === 0 && row.zero !== 0) throw new Malformed(row.zero, `${row.name} of 0`)
  return value
}

/**
 * Octets of the properties without their length.
 *
 * @throws RangeError when one of them may not stand in such a packet: sending it would make the peer hang up
 */
export function propertiesBytes(properties: Properties | undefined, place: Place): number {
  if (properties === undefined) return 0
  let bytes = 0
  for (const name in properties) {
    const value = properties[name as keyof Properties]
    if (value === undefined) continue
    const row = byName[name]
    if (row === undefined || (row.in & bits[place]) === 0) throw new RangeError(`property ${name} in ${place}`)
    if (isList(row)) for (const one of value as unknown[]) bytes += 1 + valueBytes(row.kind, one)
    else bytes += 1 + valueBytes(row.kind, value)
  }
  return bytes
}

function valueBytes(kind: Kind, value: unknown): number {
  switch (kind) {
    case 'flag':
    case 'bit':
      return 1
    case 'u16':
      return 2
    case 'u32':
      return 4
    case 'varint':
      return varintBytes(value as number)
    case 'text':
    case 'topic':
    case 'binary':
      return fieldBytes(value as string | Buffer)
    case 'pair': {
      const [name, text] = value as [string, string]
      return fieldBytes(name) + fieldBytes(text)
    }
  }
}

/**
 * Writes the properties with their length in front.
 *
 * @param bytes what `propertiesBytes` said
 * @returns where the next octet goes
 */
export function writeProperties(frame: Buffer, at: number, properties: Properties | undefined, bytes: number): number {
  let next = writeVarint(frame, at, bytes) // [MQTT-2.2.2-1]
  if (bytes === 0) return next
  for (const name in properties) {
    const value = properties[name as keyof Properties]
    if (value === undefined) continue
    const row = byName[name]!
    if (isList(row)) for (const one of value as unknown[]) next = writeValue(frame, next, row, one)
    else next = writeValue(frame, next, row, value)
  }
  return next
}

function writeValue(frame: Buffer, at: number, row: Compiled, value: unknown): number {
  const next = at + 1
  frame[at] = row.id
  switch (row.kind) {
    case 'flag':
    case 'bit':
      frame[next] = Number(value)
      return next + 1
    case 'u16':
      return frame.writeUInt16BE(value as number, next)
    case 'u32':
      return frame.writeUInt32BE(value as number, next)
    case 'varint':
      return writeVarint(frame, next, value as number)
    case 'text':
    case 'topic':
    case 'binary':
      return writeField(frame, next, value as string | Buffer)
    case 'pair': {
      const [name, text] = value as [string, string]
      return writeField(frame, writeField(frame, next, name), text)
    }
  }
}

/** Octets of a property block with its length in front; none before version 5. */
export const blockBytes = (version: 3 | 4 | 5, bytes: number): number =>
  version === 5 ? varintBytes(bytes) + bytes : 0
