/** The way of a denial: from where it was made to the admin API, and what enroll believes of a broker. */
import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { after, before, test } from 'node:test'
import { connect as connectTls } from 'node:tls'
import type { Denial } from '../../contract/denials.ts'
import { startCursor } from '../../contract/feed.ts'
import { createKeyAndCsr } from '../../pki/x509.ts'
import { EnrollHarness, testConfiguration } from '../harness/fleet.ts'
import { type Follower, followFeed } from '../harness/follower.ts'

let fleet: EnrollHarness
before(async () => {
  fleet = await EnrollHarness.start({ config: testConfiguration({ enroll: { metrics: '127.0.0.1:0' } }) })
})
after(() => fleet[Symbol.asyncDispose]())

const idIn = (body: string): string => /denial ([0-9a-f]{12})/.exec(body)![1]!

async function refusedId(deviceId: string): Promise<string> {
  const { csrDer } = await createKeyAndCsr({ commonName: deviceId })
  return idIn((await fleet.enroll(deviceId, 'fgt_wrong', csrDer)).body)
}

async function broker(answers: boolean): Promise<Follower> {
  const follower = await followFeed(fleet, undefined)
  follower.send({ kind: 'hello', protocol: 1, broker: 'broker-1', cursor: startCursor, answers })
  await follower.see(({ kind }) => kind === 'live')
  return follower
}

const denial = (id: string, more: Partial<Denial> = {}): Denial => ({
  id,
  stage: 'publish',
  cause: 'publish_denied',
  message: 'no',
  count: 1,
  firstAt: '2026-01-01T00:00:00.000Z',
  lastAt: '2026-01-01T00:00:00.000Z',
  by: 'somebody else',
  variables: {},
  ...more,
})

/** Answers the next question with `denials`. */
async function answering(follower: Follower, denials: unknown[], at = 1): Promise<void> {
  await follower.see((message) => message.kind === 'ask' && message.id === at)
  follower.send({ kind: 'answer', id: at, denials: denials as Denial[] })
}

test('an enrollment that is refused names a denial, which has cause and fix, also after a restart', async () => {
  await fleet.token('cam-1')
  const id = await refusedId('cam-1')
  assert.equal(await refusedId('cam-1'), id)
  const { status, body } = await fleet.admin('GET', `/denials/${id}`)
  assert.deepEqual([status, body.stage, body.cause, body.by], [200, 'enrollment', 'token_invalid', 'enroll'])
  assert.deepEqual(body.fix.command, ['token', 'create', '--device', 'cam-1'])
  await fleet.close()
  await fleet.open()
  const kept = await fleet.admin('GET', `/denials/${id}`)
  assert.deepEqual([kept.status, kept.body.cause], [200, 'token_invalid'])
  const { body: audit } = await fleet.admin('GET', '/audit?limit=50')
  assert.ok(audit.items.some(({ details }: { details?: { denial?: string } }) => details?.denial === id))
})

test('what a broker answers is passed on under its own name, and what has another form is left out', async () => {
  await using follower = await broker(true)
  const asking = fleet.admin('GET', '/denials?deviceId=cam-9')
  await answering(follower, [denial('00000000000a'), { ...denial('00000000000b'), stage: 'elsewhere' }, null, 7])
  const { body } = await asking
  assert.deepEqual([body.unheard, body.items.length], [[], 1])
  assert.deepEqual([body.items[0].id, body.items[0].by], ['00000000000a', 'broker-1'])
  const asked = follower.messages.find(({ kind }) => kind === 'ask')
  assert.deepEqual(asked, { kind: 'ask', id: 1, denials: { deviceId: 'cam-9', limit: 50 } })
  const one = fleet.admin('GET', '/denials/00000000000c')
  await answering(follower, [denial('00000000000c')], 2)
  assert.equal((await one).body.id, '00000000000c')
})

test('a broker that knows no question is not asked, and named; an id that nobody has is not found', async () => {
  await using follower = await broker(false)
  const { body } = await fleet.admin('GET', '/denials')
  assert.deepEqual(body.unheard, ['broker-1'])
  assert.equal(
    follower.messages.some(({ kind }) => kind === 'ask'),
    false,
  )
  const missing = await fleet.admin('GET', '/denials/ffffffffffff')
  assert.deepEqual([missing.status, missing.body.code], [404, 'denial_unknown'])
  assert.match(missing.body.detail, /broker-1 cannot be asked now/)
  assert.equal((await fleet.admin('GET', '/denials/nonsense')).body.code, 'request_malformed')
})

test('a broker that goes away in the middle of a question is one that did not answer', async () => {
  const follower = await broker(true)
  const asking = fleet.admin('GET', '/denials')
  await follower.see(({ kind }) => kind === 'ask')
  await follower[Symbol.asyncDispose]()
  assert.deepEqual((await asking).body.unheard, ['broker-1'])
})

test('a peer that never comes to a request is kept in a room of its own, and pushes nobody out of the other', async () => {
  const id = await refusedId('cam-3')
  const { port } = new URL(fleet.endpoints.est)
  const plain = connect(Number(port), '127.0.0.1')
  plain.on('error', () => {})
  plain.end('GET / HTTP/1.1\r\n\r\n')
  await new Promise((resolve) => plain.once('close', resolve))
  const bad = connectTls({ port: Number(port), host: '127.0.0.1', ca: fleet.root })
  bad.end('nonsense\r\n\r\n')
  bad.resume()
  await new Promise((resolve) => bad.once('close', resolve))
  const { body } = await fleet.admin('GET', '/denials?limit=3')
  const causes = body.items.map(({ cause, path }: Denial) => [cause, path])
  assert.deepEqual(causes.slice(0, 2), [
    ['request_malformed', undefined],
    ['handshake_failed', undefined],
  ])
  assert.equal(body.items[2].id, id)
  const { body: found } = await fleet.admin('GET', `/denials/${body.items[1].id}`)
  assert.deepEqual([found.stage, found.fix.kind], ['enrollment', 'device'])
})

type Row = { name: string; cause: string; fix: RegExp; id: string; fail(id: string): Promise<string> }
const enrollWith = async (id: string, token: string, commonName = id): Promise<string> => {
  const { csrDer } = await createKeyAndCsr({ commonName })
  return (await fleet.enroll(id, token, csrDer)).body
}
const rows: Row[] = [
  {
    name: 'no such token',
    id: 'f-1',
    cause: 'token_invalid',
    fix: /^token create --device f-1$/,
    fail: (id) => enrollWith(id, 'fgt_x'),
  },
  {
    name: 'no credential',
    id: 'f-2',
    cause: 'unauthenticated',
    fix: /^token create --device/,
    fail: async () =>
      (await fleet.est('simpleenroll', { method: 'POST', headers: { 'Content-Type': 'application/pkcs10' } })).body,
  },
  {
    name: 'a token that was used for another key',
    id: 'f-3',
    cause: 'token_spent',
    fix: /^token create --device f-3$/,
    fail: async (id) => {
      const token = await fleet.token(id)
      await enrollWith(id, token)
      return enrollWith(id, token)
    },
  },
  {
    name: 'the token of a device with the name of another in the request',
    id: 'f-4',
    cause: 'csr_subject_mismatch',
    fix: /CN=f-4/,
    fail: async (id) => enrollWith(id, await fleet.token(id), 'f-5'),
  },
  {
    name: 'a device that was revoked',
    id: 'f-6',
    cause: 'certificate_revoked',
    fix: /^device readmit f-6$/,
    fail: async (id) => {
      const { key, certificate } = await fleet.enrolledDevice(id)
      await fleet.admin('POST', `/devices/${id}/revoke`, { reason: 'keyCompromise' })
      const { csrDer } = await createKeyAndCsr({ commonName: id })
      return (await fleet.reenroll({ key, certificate }, csrDer)).body
    },
  },
  {
    name: 'a token from before the device was revoked',
    id: 'f-7',
    cause: 'device_revoked',
    fix: /^device readmit f-7$/,
    fail: async (id) => {
      const token = await fleet.token(id)
      await fleet.admin('POST', `/devices/${id}/revoke`, { reason: 'keyCompromise' })
      return enrollWith(id, token)
    },
  },
]
for (const { name, cause, fix, id, fail } of rows) {
  test(`${cause}: ${name}; the fix applied, it enrolls`, async () => {
    const { body } = await fleet.admin('GET', `/denials/${idIn(await fail(id))}`)
    assert.equal(body.cause, cause)
    assert.match(body.fix.command?.join(' ') ?? body.fix.text, fix)
    // Who looks for the device finds what was refused to whoever called itself that, too.
    const { items } = (await fleet.admin('GET', `/denials?deviceId=${body.deviceId ?? body.claimedId ?? id}`)).body
    const isNamed = (body.deviceId ?? body.claimedId) !== undefined
    assert.equal(
      items.some((one: Denial) => one.id === body.id),
      isNamed,
    )
    if (body.fix.command?.[1] === 'readmit') {
      assert.equal((await fleet.admin('POST', `/devices/${id}/readmit`)).status, 200)
    }
    assert.doesNotMatch(await enrollWith(id, await fleet.token(id)), /denial/)
  })
}

test('requests, refusals and what the registry holds are metrics, by codes alone; a service that can issue is ready', async () => {
  await using follower = await broker(true)
  const text = (await (await fetch(`${fleet.probes}/metrics`)).text()).split('\n')
  const numberOf = (series: string): number =>
    Number(
      text
        .find((line) => line.startsWith(`${series} `))
        ?.split(' ')
        .at(-1),
    )
  assert.ok(numberOf('fleetgate_enroll_requests_total{operation="simpleenroll",outcome="token_invalid"}') >= 1)
  assert.ok(numberOf('fleetgate_enroll_requests_total{operation="simpleenroll",outcome="ok"}') >= rows.length)
  assert.ok(numberOf('fleetgate_enroll_refusals_total{cause="handshake_failed"}') >= 1)
  assert.ok(numberOf('fleetgate_enroll_request_duration_seconds_count{operation="simpleenroll"}') > rows.length)
  assert.ok(numberOf('fleetgate_enroll_devices{status="active"}') >= rows.length)
  assert.ok(numberOf('fleetgate_enroll_tokens') >= rows.length)
  assert.equal(numberOf('fleetgate_enroll_certificates_expiring{days="1"}'), 0)
  assert.ok(numberOf('fleetgate_enroll_certificates_expiring{days="30"}') >= rows.length)
  assert.equal(numberOf('fleetgate_enroll_feed_broker_connected{broker="broker-1"}'), 1)
  assert.ok(numberOf('fleetgate_enroll_feed_broker_lag_events{broker="broker-1"}') > 0)
  assert.equal(numberOf('fleetgate_enroll_ready{part="certificate"}'), 1)
  assert.equal(numberOf('fleetgate_enroll_expiry_notices_total{days="7"}'), 0)
  assert.equal(numberOf('fleetgate_enroll_ready{part="store"}'), 1)
  assert.ok(!text.some((line) => /f-1|cam-|127\.0\.0\.1/.test(line)), 'no device, no address')
  const ready = await fetch(`${fleet.probes}/readyz`)
  assert.deepEqual([ready.status, await ready.text()], [200, 'certificate: ok\nstore: ok\n'])
  await follower[Symbol.asyncDispose]()
})
