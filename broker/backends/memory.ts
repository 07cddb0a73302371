import { Readable } from 'node:stream'
import type { AedesPublishPacket, Client, Subscription } from 'aedes'
import { topicMatches } from '../../contract/topics.ts'
import { FilterIndex } from './filter-index.ts'

type QoS = 0 | 1 | 2
/** A message on its way to a session: as published, or as PUBREL once the receiver has it. */
type Outgoing = {
  cmd: 'publish' | 'pubrel'
  brokerId: string
  brokerCounter: number
  topic: string
  payload: Buffer
  qos: QoS
  retain: boolean
  dup: boolean
  messageId?: number | undefined
}
type Session = { filters: Map<string, QoS>; queue: Outgoing[]; incoming: Set<number> }
type Retained = { cmd: 'publish'; topic: string; payload: Buffer; qos: QoS; retain: true; owner: string }
/** What a delivery in a row has to wait for; the core's connections are these. */
type Link = { destroyed: boolean; drained(): Promise<void> }
type Acknowledged = { messageId?: number | undefined; cmd?: string; brokerId?: string; brokerCounter?: number }

type MemoryOptions = {
  maxQueuedMessages: number
  maxRetainedPerDevice: number
  maxSessionsPerDevice: number
  /** Filters, queued and retained messages of one device together. */
  maxStoredBytesPerDevice: number
  /** Bytes that may be handed to a connection before it has to drain. */
  paceBytes: number
  isPresent: (clientId: string) => boolean
  /** Whether a message is worth keeping for a session; asked of present ones only. */
  mayReceive: (clientId: string, topic: string) => boolean
  /** A bound was met and something was not kept. */
  onDropped: (what: 'queued' | 'retained' | 'session', owner: string, topic: string) => void
}

/** Inbound QoS 2 messages of one session that wait for their PUBREL. */
const maxIncoming = 1_000
const scanStep = 2_000

const deviceOf = (clientId: string): string => clientId.split(':', 1)[0]!
/** A filter is kept in the session and, level by level, in the index. */
const filterBytes = (filter: string): number => 4 * filter.length + 256
const sizeOf = (message: { topic: string; payload: Buffer }): number =>
  message.topic.length + message.payload.length + 16

/**
 * Sessions and retained messages in memory, in the shape that aedes asks of a store, every part of it bounded. Nothing
 * of it survives a restart.
 */
export class MemoryBackend {
  readonly #options: MemoryOptions
  readonly #sessions = new Map<string, Session>()
  /** Client ids of the sessions of each device, the longest unused first. */
  readonly #sessionsOf = new Map<string, Set<string>>()
  readonly #index = new FilterIndex()
  readonly #retained = new Map<string, Retained>()
  readonly #retainedOf = new Map<string, number>()
  readonly #granted = new WeakSet<object>()
  readonly #storedBytes = new Map<string, number>()
  #subscriber: Link | undefined

  constructor(options: MemoryOptions) {
    this.#options = options
  }

  /** Forgets what absent sessions of a device were to get. */
  dropSessionsOf(deviceId: string): void {
    for (const clientId of [...(this.#sessionsOf.get(deviceId) ?? [])]) this.#drop(clientId)
  }

  /** aedes stores every filter of a SUBSCRIBE once one is allowed (trap T8): only those marked here are kept. */
  grant(subscription: Subscription): void {
    this.#granted.add(subscription)
  }

  /** aedes asks for retained messages without saying for whom, right after it has told who subscribed. */
  nextRetainedFor(link: Link): void {
    this.#subscriber = link
  }

  async setup(): Promise<void> {}

  async addSubscriptions(client: Client, subscriptions: Subscription[]): Promise<void> {
    const session = this.#session(client.id)
    for (const subscription of subscriptions) {
      const { topic, qos } = subscription
      if (!this.#granted.has(subscription)) continue
      if (!session.filters.has(topic) && !this.#take(deviceOf(client.id), filterBytes(topic))) {
        this.#options.onDropped('session', client.id, topic)
        continue
      }
      session.filters.set(topic, qos as QoS)
      if (qos > 0) this.#index.set(topic, client.id, qos)
      else this.#index.delete(topic, client.id)
    }
  }

  async removeSubscriptions(client: Client, filters: string[]): Promise<void> {
    const session = this.#sessions.get(client.id)
    for (const filter of filters) {
      if (!session?.filters.delete(filter)) continue
      this.#index.delete(filter, client.id)
      this.#give(deviceOf(client.id), filterBytes(filter))
    }
    this.#dropIfEmpty(client.id)
  }

  async subscriptionsByClient(client: { id: string }): Promise<Subscription[]> {
    const session = this.#sessions.get(client.id)
    if (session === undefined) return []
    const used = this.#sessionsOf.get(deviceOf(client.id))!
    used.delete(client.id)
    used.add(client.id)
    return [...session.filters].map(([topic, qos]) => ({ topic, qos }))
  }

  async subscriptionsByTopic(topic: string): Promise<{ clientId: string; qos: number }[]> {
    return [...this.#index.match(topic)].map(([clientId, qos]) => ({ clientId, qos, topic }))
  }

  /** [MQTT-3.1.2-6]: a clean session begins and ends with nothing, queued messages included. */
  async cleanSubscriptions(client: Client): Promise<void> {
    this.#drop(client.id)
  }

  async outgoingEnqueue(to: { clientId: string }, packet: AedesPublishPacket): Promise<void> {
    await this.outgoingEnqueueCombi([{ clientId: to.clientId, qos: packet.qos }], packet)
  }

  /** One entry for each client, whatever number of its filters match (trap T31). */
  async outgoingEnqueueCombi(to: { clientId: string; qos: number }[], packet: AedesPublishPacket): Promise<void> {
    let payload: Buffer | undefined
    for (const { clientId, qos } of to) {
      const session = this.#sessions.get(clientId)
      if (session === undefined || !this.#options.mayReceive(clientId, packet.topic)) continue
      const bytes = sizeOf({ topic: packet.topic, payload: packet.payload as Buffer })
      if (session.queue.length >= this.#options.maxQueuedMessages || !this.#take(deviceOf(clientId), bytes)) {
        this.#options.onDropped('queued', clientId, packet.topic)
        continue
      }
      // Of its own, because the packet's is a view of a larger read buffer.
      payload ??= Buffer.from(packet.payload as Buffer)
      const { brokerId, brokerCounter, topic } = packet
      const entry: Outgoing = {
        cmd: 'publish',
        brokerId,
        brokerCounter,
        topic,
        payload,
        qos: Math.min(packet.qos, qos) as QoS,
        retain: false,
        dup: false,
      }
      session.queue.push(entry)
    }
  }

  /** Notes the packet id that a message went out with, or that its receiver has it. A message that is not kept is fine. */
  async outgoingUpdate(client: Client, packet: Acknowledged): Promise<void> {
    const queue = this.#sessions.get(client.id)?.queue ?? []
    if (packet.cmd === 'pubrel') {
      // By packet id alone: a PUBREL has no place in the broker's count (trap T32).
      const entry = queue.find(({ messageId }) => messageId === packet.messageId)
      if (entry !== undefined) entry.cmd = 'pubrel'
      return
    }
    const entry = queue.find((one) => one.brokerId === packet.brokerId && one.brokerCounter === packet.brokerCounter)
    if (entry !== undefined) entry.messageId = packet.messageId
  }

  /** aedes calls this without a packet id for what it did not deliver; that must not take another's place (trap T33). */
  async outgoingClearMessageId(client: Client, packet: Acknowledged): Promise<Outgoing | undefined> {
    const session = this.#sessions.get(client.id)
    if (session === undefined || packet.messageId === undefined) return undefined
    const at = session.queue.findIndex(({ messageId }) => messageId === packet.messageId)
    if (at < 0) return undefined
    const [entry] = session.queue.splice(at, 1)
    this.#give(deviceOf(client.id), sizeOf(entry!))
    this.#dropIfEmpty(client.id)
    return entry
  }

  outgoingStream(client: Client): Readable {
    // [MQTT-3.3.1-1]: what went out before goes out again as a duplicate.
    const waiting = (this.#sessions.get(client.id)?.queue ?? []).map((entry) =>
      entry.messageId === undefined || entry.cmd === 'pubrel' ? entry : { ...entry, dup: true },
    )
    return Readable.from(this.#paced(waiting, client.conn as unknown as Link))
  }

  async incomingStorePacket(client: Client, packet: { messageId: number }): Promise<void> {
    const { incoming } = this.#session(client.id)
    if (incoming.size >= maxIncoming) throw new Error(`${maxIncoming} QoS 2 messages wait for their PUBREL`)
    incoming.add(packet.messageId)
  }

  async incomingGetPacket(client: Client, packet: { messageId: number }): Promise<{ messageId: number }> {
    if (!this.#sessions.get(client.id)?.incoming.has(packet.messageId)) throw new Error('no such packet')
    return { messageId: packet.messageId }
  }

  async incomingDelPacket(client: Client, packet: { messageId: number }): Promise<void> {
    this.#sessions.get(client.id)?.incoming.delete(packet.messageId)
    this.#dropIfEmpty(client.id)
  }

  async cleanIncoming(client: Client): Promise<void> {
    this.#sessions.get(client.id)?.incoming.clear()
    this.#dropIfEmpty(client.id)
  }

  async storeRetained(packet: AedesPublishPacket & { clientId?: string }): Promise<void> {
    const { topic, qos } = packet
    const payload = Buffer.from(packet.payload as Buffer)
    const owner = deviceOf(packet.clientId ?? '')
    const before = this.#retained.get(topic)
    const isFull = before?.owner !== owner && (this.#retainedOf.get(owner) ?? 0) >= this.#options.maxRetainedPerDevice
    if (before !== undefined) this.#give(before.owner, sizeOf(before))
    if (payload.length > 0 && (isFull || !this.#take(owner, sizeOf({ topic, payload })))) {
      if (before !== undefined) this.#take(before.owner, sizeOf(before))
      this.#options.onDropped('retained', owner, topic)
      return
    }
    if (before !== undefined) {
      this.#retained.delete(topic)
      const left = this.#retainedOf.get(before.owner)! - 1
      if (left === 0) this.#retainedOf.delete(before.owner)
      else this.#retainedOf.set(before.owner, left)
    }
    if (payload.length === 0) return // [MQTT-3.3.1-10]
    this.#retained.set(topic, { cmd: 'publish', topic, payload, qos, retain: true, owner })
    this.#retainedOf.set(owner, (this.#retainedOf.get(owner) ?? 0) + 1)
  }

  createRetainedStreamCombi(filters: string[]): Readable {
    const link = this.#subscriber
    this.#subscriber = undefined
    return Readable.from(link === undefined ? [] : this.#paced(this.#findRetained(filters), link))
  }

  /**
   * The last that aedes waits for before it registers a client. One that closed meanwhile must not come to the list of
   * live clients as a ghost (trap T7): it is left waiting.
   */
  async delWill(client: Partial<Client>): Promise<void> {
    if (client.closed) await new Promise<never>(() => {})
  }

  /** Wills are ours, so aedes' sweep finds none (trap T10). */
  streamWill(): Readable {
    return Readable.from([])
  }

  async *#findRetained(filters: string[]): AsyncGenerator<Retained> {
    const isWild = (filter: string): boolean => filter.includes('+') || filter.includes('#')
    const wild = filters.filter(isWild)
    const names = new Set(filters.filter((filter) => !isWild(filter)))
    for (const name of names) {
      const message = this.#retained.get(name)
      if (message !== undefined) yield message
    }
    if (wild.length === 0) return
    let seen = 0
    for (const message of this.#retained.values()) {
      // A long look through the store lets others have their turn.
      if (++seen % scanStep === 0) await new Promise((resolve) => setImmediate(resolve))
      if (!names.has(message.topic) && wild.some((filter) => topicMatches(filter, message.topic))) yield message
    }
  }

  /** What a session gets in a row waits for its reader, or a full store would make every reader a slow one. */
  async *#paced<T extends { topic: string; payload: Buffer }>(
    messages: Iterable<T> | AsyncIterable<T>,
    link: Link,
  ): AsyncGenerator<T> {
    let room = this.#options.paceBytes
    for await (const message of messages) {
      const size = sizeOf(message)
      if (size > room) {
        await link.drained()
        room = this.#options.paceBytes
      }
      if (link.destroyed) return
      room -= size
      yield message
    }
  }

  /** One budget for all that is kept for or by a device. @returns false when it is spent */
  #take(device: string, bytes: number): boolean {
    const total = (this.#storedBytes.get(device) ?? 0) + bytes
    if (total > this.#options.maxStoredBytesPerDevice) return false
    this.#storedBytes.set(device, total)
    return true
  }

  #give(device: string, bytes: number): void {
    const total = (this.#storedBytes.get(device) ?? 0) - bytes
    if (total > 0) this.#storedBytes.set(device, total)
    else this.#storedBytes.delete(device)
  }

  #session(clientId: string): Session {
    let session = this.#sessions.get(clientId)
    if (session === undefined) {
      this.#makeRoom(deviceOf(clientId))
      session = { filters: new Map(), queue: [], incoming: new Set() }
      this.#sessions.set(clientId, session)
      const used = this.#sessionsOf.get(deviceOf(clientId)) ?? new Set()
      this.#sessionsOf.set(deviceOf(clientId), used.add(clientId))
    }
    return session
  }

  #makeRoom(deviceId: string): void {
    const kept = this.#sessionsOf.get(deviceId)
    if (kept === undefined || kept.size < this.#options.maxSessionsPerDevice) return
    const oldest = [...kept].find((clientId) => !this.#options.isPresent(clientId))
    if (oldest === undefined) return
    this.#drop(oldest)
    this.#options.onDropped('session', oldest, '')
  }

  #drop(clientId: string): void {
    const session = this.#sessions.get(clientId)
    if (session === undefined) return
    for (const filter of session.filters.keys()) {
      this.#index.delete(filter, clientId)
      this.#give(deviceOf(clientId), filterBytes(filter))
    }
    for (const entry of session.queue) this.#give(deviceOf(clientId), sizeOf(entry))
    this.#sessions.delete(clientId)
    const used = this.#sessionsOf.get(deviceOf(clientId))!
    used.delete(clientId)
    if (used.size === 0) this.#sessionsOf.delete(deviceOf(clientId))
  }

  #dropIfEmpty(clientId: string): void {
    const session = this.#sessions.get(clientId)
    if (session && session.filters.size + session.queue.length + session.incoming.size === 0) this.#drop(clientId)
  }
}
