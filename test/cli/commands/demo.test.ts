import assert from 'node:assert/strict'
import { rmSync } from 'node:fs'
import { test } from 'node:test'
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

test('demo --once that is interrupted before its gateway runs says so', async () => {
  const stop = AbortSignal.abort('SIGINT')
  const { code, out, err } = await fleetgate(['demo', '--once'], { untilSignal: () => stop })
  assert.deepEqual([code, out, err], [1, '', 'error: interrupted by SIGINT while: starting a gateway\n'])
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
