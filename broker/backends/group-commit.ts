import { FleetError } from '../../runtime/errors.ts'
import type { Area, Operation } from '../store.ts'

type Group = {
  /** By key: of several on one the last counts, as LevelDB has it. */
  readonly operations: Map<string, Operation>
  /** It is being written, and takes no more. */
  closed: boolean
  bytes: number
  sync: boolean
  outcome: PromiseWithResolvers<void>
  timer: NodeJS.Timeout
}

// A batch is put together in one go, while nothing else runs.
const groupAtMost = 2_000
const backlogAtMost = 100_000
const backlogBytesAtMost = 64 * 1024 * 1024

/**
 * Writes in the order of the calls. While one group is being written the next one gathers, so that many callers share one
 * flush; a group is flushed when any of it asks for that.
 */
export class GroupCommit {
  readonly #area: Pick<Area, 'write'>
  readonly #deadlineMs: number
  readonly #onFailure: () => void
  readonly #groups: Group[] = []
  #draining: Promise<void> | undefined
  #backlog = 0
  #backlogBytes = 0

  /** @param onFailure a group was not written, as far as is known, nor is any behind it */
  constructor(area: Pick<Area, 'write'>, deadlineMs: number, onFailure: () => void) {
    this.#area = area
    this.#deadlineMs = deadlineMs
    this.#onFailure = onFailure
  }

  /** @throws FleetError `unavailable`; to be asked before anything is decided */
  requireRoom(): void {
    if (this.#backlog < backlogAtMost && this.#backlogBytes < backlogBytesAtMost) return
    throw new FleetError('unavailable', `${this.#backlog} changes of sessions are waiting to be written`)
  }

  /** @throws FleetError `outcome_unknown` (later) when it is not confirmed within the deadline */
  add(operations: readonly Operation[], options: { sync: boolean }): Promise<void> {
    // Nothing to write is an answer that rests on what was decided before it.
    if (operations.length === 0) return options.sync ? this.settled() : nothing
    const group = this.#open()
    const { bytes } = group
    const { size } = group.operations
    for (const operation of operations) {
      const before = group.operations.get(operation.key)
      group.bytes += merge(group.operations, operation, before) - (before === undefined ? 0 : sizeOf(before))
    }
    this.#backlogBytes += group.bytes - bytes
    this.#backlog += group.operations.size - size
    group.sync ||= options.sync
    this.#draining ??= this.#drain()
    return group.outcome.promise
  }

  /** Resolves when all that was added by now is written. */
  async settled(): Promise<void> {
    await Promise.all(this.#groups.map((group) => group.outcome.promise))
  }

  async close(): Promise<void> {
    await this.#draining
  }

  #open(): Group {
    const last = this.#groups.at(-1)
    if (last !== undefined && !last.closed && last.operations.size < groupAtMost) return last
    const outcome = Promise.withResolvers<void>()
    // Callers may leave a note of little weight unawaited; they learn of a failure by the next call.
    outcome.promise.catch(() => {})
    const timer = setTimeout(() => outcome.reject(unknown()), this.#deadlineMs)
    const group: Group = { operations: new Map(), closed: false, bytes: 0, sync: false, outcome, timer }
    this.#groups.push(group)
    return group
  }

  async #drain(): Promise<void> {
    // What the running code still has to say comes along.
    await undefined
    for (let group = this.#groups[0]; group !== undefined; group = this.#groups[0]) {
      group.closed = true
      try {
        await this.#area.write([...group.operations.values()], { sync: group.sync })
      } catch (cause) {
        for (const lost of this.#groups) this.#end(lost).reject(unknown(cause))
        this.#groups.length = 0
        this.#onFailure()
        break
      }
      this.#end(group).resolve()
      this.#groups.shift()
    }
    this.#draining = undefined
  }

  #end(group: Group): PromiseWithResolvers<void> {
    clearTimeout(group.timer)
    this.#backlog -= group.operations.size
    this.#backlogBytes -= group.bytes
    return group.outcome
  }
}

const nothing = Promise.resolve()

/** What came and went while the group before was being written has never been there. @returns octets that are to be written of it */
function merge(operations: Map<string, Operation>, operation: Operation, before: Operation | undefined): number {
  const isNew = before?.type === 'put' && before.isNew === true
  if (isNew && operation.type === 'del') {
    operations.delete(operation.key)
    return 0
  }
  operations.set(operation.key, isNew && operation.type === 'put' ? { ...operation, isNew } : operation)
  return sizeOf(operation)
}

const sizeOf = (operation: Operation): number =>
  operation.key.length + (operation.type === 'put' ? operation.value.length : 0)

const unknown = (cause?: unknown): FleetError =>
  new FleetError('outcome_unknown', 'the session store did not confirm the change', { cause })
