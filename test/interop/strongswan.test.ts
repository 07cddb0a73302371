import assert from 'node:assert/strict'
import { readdirSync, writeFileSync } from 'node:fs'
import { test } from 'node:test'
import { Gateway, needs } from './gateway.ts'

test(
  'strongSwan pki fetches the CA, enrolls with a token and renews with its certificate',
  needs('pki', 'openssl'),
  async (t) => {
    await using gateway = await Gateway.start()
    const { est, rootCertificate } = gateway.endpoints
    const service = ['--url', est, '--cacert', rootCertificate]
    const enroll = (...args: string[]) => ['--est', ...service, '--in', 'gw-1.der', ...args, '--outform', 'pem']

    await t.test('pki --estca stores root and issuing CA', async () => {
      await gateway.mustRun('pki', '--estca', ...service, '--caout', 'ca.pem', '--outform', 'pem')
      assert.equal(readdirSync(gateway.folder).filter((name) => /^ca.*\.pem$/.test(name)).length, 2)
    })

    await t.test('pki --est enrolls with user name and password', async () => {
      const token = await gateway.token('gw-1', 'sensor')
      await gateway.makeRequest('gw-1')
      const pem = await gateway.mustRun('pki', ...enroll('--userpass', `gw-1:${token}`))
      assert.match(pem, /^-----BEGIN CERTIFICATE-----/)
      writeFileSync(gateway.path('gw-1.crt'), pem)
      assert.match(await gateway.mustRun('openssl', 'x509', '-in', 'gw-1.crt', '-noout', '-subject'), /CN ?= ?gw-1/)
    })

    await t.test('pki --est renews over mutual TLS, for a new key', async () => {
      await gateway.makeRequest('gw-1', 'gw-1-next')
      const cas = readdirSync(gateway.folder)
        .filter((name) => /^ca.*\.pem$/.test(name))
        .flatMap((name) => ['--cacert', name])
      const pem = await gateway.mustRun('pki', ...enroll(...cas, '--cert', 'gw-1.crt', '--key', 'gw-1.key'))
      writeFileSync(gateway.path('gw-1-next.crt'), pem)
      const own = await gateway.mustRun('openssl', 'pkey', '-in', 'gw-1-next.key', '-pubout')
      assert.equal(await gateway.mustRun('openssl', 'x509', '-in', 'gw-1-next.crt', '-noout', '-pubkey'), own)
    })

    await t.test('pki --est with a wrong password fails', async () => {
      const { code, err } = await gateway.run('pki', ...enroll('--userpass', 'gw-1:wrong'))
      assert.notEqual(code, 0)
      assert.match(err, /401/)
    })
  },
)
