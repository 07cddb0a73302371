import assert from 'node:assert/strict'
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
