import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { Gateway, needs, root } from './gateway.ts'

const url = 'http://127.0.0.1:18480'
const configuration = `
enroll: { status: { listen: "127.0.0.1:18480", url: "${url}", shards: 2 } }
`

test('openssl verifies revocation lists and OCSP answers', needs('openssl', 'curl'), async (t) => {
  await using gateway = await Gateway.start('auto', configuration)
  const { rootCertificate } = gateway.endpoints
  const openssl = (...args: string[]): Promise<string> => gateway.mustRun('openssl', ...args)
  const textOf = (id: string): Promise<string> => openssl('x509', '-in', `${id}.crt`, '-noout', '-text')
  /** Into `NAME`, DER, and as PEM into `NAME.pem` where it is a list. */
  async function download(name: string, from: string): Promise<void> {
    await gateway.mustRun('curl', '-sS', '-f', '-o', name, from)
    if (!from.endsWith('.crl')) return
    await openssl('crl', '-inform', 'DER', '-in', name, '-out', `${name}.pem`)
  }
  const fleetgate = (...words: string[]): Promise<unknown> =>
    promisify(execFile)(process.execPath, [join(root, 'bin', 'fleetgate.js'), ...words], { cwd: gateway.folder })
  const crlOf = (text: string): string => /URI:(\S+\.crl)/.exec(text)![1]!

  for (const id of ['cam-good', 'cam-gone', 'cam-later', 'cam-held']) await gateway.enroll(id, 'camera')
  const text = await textOf('cam-gone')
  const crl = crlOf(text)
  const caIssuers = /CA Issuers - URI:(\S+)/.exec(text)![1]!
  await download('issuing.cer', caIssuers)
  await openssl('x509', '-inform', 'DER', '-in', 'issuing.cer', '-out', 'issuing.crt')
  await download('root.crl', crlOf(await textOf('issuing')))
  await fleetgate('device', 'revoke', 'cam-gone', '--reason', 'keyCompromise')
  const ocsp = ['-issuer', 'issuing.crt', '-url', `${url}/ocsp`, '-CAfile', rootCertificate]
  const ask = (id: string, ...args: string[]) => gateway.run('openssl', 'ocsp', ...args, ...ocsp, '-cert', `${id}.crt`)

  await t.test('openssl verify -crl_check_all: by the list that the certificate names', async () => {
    const verify = async (id: string) => {
      await download('shard.crl', crlOf(await textOf(id)))
      const lists = ['-CRLfile', 'shard.crl.pem', '-CRLfile', 'root.crl.pem']
      const check = ['-crl_check_all', '-extended_crl', '-x509_strict', '-untrusted', 'issuing.crt']
      return gateway.run('openssl', 'verify', ...check, ...lists, '-CAfile', rootCertificate, `${id}.crt`)
    }
    const good = await verify('cam-good')
    assert.equal(good.code, 0, good.out + good.err)
    const gone = await verify('cam-gone')
    assert.match(gone.out + gone.err, /certificate revoked/)
  })

  await t.test('openssl verify -crl_check_all: by the list of all', async () => {
    await download('all.crl', crl.replace(/\d+\.crl$/, 'all.crl'))
    const lists = ['-CRLfile', 'all.crl.pem', '-CRLfile', 'root.crl.pem']
    const options = ['-crl_check_all', ...lists, '-untrusted', 'issuing.crt', '-CAfile', rootCertificate]
    assert.match(await openssl('verify', ...options, 'cam-good.crt'), /OK/)
    const gone = await gateway.run('openssl', 'verify', ...options, 'cam-gone.crt')
    assert.match(gone.out + gone.err, /certificate revoked/)
  })

  await t.test('openssl crl: signature, number, scope, reason, and a delta that names its base', async () => {
    const read = ['-inform', 'DER', '-noout', '-text', '-CAfile', 'issuing.crt', '-in']
    const list = await openssl('crl', ...read, 'shard.crl')
    assert.match(list, /X509v3 CRL Number/)
    assert.match(list, new RegExp(`Issuing Distribution Point: critical[\\s\\S]*URI:${url}`))
    assert.match(list, /X509v3 Freshest CRL/)
    const all = await openssl('crl', ...read, 'all.crl')
    assert.match(all, /Key Compromise/)
    await download('delta.crl', crl.replace(/\d+\.crl$/, 'all-delta.crl'))
    const delta = await openssl('crl', ...read, 'delta.crl')
    assert.match(delta, /X509v3 Delta CRL Indicator: critical/)
    assert.match(delta, /Key Compromise/)
    const verified = await gateway.run(
      'openssl',
      'crl',
      '-inform',
      'DER',
      '-in',
      'delta.crl',
      '-CAfile',
      'issuing.crt',
      '-noout',
    )
    assert.match(verified.err, /verify OK/)
  })

  await t.test('openssl verify -use_deltas: a list from before a revocation, and the delta from after it', async () => {
    const places = { shard: crlOf(await textOf('cam-later')), all: crl.replace(/\d+\.crl$/, 'all.crl') }
    for (const [name, place] of Object.entries(places)) await download(`former-${name}.crl`, place)
    await fleetgate('device', 'revoke', 'cam-later', '--reason', 'superseded')
    for (const [name, place] of Object.entries(places)) {
      await download(`since-${name}.crl`, place.replace('.crl', '-delta.crl'))
      const verify = (...more: string[]) => {
        const lists = [`former-${name}.crl.pem`, 'root.crl.pem', ...more].flatMap((file) => ['-CRLfile', file])
        const check = ['-crl_check_all', '-extended_crl', '-use_deltas', '-untrusted', 'issuing.crt', ...lists]
        return gateway.run('openssl', 'verify', ...check, '-CAfile', rootCertificate, 'cam-later.crt')
      }
      assert.equal((await verify()).code, 0, name)
      const told = await verify(`since-${name}.crl.pem`)
      assert.match(told.out + told.err, /certificate revoked/, name)
    }
  })

  await t.test('openssl: a hold is one, until a delta takes it from the list', async () => {
    const place = crlOf(await textOf('cam-held'))
    const verify = (...files: string[]) => {
      const lists = ['root.crl.pem', ...files].flatMap((file) => ['-CRLfile', file])
      const check = ['-crl_check_all', '-extended_crl', '-use_deltas', '-untrusted', 'issuing.crt', ...lists]
      return gateway.run('openssl', 'verify', ...check, '-CAfile', rootCertificate, 'cam-held.crt')
    }
    await fleetgate('device', 'disable', 'cam-held')
    await download('held.crl', place)
    const held = await verify('held.crl.pem')
    assert.match(held.out + held.err, /certificate revoked/)
    const both = await gateway.run('openssl', 'ocsp', ...ocsp, '-cert', 'cam-good.crt', '-cert', 'cam-held.crt')
    assert.match(both.out, /cam-good\.crt: good[\s\S]*cam-held\.crt: revoked[\s\S]*Reason: certificateHold/)
    await fleetgate('device', 'enable', 'cam-held')
    await download('released.crl', place.replace('.crl', '-delta.crl'))
    const delta = await openssl('crl', '-inform', 'DER', '-noout', '-text', '-in', 'released.crl')
    assert.match(delta, /Remove From CRL/)
    const released = await verify('held.crl.pem', 'released.crl.pem')
    assert.equal(released.code, 0, released.out + released.err)
  })

  await t.test(
    'openssl ocsp: good, revoked for its reason, unknown, with a nonce and without, SHA-1 and SHA-256',
    async () => {
      for (const options of [['-sha1'], ['-sha256'], ['-sha256', '-no_nonce']]) {
        const good = await ask('cam-good', ...options)
        assert.match(good.err, /Response verify OK/)
        assert.doesNotMatch(good.err, /WARNING: no nonce/)
        assert.match(good.out, /cam-good\.crt: good/)
        const gone = await ask('cam-gone', ...options)
        assert.match(gone.err, /Response verify OK/)
        assert.match(gone.out, /cam-gone\.crt: revoked[\s\S]*Reason: keyCompromise[\s\S]*Revocation Time: /)
      }
      const ghost = await gateway.run('openssl', 'ocsp', ...ocsp, '-serial', '0x0123456789abcdef')
      assert.match(ghost.out, /: unknown/)
      const other = await gateway.run(
        'openssl',
        'ocsp',
        '-issuer',
        rootCertificate,
        ...ocsp.slice(2),
        '-cert',
        'cam-good.crt',
      )
      assert.match(other.out + other.err, /unauthorized/)
    },
  )

  await t.test('openssl ocsp reads a kept answer that curl fetched by GET', async () => {
    await openssl('ocsp', '-no_nonce', '-issuer', 'issuing.crt', '-cert', 'cam-good.crt', '-reqout', 'request.der')
    const encoded = encodeURIComponent(readFileSync(gateway.path('request.der')).toString('base64'))
    const headers = await gateway.mustRun('curl', '-sS', '-f', '-D', '-', '-o', 'answer.der', `${url}/ocsp/${encoded}`)
    assert.match(headers, /Cache-Control: max-age=300, public/)
    const read = [
      '-respin',
      'answer.der',
      '-issuer',
      'issuing.crt',
      '-CAfile',
      rootCertificate,
      '-cert',
      'cam-good.crt',
    ]
    const { out, err } = await gateway.run('openssl', 'ocsp', ...read)
    assert.match(err, /Response verify OK/)
    assert.match(out, /cam-good\.crt: good/)
  })
})
