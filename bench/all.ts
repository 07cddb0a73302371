/**
 * The benchmarks that say how fast this is, in under five minutes, and a table of their figures in docs/benchmarks.md. Each warms
 * up and measures for long enough to say what a longer run says; for that there is mosquitto alone beside our broker, and MQTT
 * 3.1.1. What the time was not enough for on a busy machine is named in the table. Whoever wants to know more of one runs it alone.
 *
 *   npm run bench [-- --all] [--no-write]
 *
 * With --all those too that answer a question of their own, however long it takes.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, cpus, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Figure } from './figures.ts'

type Short = { name: string; settings: number[]; seconds: number }
/** No bench takes longer than its seconds; nor, where others still wait, than its share of the time that is left. */
const short: Short[] = [
  { name: 'fan-in', settings: [3, 60_000], seconds: 34 },
  { name: 'fan-out', settings: [3, 200_000], seconds: 26 },
  { name: 'handshake', settings: [3, 200, 16, 700], seconds: 26 },
  { name: 'latency', settings: [4, 2], seconds: 32 },
  { name: 'qos1', settings: [2, 20_000], seconds: 36 },
  { name: 'storm', settings: [2, 2, 200], seconds: 64 },
  { name: 'memory', settings: [300], seconds: 28 },
  { name: 'authorize', settings: [3], seconds: 12 },
  { name: 'revocation-lag', settings: [200, 20, 40], seconds: 24 },
  { name: 'enroll', settings: [16, 8], seconds: 46 },
  { name: 'crl', settings: [10_000, 10, 1], seconds: 34 },
]
const others: Short[] = [
  { name: 'codec', settings: [5], seconds: 20 },
  { name: 'routes', settings: [3], seconds: 20 },
  { name: 'policy-change', settings: [200, 2], seconds: 60 },
  { name: 'revoked-set', settings: [100_000, 4], seconds: 60 },
  { name: 'feed-join', settings: [2_000, 2, 2], seconds: 60 },
  { name: 'enroll-storm', settings: [], seconds: 120 },
  { name: 'registry', settings: [100_000, 10_000], seconds: 60 },
  { name: 'token-timing', settings: [], seconds: 60 },
  { name: 'device-memory', settings: [500], seconds: 120 },
]
const areAll = process.argv.includes('--all')
const benches = areAll ? [...short, ...others] : short
const allMs = 285_000 + (areAll ? others.reduce((sum, { seconds }) => sum + seconds * 1_000, 0) : 0)
/** So long a bench that was told to end may clear up. */
const graceMs = 3_000
const page = join(import.meta.dirname, '..', 'docs', 'benchmarks.md')
const [begin, end] = ['<!-- npm run bench writes from here -->', '<!-- to here -->']

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-bench-'))
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1))
process.once('exit', () => rmSync(folder, { recursive: true, force: true }))

type Result = { name: string; figures: Figure[]; why: string | undefined }
const started = performance.now()

async function run({ name, settings, seconds }: Short, waiting: number): Promise<Result> {
  const left = started + allMs - performance.now()
  const limitMs = Math.min(seconds * 1_000, (left * seconds) / (seconds + waiting))
  const figuresFile = join(folder, name)
  const file = join(import.meta.dirname, `${name}.bench.ts`)
  const child = spawn(process.execPath, [file, ...settings.map(String)], {
    env: { ...process.env, BENCH_PEERS: 'mosquitto', BENCH_VERSIONS: '4', BENCH_FIGURES: figuresFile },
    stdio: ['ignore', 'ignore', 'pipe'],
    detached: true, // a group, which ends as one
  })
  let complaint = ''
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    complaint = (complaint + text).slice(-2_000)
  })
  const tell = (signal: NodeJS.Signals): void => {
    try {
      process.kill(-child.pid!, signal)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error // all of them are gone
    }
  }
  const stop = (): void => tell('SIGTERM')
  process.once('exit', stop)
  const exited = once(child, 'exit')
  const timer = new AbortController()
  const limit = sleep(limitMs, true, timer).catch(() => false)
  const isLate = await Promise.race([exited.then(() => false), limit])
  timer.abort()
  if (isLate) {
    stop()
    await Promise.race([exited, sleep(graceMs)])
  }
  // A broker that a bench has left behind would take its share of the next.
  tell('SIGKILL')
  await exited
  process.removeListener('exit', stop)
  const lines = existsSync(figuresFile) ? readFileSync(figuresFile, 'utf8').trim().split('\n') : []
  const figures = lines.map((line) => JSON.parse(line) as Figure)
  const failure = /^\w*Error.*$/m.exec(complaint)?.[0]
  // A bench that only misses what is wanted of it ends with 1, too.
  const why = isLate
    ? 'the time was not enough'
    : failure !== undefined || figures.length === 0
      ? (failure ?? 'it said nothing')
      : undefined
  return { name, figures, why }
}

const load = (): string => loadavg()[0]!.toFixed(1)
const before = load()
const results: Result[] = []
for (const [at, bench] of benches.entries()) {
  const began = performance.now()
  const called = [bench.name, ...bench.settings].join(' ')
  process.stdout.write(`${`${at + 1}/${benches.length}`.padStart(6)}  ${called.padEnd(34)}`)
  const waiting = benches.slice(at + 1).reduce((sum, { seconds }) => sum + seconds, 0)
  const result = await run(bench, waiting)
  results.push(result)
  const took = `${((performance.now() - began) / 1_000).toFixed(0)} s`
  console.log(`${took.padStart(5)}  load ${load()}${result.why === undefined ? '' : `  ${result.why}`}`)
  for (const { what, measured, wanted, remark } of result.figures) {
    console.log(`        ${what}: ${measured}${wanted ? `; wanted ${wanted}` : ''}${remark ? ` (${remark})` : ''}`)
  }
}

const cell = (text: string): string => text.replaceAll('|', '\\|')
const rows = results.flatMap(({ name, figures, why }) => [
  ...figures.map(({ what, measured, wanted = '', remark = '' }) => [name, what, measured, wanted, remark]),
  ...(why === undefined ? [] : [[name, 'not measured to its end', '', '', why]]),
])
const cores = availableParallelism()
const noise =
  Math.max(Number(before), Number(load())) > cores ? '; other work was on it, so that these figures are noisy' : ''
const minutes = ((performance.now() - started) / 60_000).toFixed(1)
const text = `${begin}
${new Date().toISOString().slice(0, 10)}, Node ${process.versions.node}, ${cores} cores of ${cpus()[0]?.model ?? process.arch}, ${minutes} minutes. Load of the machine: ${before} at the beginning, ${load()} at the end${noise}.

| bench | figure | measured | wanted | remark |
|---|---|---|---|---|
${rows.map((row) => `| ${row.map(cell).join(' | ')} |`).join('\n')}
${end}`

if (process.argv.includes('--no-write')) console.log('\nnothing is written to docs/benchmarks.md')
else {
  const doc = readFileSync(page, 'utf8')
  const [from, to] = [doc.indexOf(begin), doc.indexOf(end)]
  if (from < 0 || to < from) throw new Error(`${page} has lost the lines between which figures stand`)
  writeFileSync(page, doc.slice(0, from) + text + doc.slice(to + end.length))
  console.log('\nwritten to docs/benchmarks.md')
}
process.exitCode = results.some(({ why }) => why !== undefined) ? 1 : 0
