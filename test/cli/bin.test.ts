import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { test } from 'node:test'
import { endsWithTest } from '../harness/ends-with-test.ts'
import { hear } from '../harness/hear.ts'

const lock = {
  packages: {
    '': {},
    'node_modules/a': { version: '1.0.0', integrity: 'x' },
    'node_modules/b': { version: '1.0.0', integrity: 'y', dev: true },
  },
}

/** A project of one file with our bin/ in it, and an npm that only writes down what it did. */
class Project implements Disposable {
  readonly folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))

  constructor() {
    cpSync(new URL('../../bin', import.meta.url), join(this.folder, 'bin'), { recursive: true })
    for (const name of ['cli', 'npm', 'bench', 'node_modules']) mkdirSync(join(this.folder, name))
    writeFileSync(join(this.folder, 'package.json'), '{"type":"module"}')
    writeFileSync(join(this.folder, 'package-lock.json'), JSON.stringify(lock))
    this.program('console.log(JSON.stringify(process.argv.slice(2)))')
    this.npm(
      `echo "$@" >> ${this.folder}/npm.log; cp ${this.folder}/package-lock.json ${this.folder}/node_modules/.package-lock.json`,
    )
  }

  program(text: string): void {
    writeFileSync(join(this.folder, 'cli', 'main.ts'), text)
  }

  npm(script: string): void {
    writeFileSync(join(this.folder, 'npm', 'npm'), `#!/bin/sh\n${script}\n`)
    chmodSync(join(this.folder, 'npm', 'npm'), 0o755)
  }

  installed(packages: object): void {
    writeFileSync(join(this.folder, 'node_modules', '.package-lock.json'), JSON.stringify({ packages }))
  }

  get installations(): string[] {
    return readFileSync(join(this.folder, 'npm.log'), 'utf8').trim().split('\n')
  }

  spawn(...args: string[]): ReturnType<typeof spawn> {
    const path = `${join(this.folder, 'npm')}${delimiter}${process.env.PATH}`
    return endsWithTest(spawn(process.execPath, args, { cwd: this.folder, env: { ...process.env, PATH: path } }))
  }

  async run(...args: string[]): Promise<{ code: number | null; out: string; err: string }> {
    const child = this.spawn(...args)
    let out = ''
    let err = ''
    child.stdout!.on('data', (chunk) => {
      out += chunk
    })
    child.stderr!.on('data', (chunk) => {
      err += chunk
    })
    const [code] = await once(child, 'close')
    return { code, out, err }
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true })
  }
}

const { '': _, ...all } = lock.packages
const { 'node_modules/b': __, ...withoutDev } = all
const posix = { skip: process.platform === 'win32' && 'the npm that stands in is a shell script' }

test('a script installs first when nothing is installed, then runs with its arguments', posix, async () => {
  using project = new Project()
  const { code, out, err } = await project.run('bin/run.js', 'start', '--data', 'x')
  assert.deepEqual([code, out], [0, '["up","--data","x"]\n'])
  assert.match(err, /^Installing the dependencies/)
  assert.deepEqual(project.installations, [
    'ci --include=dev --no-audit --no-fund --no-update-notifier --loglevel=error',
  ])
})

test('fleetgate with its dependencies and a Node that is too old says so', posix, async () => {
  using project = new Project()
  project.installed(withoutDev)
  const node = join(project.folder, 'bin', 'node.js')
  writeFileSync(node, readFileSync(node, 'utf8').replace('const wanted = 24', 'const wanted = 99'))
  const { code, err } = await project.run('bin/fleetgate.js')
  assert.equal(code, 2)
  assert.match(err, /needs Node 99 or newer, this is v\d.*is not installed; run: npm ci --include=dev \(in /)
})

test('two scripts at once install once', posix, async () => {
  using project = new Project()
  const results = await Promise.all([project.run('bin/run.js', 'start'), project.run('bin/run.js', 'demo')])
  assert.deepEqual(
    results.map(({ code, out }) => [code, out]),
    [
      [0, '["up"]\n'],
      [0, '["demo"]\n'],
    ],
  )
  assert.equal(project.installations.length, 1)
})

test('a lock whose holder is gone does not stop an installation', posix, async () => {
  using project = new Project()
  const { pid } = project.spawn('-e', '0')
  writeFileSync(join(project.folder, '.fleetgate-install'), String(pid))
  assert.equal((await project.run('bin/run.js', 'start')).code, 0)
})

test('what npm has installed, whoever called it, is not installed again', posix, async () => {
  using project = new Project()
  project.installed(all)
  assert.equal((await project.run('bin/run.js', 'start')).err, '')
})

test('another version than that of package-lock.json is installed anew', posix, async () => {
  using project = new Project()
  project.installed({ ...all, 'node_modules/a': { version: '0.9.0', integrity: 'w' } })
  assert.match((await project.run('bin/run.js', 'start')).err, /^Installing/)
})

test('an installation that fails is exit code 2 with what to do', posix, async () => {
  using project = new Project()
  project.npm('echo no network >&2; exit 1')
  const { code, err } = await project.run('bin/run.js', 'start')
  assert.equal(code, 2)
  assert.match(err, /no network\nerror: npm ci failed \(see above\); when that is put right, type the same again/)
})

test('the product needs no development dependencies, the tests do', posix, async () => {
  using project = new Project()
  project.installed(withoutDev)
  assert.equal((await project.run('bin/fleetgate.js', 'status')).out, '["status"]\n')
  assert.equal((await project.run('bin/run.js', 'start')).err, '')
  assert.match((await project.run('bin/run.js', 'bench')).err, /^Installing/)
})

test('fleetgate in a checkout without dependencies says the one command', async () => {
  using project = new Project()
  const { code, err } = await project.run('bin/fleetgate.js', 'status')
  assert.equal(code, 2)
  assert.match(err, /^error: the dependencies of this checkout are not installed; run: npm ci \(in .*\)\n$/)
})

test('a script or benchmark that there is not is exit code 2 with those that there are', posix, async () => {
  using project = new Project()
  project.installed(all)
  writeFileSync(join(project.folder, 'bench', 'publish.bench.ts'), '')
  const unknown = await project.run('bin/run.js', 'toString')
  assert.equal(unknown.code, 2)
  assert.match(unknown.err, /^error: usage: node bin\/run\.js start \| demo \| [a-z |]+\n$/)
  const benchmark = await project.run('bin/run.js', 'bench', 'nothing')
  assert.deepEqual([benchmark.code, benchmark.err], [2, 'error: which one? npm run bench -- publish\n'])
})

test('the exit code of the program is passed on, and so are signals in both directions', posix, async () => {
  using project = new Project()
  project.installed(all)
  project.program('process.exitCode = 3')
  assert.equal((await project.run('bin/run.js', 'start')).code, 3)

  project.program("process.on('SIGTERM', () => process.exit(5)); setInterval(() => {}, 1000); console.log('on')")
  const asked = project.spawn('bin/run.js', 'start')
  assert.equal(await hear(asked), 'on\n')
  asked.kill('SIGTERM')
  assert.deepEqual(await once(asked, 'exit'), [5, null])

  project.program("process.kill(process.pid, 'SIGKILL')")
  const killed = project.spawn('bin/run.js', 'start')
  assert.deepEqual(await once(killed, 'exit'), [null, 'SIGKILL'])
})
