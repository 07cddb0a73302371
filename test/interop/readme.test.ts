import assert from 'node:assert/strict'
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { test } from 'node:test'
import { Gateway, needs, reasonToSkip, root } from './gateway.ts'

const readme = readFileSync(join(root, 'README.md'), 'utf8')
const quickstart = /<!-- quickstart[^>]*-->\n```sh\n([\s\S]*?)```/.exec(readme)?.[1]

const isTaken = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
    socket.once('connect', () => socket.destroy())
  })

test(
  "README's lines enroll a device, publish and revoke it as they stand",
  needs('bash', 'npx', 'openssl', 'curl', 'mosquitto_pub'),
  async (t) => {
    assert.ok(quickstart, 'README.md has no lines under its quickstart mark')
    // The lines name the default ports, so another gateway on this machine would be spoken to instead.
    for (const port of [8443, 8883, 9443, 9444]) {
      if (await isTaken(port)) return t.skip(reasonToSkip(`port ${port} is in use on this machine`))
    }
    await using gateway = await Gateway.start('configured')
    // What npx finds in a checkout, for a folder that is not one.
    mkdirSync(gateway.path('node_modules/.bin'), { recursive: true })
    symlinkSync(join(root, 'bin', 'fleetgate.js'), gateway.path('node_modules/.bin/fleetgate'))
    const said = await gateway.mustRun('bash', '-euo', 'pipefail', '-c', quickstart)
    assert.match(said, /cam-1/)

    const publish = /^mosquitto_pub .*$/m.exec(quickstart)![0]
    const again = await gateway.run('bash', '-c', publish)
    assert.equal(again.code, 5)
    assert.match(again.err, /Connection Refused: not authorised\./)
    assert.match((await gateway.reenroll('cam-1')).out, /certificate_revoked/)
  },
)

test("README's example of a policy is what policy check accepts", async () => {
  await using gateway = await Gateway.start()
  const example = /```yaml\n(policies:[\s\S]*?)```/.exec(readme)![1]!
  writeFileSync(gateway.path('example.yaml'), example)
  const { code, err } = await gateway.fleetgate('policy', 'check', 'example.yaml')
  assert.equal(code, 0, err)
})
