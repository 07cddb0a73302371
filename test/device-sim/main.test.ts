import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { enrolledDevice, Listener } from '../../device-sim/fleet.ts'
import { endsWithTest } from '../harness/ends-with-test.ts'
import { LiveGateway } from '../harness/live-gateway.ts'

const main = fileURLToPath(new URL('../../device-sim/main.ts', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))

let live: LiveGateway
before(async () => {
  live = await LiveGateway.start()
})
after(async () => {
  await live[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true, force: true })
})

const start = (args: string[], env: Record<string, string> = {}): ChildProcess =>
  endsWithTest(
    spawn(process.execPath, [main, ...args], { env: { ...process.env, ...env }, stdio: ['ignore', 'ignore', 'pipe'] }),
  )

async function ended(child: ChildProcess): Promise<{ code: number; err: string }> {
  let err = ''
  child.stderr!.on('data', (chunk) => {
    err += chunk
  })
  const [code] = await once(child, 'close')
  return { code, err }
}

test('it enrolls with its token once, reports, and after a restart needs the token no more', async () => {
  const { est, mqtts, rootFingerprint } = live.gateway.endpoints
  const audience = new Listener(await enrolledDevice(live.server, 'dashboard', 'service'))
  await audience.device.subscribe('devices/+/telemetry/#')
  const where = ['--est', est, '--mqtts', mqtts, '--device', 'cam-1', '--dir', folder, '--interval-ms', '20']
  const DEVICE_SIM_TOKEN_FILE = join(folder, 'token')
  writeFileSync(DEVICE_SIM_TOKEN_FILE, `${await live.server.operator.createToken('cam-1', 'camera')}\n`)
  for (const _ of ['first', 'again']) {
    const heard = audience.hears((id, rest) => id === 'cam-1' && rest === 'temperature')
    const device = start([...where, '--root-fingerprint', rootFingerprint], { DEVICE_SIM_TOKEN_FILE })
    const end = ended(device)
    const tooEarly = end.then(({ code, err }) => assert.fail(`it ended with ${code}: ${err}`))
    assert.equal(typeof JSON.parse(await Promise.race([heard, tooEarly])).celsius, 'number')
    device.kill('SIGTERM')
    assert.equal((await end).code, 0)
    rmSync(DEVICE_SIM_TOKEN_FILE, { force: true })
  }
  assert.equal(statSync(join(folder, 'cam-1.pem')).mode & 0o777, 0o600)
  await audience.device.disconnect()
})

test('a wrong fingerprint stops it before the token is sent', async () => {
  const { est, mqtts } = live.gateway.endpoints
  const where = ['--est', est, '--mqtts', mqtts, '--device', 'cam-2', '--dir', folder, '--token', 'secret']
  const { code, err } = await ended(start([...where, '--root-fingerprint', 'ab'.repeat(32)]))
  assert.equal(code, 1)
  assert.match(err, /has the pinned fingerprint/)
  assert.doesNotMatch(err, /secret/)
  assert.equal(existsSync(join(folder, 'cam-2.pem')), false)
})

test('a root fingerprint that is none is one sentence and exit code 2', async () => {
  const where = ['--est', 'https://localhost:1', '--mqtts', 'mqtts://localhost:2', '--device', 'cam-4', '--token', 'x']
  const { code, err } = await ended(start([...where, '--root-fingerprint', 'ab', '--dir', folder]))
  assert.equal(code, 2)
  assert.match(err, /a SHA-256 is wanted/)
  assert.doesNotMatch(err, /\n {4}at |stack/)
})

test('a device that has no certificate yet and no token is told so with exit code 2', async () => {
  const where = [
    '--est',
    'https://localhost:1',
    '--mqtts',
    'mqtts://localhost:2',
    '--root-fingerprint',
    'ab'.repeat(32),
    '--dir',
    folder,
  ]
  const { code, err } = await ended(start([...where, '--device', 'cam-3']))
  assert.equal(code, 2)
  assert.match(err, /so --token or --token-file is needed/)
})
