/**
 * What a broker and a process that does TLS for it say to each other, over a socket pair: four octets of length, one of kind,
 * four of the connection (or of the listener), and a body.
 */
import type { Duplex } from 'node:stream'
import { LinkWriter } from '../wire/link-writer.ts'

const toWorker = ['listen', 'context', 'stop', 'end', 'destroy', 'pause', 'resume', 'ping'] as const
const toBroker = ['listening', 'failed', 'opened', 'refused', 'ended', 'closed', 'taken', 'pong'] as const
const kinds = ['data', ...toWorker, ...toBroker] as const
export type FrameKind = (typeof kinds)[number]
export type Frame = { kind: FrameKind; id: number; body: Buffer }

const kindAt = 4
const idAt = 5
const headBytes = 9
/** Twice the largest packet of MQTT. */
const maxBodyBytes = 536_870_912
const none = Buffer.alloc(0)

/** Cuts a stream into frames. */
export class FrameReader {
  #parts: Buffer[] = []
  #held = 0
  #wanted = headBytes

  /**
   * @returns the frames that `chunk` completes; their bodies are views
   * @throws RangeError for what no process of ours sends
   */
  read(chunk: Buffer): Frame[] {
    const frames: Frame[] = []
    this.#parts.push(chunk)
    this.#held += chunk.length
    if (this.#held < this.#wanted) return frames
    let rest = this.#parts.length === 1 ? chunk : Buffer.concat(this.#parts, this.#held)
    this.#wanted = headBytes
    while (rest.length >= headBytes) {
      const bodyBytes = rest.readUInt32BE(0)
      const kind = kinds[rest[kindAt]!]
      if (kind === undefined || bodyBytes > maxBodyBytes)
        throw new RangeError('not a frame of a broker or of its worker')
      const end = headBytes + bodyBytes
      if (rest.length < end) {
        this.#wanted = end
        break
      }
      frames.push({ kind, id: rest.readUInt32BE(idAt), body: rest.subarray(headBytes, end) })
      rest = rest.subarray(end)
    }
    this.#parts = rest.length === 0 ? [] : [rest]
    this.#held = rest.length
    return frames
  }
}

/** Sends frames, those of one turn of the event loop in one write. */
export class FrameWriter {
  readonly #writer: LinkWriter

  constructor(stream: Duplex, onWritten: () => void = () => {}) {
    this.#writer = new LinkWriter(stream, onWritten)
  }

  get pendingBytes(): number {
    return this.#writer.pendingBytes
  }

  /** @param body must not change any more */
  send(kind: FrameKind, id: number, body: Buffer = none): void {
    const head = Buffer.allocUnsafe(headBytes)
    head.writeUInt32BE(body.length, 0)
    head[kindAt] = kinds.indexOf(kind)
    head.writeUInt32BE(id, idAt)
    if (body.length === 0) this.#writer.push(head)
    else this.#writer.push(head, body)
  }

  tell(kind: FrameKind, id: number, value: unknown): void {
    this.send(kind, id, Buffer.from(JSON.stringify(value)))
  }
}

/** A count of octets as a body. */
export function encodeCount(count: number): Buffer {
  const body = Buffer.allocUnsafe(4)
  body.writeUInt32BE(count)
  return body
}
export const decodeCount = (body: Buffer): number => body.readUInt32BE(0)

export const decodeJson = <T>(body: Buffer): T => JSON.parse(body.toString('utf8')) as T
