import assert from 'node:assert/strict'
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { validity } from '../../../cli/doctor/finding.ts'
import { judgeAuthorities, judgeLists, judgeStatus, settledStatus } from '../../../cli/doctor/gateway.ts'
import { findHolder } from '../../../cli/doctor/listening.ts'
import { lookAtDisk, lookAtFolder, lookAtKeys, lookAtNode, lookAtOpenFiles } from '../../../cli/doctor/machine.ts'
import { judgeClock, lookAtListeners } from '../../../cli/doctor/tls.ts'
import { testConfiguration } from '../../harness/fleet.ts'
import { problem, StubAdmin } from '../../harness/stub-admin.ts'
import { fleetgate } from '../../harness/stub-io.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
after(() => rmSync(folder, { recursive: true, force: true }))

const now = new Date('2026-03-01T00:00:00Z')
const day = 86_400_000
const inDays = (days: number): Date => new Date(now.getTime() + days * day)

test('a certificate is judged by what is left of its life', () => {
  const state = (from: number, to: number) =>
    validity('x', 'c', { notBefore: inDays(from), notAfter: inDays(to) }, now).state
  assert.deepEqual([state(-10, 20), state(-20, 5), state(-20, 0), state(1, 20)], ['ok', 'warn', 'fail', 'fail'])
})

test('an old Node, few files and a full disk are told with what to do', () => {
  assert.deepEqual([lookAtNode('v24.1.0').state, lookAtNode('v22.9.0').state], ['ok', 'fail'])
  const config = testConfiguration({ broker: { maxConnections: 5_000 } })
  const limits = (files: string): string =>
    `Limit  Soft Limit  Hard Limit\nMax open files   ${files}   524288   files\n`
  assert.equal(lookAtOpenFiles(limits('1048576'), config).state, 'ok')
  assert.equal(lookAtOpenFiles(limits('unlimited'), config).state, 'ok')
  assert.match(lookAtOpenFiles(limits('1024'), config).fix!, /^ulimit -n 5256 /)
  assert.deepEqual(
    [1, 500, 5_000].map((mebibytes) => lookAtDisk(mebibytes * 1024 * 1024, '/').state),
    ['fail', 'warn', 'ok'],
  )
})

test('keys that others can read, and a folder that others can write, are found with the chmod to type', () => {
  const data = join(folder, 'data')
  mkdirSync(join(data, 'services', 'enroll'), { recursive: true })
  chmodSync(data, 0o777)
  const key = join(data, 'services', 'enroll', 'tls.key')
  writeFileSync(key, 'x', { mode: 0o644 })
  assert.deepEqual(lookAtKeys(data, undefined), [
    { check: 'keys', state: 'fail', what: `others can read ${key} (mode 0644)`, fix: `chmod 600 ${key}` },
  ])
  chmodSync(key, 0o600)
  assert.equal(lookAtKeys(data, undefined)[0]!.state, 'ok')
  assert.equal(lookAtKeys(data, join(data, 'none'))[0]!.state, 'fail')
  assert.equal(lookAtFolder(data)[0]!.fix, `chmod go-w ${data}`)
  assert.deepEqual([lookAtFolder(join(folder, 'none'))[0]!.state, lookAtFolder(key)[0]!.state], ['warn', 'fail'])
  // Nobody can make anything there, whoever it is.
  const never = process.platform === 'linux' ? '/proc/none/data' : join(key, 'data')
  assert.equal(lookAtFolder(never)[0]!.state, 'fail')
})

test('a port that is taken is told with who has it', { skip: process.platform !== 'linux' }, async () => {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  assert.equal(findHolder(port)?.pid, process.pid)
  const env = { FLEETGATE_ENROLL__EST: `127.0.0.1:${port}` }
  const { code, out, err } = await fleetgate(['doctor', '--data', join(folder, 'none')], { env })
  server.close()
  assert.equal(code, 1)
  assert.match(out, new RegExp(`✘ ports +Port ${port} of enroll.est is in use: .*, process ${process.pid}\\n +kill `))
  assert.match(out, /! gateway +none runs on .*\n +npx fleetgate up --data /)
  assert.match(err, /things? (is|are) wrong.*\(unhealthy\)/)
})

test('clocks that differ by more than a second or two are told', () => {
  const told = (ms: number) =>
    judgeClock(now.getTime() + ms, { before: now.getTime(), after: now.getTime() + 100 }).state
  assert.deepEqual([-900, 0, 5_000, -5_000, 90_000].map(told), ['ok', 'ok', 'warn', 'warn', 'fail'])
  assert.equal(told(Number.NaN), 'warn')
})

test('brokers that are away or behind, lists that have run out and a refused configuration are told', () => {
  const broker = { id: 'b', connected: true, appliedSeq: 9, lastSeenAt: now.toISOString() }
  const status = { version: '1', startedAt: '', rootFingerprint: '', feedSeq: 9, brokers: [broker] }
  const states = (change: object) => judgeStatus({ ...status, ...change }, 'data').map(({ state }) => state)
  assert.deepEqual(states({}), ['ok', 'ok'])
  assert.deepEqual(states({ brokers: [{ ...broker, appliedSeq: 7 }] }), ['ok', 'warn'])
  assert.deepEqual(states({ brokers: [{ ...broker, connected: false }] }), ['ok', 'fail'])
  assert.deepEqual(states({ brokers: [] }), ['ok', 'warn'])
  const configuration = { refused: 'x.yaml:1:1: no', waitsForRestart: ['log.level'] }
  assert.deepEqual(states({ configuration }), ['ok', 'fail', 'warn', 'ok'])
  const list = (days: number) => ({
    ...{ name: `${days}.crl`, scope: 'all' as const, url: '', number: 1, entries: 0, bytes: 1 },
    ...{ thisUpdate: inDays(-1).toISOString(), nextUpdate: inDays(days).toISOString() },
  })
  const ends = (days: number) => ({ issuingEnds: inDays(days).toISOString(), rootEnds: inDays(3_000).toISOString() })
  const judged = (days: number) => judgeAuthorities({ ...status, authorities: ends(days) }, now)
  assert.deepEqual(
    [400, 364, 89].map((days) => judged(days).map(({ state }) => state)),
    ['ok', 'warn', 'fail'].map((state) => [state, 'ok']),
  )
  assert.match(judged(89)[0]!.what, /^the certificate of the issuing CA is valid until .*, 89 days left$/)
  assert.deepEqual([judgeLists([], now, 'data')[0]!.state, judgeLists([list(1)], now, 'data')[0]!.state], ['ok', 'ok'])
  assert.match(judgeLists([list(1), list(0)], now, 'data')[0]!.what, /^0\.crl has run out at/)
})

test('a broker that takes what it was just told is not behind, however much comes after it', async () => {
  const answer = (feedSeq: number, appliedSeq: number) => ({
    ...{ version: '1', startedAt: '', rootFingerprint: '', feedSeq },
    brokers: [{ id: 'b', connected: true, appliedSeq, lastSeenAt: now.toISOString() }],
  })
  const answers = [answer(9, 7), answer(10, 8), answer(12, 9), answer(12, 12)]
  const settled = await settledStatus(async () => answers.shift()!)
  assert.deepEqual(
    judgeStatus(settled, 'data').map(({ state }) => state),
    ['ok', 'ok'],
  )
  assert.equal(answers.length, 1)
})

test('a gateway that does not answer, and a listener of another root, fail', async () => {
  await using stub = await StubAdmin.start(() => problem(500, 'internal', 'broken'))
  await using other = await StubAdmin.start(() => 'silent')
  const { code, out } = await fleetgate(['doctor', '--data', stub.dataDir])
  assert.equal(code, 1)
  assert.match(out, /✘ gateway +broken\n/)
  assert.match(out, /✘ TLS of est +https:\/\/localhost:1\S* does not finish a handshake: /)
  const endpoints = { ...other.endpoints, est: other.endpoints.admin, rootCertificate: stub.endpoints.rootCertificate }
  const [first] = await lookAtListeners({ ...endpoints, listeners: {} }, new Date())
  assert.match(first!.what, /does not finish a handshake: .*certificate/)
})

test('a configuration that cannot be used is a finding of its own', async () => {
  const env = { FLEETGATE_BROKER__MAX_CONNECTIONS: 'many' }
  const { code, out } = await fleetgate(['doctor', '-o', 'json', '--data', join(folder, 'none')], { env })
  assert.equal(code, 1)
  const { findings } = JSON.parse(out) as { findings: { check: string; state: string; what: string }[] }
  const fault = findings.find(({ check }) => check === 'configuration')!
  assert.deepEqual([fault.state, /maxConnections/.test(fault.what)], ['fail', true])
})
