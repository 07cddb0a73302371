import type { Operation } from '../store.ts'
import type { DiskReads } from './disk-reads.ts'
import type { GroupCommit } from './group-commit.ts'
import type { HeldMessages } from './held-messages.ts'
import { MemoryQueue, type MemoryQueueOptions } from './memory-queue.ts'
import { MessageCache } from './message-cache.ts'
import { entryOf, hasRoom, ownOf, queued } from './queue-entries.ts'
import { SessionMoves } from './session-moves.ts'
import {
  decodeEntry,
  decodeMessage,
  type Entry,
  encodeEntry,
  encodeMessage,
  keys,
  messageBytes,
  seqOfEntry,
} from './session-records.ts'
import { countEntry, type Session, type State, takeNumber } from './session-state.ts'
import type { Delivery, DeviceQuota, EnqueueAnswer, Message, Queued, Receiver } from './session-store.ts'

const pageSize = 500
/** What may wait in memory alone for one session. */
const heldForOneAtMost = 2 * 1024 * 1024

/** A message that is being enqueued, and the places that it gets. */
type Draft = {
  readonly message: Message
  readonly seq: number
  readonly bytes: number
  readonly entries: Map<Session, Entry>
}

/**
 * The queues of all sessions. Changes are decided in memory at once, and handed out as operations for the caller to commit;
 * only what does not fit there is read from disk.
 */
export class SessionQueues {
  readonly #state: State
  readonly #disk: DiskReads
  readonly #commits: GroupCommit
  readonly #windowEntries: number
  readonly #cache: MessageCache
  /** For all sessions that are not on disk; whoever opens the store again hands it on. */
  readonly #held: HeldMessages
  readonly moves: SessionMoves
  readonly #heldAtMost: number
  #inMemory: MemoryQueueOptions | undefined
  #collecting: Promise<void> | undefined
  #stopped = false

  constructor(
    state: State,
    options: {
      disk: DiskReads
      commits: GroupCommit
      held: HeldMessages
      windowEntries: number
      cacheBytes: number
    },
  ) {
    this.#state = state
    this.#disk = options.disk
    this.#commits = options.commits
    this.#windowEntries = options.windowEntries
    this.#cache = new MessageCache(options.cacheBytes)
    this.#held = options.held
    this.moves = new SessionMoves(state, options)
    this.#heldAtMost = options.cacheBytes
    this.collectGarbage()
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await this.#collecting
  }

  enqueue(
    deliveries: readonly Delivery[],
    options: {
      find: (clientId: string) => Session | undefined
      quotaOf: (deviceId: string) => DeviceQuota
      now: number
    },
    operations: Operation[],
  ): EnqueueAnswer[] {
    const drafts = new Map<Message, Draft>()
    const answers = deliveries.map((delivery): EnqueueAnswer => {
      const session = options.find(delivery.clientId)
      if (session === undefined) return 'noSession'
      const { message } = delivery
      let draft = drafts.get(message)
      if (draft === undefined) {
        const seq = takeNumber(this.#state, operations)
        draft = { message, seq, bytes: messageBytes(message), entries: new Map() }
        drafts.set(message, draft)
      }
      if (draft.entries.has(session)) return 'queued' // one entry, whatever number of filters match (trap T31)
      if (!hasRoom(session, draft.bytes, delivery.limits, options.quotaOf(session.device.id))) {
        this.#makeRoom(session, options.now)
        return 'full'
      }
      if (!session.isOnDisk && (delivery.qos === 2 || !this.#mayHold(session, draft.bytes)))
        this.moves.putOnDisk(session, operations)
      const entry = entryOf(delivery, draft)
      draft.entries.set(session, entry)
      const complete = session.window.size === session.messages
      countEntry(session, entry)
      if (!session.isOnDisk || (session.owner !== undefined && complete && this.#hasWindow(session))) {
        session.window.set(entry.seq, entry)
        session.windowEnd = entry.seq
      }
      return 'queued'
    })
    for (const draft of drafts.values()) this.#put(draft, operations)
    return answers
  }

  /** Whether all of them may have a message of QoS 1 of that size, which is the same, in memory alone. */
  mayHoldFor(receivers: readonly Receiver[], bytes: number, find: (clientId: string) => Session | undefined): boolean {
    return receivers.every(({ clientId }) => {
      const session = find(clientId)
      return session !== undefined && !session.isOnDisk && this.#mayHold(session, bytes)
    })
  }

  /** One message, where `mayHoldFor` says so. */
  enqueueInMemory(
    deliveries: readonly Delivery[],
    options: {
      find: (clientId: string) => Session | undefined
      quotaOf: (deviceId: string) => DeviceQuota
      now: () => number
    },
  ): EnqueueAnswer[] {
    const { message } = deliveries[0]!
    const operations: Operation[] = []
    const draft = { seq: takeNumber(this.#state, operations), bytes: messageBytes(message) }
    let receivers = 0
    const answers = deliveries.map((delivery): EnqueueAnswer => {
      const session = options.find(delivery.clientId)!
      if (!hasRoom(session, draft.bytes, delivery.limits, options.quotaOf(session.device.id))) {
        this.#makeRoom(session, options.now())
        return 'full'
      }
      const entry = entryOf(delivery, draft)
      countEntry(session, entry)
      session.window.set(entry.seq, entry)
      session.windowEnd = entry.seq
      receivers++
      return 'queued'
    })
    if (receivers > 0) this.#held.add(draft.seq, message, { bytes: draft.bytes, receivers })
    void this.#commits.add(operations, { sync: false })
    return answers
  }

  inMemory(session: Session, now: () => number): MemoryQueue {
    this.#inMemory ??= { queues: this, held: this.#held, now }
    return new MemoryQueue(session, this.#inMemory)
  }

  /** @param requireCurrent throws when `session` is not any more what the caller has a right to */
  async read(
    session: Session,
    options: { after: number; limit: number; now: () => number; requireCurrent: () => void },
  ): Promise<Queued[]> {
    for (let stuck = false; ; ) {
      const page = this.pageOfWindow(session, options)
      if (page.length === options.limit || session.window.size === session.messages || stuck) {
        const messages = await this.#messagesOf(page)
        options.requireCurrent()
        // Meanwhile some may have been acknowledged, or their message dropped for its PUBREC.
        return page.flatMap((entry) =>
          session.window.get(entry.seq) === entry ? [queued(session, entry, messages.get(entry.seq))] : [],
        )
      }
      const end = session.windowEnd
      await this.#extendWindow(session, options.limit)
      options.requireCurrent()
      stuck = session.windowEnd === end
    }
  }

  remove(session: Session, entry: Entry, operations: Operation[]): void {
    if (session.isOnDisk) {
      operations.push({ type: 'del', key: keys.entry(session.id, entry.seq) })
      if (!entry.released) this.#dropMessage(entry, operations)
    } else this.#held.release(entry.seq)
    session.window.delete(entry.seq)
    session.removed?.add(entry.seq)
    if (entry.packetId !== undefined) session.inflight.delete(entry.packetId)
    session.messages--
    session.bytes -= entry.bytes
    session.device.messages--
    session.device.bytes -= entry.bytes
  }

  assign(session: Session, entry: Entry, packetId: number, operations: Operation[]): void {
    if (entry.packetId !== undefined) session.inflight.delete(entry.packetId)
    entry.packetId = packetId
    session.inflight.set(packetId, entry)
    if (session.isOnDisk)
      operations.push({ type: 'put', key: keys.entry(session.id, entry.seq), value: encodeEntry(entry) })
  }

  /** Its receiver has the message: what is left is the packet id. */
  markReceived(session: Session, entry: Entry, operations: Operation[]): void {
    if (entry.released) return
    this.#dropMessage(entry, operations)
    session.bytes -= entry.bytes
    session.device.bytes -= entry.bytes
    entry.bytes = 0
    entry.released = true
    operations.push({ type: 'put', key: keys.entry(session.id, entry.seq), value: encodeEntry(entry) })
  }

  /** Nobody reads it for now: it takes no memory. */
  closeWindow(session: Session): void {
    session.window.clear()
    session.windowEnd = 0
  }

  /** The session is forgotten; its queue goes little by little. */
  abandon(session: Session): void {
    session.device.messages -= session.messages
    session.device.bytes -= session.bytes
    this.moves.letGo(session)
    if (!session.isOnDisk) {
      for (const seq of session.window.keys()) this.#held.release(seq)
      return
    }
    if (session.messages > 0) this.#state.garbage.add(session.id)
    this.collectGarbage()
  }

  /** Removes what has expired; a message whose delivery has begun stays. */
  async sweep(session: Session, now: number): Promise<void> {
    await this.#alone(session, async () => {
      if (session.nextExpiry > now || !this.#isLive(session)) return
      session.nextExpiry = Number.POSITIVE_INFINITY
      const visit = (entries: Iterable<Entry>): void => {
        const operations: Operation[] = []
        for (const entry of entries) {
          if (entry.packetId !== undefined) continue
          if (entry.expiresAt <= now) this.remove(session, entry, operations)
          else session.nextExpiry = Math.min(session.nextExpiry, entry.expiresAt)
        }
        void this.#commits.add(operations, { sync: false })
      }
      visit(session.window.values())
      if (!session.isOnDisk) return
      try {
        for (let after: number | undefined = session.windowEnd; after !== undefined && this.#isLive(session); ) {
          after = await this.#readBehind(session, after, pageSize, visit)
        }
      } catch (error) {
        session.nextExpiry = now
        throw error
      }
    })
  }

  collectGarbage(): void {
    if (this.#state.garbage.size === 0 || this.#stopped) return
    this.#collecting ??= this.#collect().then(
      () => {
        this.#collecting = undefined
        this.collectGarbage()
      },
      () => {
        this.#collecting = undefined // the next one tries again
      },
    )
  }

  #makeRoom(session: Session, now: number): void {
    if (session.nextExpiry <= now) void this.sweep(session, now).catch(() => {})
  }

  #hasWindow(session: Session): boolean {
    return session.window.size - session.inflight.size < this.#windowEntries
  }

  #mayHold(session: Session, bytes: number): boolean {
    return session.bytes + bytes <= heldForOneAtMost && this.#held.bytes + bytes <= this.#heldAtMost
  }

  #isLive(session: Session): boolean {
    return !this.#stopped && this.#state.sessions.get(session.clientId) === session
  }

  #put({ message, seq, bytes, entries }: Draft, operations: Operation[]): void {
    if (entries.size === 0) return
    const stored = [...entries].filter(([{ isOnDisk }]) => isOnDisk)
    const receivers = entries.size - stored.length
    if (stored.length === 0) {
      this.#held.add(seq, ownOf(message), { bytes, receivers })
      return
    }
    const value = encodeMessage(message)
    operations.push({ type: 'put', key: keys.message(seq), value, isNew: true })
    const shared = entries.size > 1
    if (shared) this.#state.references.set(seq, stored.length)
    let wanted = receivers > 0
    for (const [session, entry] of stored) {
      entry.shared = shared
      operations.push({ type: 'put', key: keys.entry(session.id, seq), value: encodeEntry(entry), isNew: true })
      wanted ||= session.owner !== undefined
    }
    if (!wanted) return
    const own = ownOf(message)
    if (receivers > 0) this.#held.add(seq, own, { bytes, receivers })
    this.#cache.set(seq, own, value.length)
  }

  #dropMessage(entry: Entry, operations: Operation[]): void {
    if (entry.shared) {
      const left = this.#state.references.get(entry.seq)! - 1
      if (left > 0) {
        this.#state.references.set(entry.seq, left)
        return
      }
      this.#state.references.delete(entry.seq)
    }
    this.#cache.delete(entry.seq)
    operations.push({ type: 'del', key: keys.message(entry.seq) })
  }

  /** Without what has expired, which is removed. */
  pageOfWindow(session: Session, options: { after: number; limit: number; now: () => number }): Entry[] {
    const now = options.now()
    const page: Entry[] = []
    const expired: Operation[] = []
    for (const entry of session.window.values()) {
      if (page.length === options.limit) break
      if (entry.seq <= options.after) continue
      if (entry.packetId === undefined && entry.expiresAt <= now) this.remove(session, entry, expired)
      else page.push(entry)
    }
    void this.#commits.add(expired, { sync: false })
    return page
  }

  async #extendWindow(session: Session, limit: number): Promise<void> {
    await this.#alone(session, async () => {
      const { epoch } = session
      // As much as it may hold: each reading waits for what is being written, and one that is behind would never catch up.
      const entriesAtOnce = Math.max(limit, this.#windowEntries)
      await this.#readBehind(session, session.windowEnd, entriesAtOnce, (entries, last) => {
        // The window was closed meanwhile: the next owner begins at the head of the queue, not behind this page.
        if (session.owner === undefined || session.epoch !== epoch) return
        for (const entry of entries) session.window.set(entry.seq, entry)
        session.windowEnd = Math.max(session.windowEnd, last)
      })
    })
  }

  /** One reading of a queue at a time; `removed` belongs to it. */
  async #alone(session: Session, read: () => Promise<void>): Promise<void> {
    while (session.reading !== undefined) await session.reading
    const { promise, resolve } = Promise.withResolvers<void>()
    session.reading = promise
    try {
      await read()
    } finally {
      session.reading = undefined
      resolve()
    }
  }

  /**
   * A page of what lies behind the window, as it is at the moment of `visit`, which must not wait for anything.
   * @returns where the next page begins, undefined when there is none
   */
  async #readBehind(
    session: Session,
    after: number,
    limit: number,
    visit: (entries: Entry[], last: number) => void,
  ): Promise<number | undefined> {
    // What is removed before this is gone from disk once all is settled, what is removed later is noted.
    const removed = new Set<number>()
    session.removed = removed
    try {
      const key = after === 0 ? '' : keys.entry(session.id, after)
      const page = await this.#disk.page(keys.queue(session.id), key, limit)
      const entries = page.flatMap(([name, value]) => {
        const seq = seqOfEntry(name)
        // Up to its end the window knows better: it grew while this was read.
        if (seq <= session.windowEnd || removed.has(seq)) return []
        const entry = decodeEntry(seq, value)
        const known = entry.packetId === undefined ? undefined : session.inflight.get(entry.packetId)
        return [known?.seq === seq ? known : entry]
      })
      const last = page.length === 0 ? after : seqOfEntry(page.at(-1)![0])
      visit(entries, last)
      return page.length < limit ? undefined : last
    } finally {
      session.removed = undefined
    }
  }

  async #messagesOf(page: readonly Entry[]): Promise<Map<number, Message>> {
    const messages = new Map<number, Message>()
    const missing: Entry[] = []
    for (const entry of page) {
      const message = entry.released ? undefined : (this.#held.get(entry.seq) ?? this.#cache.get(entry.seq))
      if (message !== undefined) messages.set(entry.seq, message)
      else if (!entry.released) missing.push(entry)
    }
    if (missing.length === 0) return messages
    const values = await this.#disk.getMany(missing.map(({ seq }) => keys.message(seq)))
    for (const [at, { seq }] of missing.entries()) {
      const value = values[at]
      if (value === undefined) continue
      // Another receiver may have read it meanwhile: one object for all of them.
      const message = this.#cache.get(seq) ?? decodeMessage(value)
      messages.set(seq, message)
      this.#cache.set(seq, message, value.length)
    }
    return messages
  }

  async #collect(): Promise<void> {
    for (const id of this.#state.garbage) {
      for (;;) {
        const page = await this.#disk.page(keys.queue(id), '', pageSize)
        if (this.#stopped) return
        if (page.length === 0) break
        const operations: Operation[] = []
        for (const [key, value] of page) {
          const entry = decodeEntry(seqOfEntry(key), value)
          operations.push({ type: 'del', key })
          if (!entry.released) this.#dropMessage(entry, operations)
        }
        await this.#commits.add(operations, { sync: false })
      }
      this.#state.garbage.delete(id)
    }
  }
}
