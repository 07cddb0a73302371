import assert from 'node:assert/strict'
import { test } from 'node:test'
import { findPolicy, type PolicyRecord, writePolicy } from '../../../enroll/registry/policies.ts'
import { at } from '../../suites/registry.ts'
import { put, withRegistry } from './with-registry.ts'

const policy = (version: number): PolicyRecord => ({
  version,
  document: { policies: [] },
  at: at.toISOString(),
  by: 'operator:test',
})

test('there is one policy in force, and a change made to an older one is refused', () =>
  withRegistry(async (registry) => {
    assert.equal(await findPolicy(registry), undefined)
    await put(registry, writePolicy(policy(1), 0))
    await put(registry, writePolicy(policy(2), 1))
    assert.deepEqual(await findPolicy(registry), { rev: 2, doc: policy(2) })
    await assert.rejects(put(registry, writePolicy(policy(3), 1)), { code: 'conflict' })
    await assert.rejects(put(registry, writePolicy(policy(1), 0)), { code: 'conflict' })
    assert.equal((await findPolicy(registry))?.doc.version, 2)
  }))
