import assert from 'node:assert/strict'
import { test } from 'node:test'
import { LogLimit } from '../../runtime/log-limit.ts'

test('a burst is told whole, then one line in each period says how many were left out', () => {
  const limit = new LogLimit({ burst: 3, everyMs: 1_000 })
  const told = Array.from({ length: 10 }, (_, at) => limit.take('a', at * 10))
  assert.deepEqual(told.slice(0, 4), [{ suppressed: 0 }, { suppressed: 0 }, { suppressed: 0 }, undefined])
  assert.deepEqual(limit.take('b', 90), { suppressed: 0 }, 'each key for itself')
  assert.deepEqual(limit.take('a', 1_500), { suppressed: 7 })
  assert.equal(limit.take('a', 1_600), undefined)
  assert.deepEqual(limit.take('a', 2_600), { suppressed: 1 })
})

test('after a long quiet a key has its burst again', () => {
  const limit = new LogLimit({ burst: 1, everyMs: 1_000 })
  limit.take('a', 0)
  limit.take('a', 10)
  assert.deepEqual(limit.take('a', 10_000), { suppressed: 1 })
})

test('a clock that is set back leaves nothing out that a new key would tell', () => {
  const limit = new LogLimit({ burst: 1, everyMs: 1_000 })
  limit.take('a', 1_000_000)
  assert.equal(limit.take('a', 1_000_001), undefined)
  assert.deepEqual(limit.take('a', 10), { suppressed: 1 })
  assert.equal(limit.take('a', 11), undefined)
})

test('more keys than may be remembered forget the oldest', () => {
  const limit = new LogLimit({ burst: 1, everyMs: 1_000, maxKeys: 2 })
  for (const key of ['a', 'b', 'c']) limit.take(key, 0)
  assert.deepEqual(limit.take('a', 1), { suppressed: 0 })
  assert.equal(limit.take('c', 1), undefined)
})

test('keys that have been quiet, and have nothing left to tell, are not remembered', () => {
  const limit = new LogLimit({ burst: 1, everyMs: 1_000 })
  for (const key of ['quiet', 'quiet too', 'later']) limit.take(key, key === 'later' ? 5_000 : 0)
  limit.take('new', 7_000)
  assert.equal(limit.size, 2)
  limit.take('later', 5_500)
  limit.take('newer', 20_000)
  assert.equal(limit.size, 3, 'one has something to tell')
})
