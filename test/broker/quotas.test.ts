import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { DeviceQuota } from '../../broker/backends/session-store.ts'
import { Quotas } from '../../broker/quotas.ts'
import { policyLimits } from '../../contract/policy-limits.ts'

const base: DeviceQuota = {
  sessions: 1,
  subscriptions: 1,
  messages: 1,
  bytes: 1,
  retained: 10,
  retainedBytes: 1_000,
}
const limits = (given: object) => policyLimits.parse(given)

test('a device sends its burst at once and then at its rate, and is told how long to wait', () => {
  const quotas = new Quotas(base)
  const ten = limits({ messagesPerSecond: { rate: 10, burst: 2 } })
  assert.deepEqual(
    [0, 0, 0].map(() => quotas.take('a', ten, 1, 1_000)),
    [0, 0, 100],
  )
  assert.equal(quotas.take('b', ten, 1, 1_000), 0)
  assert.equal(quotas.take('a', ten, 1, 1_099), 1)
  assert.equal(quotas.take('a', ten, 1, 1_100), 0)
  assert.deepEqual(
    [0, 0, 0].map(() => quotas.take('a', ten, 1, 60_000)),
    [0, 0, 100],
  )
  // A clock that is set back gives nothing and takes nothing.
  assert.equal(quotas.take('a', ten, 1, 5_000), 100)
})

test('wills are published and owed, until more is owed than another burst or a will of each connection', () => {
  const quotas = new Quotas({ ...base, sessions: 3 })
  const one = limits({ messagesPerSecond: { rate: 1, burst: 1 } })
  const wills = (now: number, count: number) => Array.from({ length: count }, () => quotas.borrow('a', one, 1, now))
  assert.deepEqual(wills(0, 5), [true, true, true, true, false])
  assert.equal(quotas.take('a', one, 1, 0), 4_000)
  assert.deepEqual(wills(2_000, 3), [true, true, false])
  const bytes = limits({ bytesPerSecond: { rate: 100, burst: 100 } })
  assert.deepEqual(
    [300, 1, 0].map((size) => quotas.borrow('b', bytes, size, 0)),
    [true, false, false],
  )
  assert.equal(quotas.borrow('b', bytes, 1, 1_000), true)
  assert.equal(quotas.borrow('a', limits({}), 1_000_000, 0), true)
})

test('a payload larger than what is left is let through and owed', () => {
  const quotas = new Quotas(base)
  const bytes = limits({ bytesPerSecond: { rate: 100, burst: 50 } })
  assert.equal(quotas.take('a', bytes, 250, 0), 0)
  assert.equal(quotas.take('a', bytes, 1, 0), 2_000)
  assert.equal(quotas.take('a', bytes, 0, 1_000), 1_000)
  assert.equal(quotas.take('a', bytes, 1, 2_000), 0)
})

test('without a limit nothing is counted, and a limit that comes later begins full', () => {
  const quotas = new Quotas(base)
  assert.equal(quotas.take('a', {}, 1e9, 0), 0)
  const one = limits({ messagesPerSecond: 1 })
  assert.deepEqual(
    [0, 0].map(() => quotas.take('a', one, 1, 0)),
    [0, 1_000],
  )
  const both = limits({ messagesPerSecond: 1, bytesPerSecond: 10 })
  assert.deepEqual(
    [0, 0].map(() => quotas.take('a', both, 5, 1_000)),
    [0, 1_000],
  )
})

test('a device that is over its limit stays so over any number of others', () => {
  const quotas = new Quotas(base)
  const slow = limits({ messagesPerSecond: 0.01 })
  const fast = limits({ messagesPerSecond: 1_000 })
  assert.equal(quotas.take('slow', slow, 1, 0), 0)
  for (let at = 0; at < 5_000; at++) quotas.take(`d${at}`, fast, 1, at)
  assert.equal(quotas.take('slow', slow, 1, 5_000), 95_000)
})

test('what is kept for a device is what everybody has, or less where its policy says so', () => {
  const quotas = new Quotas(base)
  assert.equal(quotas.keptFor('a'), base)
  quotas.note('a', limits({ retainedMessages: 3, retainedBytes: 5_000 }))
  assert.partialDeepStrictEqual(quotas.keptFor('a'), { sessions: 1, retained: 3, retainedBytes: 1_000 })
  quotas.note('a', {})
  assert.equal(quotas.keptFor('a'), base)
})
