import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { StubAdmin } from '../../harness/stub-admin.ts'
import { fleetgate } from '../../harness/stub-io.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
const file = join(folder, 'serials.csv')
after(() => rmSync(folder, { recursive: true }))

test('device allow sends what the file has, five hundred at a time, and adds up what was new', async () => {
  const lines = Array.from({ length: 501 }, (_, n) => (n === 0 ? 'PID:G1 SN:0, gauge-0' : `SN${n}`))
  writeFileSync(file, `\ufeffserial,device\r\n\r\n# first lot\r\n${lines.join('\r\n')}\r\n`)
  await using stub = await StubAdmin.start((_request, count) => ({ status: 200, body: { added: count } }))
  const argv = ['device', 'allow', '--file', file, '--label', 'line', '--group', 'hall', '--data', stub.dataDir]
  const { code, out, err } = await fleetgate(argv)
  assert.deepEqual([code, err, out], [0, '', 'added  3\nknown  498\n'])
  const bodies = stub.requests.map(({ body }) => body as { label: string; groups: string[]; entries: object[] })
  assert.deepEqual(
    bodies.map(({ entries }) => entries.length),
    [500, 1],
  )
  assert.deepEqual([bodies[0]!.label, bodies[0]!.groups], ['line', ['hall']])
  assert.deepEqual(bodies[0]!.entries.slice(0, 2), [
    { serial: 'PID:G1 SN:0', deviceId: 'gauge-0' },
    { serial: 'SN1', deviceId: 'SN1' },
  ])
})

test('device allow --other-hardware says so of each part of the file, and nothing does without it', async () => {
  writeFileSync(file, Array.from({ length: 501 }, (_, n) => `SN${n}\n`).join(''))
  await using stub = await StubAdmin.start(() => ({ status: 200, body: { added: 0 } }))
  const argv = ['device', 'allow', '--file', file, '--label', 'line', '--data', stub.dataDir]
  for (const more of [['--other-hardware'], []]) assert.equal((await fleetgate([...argv, ...more])).code, 0)
  const said = stub.requests.map(({ body }) => (body as { otherHardware: boolean }).otherHardware)
  assert.deepEqual(said, [true, true, false, false])
})

test('device allow rm takes off what the same file has, and what is named', async () => {
  writeFileSync(file, 'SN1\nPID:G1 SN:2,gauge-2\n')
  await using stub = await StubAdmin.start(() => ({ status: 200, body: { removed: 3 } }))
  const argv = ['device', 'allow', 'rm', 'SN3', '--file', file, '--label', 'line', '--data', stub.dataDir]
  assert.deepEqual((await fleetgate(argv)).out, 'removed  3\nunknown  0\n')
  assert.deepEqual(stub.requests[0]!.body, { label: 'line', serials: ['SN3', 'SN1', 'PID:G1 SN:2'] })
})

test('a line that cannot be read is refused with its number, and nothing is sent', async () => {
  const cases: [string, RegExp][] = [
    ['SN1\nPID:G1 SN:2\n', /Line 2: PID:G1 SN:2 can be no device id/],
    ['SN1\n"SN2"\n', /Line 2: .*without quotes/],
    ['SN1,a,b\n', /Line 1: /],
    [',a\n', /Line 1: /],
    ['serial\n', /no serial number/],
  ]
  for (const [text, said] of cases) {
    writeFileSync(file, text)
    const { code, err } = await fleetgate(['device', 'allow', '--file', file, '--label', 'line'])
    assert.equal(code, 2)
    assert.match(err, said)
  }
  writeFileSync(file, 'SN1\n')
  assert.match((await fleetgate(['device', 'allow', '--file', file])).err, /required option '--label' is not given/)
  const missing = await fleetgate(['device', 'allow', '--file', join(folder, 'none'), '--label', 'line'])
  assert.match(missing.err, /cannot be read/)
})
