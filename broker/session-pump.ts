import type { Message, Queued, SessionStore } from './backends/session-store.ts'
import type { Link } from './wire/link.ts'
import { reason } from './wire/reason.ts'

type PumpOptions = {
  store: SessionStore
  link: Link
  clientId: string
  epoch: number
  /** Messages that may be under way to the client. */
  window: number
  mayDeliver(message: Message): boolean
  /** The connection has ended, if only a moment ago: what may not be delivered now is for the next one. */
  isGone(): boolean
  /** The store does not answer as it should: the connection has to end. */
  onFailed(error: unknown): void
}

const pageSize = 32

/**
 * Brings the stored queue of a session to its client, in order: what went out on an earlier connection first, with the
 * packet identifier that it had [MQTT-4.4.0-1] [MQTT-4.6.0-1].
 */
export class SessionPump {
  readonly #options: PumpOptions
  /** Packet identifiers under way. */
  #used: Set<number> | undefined
  #lastId = 0
  #after = 0
  #running = false
  #again = false
  #stopped = false
  #waiting: (() => void)[] = []
  #idle: (() => void)[] = []

  constructor(options: PumpOptions) {
    this.#options = options
  }

  /** The queue may have grown. */
  wake(): void {
    this.#again = true
    this.room()
    // Behind a full window nothing goes out before an acknowledgement, which wakes as well.
    if (this.#running || this.#stopped || this.#free <= 0) return
    this.#running = true
    // Behind the messages and acknowledgements that came with this one: they are done together.
    queueMicrotask(() => {
      this.#again = false
      if (this.#sendFromMemory()) this.#ended()
      else
        this.#run().then(
          () => this.#ended(),
          (error) => this.#failed(error),
        )
    })
  }

  /** The link takes messages again. */
  room(): void {
    if (this.#waiting.length > 0) for (const resolve of this.#waiting.splice(0)) resolve()
  }

  stop(): void {
    this.#stopped = true
    this.room()
    this.#rest()
  }

  /** Resolves when everything that was queued has gone out, as far as the window lets it, or the pump has stopped. */
  async untilIdle(): Promise<void> {
    if (this.#running && !this.#stopped) await new Promise<void>((resolve) => this.#idle.push(resolve))
  }

  /**
   * Resolves when everything that was queued has gone out and the window lets more through, or the pump has stopped.
   *
   * @param mostBytes of what is not acknowledged
   */
  async untilRoom(mostBytes: number): Promise<void> {
    const { store, clientId } = this.#options
    const isHeavy = (): boolean => this.#free < this.#options.window && store.queuedBytes(clientId) > mostBytes
    while (!this.#stopped && (this.#running || this.#free <= 0 || isHeavy()))
      await new Promise<void>((resolve) => this.#idle.push(resolve))
  }

  /** PUBACK, PUBCOMP, or a PUBREC that refuses. */
  acknowledged(packetId: number): void {
    const { store, clientId, epoch } = this.#options
    const queue = store.findQueueInMemory(clientId, epoch)
    // In this turn: the store takes effect in the order of the calls, so the identifier is free there too.
    if (queue === undefined) this.#watch(store.ack(clientId, epoch, [packetId]))
    else queue.ack(packetId)
    this.#used?.delete(packetId)
    this.wake()
  }

  /** PUBREC: PUBREL goes out [MQTT-4.3.3-4] once it is stored that the message must not [MQTT-4.3.3-6]. */
  received(packetId: number): void {
    const { store, link, clientId, epoch } = this.#options
    this.#watch(
      store.markReceived(clientId, epoch, packetId).then(() => {
        link.send({ type: 'pubrel', packetId, reason: reason.success })
      }),
    )
  }

  #watch(done: Promise<unknown>): void {
    done.catch((error) => {
      if (!this.#stopped) this.#options.onFailed(error)
    })
  }

  #failed(error: unknown): void {
    this.#running = false
    if (!this.#stopped) this.#options.onFailed(error)
    this.#rest()
  }

  #ended(): void {
    this.#running = false
    // Between its last look and this turn something may have come.
    if (this.#again && !this.#stopped) this.wake()
    else this.#rest()
  }

  #rest(): void {
    for (const resolve of this.#idle.splice(0)) resolve()
  }

  /**
   * The queue of a session that is in memory alone, as far as the window lets it and the link takes it.
   *
   * @returns false where the rest has to go the general way
   */
  #sendFromMemory(): boolean {
    const { store, link, clientId, epoch, mayDeliver } = this.#options
    try {
      while (!this.#stopped) {
        const queue = store.findQueueInMemory(clientId, epoch)
        if (queue === undefined) return false
        const free = this.#free
        const page = free > 0 ? queue.read(this.#after, Math.min(free, pageSize)) : []
        if (page.length === 0) return true
        for (const entry of page) {
          // Below: what went out on an earlier connection.
          if (entry.state !== 'publish' || entry.packetId !== undefined) return false
          const { message, qos, retain, identifiers, seq, dup } = entry
          const packetId = this.#nextId()
          const isAllowed = mayDeliver(message)
          const delivered = isAllowed ? link.deliver(message, { qos, retain, identifiers, packetId, dup }) : 'dropped'
          if (delivered === 'waiting') {
            this.#used?.delete(packetId)
            return false
          }
          this.#after = seq
          if (delivered === 'sent') queue.sent(seq, packetId)
          else {
            this.#used?.delete(packetId)
            queue.discard(seq)
          }
        }
      }
    } catch (error) {
      this.#failed(error)
    }
    return true
  }

  async #run(): Promise<void> {
    const { store, clientId, epoch } = this.#options
    while (!this.#stopped) {
      this.#again = false
      const free = this.#free
      const page = free > 0 ? await store.readQueue(clientId, epoch, this.#after, Math.min(free, pageSize)) : []
      if (page.length > 0) await this.#send(page)
      else if (!this.#again) return
    }
  }

  async #send(page: readonly Queued[]): Promise<void> {
    const { store, clientId, epoch } = this.#options
    const assigned = page.map((entry) => {
      if (entry.state === 'publish' && entry.packetId === undefined) {
        return this.#options.mayDeliver(entry.message) ? this.#nextId() : undefined
      }
      this.#use(entry.packetId!)
      return entry.packetId
    })
    const notes = page.map((entry, at) => {
      const packetId = assigned[at]
      if (packetId === undefined || entry.packetId !== undefined) return undefined
      const noted = store.assignPacketId(clientId, epoch, entry.seq, packetId)
      // A QoS 1 message need not wait for the note: sent again without it, it is a message that came twice.
      if (entry.qos === 2) return noted
      this.#watch(noted)
      return undefined
    })
    const isThere = await Promise.all(notes)
    for (const [at, entry] of page.entries()) {
      if (this.#stopped) return
      this.#after = entry.seq
      if (isThere[at] === false) this.#used?.delete(assigned[at]!)
      else await this.#sendOne(entry, assigned[at])
    }
  }

  async #sendOne(entry: Queued, packetId: number | undefined): Promise<void> {
    const { store, link, clientId, epoch, mayDeliver, isGone } = this.#options
    if (entry.state === 'pubrel') {
      link.send({ type: 'pubrel', packetId: entry.packetId, reason: reason.success })
      return
    }
    const { message, qos, retain, identifiers, seq, dup } = entry
    while (packetId !== undefined && !this.#stopped) {
      if (!mayDeliver(message)) break
      const delivered = link.deliver(message, { qos, retain, identifiers, packetId, dup })
      if (delivered === 'sent') return
      if (delivered === 'dropped') break
      await new Promise<void>((resolve) => this.#waiting.push(resolve))
    }
    if (this.#stopped || isGone()) return
    if (packetId !== undefined) this.#used?.delete(packetId)
    this.#watch(store.discard(clientId, epoch, [seq]))
  }

  /** Messages that may still go out. */
  get #free(): number {
    return this.#options.window - (this.#used?.size ?? 0)
  }

  #nextId(): number {
    do this.#lastId = this.#lastId === 0xffff ? 1 : this.#lastId + 1
    while (this.#used?.has(this.#lastId))
    this.#use(this.#lastId)
    return this.#lastId
  }

  #use(packetId: number): void {
    this.#used ??= new Set()
    this.#used.add(packetId)
  }
}
