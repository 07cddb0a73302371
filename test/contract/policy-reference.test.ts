import assert from 'node:assert/strict'
import { test } from 'node:test'
import { compareWithReference } from '../harness/policy-reference.ts'

test('a compiled policy says what a naive reader of the page says, for 10,000 random policies, principals and topics', () => {
  const { allowed, denied } = compareWithReference(10_000, 4)
  // A comparison that hardly ever meets an allowed topic would compare nothing.
  assert.ok(allowed > 5_000 && denied > 5_000, `${allowed} allowed, ${denied} denied`)
})
