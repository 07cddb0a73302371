import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { fleetgate } from '../../harness/stub-io.ts'

test('demo --once -o json tells every step to a script, and exit code 0 that each of them held', async () => {
  const { code, out, err } = await fleetgate(['demo', '--devices', '4', '--once', '-o', 'json'])
  assert.deepEqual([code, err], [0, ''])
  const { ok, steps } = JSON.parse(out)
  assert.equal(ok, true)
  assert.deepEqual(
    steps.map(({ name }: { name: string }) => name),
    [
      'fleet-enrolled',
      'telemetry-flows',
      'foreign-topic-refused',
      'no-certificate-refused',
      'self-signed-refused',
      'foreign-ca-refused',
      'command-answered',
      'renewal-loses-nothing',
      'stolen-camera-cut',
      'stolen-camera-stays-out',
      'others-unaffected',
    ],
  )
  for (const step of steps) assert.deepEqual(Object.keys(step), ['name', 'title', 'ok', 'detail', 'ms', 'measured'])
})

test('demo without --once goes on until it is interrupted', async () => {
  const stop = new AbortController()
  let told = ''
  const out = (text: string): void => {
    told += text
    if (text.includes('Ctrl-C ends it')) stop.abort()
  }
  const { code } = await fleetgate(['demo', '--devices', '4'], { out, untilSignal: () => stop.signal })
  assert.equal(code, 0)
  assert.equal(told.match(/^✔ /gm)?.length, 11)
})

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
after(() => rmSync(folder, { recursive: true, force: true }))
const main = fileURLToPath(new URL('../../../cli/main.ts', import.meta.url))
const posix = { skip: process.platform === 'win32' && 'Windows knows no signals' }

/** `fleetgate demo --once` as a process of its own, with a folder for temporary files that nobody else uses. */
class Demo {
  readonly temporary = mkdtempSync(join(folder, 'tmp-'))
  readonly process: ChildProcess
  err = ''

  constructor() {
    this.process = spawn(process.execPath, [main, 'demo', '--once', '--devices', '4'], {
      env: { ...process.env, TMPDIR: this.temporary },
    })
    this.process.stderr!.on('data', (chunk) => {
      this.err += chunk
    })
  }

  async ended(): Promise<unknown> {
    const [code] = await once(this.process, 'close')
    return code
  }
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  test(`demo --once that gets a ${signal} names its step, fails and leaves no keys behind`, posix, async () => {
    const demo = new Demo()
    const end = demo.ended()
    await Promise.race([once(demo.process.stdout!, 'data'), end])
    demo.process.kill(signal)
    assert.equal(await end, 1)
    assert.match(
      demo.err,
      new RegExp(`^error: interrupted by ${signal} (while|before): [^;]+; \\d+ of 11 steps were observed\n$`),
    )
    assert.deepEqual(readdirSync(demo.temporary), [])
  })
}

test('demo --once whose reader leaves fails and leaves no keys behind', posix, async () => {
  const demo = new Demo()
  const end = demo.ended()
  await Promise.race([once(demo.process.stdout!, 'data'), end])
  demo.process.stdout!.destroy()
  assert.equal(await end, 1)
  assert.match(demo.err, /^error: interrupted by its reader, who closed the output (while|before): /)
  assert.deepEqual(readdirSync(demo.temporary), [])
})

test('demo --once that is interrupted before its gateway runs says so', async () => {
  const stop = AbortSignal.abort('SIGINT')
  const { code, out, err } = await fleetgate(['demo', '--once'], { untilSignal: () => stop })
  assert.deepEqual([code, out, err], [1, '', 'error: interrupted by SIGINT while: starting a gateway\n'])
})

test('the second Ctrl-C ends the demo at once', async () => {
  const stop = new AbortController()
  let hurry: (() => void) | undefined
  const untilSignal = (now?: () => void): AbortSignal => {
    hurry = now
    return stop.signal
  }
  const out = (): void => {
    stop.abort('SIGINT')
    hurry!()
  }
  const { code, err } = await fleetgate(['demo', '--once', '--devices', '4'], { out, untilSignal })
  assert.equal(code, 1)
  assert.match(err, /^error: interrupted by SIGINT before: telemetry flows; 1 of 11 steps were observed\n$/)
})

test('a terminal is told first that a gateway is started', async () => {
  const options = { isTerminal: true, untilSignal: () => AbortSignal.abort('SIGINT') }
  assert.match((await fleetgate(['demo', '--once'], options)).err, /^starting a gateway \.\.\.\n/)
})

test('an interrupt of demo -o json is an object too', async () => {
  const options = { untilSignal: () => AbortSignal.abort('SIGINT') }
  const { err } = await fleetgate(['demo', '--once', '-o', 'json'], options)
  assert.equal(JSON.parse(err).error.code, 'interrupted')
})

test('a gateway that cannot start is told with the step and its log', async () => {
  const { code, err } = await fleetgate(['demo', '--once'], { env: { NODE_OPTIONS: '--no-such-option' } })
  assert.equal(code, 1)
  const [, log] =
    /^error: while: starting a gateway: enroll ended .* \(internal\); .*; its log is (\S+)\n$/.exec(err) ?? []
  rmSync(log!)
})

const linux = { skip: process.platform !== 'linux' && 'children are found in /proc' }

test('a gateway that dies in the middle of the story is told with the step', linux, async () => {
  const demo = new Demo()
  const end = demo.ended()
  await Promise.race([once(demo.process.stdout!, 'data'), end])
  const { pid } = demo.process
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ')
  process.kill(Number(children.at(-1)), 'SIGKILL')
  assert.equal(await end, 1)
  assert.match(demo.err, /^error: (while|before): [^;]+; \d+ of 11 steps were observed: broker ended unexpectedly/)
  assert.deepEqual(
    readdirSync(demo.temporary).filter((name) => !name.endsWith('.log')),
    [],
  )
})
