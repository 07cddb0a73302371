import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, test } from 'node:test'
import { BrokerStore, type SnapshotUpdate } from '../../broker/store.ts'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'fleetgate-store-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

const update = (seq: number, more: Partial<SnapshotUpdate> = {}): SnapshotUpdate => ({
  cursor: { seq, hash: 'ab'.repeat(32) },
  devices: new Map(),
  certificates: new Map(),
  ...more,
})
const device = { profile: 'sensor', groups: ['lab'], status: 'active' as const }
const certificate = { serial: '01', deviceId: 'd', notAfter: '2030-01-01T00:00:00Z', status: 'issued' as const }

test('what was written is read back, the cursor with the facts', async () => {
  {
    await using store = await BrokerStore.open(folder)
    assert.equal(await store.read(), undefined)
    await store.write(update(1, { anchors: ['pem'], devices: new Map([['d', device]]) }))
    await store.write(
      update(2, { certificates: new Map([['ff', certificate]]), policy: { version: 3, document: { policies: [] } } }),
    )
  }
  await using store = await BrokerStore.open(folder)
  assert.deepEqual(await store.read(), {
    cursor: update(2).cursor,
    anchors: ['pem'],
    policy: { version: 3, document: { policies: [] } },
    devices: new Map([['d', device]]),
    certificates: new Map([['ff', certificate]]),
  })
})

test('a replaced snapshot leaves nothing of the old one', async () => {
  await using store = await BrokerStore.open(folder)
  await store.write(
    update(9, {
      devices: new Map([
        ['old', device],
        ['both', device],
      ]),
      anchors: ['old'],
    }),
  )
  await store.replace({
    ...update(1),
    anchors: [],
    policy: { version: 0, document: { policies: [] } },
    devices: new Map([['both', device]]),
  })
  const state = await store.read()
  assert.deepEqual([...state!.devices.keys()], ['both'])
  assert.equal(state!.cursor.seq, 1)
  assert.deepEqual(state!.anchors, [])
})

test('a folder that another instance has open is refused as data_in_use', async () => {
  await using _store = await BrokerStore.open(folder)
  await assert.rejects(BrokerStore.open(folder), { name: 'FleetError', code: 'data_in_use' })
})

test('a folder that cannot be a store is refused as data_damaged', async () => {
  writeFileSync(join(folder, 'file'), '')
  await assert.rejects(BrokerStore.open(join(folder, 'file')), { code: 'data_damaged' })
})
