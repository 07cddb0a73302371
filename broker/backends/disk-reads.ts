import { FleetError, isFleetError } from '../../runtime/errors.ts'
import type { Area } from '../store.ts'
import type { GroupCommit } from './group-commit.ts'

// More at a time are not faster, and would keep each other waiting.
const atATime = 16
const waitingAtMost = 20_000

/**
 * Reads what was decided by now, written or not: each read waits for the writes before it. When all clients come back at
 * once they take turns, and the deadline is for the disk, not for the turn; a disk that is silent refuses those who wait too.
 */
export class DiskReads {
  readonly #area: Pick<Area, 'getMany' | 'page'>
  readonly #commits: GroupCommit
  readonly #deadlineMs: number
  #waiting: PromiseWithResolvers<void>[] = []
  #running = 0

  constructor(area: Pick<Area, 'getMany' | 'page'>, commits: GroupCommit, deadlineMs: number) {
    this.#area = area
    this.#commits = commits
    this.#deadlineMs = deadlineMs
  }

  /** @throws FleetError `unavailable` */
  getMany(keys: string[]): Promise<(Buffer | undefined)[]> {
    return this.#inTurn(() => this.#area.getMany(keys))
  }

  /** @throws FleetError `unavailable` */
  page(prefix: string, after: string, limit: number): Promise<[key: string, value: Buffer][]> {
    return this.#inTurn(() => this.#area.page(prefix, after, limit))
  }

  async #inTurn<T>(read: () => Promise<T>): Promise<T> {
    if (this.#running < atATime) this.#running++
    else await this.#turn()
    try {
      return await this.#withinDeadline(this.#commits.settled().then(read))
    } catch (cause) {
      throw isFleetError(cause, 'unavailable') ? cause : notReadable(cause)
    } finally {
      // A turn passes on as it is.
      const next = this.#waiting.shift()
      if (next === undefined) this.#running--
      else next.resolve()
    }
  }

  #turn(): Promise<void> {
    if (this.#waiting.length >= waitingAtMost) throw notReadable(new Error(`${waitingAtMost} reads are waiting`))
    const turn = Promise.withResolvers<void>()
    this.#waiting.push(turn)
    return turn.promise
  }

  async #withinDeadline<T>(reading: Promise<T>): Promise<T> {
    const late = Promise.withResolvers<never>()
    const timer = setTimeout(() => {
      const error = notReadable(new Error(`no answer in ${this.#deadlineMs} ms`))
      late.reject(error)
      for (const { reject } of this.#waiting.splice(0)) reject(error)
    }, this.#deadlineMs)
    try {
      return await Promise.race([reading, late.promise])
    } finally {
      clearTimeout(timer)
    }
  }
}

const notReadable = (cause: unknown): FleetError =>
  new FleetError('unavailable', 'the session store cannot be read now', { cause })
