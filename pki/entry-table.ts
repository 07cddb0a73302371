import { encodeEntry, type ListEntry } from './crl.ts'

/** An entry, and when its certificate expires, which is when it may leave. */
export type TableEntry = ListEntry & { notAfter: Date }

/**
 * The entries of a list as the bytes that are signed, one after another. There is no index: looking at a million entries
 * costs less than hashing them, which has to be done whenever one has changed.
 */
export class EntryTable {
  #bytes = Buffer.alloc(4_096)
  #used = 0
  /** Expiry of each, in its order: seconds since 1970, which last until 2106. */
  #expiries = new Uint32Array(64)
  #count = 0

  get count(): number {
    return this.#count
  }

  /** A view that stays as it is, whatever is done to the table later. */
  get bytes(): Buffer {
    return this.#bytes.subarray(0, this.#used)
  }

  /** With each entry the next four octets of it, in the order that this machine has numbers in; a view, too. */
  get expiries(): Buffer {
    return Buffer.from(this.#expiries.buffer, 0, this.#count * 4)
  }

  /**
   * A table as another one was.
   *
   * @param sizes octets of its `bytes`, and its `count`
   * @param fill  is given the place of its `bytes`, then that of its `expiries`
   */
  static async read(
    sizes: { bytes: number; count: number },
    fill: (into: Buffer) => Promise<void>,
  ): Promise<EntryTable> {
    const table = new EntryTable()
    // With room to begin with: the first that comes does not move all that is there.
    table.#bytes = Buffer.alloc(sizes.bytes + table.#bytes.length)
    table.#expiries = new Uint32Array(sizes.count + table.#expiries.length)
    table.#used = sizes.bytes
    table.#count = sizes.count
    await fill(table.bytes)
    await fill(table.expiries)
    return table
  }

  /** For an entry whose serial is known not to be here. */
  append(entry: TableEntry): void {
    this.#push(encodeEntry(entry), Math.min(Math.ceil(entry.notAfter.getTime() / 1000), 0xffff_ffff))
  }

  /** @param changes by serial: what its entry is from now on, or that it has none */
  apply(changes: ReadonlyMap<string, TableEntry | undefined>): void {
    // Two octets tell most serials apart, and are read without a string for each.
    const endings = new Set([...changes.keys()].map((serial) => Number.parseInt(serial.slice(-4), 16)))
    this.#keep((at) => {
      const end = at + 4 + this.#bytes[at + 3]!
      if (!endings.has(serialEnding(this.#bytes, at + 4, end))) return true
      return !changes.has(this.#bytes.toString('hex', at + 4, end).replace(/^00(?=.)/, ''))
    })
    for (const entry of changes.values()) if (entry !== undefined) this.append(entry)
  }

  /** Entries of certificates that had expired by then leave. @returns whether there were any */
  dropExpired(before: Date): boolean {
    const limit = before.getTime() / 1000
    const { count } = this
    this.#keep((_at, index) => this.#expiries[index]! >= limit)
    return this.count < count
  }

  /** What has been handed out is not touched: where something goes, the rest moves to another place. */
  #keep(isKept: (at: number, index: number) => boolean): void {
    const gone: number[] = []
    for (let at = 0, index = 0; at < this.#used; at += this.#bytes[at + 1]! + 2, index++) {
      if (!isKept(at, index)) gone.push(at, index)
    }
    if (gone.length === 0) return
    const [bytes, expiries, used, count] = [this.#bytes, this.#expiries, this.#used, this.#count]
    this.#bytes = Buffer.alloc(bytes.length)
    this.#expiries = new Uint32Array(expiries.length)
    this.#used = 0
    this.#count = 0
    let [from, first] = [0, 0]
    for (let i = 0; i <= gone.length; i += 2) {
      const [to, last] = i < gone.length ? [gone[i]!, gone[i + 1]!] : [used, count]
      this.#expiries.set(expiries.subarray(first, last), this.#count)
      this.#used += bytes.copy(this.#bytes, this.#used, from, to)
      this.#count += last - first
      if (i < gone.length) [from, first] = [to + bytes[to + 1]! + 2, last + 1]
    }
  }

  #push(der: Buffer, expiry: number): void {
    if (this.#used + der.length > this.#bytes.length) {
      this.#bytes = Buffer.concat([this.bytes], this.#bytes.length * 2)
    }
    if (this.#count === this.#expiries.length) {
      const longer = new Uint32Array(this.#count * 2)
      longer.set(this.#expiries)
      this.#expiries = longer
    }
    this.#used += der.copy(this.#bytes, this.#used)
    this.#expiries[this.#count++] = expiry
  }
}

/** What `serial.slice(-4)` is in hex. An entry is SEQUENCE, length, INTEGER, length, serial; under 128 octets in all. */
function serialEnding(bytes: Buffer, start: number, end: number): number {
  return end - start === 1 ? bytes[start]! : bytes.readUInt16BE(end - 2)
}
