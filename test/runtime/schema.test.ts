import assert from 'node:assert/strict'
import { test } from 'node:test'
import { z } from 'zod'
import { childOf, keysOf, unwrap } from '../../runtime/schema.ts'
import { describeIssue } from '../../runtime/yaml.ts'

const inner = z.strictObject({ n: z.int().default(1) })
const schema = z.strictObject({
  one: inner.prefault({}),
  list: z.array(inner).optional(),
  named: z.record(z.string(), inner).default({}),
})

test('a schema is found below defaults, in objects, lists and records', () => {
  assert.ok(unwrap(childOf(childOf(schema, 'one'), 'n')) instanceof z.ZodNumber)
  assert.deepEqual(keysOf(childOf(childOf(schema, 'list'), 0)), ['n'])
  assert.deepEqual(keysOf(childOf(childOf(schema, 'named'), 'any')), ['n'])
  assert.equal(childOf(schema, 'two'), undefined)
  assert.equal(childOf(schema, 'constructor'), undefined)
  assert.deepEqual(keysOf(undefined), [])
})

test('an unknown key is told with those that are known beside it', () => {
  const told = (value: unknown): string[] =>
    schema.safeParse(value).error!.issues.map((issue) => describeIssue(issue, schema))
  assert.deepEqual(told({ two: 1 }), ['Unrecognized key: "two"; known here: one, list, named'])
  assert.deepEqual(told({ list: [{ m: 1 }] }), ['list.0: Unrecognized key: "m"; known here: n'])
  assert.deepEqual(told({ one: { n: 'x' } }), ['one.n: Invalid input: expected number, received string'])
})
