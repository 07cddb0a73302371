import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { problem, StubAdmin } from '../harness/stub-admin.ts'
import { fleetgate } from '../harness/stub-io.ts'

const commands = [
  ['up'],
  ['demo'],
  ['device', 'create'],
  ['device', 'ls'],
  ['device', 'show'],
  ['device', 'revoke'],
  ['token', 'create'],
  ['policy', 'check'],
  ['policy', 'apply'],
  ['policy', 'show'],
  ['cert', 'ls'],
  ['cert', 'show'],
  ['audit', 'tail'],
  ['status'],
]

for (const command of commands) {
  test(`${command.join(' ')} --help shows an example of it`, async () => {
    const { code, out } = await fleetgate([...command, '--help'])
    assert.equal(code, 0)
    assert.match(out, new RegExp(`Examples:\n {2}\\$ fleetgate ${command.join(' ')}`))
  })
}

const misused: [argv: string[], says: RegExp][] = [
  [['nonsense'], /unknown command 'nonsense'/],
  [['device'], /Usage: fleetgate device/],
  [['device', 'ls', '--colour'], /unknown option '--colour'/],
  [['device', 'ls', '-o', 'xml'], /Allowed choices are table, json/],
  [['device', 'create', 'a/b', '--profile', 'camera'], /A device id is letters, digits/],
  [['device', 'create', 'cam-1'], /required option '--profile <name>'/],
  [['device', 'create', 'cam-1', '--profile', 'Camera'], /A profile is lower-case/],
  [['device', 'create', 'cam-1', '--profile', 'camera', '--group', '+'], /A group is letters/],
  [['device', 'revoke', 'cam-1'], /required option '--reason <reason>'/],
  [['device', 'revoke', 'cam-1', '--reason', 'bored'], /Allowed choices are unspecified, keyCompromise/],
  [['device', 'revoke', 'cam-1', '--reason', 'keyCompromise', '--timeout', '2h'], /Give a time from 1ms to 1m/],
  [['token', 'create', '--device', 'cam-1', '--ttl', '5'], /Give a time from 1m to 30d/],
  [['token', 'create', '--device', 'cam-1', '--ttl', '31d'], /Give a time from 1m to 30d/],
  [['audit', 'tail', '-n', '0'], /Give a whole number from 1 to 1000/],
  [['cert', 'show', 'xyz'], /A serial number is hex/],
  [['up', '--ports', 'some'], /Allowed choices are configured, auto/],
  [['demo', '--devices', '3'], /Give a whole number from 4 to 1000/],
  [['up', '--config', 'no-such-file.yaml'], /no-such-file.yaml cannot be read/],
]

for (const [argv, says] of misused) {
  test(`exit code 2 and a sentence for: ${argv.join(' ')}`, async () => {
    const { code, out, err } = await fleetgate(argv)
    assert.equal(code, 2)
    assert.equal(out, '')
    assert.match(err, says)
    assert.doesNotMatch(err, /\n {4}at /)
  })
}

test('exit code 1 when no gateway runs on the data folder, with the command that starts one', async () => {
  const { code, err } = await fleetgate(['status', '--data', '/nonexistent'])
  assert.equal(code, 1)
  assert.match(err, /^error: No gateway runs on \/nonexistent .*npx fleetgate up --data \/nonexistent\n$/)
})

test('exit code 3 when the gateway refuses, with its sentence and what to type next', async () => {
  await using stub = await StubAdmin.start(() => problem(404, 'device_unknown', 'There is no device cam-9'))
  const { code, err } = await fleetgate(['device', 'show', 'cam-9', '--data', stub.dataDir])
  assert.equal(code, 3)
  assert.equal(err, 'error: There is no device cam-9; see which there are: fleetgate device ls\n')
})

test('exit code 1 when the gateway fails', async () => {
  await using stub = await StubAdmin.start(() => problem(500, 'internal', 'request 17 failed'))
  const { code, err } = await fleetgate(['device', 'show', 'cam-9', '--data', stub.dataDir])
  assert.deepEqual([code, err], [1, 'error: request 17 failed\n'])
})

test('what a refusal says cannot act on the terminal', async () => {
  await using stub = await StubAdmin.start(() => problem(400, 'request_malformed', 'no \u001b]0;owned\u0007'))
  const { err } = await fleetgate(['device', 'show', 'cam-9', '--data', stub.dataDir])
  assert.equal(err, 'error: no <U+001B>]0;owned<U+0007>\n')
})

test('FLEETGATE_DEBUG=1 adds where the error comes from', async () => {
  const { code, err } = await fleetgate(['status', '--data', '/nonexistent'], { env: { FLEETGATE_DEBUG: '1' } })
  assert.equal(code, 1)
  assert.match(err, /\n {4}at .*\n[\s\S]*caused by Error: ENOENT/)
})

test('up refuses a bad configuration before it creates anything', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
  const config = join(folder, 'fleetgate.yaml')
  writeFileSync(config, 'broker:\n  listen: nowhere\n')
  const { code, out, err } = await fleetgate(['up', '--config', config, '--data', join(folder, 'data')])
  assert.deepEqual([code, out], [2, ''])
  assert.match(err, /fleetgate\.yaml:2:3: broker\.listen: host:port/)
  rmSync(folder, { recursive: true })
})
