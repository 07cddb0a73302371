import type { Operation } from '../store.ts'
import type { HeldMessages } from './held-messages.ts'
import { queued } from './queue-entries.ts'
import type { SessionQueues } from './session-queues.ts'
import type { Entry } from './session-records.ts'
import type { Session } from './session-state.ts'
import type { Queued, QueueInMemory } from './session-store.ts'

export type MemoryQueueOptions = { queues: SessionQueues; held: HeldMessages; now: () => number }

/** Changes of a session that is not on disk make no operations. */
const none: Operation[] = []

export class MemoryQueue implements QueueInMemory {
  readonly #session: Session
  readonly #options: MemoryQueueOptions

  constructor(session: Session, options: MemoryQueueOptions) {
    this.#session = session
    this.#options = options
  }

  read(after: number, limit: number): Queued[] {
    const { queues, held, now } = this.#options
    const page = queues.pageOfWindow(this.#session, { after, limit, now })
    return page.map((entry) => queued(this.#session, entry, held.get(entry.seq)))
  }

  sent(seq: number, packetId: number): void {
    const entry = this.#session.window.get(seq)
    if (entry !== undefined) this.#options.queues.assign(this.#session, entry, packetId, none)
  }

  ack(packetId: number): void {
    this.#remove(this.#session.inflight.get(packetId))
  }

  discard(seq: number): void {
    this.#remove(this.#session.window.get(seq))
  }

  #remove(entry: Entry | undefined): void {
    if (entry !== undefined) this.#options.queues.remove(this.#session, entry, none)
  }
}
