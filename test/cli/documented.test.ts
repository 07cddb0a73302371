import assert from 'node:assert/strict'
import { globSync } from 'node:fs'
import { dirname } from 'node:path'
import { test } from 'node:test'
import { commandsPage } from '../../docs/cli.ts'
import { blocksOf, read } from '../harness/documents.ts'
import { fleetgate } from '../harness/stub-io.ts'

const root = dirname(dirname(import.meta.dirname))

/** What stands behind `fleetgate`, in lines to be typed and between backticks. */
function callsIn(file: string): string[] {
  const lines = blocksOf(file).flatMap(({ language, text }) => (language === 'sh' ? text.split('\n') : []))
  const inline = [...read(file).matchAll(/`([^`\n]+)`/g)].map(([, code]) => code!)
  return [
    ...lines.flatMap((line) => [...line.matchAll(/(?:^|[\s(])fleetgate ([a-z][^#();]*)/g)].map(([, call]) => call!)),
    ...inline.flatMap((code) => /^(?:npx )?fleetgate ([a-z].*)$/.exec(code)?.[1] ?? []),
  ]
}

const helps = new Map<string, Promise<string | undefined>>()

function helpOf(...words: string[]): Promise<string | undefined> {
  const name = words.join(' ')
  if (!helps.has(name))
    helps.set(
      name,
      fleetgate(['help', ...words]).then(({ code, out }) => (code === 0 ? out : undefined)),
    )
  return helps.get(name)!
}

/** @returns what of a call there is not */
async function unknownIn([word, ...rest]: string[], before: string[] = []): Promise<string[]> {
  // `device revoke|disable`: of each
  const found = await Promise.all(
    word!.split('|').map(async (name) => {
      const words = [...before, name]
      const help = await helpOf(...words)
      if (help === undefined) return [words.join(' ')]
      if (help.includes('\nCommands:\n') && /^[a-z]/.test(rest[0] ?? '')) return unknownIn(rest, words)
      const options = rest.join(' ').match(/--[a-z][a-z-]*/g) ?? []
      return options.filter((option) => !new RegExp(`${option}\\b`).test(help))
    }),
  )
  return found.flat()
}

test('docs/cli.md is what the commands say; npm run docs renews it', () => {
  assert.equal(read('docs/cli.md'), commandsPage(), 'docs/cli.md is out of date; run: npm run docs')
})

test('every command and option of fleetgate that a document names exists', async () => {
  const documents = [...globSync('*.md', { cwd: root }), ...globSync('docs/**/*.md', { cwd: root })]
  const wrong = new Set<string>()
  let count = 0
  for (const file of documents) {
    for (const call of callsIn(file)) {
      count++
      for (const name of await unknownIn(call.split(' '))) wrong.add(`${file}: ${call}: ${name}`)
    }
  }
  assert.ok(count > 100)
  assert.deepEqual([...wrong], [])
})
