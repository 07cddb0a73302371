import assert from 'node:assert/strict'
import { appendFileSync, writeFileSync } from 'node:fs'
import { test } from 'node:test'
import { Gateway, needs } from './gateway.ts'

test('openssl and curl enroll, verify and renew over TLS 1.2 and 1.3', needs('openssl', 'curl'), async (t) => {
  await using gateway = await Gateway.start('auto', 'enroll: { attemptsPerMinute: 5 }')
  const { estUrl } = gateway

  for (const version of ['1.2', '1.3']) {
    const tls = [`--tlsv${version}`, '--tls-max', version]
    const id = `cam-tls${version}`

    await t.test(`TLS ${version}: cacerts is root and issuing CA`, async () => {
      const { out } = await gateway.curl(...tls, `${estUrl}/cacerts`)
      assert.match(out, /^HTTP\/1\.1 200 OK\r\n/)
      assert.match(out, /\r\nContent-Type: application\/pkcs7-mime/)
      await gateway.unwrap('cacerts', out)
      await gateway.mustRun('openssl', 'crl2pkcs7', '-nocrl', '-certfile', 'cacerts.crt', '-out', 'all.p7')
      const text = await gateway.mustRun('openssl', 'pkcs7', '-in', 'all.p7', '-print_certs', '-noout')
      assert.match(text, /Fleetgate Root CA/)
      assert.match(text, /Fleetgate Issuing CA/)
    })

    await t.test(`TLS ${version}: simpleenroll gives a certificate that the bundle verifies`, async () => {
      const token = await gateway.token(id, 'camera')
      await gateway.makeRequest(id)
      const { out } = await gateway.post('simpleenroll', `${id}.csr`, ...tls, '-u', `${id}:${token}`)
      assert.match(out, /^HTTP\/1\.1 200 OK\r\n/)
      assert.match(out, /\r\nContent-Type: application\/pkcs7-mime; smime-type=certs-only\r\n/)
      await gateway.unwrap(id, out)
      // Strict, and for the purpose that it has: a device is a client, not a server.
      const verify = ['verify', '-x509_strict', '-CAfile', 'cacerts.crt', '-purpose']
      assert.match(await gateway.mustRun('openssl', ...verify, 'sslclient', `${id}.crt`), /OK/)
      assert.notEqual((await gateway.run('openssl', ...verify, 'sslserver', `${id}.crt`)).code, 0)
      assert.match(
        await gateway.mustRun('openssl', 'x509', '-in', `${id}.crt`, '-noout', '-subject'),
        new RegExp(`CN ?= ?${id}`),
      )
    })

    await t.test(`TLS ${version}: simplereenroll renews the key and takes another`, async () => {
      const before = await gateway.mustRun('openssl', 'x509', '-in', `${id}.crt`, '-noout', '-serial')
      const renewed = await gateway.reenroll(id, ...tls)
      assert.match(renewed.out, /^HTTP\/1\.1 200 OK\r\n/)
      await gateway.makeRequest(id, `${id}-next`)
      const rekeyed = await gateway.reenroll(id, ...tls)
      await gateway.unwrap(`${id}-next`, rekeyed.out)
      assert.notEqual(await gateway.mustRun('openssl', 'x509', '-in', `${id}-next.crt`, '-noout', '-serial'), before)
      const keys = await Promise.all([
        gateway.mustRun('openssl', 'x509', '-in', `${id}-next.crt`, '-noout', '-pubkey'),
        gateway.mustRun('openssl', 'pkey', '-in', `${id}-next.key`, '-pubout'),
      ])
      assert.equal(keys[0], keys[1])
    })
  }

  await t.test('a wrong token is 401 with the challenge, a spent one with another key 403', async () => {
    const wrong = await gateway.post('simpleenroll', 'cam-tls1.3.csr', '-u', 'cam-tls1.3:wrong')
    assert.match(wrong.out, /^HTTP\/1\.1 401 Unauthorized\r\n/)
    assert.match(wrong.out, /\r\nWWW-Authenticate: Basic realm="fleetgate"\r\n/)
    const token = await gateway.token('cam-2', 'camera')
    await gateway.makeRequest('cam-2')
    const enroll = () => gateway.post('simpleenroll', 'cam-2.csr', '-u', `cam-2:${token}`)
    assert.match((await enroll()).out, /^HTTP\/1\.1 200 /)
    assert.match((await enroll()).out, /^HTTP\/1\.1 200 /, 'the same request may fetch its answer again')
    await gateway.makeRequest('cam-2', 'thief')
    const thief = await enroll()
    assert.match(thief.out, /^HTTP\/1\.1 403 [\s\S]*token_spent/)
  })

  await t.test('a certificate of another CA does not renew', async () => {
    await gateway.makeSelfSigned('own', 'cam-2')
    const { out } = await gateway.post('simplereenroll', 'cam-2.csr', '--cert', 'own.crt', '--key', 'own.key')
    assert.match(out, /^HTTP\/1\.1 401 /)
  })

  await t.test('a body that is far too large is 413, garbage 400, each with a sentence', async () => {
    writeFileSync(gateway.path('large'), Buffer.alloc(5_000_000, 65))
    const large = await gateway.post('simpleenroll', 'large', '-u', 'cam-2:x')
    assert.match(large.out, /HTTP\/1\.1 413 [\s\S]*body_too_large: /)
    const token = await gateway.token('cam-3', 'camera')
    appendFileSync(gateway.path('garbage'), '!!!!')
    const garbage = await gateway.post('simpleenroll', 'garbage', '-u', `cam-3:${token}`)
    assert.match(garbage.out, /^HTTP\/1\.1 400 [\s\S]*csr_malformed: /)
  })

  await t.test('a client of HTTP/1.0 is served, and its connection closed', async () => {
    const { out } = await gateway.curl('-0', `${estUrl}/cacerts`)
    assert.match(out, /^HTTP\/1\.1 200 OK\r\n[\s\S]*\r\nConnection: close\r\n/)
  })

  await t.test('curl that waits with its request is asked for it, or refused at once with a wrong token', async () => {
    const enroll = async (password: string) => {
      const waiting = ['-v', '-H', 'Expect: 100-continue', '-u', `large-1:${password}`]
      const { err } = await gateway.post('simpleenroll', 'large-1.csr', ...waiting)
      return err.match(/^< HTTP\/1\.1 \d{3}/gm)?.map((line) => line.slice(-3))
    }
    const token = await gateway.token('large-1', 'camera')
    await gateway.makeRequest('large-1')
    assert.deepEqual([await enroll('wrong'), await enroll(token)], [['401'], ['100', '200']])
  })

  await t.test(
    'who is refused too often is told when to come again, and a good credential beside it is served',
    async () => {
      await gateway.makeRequest('cam-9')
      const guess = (at: number) => gateway.post('simpleenroll', 'cam-9.csr', '-u', `cam-9:guess-${at}`)
      for (let at = 0; at < 5; at++) assert.match((await guess(at)).out, /^HTTP\/1\.1 401 /)
      const slowed = (await guess(5)).out
      assert.match(slowed, /^HTTP\/1\.1 429 Too Many Requests\r\n[\s\S]*\r\n\r\ntoo_many_requests: /)
      const seconds = Number(/\r\nRetry-After: (\d+)\r\n/.exec(slowed)?.[1])
      assert.ok(seconds > 0 && seconds <= 60, `${seconds} seconds`)
      await gateway.enroll('cam-9', 'camera')
      assert.match(await gateway.mustRun('openssl', 'x509', '-in', 'cam-9.crt', '-noout', '-subject'), /CN ?= ?cam-9/)
    },
  )
})
