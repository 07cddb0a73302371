/**
 * DER (X.690 10 and 11), strict and bounded: what this reader accepts has one encoding only, so equal values are equal
 * bytes. Input may be hostile; nothing is believed before its length has been checked against what is there.
 */

/** Where and why bytes are not the DER that was expected. */
export class DerError extends Error {
  override readonly name = 'DerError'
}

export const tags = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  null: 0x05,
  oid: 0x06,
  enumerated: 0x0a,
  utf8String: 0x0c,
  printableString: 0x13,
  ia5String: 0x16,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
  set: 0x31,
} as const

/** Tag of `[n]` when it holds other elements (EXPLICIT, or IMPLICIT over SEQUENCE and SET). */
export const contextConstructed = (n: number): number => 0xa0 | n
/** Tag of `[n]` IMPLICIT over a primitive type. */
export const contextPrimitive = (n: number): number => 0x80 | n

/** One value; `content` and `der` (header included) are views into the bytes that were read. */
export class DerElement {
  readonly #bytes: Buffer
  readonly #place: Place

  constructor(bytes: Buffer, place: Place) {
    this.#bytes = bytes
    this.#place = place
  }

  get tag(): number {
    return this.#bytes[this.#place.start]!
  }

  get content(): Buffer {
    return this.#bytes.subarray(this.#place.content, this.#place.end)
  }

  get der(): Buffer {
    return this.#bytes.subarray(this.#place.start, this.#place.end)
  }
}

/** Where in its bytes a value and its content begin, and where both end. A view costs more than all the reading beside. */
type Place = { start: number; content: number; end: number }

const maxDepth = 16
const constructedBit = 0x20

/**
 * A reader over exactly one element. The whole tree has been checked when this returns: definite minimal lengths, nothing
 * after the element, at most 16 levels, and each primitive of a universal type in its only form.
 *
 * @param maxBytes more than this is refused before anything is read
 */
export function readDer(bytes: Uint8Array, maxBytes: number): DerReader {
  if (bytes.length > maxBytes) throw new DerError(`${bytes.length} bytes, at most ${maxBytes} are read`)
  const buffer = Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  const end = endOf(buffer, 0, contentAt(buffer, 0, buffer.length))
  if (end !== buffer.length) throw new DerError(`${buffer.length - end} bytes after the end of the value`)
  check(buffer, 0, end, 1)
  return new DerReader(buffer, 0, end)
}

/** Reads the elements of checked bytes one after another; every method throws DerError when something else is there. */
export class DerReader {
  readonly #bytes: Buffer
  readonly #end: number
  #at: number
  /** Of the last one that was passed, which ends at `#at`. */
  #content = 0

  constructor(bytes: Buffer, start: number, end: number) {
    this.#bytes = bytes
    this.#at = start
    this.#end = end
  }

  get done(): boolean {
    return this.#at === this.#end
  }

  get nextTag(): number | undefined {
    return this.done ? undefined : this.#bytes[this.#at]
  }

  /** The next element, of this tag if one is given. */
  next(tag?: number): DerElement {
    const start = this.#at
    this.#pass(tag)
    return new DerElement(this.#bytes, { start, content: this.#content, end: this.#at })
  }

  #pass(tag?: number): void {
    if (this.done) throw new DerError(`a value is missing${tag === undefined ? '' : ` (tag ${hex(tag)})`}`)
    const content = contentAt(this.#bytes, this.#at, this.#end)
    const seen = this.#bytes[this.#at]!
    if (tag !== undefined && seen !== tag) throw new DerError(`tag ${hex(seen)} where ${hex(tag)} belongs`)
    this.#at = endOf(this.#bytes, this.#at, content)
    this.#content = content
  }

  optional(tag: number): DerElement | undefined {
    return this.nextTag === tag ? this.next(tag) : undefined
  }

  /** A reader over the elements inside the next one. */
  enter(tag: number = tags.sequence): DerReader {
    this.#pass(tag)
    return new DerReader(this.#bytes, this.#content, this.#at)
  }

  enterOptional(tag: number): DerReader | undefined {
    return this.nextTag === tag ? this.enter(tag) : undefined
  }

  end(): void {
    if (!this.done) throw new DerError(`an unexpected value (tag ${hex(this.nextTag!)})`)
  }

  boolean(): boolean {
    this.#pass(tags.boolean)
    return this.#bytes[this.#content] === 0xff
  }

  /** Two's complement, big endian, minimal. */
  integer(): Buffer {
    return this.next(tags.integer).content
  }

  /** An INTEGER from 0 to 127, which is all that versions and path lengths need. */
  smallInteger(): number {
    this.#pass(tags.integer)
    const value = this.#bytes[this.#content]!
    if (this.#at - this.#content !== 1 || value > 0x7f) throw new DerError('an INTEGER outside 0 to 127')
    return value
  }

  oid(): string {
    this.#pass(tags.oid)
    return decodeOid(this.#bytes, this.#content, this.#at)
  }

  octetString(): Buffer {
    return this.next(tags.octetString).content
  }

  /** A BIT STRING of whole octets. */
  bitString(): Buffer {
    const { bytes, unusedBits } = this.bits()
    if (unusedBits !== 0) throw new DerError('a BIT STRING that is not whole octets')
    return bytes
  }

  bits(): { bytes: Buffer; unusedBits: number } {
    this.#pass(tags.bitString)
    return { bytes: this.#bytes.subarray(this.#content + 1, this.#at), unusedBits: this.#bytes[this.#content]! }
  }

  /** UTCTime or GeneralizedTime in the one form that RFC 5280 4.1.2.5 allows: seconds, Z, no fraction. */
  time(): Date {
    const tag = this.nextTag
    this.#pass()
    if (tag !== tags.utcTime && tag !== tags.generalizedTime)
      throw new DerError(`tag ${hex(tag!)} where a time belongs`)
    return decodeTime(tag, this.#bytes.toString('latin1', this.#content, this.#at))
  }
}

const hex = (value: number): string => `0x${value.toString(16).padStart(2, '0')}`

/** @returns where the content of the value at `at` begins; its end has been checked against what is there */
function contentAt(bytes: Buffer, at: number, limit: number): number {
  if (limit - at < 2) throw new DerError('cut off in a tag or length')
  const tag = bytes[at]!
  let length = bytes[at + 1]!
  if ((tag & 0x1f) === 0x1f) throw new DerError('a tag number above 30')
  let content = at + 2
  if (length === 0x80) throw new DerError('an indefinite length')
  if (length > 0x80) {
    const octets = length & 0x7f
    if (octets > 4) throw new DerError(`a length of ${octets} octets`)
    if (content + octets > limit) throw new DerError('cut off in a length')
    length = bytes.readUIntBE(content, octets)
    // X.690 10.1: as few length octets as possible.
    if (length < 0x80 || bytes[content] === 0) throw new DerError('a length that is not minimal')
    content += octets
  }
  if (content + length > limit) throw new DerError(`cut off: ${length} bytes announced, ${limit - content} there`)
  return content
}

/** @param content where `contentAt` found that it begins */
const endOf = (bytes: Buffer, at: number, content: number): number =>
  content + (content === at + 2 ? bytes[at + 1]! : bytes.readUIntBE(at + 2, content - at - 2))

/** The value at `at` and all that is in it, without an object for each. @returns where it ends */
function check(bytes: Buffer, at: number, limit: number, depth: number): number {
  const tag = bytes[at]!
  const content = contentAt(bytes, at, limit)
  const end = endOf(bytes, at, content)
  if (depth > maxDepth) throw new DerError(`nested more than ${maxDepth} levels deep`)
  if ((tag & constructedBit) !== 0) {
    // X.690 10.2: a string type is never constructed in DER, so SEQUENCE and SET are the only universal ones left.
    if (tag < 0x40 && tag !== tags.sequence && tag !== tags.set)
      throw new DerError(`a constructed value (tag ${hex(tag)})`)
    for (let inner = content; inner < end; ) inner = check(bytes, inner, end, depth + 1)
    return end
  }
  checkPrimitive(bytes, { tag, content, end })
  return end
}

function checkPrimitive(bytes: Buffer, { tag, content, end }: { tag: number; content: number; end: number }): void {
  switch (tag) {
    case 0x00:
      throw new DerError('an end-of-contents mark')
    case 0x10:
    case 0x11:
      throw new DerError('a primitive SEQUENCE or SET')
    case tags.boolean:
      if (end - content !== 1 || (bytes[content] !== 0x00 && bytes[content] !== 0xff))
        throw new DerError('a BOOLEAN not 00 or ff')
      return
    case tags.integer:
      checkInteger(bytes, content, end)
      return
    case tags.bitString:
      checkBitString(bytes, content, end)
      return
    case tags.null:
      if (end !== content) throw new DerError('a NULL with content')
      return
    case tags.oid:
      checkOid(bytes, content, end)
  }
}

function checkInteger(bytes: Buffer, start: number, end: number): void {
  if (start === end) throw new DerError('an INTEGER without content')
  if (end - start === 1) return
  const [first, second] = [bytes[start]!, bytes[start + 1]!]
  // X.690 8.3.2: the first nine bits are not all equal.
  if ((first === 0x00 && second < 0x80) || (first === 0xff && second >= 0x80))
    throw new DerError('an INTEGER not minimal')
}

function checkBitString(bytes: Buffer, start: number, end: number): void {
  const unused = bytes[start]!
  if (start === end || unused > 7 || (end - start === 1 && unused !== 0)) {
    throw new DerError('a BIT STRING with a wrong count of unused bits')
  }
  // X.690 11.2.1: unused bits are zero.
  if ((bytes[end - 1]! & ((1 << unused) - 1)) !== 0 && end - start > 1) {
    throw new DerError('a BIT STRING with unused bits set')
  }
}

function checkOid(bytes: Buffer, start: number, end: number): void {
  if (start === end || end - start > 64) throw new DerError(`an OBJECT IDENTIFIER of ${end - start} octets`)
  let arcStarts = true
  for (let at = start; at < end; at++) {
    if (arcStarts && bytes[at] === 0x80) throw new DerError('an OBJECT IDENTIFIER with a padded arc')
    arcStarts = bytes[at]! < 0x80
  }
  if (!arcStarts) throw new DerError('an OBJECT IDENTIFIER cut off in an arc')
}

function decodeOid(bytes: Buffer, start: number, end: number): string {
  let text = ''
  let arc = 0n
  let small = 0
  let octets = 0
  for (let at = start; at < end; at++) {
    const octet = bytes[at]!
    // Seven octets are 49 bits, which a number holds exactly; only larger arcs need the slower kind.
    if (++octets <= 7) small = small * 128 + (octet & 0x7f)
    else arc = ((octets === 8 ? BigInt(small) : arc) << 7n) | BigInt(octet & 0x7f)
    if (octet >= 0x80) continue
    const value = octets <= 7 ? small : arc
    if (text === '') {
      const top = value < 40 ? 0 : value < 80 ? 1 : 2
      text = `${top}.${typeof value === 'bigint' ? value - BigInt(top * 40) : value - top * 40}`
    } else text += `.${value}`
    small = 0
    octets = 0
  }
  return text
}

function decodeTime(tag: number, text: string): Date {
  const found = (tag === tags.utcTime ? /^\d{12}Z$/ : /^\d{14}Z$/).test(text)
  if (!found) throw new DerError('a time not in the form of RFC 5280 4.1.2.5')
  const two = (at: number): number => text.charCodeAt(at) * 10 + text.charCodeAt(at + 1) - 11 * 48
  // RFC 5280 4.1.2.5.1: 50 to 99 are 19YY, 00 to 49 are 20YY.
  const [year, rest] = tag === tags.utcTime ? [two(0) + (two(0) >= 50 ? 1900 : 2000), 2] : [two(0) * 100 + two(2), 4]
  const [month, day] = [two(rest), two(rest + 2)]
  const [hour, minute, second] = [two(rest + 4), two(rest + 6), two(rest + 8)]
  const date = new Date(0)
  date.setUTCFullYear(year, month - 1, day)
  // Date rolls over what is out of range; the calendar and the clock do not.
  const inRange = date.getUTCMonth() === month - 1 && date.getUTCDate() === day
  if (!inRange || hour > 23 || minute > 59 || second > 59) throw new DerError('a time that is not in the calendar')
  date.setUTCHours(hour, minute, second)
  return date
}

/** One element; `parts` are its content. */
export function element(tag: number, ...parts: Uint8Array[]): Buffer {
  const length = lengthOf(parts)
  const der = Buffer.allocUnsafe(headerLength(length) + length)
  let at = writeHeader(der, tag, length)
  for (const part of parts) {
    der.set(part, at)
    at += part.length
  }
  return der
}

/** What stands before `length` octets of content. */
export function elementHeader(tag: number, length: number): Buffer {
  const header = Buffer.allocUnsafe(headerLength(length))
  writeHeader(header, tag, length)
  return header
}

const headerLength = (length: number): number => (length < 0x80 ? 2 : 2 + octetCount(length))

/** @returns where the content begins */
function writeHeader(der: Buffer, tag: number, length: number): number {
  der[0] = tag
  if (length < 0x80) {
    der[1] = length
    return 2
  }
  const octets = octetCount(length)
  der[1] = 0x80 | octets
  return der.writeUIntBE(length, 2, octets)
}

const octetCount = (length: number): number =>
  length < 0x100 ? 1 : length < 0x1_0000 ? 2 : length < 0x100_0000 ? 3 : 4

export function lengthOf(parts: readonly Uint8Array[]): number {
  let length = 0
  for (const part of parts) length += part.length
  return length
}

function octetsOf(value: number): number[] {
  const octets: number[] = []
  for (let rest = value; rest > 0; rest = Math.floor(rest / 256)) octets.unshift(rest % 256)
  return octets
}

export const sequence = (...parts: Uint8Array[]): Buffer => element(tags.sequence, ...parts)
/** SET OF: X.690 11.6 orders the elements by their bytes. */
export const setOf = (...parts: Uint8Array[]): Buffer => element(tags.set, ...parts.toSorted(Buffer.compare))
export const octetString = (content: Uint8Array): Buffer => element(tags.octetString, content)
export const bitString = (content: Uint8Array, unusedBits = 0): Buffer =>
  element(tags.bitString, Buffer.of(unusedBits), content)
export const boolean = (value: boolean): Buffer => element(tags.boolean, Buffer.of(value ? 0xff : 0x00))
export const enumerated = (value: number): Buffer => element(tags.enumerated, Buffer.of(value))
export const utf8String = (text: string): Buffer => element(tags.utf8String, Buffer.from(text, 'utf8'))

/** @param value any whole number that is not negative, or its magnitude in big-endian octets */
export function integer(value: number | Uint8Array): Buffer {
  const octets = typeof value === 'number' ? Buffer.from(octetsOf(value)) : value
  let start = 0
  while (start < octets.length - 1 && octets[start] === 0) start++
  const magnitude = octets.subarray(start)
  return element(tags.integer, magnitude.length === 0 || magnitude[0]! > 0x7f ? Buffer.of(0) : Buffer.of(), magnitude)
}

const oidCache = new Map<string, Buffer>()

/** @param dotted a constant of ours: encodings are kept */
export function oid(dotted: string): Buffer {
  let encoded = oidCache.get(dotted)
  if (encoded === undefined) {
    const [top, second, ...rest] = dotted.split('.').map(BigInt)
    if (top === undefined || second === undefined || top > 2n || (top < 2n && second > 39n)) {
      throw new DerError(`${dotted} is not an OBJECT IDENTIFIER`)
    }
    encoded = element(tags.oid, Buffer.from([top * 40n + second, ...rest].flatMap(arcOctets)))
    oidCache.set(dotted, encoded)
  }
  return encoded
}

function arcOctets(arc: bigint): number[] {
  const octets = [Number(arc & 0x7fn)]
  for (let rest = arc >> 7n; rest > 0n; rest >>= 7n) octets.unshift(Number(rest & 0x7fn) | 0x80)
  return octets
}

/** RFC 5280 4.1.2.5: UTCTime through 2049, GeneralizedTime from 2050; milliseconds are cut off. */
export function time(date: Date): Buffer {
  const year = date.getUTCFullYear()
  return year >= 1950 && year < 2050 ? encodeTime(tags.utcTime, [year % 100], date) : generalizedTime(date)
}

/** Seconds, Z, no fraction: the form that RFC 5280 4.1.2.5.2 and RFC 6960 4.2.2.1 ask for. */
export function generalizedTime(date: Date): Buffer {
  const year = date.getUTCFullYear()
  return encodeTime(tags.generalizedTime, [Math.floor(year / 100), year % 100], date)
}

function encodeTime(tag: number, year: number[], date: Date): Buffer {
  const rest = [
    date.getUTCMonth() + 1,
    date.getUTCDate(),
    date.getUTCHours(),
    date.getUTCMinutes(),
    date.getUTCSeconds(),
  ]
  const text = `${[...year, ...rest].map((value) => (value < 10 ? `0${value}` : value)).join('')}Z`
  return element(tag, Buffer.from(text, 'latin1'))
}
