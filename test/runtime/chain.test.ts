import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import { genesis } from '../../contract/feed.ts'
import { chainHash } from '../../runtime/chain.ts'

test('a hash is SHA-256 over the 32 octets before it and the body byte for byte', () => {
  const first = createHash('sha256').update(Buffer.alloc(32)).update('ä').digest('hex')
  assert.equal(chainHash(genesis, 'ä'), first)
  assert.equal(chainHash(first, ''), createHash('sha256').update(Buffer.from(first, 'hex')).digest('hex'))
})

test('another body, another order or another past gives another hash', () => {
  const chain = (...bodies: string[]): string => bodies.reduce(chainHash, genesis)
  assert.equal(new Set([chain('a', 'b'), chain('b', 'a'), chain('ab'), chain('a', 'b', ''), chain('a ', 'b')]).size, 5)
})
