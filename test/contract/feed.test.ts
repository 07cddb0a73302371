import assert from 'node:assert/strict'
import { test } from 'node:test'
import { array, assert as assertProperty, integer, property, string } from 'fast-check'
import { decodeBody, encodeLine, LineReader, maxLineBytes } from '../../contract/feed.ts'

test('a message is one line of JSON', () => {
  assert.equal(encodeLine({ kind: 'applied', seq: 3 }), '{"kind":"applied","seq":3}\n')
  const line = encodeLine({ kind: 'hello', protocol: 1, broker: 'a\nb', cursor: { seq: 0, hash: '' } })
  assert.equal(line.indexOf('\n'), line.length - 1)
})

test('lines come out whole however the stream is cut', () => {
  assertProperty(
    property(array(string().map((text) => text.replaceAll('\n', ' '))), integer({ min: 1, max: 7 }), (lines, size) => {
      const text = lines.map((line) => `${line}\n`).join('')
      const reader = new LineReader()
      const read: string[] = []
      for (let at = 0; at < text.length; at += size) read.push(...reader.push(text.slice(at, at + size)))
      assert.deepEqual(read, lines)
    }),
  )
})

test('a line that is not ended is kept back', () => {
  const reader = new LineReader()
  assert.deepEqual(reader.push('a'), [])
  assert.deepEqual(reader.push('b\nc'), ['ab'])
  assert.deepEqual(reader.push('\n'), ['c'])
})

test('a line that is too long is refused, ended or not', () => {
  const long = 'x'.repeat(maxLineBytes)
  assert.deepEqual(new LineReader().push(`${long}\n`), [long])
  assert.throws(() => new LineReader().push(`${long}x\n`), /too long/)
  const reader = new LineReader()
  reader.push(long)
  assert.throws(() => reader.push('x'), /too long/)
})

test('a long line in short pieces costs no look at all of it with each', () => {
  const reader = new LineReader()
  const [start, pieces] = ['x'.repeat(maxLineBytes / 2), 50_000]
  reader.push(start)
  // With a look at the whole each takes milliseconds, and this test minutes.
  for (let piece = 0; piece < pieces; piece++) reader.push('y')
  assert.deepEqual(reader.push('\nz'), [start + 'y'.repeat(pieces)])
  assert.deepEqual(reader.push('\n'), ['z'])
})

test('an event body is the fact and its time', () => {
  const body = '{"type":"trust.changed","data":{"anchors":[]},"at":"2026-03-01T09:00:00.000Z"}'
  assert.deepEqual(decodeBody({ seq: 1, hash: '', body }), JSON.parse(body))
})
