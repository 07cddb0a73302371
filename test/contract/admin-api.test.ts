import assert from 'node:assert/strict'
import { test } from 'node:test'
import { z } from 'zod'
import {
  createDevice,
  createToken,
  listCertificates,
  listDevices,
  pageOf,
  revokeDevice,
  tokenTtlMs,
} from '../../contract/admin-api.ts'
import { listAudit } from '../../contract/audit-api.ts'

type Schema = { safeParse(value: unknown): { success: boolean } }
const refuses = (schema: Schema, ...values: unknown[]): void => {
  for (const value of values) assert.equal(schema.safeParse(value).success, false, JSON.stringify(value))
}

test('a device is created with an id, a profile and no groups by default', () => {
  assert.deepEqual(createDevice.parse({ id: 'cam-1', profile: 'camera' }), {
    id: 'cam-1',
    profile: 'camera',
    groups: [],
  })
  refuses(
    createDevice,
    {},
    { id: 'cam 1', profile: 'camera' },
    { id: 'cam-1', profile: 'Camera' },
    { id: 'cam-1', profile: 'camera', groups: ['a/b'] },
    { id: 'cam-1', profile: 'camera', groups: Array(17).fill('g') },
    { id: 'cam-1', profile: 'camera', status: 'active' },
    { id: ['cam-1'], profile: 'camera' },
  )
})

test('a refusal says what a device id is', () => {
  const { error } = createDevice.safeParse({ id: '#', profile: 'camera' })
  assert.equal(
    error?.issues[0]?.message,
    'a device id is letters, digits and . _ -, 1 to 64 of them, the first a letter or digit',
  )
})

test('a token lives a day unless something from a minute to 30 days is asked for', () => {
  assert.equal(createToken.parse({ deviceId: 'a' }).ttlMs, tokenTtlMs.default)
  assert.equal(createToken.parse({ deviceId: 'a', ttlMs: 60_000 }).ttlMs, 60_000)
  refuses(
    createToken,
    { deviceId: 'a', ttlMs: 59_999 },
    { deviceId: 'a', ttlMs: tokenTtlMs.max + 1 },
    { deviceId: 'a', ttlMs: '60000' },
  )
})

test('a revocation names a reason of RFC 5280, and does not wait unless asked', () => {
  assert.deepEqual(revokeDevice.parse({ reason: 'keyCompromise' }), { reason: 'keyCompromise', waitMs: 0 })
  refuses(
    revokeDevice,
    {},
    { reason: 'stolen' },
    { reason: 'certificateHold' },
    { reason: 'keyCompromise', waitMs: 60_001 },
  )
})

test('queries arrive as text and are bounded', () => {
  assert.deepEqual(listDevices.parse({ limit: '7', status: 'revoked' }), { limit: 7, status: 'revoked' })
  assert.equal(listCertificates.parse({}).limit, 100)
  assert.deepEqual(listAudit.parse({ after: '5' }), { after: 5, limit: 100, waitMs: 0 })
  refuses(
    listDevices,
    { limit: '0' },
    { limit: '1001' },
    { limit: '' },
    { limit: 'x' },
    { limit: '1.5' },
    { status: 'gone' },
    { q: 1 },
  )
  refuses(listAudit, { after: '-1' }, { waitMs: '30001' })
})

test('a page holds items and may say where the next begins', () => {
  const page = pageOf(z.string())
  assert.deepEqual(page.parse({ items: ['a'] }), { items: ['a'] })
  assert.deepEqual(page.parse({ items: [], next: 'b' }), { items: [], next: 'b' })
})
