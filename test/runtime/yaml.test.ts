import assert from 'node:assert/strict'
import { test } from 'node:test'
import { z } from 'zod'
import { isFleetError } from '../../runtime/errors.ts'
import { parseYaml } from '../../runtime/yaml.ts'

const schema = z.strictObject({ list: z.array(z.strictObject({ n: z.int() })).optional(), text: z.string().optional() })

const fault = (text: string): string => {
  try {
    parseYaml(text, schema, 'f.yaml', 'policy_invalid')
  } catch (error) {
    assert.ok(isFleetError(error, 'policy_invalid'), String(error))
    return error.message
  }
  return 'accepted'
}

test('a value is parsed by its schema', () => {
  assert.deepEqual(parseYaml('list: [{ n: 1 }]', schema, 'f.yaml', 'policy_invalid'), { list: [{ n: 1 }] })
  assert.deepEqual(parseYaml('', schema, 'f.yaml', 'policy_invalid'), {})
})

test('each fault is a line with its place', () => {
  assert.equal(
    fault('list:\n  - n: 1\n  - n: x\n  - m: 1\n'),
    [
      'f.yaml:3:5: list.1.n: Invalid input: expected number, received string',
      'f.yaml:4:5: list.2.n: Invalid input: expected number, received undefined',
      'f.yaml:4:5: list.2: Unrecognized key: "m"; known here: n',
    ].join('\n'),
  )
})

test('an anchor may be used, an alias bomb is refused', () => {
  assert.deepEqual(parseYaml('list: [&a { n: 1 }, *a]', schema, 'f.yaml', 'policy_invalid'), {
    list: [{ n: 1 }, { n: 1 }],
  })
  const bomb = [
    'a: &a [x,x,x,x,x,x,x,x,x]',
    ...[...'bcdefghi'].map((name, at) => `${name}: &${name} [${`*${'abcdefgh'[at]},`.repeat(9)}]`),
  ]
  assert.match(fault(bomb.join('\n')), /Excessive alias count/)
})

test('an unknown anchor, a second document, a tag that runs nothing', () => {
  assert.match(fault('text: *nobody'), /f\.yaml/)
  assert.match(fault('text: a\n---\ntext: b\n'), /f\.yaml:\d+:\d+: .*multiple documents/)
  assert.match(fault('text: !!js/function "x"'), /accepted|f\.yaml/)
})

test('nesting without end is refused, not a crash', () => {
  assert.match(fault(`text: ${'['.repeat(200_000)}`), /^f\.yaml/)
  assert.match(fault('- '.repeat(100_000)), /^f\.yaml/)
})

test('a merge key cannot reach a prototype', () => {
  fault('__proto__: { polluted: 1 }')
  fault('<<: { __proto__: { polluted: 1 } }')
  assert.equal(({} as { polluted?: unknown }).polluted, undefined)
})
