/**
 * How sessions lie in the store. Numbers are of one counter, never used twice.
 *
 *   v                    version of this layout
 *   n                    numbers from here on are unused
 *   s <session>          SessionRecord as JSON
 *   f <session> <filter> options of a subscription as JSON
 *   q <session> <seq>    queue entry
 *   m <seq>              message of the queue entries with this seq
 *   i <session> <id>     nothing; a QoS 2 packet id that waits for its PUBREL
 *   w <epoch>            WillNote as JSON
 *   x <epoch>            message of a will
 *   c <epoch>            certificate of a will
 *   r <topic>            retained message
 */
import { deserialize, serialize } from 'node:v8'
import { FleetError } from '../../runtime/errors.ts'
import type { Properties } from '../wire/properties.ts'
import type { Message, QoS, StoredSubscription } from './session-store.ts'

const digits = 11 // of 2^53 to the base 36
const text = (number: number): string => number.toString(36).padStart(digits, '0')

export const keys = {
  version: 'v',
  numbers: 'n',
  session: (session: number): string => `s${text(session)}`,
  subscription: (session: number, filter: string): string => `f${text(session)}${filter}`,
  queue: (session: number): string => `q${text(session)}`,
  entry: (session: number, seq: number): string => `q${text(session)}${text(seq)}`,
  message: (seq: number): string => `m${text(seq)}`,
  incoming: (session: number, packetId: number): string => `i${text(session)}${packetId}`,
  will: (epoch: number): string => `w${text(epoch)}`,
  willMessage: (epoch: number): string => `x${text(epoch)}`,
  willCertificate: (epoch: number): string => `c${text(epoch)}`,
  retained: (topic: string): string => `r${topic}`,
} as const

/** The number that a key begins with, and what follows it. */
export function splitKey(key: string): { number: number; rest: string } {
  return { number: Number.parseInt(key.slice(1, 1 + digits), 36), rest: key.slice(1 + digits) }
}
export const seqOfEntry = (key: string): number => Number.parseInt(key.slice(1 + digits), 36)

export type SessionRecord = {
  clientId: string
  epoch: number
  /** Missing once released. */
  owner?: string
  /** null for good, as JSON has no Infinity. */
  keepMs: number | null
  keepUntil: number | null
  /** Missing for 0. */
  unsureBelow?: number
}
export const encodeSession = (record: SessionRecord): Buffer => Buffer.from(JSON.stringify(record))
export const decodeSession = (value: Buffer): SessionRecord => decodeJson(value) as SessionRecord

export const encodeSubscription = ({ filter: _, ...options }: StoredSubscription): Buffer =>
  Buffer.from(JSON.stringify(options))
export const decodeSubscription = (filter: string, value: Buffer): StoredSubscription => ({
  filter,
  ...(decodeJson(value) as Omit<StoredSubscription, 'filter'>),
})

export const empty = Buffer.alloc(0)
const timeBytes = 6

const messageFlags = { qos: 0x03, retain: 0x04, expires: 0x08, properties: 0x10 } as const

const bytesWith = ({ topic, from, payload, expiresAt }: Message, propertyBytes: number | undefined): number =>
  1 +
  timeBytes +
  (expiresAt === undefined ? 0 : timeBytes) +
  2 +
  Buffer.byteLength(topic) +
  2 +
  Buffer.byteLength(from) +
  (propertyBytes === undefined ? 0 : 4 + propertyBytes) +
  payload.length

/** What `encodeMessage` takes. */
export const messageBytes = (message: Message): number =>
  bytesWith(message, message.properties && serialize(message.properties).length)

/** flags, published at [, expires at], topic, from [, properties], payload; texts and properties behind their length. */
export function encodeMessage(message: Message): Buffer {
  const { topic, from, payload, expiresAt } = message
  const properties = message.properties === undefined ? undefined : serialize(message.properties)
  const topicBytes = Buffer.byteLength(topic)
  const fromBytes = Buffer.byteLength(from)
  const bytes = Buffer.allocUnsafe(bytesWith(message, properties?.length))
  const flags =
    message.qos |
    (message.retain ? messageFlags.retain : 0) |
    (expiresAt === undefined ? 0 : messageFlags.expires) |
    (properties === undefined ? 0 : messageFlags.properties)
  let at = bytes.writeUInt8(flags)
  at = bytes.writeUIntBE(message.publishedAt, at, timeBytes)
  if (expiresAt !== undefined) at = bytes.writeUIntBE(expiresAt, at, timeBytes)
  at = bytes.writeUInt16BE(topicBytes, at)
  at += bytes.write(topic, at)
  at = bytes.writeUInt16BE(fromBytes, at)
  at += bytes.write(from, at)
  if (properties !== undefined) {
    at = bytes.writeUInt32BE(properties.length, at)
    at += properties.copy(bytes, at)
  }
  payload.copy(bytes, at)
  return bytes
}

/**
 * @returns the payload as a view of `bytes`
 * @throws FleetError `data_damaged`
 */
export function decodeMessage(bytes: Buffer): Message {
  return decode(() => {
    const flags = bytes.readUInt8(0)
    const publishedAt = bytes.readUIntBE(1, timeBytes)
    let at = 1 + timeBytes
    const take = (length: number): Buffer => {
      if (at + length > bytes.length) throw new RangeError(`${length} octets wanted, ${bytes.length - at} left`)
      at += length
      return bytes.subarray(at - length, at)
    }
    const expiresAt = flags & messageFlags.expires ? take(timeBytes).readUIntBE(0, timeBytes) : undefined
    const topic = take(take(2).readUInt16BE()).toString()
    const from = take(take(2).readUInt16BE()).toString()
    const properties =
      flags & messageFlags.properties ? (deserialize(take(take(4).readUInt32BE())) as Properties) : undefined
    return {
      topic,
      payload: bytes.subarray(at),
      qos: qosOf(flags & messageFlags.qos),
      retain: (flags & messageFlags.retain) !== 0,
      ...(properties === undefined ? {} : { properties }),
      ...(expiresAt === undefined ? {} : { expiresAt }),
      from,
      publishedAt,
    }
  })
}

/** A session's place for a message, without the message. */
export type Entry = {
  readonly seq: number
  readonly qos: 1 | 2
  readonly retain: boolean
  readonly identifiers: readonly number[]
  /** Whether other sessions have or had the same message. */
  shared: boolean
  readonly expiresAt: number
  /** Size of the message; 0 once it is dropped. */
  bytes: number
  packetId: number | undefined
  released: boolean
}

const entryFlags = { qos: 0x03, retain: 0x04, shared: 0x08, released: 0x10, expires: 0x20 } as const
const fixedBytes = 1 + 4 + 2

/** flags, bytes, packet id (0: none) [, expires at], subscription identifiers */
export function encodeEntry(entry: Entry): Buffer {
  const expires = Number.isFinite(entry.expiresAt)
  const bytes = Buffer.allocUnsafe(fixedBytes + (expires ? timeBytes : 0) + 4 * entry.identifiers.length)
  const flags =
    entry.qos |
    (entry.retain ? entryFlags.retain : 0) |
    (entry.shared ? entryFlags.shared : 0) |
    (entry.released ? entryFlags.released : 0) |
    (expires ? entryFlags.expires : 0)
  let at = bytes.writeUInt8(flags)
  at = bytes.writeUInt32BE(entry.bytes, at)
  at = bytes.writeUInt16BE(entry.packetId ?? 0, at)
  if (expires) at = bytes.writeUIntBE(entry.expiresAt, at, timeBytes)
  for (const identifier of entry.identifiers) at = bytes.writeUInt32BE(identifier, at)
  return bytes
}

/** @throws FleetError `data_damaged` */
export function decodeEntry(seq: number, bytes: Buffer): Entry {
  return decode(() => {
    const flags = bytes.readUInt8(0)
    const expires = (flags & entryFlags.expires) !== 0
    const identifiers: number[] = []
    for (let at = fixedBytes + (expires ? timeBytes : 0); at < bytes.length; at += 4) {
      identifiers.push(bytes.readUInt32BE(at))
    }
    const qos = qosOf(flags & entryFlags.qos)
    if (qos === 0) throw new RangeError('a queue entry of QoS 0')
    return {
      seq,
      qos,
      retain: (flags & entryFlags.retain) !== 0,
      identifiers,
      shared: (flags & entryFlags.shared) !== 0,
      expiresAt: expires ? bytes.readUIntBE(fixedBytes, timeBytes) : Number.POSITIVE_INFINITY,
      bytes: bytes.readUInt32BE(1),
      packetId: bytes.readUInt16BE(5) || undefined,
      released: (flags & entryFlags.released) !== 0,
    }
  })
}

/** Whose will it is and when it is due; Infinity while its connection lives. */
export type WillNote = { readonly clientId: string; readonly epoch: number; readonly delayMs: number; dueAt: number }

export const encodeWill = ({ epoch: _, dueAt, ...note }: WillNote): Buffer =>
  Buffer.from(JSON.stringify(Number.isFinite(dueAt) ? { ...note, dueAt } : note))
export const decodeWill = (epoch: number, value: Buffer): WillNote => ({
  dueAt: Number.POSITIVE_INFINITY,
  ...(decodeJson(value) as Omit<WillNote, 'epoch' | 'dueAt'> & { dueAt?: number }),
  epoch,
})

function qosOf(value: number): QoS {
  if (value > 2) throw new RangeError(`QoS ${value}`)
  return value as QoS
}

const decodeJson = (value: Buffer): unknown => decode(() => JSON.parse(value.toString()))

function decode<T>(read: () => T): T {
  try {
    return read()
  } catch (cause) {
    if (cause instanceof FleetError) throw cause
    throw new FleetError('data_damaged', 'the broker has stored a session record that cannot be read', { cause })
  }
}
