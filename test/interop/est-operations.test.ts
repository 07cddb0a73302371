import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { test } from 'node:test'
import { contextConstructed, element, integer, oid, sequence } from '../../pki/der.ts'
import { oids } from '../../pki/oids.ts'
import { createKeyAndCsr } from '../../pki/x509.ts'
import { csrWithAttributes, keyEncryption } from '../harness/csr-vectors.ts'
import { keyOfPackage } from '../harness/envelope.ts'
import { Gateway, needs } from './gateway.ts'

const configuration = `
profiles:
  camera: {}
  lock: { serverKeygen: encrypted }
  gate: { channelBinding: required }
labels:
  locks: { profile: lock }
  gates: { profile: gate }
`

test('openssl and curl use labels, csrattrs, serverkeygen and fullcmc', needs('openssl', 'curl'), async (t) => {
  await using gateway = await Gateway.start('auto', configuration)
  const { estUrl } = gateway
  const { rootCertificate } = gateway.endpoints
  const body = (answer: string): Buffer => Buffer.from(answer.slice(answer.indexOf('\r\n\r\n') + 4), 'base64')
  const openssl = (...args: string[]): Promise<string> => gateway.mustRun('openssl', ...args)

  for (const version of ['1.2', '1.3']) {
    const tls = [`--tlsv${version}`, '--tls-max', version]
    const id = `lock-${version}`
    const credential = ['--cert', `${id}.crt`, '--key', `${id}.key`]

    await t.test(
      `TLS ${version}: csrattrs under a label is DER that openssl reads, with a template where none binds`,
      async () => {
        const template = '1.2.840.113549.1.9.16.2.61'
        const told = { gates: ['challengePassword', 'id-ecPublicKey', 'Extension Request'], locks: [template] }
        for (const [label, names] of Object.entries(told)) {
          const { out } = await gateway.curl(...tls, `${estUrl}/${label}/csrattrs`)
          assert.match(out, /^HTTP\/1\.1 200 OK\r\n[\s\S]*Content-Type: application\/csrattrs\r\n/)
          writeFileSync(gateway.path('csrattrs'), body(out))
          const text = await openssl('asn1parse', '-inform', 'DER', '-in', 'csrattrs')
          for (const name of names) assert.ok(text.includes(`:${name}`), `${label}: ${name}`)
          assert.equal(text.includes(`:${template}`), label === 'locks', label)
        }
      },
    )

    await t.test(`TLS ${version}: enrolls under a label and is refused to renew without it`, async () => {
      const token = await gateway.token(id, 'lock')
      await gateway.makeRequest(id)
      const post = ['-H', 'Content-Type: application/pkcs10', '--data-binary', `@${id}.csr`]
      const first = await gateway.curl(...tls, '-u', `${id}:${token}`, ...post, `${estUrl}/locks/simpleenroll`)
      await gateway.unwrap(id, first.out)
      const elsewhere = await gateway.curl(...tls, ...credential, ...post, `${estUrl}/simplereenroll`)
      assert.match(elsewhere.out, /^HTTP\/1\.1 403 [\s\S]*label_mismatch: /)
    })

    await t.test(
      `TLS ${version}: openssl cms opens the key that serverkeygen made, and its signature verifies`,
      async () => {
        const ski = (await openssl('x509', '-in', `${id}.crt`, '-noout', '-ext', 'subjectKeyIdentifier')).split(
          '\n',
        )[1]!
        const keyId = Buffer.from(ski.trim().replaceAll(':', ''), 'hex')
        writeFileSync(gateway.path('keygen.csr'), csrWithAttributes(id, ...keyEncryption(keyId)).toString('base64'))
        const post = ['-H', 'Content-Type: application/pkcs10', '--data-binary', '@keygen.csr']
        const { out } = await gateway.curl(...tls, ...credential, ...post, `${estUrl}/locks/serverkeygen`)
        const boundary = /\r\nContent-Type: multipart\/mixed; boundary=(\S+)\r\n/.exec(out)![1]!
        const [, key, certificate] = out.slice(out.indexOf(`--${boundary}`)).split(`--${boundary}`)
        assert.match(key!, /smime-type=server-generated-key/)
        writeFileSync(gateway.path('key.p7'), body(key!))
        await gateway.unwrap(`${id}-made`, certificate!)
        const recipient = ['-recip', `${id}.crt`, '-inkey', `${id}.key`]
        await openssl('cms', '-decrypt', '-inform', 'DER', '-in', 'key.p7', ...recipient, '-out', 'signed')
        // What was enveloped is SignedData; openssl reads it inside a ContentInfo.
        const signed = readFileSync(gateway.path('signed'))
        const info = sequence(oid(oids.signedData), element(contextConstructed(0), signed))
        writeFileSync(gateway.path('signed.p7'), info)
        const verify = ['-CAfile', rootCertificate, '-purpose', 'any', '-binary', '-out', 'package']
        await openssl('cms', '-verify', '-inform', 'DER', '-in', 'signed.p7', ...verify)
        const made = keyOfPackage(readFileSync(gateway.path('package'))).export({ format: 'pem', type: 'pkcs8' })
        writeFileSync(gateway.path('made.key'), made)
        const own = await openssl('pkey', '-in', 'made.key', '-pubout')
        assert.equal(await openssl('x509', '-in', `${id}-made.crt`, '-noout', '-pubkey'), own)
      },
    )

    await t.test(
      `TLS ${version}: a Full PKI Request that openssl cms signed renews, and a refusal is one that it verifies`,
      async () => {
        const next = await createKeyAndCsr({ commonName: id })
        const data = sequence(
          sequence(),
          sequence(element(contextConstructed(0), integer(1), next.csrDer)),
          sequence(),
          sequence(),
        )
        writeFileSync(gateway.path('pki-data'), data)
        const sign = ['-econtent_type', oids.pkiData, '-nodetach', '-binary', '-outform', 'DER', '-md', 'sha256']
        const signer = ['-signer', `${id}.crt`, '-inkey', `${id}.key`]
        await openssl('cms', '-sign', '-in', 'pki-data', ...sign, ...signer, '-out', 'request.der')
        writeFileSync(gateway.path('request.b64'), readFileSync(gateway.path('request.der')).toString('base64'))
        const post = [
          '-H',
          'Content-Type: application/pkcs7-mime; smime-type=CMC-request',
          '--data-binary',
          '@request.b64',
        ]
        const { out } = await gateway.curl(...tls, ...credential, ...post, `${estUrl}/locks/fullcmc`)
        assert.match(out, /^HTTP\/1\.1 200 OK\r\n[\s\S]*smime-type=certs-only\r\n/)
        await gateway.unwrap(`${id}-cmc`, out)
        assert.match(await openssl('x509', '-in', `${id}-cmc.crt`, '-noout', '-subject'), new RegExp(`CN ?= ?${id}`))

        const refused = await gateway.curl(...tls, ...credential, ...post, `${estUrl}/fullcmc`)
        assert.match(refused.out, /^HTTP\/1\.1 403 [\s\S]*smime-type=CMC-response\r\n/)
        writeFileSync(gateway.path('refusal.p7'), body(refused.out))
        const verify = ['-CAfile', rootCertificate, '-purpose', 'any', '-binary', '-out', 'refusal']
        await openssl('cms', '-verify', '-inform', 'DER', '-in', 'refusal.p7', ...verify)
        assert.match(readFileSync(gateway.path('refusal'), 'latin1'), /label_mismatch: /)
      },
    )
  }
})
