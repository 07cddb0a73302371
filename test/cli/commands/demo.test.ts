import assert from 'node:assert/strict'
import { rmSync } from 'node:fs'
import { test } from 'node:test'
import { fleetgate } from '../../harness/stub-io.ts'

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
