/** A demo from its beginning to each of its ends; those before it has a gateway are in test/cli/commands/demo.test.ts. */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { test } from 'node:test'
import { DemoProcess, interruptedBy } from '../harness/demo-process.ts'
import { fleetgate } from '../harness/stub-io.ts'

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

const posix = { skip: process.platform === 'win32' && 'Windows knows no signals' }

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  test(`demo --once that gets a ${signal} names its step, fails and leaves no keys behind`, posix, async () => {
    using demo = new DemoProcess()
    const end = demo.ended()
    await demo.told()
    demo.process.kill(signal)
    assert.equal(await end, 1)
    assert.match(demo.err, interruptedBy(signal))
    assert.deepEqual(readdirSync(demo.temporary), [])
  })
}

test('demo --once whose reader leaves fails and leaves no keys behind', posix, async () => {
  using demo = new DemoProcess()
  const end = demo.ended()
  await demo.told()
  demo.process.stdout!.destroy()
  assert.equal(await end, 1)
  assert.match(demo.err, /^error: interrupted by its reader, who closed the output (while|before): /)
  assert.deepEqual(readdirSync(demo.temporary), [])
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

const linux = { skip: process.platform !== 'linux' && 'children are found in /proc' }

test('a gateway that dies in the middle of the story is told with the step', linux, async () => {
  using demo = new DemoProcess()
  const end = demo.ended()
  await demo.told()
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
