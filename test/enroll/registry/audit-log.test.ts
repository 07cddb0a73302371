import assert from 'node:assert/strict'
import { test } from 'node:test'
import { startCursor } from '../../../contract/feed.ts'
import {
  type AuditEntry,
  type AuditFact,
  decodeAudit,
  encodeAudit,
  verifyAudit,
} from '../../../enroll/registry/audit-log.ts'
import { chainHash } from '../../../runtime/chain.ts'

const at = new Date('2026-03-01T09:00:00Z')
const fact: AuditFact = {
  action: 'certificate.issued',
  actor: 'device:cam-1',
  subject: 'certificate:0a1b',
  outcome: 'done',
  details: { via: 'token', attempts: 1, first: true, groups: ['north', 'roof'] },
  remoteAddress: '192.0.2.7',
  requestId: 'r-1',
}
const shown = (changes: Partial<AuditFact>): AuditFact =>
  decodeAudit({ seq: 1, hash: '', body: encodeAudit({ ...fact, ...changes }, at) })

function chain(count: number): AuditEntry[] {
  let cursor = startCursor
  return Array.from({ length: count }, (_, n) => {
    const body = encodeAudit({ ...fact, requestId: `r-${n}` }, at)
    cursor = { seq: n + 1, hash: chainHash(cursor.hash, body) }
    return { ...cursor, body }
  })
}

test('an entry says again what it was given, and when', () => {
  const body = encodeAudit(fact, at)
  assert.deepEqual(decodeAudit({ seq: 7, hash: 'ab', body }), {
    seq: 7,
    hash: 'ab',
    at: '2026-03-01T09:00:00.000Z',
    ...fact,
  })
  const { details, remoteAddress, ...least } = fact
  assert.deepEqual(Object.keys(JSON.parse(encodeAudit(least, at))), [
    'at',
    'action',
    'actor',
    'subject',
    'outcome',
    'requestId',
  ])
})

test('only what a fact has is stored, whatever else its object carries', () => {
  const carrying = { ...fact, password: 'secret' }
  assert.ok(!encodeAudit(carrying, at).includes('secret'))
})

test('text of a hostile sender is cut to 300 characters wherever it stands', () => {
  const long = 'x'.repeat(100_000)
  const entry = shown({
    actor: long,
    subject: long,
    remoteAddress: long,
    requestId: long,
    details: { [long]: long, list: [long, long] },
  })
  const texts = [entry.actor, entry.subject, entry.remoteAddress!, entry.requestId, ...Object.keys(entry.details!)]
  for (const text of [...texts, ...Object.values(entry.details!).flat()]) assert.ok(String(text).length <= 300)
  assert.equal(entry.actor, `${'x'.repeat(299)}…`)
})

test('a cut does not leave half a character', () => {
  assert.ok(shown({ actor: '\u{1f600}'.repeat(200) }).actor.isWellFormed())
  assert.ok(shown({ actor: `x${'\u{1f600}'.repeat(200)}` }).actor.isWellFormed())
  assert.ok(shown({ actor: '\ud800' }).actor.isWellFormed())
})

test('control characters and those that turn or hide text are made visible', () => {
  assert.equal(shown({ actor: 'a\u001b[31m\r\n\u0000b' }).actor, 'a\\u001b[31m\\u000d\\u000a\\u0000b')
  assert.equal(shown({ subject: 'a\u202eb\u200bc\u2028' }).subject, 'a\\u202eb\\u200bc\\u2028')
  assert.equal(shown({ actor: 'Zoë 東京' }).actor, 'Zoë 東京')
})

test('long lists and many details are cut and say so', () => {
  const many = Array.from({ length: 1_000 }, (_, n) => `s${n}`)
  const details = shown({ details: { many, ...Object.fromEntries(many.map((name) => [name, 1])) } }).details!
  assert.equal(Object.keys(details).length, 32)
  assert.deepEqual([(details.many as string[]).length, (details.many as string[]).at(-1)], [33, '… 968 more'])
})

test('a whole chain holds, in one piece and page by page', () => {
  const entries = chain(10)
  const end = { seq: 10, hash: entries[9]!.hash }
  assert.deepEqual(verifyAudit(entries, startCursor), { intact: end })
  const { intact } = verifyAudit(entries.slice(0, 4), startCursor)
  assert.deepEqual(verifyAudit(entries.slice(4), intact), { intact: end })
  assert.deepEqual(verifyAudit([], end), { intact: end })
})

test('a changed, moved, missing, doubled or foreign entry is where the chain breaks', () => {
  const entries = chain(10)
  const broken: Record<string, [AuditEntry[], number]> = {
    changed: [entries.with(4, { ...entries[4]!, body: entries[4]!.body.replace('done', 'nope') }), 5],
    'changed with its hash made anew': [
      entries.with(4, { ...entries[4]!, body: 'x', hash: chainHash(entries[3]!.hash, 'x') }),
      6,
    ],
    moved: [entries.with(2, entries[3]!).with(3, entries[2]!), 3],
    missing: [entries.toSpliced(6, 1), 7],
    doubled: [entries.toSpliced(6, 0, entries[5]!), 7],
    'without its start': [entries.slice(1), 1],
  }
  for (const [name, [tampered, brokenAt]] of Object.entries(broken)) {
    assert.equal(verifyAudit(tampered, startCursor).brokenAt, brokenAt, name)
  }
})
