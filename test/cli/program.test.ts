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
  [['devcie'], /unknown command 'devcie'\n\(Did you mean device\?\)/],
  [['device', 'ls', '--grup', 'x'], /unknown option '--grup'\n\(Did you mean --group\?\)/],
  [['device'], /Usage: fleetgate device/],
  [['device', 'ls', '--colour'], /unknown option '--colour'/],
  [['device', 'ls', '-o', 'xml'], /Allowed choices are table, json/],
  [['device', 'create', 'a/b', '--profile', 'camera'], /A device id is letters, digits/],
  [['device', 'allow', '--label', 'line'], /required option '--file' is not given/],
  [['device', 'allow', 'rm', '--label', 'line'], /nothing to take off/],
  [['device', 'allow', 'rm', 'SN1'], /required option '--label <name>'/],
  [['device', 'create', 'cam-1'], /required option '--profile <name>'/],
  [['device', 'set', 'cam-1'], /nothing to set; give --profile, --group/],
  [['device', 'create', 'cam-1', '--profile', 'Camera'], /A profile is lower-case/],
  [['device', 'create', 'cam-1', '--profile', 'camera', '--group', '+'], /A group is letters/],
  [['device', 'revoke', 'cam-1'], /required option '--reason <reason>'/],
  [['device', 'revoke', 'cam-1', '--reason', 'bored'], /Allowed choices are unspecified, keyCompromise/],
  [['device', 'revoke', 'cam-1', '--reason', 'keyCompromise', '--timeout', '2h'], /Give a time from 1ms to 1m/],
  [['token', 'create', '--device', 'cam-1', '--ttl', '5'], /Give a time from 1m to 30d/],
  [['token', 'create', '--device', 'cam-1', '--ttl', '31d'], /Give a time from 1m to 30d/],
  [['audit', 'tail', '-n', '0'], /Give a whole number from 1 to 1000/],
  [['cert', 'show', 'xyz'], /A serial number is hex/],
  [['status', '--data', ''], /Name a folder/],
  [['up', '--data', ''], /Name a folder/],
  [['token', 'create', '--device', 'cam-1', '--quiet', '-o', 'json'], /'-q, --quiet' cannot be used with '-o json'/],
  [['help', 'device', 'make'], /unknown command 'device make'/],
  [['help', 'device', 'creat'], /unknown command 'device creat'; did you mean create\?/],
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
  assert.equal(
    err,
    `error: There is no device cam-9 (device_unknown); see which there are: npx fleetgate device ls --data ${stub.dataDir}\n`,
  )
})

test('exit code 1 when the gateway fails', async () => {
  await using stub = await StubAdmin.start(() => problem(500, 'internal', 'request 17 failed'))
  const { code, err } = await fleetgate(['device', 'show', 'cam-9', '--data', stub.dataDir])
  assert.deepEqual([code, err], [1, 'error: request 17 failed (internal)\n'])
})

test('what a refusal says cannot act on the terminal', async () => {
  await using stub = await StubAdmin.start(() => problem(400, 'request_malformed', 'no \u001b]0;owned\u0007'))
  const { err } = await fleetgate(['device', 'show', 'cam-9', '--data', stub.dataDir])
  assert.equal(err, 'error: no <U+001B>]0;owned<U+0007> (request_malformed)\n')
})

test('with -o json an error is an object with its code on standard error', async () => {
  await using stub = await StubAdmin.start(() => problem(404, 'device_unknown', 'There is no device cam-9'))
  const { code, out, err } = await fleetgate(['device', 'show', 'cam-9', '-o', 'json', '--data', stub.dataDir])
  assert.deepEqual([code, out], [3, ''])
  const detail = `There is no device cam-9; see which there are: npx fleetgate device ls --data ${stub.dataDir}`
  assert.deepEqual(JSON.parse(err), { error: { code: 'device_unknown', detail } })
})

test('of a device that exists already the hint shows that device', async () => {
  await using stub = await StubAdmin.start(() => problem(409, 'device_exists', 'cam-1 exists'))
  const { err } = await fleetgate(['device', 'create', 'cam-1', '--profile', 'camera', '--data', stub.dataDir])
  assert.match(err, /^error: cam-1 exists \(device_exists\); see it: npx fleetgate device show cam-1 --data \S+\n$/)
})

test('the data folder is that of --data, else of FLEETGATE_DATA, else of the configuration file', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
  const config = join(folder, 'gateway.yaml')
  writeFileSync(config, 'data: /nonexistent/of-file\n')
  const asked = async (env: NodeJS.ProcessEnv, ...more: string[]): Promise<string> =>
    (await fleetgate(['status', '--config', config, ...more], { env })).err
  assert.match(await asked({}), /No gateway runs on \/nonexistent\/of-file /)
  assert.match(await asked({ FLEETGATE_DATA: '/nonexistent/of-env' }), /No gateway runs on \/nonexistent\/of-env /)
  assert.match(await asked({}, '--data', '/nonexistent/given'), /No gateway runs on \/nonexistent\/given /)
  assert.match((await fleetgate(['status'])).err, /No gateway runs on \.\/data .*; start it: npx fleetgate up\n$/)
  rmSync(folder, { recursive: true })
})

test('the folder of a fleetgate.yaml in the working folder is meant without being named', async (context) => {
  const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
  const before = process.cwd()
  process.chdir(folder)
  context.after(() => {
    process.chdir(before)
    rmSync(folder, { recursive: true })
  })
  writeFileSync('fleetgate.yaml', 'data: ./elsewhere\n')
  const { err } = await fleetgate(['device', 'ls'])
  assert.match(err, /No gateway runs on \.\/elsewhere .*npx fleetgate up --data \.\/elsewhere\n$/)
})

test('help of a command of two words is its own, with what is required and readable defaults', async () => {
  const create = await fleetgate(['help', 'device', 'create'])
  assert.equal(create.code, 0)
  assert.match(create.out, /Usage: fleetgate device create/)
  assert.match(create.out, /--profile <name> .*\(required\)/)
  const revoke = await fleetgate(['device', 'revoke', '--help'])
  assert.match(revoke.out, /--reason <reason> .*\(required\)/)
  assert.match(revoke.out, /default:\s+10s/)
  assert.match((await fleetgate(['help'])).out, /Usage: fleetgate \[options\]/)
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
