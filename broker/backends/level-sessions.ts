import { FleetError } from '../../runtime/errors.ts'
import type { Area, Operation } from '../store.ts'
import { DiskReads } from './disk-reads.ts'
import { GroupCommit } from './group-commit.ts'
import { HeldMessages } from './held-messages.ts'
import { noteIncoming } from './incoming-packets.ts'
import { RetainedStore } from './level-retained.ts'
import { changeSubscriptions } from './level-subscriptions.ts'
import { WillStore } from './level-wills.ts'
import { carryOver, findDisplaced, forgetSession } from './session-ends.ts'
import { SessionQueues } from './session-queues.ts'
import { type Entry, keys } from './session-records.ts'
import {
  countsOf,
  createSession,
  endConnection,
  endConnections,
  loadState,
  noteSession,
  type Session,
  type State,
  takeNumber,
  useAgain,
} from './session-state.ts'
import {
  type Claim,
  type Counts,
  type Delivery,
  type DeviceQuota,
  type Due,
  deviceOf,
  type EnqueueAnswer,
  type Message,
  type Queued,
  type QueueInMemory,
  type Receiver,
  type SessionStore,
  type StoredSubscription,
  type Will,
} from './session-store.ts'

export type LevelSessionsOptions = {
  area: Area
  clock: () => Date
  quotaOf: (deviceId: string) => DeviceQuota
  /** After which a call is answered with `unavailable` or `outcome_unknown`. */
  deadlineMs?: number
  /** Places of a queue that are kept in memory for a session with an owner, beside those on their way. */
  windowEntries?: number
  /** Messages that are kept in memory, those on their way first of all. */
  cacheBytes?: number
}

const dueAtMost = 1_000
const sweptAtMost = 100

/**
 * Sessions in the broker's own folder. What is asked often is in memory (who owns what, subscriptions, heads of queues,
 * counters) and read from disk once, at opening. Everything is decided in memory, in the order of the calls, and written
 * in that order in groups. When a write fails the folder is opened again and memory is made anew from what is there.
 */
export class LevelSessions implements SessionStore {
  readonly #area: Area
  readonly #now: () => number
  readonly #quotaOf: (deviceId: string) => DeviceQuota
  readonly #memory: { windowEntries: number; cacheBytes: number }
  readonly #commits: GroupCommit
  readonly #disk: DiskReads
  readonly #held = new HeldMessages()
  #state!: State
  #queues!: SessionQueues
  #retained!: RetainedStore
  #wills!: WillStore
  /** Epochs of claims that their callers were not given, by client id: nobody will release them. */
  readonly #unclaimed = new Map<string, number>()
  #broken = false
  #recovering: Promise<void> | undefined
  #closed = false

  private constructor(options: LevelSessionsOptions) {
    const { area, clock, quotaOf, deadlineMs = 5_000, windowEntries = 256, cacheBytes = 32 * 1024 * 1024 } = options
    this.#area = area
    this.#now = () => clock().getTime()
    this.#quotaOf = quotaOf
    this.#memory = { windowEntries, cacheBytes }
    this.#commits = new GroupCommit(area, deadlineMs, () => {
      this.#broken = true
      this.#recover()
    })
    this.#disk = new DiskReads(area, this.#commits, deadlineMs)
  }

  /** @throws FleetError `data_damaged` */
  static async open(options: LevelSessionsOptions): Promise<LevelSessions> {
    const store = new LevelSessions(options)
    const state = await loadState(options.area)
    const ended = endConnections(state, store.#now())
    if (ended.length > 0) await options.area.write(ended, { sync: true })
    store.#begin(state)
    return store
  }

  get counts(): Counts {
    return countsOf(this.#state)
  }

  async claim(clientId: string, broker: string, options: { keepMs: number; clean?: boolean }): Promise<Claim> {
    const state = this.#ready()
    const before = state.sessions.get(clientId)
    // One that is not on disk has ended with its connection, whoever was left to say so.
    const present = before?.isOnDisk === true && options.clean !== true && !this.#hasEnded(before)
    const displaced = before === undefined ? findDisplaced(state, deviceOf(clientId), this.#quotaOf) : undefined
    const formerOwner = before?.owner
    const isWillLeft = [before, displaced].some((one) => one !== undefined && this.#wills.has(one.clientId, one.epoch))

    const operations: Operation[] = []
    const epoch = takeNumber(state, operations)
    if (displaced !== undefined) forgetSession(this.#parts, displaced, operations)
    if (before !== undefined && !present) forgetSession(this.#parts, before, operations)
    let session: Session
    if (present) {
      this.#wills.settle(before, operations)
      session = Object.assign(before, {
        epoch,
        owner: broker,
        keepMs: options.keepMs,
        keepUntil: Number.POSITIVE_INFINITY,
      })
    } else {
      const id = takeNumber(state, operations)
      session = createSession(state, { id, clientId, epoch, owner: broker, keepMs: options.keepMs })
    }
    useAgain(session)
    if (session.isOnDisk) operations.push(noteSession(session))
    // After a power cut it has to be known that what waits may have gone out.
    await this.#commits.add(operations, { sync: session.messages > 0 }).catch((error) => {
      this.#unclaimed.set(clientId, epoch)
      throw error
    })
    return {
      epoch,
      present,
      isWillLeft,
      ...(formerOwner === undefined ? {} : { formerOwner }),
      ...(displaced === undefined ? {} : { displaced: displaced.clientId }),
    }
  }

  async release(
    clientId: string,
    epoch: number,
    keepUntil: number | 'forget',
    { dropsWill = false }: { dropsWill?: boolean } = {},
  ): Promise<void> {
    const operations: Operation[] = []
    if (this.#ready().sessions.get(clientId)?.epoch !== epoch && this.#wills.has(clientId, epoch)) {
      // What it is of went in memory, and the disk did not take the end of its will.
      if (dropsWill) this.#wills.drop(epoch, operations)
      else this.#wills.endSession(epoch, operations)
      await this.#commits.add(operations, { sync: false })
      return
    }
    const session = keepUntil === 'forget' ? this.#findSession(clientId, epoch) : this.#requireOwned(clientId, epoch)
    if (dropsWill) this.#wills.drop(epoch, operations)
    if (keepUntil === 'forget' || !session.isOnDisk) forgetSession(this.#parts, session, operations)
    else {
      session.owner = undefined
      session.keepUntil = keepUntil
      useAgain(session)
      this.#queues.closeWindow(session)
      operations.push(noteSession(session))
      this.#wills.end(epoch, operations)
    }
    await this.#commits.add(operations, { sync: false })
  }

  async *sessions(): AsyncGenerator<{ clientId: string; subscriptions: StoredSubscription[] }> {
    for (const session of this.#ready().sessions.values()) {
      if (this.#hasEnded(session)) continue
      yield { clientId: session.clientId, subscriptions: [...session.subscriptions.values()] }
    }
  }

  async subscriptions(clientId: string): Promise<StoredSubscription[]> {
    this.#ready()
    return [...(this.#findLive(clientId)?.subscriptions.values() ?? [])]
  }

  async changeSubscriptions(
    clientId: string,
    epoch: number,
    add: readonly StoredSubscription[],
    remove: readonly string[],
  ): Promise<{ existed: Set<string> }> {
    const session = this.#requireOwned(clientId, epoch)
    const operations: Operation[] = []
    const quota = this.#quotaOf(session.device.id)
    const existed = changeSubscriptions(session, { add, remove, quota }, operations)
    await this.#commits.add(operations, { sync: outlivesConnection(session) })
    return { existed }
  }

  async enqueue(
    deliveries: readonly Delivery[],
    incoming?: { clientId: string; epoch: number; packetId: number },
  ): Promise<EnqueueAnswer[]> {
    this.#ready()
    const operations: Operation[] = []
    if (incoming !== undefined) {
      const publisher = this.#requireOwned(incoming.clientId, incoming.epoch)
      if (!noteIncoming(publisher, incoming.packetId, this.#queues, operations)) {
        await this.#commits.settled()
        return deliveries.map(() => 'queued')
      }
    }
    let sync = incoming !== undefined
    const find = (clientId: string): Session | undefined => {
      const session = this.#findLive(clientId)
      sync ||= session !== undefined && outlivesConnection(session)
      return session
    }
    const answers = this.#queues.enqueue(deliveries, { find, quotaOf: this.#quotaOf, now: this.#now() }, operations)
    if (operations.length > 0) await this.#commits.add(operations, { sync })
    return answers
  }

  mayEnqueueAtOnce = (receivers: readonly Receiver[], bytes: number): boolean =>
    !this.#broken && !this.#closed && this.#queues.mayHoldFor(receivers, bytes, this.#findLive)

  enqueueAtOnce(deliveries: readonly Delivery[]): EnqueueAnswer[] {
    return this.#queues.enqueueInMemory(deliveries, { find: this.#findLive, quotaOf: this.#quotaOf, now: this.#now })
  }

  findQueueInMemory(clientId: string, epoch: number): QueueInMemory | undefined {
    const session = this.#broken || this.#closed ? undefined : this.#findLive(clientId)
    if (session?.epoch !== epoch || session.owner === undefined || session.isOnDisk) return undefined
    return this.#queues.inMemory(session, this.#now)
  }

  async readQueue(clientId: string, epoch: number, after: number, limit: number): Promise<Queued[]> {
    const session = this.#requireOwned(clientId, epoch)
    const requireCurrent = (): void => {
      if (this.#requireOwned(clientId, epoch) !== session) throw notNow()
    }
    return this.#queues.read(session, { after, limit, now: this.#now, requireCurrent })
  }

  async assignPacketId(clientId: string, epoch: number, seq: number, packetId: number): Promise<boolean> {
    const session = this.#requireOwned(clientId, epoch)
    const entry = session.window.get(seq)
    if (entry === undefined) return false
    const other = session.inflight.get(packetId)
    if (other !== undefined && other !== entry) {
      throw new FleetError('conflict', `packet id ${packetId} of ${clientId} is in use`)
    }
    const operations: Operation[] = []
    this.#queues.assign(session, entry, packetId, operations)
    await this.#commits.add(operations, { sync: entry.qos === 2 })
    return true
  }

  async markReceived(clientId: string, epoch: number, packetId: number): Promise<boolean> {
    const session = this.#requireOwned(clientId, epoch)
    const entry = session.inflight.get(packetId)
    if (entry?.qos !== 2) return false
    const operations: Operation[] = []
    this.#queues.markReceived(session, entry, operations)
    await this.#commits.add(operations, { sync: true })
    return true
  }

  async ack(clientId: string, epoch: number, packetIds: readonly number[]): Promise<void> {
    const session = this.#requireOwned(clientId, epoch)
    await this.#removeAll(session, (packetId) => session.inflight.get(packetId), packetIds)
  }

  async discard(clientId: string, epoch: number, seqs: readonly number[]): Promise<void> {
    const session = this.#requireOwned(clientId, epoch)
    await this.#removeAll(session, (seq) => session.window.get(seq), seqs)
  }

  async incoming(clientId: string, epoch: number, packetId: number, action: 'put' | 'take' | 'has'): Promise<boolean> {
    const session = this.#requireOwned(clientId, epoch)
    const known = session.incoming.has(packetId)
    const operations: Operation[] = []
    if (action === 'put') noteIncoming(session, packetId, this.#queues, operations)
    if (action === 'take' && session.incoming.delete(packetId))
      operations.push({ type: 'del', key: keys.incoming(session.id, packetId) })
    await this.#commits.add(operations, { sync: session.isOnDisk })
    return action === 'put' ? !known : known
  }

  async putWill(clientId: string, epoch: number, will: Will): Promise<void> {
    this.#requireOwned(clientId, epoch)
    const operations: Operation[] = []
    this.#wills.put(clientId, epoch, will, operations)
    await this.#commits.add(operations, { sync: true })
  }

  async takeWill(clientId: string, epoch: number): Promise<Will | undefined> {
    this.#ready()
    const wills = this.#wills
    if (!wills.has(clientId, epoch)) {
      this.#findSession(clientId, epoch)
      return undefined
    }
    const will = await wills.read(epoch)
    this.#ready()
    if (this.#wills !== wills) throw notNow()
    if (!wills.has(clientId, epoch)) return undefined
    const operations: Operation[] = []
    wills.drop(epoch, operations)
    await this.#commits.add(operations, { sync: false })
    return will
  }

  async retain(topic: string, message: Message | null): Promise<'stored' | 'full'> {
    this.#ready()
    const operations: Operation[] = []
    if (!this.#retained.change(topic, message, operations)) return 'full'
    await this.#commits.add(operations, { sync: message?.qos !== 0 })
    return 'stored'
  }

  async *retained(filters: readonly string[]): AsyncGenerator<Message> {
    this.#ready()
    yield* this.#retained.find(filters)
  }

  queuedBytes = (clientId: string): number => this.#state.sessions.get(clientId)?.bytes ?? 0
  retainedBy = async (deviceId: string): Promise<string[]> => this.#ready() && this.#retained.ofDevice(deviceId)

  async deadlines(before: number): Promise<{ sessions: Due[]; wills: (Due & Will)[]; retained: string[] }> {
    const state = this.#ready()
    this.#endUnclaimed()
    const [sessions, toSweep]: [Due[], Session[]] = [[], []]
    for (const session of state.sessions.values()) {
      if (this.#hasEnded(session, before)) sessions.push({ clientId: session.clientId, epoch: session.epoch })
      else if (session.nextExpiry <= before) toSweep.push(session)
      if (sessions.length === dueAtMost) break
    }
    const wills = await this.#wills.due(before)
    for (const session of toSweep.slice(0, sweptAtMost)) await this.#queues.sweep(session, before)
    const operations: Operation[] = []
    this.#retained.sweep(before, operations)
    void this.#commits.add(operations, { sync: false })
    return { sessions, wills, retained: this.#retained.takeSwept() }
  }

  /** As if their connections had died with the broker. */
  #endUnclaimed(): void {
    const operations: Operation[] = []
    for (const [clientId, epoch] of this.#unclaimed) {
      const session = this.#state.sessions.get(clientId)
      if (session?.epoch === epoch && session.owner !== undefined) endConnection(session, this.#now(), operations)
    }
    this.#unclaimed.clear()
    void this.#commits.add(operations, { sync: false })
  }

  async dropDevice(deviceId: string): Promise<string[]> {
    const { devices, sessions } = this.#ready()
    const [clientIds, operations]: [string[], Operation[]] = [[...(devices.get(deviceId)?.sessions ?? [])], []]
    for (const clientId of clientIds) forgetSession(this.#parts, sessions.get(clientId)!, operations)
    this.#wills.dropDevice(deviceId, operations)
    await this.#commits.add(operations, { sync: true })
    return clientIds
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true
    await this.#recovering
    await this.#queues.stop()
    await this.#commits.close()
  }

  #begin(state: State): void {
    const disk = this.#disk
    this.#state = state
    this.#queues = new SessionQueues(state, { disk, commits: this.#commits, held: this.#held, ...this.#memory })
    this.#wills = new WillStore(state, { disk, now: this.#now })
    this.#retained = new RetainedStore(state, { disk, quotaOf: this.#quotaOf, now: this.#now })
  }

  /** What memory says is not sure any more: from here on only the disk counts. */
  #recover(): void {
    this.#recovering ??= (async () => {
      try {
        await this.#queues.stop()
        await this.#area.reopen()
        const before = this.#state
        this.#begin(await loadState(this.#area))
        void this.#commits.add(carryOver(this.#parts, before), { sync: false })
        this.#broken = false
      } catch {
        // The next call tries again.
      } finally {
        this.#recovering = undefined
      }
    })()
  }

  get #parts() {
    return { state: this.#state, queues: this.#queues, wills: this.#wills }
  }

  #ready(): State {
    if (this.#broken && !this.#closed) this.#recover()
    if (this.#broken || this.#closed) throw notNow()
    this.#commits.requireRoom()
    return this.#state
  }

  #hasEnded(session: Session, at?: number): boolean {
    return session.owner === undefined && session.keepUntil <= (at ?? this.#now())
  }

  readonly #findLive = (clientId: string): Session | undefined => {
    const session = this.#state.sessions.get(clientId)
    return session === undefined || this.#hasEnded(session) ? undefined : session
  }

  #findSession(clientId: string, epoch: number): Session {
    const session = this.#ready().sessions.get(clientId)
    if (session?.epoch === epoch) return session
    throw new FleetError('session_taken_over', `epoch ${epoch} of ${clientId} is over`)
  }

  #requireOwned(clientId: string, epoch: number): Session {
    const session = this.#findSession(clientId, epoch)
    if (session.owner !== undefined) return session
    throw new FleetError('session_taken_over', `epoch ${epoch} of ${clientId} is released`)
  }

  async #removeAll(session: Session, find: (id: number) => Entry | undefined, ids: readonly number[]): Promise<void> {
    const operations: Operation[] = []
    for (const id of ids) {
      const entry = find(id)
      if (entry !== undefined) this.#queues.remove(session, entry, operations)
    }
    await this.#commits.add(operations, { sync: false })
  }
}

/** What a session that ends with its connection has is promised to nobody who could find it gone. */
const outlivesConnection = ({ keepMs }: Session): boolean => keepMs > 0

const notNow = (): FleetError => new FleetError('unavailable', 'the session store cannot be used now')
