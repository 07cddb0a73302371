import { Duplex } from 'node:stream'
import type { PeerSocket } from '../peer.ts'
import type { FrameWriter } from './frames.ts'

/** So much of what we write may be on its way to the peer; the rest waits here, where it is counted. */
const windowBytes = 65_536

export type TlsFacts = { protocol: string | null; cipher: ReturnType<PeerSocket['getCipher']>; isResumed: boolean }

/** The MQTT side of a connection whose TLS is in a worker. It is closed once the worker has closed its socket, or has ended. */
export class WorkerStream extends Duplex implements PeerSocket {
  readonly #id: number
  readonly #tls: TlsFacts
  readonly #frames: FrameWriter
  #underWay = 0
  #isPaused = false
  #hasEnded = false
  #isGone = false
  #written: (() => void) | undefined
  #destroyed: (() => void) | undefined

  constructor(id: number, tls: TlsFacts, frames: FrameWriter) {
    // As a socket does it: who has said all it wanted to say is answered by an end.
    super({ allowHalfOpen: false })
    this.#id = id
    this.#tls = tls
    this.#frames = frames
  }

  isSessionReused(): boolean {
    return this.#tls.isResumed
  }
  getProtocol(): string | null {
    return this.#tls.protocol
  }
  getCipher(): ReturnType<PeerSocket['getCipher']> {
    return this.#tls.cipher
  }

  /** The peer has sent `chunk`. */
  received(chunk: Buffer): void {
    if (this.destroyed || this.push(chunk) || this.#isPaused) return
    this.#isPaused = true
    this.#send('pause')
  }

  /** The peer sends nothing more. */
  ended(): void {
    this.#hasEnded = true
    if (!this.destroyed) this.push(null)
  }

  /** The peer's side has taken what was written. */
  taken(bytes: number): void {
    this.#underWay -= bytes
    if (this.#underWay <= windowBytes) this.#goOn()
  }

  /** The socket is closed; this is, too, once what had arrived of a peer that has ended is read. */
  gone(): void {
    this.#isGone = true
    this.#goOn()
    this.#destroyed?.()
    if (!this.#hasEnded) this.destroy()
  }

  override _read(): void {
    if (!this.#isPaused) return
    this.#isPaused = false
    this.#send('resume')
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.#pass(chunk, done)
  }

  override _writev(chunks: { chunk: Buffer }[], done: () => void): void {
    this.#pass(Buffer.concat(chunks.map(({ chunk }) => chunk)), done)
  }

  #pass(chunk: Buffer, done: () => void): void {
    if (this.#isGone) {
      done()
      return
    }
    this.#underWay += chunk.length
    this.#frames.send('data', this.#id, chunk)
    if (this.#underWay <= windowBytes) done()
    else this.#written = done
  }

  override _final(done: () => void): void {
    this.#send('end')
    done()
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    if (this.#isGone) {
      done(error)
      return
    }
    this.#destroyed = () => done(error)
    this.#send('destroy')
  }

  #send(kind: 'end' | 'destroy' | 'pause' | 'resume'): void {
    if (!this.#isGone) this.#frames.send(kind, this.#id)
  }

  #goOn(): void {
    const written = this.#written
    this.#written = undefined
    written?.()
  }
}
