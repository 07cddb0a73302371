/** The soak's books: each fault that they are there for is found, and nothing else. */
import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { type Guarantee, Receipts, SharedReceipts, Stream } from './receipts.ts'

function streamOf(guarantee: Guarantee, sent: number): Stream {
  const stream = new Stream('t', guarantee, false)
  stream.sent = sent
  stream.acknowledged = sent
  return stream
}
const plain = (receipts: Receipts | SharedReceipts, ...seqs: number[]) =>
  seqs.map((seq) => receipts.take(seq, false)?.of)

suite('receipts of one subscriber', () => {
  test('a message that is passed over is found at the next one, or at the end', () => {
    const receipts = new Receipts(streamOf('at least once', 5))
    assert.deepEqual(plain(receipts, 1, 2, 4), [undefined, undefined, 'order'])
    assert.equal(receipts.missing, 1)
    assert.deepEqual(plain(receipts, 5), [undefined])
    assert.equal(receipts.missing, 0)
  })

  test('a message comes again with DUP, or when its publisher has sent it again, and not otherwise', () => {
    const stream = streamOf('at least once', 5)
    const receipts = new Receipts(stream)
    assert.deepEqual(plain(receipts, 1, 2, 3, 2), [undefined, undefined, undefined, 'order'])
    assert.equal(receipts.take(2, true), undefined)
    stream.repeatedUpTo = 2
    assert.deepEqual(plain(receipts, 2, 3), [undefined, 'order'])
  })

  test('exactly once is not twice, whatever the flag says', () => {
    const receipts = new Receipts(streamOf('exactly once', 5))
    assert.deepEqual(plain(receipts, 1, 2), [undefined, undefined])
    assert.equal(receipts.take(2, true)?.of, 'order')
    assert.deepEqual(plain(receipts, 4), ['order'])
  })

  test('at most once may miss messages, and has the others in order', () => {
    const receipts = new Receipts(streamOf('at most once', 9))
    assert.deepEqual(plain(receipts, 2, 5, 4), [undefined, undefined, 'order'])
    assert.equal(receipts.missing, 0)
  })

  test('what was never sent is a fault', () => {
    assert.deepEqual(plain(new Receipts(streamOf('at least once', 1)), 2), ['order'])
  })

  test('a subscriber that may be slow has its losses counted, those at the end included', () => {
    const receipts = new Receipts(streamOf('at least once', 9), true)
    assert.deepEqual(plain(receipts, 1, 5, 4), [undefined, undefined, 'order'])
    assert.deepEqual([receipts.lost, receipts.missing], [7, 0])
  })

  test('between the end of a subscription and its return messages may be missing, and no others', () => {
    const stream = streamOf('at least once', 2)
    const receipts = new Receipts(stream)
    assert.deepEqual(plain(receipts, 1), [undefined])
    receipts.suspend()
    stream.sent = 4
    receipts.bar()
    stream.sent = 6
    assert.deepEqual(plain(receipts, 4, 5), [undefined, 'subscription ended'])
    receipts.unbar()
    receipts.resume()
    stream.sent = 9
    stream.acknowledged = 9
    assert.equal(receipts.missing, 3)
    assert.deepEqual(plain(receipts, 8), ['order'])
    assert.equal(receipts.missing, 1)
  })

  test('a revoked publisher is not heard beyond its revocation', () => {
    const stream = streamOf('at least once', 3)
    const receipts = new Receipts(stream)
    stream.endsAt = 2
    assert.deepEqual(plain(receipts, 1, 2, 3), [undefined, undefined, 'publisher revoked'])
  })
})

test('a group gets each message, in any order, and twice only with cause', () => {
  const stream = streamOf('at least once', 4)
  const receipts = new SharedReceipts(stream)
  assert.deepEqual(plain(receipts, 2, 1, 4, 4), [undefined, undefined, undefined, 'order'])
  assert.equal(receipts.take(1, true), undefined)
  assert.equal(receipts.missing, 1)
  assert.deepEqual(plain(receipts, 3, 5), [undefined, 'order'])
  assert.equal(receipts.missing, 0)
})
