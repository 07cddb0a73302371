import assert from 'node:assert/strict'
import { test } from 'node:test'
import { compareWithReference } from '../harness/policy-reference.ts'

test('a compiled policy says what a naive reader of the page says, for 3,000 policies, principals and topics', () => {
  const { allowed, denied } = compareWithReference(3_000, 4)
  // A comparison that hardly ever meets an allowed topic would compare nothing.
  assert.ok(allowed > 1_500 && denied > 1_500, `${allowed} allowed, ${denied} denied`)
})
