import assert from 'node:assert/strict'
import { PassThrough } from 'node:stream'
import { test } from 'node:test'
import { type Frame, FrameReader, FrameWriter } from '../../../broker/workers/frames.ts'

const shown = ({ kind, id, body }: Frame): unknown => [kind, id, String(body)]

async function written(write: (frames: FrameWriter) => void): Promise<Buffer> {
  const stream = new PassThrough()
  write(new FrameWriter(stream))
  await new Promise(setImmediate)
  stream.end()
  return Buffer.concat(await stream.toArray())
}

test('frames come out as they went in, however the stream is cut', async () => {
  const bytes = await written((frames) => {
    frames.tell('opened', 7, { remoteAddress: '192.0.2.1' })
    frames.send('data', 7, Buffer.from('x'.repeat(300)))
    frames.send('closed', 0xffff_ffff)
  })
  const wanted = [
    ['opened', 7, '{"remoteAddress":"192.0.2.1"}'],
    ['data', 7, 'x'.repeat(300)],
    ['closed', 0xffff_ffff, ''],
  ]
  for (const size of [1, 2, 8, 9, 10, 37, 38, 39, 100, bytes.length]) {
    const reader = new FrameReader()
    const frames: unknown[] = []
    for (let at = 0; at < bytes.length; at += size)
      frames.push(...reader.read(bytes.subarray(at, at + size)).map(shown))
    assert.deepEqual(frames, wanted, `in pieces of ${size}`)
  }
})

test('what is no frame is an error', () => {
  assert.throws(() => new FrameReader().read(Buffer.from('GET / HTTP/1.1\r\n\r\n')), RangeError)
  assert.throws(() => new FrameReader().read(Buffer.from([0, 0, 0, 0, 200, 0, 0, 0, 0])), RangeError)
})
