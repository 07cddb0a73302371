import assert from 'node:assert/strict'
import { test } from 'node:test'
import { randomOctets } from '../../runtime/random.ts'

test('octets are as many as were asked for, of their own, and none is given out twice', () => {
  const drawn = Array.from({ length: 1_000 }, () => randomOctets(16))
  const texts = drawn.map((octets) => octets.toString('hex'))
  assert.equal(new Set(texts).size, 1_000)
  assert.ok(drawn.every(({ length }) => length === 16))
  assert.deepEqual(
    drawn.map((octets) => octets.toString('hex')),
    texts,
  )
})
