import type { Version } from './packet.ts'
import type { PlainPublish } from './plain-publish.ts'
import { Malformed, reason } from './reason.ts'

/** One control packet: its first octet, and everything behind its fixed header. */
export type Frame = { header: number; body: Buffer }

const empty = Buffer.alloc(0)
const drained: IteratorReturnResult<undefined> = { done: true, value: undefined }
/** First allocation for a body that comes in pieces; it grows with what has arrived, not with what was announced. */
const firstBytes = 1_024

/**
 * Cuts a byte stream into control packets. A packet's declared length is judged at the first octet that gives it away,
 * before any of its body is kept. `for (const { header, body } of reader.push(chunk))` may be left in the middle and
 * taken up later with `of reader`: what was not read waits, and a limit that has changed meanwhile applies to it.
 *
 * A body that lies in one chunk is a view of it; who keeps one for long copies it. Of a body in pieces at most twice
 * what has arrived is allocated.
 *
 * Iterating throws `Malformed`, and from then on always the same one.
 */
export class FrameReader implements IterableIterator<Frame> {
  #maxBytes: number
  #minimal = false
  #chunk: Buffer = empty
  #at = 0
  #header = -1
  #length = 0
  #octets = 0
  #body: Buffer | undefined
  #filled = 0
  #fault: Malformed | undefined

  /** @param maxBytes of a whole packet with its fixed header, as MQTT 5 counts its Maximum Packet Size (2.1.4) */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes
  }

  /**
   * Applies from the next length octet on.
   *
   * @param minimalLengths whether a remaining length must take no more octets than it needs: true for version 5
   * [MQTT-1.5.5-1]. Earlier versions do not ask for it, and some embedded clients always send as many octets.
   */
  limit(maxBytes: number, minimalLengths: boolean): void {
    this.#maxBytes = maxBytes
    this.#minimal = minimalLengths
  }

  /** Octets allocated for a packet whose rest has not arrived. */
  get heldBytes(): number {
    return this.#body?.length ?? 0
  }

  push(chunk: Buffer): this {
    const left = this.#chunk.length - this.#at
    this.#chunk = left === 0 ? chunk : Buffer.concat([this.#chunk.subarray(this.#at), chunk])
    this.#at = 0
    return this
  }

  /** Whether the next packet is a plain PUBLISH that has arrived whole; `publish` is it then, and `take` or `next` moves on. */
  peek(publish: PlainPublish, version: Version): boolean {
    return this.#header < 0 && this.#fault === undefined && publish.read(this.#chunk, this.#at, version, this.#maxBytes)
  }

  /** Moves behind what `peek` has found. */
  take({ end }: PlainPublish): void {
    this.#at = end
    if (end < this.#chunk.length) return
    this.#chunk = empty
    this.#at = 0
  }

  [Symbol.iterator](): this {
    return this
  }

  next(): IteratorResult<Frame, undefined> {
    if (this.#fault !== undefined) throw this.#fault
    if (this.#body !== undefined) return this.#fill(this.#body)
    while (this.#at < this.#chunk.length) {
      const octet = this.#chunk[this.#at++]!
      if (this.#header < 0) {
        this.#header = octet
        this.#length = 0
        this.#octets = 0
      } else if (this.#readLength(octet)) {
        return this.#readBody()
      }
    }
    this.#chunk = empty
    this.#at = 0
    return drained
  }

  /** @returns whether the length is complete with this octet */
  #readLength(octet: number): boolean {
    this.#length |= (octet & 0x7f) << (7 * this.#octets)
    this.#octets++
    if (1 + this.#octets + this.#length > this.#maxBytes)
      this.#refuse(reason.packetTooLarge, `a packet of ${this.#length} octets or more; ${this.#maxBytes} are allowed`)
    if (octet >= 0x80) {
      if (this.#octets === 4) this.#refuse(reason.malformedPacket, 'a remaining length of more than four octets')
      return false
    }
    if (this.#minimal && octet === 0 && this.#octets > 1)
      this.#refuse(reason.malformedPacket, 'a remaining length with more octets than it needs')
    return true
  }

  #readBody(): IteratorResult<Frame, undefined> {
    const from = this.#at
    const to = from + this.#length
    if (to > this.#chunk.length) {
      this.#filled = 0
      const here = this.#chunk.length - from
      return this.#fill(Buffer.allocUnsafe(Math.min(this.#length, Math.max(2 * here, firstBytes))))
    }
    this.#at = to
    return this.#frame(this.#length === 0 ? empty : this.#chunk.subarray(from, to))
  }

  /** Moves what has arrived of the body to `body`, or to a larger one. */
  #fill(body: Buffer): IteratorResult<Frame, undefined> {
    const step = Math.min(this.#length - this.#filled, this.#chunk.length - this.#at)
    const filled = this.#filled + step
    let target = body
    if (filled > body.length) {
      target = Buffer.allocUnsafe(Math.min(this.#length, 2 * filled))
      body.copy(target, 0, 0, this.#filled)
    }
    this.#chunk.copy(target, this.#filled, this.#at, this.#at + step)
    this.#at += step
    this.#filled = filled
    if (filled === this.#length) {
      this.#body = undefined
      // Never allocated larger than the length, and filled to it: there is nothing behind.
      return this.#frame(target)
    }
    this.#body = target
    this.#chunk = empty
    this.#at = 0
    return drained
  }

  #frame(body: Buffer): IteratorYieldResult<Frame> {
    const header = this.#header
    this.#header = -1
    return { done: false, value: { header, body } }
  }

  #refuse(code: number, sentence: string): never {
    this.#fault = new Malformed(code, sentence)
    this.#chunk = empty
    this.#at = 0
    throw this.#fault
  }
}
