import { revocationReasonNames } from '../../pki/revocation-list.ts'

/** What is known of a certificate. It is revoked where there is a reason. */
export type CertificateRow = {
  /** The number of its device, below 2^28. */
  owner: number
  /** Seconds since 1970, 0 where it is not known. */
  notAfter: number
  reason: string | undefined
}

// Of a row, in words of 32 bits: the SHA-256 fingerprint, notAfter, owner and the number of the reason.
const keyWords = 8
const notAfterAt = 8
const ownerAt = 9
const rowWords = 10
const ownerBits = 28
const isIssued = 15
const directoryBits = 10
const splitRows = 1_024
const sliceWords = 16_384
const lastSecond = 0xffff_ffff

/**
 * Every certificate by the whole of its fingerprint, in octets: a million take some 45 MiB, where objects would take eight times
 * that. Small tables grow one at a time, and one that is full becomes two, so that no growth is long enough to be noticed. The
 * first bits of a fingerprint choose the table and the next word the place, being as random as any hash of them would be.
 */
export class CertificateTable {
  /** By the first bits; neighbours are the same one until it is split. */
  readonly #segments = new Array<Segment>(1 << directoryBits).fill(new Segment(0))
  readonly #row = new Uint32Array(rowWords)
  readonly #octets = Buffer.from(this.#row.buffer)

  get size(): number {
    return this.#each().reduce((sum, { count }) => sum + count, 0)
  }

  /** Of the rows and the places that point to them. */
  get bytes(): number {
    return this.#each().reduce((sum, { bytes }) => sum + bytes, 0)
  }

  /** @param fingerprint 64 hex digits; another text is that of no certificate */
  find(fingerprint: string): CertificateRow | undefined {
    const segment = this.#segmentOf(fingerprint)
    const at = segment?.find(this.#row) ?? -1
    if (at < 0) return undefined
    const { rows } = segment!
    const owner = rows[at + ownerAt]!
    return {
      owner: owner & ((1 << ownerBits) - 1),
      notAfter: rows[at + notAfterAt]!,
      reason: revocationReasonNames[owner >>> ownerBits],
    }
  }

  /** A `notAfter` that was known stays where the new one is not; a reason that RFC 5280 does not have is unspecified. */
  set(fingerprint: string, { owner, notAfter, reason }: CertificateRow): void {
    const segment = this.#segmentOf(fingerprint)
    if (segment === undefined) throw new RangeError('a fingerprint of 64 hex digits is wanted')
    const before = segment.find(this.#row)
    const known = before < 0 ? 0 : segment.rows[before + notAfterAt]!
    this.#row[notAfterAt] = Math.min(notAfter || known, lastSecond)
    this.#row[ownerAt] =
      owner + (reason === undefined ? isIssued : Math.max(0, revocationReasonNames.indexOf(reason))) * 2 ** ownerBits
    this.#put(this.#row, 0, this.#octets)
  }

  /** The rows of these certificates, for `putRows` on a machine of this octet order; one that is not known is left out. */
  rowsOf(fingerprints: Iterable<string>): Buffer {
    const rows: Uint32Array[] = []
    for (const fingerprint of fingerprints) {
      const segment = this.#segmentOf(fingerprint)
      const at = segment?.find(this.#row) ?? -1
      if (at >= 0) rows.push(segment!.rows.subarray(at, at + rowWords))
    }
    return octetsOf(rows)
  }

  /** @param octets rows one behind the other; later ones go over earlier ones */
  putRows(octets: Buffer): void {
    const aligned = octets.byteOffset % 4 === 0 ? octets : Buffer.from(octets)
    const rows = new Uint32Array(aligned.buffer, aligned.byteOffset, aligned.length / 4)
    for (let at = 0; at < rows.length; ) {
      const number = segmentAt(aligned, at * 4)
      let end = at
      while (end < rows.length && segmentAt(aligned, end * 4) === number) end += rowWords
      this.#segments[number]!.reserve((end - at) / rowWords)
      for (; at < end; at += rowWords) this.#put(rows, at, aligned)
    }
  }

  /** Copies of all rows, each slice as they are when it is taken. */
  *slices(): Generator<Buffer> {
    let parts: Uint32Array[] = []
    let words = 0
    for (const { rows, count } of this.#each()) {
      parts.push(rows.slice(0, count * rowWords))
      words += count * rowWords
      if (words < sliceWords) continue
      yield octetsOf(parts)
      parts = []
      words = 0
    }
    if (words > 0) yield octetsOf(parts)
  }

  /**
   * Forgets certificates that ran out before a time; one whose end is not known stays.
   *
   * @param cutoff seconds since 1970
   * @yields between short pieces of work, how many were forgotten
   */
  *dropExpired(cutoff: number): Generator<number> {
    for (const segment of this.#each()) yield segment.dropExpired(cutoff)
  }

  /** Those that are revoked, in some pieces. */
  *revoked(): Generator<(CertificateRow & { fingerprint: string; reason: string })[]> {
    for (const { rows, count } of this.#each()) {
      const found = []
      for (let at = 0; at < count * rowWords; at += rowWords) {
        const reason = revocationReasonNames[rows[at + ownerAt]! >>> ownerBits]
        if (reason === undefined) continue
        const fingerprint = octetsOf([rows.subarray(at, at + keyWords)]).toString('hex')
        const owner = rows[at + ownerAt]! & ((1 << ownerBits) - 1)
        found.push({ fingerprint, owner, notAfter: rows[at + notAfterAt]!, reason })
      }
      yield found
    }
  }

  /** Each once. What is split meanwhile was there, or comes as what it has become. */
  *#each(): Generator<Segment> {
    for (let at = 0; at < this.#segments.length; ) {
      const segment = this.#segments[at]!
      at += 1 << (directoryBits - segment.depth)
      yield segment
    }
  }

  /** @param octets those of `rows` */
  #put(rows: Uint32Array, at: number, octets: Buffer): void {
    const number = segmentAt(octets, at * 4)
    const segment = this.#segments[number]!
    segment.put(rows, at, segment.find(rows, at))
    if (segment.count <= splitRows || segment.depth === directoryBits) return
    const length = 1 << (directoryBits - segment.depth)
    const first = number - (number % length)
    const [low, high] = segment.split()
    this.#segments.fill(low, first, first + length / 2).fill(high, first + length / 2, first + length)
  }

  /** Leaves the fingerprint in `#row`. */
  #segmentOf(fingerprint: string): Segment | undefined {
    if (fingerprint.length !== 64 || this.#octets.write(fingerprint, 0, 'hex') !== 32) return undefined
    return this.#segments[segmentAt(this.#octets, 0)]!
  }
}

const segmentAt = (octets: Buffer, at: number): number =>
  ((octets[at]! << 8) | octets[at + 1]!) >>> (16 - directoryBits)

const octetsOf = (parts: readonly Uint32Array[]): Buffer =>
  Buffer.concat(parts.map(({ buffer, byteOffset, byteLength }) => Buffer.from(buffer, byteOffset, byteLength)))

/** Rows in the order of their coming, and open addressing over places that hold the number of a row, from 1. */
class Segment {
  /** How many of their first bits its rows have in common. */
  readonly depth: number
  rows = new Uint32Array(0)
  count = 0
  #places: Uint16Array | Uint32Array = new Uint16Array(0)

  constructor(depth: number) {
    this.depth = depth
  }

  get bytes(): number {
    return this.rows.byteLength + this.#places.byteLength
  }

  /** @returns where in `rows` the row begins that has the key at `at` of `key`; -1 without one */
  find(key: Uint32Array, at = 0): number {
    const mask = this.#places.length - 1
    if (mask < 0) return -1
    for (let place = key[at + 1]! & mask; ; place = (place + 1) & mask) {
      const row = this.#places[place]!
      if (row === 0) return -1
      const start = (row - 1) * rowWords
      let word = 0
      while (word < keyWords && this.rows[start + word] === key[at + word]) word++
      if (word === keyWords) return start
    }
  }

  /** @param known where the row of this key is; -1 for a new one */
  put(row: Uint32Array, at: number, known: number): void {
    if (known < 0) this.reserve(1)
    const start = known < 0 ? this.count++ * rowWords : known
    for (let word = 0; word < rowWords; word++) this.rows[start + word] = row[at + word]!
    if (known < 0) this.#point(this.count)
  }

  /** @returns those whose next bit is 0, and the others; it is not to be used any more */
  split(): [Segment, Segment] {
    const halves: [Segment, Segment] = [new Segment(this.depth + 1), new Segment(this.depth + 1)]
    const octets = Buffer.from(this.rows.buffer)
    for (const half of halves) half.reserve(this.count / 2)
    for (let row = 0; row < this.count; row++) {
      const at = row * rowWords
      const bit = (segmentAt(octets, at * 4) >>> (directoryBits - 1 - this.depth)) & 1
      halves[bit]!.put(this.rows, at, -1)
    }
    return halves
  }

  dropExpired(cutoff: number): number {
    const before = this.count
    let kept = 0
    for (let row = 0; row < before; row++) {
      const start = row * rowWords
      const notAfter = this.rows[start + notAfterAt]!
      if (notAfter !== 0 && notAfter < cutoff) continue
      this.rows.copyWithin(kept++ * rowWords, start, start + rowWords)
    }
    if (kept < before) {
      this.rows = this.rows.slice(0, kept * rowWords)
      this.count = kept
      this.#pointAll(kept)
    }
    return before - kept
  }

  /** Makes room for so many rows more. */
  reserve(more: number): void {
    const capacity = this.rows.length / rowWords
    const wanted = this.count + more
    if (wanted > capacity) {
      const grown = new Uint32Array(Math.max(wanted, capacity + (capacity >>> 3) + 8) * rowWords)
      grown.set(this.rows)
      this.rows = grown
    }
    if (wanted * 4 > this.#places.length * 3) this.#pointAll(wanted)
  }

  /** @param room for so many rows: at least a quarter of the places stays empty, which ends each search */
  #pointAll(room: number): void {
    let length = 16
    while (room * 4 > length * 3) length *= 2
    this.#places = length > 0xffff ? new Uint32Array(length) : new Uint16Array(length)
    for (let row = 1; row <= this.count; row++) this.#point(row)
  }

  #point(row: number): void {
    const mask = this.#places.length - 1
    let place = this.rows[(row - 1) * rowWords + 1]! & mask
    while (this.#places[place] !== 0) place = (place + 1) & mask
    this.#places[place] = row
  }
}
