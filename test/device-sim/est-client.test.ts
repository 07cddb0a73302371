import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { EstClient, fetchTrust } from '../../device-sim/est-client.ts'
import { certificateOf, enrollIdentity, renewIdentity } from '../../device-sim/identity.ts'
import { parseCsr } from '../../pki/csr.ts'
import { type TestCertificate, TestPki } from '../harness/certificates.ts'
import { certificatesOf, type EstAnswer, StubEst } from '../harness/stub-est.ts'

let pki: TestPki
let device: TestCertificate
before(async () => {
  pki = await TestPki.create()
  device = await pki.device('cam-1')
})

const ok = (body: string): EstAnswer => ({ status: 200, body: `${body}\n` })
const caAnswer = (): EstAnswer => ok(certificatesOf(pki.issuing.pem, pki.root.pem))
const trusted = (): { rootPem: string; intermediatesPem: string } => ({
  rootPem: pki.root.pem,
  intermediatesPem: pki.issuing.pem,
})

test('the root with the pinned fingerprint is taken, and the CAs that it vouches for', async () => {
  await using est = await StubEst.start(pki, caAnswer)
  const colons = pki.root.fingerprint.toUpperCase().replaceAll(/(..)(?!$)/g, '$1:')
  for (const fingerprint of [pki.root.fingerprint, colons]) {
    const { rootPem, intermediatesPem } = await fetchTrust(est.url, fingerprint)
    assert.equal(certificateOf(rootPem).fingerprint, pki.root.fingerprint)
    assert.equal(certificateOf(intermediatesPem).fingerprint, pki.issuing.fingerprint)
  }
  assert.deepEqual(new Set(est.requests.map(({ path }) => path)), new Set(['/.well-known/est/cacerts']))
})

test('an answer without the pinned root is refused', async () => {
  await using est = await StubEst.start(pki, caAnswer)
  await assert.rejects(
    fetchTrust(est.url, 'ab'.repeat(32)),
    /none of the 2 CA certificates .* has the pinned fingerprint/,
  )
})

test('somebody in between who passes the true root on is not believed: his own certificate is not below it', async () => {
  const other = await TestPki.create('Other')
  await using est = await StubEst.start(pki, caAnswer, await other.service('enroll'))
  await assert.rejects(fetchTrust(est.url, pki.root.fingerprint), { code: /SELF_SIGNED|UNABLE_TO|CERT/ })
  assert.equal(est.requests.length, 1)
})

test('a CA that the root did not sign is left out of the chain', async () => {
  const other = await TestPki.create()
  await using est = await StubEst.start(pki, () => ok(certificatesOf(other.issuing.pem, pki.root.pem, pki.issuing.pem)))
  const { intermediatesPem } = await fetchTrust(est.url, pki.root.fingerprint)
  assert.equal(certificateOf(intermediatesPem).fingerprint, pki.issuing.fingerprint)
  assert.equal(intermediatesPem.match(/BEGIN/g)?.length, 1)
})

test('a URL with a path of its own is kept', async () => {
  await using est = await StubEst.start(pki, caAnswer)
  await fetchTrust(`${est.url}/.well-known/est/line-7/`, pki.root.fingerprint)
  assert.equal(est.requests[0]!.path, '/.well-known/est/line-7/cacerts')
})

test('base64 is read wrapped, with CRLF, in PEM armour, or in one line (RFC 8951)', async () => {
  const plain = certificatesOf(pki.root.pem)
  const wrapped = plain.match(/.{1,64}/g)!
  const forms = [
    plain,
    wrapped.join('\n'),
    wrapped.join('\r\n'),
    `-----BEGIN PKCS7-----\n${wrapped.join('\n')}\n-----END PKCS7-----`,
  ]
  for (const form of forms) {
    await using est = await StubEst.start(pki, () => ok(form))
    await fetchTrust(est.url, pki.root.fingerprint)
  }
})

test('an answer that is no base64, no certs-only message or endless is an error', async () => {
  for (const [body, says] of [
    ['<html>', /not base64/],
    ['AAAA', /Not a certs-only message/],
    ['A'.repeat(300_000), /longer than/],
  ] as const) {
    await using est = await StubEst.start(pki, () => ok(body))
    await assert.rejects(fetchTrust(est.url, pki.root.fingerprint), says)
  }
})

test('simpleenroll sends the token as HTTP Basic and the request as one line of base64', async () => {
  await using est = await StubEst.start(pki, () => ok(certificatesOf(device.pem)))
  const identity = await enrollIdentity(new EstClient(est.url, trusted()), 'cam-1', 'secret')
  const [request] = est.requests
  assert.equal(request!.path, '/.well-known/est/simpleenroll')
  assert.equal(request!.headers.authorization, `Basic ${Buffer.from('cam-1:secret').toString('base64')}`)
  assert.equal(request!.headers['content-type'], 'application/pkcs10')
  assert.match(request!.body, /^[A-Za-z0-9+/]+={0,2}\n$/)
  assert.equal(request!.peer, undefined)
  assert.equal(parseCsr(Buffer.from(request!.body, 'base64')).subject.rdns[0]![0]!.value, 'cam-1')
  assert.equal(certificateOf(identity.certificatePem).fingerprint, device.fingerprint)
  assert.equal(identity.chainPem, identity.certificatePem + pki.issuing.pem)
})

test('simplereenroll shows the current certificate and asks for its names with a new key', async () => {
  await using est = await StubEst.start(pki, () => ok(certificatesOf(device.pem)))
  const current = { privateKeyPem: device.key, certificatePem: device.pem, chainPem: device.chain }
  await renewIdentity(new EstClient(est.url, trusted()), current)
  const [request] = est.requests
  assert.equal(request!.path, '/.well-known/est/simplereenroll')
  assert.equal(request!.peer, 'CN=cam-1')
  const csr = parseCsr(Buffer.from(request!.body, 'base64'))
  const certificate = certificateOf(device.pem)
  assert.deepEqual(csr.subject.der, certificate.subject.der)
  assert.deepEqual(csr.subjectAltName, certificate.subjectAltNameDer)
  assert.notEqual(csr.spkiHash, certificate.spkiHash)
})

test("a refusal carries the status and the server's sentence", async () => {
  await using est = await StubEst.start(pki, () => ({ status: 403, body: 'token_spent: the token was used\n' }))
  await assert.rejects(enrollIdentity(new EstClient(est.url, trusted()), 'cam-1', 'secret'), {
    name: 'EstError',
    status: 403,
    sentence: 'token_spent: the token was used',
    message: 'simpleenroll was answered with 403: token_spent: the token was used',
  })
})

test('no token is sent to a server that the pinned root does not vouch for', async () => {
  const other = await TestPki.create('Other')
  await using est = await StubEst.start(pki, caAnswer, await other.service('enroll'))
  await assert.rejects(enrollIdentity(new EstClient(est.url, trusted()), 'cam-1', 'secret'))
  assert.deepEqual(est.requests, [])
})

test('an answer that holds CA certificates alone is no certificate for this device', async () => {
  await using est = await StubEst.start(pki, caAnswer)
  await assert.rejects(
    enrollIdentity(new EstClient(est.url, trusted()), 'cam-1', 'secret'),
    /without a certificate for this device/,
  )
})
