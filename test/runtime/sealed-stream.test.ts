import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { Readable } from 'node:stream'
import { test } from 'node:test'
import { isFleetError } from '../../runtime/errors.ts'
import { openStream, sealStream } from '../../runtime/sealed-stream.ts'

const key = randomBytes(32)
const collect = async (octets: AsyncIterable<Buffer>): Promise<Buffer> =>
  Buffer.concat(await Readable.from(octets).toArray())
const sealed = (plain: Buffer, marks = () => 7): Promise<Buffer> =>
  collect(sealStream(Readable.from([plain]), key, marks))
const opened = (octets: Buffer, withKey = key, chunk = 10_000): Promise<Buffer> => {
  const chunks = Array.from({ length: Math.ceil(octets.length / chunk) }, (_, n) =>
    octets.subarray(n * chunk, (n + 1) * chunk),
  )
  return collect(openStream(Readable.from(chunks), withKey))
}
const refused = (octets: Buffer, sentence: RegExp, how: string): Promise<void> =>
  assert.rejects(
    opened(octets),
    (error: Error) => isFleetError(error, 'backup_unreadable') && sentence.test(error.message),
    how,
  )

test('what was sealed comes out, of any length and in any chunks', async () => {
  for (const length of [0, 1, 65_536, 65_537, 131_072, 200_000]) {
    const plain = randomBytes(length)
    const octets = await sealed(plain)
    for (const chunk of [13_001, 1_000_000]) assert.ok((await opened(octets, key, chunk)).equals(plain), `${length}`)
    assert.ok(length < 32 || !octets.includes(plain.subarray(0, 32)))
  }
})

test('each stream has a key of its own, and says how far its maker had come', async () => {
  const plain = randomBytes(100)
  assert.ok(!(await sealed(plain)).subarray(40).equals((await sealed(plain)).subarray(40)))
  const marks: number[] = []
  let mark = 0
  const octets = await sealed(randomBytes(150_000), () => ++mark)
  await collect(openStream(Readable.from([octets]), key, (seen) => marks.push(seen)))
  assert.deepEqual(marks, [1, 2, 3])
})

test('one that was cut, lengthened, changed, put in another order, or sealed with another key is refused', async () => {
  const octets = await sealed(randomBytes(150_000))
  const piece = 8 + 65_536 + 16
  const [salt, first, second, last] = [
    octets.subarray(0, 32),
    octets.subarray(32, 32 + piece),
    octets.subarray(32 + piece, 32 + 2 * piece),
    octets.subarray(32 + 2 * piece),
  ]
  const flipped = (at: number): Buffer => {
    const copy = Buffer.from(octets)
    copy[at]! ^= 1
    return copy
  }
  await refused(Buffer.alloc(0), /cut off/, 'nothing')
  await refused(octets.subarray(0, 32 + piece), /cut off/, 'between two pieces')
  await refused(octets.subarray(0, -1), /cut off/, 'within a piece')
  await refused(Buffer.concat([octets, Buffer.of(1)]), /behind its end/, 'an octet more')
  await refused(Buffer.concat([octets, last]), /behind its end/, 'a piece more')
  await refused(
    Buffer.concat([salt, second, first, last]),
    /passphrase is another one, or it was changed/,
    'another order',
  )
  await refused(Buffer.concat([salt, first, last]), /it was changed/, 'a piece less')
  await refused(flipped(0), /passphrase is another one/, 'salt')
  await refused(flipped(32 + 7), /passphrase is another one/, 'mark')
  await refused(flipped(32), /not what was written/, 'length')
  await refused(flipped(octets.length - 1), /it was changed/, 'tag')
  await assert.rejects(opened(octets, randomBytes(32)), /passphrase is another one/)
})
