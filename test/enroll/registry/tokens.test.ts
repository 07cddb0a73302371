import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { test } from 'node:test'
import {
  digestOf,
  findToken,
  listTokens,
  mintToken,
  type TokenRecord,
  writeToken,
} from '../../../enroll/registry/tokens.ts'
import { at } from '../../suites/registry.ts'
import { put, withRegistry } from './with-registry.ts'

const record = (digest: string, deviceId: string): TokenRecord => ({
  digest,
  deviceId,
  profile: 'sensor',
  createdAt: at.toISOString(),
  expiresAt: at.toISOString(),
  status: 'unspent',
})

test('a token is 256 random bits in 43 characters, and its digest is the SHA-256 of that text', () => {
  const asked: number[] = []
  const { token, digest } = mintToken((size) => {
    asked.push(size)
    return Buffer.alloc(size, 0xfb)
  })
  assert.deepEqual(asked, [32])
  assert.equal(token, `${'-_v7'.repeat(10)}-_s`)
  assert.equal(digest, createHash('sha256').update(token).digest('hex'))
  assert.equal(digestOf(token), digest)
  assert.match(mintToken(randomBytes).token, /^[\w-]{43}$/)
})

test('a token is found by its digest alone, and the registry never holds the token', () =>
  withRegistry(async (registry) => {
    const { token, digest } = mintToken(randomBytes)
    await put(registry, writeToken(record(digest, 'cam-1'), 0))
    assert.deepEqual(await findToken(registry, digest), { rev: 1, doc: record(digest, 'cam-1') })
    assert.equal(await findToken(registry, token), undefined)
    assert.equal(await findToken(registry, digestOf(`${token}x`)), undefined)
    assert.ok(!JSON.stringify(await findToken(registry, digest)).includes(token))
  }))

test("the tokens of a device are listed, and nobody else's", () =>
  withRegistry(async (registry) => {
    await put(
      registry,
      writeToken(record('b', 'cam-1'), 0),
      writeToken({ ...record('a', 'cam-1'), status: 'spent' }, 0),
      writeToken(record('c', 'cam-10'), 0),
    )
    const { items } = await listTokens(registry, { deviceId: 'cam-1', limit: 10 })
    assert.deepEqual(
      items.map(({ doc }) => doc.digest),
      ['a', 'b'],
    )
  }))

test('of two that redeem one token one wins', () =>
  withRegistry(async (registry) => {
    await put(registry, writeToken(record('a', 'cam-1'), 0))
    const redeem = (spkiHash: string) =>
      put(registry, writeToken({ ...record('a', 'cam-1'), status: 'redeeming', spkiHash }, 1))
    const outcomes = await Promise.allSettled([redeem('k1'), redeem('k2')])
    assert.deepEqual(
      outcomes.map((outcome) => (outcome.status === 'rejected' ? outcome.reason.code : 'redeemed')),
      ['redeemed', 'conflict'],
    )
    assert.equal((await findToken(registry, 'a'))?.doc.spkiHash, 'k1')
  }))
