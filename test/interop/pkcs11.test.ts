import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { linesOf } from '../harness/documents.ts'
import { Gateway, needs, reasonToSkip, root } from './gateway.ts'

const script = linesOf('docs/devices.md', 'hsm.sh')
const engine = '/usr/lib/x86_64-linux-gnu/engines-3/pkcs11.so'
const hasEngine = existsSync(engine) || existsSync(engine.replace('x86_64', 'aarch64'))
const tools = needs('sh', 'openssl', 'curl', 'softhsm2-util', 'pkcs11-tool')
const skip = tools.skip || (!hasEngine && reasonToSkip('libengine-pkcs11-openssl not installed'))

test('a key that cannot leave its PKCS#11 token is enrolled and renewed', { skip }, async (t) => {
  await using gateway = await Gateway.start('auto', 'profiles: { camera: {} }\n')
  mkdirSync(gateway.path('tokens'))
  writeFileSync(gateway.path('softhsm2.conf'), `directories.tokendir = ${gateway.path('tokens')}\n`)
  copyFileSync(gateway.endpoints.rootCertificate, gateway.path('root.pem'))
  const certificate = (name: string) => new X509Certificate(readFileSync(gateway.path(name)))

  await t.test('by the lines of docs/devices.md', async () => {
    const token = await gateway.token('cam-1', 'camera')
    const [first, renewal] = script.split('# when it is due')
    const set = `export SOFTHSM2_CONF=softhsm2.conf; set -eu; url=${gateway.estUrl} token=${token}\n`
    await gateway.mustRun('sh', '-c', `${set}${first}`)
    const issued = certificate('cert.pem')
    // Everything but what makes the token and the key, which are there.
    const again = first!.slice(0, first!.indexOf('# once'))
    await gateway.mustRun('sh', '-c', `${set}${again}# ${renewal}`)
    const renewed = certificate('cert.pem')
    assert.notEqual(renewed.serialNumber, issued.serialNumber)
    assert.ok(renewed.publicKey.equals(issued.publicKey))
  })

  await t.test('by fleetgate enroll --key-uri and fleetgate renew, which keep no key and tell no PIN', async () => {
    writeFileSync(gateway.path('pin'), '1234')
    const module = 'export SOFTHSM2_CONF=softhsm2.conf PKCS11_MODULE_PATH=/usr/lib/softhsm/libsofthsm2.so; exec "$@"'
    const fleetgate = (...args: string[]) =>
      gateway.run('sh', '-c', module, 'sh', process.execPath, join(root, 'bin', 'fleetgate.js'), ...args)
    const { est, rootFingerprint } = gateway.endpoints
    const token = await gateway.token('cam-2', 'camera')
    const asked = ['--url', est, '--ca-fingerprint', rootFingerprint, '--id', 'cam-2', '--token', token, '--out', 'dev']
    const enroll = (uri: string) => fleetgate('enroll', ...asked, '--key-uri', uri)

    const absent = await enroll('pkcs11:token=nowhere;object=x;pin-value=9999')
    assert.equal(absent.code, 1)
    assert.match(absent.err, /^error: openssl cannot use the key in the PKCS#11 token: .*\(key_unavailable\)/)
    assert.doesNotMatch(absent.err, /9999/)

    const uri = `pkcs11:token=device;object=device-key;type=private;pin-source=file:${gateway.path('pin')}`
    const enrolled = await enroll(uri)
    assert.equal(enrolled.code, 0, enrolled.err)
    const first = certificate('dev/current/cert.pem')
    assert.ok(first.publicKey.equals(certificate('cert.pem').publicKey))
    assert.deepEqual(readdirSync(gateway.path('dev/current')).sort(), ['cert.pem', 'chain.pem', 'key.uri'])

    const renewed = await fleetgate('renew', '--dir', 'dev', '--force')
    assert.equal(renewed.code, 0, renewed.err)
    assert.notEqual(certificate('dev/current/cert.pem').serialNumber, first.serialNumber)

    await gateway.fleetgate('device', 'revoke', 'cam-2', '--reason', 'superseded')
    const refused = await fleetgate('renew', '--dir', 'dev', '--force')
    assert.deepEqual([refused.code, /certificate_revoked/.test(refused.err)], [3, true])
  })
})
