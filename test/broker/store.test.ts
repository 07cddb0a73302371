import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, test } from 'node:test'
import { BrokerStore } from '../../broker/store.ts'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'fleetgate-store-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

test('each area keeps its own, over a restart, and when the feed was last followed is kept beside them', async () => {
  const at = new Date('2026-01-01T00:00:00Z')
  {
    await using store = await BrokerStore.open(folder)
    for (const area of ['snapshot', 'sessions', 'denials'] as const)
      await store[area].write([{ type: 'put', key: 'key', value: Buffer.from(area) }], { sync: true })
    assert.equal(await store.readLastLive(), undefined)
    await store.writeLastLive(at)
  }
  await using store = await BrokerStore.open(folder)
  for (const area of ['snapshot', 'sessions', 'denials'] as const) {
    assert.deepEqual(await store[area].page('', '', 10), [['key', Buffer.from(area)]])
    assert.deepEqual(await store[area].getMany(['key', 'other']), [Buffer.from(area), undefined])
  }
  assert.deepEqual(await store.readLastLive(), at)
})

test('a folder that another instance has open is refused as data_in_use', async () => {
  await using _store = await BrokerStore.open(folder)
  await assert.rejects(BrokerStore.open(folder), { name: 'FleetError', code: 'data_in_use' })
})

test('a folder that cannot be a store is refused as data_damaged', async () => {
  writeFileSync(join(folder, 'file'), '')
  await assert.rejects(BrokerStore.open(join(folder, 'file')), { code: 'data_damaged' })
})
