import assert from 'node:assert/strict'
import { test } from 'node:test'
import { attributeChanges, changedAttributes, deviceAttributes } from '../../contract/device-attributes.ts'

const many = (count: number): Record<string, string> =>
  Object.fromEntries(Array.from({ length: count }, (_, at) => [`a${at}`, 'x']))

test('attributes are 32 at most, with plain names and values of 256 characters', () => {
  assert.ok(deviceAttributes.safeParse({ ...many(31), constructor: 'É/+#$ 1'.padEnd(256, 'x') }).success)
  for (const bad of [
    many(33),
    { A: 'x' },
    { '': 'x' },
    { [`a${'b'.repeat(32)}`]: 'x' },
    { 'a.b': 'x' },
    { a: '' },
    { a: 'x'.repeat(257) },
    { a: 'x\u0000' },
    { a: '\u202e' },
    { a: '\ud800' },
    { a: 1 },
    { a: ['x'] },
    JSON.parse('{"__proto__":"x"}'),
    [],
    null,
    'a',
  ]) {
    assert.equal(deviceAttributes.safeParse(bad).success, false, JSON.stringify(bad))
  }
})

test('a change sets what has a text, takes away what is null and leaves the rest', () => {
  assert.deepEqual(changedAttributes({ a: '1', b: '2' }, { b: null, c: '3' }), { a: '1', c: '3' })
  assert.deepEqual(changedAttributes(undefined, { constructor: null }), {})
  assert.throws(() => changedAttributes(many(32), { one: 'more' }), RangeError)
  assert.equal(attributeChanges.safeParse({ a: null, b: '' }).success, false)
})
