import type { Operation } from '../store.ts'
import type { GroupCommit } from './group-commit.ts'
import type { HeldMessages } from './held-messages.ts'
import { encodeEntry, encodeMessage, keys } from './session-records.ts'
import { noteSession, noteSubscription, type Session, type State } from './session-state.ts'

/** Sessions that were in memory alone on their way to the disk, and back where it does not take them. */
export class SessionMoves {
  readonly #state: State
  readonly #held: HeldMessages
  readonly #commits: GroupCommit

  constructor(state: State, { held, commits }: { held: HeldMessages; commits: GroupCommit }) {
    this.#state = state
    this.#held = held
    this.#commits = commits
  }

  /** Writes down a session that was in memory alone; it is like any other from here on. */
  putOnDisk(session: Session, operations: Operation[]): void {
    const { id, subscriptions, window } = session
    session.isOnDisk = true
    const moving: number[] = []
    operations.push(noteSession(session))
    for (const subscription of subscriptions.values()) operations.push(noteSubscription(id, subscription))
    for (const entry of window.values()) {
      const message = this.#held.get(entry.seq)
      if (message === undefined) continue // it is being enqueued, and written with what comes with it
      const { seq } = entry
      const references = this.#state.references.get(seq) ?? 0
      if (references === 0) operations.push({ type: 'put', key: keys.message(seq), value: encodeMessage(message) })
      this.#state.references.set(seq, references + 1)
      entry.shared = true
      operations.push({ type: 'put', key: keys.entry(id, seq), value: encodeEntry(entry) })
      moving.push(seq)
    }
    session.moving = moving
    // The caller hands the operations over before it waits for anything.
    queueMicrotask(() => {
      const confirmed = (): void => {
        if (session.moving === moving) this.letGo(session)
      }
      this.#commits.settled().then(confirmed, () => {})
    })
  }

  /** What was written down is not held any more. */
  letGo(session: Session): void {
    for (const seq of session.moving ?? []) this.#held.release(seq)
    session.moving = undefined
  }

  /** As it was before it was written down, but for what has left since: that write has failed. */
  takeBack(session: Session): Session {
    const window = new Map(
      (session.moving ?? []).flatMap((seq) => {
        const entry = session.window.get(seq)
        if (entry === undefined) this.#held.release(seq)
        return entry === undefined ? [] : [[seq, entry]]
      }),
    )
    const entries = [...window.values()]
    return {
      ...session,
      ...{ isOnDisk: false, moving: undefined, incoming: new Set<number>(), window, messages: window.size },
      bytes: entries.reduce((sum, { bytes }) => sum + bytes, 0),
      windowEnd: entries.at(-1)?.seq ?? 0,
      inflight: new Map(entries.flatMap((entry) => (entry.packetId === undefined ? [] : [[entry.packetId, entry]]))),
    }
  }
}
