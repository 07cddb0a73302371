import assert from 'node:assert/strict'
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { test } from 'node:test'
import { linesOf, read } from '../harness/documents.ts'
import { Gateway, needs, root } from './gateway.ts'

const page = 'docs/devices.md'
const lines = linesOf('docs/devices.md', 'factory')
const [, configuration] = /```yaml\n(# fleetgate\.yaml\n[\s\S]*?factory\.pem[\s\S]*?)```/.exec(read(page))!

test(
  "docs/devices.md's lines enroll a device by the certificate of its factory",
  needs('bash', 'npx', 'openssl'),
  async () => {
    await using gateway = await Gateway.start('auto', '{}')
    const bin = gateway.path('node_modules/.bin')
    mkdirSync(bin, { recursive: true })
    symlinkSync(join(root, 'bin', 'fleetgate.js'), join(bin, 'fleetgate'))
    const openssl = (...args: string[]) => gateway.mustRun('openssl', ...args)
    const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes']
    await openssl(
      'req',
      '-x509',
      ...key,
      '-keyout',
      'ca.key',
      '-out',
      'factory.pem',
      '-subj',
      '/O=Factory/CN=Factory CA',
    )
    const subject = '/O=Factory/CN=a camera/serialNumber=SN0001'
    await openssl('req', ...key, '-keyout', 'factory.key', '-out', 'factory.csr', '-subj', subject)
    await openssl(
      ...['x509', '-req', '-in', 'factory.csr', '-CA', 'factory.pem', '-CAkey', 'ca.key', '-out', 'factory.crt'],
    )
    writeFileSync(gateway.path('serials.csv'), 'SN0001,camera-1\nSN0002,camera-2\n')
    writeFileSync(gateway.path('fleetgate.yaml'), configuration!)
    assert.equal((await gateway.fleetgate('config', 'reload')).code, 0)

    const { est, rootFingerprint } = gateway.endpoints
    const told = `export PATH="${bin}${delimiter}$PATH" URL=${est} FINGERPRINT=${rootFingerprint}\n`
    await gateway.mustRun('bash', '-euo', 'pipefail', '-c', told + lines)
    const { out } = await gateway.fleetgate('device', 'show', 'camera-1')
    assert.match(out, /groups +site-berlin\n[\s\S]*certificate +[0-9a-f]{32}/)
    const wrong = lines.replace('--id camera-1', '--id camera-2').replace('--out camera-1', '--out camera-2')
    const refused = await gateway.run('bash', '-euo', 'pipefail', '-c', told + wrong)
    assert.match(refused.err, /csr_subject_mismatch.*CN=camera-1/)
    assert.notEqual(refused.code, 0)
  },
)
