import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { encodeSecret } from '../../../enroll/est/encoding.ts'

test('a secret is encoded as Node would encode it, in lines of 64 (property)', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), (octets) => {
      const lines = encodeSecret(octets).toString('latin1').split('\r\n')
      assert.equal(lines.pop(), '')
      assert.equal(lines.join(''), Buffer.from(octets).toString('base64'))
      assert.ok(lines.every((line, at) => line.length === 64 || (at === lines.length - 1 && line.length > 0)))
    }),
    { numRuns: 300 },
  )
})
