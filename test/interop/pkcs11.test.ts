import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { test } from 'node:test'
import { linesOf } from '../harness/documents.ts'
import { Gateway, needs, reasonToSkip } from './gateway.ts'

const script = linesOf('docs/devices.md', 'hsm.sh')
const engine = '/usr/lib/x86_64-linux-gnu/engines-3/pkcs11.so'
const hasEngine = existsSync(engine) || existsSync(engine.replace('x86_64', 'aarch64'))
const tools = needs('sh', 'openssl', 'curl', 'softhsm2-util', 'pkcs11-tool')
const skip = tools.skip || (!hasEngine && reasonToSkip('libengine-pkcs11-openssl not installed'))

test('a key that cannot leave its PKCS#11 token is enrolled and renewed (docs/devices.md)', {
  skip,
}, async () => {
  await using gateway = await Gateway.start('auto', 'profiles: { camera: {} }\n')
  mkdirSync(gateway.path('tokens'))
  writeFileSync(gateway.path('softhsm2.conf'), `directories.tokendir = ${gateway.path('tokens')}\n`)
  copyFileSync(gateway.endpoints.rootCertificate, gateway.path('root.pem'))
  const token = await gateway.token('cam-1', 'camera')
  const [first, renewal] = script.split('# when it is due')
  const set = `export SOFTHSM2_CONF=softhsm2.conf; set -eu; url=${gateway.estUrl} token=${token}\n`
  await gateway.mustRun('sh', '-c', `${set}${first}`)
  const issued = new X509Certificate(readFileSync(gateway.path('cert.pem')))
  // Everything but what makes the token and the key, which are there.
  const again = first!.slice(0, first!.indexOf('# once'))
  await gateway.mustRun('sh', '-c', `${set}${again}# ${renewal}`)
  const renewed = new X509Certificate(readFileSync(gateway.path('cert.pem')))
  assert.notEqual(renewed.serialNumber, issued.serialNumber)
  assert.ok(renewed.publicKey.equals(issued.publicKey))
})
