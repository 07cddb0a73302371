import assert from 'node:assert/strict'
import { test } from 'node:test'
import { monotonicUs, Tally } from '../../../device-sim/load/tally.ts'

test('what was taken from one process and added to another is told once, second by second', () => {
  const mine = new Tally(monotonicUs() - 2_500_000)
  mine.count('connected')
  mine.count('sent')
  mine.received(monotonicUs() - 5_000)
  mine.connecting.record(7_000)
  mine.failed('connect closed', 'without a word')
  const whole = new Tally(0)
  whole.add(structuredClone(mine.take()))
  whole.add(structuredClone(mine.take()))
  assert.deepEqual(whole.totals, { connected: 1, ended: 0, sent: 1, acknowledged: 0, received: 1 })
  assert.deepEqual(
    whole.seconds.map(({ sent, latency }) => [sent, latency.count]),
    [
      [0, 0],
      [0, 0],
      [1, 1],
    ],
  )
  assert.ok(whole.latency.percentile(50) >= 5_000)
  assert.equal(whole.connecting.count, 1)
})

test('failures are counted by their code, the most frequent first, with a bounded example of each', () => {
  const tally = new Tally(0)
  tally.failed('enroll 401', 'x'.repeat(10_000))
  for (const words of ['first', 'second']) tally.failed('connect CONNACK 5', words)
  assert.deepEqual(tally.failures, [
    { code: 'connect CONNACK 5', count: 2, example: 'first' },
    { code: 'enroll 401', count: 1, example: 'x'.repeat(300) },
  ])
})
