/**
 * Something that was refused, as it is first noted. `owner` is the device, or the address of who has no name; `key` tells apart
 * what it was refused, and is best one that was joined: one that was added up keeps its parts.
 */
export type Noted = { key: string; kind: string; owner: string; now: number }
export type Entry<T> = { readonly id: string; readonly key: string; readonly owner: string; lastAt: number; value: T }

type RingOptions = { max: number; maxPerOwner: number; newId: () => string }

/** One that was seen this lately keeps its place: its id has just been told to somebody. */
const freshMs = 60_000

/**
 * The last refusals, each by an id. What is like one that is kept is counted there. An owner has its own places, so that it can
 * push out nobody else's; one that fills them faster than anybody could look has the rest counted together, by kind.
 */
export class DenialRing<T> {
  readonly #options: RingOptions
  readonly #byId = new Map<string, Entry<T>>()
  /** Behind all others already. */
  #latest: Entry<T> | undefined
  /** The oldest first. They are few, and are looked through for a key. */
  readonly #byOwner = new Map<string, Entry<T>[]>()

  constructor(options: RingOptions) {
    this.#options = options
  }

  get size(): number {
    return this.#byId.size
  }

  /**
   * @param create makes the value where nothing like it is kept; `isRest` for one that stands for all the rest of its kind
   * @returns the entry, whether it was there before, and what had to go for it
   */
  note(
    { key, kind, owner, now }: Noted,
    create: (id: string, isRest: boolean) => T,
  ): { entry: Entry<T>; isRepeat: boolean; dropped: Entry<T>[] } {
    const isRest = this.#isCrowded(owner, now)
    const known = this.#find(owner, key) ?? (isRest ? this.#find(owner, restKey(kind)) : undefined)
    if (known !== undefined) {
      this.touch(known, now)
      return { entry: known, isRepeat: true, dropped: [] }
    }
    const id = this.#options.newId()
    const entry = { id, key: isRest ? restKey(kind) : key, owner, lastAt: now, value: create(id, isRest) }
    return { entry, isRepeat: false, dropped: this.restore(entry) }
  }

  /** It was seen again. */
  touch(known: Entry<T>, now: number): void {
    known.lastAt = now
    if (this.#latest === known) return
    this.#latest = known
    // Behind the others: the oldest goes first.
    this.#byId.delete(known.id)
    this.#byId.set(known.id, known)
    const own = this.#byOwner.get(known.owner)!
    own.splice(own.indexOf(known), 1)
    own.push(known)
  }

  /** Puts back what an earlier process had kept; the oldest first. @returns what had to go for it */
  restore(entry: Entry<T>): Entry<T>[] {
    const { max, maxPerOwner } = this.#options
    this.#latest = entry
    this.#byId.set(entry.id, entry)
    // Of the very length: one that is spread or pushed to makes room for many more than most owners have.
    const own = this.#byOwner.get(entry.owner)?.concat(entry) ?? [entry]
    this.#byOwner.set(entry.owner, own)
    const dropped: Entry<T>[] = []
    if (own.length > maxPerOwner && !entry.key.startsWith(restMark)) dropped.push(this.#drop(own[0]!))
    if (this.#byId.size > max) dropped.push(this.#drop(this.#byId.values().next().value!))
    return dropped
  }

  find(id: string): Entry<T> | undefined {
    return this.#byId.get(id)
  }

  /** The oldest first. */
  ofOwner(owner: string): Entry<T>[] {
    return [...(this.#byOwner.get(owner) ?? [])]
  }

  [Symbol.iterator](): Iterator<Entry<T>> {
    return this.#byId.values()
  }

  #find(owner: string, key: string): Entry<T> | undefined {
    return this.#byOwner.get(owner)?.find((entry) => entry.key === key)
  }

  #isCrowded(owner: string, now: number): boolean {
    const own = this.#byOwner.get(owner)
    return own !== undefined && own.length >= this.#options.maxPerOwner && now - own[0]!.lastAt < freshMs
  }

  #drop(entry: Entry<T>): Entry<T> {
    this.#byId.delete(entry.id)
    const own = this.#byOwner.get(entry.owner)!
    if (own.length === 1) this.#byOwner.delete(entry.owner)
    else own.splice(own.indexOf(entry), 1)
    return entry
  }
}

const restMark = '* '
const restKey = (kind: string): string => `${restMark}${kind}`
