import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { BrokerStore } from '../../../broker/store.ts'
import { Reports } from '../../../broker/trust/reports.ts'
import { type BrokerReport, maxReportsUnderWay } from '../../../contract/broker-reports.ts'
import { eventually, TestLog } from '../../harness/broker.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-reports-'))
const store = await BrokerStore.open(folder)
after(async () => {
  await store[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true })
})

const testLog = new TestLog()
let made = 0
const open = (more: { maxWaiting?: number; repeatMs?: number } = {}) =>
  Reports.open({
    area: store.reports,
    newId: () => `00000000-${made++}`,
    clock: () => new Date(),
    log: testLog.log,
    ...more,
  })
const report = (detail: string): BrokerReport => ({
  type: 'alert',
  at: '2026-03-01T09:00:00.000Z',
  kind: 'stolen',
  listener: 'mqtts',
  remoteAddress: '192.0.2.1',
  detail,
  count: 1,
})

/** What goes out, and noting it. */
function enroll(reports: Reports) {
  const sent: { id: string; detail: string }[] = []
  reports.start((id, said) => sent.push({ id, detail: (said as { detail: string }).detail }))
  return { sent, note: (at: number) => reports.noted(sent[at]!.id), details: () => sent.map(({ detail }) => detail) }
}

test('what was not noted goes out again after a loss of the connection and of the broker, in order; what was noted does not', async () => {
  {
    await using reports = await open()
    reports.raise(report('before enroll was there'))
    const first = enroll(reports)
    reports.raise(report('b'))
    reports.raise(report('c'))
    assert.deepEqual(first.details(), ['before enroll was there', 'b', 'c'])
    first.note(0)
    reports.stop()
    const second = enroll(reports)
    assert.deepEqual(second.details(), ['b', 'c'])
    second.note(1)
    second.note(1)
    assert.equal(reports.size, 1)
  }
  await using reports = await open()
  reports.raise(report('d'))
  const third = enroll(reports)
  assert.deepEqual(third.details(), ['b', 'd'])
  third.note(0)
  third.note(1)
})

test('no more are under way than enroll takes at once', async () => {
  await using reports = await open()
  for (let at = 0; at <= maxReportsUnderWay + 1; at++) reports.raise(report(String(at)))
  const { sent, note } = enroll(reports)
  assert.equal(sent.length, maxReportsUnderWay)
  note(5)
  assert.equal(sent.at(-1)!.detail, String(maxReportsUnderWay))
  for (let at = 0; at < sent.length; at++) note(at)
  assert.equal(reports.size, 0)
})

test('one that enroll could not write goes out again by itself', async () => {
  await using reports = await open({ repeatMs: 5 })
  const { sent, note } = enroll(reports)
  reports.raise(report('again'))
  await eventually(() => sent.length > 1)
  assert.equal(sent[1]!.id, sent[0]!.id)
  note(0)
})

test('more than may wait is dropped, and the log says so once', async () => {
  await using reports = await open({ maxWaiting: 2 })
  for (const detail of ['a', 'b', 'c', 'd']) reports.raise(report(detail))
  const { details, note } = enroll(reports)
  assert.deepEqual(details(), ['a', 'b'])
  assert.equal(testLog.lines.filter(({ event }) => event === 'report.dropped').length, 1)
  note(0)
  note(1)
})

test('verdicts leave room for what else there is to be told, and who raises hears what is dropped', async () => {
  await using reports = await open({ maxWaiting: 10 })
  const verdict = { ...report('v'), type: 'verdict' } as unknown as BrokerReport
  const raised = (one: BrokerReport) => Array.from({ length: 10 }, () => reports.raise(one)).filter((kept) => kept)
  assert.deepEqual([raised(verdict).length, raised(report('a')).length], [8, 2])
  const { sent, note } = enroll(reports)
  for (let at = 0; at < sent.length; at++) note(at)
})
