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
  #isTurnDue = false
  /** Somebody has just been let in. */
  #isCrossing = false
  #reading: Comer | undefined
  /** What the one that is read from had sent before. */
  #bytesBefore = 0
  #patience: NodeJS.Timeout | undefined
  #isPatienceOver = false

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
    this.#goOn()
  }

  /** Its handshake is over, or its connection is. */
  remove(comer: Comer): void {
    this.#gone.add(comer)
    if (comer !== this.#reading) return
    this.#endLook()
    this.#isCrossing = true
    this.#goOn()
  }

  get #isSomebodyWaiting(): boolean {
    return this.#comers.length + this.#unread.length > 0
  }

  #goOn(): void {
    if (this.#isTurnDue || !this.#isSomebodyWaiting) return
    this.#isTurnDue = true
    setImmediate(this.#turn)
  }

  /** Comes when the system has been asked what there is of the one that is read from. */
  #turn = (): void => {
    this.#isTurnDue = false
    if (this.#isCrossing) {
      // This turn is for the CONNECT of who has been let in, and for everybody's messages.
      this.#isCrossing = false
      this.#goOn()
      return
    }
    const reading = this.#reading
    if (reading !== undefined) {
      const hasSpoken = reading.socket.bytesRead !== this.#bytesBefore
      if (!this.#isSomebodyWaiting) return
      if (!hasSpoken && this.#comers.length === 0 && !this.#isPatienceOver) {
        this.#patience ??= setTimeout(this.#impatient, this.#patienceMs)
        return
      }
      this.#lookAway(reading)
    }
    this.#step()
    this.#goOn()
  }

  #step(): void {
    const isBegun = this.#unread.length > 0 && (this.#isUnreadNext || this.#comers.length === 0)
    this.#isUnreadNext = !isBegun
    const comer = (isBegun ? this.#unread : this.#comers).shift()
    if (comer === undefined || this.#gone.has(comer) || comer.socket.destroyed) return
    this.#reading = comer
    this.#bytesBefore = comer.socket.bytesRead
    if (isBegun) readingOf(comer.socket)?.readStart()
    else comer.begin()
  }

  #impatient = (): void => {
    this.#isPatienceOver = true
    this.#goOn()
  }

  #lookAway(comer: Comer): void {
    this.#endLook()
    const reading = readingOf(comer.socket)
    if (reading === undefined) return
    reading.readStop()
    this.#unread.push(comer)
    if (this.#unread.length > this.#mostUnread) readingOf(this.#unread.shift()!.socket)?.readStart()
  }

  #endLook(): void {
    clearTimeout(this.#patience)
    this.#patience = undefined
    this.#isPatienceOver = false
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
