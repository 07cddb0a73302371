import type { Socket } from 'node:net'

/** One that has to make its handshake; `begin` gives its socket to TLS. */
export type Comer = { readonly socket: Socket; readonly begin: () => void }

/**
 * Lets one handshake at a time take one step: the answer to what a peer says first, or the end, with what the peer sends behind
 * it. The octets of the others stay with the system meanwhile. When a whole fleet comes, or all of it answers, all that would else
 * be computed in one turn of the event loop, during which nobody's messages move.
 */
export class HandshakeTurns {
  readonly #patienceMs: number
  readonly #mostUnread: number
  readonly #gone = new WeakSet<Comer>()
  /** Who is to begin, first come first. */
  readonly #comers: Comer[] = []
  /** Who has begun and is not read from, longest first. */
  readonly #unread: Comer[] = []
  #isUnreadNext = false
  #isStepDue = false
  #reading: Comer | undefined
  /** What the one that is read from had sent before. */
  #bytesBefore = 0
  #patience: NodeJS.Timeout | undefined

  /**
   * @param patienceMs while nobody is to begin, one who has begun is read from for so long before it is the next one's turn
   * @param mostUnread of more who have begun the first is read from for good: who say nothing hold up the others for no longer
   *   than it takes to look at so many
   */
  constructor({ patienceMs = 4, mostUnread = 250 } = {}) {
    this.#patienceMs = patienceMs
    this.#mostUnread = mostUnread
  }

  add(comer: Comer): void {
    this.#comers.push(comer)
    if (this.#patience === undefined) this.#goOn()
    else this.#lookAway()
  }

  /** Its handshake is over, or its connection is. */
  remove(comer: Comer): void {
    this.#gone.add(comer)
    if (comer !== this.#reading) return
    this.#endLook()
    this.#goOn()
  }

  #goOn(): void {
    if (this.#isStepDue || this.#reading !== undefined || this.#comers.length + this.#unread.length === 0) return
    this.#isStepDue = true
    // The turn between is for the CONNECT of who has just been let in, and for everybody's messages.
    setImmediate(() => setImmediate(this.#step))
  }

  #step = (): void => {
    this.#isStepDue = false
    const isBegun = this.#unread.length > 0 && (this.#isUnreadNext || this.#comers.length === 0)
    this.#isUnreadNext = !isBegun
    const comer = (isBegun ? this.#unread : this.#comers).shift()!
    const { socket, begin } = comer
    if (this.#gone.has(comer) || socket.destroyed) {
      this.#goOn()
      return
    }
    this.#reading = comer
    // What was read before TLS was there is what TLS begins with.
    this.#bytesBefore = isBegun ? socket.bytesRead : socket.bytesRead - socket.readableLength
    if (isBegun) readingOf(socket)?.readStart()
    else begin()
    setImmediate(this.#look)
  }

  /** The system has been asked since. */
  #look = (): void => {
    const comer = this.#reading
    if (comer === undefined) return
    const hasSpoken = comer.socket.bytesRead !== this.#bytesBefore
    if (hasSpoken || this.#comers.length > 0) this.#lookAway()
    else this.#patience = setTimeout(this.#lookAway, this.#patienceMs)
  }

  #lookAway = (): void => {
    const comer = this.#reading!
    this.#endLook()
    const reading = readingOf(comer.socket)
    if (reading !== undefined) {
      reading.readStop()
      this.#unread.push(comer)
      if (this.#unread.length > this.#mostUnread) readingOf(this.#unread.shift()!.socket)?.readStart()
    }
    this.#goOn()
  }

  #endLook(): void {
    clearTimeout(this.#patience)
    this.#patience = undefined
    this.#reading = undefined
  }
}

type Reading = { readStart(): number; readStop(): number }

/**
 * What reads a socket for TLS. Node has no public way to it; where it has none at all any more, whoever has begun goes on being
 * read from.
 */
function readingOf(socket: Socket): Reading | undefined {
  const { _handle: handle } = socket as unknown as { _handle?: Partial<Reading> | null }
  const isKnown = typeof handle?.readStart === 'function' && typeof handle.readStop === 'function'
  return isKnown ? (handle as Reading) : undefined
}
