import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { TestPki } from '../../harness/certificates.ts'
import { EnrollHarness } from '../../harness/fleet.ts'

let fleet: EnrollHarness
let foreign: TestPki
before(async () => {
  fleet = await EnrollHarness.start()
  foreign = await TestPki.create('Foreign')
  for (const id of ['cam-1', 'cam-2', 'gone']) await fleet.admin('POST', '/devices', { id, profile: 'camera' })
})
after(() => fleet[Symbol.asyncDispose]())

const register = (deviceId: string, pem: string) => fleet.admin('POST', '/certificates', { deviceId, pem })

test('a certificate of another CA is noted once, told to brokers, and shown with the number it has there', async () => {
  const { pem, serial, fingerprint } = await foreign.device('cam-1')
  const { status, body } = await register('cam-1', pem)
  assert.equal(status, 201)
  assert.deepEqual([body.kind, body.deviceId, body.fingerprint], ['foreign', 'cam-1', fingerprint])
  assert.deepEqual([body.issuerSerial, body.serial], [serial, `f0${fingerprint.slice(0, 38)}`])
  const { feedSeq } = (await fleet.admin('GET', '/status')).body
  assert.deepEqual(await register('cam-1', pem), { status, body })
  assert.equal((await fleet.admin('GET', '/status')).body.feedSeq, feedSeq, 'nothing was told twice')
  const { body: audit } = await fleet.admin('GET', '/audit?limit=1')
  assert.partialDeepStrictEqual(audit.items[0], {
    action: 'certificate.registered',
    subject: `certificate:${body.serial}`,
    details: { device: 'cam-1', fingerprint },
  })
  const { body: shown } = await fleet.admin('GET', `/certificates/${body.serial}`)
  assert.equal(shown.pem.trim(), pem.trim())
})

test('what cannot be registered is told why: another device’s, ours, revoked, expired, a CA’s, no certificate, two', async () => {
  const one = await foreign.device('cam-1')
  await register('cam-1', one.pem)
  const day = 86_400_000
  const old = { notBefore: new Date(Date.now() - 9 * day), notAfter: new Date(Date.now() - day) }
  const { certificate } = await fleet.enrolledDevice('own-1')
  await fleet.admin('POST', '/devices/gone/revoke', { reason: 'superseded' })
  const cases: [string, string, number, string, RegExp][] = [
    ['cam-2', one.pem, 409, 'conflict', /registered for cam-1/],
    ['own-1', certificate, 409, 'conflict', /was issued here/],
    ['nobody', one.pem, 404, 'device_unknown', /nobody/],
    ['gone', (await foreign.device('gone')).pem, 403, 'device_revoked', /gone is revoked/],
    ['cam-1', (await foreign.device('cam-1', old)).pem, 403, 'certificate_expired', /expired at/],
    ['cam-1', foreign.root.pem, 400, 'request_malformed', /a CA's/],
    ['cam-1', 'nothing', 400, 'request_malformed', /one certificate in PEM is wanted, 0 were found/],
    ['cam-1', one.pem + one.pem, 400, 'request_malformed', /2 were found/],
    ['cam-1', one.pem.replace(/\n.{40}/, '\n'), 400, 'request_malformed', /not DER/],
    ['cam-1', 'x'.repeat(20_001), 400, 'request_malformed', /pem/],
  ]
  for (const [device, pem, status, code, sentence] of cases) {
    const answer = await register(device, pem)
    assert.deepEqual([answer.status, answer.body.code], [status, code], answer.body.detail)
    assert.match(answer.body.detail, sentence)
  }
})

test('one that was revoked stays so, and its key is registered no more where that was compromised', async () => {
  const { pem } = await foreign.device('cam-2')
  const { body } = await register('cam-2', pem)
  const revoked = await fleet.admin('POST', `/certificates/${body.serial}/revoke`, { reason: 'keyCompromise' })
  assert.equal(revoked.status, 200)
  const again = await register('cam-2', pem)
  assert.deepEqual([again.status, again.body.code], [403, 'key_compromised'])
})

test('neither a renewal nor what was never used ends it: it is not of this CA’s making', async () => {
  await fleet.enrolledDevice('mixed-1')
  const { body } = await register('mixed-1', (await foreign.device('mixed-1')).pem)
  for (let i = 0; i < 7; i++) await fleet.enrolledDevice('mixed-1')
  assert.equal((await fleet.admin('GET', `/certificates/${body.serial}`)).body.status, 'issued')
})
