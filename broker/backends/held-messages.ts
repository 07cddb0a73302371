import type { Message } from './session-store.ts'

type Held = { readonly message: Message; readonly bytes: number; receivers: number }

/** What the entry of one receiver takes, about, beside the message's own octets: short messages to many are mostly that. */
const entryBytes = 256

/** Messages by seq of sessions that are not on disk: they are nowhere else, and stay until the last receiver is done. */
export class HeldMessages {
  readonly #messages = new Map<number, Held>()
  #bytes = 0

  /** Of all of them. */
  get bytes(): number {
    return this.#bytes
  }

  get(seq: number): Message | undefined {
    return this.#messages.get(seq)?.message
  }

  add(seq: number, message: Message, { bytes, receivers }: { bytes: number; receivers: number }): void {
    this.#messages.set(seq, { message, bytes, receivers })
    this.#bytes += bytes + receivers * entryBytes
  }

  /** One receiver is done with it. */
  release(seq: number): void {
    const held = this.#messages.get(seq)
    if (held === undefined) return
    this.#bytes -= entryBytes
    if (--held.receivers > 0) return
    this.#messages.delete(seq)
    this.#bytes -= held.bytes
  }
}
