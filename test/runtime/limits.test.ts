import assert from 'node:assert/strict'
import { test } from 'node:test'
import { AttemptLimit, networkOf } from '../../runtime/limits.ts'

test('a key may try as often as the limit says, then waits until a minute after its first attempt', () => {
  const limit = new AttemptLimit(2)
  assert.equal(limit.waitMs('a', 0), 0)
  limit.note('a', 0)
  assert.equal(limit.waitMs('a', 10_000), 0)
  limit.note('a', 10_000)
  assert.equal(limit.waitMs('a', 15_000), 45_000)
  assert.equal(limit.waitMs('a', 59_999), 1)
  assert.equal(limit.waitMs('a', 60_000), 0)
  limit.note('a', 60_000)
  assert.equal(limit.waitMs('a', 60_000), 0)
})

test('one key does not make another wait', () => {
  const limit = new AttemptLimit(1)
  limit.note('a', 0)
  assert.ok(limit.waitMs('a', 1) > 0)
  assert.equal(limit.waitMs('b', 1), 0)
})

test('nobody waits longer because the clock was set back', () => {
  const limit = new AttemptLimit(1)
  limit.note('a', 1_000_000)
  assert.equal(limit.waitMs('a', 10), 0)
  limit.note('a', 10)
  assert.equal(limit.waitMs('a', 20), 59_990)
})

test('at its bound the key that began first is forgotten, one that began again is young', () => {
  const limit = new AttemptLimit(1, { maxKeys: 2 })
  limit.note('a', 0)
  limit.note('b', 1)
  limit.note('a', 60_000)
  limit.note('c', 60_001)
  assert.deepEqual(
    [limit.waitMs('a', 60_002) > 0, limit.waitMs('b', 60_002) > 0, limit.waitMs('c', 60_002) > 0],
    [true, false, true],
  )
})

test('addresses of one /64 are one network, however they are written', () => {
  const same = ['2001:db8::7', '2001:db8::8:9', '2001:db8::a:b:c:d', '2001:db8:0:0:1:2:3:4', '2001:db8:0:0:ffff::']
  assert.deepEqual(new Set(same.map(networkOf)), new Set(['2001:db8:0:0']))
  assert.deepEqual(['2001:db8:1:2::7', '::1', '192.0.2.7', '::ffff:192.0.2.7', 'unknown'].map(networkOf), [
    '2001:db8:1:2',
    '0:0:0:0',
    '192.0.2.7',
    '::ffff:192.0.2.7',
    'unknown',
  ])
})
