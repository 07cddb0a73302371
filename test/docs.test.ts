import assert from 'node:assert/strict'
import { existsSync, globSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { configuration } from '../contract/configuration.ts'
import { problems } from '../contract/problems.ts'
import { pages } from '../docs/generate.ts'
import { loadConfig } from '../runtime/config.ts'
import { parseYaml } from '../runtime/yaml.ts'

const root = dirname(import.meta.dirname)
const read = (path: string): string => readFileSync(join(root, path), 'utf8')
const documents = [...globSync('*.md', { cwd: root }), ...globSync('docs/**/*.md', { cwd: root })]

for (const [name, text] of Object.entries(pages)) {
  test(`docs/${name} is what the code says; npm run docs renews it`, () => {
    assert.ok(existsSync(join(root, 'docs', name)), `docs/${name} is missing; run: npm run docs`)
    assert.equal(read(`docs/${name}`), text, `docs/${name} is out of date; run: npm run docs`)
  })
}

test('every code is explained, with something to do', () => {
  for (const code of Object.keys(problems))
    assert.match(pages['errors.md']!, new RegExp(`\\| \`${code}\` \\| \\d{3} \\| .{10,} \\| .{20,} \\|`))
})

test('every variable in configuration.md is accepted, with its own default', () => {
  const rows = [
    ...pages['configuration.md']!.matchAll(/^\| `([^`]+)` \| `(FLEETGATE_[A-Z_]+)` \| (?:none|`([^`]*)`) \|/gm),
  ]
  assert.ok(rows.length > 20)
  for (const [, key, variable, value] of rows) {
    const env = { [variable!]: value?.replace(/^\[(.*,.*)\]$/, '$1') ?? '/some/file' }
    assert.doesNotThrow(() => loadConfig({ env }), `${key}: ${variable}`)
  }
})

test('examples of configuration in the documents load', () => {
  const examples = documents.flatMap((file) =>
    [...read(file).matchAll(/```yaml\n# fleetgate\.yaml\n([\s\S]*?)```/g)].map((found) => [file, found[1]!]),
  )
  assert.ok(examples.length > 0)
  for (const [file, text] of examples) parseYaml(text!, configuration, file!, 'config_invalid')
})

test('links between the documents lead somewhere', () => {
  const broken = documents.flatMap((file) =>
    [...read(file).matchAll(/\]\((?!https?:|mailto:|#)([^)#\s]+)[^)]*\)/g)]
      .map((found) => found[1]!)
      .filter((target) => !existsSync(join(root, dirname(file), target)))
      .map((target) => `${file}: ${target}`),
  )
  assert.deepEqual(broken, [])
})

test('every decision has its four parts and a number of its own', () => {
  const decisions = globSync('docs/decisions/*.md', { cwd: root }).sort()
  assert.deepEqual(
    decisions.map((file) => Number(/(\d{4})-/.exec(file)?.[1])),
    decisions.map((_, at) => at + 1),
  )
  for (const file of decisions) {
    const headings = [...read(file).matchAll(/^## (.+)$/gm)].map((found) => found[1])
    assert.deepEqual(headings, ['Context', 'Decision', 'Consequences', 'What would change our mind'], file)
  }
})

test('every npm script that a document names exists', () => {
  const { scripts = {} } = JSON.parse(read('package.json'))
  const named = new Set(
    documents.flatMap((file) =>
      [...read(file).matchAll(/\bnpm (?:-s )?run ([a-z][a-z:-]*)/g)].map((found) => found[1]!),
    ),
  )
  if (documents.some((file) => /\bnpm start\b/.test(read(file)))) named.add('start')
  assert.deepEqual(
    [...named].filter((name) => !Object.hasOwn(scripts, name)),
    [],
  )
})

test('every fleetgate command that a document names exists', () => {
  const sources = globSync('cli/**/*.ts', { cwd: root }).map(read).join('\n')
  const known = new Set([...sources.matchAll(/\bcommand\(\s*'([a-z-]+)/g)].map((found) => found[1]!))
  const named = documents.flatMap((file) =>
    [...read(file).matchAll(/(?:npx |`)fleetgate ([a-z]+)(?: ([a-z]+)\b)?/g)].map((found) => ({
      file,
      noun: found[1]!,
      verb: found[2],
    })),
  )
  const nouns = ['device', 'token', 'policy', 'cert', 'audit']
  const unknown = named.filter(
    ({ noun, verb }) => !known.has(noun) || (nouns.includes(noun) && verb !== undefined && !known.has(verb)),
  )
  assert.deepEqual(unknown, [])
})
