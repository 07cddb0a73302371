import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { linesOf, read } from '../harness/documents.ts'
import { Gateway, needs } from './gateway.ts'

const page = read('docs/devices.md')
const script = linesOf('docs/devices.md', 'device.sh')

const yaml = `
profiles: { camera: { organization: Example }, kiosk: { evidence: [approval] } }
labels: { lobby: { profile: kiosk } }
enroll: { approvals: { retryAfterMs: 1000 } }
`

test(
  'the lines of docs/devices.md enroll, wait for an approval, and renew',
  needs('sh', 'openssl', 'curl', 'awk'),
  async (t) => {
    await using gateway = await Gateway.start('auto', yaml)
    writeFileSync(gateway.path('device.sh'), script)
    const pin = gateway.endpoints.rootFingerprint
    const serial = () => gateway.mustRun('openssl', 'x509', '-in', 'cert.pem', '-noout', '-serial', '-subject')
    const device = (url: string, ...more: string[]) => gateway.run('sh', 'device.sh', url, ...more)

    await t.test('a token enrolls, and the chain leads to the pinned root', async () => {
      const token = await gateway.token('cam-1', 'camera')
      const { code, err } = await device(gateway.estUrl, pin, 'cam-1', token)
      assert.equal(code, 0, err)
      assert.match(await serial(), /CN ?= ?cam-1/)
      assert.match(
        await gateway.mustRun('openssl', 'verify', '-CAfile', 'root.pem', '-untrusted', 'cert.pem', 'cert.pem'),
        /OK/,
      )
      assert.equal(statSync(gateway.path('key.pem')).mode & 0o777, 0o600)
    })

    await t.test('once there is a certificate it renews it', async () => {
      const before = await serial()
      const { code, err } = await device(gateway.estUrl, pin, 'cam-1')
      assert.equal(code, 0, err)
      assert.notEqual(await serial(), before)
    })

    await t.test('a refusal is shown, and leaves no certificate', async () => {
      await gateway.mustRun('rm', 'key.pem', 'request.pem', 'cert.pem')
      const { code, err } = await device(gateway.estUrl, pin, 'cam-1', 'wrong')
      assert.equal(code, 1)
      assert.match(err, /^token_invalid: /)
      assert.equal(existsSync(gateway.path('cert.pem')), false)
    })

    await t.test('it waits with 202 until an operator approves', async () => {
      await gateway.mustRun('rm', 'request.pem')
      const waiting = device(`${gateway.estUrl}/lobby`, pin, 'kiosk-1')
      let isWaiting = true
      waiting.finally(() => {
        isWaiting = false
      })
      let id: string | undefined
      while (id === undefined && isWaiting) {
        const { out } = await gateway.fleetgate('enroll', 'approvals', 'ls', '-o', 'json')
        id = JSON.parse(out).items[0]?.id
      }
      if (id === undefined) assert.fail((await waiting).err)
      const approved = await gateway.fleetgate('enroll', 'approvals', 'approve', id.slice(0, 12))
      assert.equal(approved.code, 0, approved.err)
      const { code, err } = await waiting
      assert.equal(code, 0, err)
      assert.match(await serial(), /CN ?= ?kiosk-1/)
    })
  },
)

test('the units of docs/devices.md are what systemd takes', needs('systemd-analyze'), () => {
  const folder = mkdtempSync(join(tmpdir(), 'fleetgate-interop-'))
  try {
    const units = [...page.matchAll(/```ini\n# \/etc\/systemd\/system\/(fleetgate-renew\.\w+)\n([\s\S]*?)```/g)]
    assert.equal(units.length, 2)
    // The program itself need not be installed where this runs.
    for (const [, name, text] of units) {
      writeFileSync(join(folder, name!), text!.replace('/usr/bin/fleetgate', process.execPath))
    }
    const files = units.map(([, name]) => `./${name}`)
    const { status, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', ...files], {
      cwd: folder,
      encoding: 'utf8',
    })
    assert.deepEqual([status, stderr.split('\n').filter((line) => line.includes('fleetgate-renew'))], [0, []])
  } finally {
    rmSync(folder, { recursive: true })
  }
})
