import type { Message, SessionStore } from './backends/session-store.ts'

export type Entry = {
  readonly topic: string
  /** Milliseconds; Infinity for good */
  readonly expiresAt: number
  /** Grows with each message that is retained. */
  readonly serial: number
}
export type Found = { readonly entry: Entry; readonly message: Message }

export const pageSize = 64

/**
 * What the gateway itself retains: a presence for each device that was ever there. None of it is in memory, since the devices
 * may be a million and whoever asks for them few. While somebody is being sent it, there is a note of what has changed.
 */
export class GatewayRetained {
  readonly #store: Pick<SessionStore, 'retain' | 'retained'>
  /** By topic, the serial of its last change since the first of the readers began. */
  readonly #changes = new Map<string, number>()
  #readers = 0
  #serial = 0

  constructor(store: Pick<SessionStore, 'retain' | 'retained'>) {
    this.#store = store
  }

  /** As `RetainedMessages.retain`. */
  async retain(message: Message): Promise<'stored' | 'full'> {
    const { topic, payload } = message
    const before = this.#changes.get(topic)
    const serial = ++this.#serial
    if (this.#readers > 0) this.#changes.set(topic, serial)
    try {
      return await this.#store.retain(topic, payload.length === 0 ? null : message)
    } catch (error) {
      if (this.#changes.get(topic) === serial) this.#undo(topic, before)
      throw error
    }
  }

  /** What is retained for a filter. What changes until its reader is through is told to it by other ways. */
  async *pages(filter: string): AsyncGenerator<Found[]> {
    const serial = this.#serial
    this.#readers++
    try {
      let page: Found[] = []
      for await (const message of this.#store.retained([filter])) {
        page.push({ entry: { topic: message.topic, expiresAt: Number.POSITIVE_INFINITY, serial }, message })
        if (page.length < pageSize) continue
        yield page
        page = []
      }
      if (page.length > 0) yield page
    } finally {
      if (--this.#readers === 0) this.#changes.clear()
    }
  }

  /** @param entry of a page whose reader is not through */
  isCurrent({ topic, serial }: Entry): boolean {
    return (this.#changes.get(topic) ?? 0) <= serial
  }

  #undo(topic: string, before: number | undefined): void {
    if (before === undefined) this.#changes.delete(topic)
    else this.#changes.set(topic, before)
  }
}
