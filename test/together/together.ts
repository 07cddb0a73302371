/**
 * Which test files share a process. Loading the services and compiling what they run costs a process as much as most files
 * then spend on their tests, so `npm test` starts one for each row and not for each file.
 */
import { globSync } from 'node:fs'
import { basename, join } from 'node:path'
import { suite } from 'node:test'
import { pathToFileURL } from 'node:url'

const root = join(import.meta.dirname, '..')

/**
 * Patterns below test/, without their ending. Each row is a file of this folder. They are begun in the order of their names, one
 * more at a time than there are cores, and take about as long as each other: a long one that begins late keeps the rest idle.
 */
export const rows: Record<string, string[]> = {
  basis: ['*', '{contract,pki,runtime,soak}/**/*'],
  'broker-a-m': ['broker/[a-m]*'],
  'broker-n-z': ['broker/[n-z]*'],
  'broker-parts': ['broker/*/**/*'],
  cli: ['cli/**/*'],
  'device-sim': ['device-sim/**/*'],
  enroll: ['enroll/*', 'enroll/admin/**/*'],
  'enroll-parts': ['enroll/{ca,ra,registry}/**/*'],
  est: ['enroll/est/**/*'],
}

export const filesOf = (row: string): string[] =>
  rows[row]!.flatMap((pattern) => globSync(`${pattern}.test.ts`, { cwd: root })).sort()

/** Each file is a suite of its own, with its own hooks. @param file of this folder, named as its row */
export function together(file: string): void {
  for (const name of filesOf(basename(file, '.test.ts'))) {
    // What the runner allows a file; it has the whole row for one.
    suite(name, { timeout: 120_000 }, async () => {
      await import(pathToFileURL(join(root, name)).href)
    })
  }
}
