import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, beforeEach, test } from 'node:test'
import { type Area, BrokerStore } from '../../../broker/store.ts'
import { SnapshotLog } from '../../../broker/trust/snapshot-log.ts'

let folder: string
let store: BrokerStore
let area: Area
before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'fleetgate-snapshot-log-'))
  store = await BrokerStore.open(folder)
  area = store.snapshot
})
after(async () => {
  await store[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true })
})
beforeEach(clear)

async function clear(): Promise<void> {
  const keys = (await area.page('', '', 10_000)).map(([key]) => key)
  await area.write(
    keys.map((key) => ({ type: 'del', key })),
    { sync: false },
  )
}

const records = (...texts: string[]): Buffer[] => texts.map((text) => Buffer.from(text))
async function open(of: Area = area): Promise<{ log: SnapshotLog; texts: string[] }> {
  const log = await SnapshotLog.open(of)
  const texts: string[] = []
  await log.read((record) => texts.push(String(record)))
  return { log, texts }
}
const written = async (): Promise<string[]> => (await open()).texts

test('what was appended is read in its order, what it was replaced by alone', async () => {
  const { log } = await open()
  const many = Array.from({ length: 250 }, (_, n) => `r${n}`)
  for (const record of records(...many)) await log.append(record)
  assert.deepEqual(await written(), many)
  await log.replace(records('a', 'b'))
  await log.append(Buffer.from('c'))
  assert.deepEqual(await written(), ['a', 'b', 'c'])
  const again = await open()
  await again.log.replace([])
  assert.deepEqual(await written(), [])
})

test('a replacement that breaks off leaves what there was, and nothing of it comes back', async () => {
  const { log } = await open()
  for (const record of records('old-0', 'old-1')) await log.append(record)
  const breaking = function* (): Generator<Buffer> {
    yield* records('new-0', 'new-1', 'new-2', 'new-3')
    throw new Error('no space left')
  }
  await assert.rejects(log.replace(breaking()), /no space left/)
  await log.append(Buffer.from('old-2'))
  assert.deepEqual(await written(), ['old-0', 'old-1', 'old-2'])
  await log.replace(records('next'))
  assert.deepEqual(await written(), ['next'])
})

test('a replacement that is on disk although that was said to have failed does not hide what is appended', async () => {
  let isLying = false
  const lying: Area = {
    ...area,
    write: async (operations, options) => {
      await area.write(operations, options)
      if (isLying && operations.some(({ key }) => key === 'head')) throw new Error('i/o error')
    },
  }
  const { log } = await open(lying)
  await log.append(Buffer.from('old'))
  isLying = true
  await assert.rejects(log.replace(records('new')), /i\/o error/)
  isLying = false
  await log.append(Buffer.from('later'))
  assert.deepEqual(await written(), ['old', 'later'])
})

test('an octet that has changed, and a record that is not there, are noticed', async () => {
  for (const spoil of [
    (value: Buffer) => value.fill(value[5]! ^ 1, 5, 6),
    (value: Buffer) => value.subarray(0, 3),
    () => undefined,
  ]) {
    await clear()
    const { log } = await open()
    await log.replace(records('first', 'second', 'third'))
    const [, [key, value]] = (await area.page('record!', 'record!', 10)) as [unknown, [string, Buffer]]
    const spoiled = spoil(value)
    await area.write([spoiled === undefined ? { type: 'del', key } : { type: 'put', key, value: spoiled }], {
      sync: false,
    })
    await assert.rejects(open(), { code: 'data_damaged' })
  }
})

test('it is long when more than 8 MiB came behind what it began with', async () => {
  const { log } = await open()
  const mebibyte = Buffer.alloc(1_048_576)
  await log.replace([mebibyte, mebibyte])
  for (let n = 0; n < 10; n++) {
    assert.equal(log.isLong, false)
    await log.append(mebibyte)
  }
  assert.equal(log.isLong, true)
  const again = await open()
  assert.equal(again.log.isLong, true)
  await again.log.replace([mebibyte])
  assert.equal((await open()).log.isLong, false)
})
