import assert from 'node:assert/strict'
import { after, before, suite, test } from 'node:test'
import { gzipSync } from 'node:zlib'
import { createEst } from '../../../enroll/est/routes.ts'
import { EnrollmentDenials } from '../../../enroll/ra/enrollment-denials.ts'
import { Profiles } from '../../../enroll/ra/profiles.ts'
import { RegistrationAuthority } from '../../../enroll/ra/registration-authority.ts'
import type { Registry } from '../../../enroll/registry/registry.ts'
import type { TokenRecord } from '../../../enroll/registry/tokens.ts'
import { parseCertificate } from '../../../pki/certificate.ts'
import { parseCertsOnly } from '../../../pki/cms.ts'
import { createKeyAndCsr } from '../../../pki/x509.ts'
import { FleetError } from '../../../runtime/errors.ts'
import { TestLog } from '../../harness/broker.ts'
import { basic, codeOf, EnrollHarness, movableClock, pemToDer, testConfiguration } from '../../harness/fleet.ts'
import { RawEst } from '../../harness/raw-est.ts'

suite('the table of EST operations (RFC 7030 3.2.2)', () => {
  const clock = movableClock()
  let fleet: EnrollHarness
  before(async () => {
    fleet = await EnrollHarness.start({
      clock: clock.now,
      config: testConfiguration({ enroll: { attemptsPerMinute: 5 } }),
    })
  })
  after(() => fleet[Symbol.asyncDispose]())

  test('cacerts needs no credential and holds issuing CA and root (RFC 7030 4.1)', async () => {
    const answer = await fleet.est('cacerts')
    assert.equal(answer.status, 200)
    assert.equal(answer.headers['content-type'], 'application/pkcs7-mime')
    const [issuing, root] = parseCertsOnly(Buffer.from(answer.body, 'base64')).map(parseCertificate)
    assert.deepEqual([issuing!.isCa, root!.isCa], [true, true])
    assert.equal(root!.fingerprint, fleet.endpoints.rootFingerprint)
    assert.deepEqual(root!.der, pemToDer(fleet.root))
  })

  test('cacerts comes on one line, and wrapped at 64 for libest', async () => {
    const plain = await fleet.est('cacerts')
    assert.equal(plain.body.trim().includes('\n'), false)
    const libest = await fleet.est('cacerts', { headers: { 'User-Agent': 'libest 3.2.0p' } })
    assert.ok(libest.body.split('\n').every((line) => line.length <= 64))
    assert.equal(libest.body.replaceAll('\n', ''), plain.body.trim())
  })

  test('there is no content negotiation: an Accept that knows nothing of EST changes nothing', async () => {
    const answer = await fleet.est('cacerts', { headers: { Accept: 'application/x-nothing;q=0' } })
    assert.deepEqual([answer.status, answer.headers['content-type']], [200, 'application/pkcs7-mime'])
  })

  test('answers stay within what small clients can read: few headers, short block', async () => {
    const { headers } = await fleet.est('cacerts')
    const block = Object.entries(headers)
      .map(([name, value]) => `${name}: ${value}\r\n`)
      .join('')
    assert.ok(Object.keys(headers).length <= 15 && block.length <= 1000)
  })

  test('another method is 405 with Allow, another path 404', async () => {
    const posted = await fleet.est('cacerts', { method: 'POST' })
    assert.deepEqual([posted.status, posted.headers.allow, codeOf(posted)], [405, 'GET', 'method_not_allowed'])
    for (const path of ['nothing', '__proto__', 'constructor', '', 'cacerts/x']) {
      clock.advance(60_001)
      const missing = await fleet.est(path)
      assert.deepEqual([missing.status, codeOf(missing)], [404, 'not_found'], path)
    }
    const outside = await fleet.ask(`${fleet.endpoints.est}/`)
    assert.deepEqual([outside.status, codeOf(outside)], [404, 'not_found'])
  })

  test('a refusal before any credential is looked at is in the audit log too, and counted', async () => {
    clock.advance(60_001)
    const asked: [string, string, string][] = [
      ['GET', 'simpleenroll', 'method_not_allowed'],
      ['POST', 'simpleenroll', 'media_type_unsupported'],
      ['GET', 'nothing', 'not_found'],
    ]
    for (const [method, path, code] of asked) {
      const answer = await fleet.est(path, { method, headers: { Authorization: 'Bearer x' } })
      assert.equal(codeOf(answer), code)
      const { body } = await fleet.admin('GET', '/audit?limit=1')
      const [entry] = body.items
      assert.deepEqual([entry.outcome, entry.reason, entry.subject], ['refused', code, `/.well-known/est/${path}`])
      assert.ok(answer.body.includes(entry.requestId))
    }
    for (let i = 0; i < 2; i++) await fleet.est('nothing')
    assert.equal((await fleet.est('nothing')).status, 429)
    clock.advance(60_001)
  })

  test('a body with a content coding is refused before anything of it is looked at, and told what is wanted', async () => {
    clock.advance(60_001)
    const send = (coding: string) =>
      fleet.est('simpleenroll', {
        method: 'POST',
        headers: { 'Content-Type': 'application/pkcs10', 'Content-Encoding': coding, Authorization: 'Bearer x' },
        body: gzipSync('AAAA'),
      })
    const refused = await send('gzip')
    assert.deepEqual([refused.status, codeOf(refused)], [415, 'media_type_unsupported'])
    assert.equal(refused.headers['accept-encoding'], 'identity')
    assert.match(refused.body, /the body has the content coding gzip; send it as it is, without Content-Encoding/)
    const { body } = await fleet.admin('GET', '/audit?limit=1')
    assert.deepEqual([body.items[0].outcome, body.items[0].reason], ['refused', 'media_type_unsupported'])
    for (const coding of ['identity', 'base64']) assert.equal(codeOf(await send(coding)), 'unauthenticated', coding)
    clock.advance(60_001)
  })

  test('what is no request at all is refused with a sentence and a request id, and is in the audit log', async () => {
    await using raw = await RawEst.open(fleet)
    assert.equal(await raw.exchange(Buffer.from('nonsense\r\n\r\n'), 10_000), '400 Bad Request')
    const { body } = await fleet.admin('GET', '/audit?limit=1')
    const [{ action, reason, subject, remoteAddress, requestId, details }] = body.items
    assert.deepEqual([action, reason, subject], ['enrollment.refused', 'request_malformed', 'unread'])
    assert.equal(remoteAddress, '127.0.0.1')
    const { heard } = raw
    assert.ok(heard.includes(`request_malformed: ${details.sentence} (request ${requestId}, denial ${details.denial})`))
    const denial = await fleet.admin('GET', `/denials/${details.denial}`)
    assert.deepEqual([denial.status, denial.body.cause], [200, 'request_malformed'])
    clock.advance(60_001)
  })

  test('refusals are in the audit log, and too many of one caller are answered 429 with Retry-After', async () => {
    const { csrDer } = await createKeyAndCsr({ commonName: 'storm-1' })
    const wrong = () => fleet.enroll('storm-1', 'B'.repeat(43), csrDer)
    for (let i = 0; i < 5; i++) assert.equal((await wrong()).status, 401)
    const slowed = await wrong()
    assert.deepEqual([slowed.status, codeOf(slowed)], [429, 'too_many_requests'])
    assert.ok(Number(slowed.headers['retry-after']) > 0 && Number(slowed.headers['retry-after']) <= 60)
    const { body } = await fleet.admin('GET', '/audit?limit=100')
    const refusals = body.items.filter((entry: { action: string; reason: string }) => entry.reason === 'token_invalid')
    assert.equal(refusals.length, 5)
    // Who only says that it is a device is not taken for it.
    assert.deepEqual([refusals[0].actor, refusals[0].details.claimed], ['unknown', 'device:storm-1'])
    // A good credential is not held up, whoever else failed at the same address.
    assert.ok(await fleet.enrolledDevice('calm-1'))
    assert.ok(await fleet.enrolledDevice('storm-1'))
    clock.advance(60_001)
    assert.equal((await wrong()).status, 401)
  })

  test('who waits with the body hears of a credential that counts for nothing before it has sent it', async () => {
    for (const operation of ['simpleenroll', 'simplereenroll', 'fullcmc']) {
      await using raw = await RawEst.open(fleet)
      const head = [
        `POST /.well-known/est/${operation} HTTP/1.1`,
        'Host: h',
        `Authorization: ${basic('cam-1', 'wrong')}`,
        `Content-Type: application/${operation === 'fullcmc' ? 'pkcs7-mime; smime-type=CMC-request' : 'pkcs10'}`,
        'Expect: 100-continue',
        'Content-Length: 2000',
      ]
      const answer = await raw.exchange(Buffer.from(`${head.join('\r\n')}\r\n\r\n`), 10_000)
      // The body never comes: an answer that waited for it would be another.
      assert.equal(answer, '401 Unauthorized', operation)
      assert.match(raw.heard, /\r\nWWW-Authenticate: Basic /)
      clock.advance(60_001)
    }
    const id = 'expects-1'
    const { csrDer } = await createKeyAndCsr({ commonName: id })
    const headers = {
      'Content-Type': 'application/pkcs10',
      Authorization: basic(id, await fleet.token(id)),
      Expect: '100-continue',
    }
    const body = csrDer.toString('base64')
    assert.equal((await fleet.est('simpleenroll', { method: 'POST', headers, body })).status, 200)
  })
})

test('a wrong token costs the look-ups that an unknown device costs, and is looked at no more once it was refused too often', async () => {
  const config = testConfiguration()
  const looked: string[] = []
  const registry = {
    find: async (kind: string) => {
      looked.push(kind)
      return looked.length % 2 === 1 ? undefined : { doc: { deviceId: 'cam-1' }, rev: 1 }
    },
    commit: async () => undefined,
  }
  const log = { warn: () => undefined }
  const denials = { note: () => 'd1', writes: () => [] }
  const clock = movableClock()
  const est = createEst({
    meters: { answered: () => {}, took: () => {} },
    registry,
    log,
    denials,
    profiles: new Profiles(config),
    clock: clock.now,
    attemptsPerMinute: 2,
  } as never)
  const ask = async (id: string, token: string) => {
    const request = {
      id: '01',
      method: 'POST',
      path: '/.well-known/est/simpleenroll',
      headers: { 'content-type': 'application/pkcs10', authorization: basic(id, token) },
      body: Buffer.from('AAAA'),
      remoteAddress: '192.0.2.1',
      certificate: undefined,
      certificateFault: undefined,
      certificateKey: () => undefined,
      channelBinding: () => undefined,
    }
    return est.handle(request).catch((error) => est.fail(error, request))
  }
  const before = (count: number) => looked.splice(0, count)
  assert.equal((await ask('ghost', 'x')).status, 401)
  const unknown = before(9)
  looked.push('') // the next look-up finds a token, of another device
  assert.equal((await ask('cam-2', 'y')).status, 401)
  assert.deepEqual(before(9).slice(1), unknown)
  assert.deepEqual(unknown, ['token'])
  assert.equal((await ask('ghost', 'x')).status, 401)
  before(9)
  const locked = await ask('ghost', 'x')
  assert.deepEqual([locked.status, locked.headers!['Retry-After'], looked.length], [429, '60', 0])
  assert.equal((await ask('ghost', 'another')).status, 429, 'it was looked at, and refused as one too many')
  assert.equal(looked.length, 1)
  clock.advance(60_001)
  assert.equal((await ask('ghost', 'x')).status, 401)
})

test('the addresses of one /64 are one peer to the log and to the denials that are kept', async () => {
  let lines = 0
  const noRecords = { list: async () => ({ items: [] }), commit: async () => undefined } as unknown as Registry
  let made = 0
  const denials = await EnrollmentDenials.open(noRecords, () => String(++made).padStart(12, '0'))
  const est = createEst({
    meters: { answered: () => {}, took: () => {} },
    registry: noRecords,
    log: { warn: () => lines++ },
    denials,
    profiles: new Profiles(testConfiguration()),
    clock: movableClock().now,
    attemptsPerMinute: 30,
  } as never)
  for (let host = 1; host <= 60; host++) {
    const request = {
      id: '01',
      method: 'GET',
      path: `/nothing/${host}`,
      headers: {},
      remoteAddress: `2001:db8::${host.toString(16)}`,
      certificate: undefined,
      certificateFault: undefined,
      certificateKey: () => undefined,
      channelBinding: () => undefined,
    }
    await est.fail(new FleetError('not_found', 'nothing'), request)
  }
  assert.equal(lines, 20)
  const kept = denials.list({ limit: 200 })
  assert.ok(kept.length <= 33, `${kept.length} are kept`)
})

test('a decision that waits for somebody is 202 with Retry-After in whole seconds (RFC 7030 4.2.3)', async () => {
  const config = testConfiguration()
  const ra = new (class extends RegistrationAuthority {
    override decide = async () => ({ decision: 'pending' as const, retryAfterMs: 30_001 })
  })(undefined as never, new Profiles(config), undefined as never)
  const token: TokenRecord = {
    digest: '',
    deviceId: 'cam-1',
    profile: 'camera',
    createdAt: '',
    expiresAt: '',
    status: 'unspent',
  }
  const registry = { find: async (kind: string) => (kind === 'token' ? { doc: token, rev: 1 } : undefined) }
  const est = createEst({
    meters: { answered: () => {}, took: () => {} },
    registry,
    ra,
    profiles: new Profiles(config),
    clock: () => new Date(),
    attemptsPerMinute: 1,
  } as never)
  const { csrDer } = await createKeyAndCsr({ commonName: 'cam-1' })
  const answer = await est.handle({
    id: '01',
    method: 'POST',
    path: '/.well-known/est/simpleenroll',
    headers: { 'content-type': 'application/pkcs10', authorization: basic('cam-1', 'x') },
    body: Buffer.from(csrDer.toString('base64')),
    remoteAddress: '127.0.0.1',
    certificate: undefined,
    certificateFault: undefined,
    certificateKey: () => undefined,
    channelBinding: () => undefined,
  })
  assert.deepEqual([answer.status, answer.headers!['Retry-After']], [202, '31'])
  assert.match(String(answer.body), /waits for approval.*\(request 01\)/)
})

test('a failure of ours has an id like a refusal has, says no more than that, and is not in the audit log', async () => {
  const config = testConfiguration()
  const denials = await EnrollmentDenials.open({ list: async () => ({ items: [] }) } as never, () => '00000000000a')
  const testLog = new TestLog()
  const est = createEst({
    meters: { answered: () => {}, took: () => {} },
    denials,
    profiles: new Profiles(config),
    clock: () => new Date(),
    log: testLog.log,
    attemptsPerMinute: 1,
  } as never)
  const request = {
    id: '01',
    method: 'GET',
    path: '/.well-known/est/cacerts',
    headers: {},
    remoteAddress: '192.0.2.7',
    certificate: undefined,
    certificateFault: undefined,
    certificateKey: () => undefined,
    channelBinding: () => undefined,
  }
  for (const [error, status, cause] of [
    [new Error('/secret/path'), 500, 'internal'],
    [new FleetError('key_unavailable', 'the key of the CA cannot be read'), 503, 'key_unavailable'],
  ] as const) {
    const answer = await est.fail(error, request)
    assert.equal(answer.status, status)
    assert.match(String(answer.body), new RegExp(`^${cause}: .*request 01, denial 00000000000a`))
    assert.doesNotMatch(JSON.stringify([answer.body, denials.list({ limit: 9 })]), /secret/)
    assert.equal((await testLog.until('request.failed', { reason: cause })).denial, '00000000000a')
    assert.equal(denials.list({ limit: 1 })[0]?.fix?.command?.[0], 'status')
    for (let more = 0; more < 60; more++) await est.fail(error, request)
    assert.equal(testLog.lines.filter(({ reason }) => reason === cause).length, 20, 'a storm is told in summary')
  }
})
