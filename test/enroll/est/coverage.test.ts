import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'

const root = join(import.meta.dirname, '..', '..', '..')
const page = readFileSync(join(root, 'docs', 'est-coverage.md'), 'utf8')
const rows = [...page.matchAll(/^\| (\d+) \|(.*)\|$/gm)].map(([, number, rest]) => {
  const [requirement = '', , answer = '', tests = '', why = ''] = rest!.split('|').map((cell) => cell.trim())
  return {
    number: Number(number),
    requirement,
    answer,
    tests: [...tests.matchAll(/`([^`]+)`/g)].map(([, name]) => name!),
    why,
  }
})

test('docs/est-coverage.md answers every row: yes with tests, no with a reason', () => {
  assert.deepEqual(
    rows.map(({ number }) => number),
    Array.from({ length: 42 }, (_, at) => at + 1),
  )
  const unanswered = rows.filter(({ answer, tests, why }) =>
    answer === 'yes' ? tests.length === 0 : answer !== 'no' || why.length < 40,
  )
  assert.deepEqual(unanswered, [])
})

test('every test that docs/est-coverage.md names is there', () => {
  const declared = new Set(
    globSync('test/**/*.test.ts', { cwd: root }).flatMap((file) =>
      [...readFileSync(join(root, file), 'utf8').matchAll(/\btest\(\s*(['`])(.*?)\1,/g)].map(([, , name]) => name),
    ),
  )
  const missing = rows.flatMap(({ number, tests }) =>
    tests.filter((name) => !declared.has(name)).map((name) => `${number}: ${name}`),
  )
  assert.deepEqual(missing, [])
})
