import type { Operation } from '../store.ts'
import type { DiskReads } from './disk-reads.ts'
import { decodeMessage, encodeMessage, keys, type WillNote } from './session-records.ts'
import { endOf, noteWill, type Session, type State } from './session-state.ts'
import { type Due, deviceOf, type Will } from './session-store.ts'

const dueAtMost = 1_000

/** Wills by the epoch of the connection that left them: when they are due in memory, their messages on disk. */
export class WillStore {
  readonly #state: State
  readonly #disk: DiskReads
  readonly #now: () => number

  constructor(state: State, options: { disk: DiskReads; now: () => number }) {
    this.#state = state
    this.#disk = options.disk
    this.#now = options.now
  }

  has(clientId: string, epoch: number): boolean {
    return this.#state.wills.get(epoch)?.clientId === clientId
  }

  put(clientId: string, epoch: number, { message, delayMs, certificate }: Will, operations: Operation[]): void {
    const will: WillNote = { clientId, epoch, delayMs, dueAt: Number.POSITIVE_INFINITY }
    this.#state.wills.set(epoch, will)
    operations.push(noteWill(will), { type: 'put', key: keys.willMessage(epoch), value: encodeMessage(message) })
    const key = keys.willCertificate(epoch)
    operations.push(certificate === undefined ? { type: 'del', key } : { type: 'put', key, value: certificate })
  }

  async read(epoch: number): Promise<Will | undefined> {
    const will = this.#state.wills.get(epoch)
    return will === undefined ? undefined : (await this.#readAll([will]))[0]
  }

  async due(before: number): Promise<(Due & Will)[]> {
    const due: WillNote[] = []
    for (const will of this.#state.wills.values()) {
      if (will.dueAt <= before) due.push(will)
      if (due.length === dueAtMost) break
    }
    const wills = await this.#readAll(due)
    return due.flatMap(({ clientId, epoch }, at) => {
      const will = wills[at]
      return will === undefined ? [] : [{ clientId, epoch, ...will }]
    })
  }

  /** The connection that put it is over. */
  end(epoch: number, operations: Operation[]): void {
    const will = this.#state.wills.get(epoch)
    if (will !== undefined) this.#makeDue(will, this.#now() + will.delayMs, operations)
  }

  /** So is its session. */
  endSession(epoch: number, operations: Operation[]): void {
    const will = this.#state.wills.get(epoch)
    if (will !== undefined) this.#makeDue(will, this.#now(), operations)
  }

  /** Another connection goes on with the session. */
  settle(session: Session, operations: Operation[]): void {
    const will = this.#state.wills.get(session.epoch)
    if (will === undefined) return
    if (will.delayMs > 0 && will.dueAt > this.#now())
      this.drop(will.epoch, operations) // [MQTT-3.1.3-9]
    else this.#makeDue(will, this.#now(), operations)
  }

  drop(epoch: number, operations: Operation[]): void {
    if (!this.#state.wills.delete(epoch)) return
    for (const key of [keys.will(epoch), keys.willMessage(epoch), keys.willCertificate(epoch)]) {
      operations.push({ type: 'del', key })
    }
  }

  dropDevice(deviceId: string, operations: Operation[]): void {
    for (const { clientId, epoch } of [...this.#state.wills.values()]) {
      if (deviceOf(clientId) === deviceId) this.drop(epoch, operations)
    }
  }

  #makeDue(will: WillNote, at: number, operations: Operation[]): void {
    will.dueAt = Math.min(will.dueAt, at, Math.max(endOf(this.#state, will), this.#now()))
    operations.push(noteWill(will))
  }

  /** In the order of the notes; undefined for one that was dropped meanwhile. */
  async #readAll(wills: readonly WillNote[]): Promise<(Will | undefined)[]> {
    if (wills.length === 0) return []
    const values = await this.#disk.getMany(
      wills.flatMap(({ epoch }) => [keys.willMessage(epoch), keys.willCertificate(epoch)]),
    )
    return wills.map(({ delayMs }, at) => {
      const message = values[2 * at]
      const certificate = values[2 * at + 1]
      if (message === undefined) return undefined
      return { message: decodeMessage(message), delayMs, ...(certificate === undefined ? {} : { certificate }) }
    })
  }
}
