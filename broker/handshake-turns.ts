import type { Socket } from 'node:net'

/** One that has to make its handshake; `begin` gives its socket to TLS. */
export type Comer = { readonly socket: Socket; readonly begin: () => void }

/**
 * Begins one handshake in a turn of the event loop, and ends one: once one is over, the others are not read from for the rest of
 * the turn and in the next, which is for the CONNECT of who has been let in and for everybody's messages. When a whole fleet
 * comes, or all of it answers, all that would else be computed in one turn, during which nobody's messages move.
 */
export class HandshakeTurns {
  readonly #mostHeld: number
  readonly #gone = new WeakSet<Comer>()
  /** Who is to begin, first come first. */
  readonly #comers: Comer[] = []
  /** Who has begun and is to be held back, longest first. */
  readonly #begun = new Set<Comer>()
  #isTurnDue = false
  #areHeld = false

  /** @param mostHeld so many that have begun last: who say nothing do not make each end of a handshake dearer for ever */
  constructor({ mostHeld = 500 } = {}) {
    this.#mostHeld = mostHeld
  }

  add(comer: Comer): void {
    this.#comers.push(comer)
    this.#goOn()
  }

  /** Its handshake is over, or its connection is. */
  remove(comer: Comer): void {
    this.#gone.add(comer)
    if (!this.#begun.delete(comer) || this.#areHeld) return
    this.#areHeld = true
    // What the system has told of them in this turn is passed over, too, and told again.
    for (const { socket } of this.#begun) readingOf(socket)?.readStop()
    setImmediate(() => setImmediate(this.#release))
  }

  #release = (): void => {
    this.#areHeld = false
    for (const { socket } of this.#begun) readingOf(socket)?.readStart()
    this.#goOn()
  }

  #goOn(): void {
    if (this.#isTurnDue || this.#areHeld || this.#comers.length === 0) return
    this.#isTurnDue = true
    setImmediate(this.#begin)
  }

  #begin = (): void => {
    this.#isTurnDue = false
    if (this.#areHeld) return
    const comer = this.#comers.shift()!
    if (!this.#gone.has(comer) && !comer.socket.destroyed) {
      if (this.#begun.size === this.#mostHeld) this.#begun.delete(this.#begun.values().next().value!)
      this.#begun.add(comer)
      comer.begin()
    }
    this.#goOn()
  }
}

type Reading = { readStart(): number; readStop(): number }

/**
 * What reads a socket for TLS. Node has no public way to it; where it has none at all any more, nobody is held
 * back.
 */
function readingOf(socket: Socket): Reading | undefined {
  const { _handle: handle } = socket as unknown as { _handle?: Partial<Reading> | null }
  const isKnown = typeof handle?.readStart === 'function' && typeof handle.readStop === 'function'
  return isKnown ? (handle as Reading) : undefined
}
