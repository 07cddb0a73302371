import type { Duplex } from 'node:stream'

/** Frames up to this are copied into one write; what is larger goes out as it is. */
const smallBytes = 16_384
/** So much is not held back for the end of the turn. */
const fullBytes = 65_536

const isSmall = ({ length }: Buffer): boolean => length <= smallBytes

let waiting: LinkWriter[] = []

function flushWaiting(): void {
  const writers = waiting
  waiting = []
  for (const writer of writers) writer.flush()
}

/**
 * Gathers what one connection is sent and writes it once per turn of the event loop: a write of its own for each packet
 * would cost more than the packet, over TLS a record and a system call.
 */
export class LinkWriter {
  readonly #socket: Duplex
  readonly #onWritten: () => void
  #frames: Buffer[] = []
  #bytes = 0
  /** What has been sent since the connection began. */
  packets = 0
  bytes = 0

  /** @param onWritten called each time the socket has taken what it was given */
  constructor(socket: Duplex, onWritten: () => void) {
    this.#socket = socket
    this.#onWritten = onWritten
  }

  /** Not yet taken by the operating system. */
  get pendingBytes(): number {
    return this.#bytes + this.#socket.writableLength
  }

  /** One packet, in one part or two; they must not change any more. */
  push(head: Buffer, rest?: Buffer): void {
    if (this.#frames.push(head) === 1 && waiting.push(this) === 1) setImmediate(flushWaiting)
    let { length } = head
    if (rest !== undefined) {
      this.#frames.push(rest)
      length += rest.length
    }
    this.packets++
    this.bytes += length
    this.#bytes += length
    if (this.#bytes >= fullBytes) this.flush()
  }

  flush(): void {
    const frames = this.#frames
    if (frames.length === 0) return
    this.#frames = []
    this.#bytes = 0
    if (!this.#socket.writable) return
    if (frames.length === 1) {
      // One that has to wait is copied: it may be a view of what a publisher sent, and keep all of that.
      const [frame] = frames as [Buffer]
      this.#socket.write(this.#socket.writableLength === 0 ? frame : Buffer.concat([frame]), this.#onWritten)
      return
    }
    if (frames.every(isSmall)) {
      this.#write(frames)
      return
    }
    this.#socket.cork()
    let small: Buffer[] = []
    for (const frame of frames) {
      if (isSmall(frame)) small.push(frame)
      else {
        this.#write(small)
        this.#write([frame])
        small = []
      }
    }
    this.#write(small)
    this.#socket.uncork()
  }

  #write(frames: Buffer[]): void {
    if (frames.length > 0) this.#socket.write(frames.length === 1 ? frames[0] : Buffer.concat(frames), this.#onWritten)
  }
}
