import assert from 'node:assert/strict'
import { test } from 'node:test'
import { AdminFuzz } from '../fuzz/admin.ts'

test('no request that can be made of the OpenAPI document is answered 500, undocumented, or below its role', async () => {
  await using fuzz = await AdminFuzz.start()
  await fuzz.run({ runs: Number.POSITIVE_INFINITY, seconds: 12, seed: 1 })
  for (const line of ['none 401', 'viewer 403', 'operator 200', 'admin 200'])
    assert.ok(fuzz.statuses.get(line)! > 0, line)
})
