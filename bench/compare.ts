/**
 * Runs a bench in the working tree of another commit and here, in turns, and prints the ratio of each figure that they have in
 * common, with its range over the rounds.
 *
 *   node bench/compare.ts FOLDER_OF_BASE NAME [rounds] [settings of the bench...]
 *
 * The folder has to have its dependencies, as `git worktree add FOLDER COMMIT` and a link to node_modules give it.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { loadavg, tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { type Figure, range } from './figures.ts'

const [base, name, rounds = '3', ...settings] = process.argv.slice(2)
if (base === undefined || name === undefined) throw new Error('node bench/compare.ts FOLDER_OF_BASE NAME [rounds]')
const folders = { base: resolve(base), change: join(import.meta.dirname, '..') }
const scratch = mkdtempSync(join(tmpdir(), 'fleetgate-compare-'))
process.once('exit', () => rmSync(scratch, { recursive: true, force: true }))

/** The first number of each figure, which is the one measured here and now. */
function measure(side: keyof typeof folders, round: number): Map<string, number> {
  const figuresFile = join(scratch, `${side}-${round}`)
  const bench = join(folders[side], 'bench', `${name}.bench.ts`)
  const env = { ...process.env, BENCH_FIGURES: figuresFile }
  const stdio = ['ignore', 'ignore', 'pipe'] as const
  const { stderr } = spawnSync(process.execPath, [bench, ...settings], { cwd: folders[side], env, stdio: [...stdio] })
  // One that only misses what is wanted of it ends with 1, too.
  const failure = /^\w*Error.*$/m.exec(String(stderr))?.[0]
  if (failure !== undefined || !existsSync(figuresFile)) throw new Error(`${bench}: ${failure ?? 'it said no figure'}`)
  const lines = readFileSync(figuresFile, 'utf8').trim().split('\n')
  return new Map(
    lines.map((line) => {
      const { what, measured } = JSON.parse(line) as Figure
      return [what, Number.parseFloat(measured) * (/^[\d.]+k/.test(measured) ? 1_000 : 1)]
    }),
  )
}

const ratios = new Map<string, number[]>()
for (let round = 0; round < Number(rounds); round++) {
  // The one that comes first finds another machine than the second.
  const order = round % 2 === 0 ? (['base', 'change'] as const) : (['change', 'base'] as const)
  const figures = Object.fromEntries(order.map((side) => [side, measure(side, round)])) as Record<
    keyof typeof folders,
    Map<string, number>
  >
  for (const [what, changed] of figures.change) {
    const before = figures.base.get(what)
    if (before !== undefined) ratios.set(what, [...(ratios.get(what) ?? []), changed / before])
  }
  console.log(`round ${round + 1} of ${rounds}, load ${loadavg()[0]!.toFixed(1)}`)
}
if (ratios.size === 0) throw new Error('the two have no figure in common')
for (const [what, of] of ratios) console.log(`${what.padEnd(64)}change / base ${range(of)}`)
