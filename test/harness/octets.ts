/** A client that knows of MQTT where a packet ends, and nothing else: octets out, octets in. */
import type { Socket } from 'node:net'

const patienceMs = 60_000

export class OctetClient {
  readonly #socket: Socket
  #octets: Buffer = Buffer.alloc(0)
  #end: 'end' | 'reset' | undefined
  #wake: () => void = () => {}

  constructor(socket: Socket) {
    this.#socket = socket
    socket.on('data', (chunk: Buffer) => {
      this.#octets = Buffer.concat([this.#octets, chunk])
      this.#wake()
    })
    socket.on('end', () => {
      this.#end = 'end'
      this.#wake()
    })
    socket.on('close', () => {
      this.#end ??= 'reset'
      this.#wake()
    })
  }

  /** @param hex blanks are left out */
  send(hex: string): void {
    this.#socket.write(Buffer.from(hex.replaceAll(' ', ''), 'hex'))
  }

  /** Without a word. */
  drop(): void {
    this.#socket.destroy()
  }

  /** The next packet in hex; `end` when the server has closed its side, `reset` when it is gone, `silence` after a while. */
  async next(): Promise<string> {
    let isSilent = false
    const patience = setTimeout(() => {
      isSilent = true
      this.#wake()
    }, patienceMs)
    try {
      while (!isSilent) {
        const came = this.#take()
        if (came !== undefined) return came
        await new Promise<void>((resolve) => {
          this.#wake = resolve
        })
      }
      return 'silence'
    } finally {
      clearTimeout(patience)
    }
  }

  #take(): string | undefined {
    const length = packetLength(this.#octets)
    if (length === undefined || this.#octets.length < length) {
      return this.#end !== undefined && this.#octets.length > 0 ? 'end inside a packet' : this.#end
    }
    const packet = this.#octets.subarray(0, length)
    this.#octets = this.#octets.subarray(length)
    return packet.toString('hex')
  }
}

/** Of the packet that begins the octets, its fixed header included; undefined while that is not complete. */
function packetLength(octets: Buffer): number | undefined {
  let rest = 0
  for (let at = 1; at < octets.length; at++) {
    rest += (octets[at]! & 0x7f) * 128 ** (at - 1)
    if (octets[at]! < 0x80) return at + 1 + rest
  }
  return undefined
}
