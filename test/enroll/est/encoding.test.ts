import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { decodeBody, encodeSecret } from '../../../enroll/est/encoding.ts'

test('a second request in one body is named', () => {
  const block = '-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n'
  assert.deepEqual(decodeBody(Buffer.from(block)), Buffer.alloc(3))
  assert.throws(() => decodeBody(Buffer.from(block + block)), {
    code: 'csr_malformed',
    message: /more than one PEM block/,
  })
  assert.throws(() => decodeBody(Buffer.from('AAAA====AAAA')), { code: 'csr_malformed', message: /not base64/ })
})

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
