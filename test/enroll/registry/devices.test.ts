import assert from 'node:assert/strict'
import { test } from 'node:test'
import { findDevice, getDevice, listDevices, writeDevice } from '../../../enroll/registry/devices.ts'
import { readAll } from '../../../enroll/registry/registry.ts'
import { device } from '../../suites/registry.ts'
import { put, withRegistry } from './with-registry.ts'

test('a device is found with its revision; one that is not there is undefined, or device_unknown', () =>
  withRegistry(async (registry) => {
    await put(registry, writeDevice(device('cam-1'), 0))
    assert.deepEqual(await findDevice(registry, 'cam-1'), { rev: 1, doc: device('cam-1') })
    assert.deepEqual(await getDevice(registry, 'cam-1'), { rev: 1, doc: device('cam-1') })
    assert.equal(await findDevice(registry, 'cam-2'), undefined)
    await assert.rejects(getDevice(registry, 'cam-2'), { code: 'device_unknown', message: 'there is no device cam-2' })
    await assert.rejects(getDevice(registry, '../cam 1'), { code: 'device_unknown' })
  }))

test('devices are listed by group, profile and status, and by all of them together', () =>
  withRegistry(async (registry) => {
    await put(
      registry,
      writeDevice(device('a', { groups: ['north', 'roof'] }), 0),
      writeDevice(device('b', { groups: ['north'], profile: 'camera' }), 0),
      writeDevice(device('c', { groups: ['south', 'south'], profile: 'camera', status: 'revoked' }), 0),
      writeDevice(device('d', { groups: ['north'], profile: 'camera', status: 'revoked' }), 0),
    )
    const listed = async (filter: Parameters<typeof listDevices>[1]): Promise<string> =>
      (await readAll((paging) => listDevices(registry, { ...filter, ...paging, limit: 1 })))
        .map(({ doc }) => doc.id)
        .join('')
    const limit = 1
    assert.equal(await listed({ limit }), 'abcd')
    assert.equal(await listed({ group: 'north', limit }), 'abd')
    assert.equal(await listed({ group: 'south', limit }), 'c')
    assert.equal(await listed({ profile: 'camera', limit }), 'bcd')
    assert.equal(await listed({ status: 'active', limit }), 'ab')
    assert.equal(await listed({ status: 'revoked', limit }), 'cd')
    assert.equal(await listed({ profile: 'camera', status: 'active', limit }), 'b')
    assert.equal(await listed({ profile: 'camera', status: 'revoked', limit }), 'cd')
    assert.equal(await listed({ group: 'north', profile: 'camera', status: 'revoked', limit }), 'd')
    assert.equal(await listed({ group: 'nowhere', limit }), '')
  }))

test('a revoked device moves from one status to the other', () =>
  withRegistry(async (registry) => {
    await put(registry, writeDevice(device('a'), 0))
    await put(registry, writeDevice(device('a', { status: 'revoked', revocationReason: 'keyCompromise' }), 1))
    assert.deepEqual((await listDevices(registry, { status: 'active', limit: 10 })).items, [])
    assert.equal((await listDevices(registry, { status: 'revoked', limit: 10 })).items.length, 1)
  }))
