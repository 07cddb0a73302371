import { createHash } from 'node:crypto'
import { type FileHandle, mkdir, open, rename } from 'node:fs/promises'
import { endianness } from 'node:os'
import { dirname } from 'node:path'
import type { Cursor } from '../../contract/feed.ts'
import { EntryTable } from '../../pki/entry-table.ts'
import { FleetError } from '../../runtime/errors.ts'

/** What the lists of one CA said when all of them were signed on schedule. */
export type KeptTables = {
  /** Name of the CA. */
  authority: string
  /** Of the lists. */
  number: number
  /** They carry what the feed has up to here. */
  cursor: Cursor
  /** Who had expired by then is not on them. */
  leavesOut: Date | undefined
  /** Of the certificates that name no list, then those of each list. */
  tables: readonly EntryTable[]
  /** Serial numbers that may leave the lists again, by device. */
  held: ReadonlyMap<string, ReadonlySet<string>>
}

type Head = Pick<KeptTables, 'authority' | 'number' | 'cursor'> & {
  version: number
  endianness: string
  leavesOut?: string
  tables: { bytes: number; count: number }[]
  /** How long each piece is. */
  held: number[]
}

const version = 1
/** What SHA-256 takes in about a millisecond. */
const sliceBytes = 1_048_576
const maxHeadBytes = 1_048_576
const heldInPiece = 1_000
const hashBytes = 32

/**
 * Writes the tables beside what there is, then in its place. What a power cut leaves of the file is found out when it is read: the
 * disk is not made to hurry, since commits of the registry would wait for tens of megabytes.
 */
export async function writeKeptTables(file: string, kept: KeptTables): Promise<void> {
  const { authority, number, cursor, leavesOut, tables } = kept
  const held = [...piecesOf(kept.held)]
  const head: Head = {
    ...{ version, endianness: endianness(), authority, number, cursor },
    ...(leavesOut === undefined ? {} : { leavesOut: leavesOut.toISOString() }),
    tables: tables.map(({ bytes, count }) => ({ bytes: bytes.length, count })),
    held: held.map(({ length }) => length),
  }
  const text = Buffer.from(JSON.stringify(head))
  const length = Buffer.alloc(4)
  length.writeUInt32BE(text.length)
  // Views, taken before anything else is done to the tables.
  const parts = [length, text, ...tables.flatMap(({ bytes, expiries }) => [bytes, expiries]), ...held]
  await mkdir(dirname(file), { recursive: true, mode: 0o700 })
  const draft = `${file}.tmp`
  {
    await using handle = await open(draft, 'w', 0o600)
    const hash = createHash('sha256')
    for (const part of parts) {
      for (const slice of slicesOf(part)) {
        hash.update(slice)
        await handle.appendFile(slice)
      }
    }
    await handle.appendFile(hash.digest())
  }
  await rename(draft, file)
}

/**
 * @returns undefined where there is no file, or one of another version or kind of machine
 * @throws FleetError `data_damaged`
 */
export async function readKeptTables(file: string): Promise<KeptTables | undefined> {
  try {
    await using handle = await open(file, 'r')
    const reader = new HashedReader(handle)
    const length = (await reader.take(4)).readUInt32BE()
    if (length > maxHeadBytes) throw new Error('the head is too long')
    const head = JSON.parse((await reader.take(length)).toString()) as Head
    if (head.version !== version || head.endianness !== endianness()) return undefined
    const tableBytes = head.tables.reduce((sum, { bytes, count }) => sum + bytes + count * 4, 0)
    const heldBytes = head.held.reduce((sum, length) => sum + length, 0)
    const { size } = await handle.stat()
    if (size !== 4 + length + tableBytes + heldBytes + hashBytes) throw new Error(`it has ${size} octets`)
    const tables: EntryTable[] = []
    for (const sizes of head.tables) tables.push(await EntryTable.read(sizes, (into) => reader.fill(into)))
    const held = new Map<string, ReadonlySet<string>>()
    for (const length of head.held) {
      const piece = JSON.parse((await reader.take(length)).toString()) as [string, string[]][]
      for (const [device, serials] of piece) held.set(device, new Set(serials))
    }
    await reader.end()
    const { authority, number, cursor, leavesOut } = head
    return {
      authority,
      number,
      cursor,
      leavesOut: leavesOut === undefined ? undefined : new Date(leavesOut),
      tables,
      held,
    }
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw new FleetError('data_damaged', `${file} cannot be used: ${(cause as Error).message}`, { cause })
  }
}

function* piecesOf(held: KeptTables['held']): Generator<Buffer> {
  const entries = [...held].map(([device, serials]) => [device, [...serials]])
  for (let at = 0; at < entries.length; at += heldInPiece)
    yield Buffer.from(JSON.stringify(entries.slice(at, at + heldInPiece)))
}

function* slicesOf(bytes: Buffer): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at += sliceBytes) yield bytes.subarray(at, at + sliceBytes)
}

/** Reads a file from its beginning; what it has given is as it was written once `end` has resolved. */
class HashedReader {
  readonly #handle: FileHandle
  readonly #hash = createHash('sha256')

  constructor(handle: FileHandle) {
    this.#handle = handle
  }

  async take(length: number): Promise<Buffer> {
    const bytes = Buffer.alloc(length)
    await this.fill(bytes)
    return bytes
  }

  async fill(into: Buffer): Promise<void> {
    for (const slice of slicesOf(into)) {
      await this.#read(slice)
      this.#hash.update(slice)
    }
  }

  async end(): Promise<void> {
    const written = Buffer.alloc(hashBytes)
    await this.#read(written)
    if (!this.#hash.digest().equals(written)) throw new Error('it is not as it was written')
  }

  async #read(slice: Buffer): Promise<void> {
    for (let at = 0; at < slice.length; ) {
      const { bytesRead } = await this.#handle.read(slice, at, slice.length - at)
      if (bytesRead === 0) throw new Error('it is cut off')
      at += bytesRead
    }
  }
}
