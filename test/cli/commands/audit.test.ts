import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseAllDocuments } from 'yaml'
import { type AdminAnswer, StubAdmin } from '../../harness/stub-admin.ts'
import { fleetgate } from '../../harness/stub-io.ts'

const entry = (seq: number, more: object = {}): object => ({
  seq,
  at: '2026-01-01T00:00:00.000Z',
  hash: 'ff',
  action: 'enrollment.refused',
  actor: 'device:cam-1',
  subject: '/simpleenroll',
  outcome: 'refused',
  reason: 'token_spent',
  requestId: 'r1',
  ...more,
})
const page = (items: object[], next: number): AdminAnswer => ({ status: 200, body: { items, next } })

test('audit tail prints one line an entry, with nothing in it for a terminal to obey', async () => {
  await using stub = await StubAdmin.start(() =>
    page([entry(4, { details: { sentence: 'no\u001b[2J' }, remoteAddress: '192.0.2.1' })], 4),
  )
  const { code, out } = await fleetgate(['audit', 'tail', '-n', '5', '--data', stub.dataDir])
  assert.equal(code, 0)
  assert.equal(
    out,
    '4 2026-01-01T00:00:00.000Z  enrollment.refused  /simpleenroll  refused (token_spent)  by device:cam-1  sentence=no<U+001B>[2J  from=192.0.2.1\n',
  )
  assert.deepEqual(stub.requests[0]!.query, { limit: '5' })
})

test('audit tail -o json is one object a line, and yaml one document each', async () => {
  await using stub = await StubAdmin.start(() => page([entry(4, { details: { list: ['a\n  b'] } }), entry(5)], 5))
  const { out } = await fleetgate(['audit', 'tail', '-o', 'json', '--data', stub.dataDir])
  const lines = out.trimEnd().split('\n')
  assert.deepEqual(
    lines.map((line) => JSON.parse(line)),
    [entry(4, { details: { list: ['a\n  b'] } }), entry(5)],
  )
  const documents = (await fleetgate(['audit', 'tail', '-o', 'yaml', '--data', stub.dataDir])).out
  assert.deepEqual(
    parseAllDocuments(documents).map((one) => one.toJS()),
    lines.map((line) => JSON.parse(line)),
  )
})

test('audit tail -f goes on after the last entry until it is interrupted', async () => {
  const stop = new AbortController()
  await using stub = await StubAdmin.start((_, count) => {
    if (count === 1) return page([entry(4)], 4)
    if (count === 2) return page([entry(5)], 5)
    stop.abort()
    return 'silent'
  })
  const { code, out } = await fleetgate(['audit', 'tail', '-f', '--data', stub.dataDir], {
    untilSignal: () => stop.signal,
  })
  assert.equal(code, 0)
  assert.deepEqual(out.match(/^\d+/gm), ['4', '5'])
  assert.deepEqual(
    stub.requests.map(({ query }) => query.after),
    [undefined, '4', '5'],
  )
  assert.equal(stub.requests[1]!.query.waitMs, '25000')
})
