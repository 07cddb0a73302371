/** The units of deploy/systemd as systemd reads them. They are not started: that takes a machine with systemd as its first process. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { promisify } from 'node:util'
import { needs, root } from './gateway.ts'

const folder = join(root, 'deploy', 'systemd')
const units = readdirSync(folder).filter((name) => /\.(?:service|path|timer)$/.test(name))
const services = units.filter((name) => name.endsWith('.service'))
const read = (name: string): string => readFileSync(join(folder, name), 'utf8')

const copy = mkdtempSync(join(tmpdir(), 'fleetgate-units-'))
after(() => rmSync(copy, { recursive: true }))
for (const name of units) {
  // Where this machine has its Node; what else they run has to be where they say.
  writeFileSync(join(copy, name), read(name).replaceAll('/usr/bin/node', process.execPath))
}
const analyze = (...args: string[]): Promise<{ stdout: string; stderr: string }> =>
  promisify(execFile)('systemd-analyze', args, { cwd: copy, timeout: 60_000 })

test('systemd takes every unit without a warning, also with encrypted keys', needs('systemd-analyze'), async () => {
  for (const name of ['fleetgate-enroll.service', 'fleetgate-broker.service']) {
    mkdirSync(join(copy, `${name}.d`))
    copyFileSync(join(folder, 'passphrase.conf'), join(copy, `${name}.d`, 'passphrase.conf'))
  }
  const { stdout, stderr } = await analyze('verify', '--man=no', ...units.map((name) => join(copy, name)))
  const ours = (stdout + stderr).split('\n').filter((line) => line.includes('fleetgate'))
  assert.deepEqual(ours, [])
})

/** Of 10; what is left is that a server has a network, and that V8 writes its code. */
const exposureAtMost = 1.3

for (const name of services) {
  test(`${name} can do little beyond its work`, needs('systemd-analyze'), async () => {
    const { stdout } = await analyze('security', '--offline=true', '--no-pager', join(copy, name))
    const [, exposure] = /Overall exposure level for \S+: (\d+\.\d)/.exec(stdout)!
    assert.ok(Number(exposure) <= exposureAtMost, `${exposure}: ${stdout.match(/^✗.*$/gm)?.join('\n')}`)
  })
}

test('what a unit runs of ours is there', () => {
  for (const name of services) {
    for (const [, path] of read(name).matchAll(/\/opt\/fleetgate\/(\S+\.(?:ts|js|md))/g))
      assert.ok(existsSync(join(root, path!)), `${name}: ${path}`)
  }
})
