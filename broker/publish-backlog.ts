/** Publishes of one connection that wait for the store before they can be routed: of QoS 0 no more than these are kept. */
const most = 1_000
const mostBytes = 1_048_576

/** What has to wait is done one after the other, in the order in which it came. */
export class PublishBacklog {
  #waiting = 0
  #bytes = 0
  #last: Promise<void> | undefined

  get isEmpty(): boolean {
    return this.#waiting === 0
  }

  /** Whether a message of QoS 0 is dropped. @param bytes of its payload */
  isFull(bytes: number): boolean {
    return this.#waiting > 0 && (this.#waiting >= most || this.#bytes + bytes > mostBytes)
  }

  /** @param work must not reject */
  add(bytes: number, work: () => Promise<void>): void {
    this.#waiting++
    this.#bytes += bytes
    const before = this.#last ?? Promise.resolve()
    this.#last = before.then(work).then(() => {
      this.#waiting--
      this.#bytes -= bytes
    })
  }
}
