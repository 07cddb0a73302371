import type { Message } from './session-store.ts'

/** Messages by seq, the longest unused first to go. */
export class MessageCache {
  readonly #atMost: number
  readonly #messages = new Map<number, { message: Message; bytes: number }>()
  #bytes = 0

  constructor(bytesAtMost: number) {
    this.#atMost = bytesAtMost
  }

  get(seq: number): Message | undefined {
    const kept = this.#messages.get(seq)
    if (kept === undefined) return undefined
    this.#messages.delete(seq)
    this.#messages.set(seq, kept)
    return kept.message
  }

  set(seq: number, message: Message, bytes: number): void {
    this.delete(seq)
    this.#messages.set(seq, { message, bytes })
    this.#bytes += bytes
    for (const oldest of this.#messages.keys()) {
      if (this.#bytes <= this.#atMost) return
      this.delete(oldest)
    }
  }

  delete(seq: number): void {
    const kept = this.#messages.get(seq)
    if (kept === undefined) return
    this.#messages.delete(seq)
    this.#bytes -= kept.bytes
  }
}
