import assert from 'node:assert/strict'
import { test } from 'node:test'
import { findHierarchy, writeHierarchy } from '../../../enroll/registry/hierarchies.ts'
import { put, withRegistry } from './with-registry.ts'

test('there is one hierarchy, begun once and then completed', () =>
  withRegistry(async (registry) => {
    assert.equal(await findHierarchy(registry), undefined)
    await put(registry, writeHierarchy({ name: 'a', complete: false }, 0))
    await assert.rejects(put(registry, writeHierarchy({ name: 'b', complete: false }, 0)), { code: 'conflict' })
    await put(registry, writeHierarchy({ name: 'a', complete: true }, 1))
    assert.deepEqual(await findHierarchy(registry), { rev: 2, doc: { name: 'a', complete: true } })
  }))
