import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  factNameOf,
  factsOfClient,
  factsOfDevice,
  isFactName,
  isMatchName,
  isVariable,
} from '../../contract/principal-facts.ts'

test('a record gives id, profile, groups and each attribute under a name of its own', () => {
  const device = { id: 'cam-1', profile: 'camera', groups: ['roof'], attributes: { constructor: 'x', site: 'berlin' } }
  assert.deepEqual(factsOfDevice(device), {
    'device.id': ['cam-1'],
    'device.profile': ['camera'],
    'device.group': ['roof'],
    'device.attributes.constructor': ['x'],
    'device.attributes.site': ['berlin'],
  })
})

test('the suffix of a client id is what stands behind the colon, and missing without one', () => {
  assert.deepEqual(factsOfClient('cam-1'), { 'client.id': ['cam-1'] })
  assert.deepEqual(factsOfClient('cam-1:a:b'), { 'client.id': ['cam-1:a:b'], 'client.suffix': ['a:b'] })
})

test('names that mean something to JavaScript are no names of facts', () => {
  for (const name of ['__proto__', 'constructor', 'toString', 'device.attributes.__proto__', 'device.attributes.']) {
    assert.deepEqual([isFactName(name), isMatchName(name), isVariable(name)], [false, false, false], name)
  }
})

test('the first names of group and profile stand for the record; the date of a certificate is no topic level', () => {
  assert.deepEqual(['group', 'profile', 'issuer'].map(factNameOf), ['device.group', 'device.profile', 'issuer'])
  assert.deepEqual([isMatchName('profile'), isVariable('profile')], [true, false])
  assert.deepEqual([isMatchName('cert.notAfter'), isVariable('cert.notAfter')], [true, false])
})
