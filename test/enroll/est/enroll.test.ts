import assert from 'node:assert/strict'
import { Agent } from 'node:https'
import { after, before, suite, test } from 'node:test'
import { deviceView } from '../../../contract/admin-api.ts'
import { startCursor } from '../../../contract/feed.ts'
import { parseCertificate } from '../../../pki/certificate.ts'
import { bitString, boolean, element, octetString, oid, sequence, setOf } from '../../../pki/der.ts'
import { oids } from '../../../pki/oids.ts'
import { createCsr, createKeyAndCsr, createSelfSigned } from '../../../pki/x509.ts'
import { csrWithAttributes } from '../../harness/csr-vectors.ts'
import {
  type Answer,
  certificateOf,
  codeOf,
  type DeviceKeys,
  EnrollHarness,
  movableClock,
  pemToDer,
  requireWindow,
  testConfiguration,
} from '../../harness/fleet.ts'
import { followFeed } from '../../harness/follower.ts'

const day = 86_400_000
type Entry = { action: string; outcome: string; details?: { via?: string } }

suite('simpleenroll', () => {
  const clock = movableClock()
  let fleet: EnrollHarness
  before(async () => {
    fleet = await EnrollHarness.start({
      clock: clock.now,
      config: testConfiguration({ enroll: { attemptsPerMinute: 1000 } }),
    })
  })
  after(() => fleet[Symbol.asyncDispose]())

  test('a token and a matching request give one certificate whose subject is the registry record (RFC 7030 4.2.3)', async () => {
    const token = await fleet.token('cam-1', { groups: ['berlin', 'roof'] })
    const { csrDer } = await createKeyAndCsr({ commonName: 'cam-1' })
    const answer = await fleet.enroll('cam-1', token, csrDer)
    assert.equal(answer.status, 200)
    assert.equal(answer.headers['content-type'], 'application/pkcs7-mime; smime-type=certs-only')
    const certificate = certificateOf(answer)
    assert.deepEqual(
      certificate.subject.rdns.map(([attribute]) => attribute!.value),
      ['berlin', 'roof', 'cam-1'],
    )
    assert.deepEqual(certificate.subjectAltName.uris, ['urn:fleetgate:device:cam-1'])
    assert.deepEqual(certificate.extendedKeyUsage, ['clientAuth'])
    assert.equal(certificate.isCa, false)
    assert.equal(certificate.serial.length, 32)
    requireWindow(answer.headers, certificate)
    const { body } = await fleet.admin('GET', `/certificates/${certificate.serial}`)
    assert.deepEqual([body.status, body.deviceId, body.fingerprint], ['issued', 'cam-1', certificate.fingerprint])
  })

  test('every key type that the profile accepts is signed', async () => {
    for (const keyType of ['P-256', 'P-384', 'Ed25519', 'RSA-2048'] as const) {
      const device = await fleet.enrolledDevice(`key-${keyType}`, { keyType })
      assert.equal(parseCertificate(pemToDer(device.certificate)).serial, device.serial)
    }
  })

  test('no certificate outlives its issuer', async () => {
    await using long = await EnrollHarness.start({
      config: testConfiguration({ profiles: { camera: { validityDays: 3650 } } }),
    })
    const device = await long.enrolledDevice('cam-1')
    const issuing = parseCertificate(pemToDer(device.certificate))
    const years = (issuing.notAfter.getTime() - Date.now()) / day / 365
    assert.ok(years < 5.1, `${years} years`)
  })

  test('the same key may fetch its lost answer again; another key may not', async () => {
    const token = await fleet.token('lost-1')
    const { csrDer } = await createKeyAndCsr({ commonName: 'lost-1' })
    const first = certificateOf(await fleet.enroll('lost-1', token, csrDer))
    const again = certificateOf(await fleet.enroll('lost-1', token, csrDer))
    assert.equal(again.fingerprint, first.fingerprint)
    const other = await createKeyAndCsr({ commonName: 'lost-1' })
    const refused = await fleet.enroll('lost-1', token, other.csrDer)
    assert.deepEqual([refused.status, codeOf(refused)], [403, 'token_spent'])
  })

  test('a spent token does not give out a certificate that has expired or is revoked', async () => {
    const issue = async (id: string) => {
      const token = await fleet.token(id)
      const { csrDer } = await createKeyAndCsr({ commonName: id })
      assert.equal((await fleet.enroll(id, token, csrDer)).status, 200)
      return () => fleet.enroll(id, token, csrDer)
    }
    const again = await issue('old-1')
    clock.advance(31 * day)
    const expired = await again()
    clock.advance(-31 * day)
    assert.deepEqual([expired.status, codeOf(expired)], [403, 'token_spent'])
    assert.match(expired.body, /has expired/)
    const revoked = await issue('old-2')
    await fleet.admin('POST', '/devices/old-2/revoke', { reason: 'superseded' })
    assert.equal(codeOf(await revoked()), 'device_revoked')
  })

  test('of twenty requests racing with one token and different keys, exactly one gets a certificate', async () => {
    const token = await fleet.token('race-1')
    const requests = await Promise.all(Array.from({ length: 20 }, () => createKeyAndCsr({ commonName: 'race-1' })))
    const answers = await Promise.all(requests.map(({ csrDer }) => fleet.enroll('race-1', token, csrDer)))
    assert.equal(answers.filter(({ status }) => status === 200).length, 1)
    assert.deepEqual(new Set(answers.filter(({ status }) => status !== 200).map(codeOf)), new Set(['token_spent']))
    const { body } = await fleet.admin('GET', '/certificates?deviceId=race-1')
    assert.equal(body.items.length, 1)
  })

  test('of twenty requests racing with one token and one key, all get the same certificate', async () => {
    const token = await fleet.token('race-2')
    const { csrDer } = await createKeyAndCsr({ commonName: 'race-2' })
    const answers = await Promise.all(Array.from({ length: 20 }, () => fleet.enroll('race-2', token, csrDer)))
    assert.deepEqual(new Set(answers.map(({ status }) => status)), new Set([200]))
    assert.equal(new Set(answers.map((answer) => certificateOf(answer).fingerprint)).size, 1)
  })

  test('a wrong token, an unknown device and a token of another device get one and the same answer, with the challenge', async () => {
    const token = await fleet.token('mine-1')
    await fleet.token('mine-2')
    const { csrDer } = await createKeyAndCsr({ commonName: 'mine-2' })
    const answers = [
      await fleet.enroll('mine-2', 'A'.repeat(43), csrDer),
      await fleet.enroll('nobody', token, csrDer),
      await fleet.enroll('mine-2', token, csrDer),
      await fleet.enroll('../../etc', token, csrDer),
      await fleet.enroll('__proto__', token, csrDer),
    ]
    for (const answer of answers) {
      assert.deepEqual([answer.status, codeOf(answer)], [401, 'token_invalid'])
      assert.match(String(answer.headers['www-authenticate']), /^Basic realm=/)
    }
    assert.equal(new Set(answers.map(({ body }) => body.replace(/\(request .*/, ''))).size, 1)
  })

  test('without a credential the answer is 401 with the challenge', async () => {
    const answer = await fleet.est('simpleenroll', {
      method: 'POST',
      headers: { 'Content-Type': 'application/pkcs10' },
      body: 'AAAA',
    })
    assert.deepEqual([answer.status, codeOf(answer)], [401, 'unauthenticated'])
    assert.equal(answer.headers['www-authenticate'], 'Basic realm="fleetgate"')
  })

  test('an expired token is refused', async () => {
    const token = await fleet.token('late-1', { ttlMs: 60_000 })
    const { csrDer } = await createKeyAndCsr({ commonName: 'late-1' })
    clock.advance(60_001)
    const answer = await fleet.enroll('late-1', token, csrDer)
    assert.deepEqual([answer.status, codeOf(answer)], [401, 'token_expired'])
  })

  test('a request that names another device is refused and leaves the token unspent', async () => {
    const token = await fleet.token('name-1')
    const wrong = await createKeyAndCsr({ commonName: 'name-2' })
    const refused = await fleet.enroll('name-1', token, wrong.csrDer)
    assert.deepEqual([refused.status, codeOf(refused)], [403, 'csr_subject_mismatch'])
    assert.match(refused.body, /"name-2".*CN=name-1/)
    const right = await createKeyAndCsr({ commonName: 'name-1' })
    assert.equal((await fleet.enroll('name-1', token, right.csrDer)).status, 200)
  })

  test('extensions come from the profile: a request for a CA, for OCSP signing and for other names gets none of it', async () => {
    const extension = (type: string, value: Buffer): Buffer => sequence(oid(type), octetString(value))
    const greedy = sequence(
      oid(oids.extensionRequest),
      setOf(
        sequence(
          extension(oids.basicConstraints, sequence(boolean(true))),
          extension(oids.keyUsage, bitString(Buffer.of(0b0000_0110), 1)),
          extension(oids.extendedKeyUsage, sequence(oid('1.3.6.1.5.5.7.3.9'), oid(oids.serverAuth))),
          extension(oids.subjectAltName, sequence(element(0x82, Buffer.from('gateway.example')))),
        ),
      ),
    )
    const answer = await fleet.enroll('greedy-1', await fleet.token('greedy-1'), csrWithAttributes('greedy-1', greedy))
    const { isCa, keyUsage, extendedKeyUsage, subjectAltName } = certificateOf(answer)
    assert.deepEqual([isCa, keyUsage, extendedKeyUsage], [false, ['digitalSignature'], ['clientAuth']])
    assert.deepEqual(subjectAltName, { uris: ['urn:fleetgate:device:greedy-1'], dns: [], ips: [] })
  })

  test('names that are not exactly the device id are refused with what was seen and what is wanted', async () => {
    const token = await fleet.token('id-1')
    for (const name of ['*', 'ID-1', 'id-1 ', 'id-1#', 'id-1+', 'id-1/x', '$id-1', 'id‐1', 'id-1.example']) {
      const { csrDer } = await createKeyAndCsr({ commonName: name })
      const refused = await fleet.enroll('id-1', token, csrDer)
      assert.deepEqual([refused.status, codeOf(refused)], [403, 'csr_subject_mismatch'], name)
      assert.ok(refused.body.includes(`${JSON.stringify(name)}; this credential is for CN=id-1`), refused.body)
    }
  })

  test('garbage is answered with one plain sentence, and the token stays unspent', async () => {
    const token = await fleet.token('bad-1')
    const authorization = { Authorization: `Basic ${Buffer.from(`bad-1:${token}`).toString('base64')}` }
    const send = (body: string | Buffer, type = 'application/pkcs10') =>
      fleet.est('simpleenroll', { method: 'POST', headers: { 'Content-Type': type, ...authorization }, body })
    const { csrDer } = await createKeyAndCsr({ commonName: 'bad-1' })
    const broken = Buffer.from(csrDer)
    broken[broken.length - 1]! ^= 1
    const cases: [string | Buffer, string, number, string][] = [
      ['', 'application/pkcs10', 400, 'csr_malformed'],
      ['not base64 at all!', 'application/pkcs10', 400, 'csr_malformed'],
      [csrDer, 'application/pkcs10', 400, 'csr_malformed'],
      [csrDer.subarray(0, 100).toString('base64'), 'application/pkcs10', 400, 'csr_malformed'],
      [Buffer.concat([csrDer, csrDer]).toString('base64'), 'application/pkcs10', 400, 'csr_malformed'],
      [broken.toString('base64'), 'application/pkcs10', 400, 'csr_signature_invalid'],
      [csrDer.toString('base64'), 'application/x-www-form-urlencoded', 415, 'media_type_unsupported'],
      ['A'.repeat(100_000), 'application/pkcs10', 413, 'body_too_large'],
    ]
    for (const [body, type, status, code] of cases) {
      const answer = await send(body, type)
      assert.deepEqual([answer.status, codeOf(answer)], [status, code], answer.body)
      assert.match(answer.body, /^[^\n]+\(request [0-9a-f]{16}, denial [0-9a-f]{12}\)\n$/)
      assert.equal(answer.headers['content-type'], 'text/plain; charset=utf-8')
    }
    assert.equal((await send(csrDer.toString('base64'))).status, 200)
  })

  test('a request body is read as real clients send it: one line, wrapped, CRLF, PEM armour', async () => {
    const { csrDer } = await createKeyAndCsr({ commonName: 'form-1' })
    const base64 = csrDer.toString('base64')
    const wrapped = base64.replaceAll(/.{64}/g, '$&\n')
    const forms = [
      base64,
      `${wrapped}\n`,
      wrapped.replaceAll('\n', '\r\n'),
      `-----BEGIN CERTIFICATE REQUEST-----\n${wrapped}\n-----END CERTIFICATE REQUEST-----\n`,
      `-----BEGIN NEW CERTIFICATE REQUEST-----\n${wrapped}\n-----END NEW CERTIFICATE REQUEST-----\n`,
    ]
    const token = await fleet.token('form-1')
    for (const body of forms) {
      const answer = await fleet.est('simpleenroll', {
        method: 'POST',
        headers: {
          'Content-Type': 'application/pkcs10',
          'Content-Transfer-Encoding': 'binary',
          Authorization: `Basic ${Buffer.from(`form-1:${token}`).toString('base64')}`,
        },
        body,
      })
      assert.equal(answer.status, 200, answer.body)
      // Whoever wraps its own body reads wrapped ones; strongSwan reads one line alone.
      assert.equal(answer.body.trim().includes('\n'), body.trim().includes('\n'))
      assert.ok(answer.body.endsWith('\n'))
    }
  })
})

suite('simplereenroll', () => {
  const clock = movableClock()
  let fleet: EnrollHarness
  before(async () => {
    fleet = await EnrollHarness.start({ clock: clock.now })
  })
  after(() => fleet[Symbol.asyncDispose]())

  test('renews for the same key and re-keys for a new one (RFC 7030 4.2.2)', async () => {
    const device = await fleet.enrolledDevice('cam-1', { groups: ['roof'] })
    const answer = await fleet.reenroll(device, await fleet.renewalCsr(device))
    const renewed = certificateOf(answer)
    assert.notEqual(renewed.serial, device.serial)
    requireWindow(answer.headers, renewed)
    const { privateKeyPem } = await createKeyAndCsr({ commonName: 'unused' })
    const rekeyed = certificateOf(await fleet.reenroll(device, await fleet.renewalCsr(device, privateKeyPem)))
    assert.notEqual(rekeyed.spkiHash, renewed.spkiHash)
    const { body } = await fleet.admin('GET', '/devices/cam-1')
    assert.equal(body.currentSerial, rekeyed.serial)
    assert.deepEqual(body, deviceView.parse(body), 'what the registry keeps beside is its own')
  })

  test('the certificate before a renewal is good until the new one is used, and ends a while after that', async () => {
    // By a clock that was ahead, which makes it no newer.
    clock.advance(240_000)
    const device = await fleet.enrolledDevice('line-1')
    clock.advance(-238_000)
    const { privateKeyPem } = await createKeyAndCsr({ commonName: 'unused' })
    const renewal = await fleet.renewalCsr(device, privateKeyPem)
    const renewed = certificateOf(await fleet.reenroll(device, renewal))
    const other = certificateOf(await fleet.reenroll(device, renewal))
    clock.advance(1_000)
    assert.equal((await fleet.reenroll({ key: privateKeyPem, certificate: renewed.pem }, renewal)).status, 200)
    const late = await fleet.reenroll(device, renewal)
    assert.deepEqual([late.status, codeOf(late)], [403, 'certificate_superseded'])
    // Somebody else has what was renewed beside it: both go on, and a person is told.
    assert.equal((await fleet.reenroll({ key: privateKeyPem, certificate: other.pem }, renewal)).status, 200)
    const alerts = async () => {
      const { items } = (await fleet.admin('GET', '/audit?limit=100')).body
      return items.filter(({ action }: { action: string }) => action === 'alert.raised')
    }
    while ((await alerts()).length === 0);
    const [{ subject, details }] = await alerts()
    assert.deepEqual([subject, details.kind], ['device:line-1', 'clone'])
    assert.deepEqual([details.serial, details.other], [other.serial, renewed.serial])
    const { next } = (await fleet.admin('GET', '/audit?limit=1')).body
    clock.advance(fleet.config.enroll.overlapMs + 1)
    const { items } = (await fleet.admin('GET', `/audit?after=${next}&waitMs=10000`)).body
    assert.deepEqual([items[0].action, items[0].details.certificates], ['certificate.superseded', [device.serial]])
    const refused = await fleet.reenroll(device, renewal)
    assert.deepEqual([refused.status, codeOf(refused)], [403, 'certificate_revoked'])
    clock.advance(-2_001 - fleet.config.enroll.overlapMs) // OpenSSL goes by a clock of its own
  })

  test('refuses a CSR whose subject differs from the client certificate (RFC 7030 4.2.2)', async () => {
    const device = await fleet.enrolledDevice('sensor-42')
    const { csrDer } = await createKeyAndCsr({ commonName: 'sensor-43' })
    const answer = await fleet.reenroll(device, csrDer)
    assert.deepEqual([answer.status, codeOf(answer)], [403, 'subject_changed'])
    // Each of them stands as <U+0001>, in the answer and in the log.
    const long = await createCsr({ privateKeyPem: device.key, commonName: '\u0001'.repeat(4_000) })
    const short = await fleet.reenroll(device, long)
    assert.deepEqual([codeOf(short), short.body.length < 500], ['subject_changed', true])
  })

  test('refuses a CSR with another SAN than the client certificate, and takes the same one (RFC 7030 4.2.2)', async () => {
    const device = await fleet.enrolledDevice('sensor-44')
    const { subject, subjectAltNameDer } = parseCertificate(pemToDer(device.certificate))
    const ask = async (subjectAltName: Buffer) =>
      fleet.reenroll(device, await createCsr({ privateKeyPem: device.key, subject: subject.der, subjectAltName }))
    const refused = await ask(sequence(element(0x86, Buffer.from('urn:fleetgate:device:sensor-45'))))
    assert.deepEqual([refused.status, codeOf(refused)], [403, 'subject_changed'])
    assert.equal((await ask(subjectAltNameDer!)).status, 200)
  })

  test('renewing too often is 429 with Retry-After, and in the audit log', async () => {
    const device = await fleet.enrolledDevice('busy-1')
    const csr = await fleet.renewalCsr(device)
    for (let i = 0; i < 12; i++) assert.equal((await fleet.reenroll(device, csr)).status, 200)
    const refused = await fleet.reenroll(device, csr)
    assert.deepEqual([refused.status, codeOf(refused)], [429, 'too_many_requests'])
    assert.ok(Number(refused.headers['retry-after']) > 3000)
    const { body } = await fleet.admin('GET', '/audit?limit=1')
    assert.deepEqual([body.items[0].outcome, body.items[0].reason], ['refused', 'too_many_requests'])
  })

  test('refuses no certificate, a self-signed one, and one of a foreign authority', async () => {
    const device = await fleet.enrolledDevice()
    const csr = await fleet.renewalCsr(device)
    const none = await fleet.est('simplereenroll', {
      method: 'POST',
      headers: { 'Content-Type': 'application/pkcs10' },
      body: csr.toString('base64'),
    })
    assert.deepEqual([none.status, codeOf(none)], [401, 'certificate_missing'])
    const now = clock.now()
    const stranger = await createSelfSigned({
      commonName: device.id,
      notBefore: new Date(now.getTime() - day),
      notAfter: new Date(now.getTime() + day),
    })
    const selfSigned = await fleet.reenroll({ key: stranger.privateKeyPem, certificate: stranger.certificatePem }, csr)
    assert.deepEqual([selfSigned.status, codeOf(selfSigned)], [401, 'certificate_self_signed'])
    await using foreign = await EnrollHarness.start({ clock: clock.now })
    const twin = await foreign.enrolledDevice(device.id)
    const untrusted = await fleet.reenroll(twin, csr)
    assert.deepEqual([untrusted.status, codeOf(untrusted)], [401, 'certificate_untrusted'])
  })

  test('an operator certificate is no device certificate', async () => {
    const { key, cert } = fleet.operator
    const { csrDer } = await createKeyAndCsr({ commonName: 'operator' })
    const answer = await fleet.reenroll({ key, certificate: cert }, csrDer)
    assert.deepEqual([answer.status, codeOf(answer)], [403, 'certificate_wrong_usage'])
  })

  for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
    test(`a certificate revoked after the handshake is refused on the same connection and on a resumed ${version} session`, async () => {
      const device = await fleet.enrolledDevice()
      const csr = await fleet.renewalCsr(device)
      const agent = new Agent({ keepAlive: true, maxSockets: 1, maxCachedSessions: 10 })
      const tls = { agent, minVersion: version, maxVersion: version }
      assert.equal((await fleet.reenroll(device, csr, tls)).status, 200)
      await fleet.admin('POST', `/devices/${device.id}/revoke`, { reason: 'keyCompromise' })
      const kept = await fleet.reenroll(device, csr, tls)
      assert.deepEqual([kept.status, codeOf(kept)], [403, 'certificate_revoked'])
      agent.destroy()
      const resumed = await fleet.reenroll(device, csr, tls)
      assert.deepEqual([resumed.status, codeOf(resumed)], [403, 'certificate_revoked'])
      agent.destroy()
    })
  }

  test('an expired certificate is refused', async () => {
    const device = await fleet.enrolledDevice()
    const csr = await fleet.renewalCsr(device)
    clock.advance(31 * day)
    const answer = await fleet.reenroll(device, csr)
    clock.advance(-31 * day)
    assert.deepEqual([answer.status, codeOf(answer)], [403, 'certificate_expired'])
  })

  /** What is said of a renewal with this certificate, beside what becomes of one. */
  async function renewalOf(device: DeviceKeys): Promise<{ said: object; done: string }> {
    const { status, body } = await fleet.admin('POST', '/certificates/verify', { pem: device.certificate })
    assert.equal(status, 200, body.detail)
    const answer = await fleet.reenroll(device, await fleet.renewalCsr(device))
    const { isAllowed, code, label, isLate } = body.renewal
    if (!isAllowed) assert.equal(answer.body.indexOf(`${code}: ${body.renewal.message} (request`), 0, answer.body)
    return { said: isAllowed ? { label, isLate } : { code }, done: answer.status === 200 ? 'issued' : codeOf(answer) }
  }

  test('what would become of a renewal is said without one, and is what then becomes of it', async () => {
    const [good, held, revoked] = [
      await fleet.enrolledDevice('verify-1'),
      await fleet.enrolledDevice('verify-2'),
      await fleet.enrolledDevice('verify-3'),
    ]
    await fleet.admin('POST', '/devices/verify-2/disable', {})
    await fleet.admin('POST', '/devices/verify-3/revoke', { reason: 'keyCompromise' })
    const { key, cert } = fleet.operator
    const [notBefore, notAfter] = [new Date(Date.now() - day), new Date(Date.now() + day)]
    const own = await createSelfSigned({ commonName: 'verify-4', notBefore, notAfter })
    const operator = { key, certificate: cert.split(/(?<=END CERTIFICATE-----\n)/)[0]! }
    const stranger = { key: own.privateKeyPem, certificate: own.certificatePem }
    const rows: [DeviceKeys, object, string][] = [
      [good, { label: 'default', isLate: undefined }, 'issued'],
      [held, { code: 'device_held' }, 'device_held'],
      [revoked, { code: 'certificate_revoked' }, 'certificate_revoked'],
      [{ ...good, ...operator }, { code: 'certificate_wrong_usage' }, 'certificate_wrong_usage'],
      [{ ...good, ...stranger }, { code: 'certificate_self_signed' }, 'certificate_self_signed'],
    ]
    for (const [device, said, done] of rows) assert.deepEqual(await renewalOf(device), { said, done })
    const { body } = await fleet.admin('POST', '/certificates/verify', { pem: held.certificate })
    assert.deepEqual(body.renewal.fix.command, ['device', 'enable', 'verify-2'])
    assert.deepEqual([body.brokers, body.unheard], [[], []])
  })

  test('a question about what is no certificate, or about too many, is refused', async () => {
    const { certificate } = await fleet.enrolledDevice('verify-5')
    const garbage = '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n'
    for (const pem of ['', 'x', garbage, certificate + garbage, certificate.repeat(9)]) {
      const { status, body } = await fleet.admin('POST', '/certificates/verify', { pem })
      assert.deepEqual([status, body.code], [400, 'request_malformed'], pem.slice(0, 40))
    }
  })

  suite('a late renewal', () => {
    const late = 31 * day
    const allow = (id: string, ttlMs = day) => fleet.admin('PUT', `/late-renewals/${id}`, { ttlMs })
    const freshKey = async () => (await createKeyAndCsr({ commonName: 'unused' })).privateKeyPem
    const refused = async (answer: Promise<Answer>) => {
      const { status, body } = await answer
      return [status, codeOf({ body }), body.replace(/^[^:]+: | \(request .*\n/g, '')]
    }
    before(() => clock.advance(late))
    after(() => clock.advance(-late))
    /** A device whose certificate has expired. */
    const expired = async (id: string): Promise<DeviceKeys> => {
      clock.advance(-late)
      const device = await fleet.enrolledDevice(id)
      clock.advance(late)
      return device
    }

    test('is said to be refused before it is allowed, and to be late then', async () => {
      const device = await expired('late-0')
      assert.deepEqual(await renewalOf(device), { said: { code: 'certificate_expired' }, done: 'certificate_expired' })
      await allow('late-0')
      assert.deepEqual(await renewalOf(device), { said: { label: 'default', isLate: true }, done: 'issued' })
    })

    test('is allowed once: for one key, which may fetch its lost answer again', async () => {
      const device = await expired('late-1')
      const csr = await fleet.renewalCsr(device)
      assert.equal((await allow('late-1')).body.status, 'unspent')
      const renewed = certificateOf(await fleet.reenroll(device, csr))
      const again = certificateOf(await fleet.reenroll(device, csr))
      assert.equal(again.serial, renewed.serial)
      const [status, code] = await refused(fleet.reenroll(device, await fleet.renewalCsr(device, await freshKey())))
      assert.deepEqual([status, code], [403, 'late_renewal_spent'])
      const { body } = await fleet.admin('GET', '/late-renewals')
      const { status: state, serial, allowedBy } = body.items.at(-1)
      assert.deepEqual([state, serial, allowedBy], ['spent', renewed.serial, 'operator:operator'])
      const entries = (await fleet.admin('GET', '/audit?limit=5')).body.items
      const actions = entries.map(({ action, outcome, details }: Entry) => [action, outcome, details?.via])
      assert.deepEqual(actions.slice(0, 3), [
        ['lateRenewal.allowed', 'done', undefined],
        ['certificate.used', 'done', undefined],
        ['certificate.issued', 'intended', undefined],
      ])
      assert.deepEqual(actions[3], ['certificate.issued', 'done', 'reenroll+late'])
    })

    test('of requests that race with one permission and different keys, exactly one gets a certificate', async () => {
      const device = await expired('late-2')
      await allow('late-2')
      const csrs = await Promise.all(Array.from({ length: 6 }, async () => fleet.renewalCsr(device, await freshKey())))
      const answers = await Promise.all(csrs.map((csr) => fleet.reenroll(device, csr)))
      const codes = answers.map(({ status, body }) => (status === 200 ? 'issued' : codeOf({ body })))
      assert.deepEqual(codes.toSorted(), ['issued', ...Array(5).fill('late_renewal_spent')])
    })

    test('a device that lost the new certificate is allowed again with the old one, until it has used a newer one', async () => {
      const device = await expired('late-3')
      const key = await freshKey()
      await allow('late-3')
      assert.equal((await fleet.reenroll(device, await fleet.renewalCsr(device, await freshKey()))).status, 200)
      clock.advance(1_000)
      await allow('late-3')
      const renewed = certificateOf(await fleet.reenroll(device, await fleet.renewalCsr(device, key)))
      // What was issued 31 days from now is not valid yet for OpenSSL: a broker tells of its first use instead.
      await using feed = await followFeed(fleet, startCursor)
      await feed.see(({ kind }) => kind === 'live')
      const { serial, fingerprint } = renewed
      const peer = { listener: 'mqtts', remoteAddress: '192.0.2.7', deviceId: 'late-3' }
      const report = { type: 'certificate.used' as const, at: clock.now().toISOString(), serial, fingerprint, ...peer }
      feed.send({ kind: 'report', id: '0000-4001', report: report as never })
      await feed.see(({ kind }) => kind === 'noted')
      await allow('late-3')
      const [status, code, sentence] = await refused(fleet.reenroll(device, await fleet.renewalCsr(device)))
      assert.deepEqual([status, code], [403, 'certificate_expired'])
      assert.match(String(sentence), /the device has used a newer one since/)
    })

    test('is over with its time, with its withdrawal, and with a revocation', async () => {
      const device = await expired('late-4')
      const csr = await fleet.renewalCsr(device)
      await allow('late-4', 60_000)
      clock.advance(60_000)
      const [status, code, sentence] = await refused(fleet.reenroll(device, csr))
      assert.deepEqual([status, code], [403, 'certificate_expired'])
      assert.match(String(sentence), /the permission to renew it late ran out at/)
      await allow('late-4')
      assert.equal((await fleet.admin('DELETE', '/late-renewals/late-4')).status, 200)
      assert.deepEqual((await refused(fleet.reenroll(device, csr))).slice(0, 2), [403, 'certificate_expired'])
      const gone = await fleet.admin('DELETE', '/late-renewals/late-4')
      assert.deepEqual([gone.status, gone.body.code], [404, 'late_renewal_unknown'])
      await allow('late-4')
      await fleet.admin('POST', '/devices/late-4/revoke', { reason: 'keyCompromise' })
      assert.deepEqual((await refused(fleet.reenroll(device, csr))).slice(0, 2), [403, 'certificate_revoked'])
      const left = (await fleet.admin('GET', '/late-renewals')).body.items
      assert.ok(!left.some(({ deviceId }: { deviceId: string }) => deviceId === 'late-4'))
      await fleet.token('late-7')
      await fleet.admin('POST', '/devices/late-7/disable', {})
      const never = [await allow('late-4'), await allow('late-7'), await allow('nobody')]
      assert.deepEqual(
        never.map(({ body }) => body.code),
        ['device_revoked', 'device_held', 'device_unknown'],
      )
    })

    test('is for simplereenroll alone, and for the device that it names', async () => {
      const device = await expired('late-5')
      await expired('late-6')
      await allow('late-6')
      const csr = await fleet.renewalCsr(device)
      assert.equal(codeOf(await fleet.reenroll(device, csr)), 'certificate_expired')
      await allow('late-5')
      const keygen = await fleet.est('serverkeygen', {
        method: 'POST',
        headers: { 'Content-Type': 'application/pkcs10' },
        body: csr.toString('base64'),
        key: device.key,
        cert: device.certificate,
      })
      assert.equal(codeOf(keygen), 'certificate_expired')
      assert.equal((await fleet.reenroll(device, csr)).status, 200)
    })
  })

  test('certificates that are good and expire soon are listed, and no others', async () => {
    const names = new Map<string, string>()
    for (const id of ['soon-1', 'soon-2', 'soon-3']) names.set((await fleet.enrolledDevice(id)).serial, id)
    await fleet.admin('POST', '/devices/soon-3/revoke', { reason: 'superseded' })
    const soon = async (after: number, days: number): Promise<string[]> => {
      clock.advance(after * day)
      const { body } = await fleet.admin('GET', `/certificates?expiresInMs=${days * day}&limit=1000`)
      clock.advance(-after * day)
      return body.items.flatMap(({ serial }: { serial: string }) => names.get(serial) ?? []).sort()
    }
    assert.deepEqual(await soon(25, 4), [])
    assert.deepEqual(await soon(25, 6), ['soon-1', 'soon-2'])
    assert.deepEqual(await soon(31, 6), [])
  })

  test('a certificate that is not valid yet is refused', async () => {
    const device = await fleet.enrolledDevice()
    const csr = await fleet.renewalCsr(device)
    clock.advance(-day)
    const answer = await fleet.reenroll(device, csr)
    clock.advance(day)
    assert.deepEqual([answer.status, codeOf(answer)], [403, 'certificate_not_yet_valid'])
  })
})
