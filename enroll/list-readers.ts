import type { ServerResponse } from 'node:http'
import type { SignedList } from '../pki/crl.ts'

type Reader = { response: ServerResponse; list: SignedList; current: () => SignedList | undefined }
type Limits = {
  /** Of memory that nothing but an answer on its way still needs. */
  heldBytes: number
  /** A reader that is slower, taken over the whole list, is cut. */
  bytesPerSecond: number
  /** beside, for any list */
  graceMs: number
}

const limits: Limits = { heldBytes: 268_435_456, bytesPerSecond: 16_384, graceMs: 30_000 }

/**
 * Who is being sent a list. An answer holds on to the very octets that the list was signed over, tens of megabytes which
 * others replace meanwhile; so nobody may read as slowly as he likes, and not too much is held for all of them together.
 */
export class ListReaders {
  readonly #limits: Limits
  /** The last to come is the last here. */
  readonly #readers = new Set<Reader>()

  constructor(given: Limits = limits) {
    this.#limits = given
  }

  /**
   * To be called before the list is written.
   *
   * @param current the list that is served under the same name now, at any later time
   */
  add(response: ServerResponse, list: SignedList, current: () => SignedList | undefined): void {
    const { bytesPerSecond, graceMs } = this.#limits
    const reader = { response, list, current }
    const late = setTimeout(() => response.destroy(), graceMs + (list.bytes / bytesPerSecond) * 1_000)
    this.#readers.add(reader)
    response.once('close', () => {
      clearTimeout(late)
      this.#readers.delete(reader)
    })
    this.#cut()
  }

  /** A list that was only added to is the same memory as the one before it: what counts is what would be free without readers. */
  #cut(): void {
    const readers = [...this.#readers].reverse()
    const needed = new Set(readers.flatMap(({ current }) => current()?.parts ?? []).map(({ buffer }) => buffer))
    let held = 0
    for (const { response, list } of readers) {
      for (const { buffer } of list.parts) {
        if (needed.has(buffer)) continue
        needed.add(buffer)
        held += buffer.byteLength
      }
      // Who began last has the newest list, and goes on.
      if (held > this.#limits.heldBytes) response.destroy()
    }
  }
}
