import assert from 'node:assert/strict'
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { linesOf, read } from '../harness/documents.ts'
import { Gateway, needs, root } from './gateway.ts'

const lines = linesOf('docs/events.md', 'watch')
const [, policy] = /```yaml\n# policy\.yaml\n([\s\S]*?)```/.exec(read('docs/events.md'))!

test(
  "docs/events.md's lines show an application who is there, and what happens",
  needs('bash', 'npx', 'stdbuf', 'openssl', 'curl', 'mosquitto_pub', 'mosquitto_sub'),
  async () => {
    await using gateway = await Gateway.start()
    mkdirSync(gateway.path('node_modules/.bin'), { recursive: true })
    symlinkSync(join(root, 'bin', 'fleetgate.js'), gateway.path('node_modules/.bin/fleetgate'))
    await gateway.enroll('app-1', 'service')
    await gateway.enroll('cam-1', 'camera')
    // As the page asks: added to what there is.
    const starter = readFileSync(gateway.path('data/policy.yaml'), 'utf8')
    writeFileSync(gateway.path('policy.yaml'), starter + policy!.replace(/^policies:\n/, ''))

    const { hostname, port } = new URL(gateway.endpoints.mqtts)
    const here = lines.replace('-h localhost -p 8883', `-h ${hostname} -p ${port} -d`)
    assert.notEqual(here, lines)
    await using watcher = gateway.start('bash', '-euo', 'pipefail', '-c', here)
    await watcher.says(/Subscribed \(mid: 1\): 1, 1/)
    assert.equal((await gateway.publish('cam-1', 'devices/cam-1/state', 'on')).code, 0)
    await watcher.says(/"type":"connected","deviceId":"cam-1"/)
    await watcher.says(/"type":"disconnected","deviceId":"cam-1".*"reason":"disconnected"/)
    await watcher.says(/"deviceId":"cam-1","status":"disconnected","reason":"disconnected"/)
    await gateway.fleetgate('device', 'revoke', 'cam-1', '--reason', 'keyCompromise')
    await watcher.says(/"type":"revoked","deviceId":"cam-1","scope":"certificate","reason":"keyCompromise"/)
    await watcher.says(/"deviceId":"cam-1","status":"revoked"/)
    assert.equal((await gateway.publish('cam-1', 'devices/cam-1/state', 'on')).code, 5)
    await watcher.says(/"type":"refused","deviceId":"cam-1".*"reason":"device_revoked"/)
  },
)
