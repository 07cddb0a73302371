import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decodeBody, encodeLine, type FeedFact, genesis, LineReader, maxLineBytes } from '../../../contract/feed.ts'
import { encodeFeed } from '../../../enroll/registry/feed-log.ts'

const at = new Date('2026-03-01T09:00:00Z')

test('a body is read back as the fact and its time, and holds nothing else', () => {
  const fact: FeedFact = {
    type: 'certificate.revoked',
    data: { serial: '0a', fingerprint: 'f'.repeat(64), deviceId: 'cam-1', reason: 'keyCompromise' },
  }
  const carrying = { ...fact, note: 'x' }
  assert.deepEqual(decodeBody({ seq: 1, hash: genesis, body: encodeFeed(carrying, at) }), {
    at: at.toISOString(),
    ...fact,
  })
})

test('the largest event that is taken fits a line, and one that is larger is refused', () => {
  // A quotation mark is two characters in the body and four in the line.
  const fact = (quotes: number): FeedFact => ({ type: 'trust.changed', data: { anchors: ['"'.repeat(quotes)] } })
  const body = encodeFeed(fact(maxLineBytes / 4 - 100), at)
  const line = encodeLine({ kind: 'event', seq: 1, hash: genesis, body })
  assert.deepEqual(new LineReader().push(line), [line.slice(0, -1)])
  assert.throws(() => encodeFeed(fact(maxLineBytes / 4), at), { code: 'body_too_large' })
})
