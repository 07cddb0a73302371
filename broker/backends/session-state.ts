import { isGatewayTopic } from '../../contract/topics.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { Area, Operation } from '../store.ts'
import {
  decodeEntry,
  decodeMessage,
  decodeSession,
  decodeSubscription,
  decodeWill,
  type Entry,
  encodeSession,
  encodeSubscription,
  encodeWill,
  keys,
  seqOfEntry,
  splitKey,
  type WillNote,
} from './session-records.ts'
import { type Counts, deviceOf, type StoredSubscription } from './session-store.ts'

export type Session = {
  /** Its number in keys. A client that begins anew has another one, so what is left of the old can be removed later. */
  readonly id: number
  readonly clientId: string
  readonly device: DeviceState
  epoch: number
  owner: string | undefined
  /**
   * false: it ends with its connection, so that nobody would read it again. It is in memory alone until that is too little, or
   * QoS 2 asks for more.
   */
  isOnDisk: boolean
  /** Seqs of what waited when it was written down, held in memory until that is confirmed. */
  moving: readonly number[] | undefined
  /** Milliseconds; both Infinity for good. */
  keepMs: number
  keepUntil: number
  readonly subscriptions: Map<string, StoredSubscription>
  readonly incoming: Set<number>
  /** Of the whole queue, on disk or not. */
  messages: number
  bytes: number
  /** No message of the queue expires before. */
  nextExpiry: number
  /**
   * A message of QoS 1 with a lower seq may have gone out without a note: whoever was connected when the broker, or its
   * store, went down may have got it.
   */
  unsureBelow: number
  /** The head of the queue, in order, kept while there is an owner: all entries up to `windowEnd`. */
  readonly window: Map<number, Entry>
  windowEnd: number
  /** By packet id, whether in the window or not. */
  readonly inflight: Map<number, Entry>
  /** What is removed while the queue is being read from disk. */
  removed: Set<number> | undefined
  /** The reading of this session's queue that is under way. */
  reading: Promise<unknown> | undefined
}

/** What a device has stored. */
export type DeviceState = {
  readonly id: string
  /** Client ids, the longest unused first. */
  readonly sessions: Set<string>
  subscriptions: number
  messages: number
  /** Of its messages, and of the filters of its subscriptions. */
  bytes: number
  retained: number
  retainedBytes: number
}
export type RetainedNote = {
  readonly device: DeviceState
  readonly bytes: number
  readonly expiresAt: number
  /** Counts what was retained since the store opened. */
  readonly version: number
}

/** What is known without looking at the disk; all of it is read from there when the store opens. */
export type State = {
  readonly sessions: Map<string, Session>
  readonly devices: Map<string, DeviceState>
  /** By epoch. */
  readonly wills: Map<number, WillNote>
  /** By topic; those of the gateway itself are on disk alone. */
  readonly retained: Map<string, RetainedNote>
  /** Entries left of each message that has had several. */
  readonly references: Map<number, number>
  /** Numbers of forgotten sessions whose queue is still there. */
  readonly garbage: Set<number>
  nextNumber: number
  /** Numbers below may be in use without being noted as such. */
  reserved: number
}

const version = '1'
const pageSize = 1_000
const retainedPageSize = 64
const numbersAtOnce = 1_000_000

export function createSession(
  state: State,
  named: { id: number; clientId: string; epoch: number; owner: string | undefined; keepMs: number },
): Session {
  const device = deviceIn(state, deviceOf(named.clientId))
  const session: Session = {
    ...named,
    device,
    isOnDisk: named.keepMs > 0,
    moving: undefined,
    keepUntil: Number.POSITIVE_INFINITY,
    subscriptions: new Map(),
    incoming: new Set(),
    messages: 0,
    bytes: 0,
    nextExpiry: Number.POSITIVE_INFINITY,
    unsureBelow: 0,
    window: new Map(),
    windowEnd: 0,
    inflight: new Map(),
    removed: undefined,
    reading: undefined,
  }
  state.sessions.set(named.clientId, session)
  device.sessions.add(named.clientId)
  return session
}

export function deviceIn(state: State, id: string): DeviceState {
  let device = state.devices.get(id)
  if (device === undefined) {
    device = { id, sessions: new Set(), subscriptions: 0, messages: 0, bytes: 0, retained: 0, retainedBytes: 0 }
    state.devices.set(id, device)
  }
  return device
}

/** A device that has nothing stored takes no memory. */
export function leaveDevice(state: State, device: DeviceState): void {
  if (device.sessions.size === 0 && device.retained === 0) state.devices.delete(device.id)
}

/** Numbers are noted as used in blocks, in the batch that first needs one: what is in the store is below the mark. */
export function takeNumber(state: State, operations: Operation[]): number {
  const number = state.nextNumber++
  if (number >= state.reserved) {
    state.reserved = number + numbersAtOnce
    operations.push({ type: 'put', key: keys.numbers, value: Buffer.from(String(state.reserved)) })
  }
  return number
}

/** When the session ends that a will belongs to; MQTT 5, 3.1.3.2.2: its will waits no longer. */
export function endOf(state: State, will: WillNote): number {
  const session = state.sessions.get(will.clientId)
  return session?.epoch === will.epoch ? session.keepUntil : 0
}

export const noteWill = (will: WillNote): Operation => ({
  type: 'put',
  key: keys.will(will.epoch),
  value: encodeWill(will),
})

export function noteSession(session: Session): Operation {
  const { clientId, epoch, owner, keepMs, keepUntil, unsureBelow } = session
  const value = encodeSession({
    clientId,
    epoch,
    keepMs: Number.isFinite(keepMs) ? keepMs : null,
    keepUntil: Number.isFinite(keepUntil) ? keepUntil : null,
    ...(owner === undefined ? {} : { owner }),
    ...(unsureBelow === 0 ? {} : { unsureBelow }),
  })
  return { type: 'put', key: keys.session(session.id), value }
}

export const noteSubscription = (sessionId: number, subscription: StoredSubscription): Operation => ({
  type: 'put',
  key: keys.subscription(sessionId, subscription.filter),
  value: encodeSubscription(subscription),
})

/** @throws FleetError `data_damaged` */
export async function loadState(area: Area): Promise<State> {
  const state: State = {
    sessions: new Map(),
    devices: new Map(),
    wills: new Map(),
    retained: new Map(),
    references: new Map(),
    garbage: new Set(),
    nextNumber: 1,
    reserved: 1,
  }
  const [layout, numbers] = await area.getMany([keys.version, keys.numbers])
  if (layout === undefined) {
    await area.write([{ type: 'put', key: keys.version, value: Buffer.from(version) }], { sync: true })
  } else if (layout.toString() !== version) {
    throw new FleetError('data_damaged', `sessions have layout ${layout}, this version of Fleetgate knows ${version}`)
  }
  // Behind all that may have been given out, so that nothing new sorts or counts before what is there (trap T16).
  if (numbers !== undefined) state.nextNumber = state.reserved = Number(numbers)

  const byId = new Map<number, Session>()
  await forEach(area, 's', (key, value) => {
    const { number: id } = splitKey(key)
    const { clientId, epoch, owner, keepMs, keepUntil, unsureBelow = 0 } = decodeSession(value)
    const forGood = Number.POSITIVE_INFINITY
    const session = createSession(state, { id, clientId, epoch, owner, keepMs: keepMs ?? forGood })
    session.isOnDisk = true
    session.keepUntil = keepUntil ?? forGood
    session.unsureBelow = owner === undefined ? unsureBelow : state.nextNumber
    byId.set(id, session)
  })
  await forEach(area, 'f', (key, value) => {
    const { number: id, rest: filter } = splitKey(key)
    const session = byId.get(id)
    if (session === undefined) return
    session.subscriptions.set(filter, decodeSubscription(filter, value))
    session.device.subscriptions++
    session.device.bytes += Buffer.byteLength(filter)
  })
  await forEach(area, 'i', (key) => {
    const { number: id, rest: packetId } = splitKey(key)
    byId.get(id)?.incoming.add(Number(packetId))
  })
  await forEach(area, 'q', (key, value) => {
    const { number: id } = splitKey(key)
    const entry = decodeEntry(seqOfEntry(key), value)
    if (entry.shared && !entry.released) {
      state.references.set(entry.seq, (state.references.get(entry.seq) ?? 0) + 1)
    }
    const session = byId.get(id)
    if (session === undefined) state.garbage.add(id)
    else countEntry(session, entry)
  })
  await forEach(area, 'w', (key, value) => {
    const { number: epoch } = splitKey(key)
    state.wills.set(epoch, decodeWill(epoch, value))
  })
  await forEach(
    area,
    'r',
    (key, value) => {
      if (isGatewayTopic(key.slice(1))) return
      const { from, expiresAt = Number.POSITIVE_INFINITY } = decodeMessage(value)
      noteRetained(state, key.slice(1), {
        device: deviceIn(state, deviceOf(from)),
        bytes: value.length,
        expiresAt,
        version: 0,
      })
    },
    retainedPageSize,
  )
  return state
}

/** A broker that died released nothing: its connections are over as of now. */
export function endConnections(state: State, now: number): Operation[] {
  const operations: Operation[] = []
  for (const session of state.sessions.values()) {
    if (session.owner !== undefined) endConnection(session, now, operations)
  }
  for (const will of state.wills.values()) {
    if (will.dueAt !== Number.POSITIVE_INFINITY) continue
    will.dueAt = Math.min(now + will.delayMs, endOf(state, will))
    operations.push(noteWill(will))
  }
  return operations
}

/** Nobody said goodbye: the session is kept for as long as its claim said. */
export function endConnection(session: Session, now: number, operations: Operation[]): void {
  session.owner = undefined
  session.keepUntil = now + session.keepMs
  if (session.isOnDisk) operations.push(noteSession(session))
}

export function countEntry(session: Session, entry: Entry): void {
  session.messages++
  session.bytes += entry.bytes
  session.device.messages++
  session.device.bytes += entry.bytes
  if (entry.packetId === undefined) session.nextExpiry = Math.min(session.nextExpiry, entry.expiresAt)
  else session.inflight.set(entry.packetId, entry)
}

export function noteRetained(state: State, topic: string, note: RetainedNote): void {
  state.retained.set(topic, note)
  note.device.retained++
  note.device.retainedBytes += note.bytes
}

export function unnoteRetained(state: State, topic: string): void {
  const note = state.retained.get(topic)
  if (note === undefined) return
  state.retained.delete(topic)
  note.device.retained--
  note.device.retainedBytes -= note.bytes
  leaveDevice(state, note.device)
}

async function forEach(
  area: Area,
  prefix: string,
  visit: (key: string, value: Buffer) => void,
  limit = pageSize,
): Promise<void> {
  for (let after = ''; ; ) {
    const page = await area.page(prefix, after, limit)
    for (const [key, value] of page) visit(key, value)
    if (page.length < limit) return
    after = page.at(-1)![0]
  }
}

/** What a session's subscriptions count for among the octets of its device. */
export function bytesOf(subscriptions: ReadonlyMap<string, StoredSubscription>): number {
  let bytes = 0
  for (const filter of subscriptions.keys()) bytes += Buffer.byteLength(filter)
  return bytes
}

/** The longest unused of a device comes first. */
export function useAgain({ device, clientId }: Session): void {
  device.sessions.delete(clientId)
  device.sessions.add(clientId)
}

export function countsOf({ sessions, devices }: State): Counts {
  const counts = { sessions: sessions.size, messages: 0, bytes: 0 }
  for (const { messages, bytes } of devices.values()) {
    counts.messages += messages
    counts.bytes += bytes
  }
  return counts
}
