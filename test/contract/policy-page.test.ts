import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { connectConditions } from '../../contract/policy-conditions.ts'
import { type PolicyDocument, policyDocument } from '../../contract/policy-document.ts'
import { policyLimits } from '../../contract/policy-limits.ts'
import { reviewPolicy } from '../../contract/policy-review.ts'
import { policyTests, runPolicyTests } from '../../contract/policy-tests.ts'
import { factNames } from '../../contract/principal-facts.ts'
import { parseYaml } from '../../runtime/yaml.ts'

const page = readFileSync(join(dirname(import.meta.dirname), '..', 'docs', 'policy.md'), 'utf8')
const blocks = [...page.matchAll(/```yaml\n# (policy|expectations)\.yaml\n([\s\S]*?)```/g)]

test('every policy on the page is valid and every table of expectations holds for the policy above it', () => {
  let document: PolicyDocument = { policies: [] }
  let count = 0
  for (const [, kind, text] of blocks) {
    if (kind === 'policy') {
      document = parseYaml(text!, policyDocument, 'docs/policy.md', 'policy_invalid')
      assert.deepEqual(reviewPolicy(document, { profiles: ['sensor', 'camera', 'service'] }), [])
      continue
    }
    const table = parseYaml(text!, policyTests, 'docs/policy.md', 'policy_invalid')
    count += table.tests.length
    assert.deepEqual([...runPolicyTests(document, table).values()], [])
  }
  assert.ok(count > 10)
})

test('the page names everything that the language has', () => {
  const words = [
    ...factNames,
    ...Object.keys(policyLimits.shape),
    ...Object.keys(connectConditions.shape),
    'maxQos',
    'onDeny',
  ]
  assert.deepEqual(
    words.filter((word) => !page.includes(word)),
    [],
  )
})
