import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type DeviceState, DeviceTable } from '../../../broker/trust/device-table.ts'

const state = (change: Partial<DeviceState> = {}): DeviceState => ({
  profile: 'camera',
  groups: ['hall-1', 'line-3'],
  status: 'active',
  ...change,
})

test('what is said of many devices is kept once, and what is said of one alone beside it', () => {
  const table = new DeviceTable()
  for (const id of ['cam-1', 'cam-2']) table.set(id, state())
  table.set('cam-3', state({ attributes: { site: 'berlin' } }))
  assert.equal(table.find('cam-2'), table.find('cam-1'))
  assert.equal(table.find('cam-3')?.groups, table.find('cam-1')?.groups)
  assert.deepEqual(table.find('cam-3'), state({ attributes: { site: 'berlin' } }))
})

test('a device that changes leaves those that it was like as they were, also when it is the first or the last of them', () => {
  const table = new DeviceTable()
  for (const id of ['cam-1', 'cam-2']) table.set(id, state())
  table.set('cam-1', state({ status: 'revoked', stolen: true }))
  assert.deepEqual(table.find('cam-2'), state())
  table.set('cam-2', state({ groups: ['hall-1'] }))
  table.set('cam-3', state())
  table.set('cam-3', state())
  table.set('cam-4', state())
  assert.equal(table.find('cam-3'), table.find('cam-4'))
  const again = new DeviceTable()
  for (const slice of table.slices(3)) for (const entry of slice) again.put(entry)
  for (const id of ['cam-1', 'cam-2', 'cam-3', 'cam-4']) assert.deepEqual(again.find(id), table.find(id))
  assert.deepEqual(
    again.idsWith(({ stolen }) => stolen === true),
    ['cam-1'],
  )
})
