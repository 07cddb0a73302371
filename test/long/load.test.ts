/** `device-sim load` as a user starts it, against a whole gateway. */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { enrolledDevice, Listener } from '../../device-sim/fleet.ts'
import type { LoadReport } from '../../device-sim/load/report.ts'
import { endsWithTest } from '../harness/ends-with-test.ts'
import { LiveGateway } from '../harness/live-gateway.ts'
import { compileCache } from '../harness/stub-io.ts'

const program = fileURLToPath(new URL('../../bin/device-sim.js', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
const dir = join(folder, 'devices')
const tokens = join(folder, 'tokens.csv')
const devices = 20

let live: LiveGateway
before(async () => {
  live = await LiveGateway.start()
  const lines = [`app-1,${await live.server.operator.createToken('app-1', 'service')}`]
  for (let n = 1; n <= devices; n++)
    lines.push(`cam-${n},${await live.server.operator.createToken(`cam-${n}`, 'camera')}`)
  writeFileSync(tokens, lines.join('\n'))
})
after(async () => {
  await live[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true, force: true })
})

function start(args: string[]): ChildProcess {
  const { est, mqtts, rootFingerprint } = live.gateway.endpoints
  const where = ['--est', est, '--mqtts', mqtts, '--root-fingerprint', rootFingerprint, '--dir', dir]
  const all = [program, 'load', ...where, '--subscriber', 'app-1', '--processes', '1', ...args]
  const env = { ...process.env, ...compileCache }
  return endsWithTest(spawn(process.execPath, all, { stdio: ['ignore', 'pipe', 'pipe'], env }))
}

async function ended(child: ChildProcess): Promise<{ code: number; out: string; err: string }> {
  let [out, err] = ['', '']
  child.stdout!.on('data', (chunk) => {
    out += chunk
  })
  child.stderr!.on('data', (chunk) => {
    err += chunk
  })
  const [code] = await once(child, 'close')
  return { code, out, err }
}

test('devices enroll, connect and publish, every message arrives, and their keys are for their owner alone', async () => {
  const { code, out, err } = await ended(
    start(['--tokens', tokens, '--seconds', '2', '--messages', '200', '--qos', '1', '-o', 'json']),
  )
  const report = JSON.parse(out) as LoadReport
  assert.deepEqual(report.failures, [])
  assert.deepEqual([code, err], [0, ''])
  assert.equal(report.connected.count, devices + 1)
  const { sent, received, acknowledged, lost } = report.messages
  assert.deepEqual([sent, received, acknowledged, lost], [400, 400, 400, 0])
  assert.ok(report.messages.latencyMs.p50 > 0 && report.messages.latencyMs.p50 < 5_000)
  assert.equal(report.seconds.at(-1)!.connected, devices + 1)
  const kept = readdirSync(dir)
  assert.equal(kept.length, devices + 1)
  assert.ok(kept.every((name) => (statSync(join(dir, name)).mode & 0o777) === 0o600))
})

test('the next run needs no tokens, speaks MQTT 5, and tells of a device that was revoked', async () => {
  await live.admin.revokeDevice('cam-7', 'keyCompromise', 60_000)
  const { code, out } = await ended(start(['--seconds', '1', '--messages', '100', '--version', '5', '-o', 'json']))
  const report = JSON.parse(out) as LoadReport
  assert.equal(code, 1)
  assert.equal(report.connected.count, devices)
  assert.equal(report.failures.length, 1)
  assert.deepEqual([report.failures[0]!.count, report.messages.received], [1, 100])
  assert.match(report.failures[0]!.code, /^connect /)
})

test('a Ctrl-C in the middle ends it with a report of what was', async () => {
  const audience = new Listener(await enrolledDevice(live.server, 'app-2', 'service'))
  await audience.device.subscribe('devices/+/telemetry/#')
  const heard = audience.hears((_, rest) => rest === 'load')
  const page = join(folder, 'load.html')
  const process = start(['--devices', '5', '--seconds', '600', '--out', page])
  const end = ended(process)
  await Promise.race([heard, end.then(({ code, err }) => assert.fail(`it ended with ${code}: ${err}`))])
  process.kill('SIGINT')
  const { code, out } = await end
  assert.equal(code, 1)
  assert.match(out, /; interrupted\n/)
  assert.match(out, /connected {3}6 of 6 in/)
  assert.match(readFileSync(page, 'utf8'), /<title>Load of 6 devices</)
  await audience.device.disconnect()
})
