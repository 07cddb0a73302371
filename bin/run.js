// What the npm scripts call: `node bin/run.js <script> [args]`. Installs first where that is needed, then runs the script
// with the Node that the project brings.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { availableParallelism, cpus } from 'node:os'
import { join } from 'node:path'
import { install, isInstalled } from './install.js'
import { become, fail, findProjectNode, nodeMissing, root, runningIsEnough } from './node.js'

const cores = availableParallelism?.() ?? cpus().length

/** Script -> what Node is given, one list for each program to run, one after the other. */
const scripts = {
  start: (args) => [['cli/main.ts', 'up', ...args]],
  demo: (args) => [['cli/main.ts', 'demo', ...args]],
  // What needs nothing beyond Node: the journeys with other people's clients and the long ones are scripts of their own.
  test: (args) => [tests(args.length > 0 ? args : ['test/together/*.test.ts'])],
  long: (args) => [tests(args.length > 0 ? args : ['test/long/**/*.test.ts'])],
  interop: (args) => [tests(args.length > 0 ? args : ['test/interop/*.test.ts'])],
  bench: ([name, ...args]) =>
    name === undefined || name.startsWith('--')
      ? [['bench/all.ts', ...(name ? [name] : []), ...args]]
      : [[named('bench', name, '.bench.ts'), ...args]],
  crash: ([name, ...args]) =>
    name === 'stolen'
      ? [['test/crash/stolen.ts', ...args]]
      : [['test/crash/kill.ts', ...(name ? [name] : []), ...args]],
  fuzz: ([name, ...args]) => [[named('test/fuzz', name, '.ts'), ...args]],
  soak: (args) => [['test/soak/main.ts', ...args]],
  check: () => [
    ['node_modules/typescript/bin/tsc', '--noEmit'],
    ['node_modules/@biomejs/biome/bin/biome', 'check'],
  ],
  docs: () => [['docs/generate.ts']],
}

function tests(files) {
  return [
    '--test',
    '--test-reporter=spec',
    `--test-concurrency=${cores + 1}`,
    // A file may be many: test/together gives each of them two minutes.
    '--test-timeout=300000',
    '--import=./test/harness/end-in-time.ts',
    ...files,
  ]
}

function named(folder, name, ending) {
  const file = `${folder}/${name}${ending}`
  if (name !== undefined && existsSync(join(root, file))) return file
  const known = readdirSync(join(root, folder)).filter((entry) => entry.endsWith(ending))
  return fail(`which one? npm run ${script} -- ${known.map((entry) => entry.slice(0, -ending.length)).join(' | ')}`)
}

// The tests are many short processes that read the same sources: compiled once, they start in less time.
process.env.NODE_COMPILE_CACHE ??= join(root, 'node_modules', '.cache', 'compile')
const [script, ...args] = process.argv.slice(2)
if (script === undefined || !Object.hasOwn(scripts, script))
  fail(`usage: node bin/run.js ${Object.keys(scripts).join(' | ')}`)
const isProduct = script === 'start' || script === 'demo'
const needed = { dev: !isProduct }
if (!isInstalled(needed)) await install(needed)
const node = findProjectNode() ?? (runningIsEnough ? process.execPath : nodeMissing())
const programs = scripts[script](args)
// The product looks for its configuration and data where the command was typed; every other script works on the project.
if (isProduct) programs[0][0] = join(root, programs[0][0])
else process.chdir(root)
const last = programs.pop()
const results = programs.map((program) => spawnSync(node, program, { stdio: 'inherit' }))
become(node, last, results.every(({ status }) => status === 0) ? 0 : 1)
