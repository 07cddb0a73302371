import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { MetricRow } from '../../contract/metrics.ts'
import { Metrics, Tally } from '../../runtime/metrics.ts'

const rows = {
  a_total: { type: 'counter', help: 'a', labels: ['x', 'y'] },
  b: { type: 'gauge', help: 'b', labels: [] },
  c_seconds: { type: 'histogram', help: 'c', labels: ['x'], buckets: [1, 2] },
} satisfies Record<string, MetricRow>

const lines = (text: string): string[] => text.split('\n').filter((line) => /^[abc]/.test(line))

test('what is told at a scrape is what is there, and what is left out of the next one is gone', async () => {
  let round = 0
  const metrics = new Metrics(rows, (tell) => {
    round++
    tell('b', 7 * round)
    tell('a_total', 3, 'l', 'm')
    if (round === 1) tell('a_total', 1, 'gone', '')
  })
  metrics.observe('c_seconds', 1.5, 'op')
  assert.deepEqual(lines(await metrics.text()).slice(0, 3), [
    'a_total{x="l",y="m"} 3',
    'a_total{x="gone",y=""} 1',
    'b 7',
  ])
  const again = lines(await metrics.text())
  assert.deepEqual(again.slice(0, 2), ['a_total{x="l",y="m"} 3', 'b 14'])
  assert.ok(again.includes('c_seconds_bucket{le="2",x="op"} 1') && again.includes('c_seconds_count{x="op"} 1'))
})

test('scrapes at one time are one look, and one that fails does not stay', async () => {
  let looks = 0
  const metrics = new Metrics(rows, async () => {
    looks++
    if (looks === 1) throw new Error('the store is away')
  })
  const both = await Promise.allSettled([metrics.text(), metrics.text()])
  assert.deepEqual([both.map(({ status }) => status), looks], [['rejected', 'rejected'], 1])
  assert.match(await metrics.text(), /^process_cpu_seconds_total /m)
})

test('a tally counts by its labels', () => {
  const tally = new Tally()
  tally.add(1, 'a', '')
  tally.add(4, 'a', '')
  tally.add(1, 'b', 'c')
  assert.deepEqual(
    [...tally],
    [
      [5, ['a', '']],
      [1, ['b', 'c']],
    ],
  )
})
