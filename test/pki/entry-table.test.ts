import assert from 'node:assert/strict'
import { test } from 'node:test'
import { encodeEntry } from '../../pki/crl.ts'
import { EntryTable, type TableEntry } from '../../pki/entry-table.ts'
import { after, day, now } from './hierarchy.ts'

const entry = (serial: string, more: Partial<TableEntry> = {}): TableEntry => ({
  serial,
  revokedAt: now,
  reason: 'keyCompromise',
  notAfter: after(day),
  ...more,
})
const bytesOf = (...entries: TableEntry[]): Buffer => Buffer.concat(entries.map(encodeEntry))
const tableOf = (...entries: TableEntry[]): EntryTable => {
  const table = new EntryTable()
  for (const one of entries) table.append(one)
  return table
}

test('entries come, change their reason and go, by serial', () => {
  // One octet, a top bit that makes DER put 00 before it, equal endings.
  const [a, b, c, d] = [entry('05'), entry('80ff'), entry('7a80ff'), entry('1280ff')]
  const table = tableOf(a, b, c)
  const held = entry('80ff', { reason: 'certificateHold' })
  table.apply(
    new Map([
      ['80ff', held],
      ['1280ff', d],
    ]),
  )
  assert.deepEqual(table.bytes, bytesOf(a, c, held, d))
  table.apply(
    new Map([
      ['05', undefined],
      ['1280ff', undefined],
      ['99', undefined],
    ]),
  )
  assert.deepEqual([table.bytes, table.count], [bytesOf(c, held), 2])
  table.apply(
    new Map([
      ['7a80ff', undefined],
      ['80ff', undefined],
    ]),
  )
  assert.deepEqual([table.bytes.length, table.count], [0, 0])
})

test('an entry leaves when its certificate had expired by then', () => {
  const [a, b, c] = [entry('01', { notAfter: after(1_000) }), entry('02'), entry('03', { notAfter: now })]
  const table = tableOf(a, b, c)
  table.dropExpired(now)
  assert.equal(table.count, 3)
  table.dropExpired(after(1_000))
  assert.deepEqual(table.bytes, bytesOf(a, b))
  table.dropExpired(after(2_000))
  assert.deepEqual(table.bytes, bytesOf(b))
})

test('what was handed out for signing stays as it was', () => {
  const entries = Array.from({ length: 300 }, (_, i) => entry((i + 256).toString(16).padStart(32, '1')))
  const table = tableOf(...entries)
  const before = table.bytes
  table.append(entry('02'))
  table.apply(new Map([[entries[7]!.serial, undefined]]))
  table.append(entry('03'))
  assert.deepEqual(before, bytesOf(...entries))
  assert.deepEqual(table.bytes, bytesOf(...entries.toSpliced(7, 1), entry('02'), entry('03')))
})
