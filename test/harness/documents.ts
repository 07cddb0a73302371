/** The fenced blocks of the documents, and what the HTML comment before one says about running it. */
import { globSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

const root = dirname(dirname(import.meta.dirname))

export const read = (path: string): string => readFileSync(join(root, path), 'utf8')

/** What a reader follows; decisions are read, not typed. */
export const pages = ['README.md', 'CONTRIBUTING.md', 'SECURITY.md', ...globSync('docs/*.md', { cwd: root }).sort()]

/**
 * - `<!-- run: NAME -->`: test/interop/docs.test.ts runs the lines, page by page from its top.
 * - `<!-- run: NAME until: WORDS -->`: they go on until the page is done; once they have said this, the next ones follow.
 * - `<!-- run by FILE: NAME -->`: that test does.
 * - `<!-- not run: REASON -->`
 */
export type Running =
  | { how: 'here'; name: string; until?: string }
  | { how: 'elsewhere'; name: string; by: string }
  | { how: 'not'; reason: string }

export type Block = { file: string; line: number; language: string; text: string; running?: Running }

export function blocksOf(file: string): Block[] {
  const text = read(file)
  return [...text.matchAll(/^( *)```(\S*)\n([\s\S]*?)^ *```$/gm)].map((found) => {
    const before = text.slice(0, found.index).trimEnd()
    const running = runningOf(/<!-- ([^>]*) -->$/.exec(before)?.[1] ?? '')
    const line = before.split('\n').length + 1
    return { file, line, language: found[2]!, text: found[3]!, ...(running && { running }) }
  })
}

function runningOf(comment: string): Running | undefined {
  const here = /^run: (\S+)(?: until: (.+))?$/.exec(comment)
  if (here) return { how: 'here', name: here[1]!, ...(here[2] !== undefined && { until: here[2] }) }
  const elsewhere = /^run by (\S+): (\S+)$/.exec(comment)
  if (elsewhere) return { how: 'elsewhere', by: elsewhere[1]!, name: elsewhere[2]! }
  const not = /^not run: (.{10,})$/.exec(comment)
  return not ? { how: 'not', reason: not[1]! } : undefined
}

/** @throws Error where the page has no such block */
export function linesOf(file: string, name: string): string {
  const found = blocksOf(file).find(
    ({ running }) => running !== undefined && 'name' in running && running.name === name,
  )
  if (found === undefined) throw new Error(`${file} has no block named ${name}`)
  return found.text
}
