import assert from 'node:assert/strict'
import { test } from 'node:test'
import { chart, terminalReport } from '../../../device-sim/load/terminal.ts'
import { exampleReport } from './example.ts'

test('columns are as high as their value, in eighths, under a scale', () => {
  assert.deepEqual(chart('things', [0, 24, 48, 1], Math.max), [
    'things',
    '       48 │  █ ',
    '          │  █ ',
    '          │  █ ',
    '          │ ██ ',
    '          │ ██ ',
    '        0 │ ██▁',
    '          └────',
    '           0 4 s',
  ])
})

test('more seconds than columns are joined, so that a chart fits a terminal', () => {
  const lines = chart(
    'things',
    Array.from({ length: 1_000 }, (_, at) => at),
    Math.max,
  )
  assert.ok(lines.every((line) => line.length <= 80))
  assert.match(lines[1]!, /^ {6}999 │/)
})

test('no value at all draws an empty chart', () => {
  assert.equal(chart('things', [], Math.max)[1], '        0 │')
})

test('the report has rates, percentiles and failures, and what a server said cannot steer the terminal', () => {
  const text = terminalReport(exampleReport())
  assert.match(text, /connected {3}5,000 of 5,001 in 50\.0 s, 100\/s \(100\/s asked for\)/)
  assert.match(text, /received {4}29,999 of 30,000, .* 1 lost/)
  assert.match(text, /p50 +p90 +p99 +p99\.9 +max\nconnection +3\.0 +5\.0 +9\.0 +20\.0 +31\.0/)
  assert.match(text, / 1 {2}connect CONNACK 5: <b>not & "authorised" \[31m/)
  assert.ok(!text.includes('\u001b'))
})

test('a load that was itself too slow says so', () => {
  const report = exampleReport()
  assert.doesNotMatch(terminalReport(report), /could not send as fast/)
  report.messages.latenessMs.p99 = report.messages.latencyMs.p99
  assert.match(terminalReport(report), /The load could not send as fast as it was to/)
  const short = exampleReport()
  short.messages.sent--
  assert.match(terminalReport(short), /could not send as fast/)
})
