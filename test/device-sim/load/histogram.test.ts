import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Histogram } from '../../../device-sim/load/histogram.ts'

test('a percentile is the value that so many do not exceed, to within 1.6 per cent, from a microsecond to 35 minutes', () => {
  for (const scale of [1, 100, 2_000_000]) {
    const histogram = new Histogram()
    for (let value = 1; value <= 1_000; value++) histogram.record(value * scale)
    for (const p of [1, 50, 99, 99.9, 100]) {
      const ratio = histogram.percentile(p) / (p * 10 * scale)
      assert.ok(ratio >= 1 && ratio < 1.016, `p${p} at ${scale}: ${ratio}`)
    }
    assert.deepEqual([histogram.count, histogram.maxUs], [1_000, 1_000 * scale])
  }
})

test('what cannot be is taken for the nearest that can: before its time, or longer than 35 minutes', () => {
  const histogram = new Histogram()
  histogram.record(-5)
  assert.equal(histogram.percentile(100), 0)
  histogram.record(1e12)
  assert.deepEqual([histogram.percentile(100), histogram.maxUs], [2 ** 31 - 1, 2 ** 31 - 1])
})

test('an empty one has percentiles of 0', () => {
  assert.equal(new Histogram().percentile(99), 0)
})

test('those of several processes are added without loss', () => {
  const [one, other, both] = [new Histogram(), new Histogram(), new Histogram()]
  for (let value = 0; value < 10_000; value += 7) {
    const half = value % 2 === 0 ? one : other
    half.record(value * value)
    both.record(value * value)
  }
  one.add(structuredClone(other.part()))
  assert.deepEqual(one.part(), both.part())
  assert.deepEqual([one.count, one.maxUs], [both.count, both.maxUs])
})
