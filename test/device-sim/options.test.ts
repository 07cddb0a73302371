import assert from 'node:assert/strict'
import { test } from 'node:test'
import { readOptions, readToken } from '../../device-sim/options.ts'

const needed = [
  '--est',
  'https://e',
  '--mqtts',
  'mqtts://m',
  '--root-fingerprint',
  `${'AB:'.repeat(31)}ab`,
  '--device',
  'cam-1',
]

test('flags win over the environment, and what may be left out has a default', () => {
  const env = { DEVICE_SIM_EST: 'https://other', DEVICE_SIM_TOKEN: 'secret', DEVICE_SIM_INTERVAL_MS: '50' }
  assert.deepEqual(readOptions(needed, env), {
    est: 'https://e',
    mqtts: 'mqtts://m',
    rootFingerprint: `${'AB:'.repeat(31)}ab`,
    id: 'cam-1',
    token: 'secret',
    tokenFile: undefined,
    dir: '.',
    intervalMs: 50,
  })
  assert.equal(readOptions(needed, {}).intervalMs, 5_000)
})

for (const [args, says] of [
  [[], /--device is missing; usage: device-sim/],
  [needed.slice(2), /--est is missing; usage: device-sim/],
  [['--est', 'https://e', '--mqtts', 'mqtts://m', '--device', 'cam-1'], /--root-fingerprint is missing; usage/],
  [[...needed, '--root-fingerprint', ''], /--root-fingerprint is missing; usage/],
  [[...needed, '--root-fingerprint', 'abc'], /--root-fingerprint: a SHA-256 is wanted, 64 hex digits/],
  [[...needed, '--speed', '9'], /Unknown option '--speed'.*usage: device-sim/s],
  [[...needed, '--device', 'a/b'], /a device id is/],
  [[...needed, '--interval-ms', 'often'], /a number of 10 or more/],
] as const) {
  test(`refused with a sentence: ${args.join(' ') || 'nothing'}`, () => {
    assert.throws(() => readOptions([...args], {}), { code: 'config_invalid', message: says })
  })
}

test('a token file that is not there is named', () => {
  assert.throws(() => readToken('/no/such/token'), {
    code: 'config_invalid',
    message: /--token-file: \/no\/such\/token/,
  })
})
