import assert from 'node:assert/strict'
import { test } from 'node:test'
import { htmlReport } from '../../../device-sim/load/html.ts'
import { escaped, lineChart, ticksTo } from '../../../device-sim/load/svg.ts'
import { exampleReport } from './example.ts'

test('a scale has numbers that people count in and reaches the highest value', () => {
  assert.deepEqual(ticksTo(4_999), [0, 1_000, 2_000, 3_000, 4_000, 5_000])
  assert.deepEqual(ticksTo(0.3), [0, 0.1, 0.2, 0.3])
  assert.deepEqual(ticksTo(7), [0, 2, 4, 6, 8])
  assert.deepEqual(ticksTo(0), [0, 1])
})

test('a line has a gap where nothing was measured, and a value that stands alone is seen', () => {
  const drawn = lineChart({ title: 't', unit: 'ms', step: 1, lines: [{ name: 'p50', values: [1, 2, undefined, 2] }] })
  const paths = [...drawn.matchAll(/ d="([^"]+)"/g)].map((found) => found[1])
  assert.deepEqual(paths, ['M64 106L292 12', 'M748 12h0'])
})

test('a chart without values is one', () => {
  assert.match(
    lineChart({ title: 't', unit: 'ms', step: 1, lines: [{ name: 'p50', values: [] }] }),
    /^<svg [\s\S]+<\/svg>$/,
  )
})

test('the page needs nothing from elsewhere and runs no script', () => {
  const page = htmlReport(exampleReport())
  assert.match(page, /^<!doctype html>/)
  assert.match(page, /content="default-src 'none'; style-src 'unsafe-inline'"/)
  assert.doesNotMatch(page, /<(script|link|img|iframe|object)|\b(src|href)=|url\(|@import|https?:/i)
  assert.match(page, /prefers-color-scheme: dark/)
  for (const title of ['Connected devices', 'Connect rate', 'Throughput', 'Latency end to end'])
    assert.match(page, new RegExp(`<svg [^>]*aria-label="${title}"`))
  assert.match(page, />seconds since the first connection<[\s\S]+>connections\/s<[\s\S]+>messages\/s<[\s\S]+>ms</)
})

test('what comes from a server or a command line is text in it', () => {
  const report = exampleReport()
  report.settings.mqtts = 'mqtts://"><script>alert(1)</script>'
  const page = htmlReport(report)
  assert.doesNotMatch(page, /<script|<b>not/)
  assert.match(page, /&#60;b&#62;not &#38; &#34;authorised&#34; \[31m/)
  assert.equal(escaped(`<a b='"&\u0000\n`), '&#60;a b=&#39;&#34;&#38; \n')
})

test('an interrupted run, a slow load and the absence of failures are said', () => {
  const report = exampleReport()
  assert.doesNotMatch(htmlReport(report), /interrupted|could not send/)
  report.endedBy = 'interruption'
  report.messages.latenessMs.p99 = 1_000
  report.failures = []
  assert.match(htmlReport(report), /interrupted: these[\s\S]+could not send as fast[\s\S]+<p>None\.<\/p>/)
})

test('a run of hours is drawn with as many points as fit', () => {
  const report = exampleReport()
  report.seconds = Array.from({ length: 20_000 }, (_, second) => ({ ...report.seconds[second % 80]!, second }))
  assert.ok(htmlReport(report).length < 200_000)
})
