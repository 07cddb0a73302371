import assert from 'node:assert/strict'
import { test } from 'node:test'
import { boolean, DerError, octetString, oid, readDer, sequence } from '../../pki/der.ts'
import { readExtensions, writeExtension } from '../../pki/extensions.ts'

const read = (...extensions: Buffer[]) => readExtensions(readDer(sequence(...extensions), 10_000).enter())

test('extensions read as they were written', () => {
  const found = read(writeExtension('1.2.3', Buffer.of(1), true), writeExtension('1.2.4', Buffer.of(2)))
  assert.deepEqual(
    [...found],
    [
      ['1.2.3', { critical: true, value: Buffer.of(1) }],
      ['1.2.4', { critical: false, value: Buffer.of(2) }],
    ],
  )
})

test('a written-out "not critical" is read, because certificates in use have it', () => {
  const found = read(sequence(oid('1.2.3'), boolean(false), octetString(Buffer.of())))
  assert.equal(found.get('1.2.3')?.critical, false)
})

test('an extension that stands twice, or with something after its value, is refused', () => {
  const extension = writeExtension('1.2.3', Buffer.of())
  assert.throws(() => read(extension, extension), DerError)
  assert.throws(() => read(sequence(oid('1.2.3'), octetString(Buffer.of()), boolean(true))), DerError)
  assert.throws(() => read(sequence(oid('1.2.3'))), DerError)
})
