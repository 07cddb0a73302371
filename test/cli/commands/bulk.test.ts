import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, beforeEach, test } from 'node:test'
import type { Io } from '../../../cli/io.ts'
import { type AdminRequest, StubAdmin } from '../../harness/stub-admin.ts'
import { fleetgate } from '../../harness/stub-io.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-bulk-'))
after(() => rmSync(folder, { recursive: true }))

const idOf = (at: number): string => `cam-${String(at).padStart(3, '0')}`
const ids = Array.from({ length: 250 }, (_, at) => idOf(at))
const device = { profile: 'camera', groups: ['hall'], status: 'active', createdAt: '2026-01-01T00:00:00.000Z' }
const brokers = [{ broker: 'broker-1', connected: true, confirmed: true, confirmedMs: 4 }]

const at = '2026-03-01T09:00:00.000Z'
const unheard = [{ broker: 'broker-2', why: 'not_connected' }]
const session = {
  clientId: 'cam-003:a',
  deviceId: 'cam-003',
  broker: 'broker-1',
  listener: 'main',
  remoteAddress: '192.0.2.9',
  connectedAt: '2026-01-01T00:00:00.000Z',
  isResumed: false,
  packetsIn: 1,
  bytesIn: 1,
  packetsOut: 1,
  bytesOut: 1,
}
let stub: StubAdmin
/** Devices that the gateway leaves as they are. */
let refusing: string[] = []
let inForce = true
before(async () => {
  stub = await StubAdmin.start(({ path, body, query }: AdminRequest) => {
    if (path === '/v1/devices') return { status: 200, body: { items: ids.map((id) => ({ id, ...device })) } }
    if (path === '/v1/certificates') {
      const found = query.issuedTo === '2026-03-08T00:00:00.000Z' ? ['cam-003', 'cam-001', 'cam-003', undefined] : []
      const items = found.map((deviceId) => ({
        serial: '0a',
        kind: 'device',
        deviceId,
        profile: 'x',
        status: 'issued',
      }))
      return { status: 200, body: { items } }
    }
    if (path === '/v1/sessions') {
      const named = query.deviceId!.split(',')
      return { status: 200, body: { items: named.includes('cam-003') ? [session] : [], unheard } }
    }
    if (path === '/v1/sessions/ended') {
      const isThere = query.deviceId!.split(',').includes('cam-003') && query.since === at
      const slowest = { deviceId: 'cam-003', broker: 'broker-1', clientId: 'cam-003:a', closedMs: 7 }
      return { status: 200, body: isThere ? { sessions: 2, slowest } : { sessions: 1 } }
    }
    if (path === '/v1/devices/cam-003') return { status: 200, body: { id: 'cam-003', ...device } }
    const named = path === '/v1/foreseen' ? query.deviceId!.split(',') : (body as { ids: string[] }).ids
    const isTheft = (path === '/v1/foreseen' ? query : (body as { verb: string })).verb === 'stolen'
    const devices = named.map((deviceId) =>
      refusing.includes(deviceId)
        ? { deviceId, outcome: 'refused', code: 'conflict', detail: 'was revoked' }
        : {
            ...{ deviceId, outcome: deviceId === 'cam-001' ? 'already' : 'done' },
            // One of them is named itself.
            ...(isTheft && deviceId === 'cam-002'
              ? { sameHardware: ['cam-003', 'van-9'], sameSerialNumber: ['sn'] }
              : {}),
          },
    )
    if (path === '/v1/foreseen') return { status: 200, body: { devices } }
    return { status: 200, body: { devices, feedSeq: 9, at, inForce, brokers: inForce ? brokers : [] } }
  })
})
after(() => stub[Symbol.asyncDispose]())
beforeEach(() => {
  stub.requests.length = 0
  refusing = []
  inForce = true
})

const onDevices = (argv: string[], more: Partial<Io> = {}) =>
  fleetgate(['device', ...argv, '--data', stub.dataDir], more)
const batches = () => stub.requests.filter(({ path }) => path === '/v1/devices/bulk').map(({ body }) => body)

test('a group is revoked a hundred at a time, once its number is typed; the last batch waits for the brokers', async () => {
  let question = ''
  const typing = (text: string): Partial<Io> => ({
    readLine: async (asked) => {
      question = asked
      return text
    },
  })
  const argv = ['revoke', '--group', 'hall', '--reason', 'keyCompromise']
  const wrong = await onDevices(argv, typing('25'))
  assert.deepEqual([wrong.code, wrong.out, batches()], [3, '', []])
  assert.match(wrong.err, /^error: 250 devices were not confirmed, nothing was changed \(conflict\); type the number/)

  const { code, out, err } = await onDevices(argv, typing('250\n'))
  assert.deepEqual([code, err, question], [0, '', 'revoke 250 devices? Type 250 to go on: '])
  assert.match(
    out,
    /^devices +250\nchanged +249\nas wanted before +1\nrefused +0\nsessions ended +4; the last closed 7\.0 ms after the order, cam-003:a on broker-1\nin force +on 1 of 1, 4\.0 ms after the commit\nbroker-1 +in force 4\.0 ms after the commit/,
  )
  const order = { verb: 'revoke', reason: 'keyCompromise' }
  assert.deepEqual(batches(), [
    { ...order, ids: ids.slice(0, 100), waitMs: 0 },
    { ...order, ids: ids.slice(100, 200), waitMs: 0 },
    { ...order, ids: ids.slice(200), waitMs: 10_000 },
  ])
  assert.equal(stub.requests[0]!.query.group, 'hall')
})

test('a dry run shows which devices are meant, who of them is connected, and changes nothing', async () => {
  const between = ['--issued-between', '2026-03-01..2026-03-08']
  const { code, out } = await onDevices(['disable', ...between, '--dry-run', '-o', 'json'])
  assert.equal(code, 0)
  assert.deepEqual(JSON.parse(out), {
    ...{ verb: 'disable', selected: 2, devices: ['cam-001', 'cam-003'], sessions: [session], unheard },
    outcomes: [
      { deviceId: 'cam-001', outcome: 'already' },
      { deviceId: 'cam-003', outcome: 'done' },
    ],
  })
  assert.equal(stub.requests.at(-1)!.query.deviceId, 'cam-001,cam-003')
  const shown = await onDevices(['disable', ...between, '--group', 'hall', '--dry-run'])
  assert.match(
    shown.out,
    /^DEVICE +WOULD BE\ncam-001 +as it is\ncam-003 +changed\n\nCLIENT ID .*\ncam-003:a +cam-003 +broker-1 .*\nbroker-2 is not connected; sessions there are not known\ndevices: 2, live sessions: 1; nothing was changed\n$/,
  )
  const none = await onDevices(['enable', '--issuer', 'ab:cd', '--dry-run'])
  assert.deepEqual([none.code, none.err.slice(0, 41)], [1, 'error: no device is meant by that (device'])
  assert.equal(stub.requests.at(-1)!.query.issuer, 'ab:cd')
  assert.deepEqual(batches(), [])
})

test('a dry run of one device, and of hundreds, asks for their sessions and changes nothing', async () => {
  for (const verb of [['revoke', '--reason', 'keyCompromise'], ['disable'], ['enable'], ['stolen']]) {
    stub.requests.length = 0
    const { code, out } = await onDevices([verb[0]!, 'cam-003', ...verb.slice(1), '--dry-run'])
    assert.deepEqual([code, /cam-003:a[\s\S]*nothing was changed/.test(out)], [0, true])
    assert.ok(stub.requests.every(({ method }) => method === 'GET'))
  }
  stub.requests.length = 0
  const all = await onDevices(['stolen', '--group', 'hall', '--dry-run', '-o', 'json'])
  assert.deepEqual([JSON.parse(all.out).sessions.length, JSON.parse(all.out).unheard], [1, unheard])
  const asked = stub.requests.filter(({ path }) => path === '/v1/sessions').map(({ query }) => query.deviceId)
  const affected = [...ids.slice(0, 3), 'cam-003', 'van-9', ...ids.slice(4)]
  assert.deepEqual(asked, [affected.slice(0, 100), affected.slice(100, 200), affected.slice(200)].map(String))
  assert.deepEqual(batches(), [])
})

test('what is on hold as the same hardware is listed before and after, and counts among the sessions that ended', async () => {
  const file = join(folder, 'van.txt')
  writeFileSync(file, 'cam-002\ncam-003\n')
  const listed =
    /SAME HARDWARE +BY +WHICH IS\nvan-9 +key of cam-002 +put on hold\nsn +serial number of cam-002 +left as it is\n/
  for (const how of ['--dry-run', '--yes']) {
    const { code, out } = await onDevices(['stolen', '--file', file, how])
    assert.deepEqual([code, listed.test(out), out.match(/cam-003 +key/)], [0, true, null])
    assert.ok(stub.requests.some(({ query }) => query.deviceId === 'cam-002,cam-003,van-9'))
  }
})

test('a file names the devices, and the report says what became of each', async () => {
  const file = join(folder, 'list.csv')
  writeFileSync(file, '\ufeff# a van\ncam-002, white\r\n\ncam-001\n')
  refusing = ['cam-002']
  const { code, out, err } = await onDevices(['enable', '--file', file, '--yes', '-o', 'json'])
  assert.equal(code, 3)
  const report = JSON.parse(out)
  assert.deepEqual([report.selected, report.done, report.already, report.refused], [2, 0, 1, 1])
  assert.deepEqual(report.devices, [
    { deviceId: 'cam-001', outcome: 'already' },
    { deviceId: 'cam-002', outcome: 'refused', code: 'conflict', detail: 'was revoked' },
  ])
  assert.match(err, /1 of 2 devices were left as they are/)
  const table = await onDevices(['enable', '--file', file, '--yes'])
  assert.match(table.out, /refused +1\nin force.*\nbroker-1.*\nREFUSED +CODE +WHY\ncam-002 +conflict +was revoked\n/)
})

test('a broker that has not confirmed is exit code 1; an interruption ends after its batch and says how far it got', async () => {
  inForce = false
  const late = await onDevices(['stolen', '--group', 'hall', '--yes', '--timeout', '2s'])
  assert.equal(late.code, 1)
  assert.match(late.err, /250 devices are as wanted, but a broker has not confirmed within 2000 ms/)
  stub.requests.length = 0
  const stop = new AbortController()
  const untilSignal = () => {
    setTimeout(() => stop.abort('SIGINT'))
    return stop.signal
  }
  const cut = await onDevices(['stolen', '--group', 'hall', '--yes'], { untilSignal })
  assert.equal(cut.code, 1)
  assert.match(cut.err, /interrupted by SIGINT after 100 of 250 devices; the same call goes on/)
  assert.equal(batches().length, 1)
})

test('one id or a selection is wanted, and a selection that can be read', async () => {
  const bad = join(folder, 'bad.txt')
  writeFileSync(bad, 'cam-1\ncam \u001b]0;2\u0007\n')
  const empty = join(folder, 'empty.txt')
  writeFileSync(empty, '# nobody\n')
  for (const [argv, sentence] of [
    [['disable'], /give one device id, or --group/],
    [['disable', 'cam-1', '--group', 'hall'], /give one device id, or --group/],
    [['enable', '--file', bad], /Line 2: cam <U\+001B>\]0;2<U\+0007> is no device id/],
    [['enable', '--file', empty], /There is no device id in it/],
    [['enable', '--file', join(folder, 'none.txt')], /It cannot be read/],
    [['disable', '--issued-between', '2026-03-08..2026-03-01'], /Give two days or instants/],
    [['disable', '--issued-between', '2026-03-08'], /Give two days or instants/],
  ] as const) {
    const { code, err } = await onDevices([...argv])
    assert.equal(code, 2, argv.join(' '))
    assert.match(err, sentence)
  }
  assert.deepEqual(stub.requests, [])
})
