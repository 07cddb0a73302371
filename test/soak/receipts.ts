/** Who has what of a numbered stream: checked message by message, in memory that does not grow with their number. */

export type Guarantee = 'at most once' | 'at least once' | 'exactly once'

export type Fault = { of: 'order' | 'subscription ended' | 'publisher revoked'; text: string }

/** One publisher's messages on one topic, numbered from 1. */
export class Stream {
  readonly topic: string
  readonly guarantee: Guarantee
  /** Its publisher speaks version 5 and gives each message properties. */
  readonly hasProperties: boolean
  sent = 0
  /** The last one that was acknowledged as taken. */
  acknowledged = 0
  /** Up to here the publisher may have sent a message again, which is another message to its receivers. */
  repeatedUpTo = 0
  /** What was numbered higher was sent after the revocation of its publisher. */
  endsAt = Number.POSITIVE_INFINITY

  constructor(topic: string, guarantee: Guarantee, hasProperties: boolean) {
    this.topic = topic
    this.guarantee = guarantee
    this.hasProperties = hasProperties
  }
}

const outOfOrder = (text: string): Fault => ({ of: 'order', text })

/** What one subscriber has got of a stream. */
export class Receipts {
  readonly #stream: Stream
  readonly #isLossy: boolean
  #last = 0
  /** What may be missing: numbers above `from`, up to `to`. */
  #excused: { from: number; to: number } | undefined
  #barredAbove = Number.POSITIVE_INFINITY
  #lost = 0

  constructor(stream: Stream, isLossy = false) {
    this.#stream = stream
    this.#isLossy = isLossy
  }

  get last(): number {
    return this.#last
  }

  /** Messages that did not come, of a subscriber that may be too slow. */
  get lost(): number {
    return this.#lost + (this.#isLossy ? Math.max(0, this.#stream.acknowledged - this.#last) : 0)
  }

  /** @returns what is wrong with that */
  take(seq: number, dup: boolean): Fault | undefined {
    const { topic, guarantee, sent, repeatedUpTo, endsAt } = this.#stream
    if (seq > sent) return outOfOrder(`${topic} #${seq} was never sent`)
    if (seq > endsAt)
      return { of: 'publisher revoked', text: `${topic} #${seq} was sent after the revocation at #${endsAt}` }
    if (seq > this.#barredAbove)
      return { of: 'subscription ended', text: `${topic} #${seq} came after the end at #${this.#barredAbove}` }
    if (seq <= this.#last) {
      const hasCause = guarantee === 'at least once' && (dup || seq <= repeatedUpTo)
      if (hasCause) return undefined
      return outOfOrder(`${topic} #${seq} came after #${this.#last}, ${dup ? 'with' : 'without'} DUP`)
    }
    const missing = this.#missingUpTo(seq - 1)
    const last = this.#last
    this.#last = seq
    if (this.#excused !== undefined && seq >= this.#excused.to) this.#excused = undefined
    if (missing === 0 || guarantee === 'at most once') return undefined
    if (!this.#isLossy) return outOfOrder(`${topic} #${seq} came after #${last}: ${missing} missing`)
    this.#lost += missing
    return undefined
  }

  /** From now on messages may be missing: the subscription is about to end, or to be forbidden. */
  suspend(): void {
    this.#excused = { from: Math.min(this.#last, this.#excused?.from ?? this.#last), to: Number.POSITIVE_INFINITY }
  }

  /** It has ended: what is sent from now on must not come. */
  bar(): void {
    this.#barredAbove = this.#stream.sent
  }

  /** It is about to begin again: messages may come. */
  unbar(): void {
    this.#barredAbove = Number.POSITIVE_INFINITY
  }

  /** It has begun again: what is sent from now on has to come. */
  resume(): void {
    this.unbar()
    this.#excused = { from: this.#excused?.from ?? this.#last, to: this.#stream.sent }
    if (this.#last >= this.#excused.to) this.#excused = undefined
  }

  /** Acknowledged messages that have not come and have no excuse. */
  get missing(): number {
    return this.#isLossy || this.#stream.guarantee === 'at most once' ? 0 : this.#missingUpTo(this.#stream.acknowledged)
  }

  #missingUpTo(end: number): number {
    const all = Math.max(0, end - this.#last)
    if (this.#excused === undefined) return all
    const from = Math.max(this.#last, this.#excused.from)
    return all - Math.max(0, Math.min(end, this.#excused.to) - from)
  }
}

/** What a group of subscribers has got of a stream, each message by one of them, in any order. */
export class SharedReceipts {
  readonly #stream: Stream
  #through = 0
  readonly #ahead = new Set<number>()

  constructor(stream: Stream) {
    this.#stream = stream
  }

  take(seq: number, dup: boolean): Fault | undefined {
    const { topic, sent, repeatedUpTo } = this.#stream
    if (seq > sent) return outOfOrder(`${topic} #${seq} was never sent`)
    if (seq <= this.#through || this.#ahead.has(seq)) {
      return dup || seq <= repeatedUpTo
        ? undefined
        : outOfOrder(`${topic} #${seq} came to the group twice, without DUP`)
    }
    this.#ahead.add(seq)
    while (this.#ahead.delete(this.#through + 1)) this.#through++
    return undefined
  }

  get missing(): number {
    let missing = 0
    for (let seq = this.#through + 1; seq <= this.#stream.acknowledged; seq++) if (!this.#ahead.has(seq)) missing++
    return missing
  }
}
