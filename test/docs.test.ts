import assert from 'node:assert/strict'
import { existsSync, globSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { configuration } from '../contract/configuration.ts'
import { policyDocument } from '../contract/policy-document.ts'
import { problems } from '../contract/problems.ts'
import { advice } from '../docs/advice.ts'
import { pages } from '../docs/generate.ts'
import { standards } from '../docs/mqtt-behaviour.ts'
import { codesOf } from '../enroll/admin/openapi.ts'
import { routes } from '../enroll/admin/table.ts'
import { loadConfig } from '../runtime/config.ts'
import { parseYaml } from '../runtime/yaml.ts'
import { blocksOf, pages as followed, read } from './harness/documents.ts'
import { mqttDialogues, mqttVectors } from './vectors/mqtt/load.ts'

const root = dirname(import.meta.dirname)
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

test('each code that the admin API can answer has advice that names a command or a setting', () => {
  const named = /`(?:npx )?fleetgate [a-z]|`(?:enroll|broker|labels|profiles|names|keys|log)\b[\w.]*`/
  const codes = new Set(routes.flatMap(codesOf))
  assert.ok(codes.size > 40)
  const vague = [...codes].filter((code) => !named.test(advice[code]))
  assert.deepEqual(vague, [])
})

const samples = { metrics: '127.0.0.1:9464', url: 'http://some.where', keepDays: '365' }
const sampleOf = (key: string): string => samples[key.split('.').at(-1) as keyof typeof samples] ?? '/some/file'

test('every variable in configuration.md is accepted, with its own default', () => {
  const rows = [
    ...pages['configuration.md']!.matchAll(/^\| `([^`]+)` \| `(FLEETGATE_[A-Z_]+)` \| (?:none|`([^`]*)`) \|/gm),
  ]
  assert.ok(rows.length > 20)
  for (const [, key, variable, value] of rows) {
    const env = {
      [variable!]: value?.replace(/^\[(.*,.*)\]$/, '$1') ?? sampleOf(key!),
    }
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

test("README's example of a policy is one", () => {
  const example = blocksOf('README.md').find(
    ({ language, text }) => language === 'yaml' && text.startsWith('policies:'),
  )!
  assert.doesNotThrow(() => parseYaml(example.text, policyDocument, 'README.md', 'policy_invalid'))
})

test('every block of a document says what it is, and every one that is to be typed what runs it or why nothing does', () => {
  const wrong = followed.flatMap((file) =>
    blocksOf(file).flatMap(({ line, language, text, running }) => {
      const where = `${file}:${line}`
      if (!['sh', 'yaml', 'json', 'ini', 'text'].includes(language)) return [`${where}: which language is ${language}?`]
      if (language !== 'sh') return /^(?:\$ |npx |npm |fleetgate )/m.test(text) ? [`${where}: is not ${language}`] : []
      if (running === undefined) return [`${where}: no comment says who runs it (test/harness/documents.ts)`]
      return running.how === 'elsewhere' && !read(running.by).includes(`linesOf('${file}', '${running.name}')`)
        ? [`${where}: ${running.by} does not run it`]
        : []
    }),
  )
  assert.deepEqual(wrong, [])
})

/** How many statements appendix B numbers in each section. */
const numbered: Record<string, string> = {
  '3.1.1': `1.5.3:3 2.2.2:2 2.3.1:7 3.1.0:2 3.1.2:24 3.1.3:11 3.1.4:5 3.2.0:1 3.2.2:6 3.3.1:12 3.3.2:3 3.3.4:1 3.3.5:2
    3.6.1:1 3.8.1:1 3.8.3:4 3.8.4:6 3.9.3:2 3.10.1:1 3.10.3:2 3.10.4:6 3.12.4:1 3.14.1:1 3.14.4:3 4.1.0:2 4.3.1:1
    4.3.2:2 4.3.3:2 4.4.0:1 4.5.0:2 4.6.0:6 4.7.1:3 4.7.2:1 4.7.3:4 4.8.0:2 6.0.0:4 7.0.0:2 7.1.1:1 7.1.2:1`,
  '5.0': `1.5.4:3 1.5.5:1 1.5.7:1 2.1.3:1 2.2.1:6 2.2.2:1 3.1.0:2 3.1.2:30 3.1.3:12 3.1.4:6 3.2.0:2 3.2.2:22 3.3.1:13
    3.3.2:20 3.3.4:10 3.4.2:3 3.5.2:3 3.6.1:1 3.6.2:3 3.7.2:3 3.8.1:1 3.8.3:5 3.8.4:8 3.9.2:2 3.9.3:2 3.10.1:1 3.10.3:2
    3.10.4:6 3.11.2:2 3.11.3:2 3.12.4:1 3.14.0:1 3.14.1:1 3.14.2:4 3.14.4:3 3.15.1:1 3.15.2:3 4.1.0:2 4.2.0:1 4.3.1:1
    4.3.2:5 4.3.3:13 4.4.0:2 4.5.0:2 4.6.0:6 4.7.0:1 4.7.1:2 4.7.2:1 4.7.3:4 4.8.2:6 4.9.0:3 4.12.0:7 4.12.1:2 4.13.1:1
    4.13.2:1 6.0.0:4`,
}

function numbersOf(version: string): string[] {
  const all = [...numbered[version]!.matchAll(/([\d.]+):(\d+)/g)].flatMap(([, section, count]) =>
    Array.from({ length: Number(count) }, (_, at) => `${section}-${at + 1}`),
  )
  return version === '5.0' ? all.filter((number) => number !== '2.2.1-1') : all // the Standard has none
}

for (const [version, { statements }] of Object.entries(standards)) {
  test(`every statement of MQTT ${version} stands in mqtt-behaviour.md, once and in its place`, () => {
    const numbers = statements.map(({ number }) => number)
    assert.deepEqual(numbers, numbersOf(version))
    assert.equal(numbers.length, version === '5.0' ? 251 : 141)
  })

  test(`every statement of MQTT ${version} that binds a server is shown by something, or says why not`, () => {
    const open = statements.filter((one) => one.for !== 'client' && one.shown.length === 0 && one.void === undefined)
    assert.deepEqual(
      open.map(({ number }) => number),
      [],
    )
  })
}

const titles = new Map<string, Set<string>>()

/** @param file below test/, without its ending */
function titlesIn(file: string): Set<string> {
  if (!titles.has(file)) {
    const path = [`test/${file}.test.ts`, `test/${file}.ts`].find((one) => existsSync(join(root, one)))
    const found = path === undefined ? [] : read(path).matchAll(/\b(?:test|check)\(\s*(['"`])(.*?)(?<!\\)\1/gs)
    titles.set(file, new Set([...found].map(([, , title]) => title!)))
  }
  return titles.get(file)!
}

test('every test, vector and dialogue that mqtt-behaviour.md names is there', () => {
  const known = new Map<string, Set<string>>([
    ['vector', new Set([...mqttVectors().values()].flat().map(({ name }) => name))],
    ...[...mqttDialogues()].map(([file, some]) => [file, new Set(some.map(({ name }) => name))] as const),
  ])
  const missing = Object.values(standards).flatMap(({ statements }) =>
    statements.flatMap(({ number, shown }) =>
      shown.flatMap((name) => {
        const [, where, title] = /^([^:]+): (.+)$/.exec(name)!
        if (!known.has(where!)) known.set(where!, titlesIn(where!))
        return known.get(where!)!.has(title!) ? [] : [`${number}: ${name}`]
      }),
    ),
  )
  assert.deepEqual(missing, [])
})

test('the threat model asks all of STRIDE at each boundary, and each threat names tests that are there, or says why none', () => {
  const boundaries = read('docs/threat-model.md')
    .split(/^## /m)
    .filter((part) => part.includes('\n| | threat |'))
  assert.equal(boundaries.length, 10)
  const wrong = boundaries.flatMap((boundary) => {
    const [name] = boundary.split('\n')
    const rows = [...boundary.matchAll(/^\| ([STRIDE]) \| (.+) \| (.+) \| (.+) \|$/gm)]
    const missing = [...'STRIDE'].filter((letter) => !rows.some(([, one]) => one === letter))
    return [
      ...missing.map((letter) => `${name}: nothing of ${letter}`),
      ...rows.flatMap(([, , threat, , shown]) => {
        if (/^none: ./.test(shown!)) return []
        const tests = [...shown!.matchAll(/`([^`:]+): ([^`]+)`/g)]
        if (tests.length === 0) return [`${name}: ${threat}: no test`]
        return tests.flatMap(([text, file, title]) => (titlesIn(file!).has(title!) ? [] : [`${name}: ${text}`]))
      }),
    ]
  })
  assert.deepEqual(wrong, [])
})

test('every statement that the code names by its number is one of the Standards, a vector’s one of its version', () => {
  const numbers = Object.fromEntries(Object.keys(numbered).map((version) => [version, new Set(numbersOf(version))]))
  const both = new Set(Object.values(numbers).flatMap((some) => [...some]))
  const named = (text: string): string[] =>
    [...text.matchAll(/MQTT-(\d[\d.-]*-\d+)/g)].map(([, number]) => number!.replace('3-8.3', '3.8.3')) // as 3.1.1 writes it
  const code = globSync(['{broker,contract}/**/*.ts', 'test/broker/**/*.ts'], { cwd: root })
  const vectors = [...mqttVectors().values()].flat()
  assert.deepEqual(
    [
      ...code.flatMap((file) => named(read(file)).filter((number) => !both.has(number))),
      ...vectors.flatMap(({ version, clause, name }) =>
        named(clause).every((number) => numbers[version === 5 ? '5.0' : '3.1.1']!.has(number)) ? [] : [name],
      ),
    ],
    [],
  )
})

/** As GitHub names what a heading is reached by. */
const anchorsOf = (file: string): string[] =>
  [...read(file).matchAll(/^#+ (.+)$/gm)].map(([, heading]) =>
    heading!
      .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-'),
  )

test('links between the documents lead somewhere, also those to a heading and to an image', () => {
  const targets = (text: string): string[] =>
    [...text.matchAll(/\]\(([^)\s]+)[^)]*\)|(?:src|srcset|href)="([^"]+)"/g)].map(
      ([, link, attribute]) => link ?? attribute!,
    )
  const broken = documents.flatMap((file) =>
    targets(read(file))
      .filter((target) => !/^(?:https?|mailto):/.test(target))
      .filter((target) => {
        const [path, anchor] = target.split('#')
        const to = path === '' ? file : join(dirname(file), path!)
        if (!existsSync(join(root, to))) return true
        return anchor !== undefined && to.endsWith('.md') && !anchorsOf(to).includes(anchor)
      })
      .map((target) => `${file}: ${target}`),
  )
  assert.deepEqual(broken, [])
})

test('every decision has its four parts and a number of its own', () => {
  const decisions = globSync('docs/decisions/*.md', { cwd: root }).sort()
  const numbers = decisions.map((file) => /\b(\d{4})-/.exec(file)?.[1])
  assert.deepEqual(numbers, [...new Set(numbers)])
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
