import assert from 'node:assert/strict'
import { test } from 'node:test'
import { withChange } from '../../../enroll/registry/audit-changes.ts'
import { recordKey } from '../../../enroll/registry/engine.ts'
import { created, device } from '../../suites/registry.ts'

const before = device('cam-1', { groups: ['a'], attributes: { site: 'berlin' } })
const records = new Map([[recordKey('device', 'cam-1'), { rev: 1, doc: before }]])
const changed = (doc: unknown, fact = created('cam-1')) => {
  const written = new Map([
    [recordKey('device', 'cam-1'), doc],
    [recordKey('device', 'cam-2'), device('cam-2')],
  ])
  const { before: was, after } = withChange(fact, written, records)
  return { was, after }
}

test('what differs is told, as it was and as it is, and of the subject alone', () => {
  const { attributes: _, ...rest } = before
  assert.deepEqual(changed({ ...rest, groups: ['a', 'b'], status: 'held', heldAt: 'now' }), {
    was: { groups: ['a'], status: 'active', attributes: '{"site":"berlin"}' },
    after: { groups: ['a', 'b'], status: 'held', heldAt: 'now' },
  })
  assert.deepEqual(changed(before), { was: undefined, after: undefined })
  assert.deepEqual(Object.keys(changed(undefined).was!).length, Object.keys(before).length)
})

test('nothing is told of what nobody asked for, of a refusal, and of what is secret or large', () => {
  for (const fact of [
    { ...created('cam-1'), actor: 'device:cam-1' },
    { ...created('cam-1'), outcome: 'refused' as const },
    { ...created('cam-1'), subject: 'constructor:cam-1' },
  ])
    assert.deepEqual(changed({ ...before, status: 'held' }, fact), { was: undefined, after: undefined })
  const token = new Map([[recordKey('apiToken', 'ci'), { name: 'ci', digest: 'secret' }]])
  const told = withChange({ ...created(''), subject: 'api-token:ci' }, token, new Map())
  assert.deepEqual(told.after, { name: 'ci' })
})
