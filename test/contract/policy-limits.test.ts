import assert from 'node:assert/strict'
import { test } from 'node:test'
import { narrowest, type PolicyLimits, policyLimits } from '../../contract/policy-limits.ts'

const parse = (limits: object): PolicyLimits => policyLimits.parse(limits)

test('a rate may be a number, and brings in one burst what a second brings', () => {
  assert.deepEqual(parse({ messagesPerSecond: 2.5 }).messagesPerSecond, { rate: 2.5, burst: 3 })
  assert.deepEqual(parse({ messagesPerSecond: 0.1 }).messagesPerSecond, { rate: 0.1, burst: 1 })
  assert.deepEqual(parse({ bytesPerSecond: { rate: 1_000, burst: 5_000 } }).bytesPerSecond, {
    rate: 1_000,
    burst: 5_000,
  })
  // What was read once reads the same again: a document travels in this form.
  assert.deepEqual(parse(parse({ messagesPerSecond: { rate: 7 } })), { messagesPerSecond: { rate: 7, burst: 7 } })
})

test('a limit outside its range is refused', () => {
  for (const bad of [
    { messagesPerSecond: 0 },
    { messagesPerSecond: { rate: 1, burst: 0 } },
    { payloadBytes: -1 },
    { inFlight: 0 },
    { connections: 0 },
    { subscriptions: 1.5 },
    { keepAliveSeconds: { min: 60, max: 30 } },
    { keepAliveSeconds: { max: 65_536 } },
    { perDay: 1 },
  ]) {
    assert.equal(policyLimits.safeParse(bad).success, false, JSON.stringify(bad))
  }
})

test('of each limit the smallest counts, and the narrowest range of keep-alive', () => {
  const limits = narrowest([
    parse({ messagesPerSecond: { rate: 10, burst: 100 }, payloadBytes: 5, keepAliveSeconds: { min: 10 } }),
    parse({ messagesPerSecond: { rate: 20, burst: 50 }, payloadBytes: 9, keepAliveSeconds: { min: 20, max: 60 } }),
    parse({ inFlight: 3, keepAliveSeconds: { max: 90 } }),
  ])
  assert.deepEqual(limits, {
    messagesPerSecond: { rate: 10, burst: 50 },
    payloadBytes: 5,
    inFlight: 3,
    keepAliveSeconds: { min: 20, max: 60 },
  })
  assert.deepEqual(narrowest([]), {})
  const apart = narrowest([parse({ keepAliveSeconds: { min: 100 } }), parse({ keepAliveSeconds: { max: 30 } })])
  assert.deepEqual(apart.keepAliveSeconds, { min: 30, max: 30 })
})
