/**
 * A stream of octets, encrypted and authenticated in pieces, so that it can be made and read with little memory.
 *
 *   32 octets      salt; the key of the stream is HKDF-SHA-256(key, salt, `fleetgate sealed stream 1`), 32 octets
 *   pieces         length of what follows behind the mark (uint32), mark (uint32), AES-256-GCM of up to 64 KiB, its tag (16 octets)
 *
 * Numbers are big-endian. The nonce of a piece is its number from 0 (11 octets) and an octet that is 1 for the last piece, 0 for the others: none can
 * be left out, moved or added, and a stream that was cut is not taken for a whole one. The mark is authenticated and not encrypted.
 */
import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto'
import { FleetError } from './errors.ts'

export const sealedKeyBytes = 32
const saltBytes = 32
const pieceBytes = 65_536
const tagBytes = 16
const headBytes = 8

/** @param mark how far the maker has come, for who watches; asked for each piece */
export async function* sealStream(
  plain: AsyncIterable<Uint8Array>,
  key: Uint8Array,
  mark: () => number,
): AsyncGenerator<Buffer> {
  const salt = randomBytes(saltBytes)
  const streamKey = streamKeyOf(key, salt)
  yield salt
  let number = 0
  const seal = (piece: Buffer, isLast: boolean): Buffer => {
    const head = Buffer.alloc(headBytes)
    head.writeUInt32BE(piece.length + tagBytes, 0)
    head.writeUInt32BE(Math.min(mark(), 0xffff_ffff), 4)
    const cipher = createCipheriv('aes-256-gcm', streamKey, nonceOf(number++, isLast)).setAAD(head)
    const sealed = Buffer.concat([cipher.update(piece), cipher.final()])
    return Buffer.concat([head, sealed, cipher.getAuthTag()])
  }
  let held: Buffer[] = []
  let size = 0
  for await (const chunk of plain) {
    held.push(Buffer.from(chunk))
    size += chunk.length
    // The last piece is known as such only at the end, so something is always held back for it.
    if (size <= pieceBytes) continue
    let rest = Buffer.concat(held)
    for (; rest.length > pieceBytes; rest = rest.subarray(pieceBytes)) yield seal(rest.subarray(0, pieceBytes), false)
    held = [rest]
    size = rest.length
  }
  yield seal(Buffer.concat(held), true)
}

/**
 * What was sealed, as far as it was; only after its end it is known to be whole.
 *
 * @param watch told the mark of each piece
 * @throws FleetError `backup_unreadable` when it was changed, cut, or sealed with another key
 */
export async function* openStream(
  sealed: AsyncIterable<Uint8Array>,
  key: Uint8Array,
  watch: (mark: number) => void = () => {},
): AsyncGenerator<Buffer> {
  let rest = Buffer.alloc(0)
  let streamKey: Buffer | undefined
  let number = 0
  let ended = false
  for await (const chunk of sealed) {
    rest = rest.length === 0 ? Buffer.from(chunk) : Buffer.concat([rest, chunk])
    if (streamKey === undefined) {
      if (rest.length < saltBytes) continue
      streamKey = streamKeyOf(key, rest.subarray(0, saltBytes))
      rest = rest.subarray(saltBytes)
    }
    while (rest.length >= headBytes) {
      const length = rest.readUInt32BE(0)
      if (length < tagBytes || length > pieceBytes + tagBytes) throw unreadable('it is not what was written')
      if (rest.length < headBytes + length) break
      if (ended) throw unreadable('something stands behind its end')
      const head = rest.subarray(0, headBytes)
      const piece = rest.subarray(headBytes, headBytes + length)
      const opened =
        open(streamKey, head, piece, nonceOf(number, false)) ?? open(streamKey, head, piece, nonceOf(number, true))
      if (opened === undefined) {
        throw unreadable(number === 0 ? 'the passphrase is another one, or it was changed' : 'it was changed')
      }
      ended = opened.isLast
      number++
      watch(head.readUInt32BE(4))
      yield opened.plain
      rest = rest.subarray(headBytes + length)
    }
  }
  if (!ended || rest.length > 0) throw unreadable('it was cut off, or something stands behind its end')
}

function open(key: Buffer, head: Buffer, piece: Buffer, nonce: Buffer): { plain: Buffer; isLast: boolean } | undefined {
  const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: tagBytes }).setAAD(head)
  decipher.setAuthTag(piece.subarray(-tagBytes))
  try {
    const plain = Buffer.concat([decipher.update(piece.subarray(0, -tagBytes)), decipher.final()])
    return { plain, isLast: nonce.at(-1) === 1 }
  } catch {
    return undefined
  }
}

const streamKeyOf = (key: Uint8Array, salt: Uint8Array): Buffer =>
  Buffer.from(hkdfSync('sha256', key, salt, 'fleetgate sealed stream 1', sealedKeyBytes))

function nonceOf(number: number, isLast: boolean): Buffer {
  const nonce = Buffer.alloc(12)
  nonce.writeUIntBE(number, 5, 6)
  nonce[11] = isLast ? 1 : 0
  return nonce
}

const unreadable = (why: string): FleetError => new FleetError('backup_unreadable', `the backup cannot be read: ${why}`)
