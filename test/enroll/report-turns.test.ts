import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ReportTurns } from '../../enroll/report-turns.ts'

const never = new AbortController().signal

test('a burst passes at once; then reports pass in order as time goes by, larger ones later', async () => {
  let now = 0
  const turns = new ReportTurns(10, () => now)
  const waits: number[] = []
  const next = (bytes: number, gone = never) => turns.next(bytes, gone, (ms) => waits.push(ms))
  for (let n = 0; n < 1_000; n++) assert.equal(next(100), true)
  now += 100
  assert.equal(next(2_048 * 3), true, 'what is left is enough to begin with')
  const gone = AbortSignal.abort()
  const late = [next(100), next(100, gone)]
  assert.ok(late.every((turn) => turn instanceof Promise))
  assert.deepEqual(await Promise.all(late), [true, false], 'who is gone has no turn and takes none')
  assert.deepEqual(waits, [201])
  now += 1_000_000
  for (let n = 0; n < 1_000; n++) assert.equal(next(100), true)
  assert.notEqual(next(100), true, 'time that was not used is not saved for longer than a burst')
})
