import { Duplex } from 'node:stream'
import type { TLSSocket } from 'node:tls'
import type { ProblemCode } from '../../contract/problems.ts'

export type FrameLimits = { maxConnectBytes: number; maxPacketBytes: number; maxBufferedBytes: number }
type WriteDone = (error?: Error | null) => void

const connect = 1
const publish = 3
const disconnect = 14
/** First octet of a PUBLISH of QoS 0, DUP and RETAIN aside. */
const qos0Publish = 0x30
/** MQTT 3.1.1 table 2.2 and 3.x: what a client may send, with its flags and the bounds of its remaining length. */
const shapes = new Map<number, { flags?: number; min: number; max?: number }>([
  [connect, { flags: 0, min: 12 }],
  [publish, { min: 2 }],
  [4, { flags: 0, min: 2, max: 2 }], // PUBACK
  [5, { flags: 0, min: 2, max: 2 }], // PUBREC
  [6, { flags: 2, min: 2, max: 2 }], // PUBREL
  [7, { flags: 0, min: 2, max: 2 }], // PUBCOMP
  [8, { flags: 2, min: 6 }], // SUBSCRIBE
  [10, { flags: 2, min: 5 }], // UNSUBSCRIBE
  [12, { flags: 0, min: 0, max: 0 }], // PINGREQ
  [disconnect, { flags: 0, min: 0, max: 0 }],
])
/** After the last byte to a peer it gets this long to read it; then the socket goes. */
const lingerMs = 1_000

/**
 * Stands between a TLS socket and the MQTT core. A packet's fixed header is judged before any of its body is kept, and
 * nothing behind the CONNECT is read before `accept`. Towards the core it never reports back-pressure, because one slow
 * reader would stall the whole bus (trap T19). Above half of `maxBufferedBytes` unread, QoS 0 messages are dropped; who
 * leaves more than all of it unread is closed.
 */
export class FrameGuard extends Duplex {
  readonly #socket: TLSSocket
  readonly #limits: FrameLimits
  readonly #onViolation: (reason: ProblemCode, message: string) => void
  #state: 'before CONNECT' | 'CONNECT' | 'accepted' | 'disconnected' = 'before CONNECT'
  #held: Buffer | undefined
  #header = -1
  #length = 0
  #shift = 0
  #body = 0
  #packetBegins = false
  #dropping = false
  #drained: (() => void)[] = []
  bytesIn = 0
  bytesOut = 0
  packetsIn = 0

  constructor(socket: TLSSocket, limits: FrameLimits, onViolation: (reason: ProblemCode, message: string) => void) {
    super({ allowHalfOpen: false })
    this.#socket = socket
    this.#limits = limits
    this.#onViolation = onViolation
    socket.on('data', this.#ingest)
    socket.on('end', () => this.push(null))
    socket.on('close', () => this.destroy())
  }

  /** The CONNECT was accepted: what the client sent behind it is read now. */
  accept(): void {
    if (this.#state !== 'CONNECT') return
    this.#state = 'accepted'
    const held = this.#held
    this.#held = undefined
    if (held !== undefined) this.#ingest(held)
    if (this.readableLength < this.readableHighWaterMark) this._read()
  }

  /** Whether the client said goodbye, so that its will is not due [MQTT-3.1.2-10]. */
  get disconnected(): boolean {
    return this.#state === 'disconnected'
  }

  /** Bytes that were written and not yet taken by the peer's side of the socket. */
  get pendingBytes(): number {
    return this.#socket.writableLength
  }

  /** Resolves when nothing is pending, or nothing will ever be sent again. */
  async drained(): Promise<void> {
    if (this.pendingBytes > 0 && !this.destroyed) await new Promise<void>((resolve) => this.#drained.push(resolve))
  }

  override _read(): void {
    if (this.#state !== 'CONNECT') this.#socket.resume()
  }

  override write(chunk: unknown, encoding?: BufferEncoding | WriteDone, done?: WriteDone): boolean {
    const bytes =
      typeof chunk === 'string'
        ? Buffer.from(chunk, typeof encoding === 'string' ? encoding : 'utf8')
        : (chunk as Buffer)
    const callback = typeof encoding === 'function' ? encoding : done
    if (this.#packetBegins) {
      this.#packetBegins = false
      // QoS 0 is at most once: better dropped than paid for with the connection.
      this.#dropping = (bytes[0]! & 0xf6) === qos0Publish && this.pendingBytes > this.#limits.maxBufferedBytes / 2
    }
    if (this.#dropping || this.destroyed || this.#socket.destroyed) {
      if (callback) process.nextTick(callback)
      return true
    }
    this.bytesOut += bytes.length
    this.#socket.write(bytes, (error) => {
      if (this.pendingBytes === 0) this.#wake()
      callback?.(error)
    })
    if (this.pendingBytes > this.#limits.maxBufferedBytes) {
      this.#violate('slow_reader', `${this.pendingBytes} bytes wait to be read; ${this.#limits.maxBufferedBytes} may`)
    }
    return true
  }

  /** The core's encoder corks at the begin of each packet and writes it in pieces. */
  override cork(): void {
    this.#packetBegins = true
    this.#socket.cork()
  }

  override uncork(): void {
    this.#socket.uncork()
  }

  /** What was written still goes out; then the peer sees the end. */
  override _destroy(_error: Error | null, callback: (error?: Error | null) => void): void {
    const socket = this.#socket
    socket.off('data', this.#ingest)
    this.#held = undefined
    if (!socket.destroyed) {
      // Closed at once with input unread, the connection would be reset and a refusal lost on its way (trap T36).
      socket.end()
      socket.resume()
      const timer = setTimeout(() => socket.destroy(), lingerMs)
      socket.once('close', () => clearTimeout(timer))
    }
    this.#wake()
    callback(null)
  }

  #wake(): void {
    const waiting = this.#drained
    this.#drained = []
    for (const resolve of waiting) resolve()
  }

  #ingest = (chunk: Buffer): void => {
    if (this.destroyed || this.#state === 'disconnected') return
    if (this.#isWaiting()) {
      this.#held = this.#held === undefined ? chunk : Buffer.concat([this.#held, chunk])
      return
    }
    const end = this.#judge(chunk)
    if (end === undefined) return
    this.bytesIn += end
    const more = this.push(chunk.subarray(0, end))
    const held = this.#isWaiting()
    if (held && end < chunk.length) this.#held = chunk.subarray(end)
    if (held || !more) this.#socket.pause()
  }

  /** Between a complete CONNECT and its acceptance nothing passes. */
  #isWaiting(): boolean {
    return this.#state === 'CONNECT'
  }

  /** @returns how many of the bytes may pass now, undefined when the connection was closed */
  #judge(chunk: Buffer): number | undefined {
    let at = 0
    while (at < chunk.length) {
      if (this.#body > 0) {
        const step = Math.min(this.#body, chunk.length - at)
        this.#body -= step
        at += step
      } else {
        const complete = this.#readHeader(chunk[at]!)
        at++
        if (complete === undefined) return undefined
        if (!complete) continue
      }
      if (this.#body > 0) continue
      if (this.#header >> 4 === connect) {
        this.#header = -1
        this.#state = 'CONNECT'
        return at
      }
      if (this.#header >> 4 === disconnect) {
        this.#state = 'disconnected'
        return at
      }
      this.#header = -1
    }
    return at
  }

  /** @returns whether the fixed header is complete with this byte, undefined when it is refused */
  #readHeader(byte: number): boolean | undefined {
    if (this.#header < 0) {
      const fault = this.#headerFault(byte)
      if (fault !== undefined) return this.#violate('protocol_violation', fault)
      this.#header = byte
      this.#length = 0
      this.#shift = 0
      return false
    }
    this.#length += (byte & 0x7f) << this.#shift
    this.#shift += 7
    if (byte & 0x80) {
      // MQTT 3.1.1 2.2.3: four octets at most.
      if (this.#shift === 28) return this.#violate('protocol_violation', 'a remaining length of more than four octets')
      return this.#checkSize() ? false : undefined
    }
    if (!this.#checkSize()) return undefined
    const { min, max = Number.POSITIVE_INFINITY } = shapes.get(this.#header >> 4)!
    if (this.#length < min || this.#length > max) {
      return this.#violate('protocol_violation', `packet type ${this.#header >> 4} with ${this.#length} octets`)
    }
    this.#body = this.#length
    this.packetsIn++
    return true
  }

  #headerFault(byte: number): string | undefined {
    const type = byte >> 4
    const flags = byte & 0x0f
    const shape = shapes.get(type)
    if (this.#state === 'before CONNECT' && type !== connect) return `packet type ${type} before CONNECT` // [MQTT-3.1.0-1]
    if (this.#state === 'accepted' && type === connect) return 'a second CONNECT' // [MQTT-3.1.0-2]
    if (shape === undefined) return `packet type ${type} from a client`
    if (shape.flags !== undefined && flags !== shape.flags) return `packet type ${type} with flags ${flags}` // [MQTT-2.2.2-2]
    if (type === publish && (flags & 0x06) === 0x06) return 'a PUBLISH of QoS 3' // [MQTT-3.3.1-4]
    return undefined
  }

  #checkSize(): boolean {
    const limit = this.#header >> 4 === connect ? this.#limits.maxConnectBytes : this.#limits.maxPacketBytes
    if (this.#length <= limit) return true
    this.#violate('packet_too_large', `a packet of ${this.#length} octets or more; ${limit} are allowed`)
    return false
  }

  #violate(reason: ProblemCode, message: string): undefined {
    this.#onViolation(reason, message)
    this.destroy()
    return undefined
  }
}
