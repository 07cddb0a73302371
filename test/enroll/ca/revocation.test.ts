import assert from 'node:assert/strict'
import { Agent } from 'node:https'
import { after, before, suite, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import type { AuditView } from '../../../contract/audit-api.ts'
import type { SessionCut } from '../../../contract/broker-reports.ts'
import { decodeBody, startCursor } from '../../../contract/feed.ts'
import { createCsr, createKeyAndCsr } from '../../../pki/x509.ts'
import { certificateOf, codeOf, EnrollHarness, testConfiguration } from '../../harness/fleet.ts'
import { followFeed } from '../../harness/follower.ts'

const pkcs10 = { 'Content-Type': 'application/pkcs10' }
type AuditEntryView = {
  action: string
  subject: string
  reason: string
  details: { where: string }
  remoteAddress: string
}

type Ended = { clientId: string; closedMs: number; sinceCommitMs?: number }

suite('revoking a device', () => {
  let fleet: EnrollHarness
  before(async () => {
    fleet = await EnrollHarness.start({ config: testConfiguration({ enroll: { renewalsPerHour: 10_000 } }) })
  })
  after(() => fleet[Symbol.asyncDispose]())

  test('revokes all its certificates, voids its tokens, and refuses new ones; a second call answers the same', async () => {
    const device = await fleet.enrolledDevice('cam-1')
    const renewed = certificateOf(await fleet.reenroll(device, await fleet.renewalCsr(device)))
    const spare = await fleet.token('cam-1')
    const first = await fleet.admin('POST', '/devices/cam-1/revoke', { reason: 'keyCompromise' })
    assert.equal(first.status, 200)
    assert.deepEqual(new Set(first.body.certificates), new Set([device.serial, renewed.serial]))
    assert.deepEqual([first.body.tokensVoided, first.body.alreadyRevoked], [1, false])
    const again = await fleet.admin('POST', '/devices/cam-1/revoke', { reason: 'superseded' })
    assert.deepEqual(
      [again.body.alreadyRevoked, again.body.reason, again.body.revokedAt],
      [true, 'keyCompromise', first.body.revokedAt],
    )

    const { csrDer } = await createKeyAndCsr({ commonName: 'cam-1' })
    const refused = await fleet.enroll('cam-1', spare, csrDer)
    assert.deepEqual([refused.status, refused.body.split(':', 1)[0]], [403, 'device_revoked'])
    const noToken = await fleet.admin('POST', '/tokens', { deviceId: 'cam-1' })
    assert.deepEqual([noToken.status, noToken.body.code], [403, 'device_revoked'])
    const shown = await fleet.admin('GET', '/devices/cam-1')
    assert.deepEqual([shown.body.status, shown.body.revocationReason], ['revoked', 'keyCompromise'])
  })

  test('the feed tells of the device and of each certificate', async () => {
    const device = await fleet.enrolledDevice('cam-2')
    const { body } = await fleet.admin('POST', '/devices/cam-2/revoke', { reason: 'cessationOfOperation' })
    await using feed = await followFeed(fleet, startCursor)
    const facts = (await feed.until(body.feedSeq)).map(decodeBody)
    const about = facts.filter(({ data }) => JSON.stringify(data).includes('cam-2')).map(({ type }) => type)
    assert.deepEqual(about, ['device.changed', 'certificate.issued', 'device.changed', 'certificate.revoked'])
    const last = facts.at(-1)!
    assert.ok(
      last.type === 'certificate.revoked' &&
        last.data.serial === device.serial &&
        last.data.reason === 'cessationOfOperation',
    )
  })

  test('a reason outside RFC 5280 and an unknown device are refused', async () => {
    await fleet.enrolledDevice('cam-3')
    const reason = await fleet.admin('POST', '/devices/cam-3/revoke', { reason: 'stolen' })
    assert.deepEqual([reason.status, reason.body.code], [400, 'request_malformed'])
    assert.match(reason.body.detail, /reason/)
    const unknown = await fleet.admin('POST', '/devices/ghost/revoke', { reason: 'keyCompromise' })
    assert.deepEqual([unknown.status, unknown.body.code], [404, 'device_unknown'])
  })

  test('a stolen device loses all it had, and comes back only as recovered and with another key', async () => {
    const first = await fleet.enrolledDevice('stolen-1')
    await fleet.admin('POST', '/devices/stolen-1/revoke', { reason: 'superseded' })
    await fleet.admin('POST', '/devices/stolen-1/readmit')
    const device = await fleet.enrolledDevice('stolen-1')
    const unspent = await fleet.token('stolen-1')
    const stolen = await fleet.admin('POST', '/devices/stolen-1/stolen')
    assert.equal(stolen.status, 200)
    const { body } = stolen
    assert.deepEqual(new Set(body.certificates), new Set([first.serial, device.serial]), 'a former one too')
    assert.deepEqual(
      [body.reason, body.alreadyRevoked, body.alreadyStolen, body.tokensVoided, body.keysWatched],
      ['keyCompromise', false, false, 1, 2],
    )
    const former = (await fleet.admin('GET', `/certificates/${first.serial}`)).body
    assert.equal(former.revocationReason, 'keyCompromise')
    assert.ok(former.revokedAt < body.revokedAt, 'its time is that of its first revocation')
    const again = (await fleet.admin('POST', '/devices/stolen-1/stolen')).body
    assert.deepEqual(
      [again.alreadyStolen, again.stolenAt, again.incident, again.keysWatched],
      [true, body.stolenAt, body.incident, 0],
    )

    await using feed = await followFeed(fleet, startCursor)
    const facts = (await feed.until(body.feedSeq)).map(decodeBody)
    const [changed, ...revoked] = facts.slice(-3)
    assert.partialDeepStrictEqual(changed, { type: 'device.changed', data: { status: 'revoked', stolen: true } })
    assert.equal(new Set(revoked.map(({ data }) => 'watchedKey' in data && data.watchedKey)).size, 2)

    const { csrDer } = await createKeyAndCsr({ commonName: 'stolen-1' })
    assert.equal(codeOf(await fleet.enroll('stolen-1', unspent, csrDer)), 'device_revoked')
    for (const [verb, sentence] of [
      ['enable', /was revoked/],
      ['readmit', /reported stolen at 20.*--stolen-recovered/],
    ] as const) {
      const refused = await fleet.admin('POST', `/devices/stolen-1/${verb}`)
      assert.deepEqual([refused.status, refused.body.code], [409, 'conflict'])
      assert.match(refused.body.detail, sentence)
    }
    const back = await fleet.admin('POST', '/devices/stolen-1/readmit', { stolenRecovered: true })
    assert.deepEqual([back.status, back.body.status, back.body.stolenAt], [200, 'active', undefined])
    const sameKey = await fleet.enroll('stolen-1', await fleet.token('stolen-1'), device.csrDer)
    assert.deepEqual([sameKey.status, codeOf(sameKey)], [403, 'key_compromised'])
    const anew = await fleet.enrolledDevice('stolen-1')
    assert.equal((await fleet.reenroll(anew, await fleet.renewalCsr(anew))).status, 200)
    assert.notEqual((await fleet.admin('POST', '/devices/stolen-1/stolen')).body.incident, body.incident)
  })

  test('one that was revoked for another reason can be reported stolen afterwards', async () => {
    const device = await fleet.enrolledDevice('stolen-2')
    const revoked = await fleet.admin('POST', '/devices/stolen-2/revoke', { reason: 'cessationOfOperation' })
    const { body } = await fleet.admin('POST', '/devices/stolen-2/stolen')
    assert.deepEqual(
      [body.alreadyRevoked, body.alreadyStolen, body.revokedAt, body.certificates],
      [true, false, revoked.body.revokedAt, [device.serial]],
    )
    assert.equal((await fleet.admin('GET', '/devices/stolen-2')).body.revocationReason, 'keyCompromise')
  })

  test('a compromise that becomes known after a revocation is one from then on, and the first time stays', async () => {
    const device = await fleet.enrolledDevice('leaked-1')
    const revoke = async (reason: string) => (await fleet.admin('POST', '/devices/leaked-1/revoke', { reason })).body
    const first = await revoke('cessationOfOperation')
    const then = await revoke('keyCompromise')
    assert.deepEqual(
      [then.alreadyRevoked, then.reason, then.revokedAt, then.certificates, then.keysWatched],
      [true, 'keyCompromise', first.revokedAt, [device.serial], 1],
    )
    const { body } = await fleet.admin('GET', `/certificates/${device.serial}`)
    assert.deepEqual([body.revocationReason, body.revokedAt], ['keyCompromise', first.revokedAt])
    const csr = await createCsr({ privateKeyPem: device.key, commonName: 'leaked-2' })
    assert.equal(codeOf(await fleet.enroll('leaked-2', await fleet.token('leaked-2'), csr)), 'key_compromised')
    for (const reason of ['superseded', 'keyCompromise']) {
      const again = await revoke(reason)
      assert.deepEqual([again.reason, again.keysWatched], ['keyCompromise', 0])
    }
  })

  test('a compromised key is refused under every name and told of with its address', async () => {
    const device = await fleet.enrolledDevice('stolen-3')
    await fleet.admin('POST', '/devices/stolen-3/stolen')
    const csr = await createCsr({ privateKeyPem: device.key, commonName: 'other-1' })
    const asOther = await fleet.enroll('other-1', await fleet.token('other-1'), csr)
    assert.deepEqual([asOther.status, codeOf(asOther)], [403, 'key_compromised'])
    const renewal = await fleet.reenroll(device, await fleet.renewalCsr(device))
    assert.equal(codeOf(renewal), 'certificate_revoked')
    // No credential is shown but in the handshake.
    const bare = { key: device.key, cert: device.certificate }
    assert.equal((await fleet.est('simpleenroll', { method: 'POST', headers: pkcs10, ...bare })).status, 401)

    const entries = (await fleet.admin('GET', '/audit?limit=1000')).body.items
    const uses = entries.filter(
      ({ action, subject }: AuditEntryView) => action === 'key.used' && subject === 'device:stolen-3',
    )
    assert.deepEqual(
      uses.map((entry: AuditEntryView) => [entry.reason, entry.details.where, entry.remoteAddress]),
      ['request', 'handshake', 'handshake'].map((where) => ['key_compromised', where, '127.0.0.1']),
    )
    const other = await fleet.enrolledDevice('other-1')
    assert.equal(codeOf(await fleet.reenroll(other, csr)), 'key_compromised')
  })

  test('who has a stolen key in the handshake and is served all the same is told of', async () => {
    const device = await fleet.enrolledDevice('stolen-5')
    const { incident } = (await fleet.admin('POST', '/devices/stolen-5/stolen')).body
    assert.equal((await fleet.est('cacerts', { key: device.key, cert: device.certificate })).status, 200)
    const alerts = async () => {
      const { evidence } = (await fleet.admin('GET', `/incidents/${incident}`)).body
      return evidence.slice(1).map(({ details }: { details: object }) => details)
    }
    while ((await alerts()).length === 0);
    const [{ kind, where, path }] = await alerts()
    assert.deepEqual([kind, where, path], ['key_reused', 'handshake', '/.well-known/est/cacerts'])
  })

  test('one certificate is revoked and its device keeps the other; of the current one that is said', async () => {
    const device = await fleet.enrolledDevice('cert-1')
    const { privateKeyPem } = await createKeyAndCsr({ commonName: 'cert-1' })
    const renewed = certificateOf(await fleet.reenroll(device, await fleet.renewalCsr(device, privateKeyPem)))
    const revoke = (serial: string, reason: string) => fleet.admin('POST', `/certificates/${serial}/revoke`, { reason })
    const former = await revoke(device.serial, 'privilegeWithdrawn')
    assert.partialDeepStrictEqual(former, {
      status: 200,
      body: { deviceId: 'cert-1', isCurrent: false, certificates: [device.serial], remaining: [renewed.serial] },
    })
    assert.equal(codeOf(await fleet.reenroll(device, await fleet.renewalCsr(device))), 'certificate_revoked')
    const held = { key: privateKeyPem, certificate: renewed.pem }
    const csr = await fleet.renewalCsr(device, privateKeyPem)
    const third = certificateOf(await fleet.reenroll(held, csr))
    const again = (await revoke(device.serial, 'superseded')).body
    assert.deepEqual(
      [again.alreadyRevoked, again.reason, again.revokedAt, again.certificates],
      [true, 'privilegeWithdrawn', former.body.revokedAt, []],
    )

    const current = (await revoke(third.serial, 'keyCompromise')).body
    assert.deepEqual(
      [current.isCurrent, new Set(current.certificates), current.remaining, current.keysWatched],
      [true, new Set([renewed.serial, third.serial]), [], 1],
      'what the device has for the same key ends with it',
    )
    assert.equal((await fleet.admin('GET', '/devices/cert-1')).body.status, 'active')
    const { csrDer } = await createKeyAndCsr({ commonName: 'cert-1' })
    assert.equal((await fleet.enroll('cert-1', await fleet.token('cert-1'), csrDer)).status, 200)
    const worse = (await revoke(device.serial, 'keyCompromise')).body
    assert.deepEqual([worse.alreadyRevoked, worse.reason, worse.keysWatched], [true, 'keyCompromise', 1])
  })

  test('a certificate of the gateway itself, and one that is not there, cannot be revoked as of a device', async () => {
    const { items } = (await fleet.admin('GET', '/certificates?limit=1000')).body
    const { serial } = items.find(({ kind }: { kind: string }) => kind === 'operator')
    const own = await fleet.admin('POST', `/certificates/${serial}/revoke`, { reason: 'superseded' })
    assert.deepEqual([own.status, own.body.code], [409, 'conflict'])
    const none = await fleet.admin('POST', '/certificates/0a0b/revoke', { reason: 'superseded' })
    assert.deepEqual([none.status, none.body.code], [404, 'certificate_unknown'])
  })

  test('many are changed in one batch; those that cannot be are named and hold nobody up', async () => {
    const devices = await Promise.all(['bulk-1', 'bulk-2', 'bulk-3'].map((id) => fleet.enrolledDevice(id)))
    await fleet.enrolledDevice('bulk-9')
    const ids = [...devices.map(({ id }) => id), 'ghost', 'bulk-1']
    const bulk = async (verb: string, more = {}) => {
      const { status, body } = await fleet.admin('POST', '/devices/bulk', { verb, ids, ...more })
      assert.equal(status, 200, JSON.stringify(body))
      return body.devices.map(({ deviceId, outcome, code }: Record<string, string>) => [deviceId, outcome, code])
    }
    const all = (outcome: string, code?: string) => devices.map(({ id }) => [id, outcome, code])
    const ghost = ['ghost', 'refused', 'device_unknown']
    assert.deepEqual(await bulk('disable'), [...all('done'), ghost])
    const before = (await fleet.admin('GET', '/status')).body.feedSeq
    assert.deepEqual(await bulk('disable'), [...all('already'), ghost])
    assert.equal((await fleet.admin('GET', '/status')).body.feedSeq, before)
    assert.deepEqual(await bulk('enable'), [...all('done'), ghost])
    assert.deepEqual(await bulk('revoke', { reason: 'superseded' }), [...all('done'), ghost])
    assert.deepEqual(await bulk('enable'), [...all('refused', 'conflict'), ghost])
    assert.deepEqual(await bulk('stolen'), [...all('done'), ghost], 'also one that was revoked for another reason')
    const { items } = (await fleet.admin('GET', '/audit?limit=3')).body
    assert.deepEqual(
      items.map(({ action, subject }: Record<string, string>) => [action, subject]),
      devices.map(({ id }) => ['device.stolen', `device:${id}`]),
    )
    assert.equal(new Set(items.map(({ requestId }: Record<string, string>) => requestId)).size, 1, 'one batch')
    const again = { 'Idempotency-Key': 'bulk-once-more' }
    const times = await Promise.all(
      [1, 2].map(
        async () => (await fleet.admin('POST', '/devices/bulk', { verb: 'revoke', ids: ['bulk-9'] }, again)).body.at,
      ),
    )
    assert.deepEqual(times[0], times[1], 'one request was done at one time')
    const shown = (await fleet.admin('GET', '/devices/bulk-2')).body
    assert.deepEqual([shown.status, shown.revocationReason], ['revoked', 'keyCompromise'])
  })

  test('certificates are found by who issued them and when', async () => {
    await fleet.enrolledDevice('when-1')
    const find = async (query: string) => {
      const answer = await fleet.admin('GET', `/certificates?deviceId=when-1&${query}`)
      return answer.status === 200 ? answer.body.items.length : answer.body.detail
    }
    const day = (offset: number) => new Date(Date.now() + offset * 86_400_000).toISOString()
    assert.equal(await find(`issuedFrom=${day(-1)}&issuedTo=${day(1)}`), 1)
    assert.equal(await find(`issuedTo=${day(-1)}`), 0)
    assert.equal(await find(`issuedFrom=${day(1)}`), 0)
    assert.equal(await find('issuer=fleetgate'), 1)
    assert.equal(await find('issuer=CN%3DPartner'), 0)
    assert.match(await find(`issuer=${'ab'.repeat(32)}`), /the CA that issues here has the fingerprint [0-9a-f]{64}$/)
    assert.match(await find('issuedFrom=tomorrow'), /issuedFrom: an instant is/)
  })

  test('a device on hold gets no certificate and no token, and has everything back when it is enabled', async () => {
    const device = await fleet.enrolledDevice('hold-1')
    const unspent = await fleet.token('hold-1')
    const { csrDer } = await createKeyAndCsr({ commonName: 'hold-1' })
    const held = await fleet.admin('POST', '/devices/hold-1/disable')
    assert.partialDeepStrictEqual(held, {
      status: 200,
      body: { status: 'held', alreadySo: false, certificates: [device.serial] },
    })
    const again = await fleet.admin('POST', '/devices/hold-1/disable')
    assert.deepEqual([again.body.alreadySo, again.body.heldAt], [true, held.body.heldAt])

    const shown = (await fleet.admin('GET', `/certificates/${device.serial}`)).body
    assert.deepEqual(
      [shown.status, shown.revokedAt, shown.revocationReason],
      ['held', held.body.heldAt, 'certificateHold'],
    )
    const listed = (await fleet.admin('GET', '/devices?status=held')).body.items
    assert.deepEqual([listed.length, listed[0].id, listed[0].heldAt], [1, 'hold-1', held.body.heldAt])
    for (const refused of [
      await fleet.enroll('hold-1', unspent, csrDer),
      await fleet.reenroll(device, await fleet.renewalCsr(device)),
    ]) {
      assert.deepEqual([refused.status, codeOf(refused)], [403, 'device_held'])
      assert.match(refused.body, /hold-1 is on hold since 20/)
    }
    const noToken = await fleet.admin('POST', '/tokens', { deviceId: 'hold-1' })
    assert.deepEqual([noToken.status, noToken.body.code], [403, 'device_held'])

    const enabled = await fleet.admin('POST', '/devices/hold-1/enable')
    assert.partialDeepStrictEqual(enabled, {
      status: 200,
      body: { status: 'active', alreadySo: false, certificates: [device.serial] },
    })
    assert.equal((await fleet.admin('POST', '/devices/hold-1/enable')).body.alreadySo, true)
    assert.equal((await fleet.enroll('hold-1', unspent, csrDer)).status, 200)
    assert.equal((await fleet.reenroll(device, await fleet.renewalCsr(device))).status, 200)
    const free = (await fleet.admin('GET', `/certificates/${device.serial}`)).body
    assert.deepEqual([free.status, free.revokedAt, free.revocationReason], ['issued', undefined, undefined])
  })

  test('the feed tells of a hold by the device alone', async () => {
    await fleet.enrolledDevice('hold-2')
    await fleet.admin('POST', '/devices/hold-2/disable')
    const { body } = await fleet.admin('POST', '/devices/hold-2/enable')
    await using feed = await followFeed(fleet, startCursor)
    const facts = (await feed.until(body.feedSeq)).map(decodeBody)
    const about = facts.filter(({ data }) => JSON.stringify(data).includes('hold-2'))
    assert.deepEqual(
      about.map(({ type, data }) => ('status' in data ? data.status : type)),
      ['active', 'certificate.issued', 'held', 'active'],
    )
  })

  test('a device on hold can be revoked; a revoked one is neither enabled nor put on hold', async () => {
    const device = await fleet.enrolledDevice('hold-3')
    await fleet.admin('POST', '/devices/hold-3/disable')
    const { body } = await fleet.admin('POST', '/devices/hold-3/revoke', { reason: 'keyCompromise' })
    assert.deepEqual([body.alreadyRevoked, body.certificates], [false, [device.serial]])
    for (const verb of ['enable', 'disable']) {
      const refused = await fleet.admin('POST', `/devices/hold-3/${verb}`)
      assert.deepEqual([refused.status, refused.body.code], [409, 'conflict'])
      assert.match(refused.body.detail, /hold-3 was revoked at 20.*readmitted/)
    }
    const shown = (await fleet.admin('GET', `/certificates/${device.serial}`)).body
    assert.deepEqual([shown.status, shown.revocationReason], ['revoked', 'keyCompromise'])
    const after = (await fleet.admin('GET', '/devices/hold-3')).body
    assert.deepEqual([after.status, after.heldAt], ['revoked', undefined])
  })

  test('a hold that races with renewals leaves no certificate that counts', async () => {
    const device = await fleet.enrolledDevice('hold-4')
    const csr = await fleet.renewalCsr(device)
    const renewals = Array.from({ length: 8 }, () => fleet.reenroll(device, csr))
    assert.equal((await fleet.admin('POST', '/devices/hold-4/disable')).status, 200)
    for (const { status } of await Promise.all(renewals)) assert.ok([200, 403].includes(status), String(status))
    const { items } = (await fleet.admin('GET', '/certificates?deviceId=hold-4')).body
    assert.ok(items.every(({ status }: { status: string }) => status !== 'issued'))
  })

  test('a revocation that races with renewals leaves no certificate of the device unrevoked', async () => {
    const device = await fleet.enrolledDevice('cam-4')
    const csr = await fleet.renewalCsr(device)
    const renewals = Array.from({ length: 12 }, () => fleet.reenroll(device, csr))
    const revocation = fleet.admin('POST', '/devices/cam-4/revoke', { reason: 'keyCompromise' })
    const answers = await Promise.all(renewals)
    assert.equal((await revocation).status, 200)
    for (const { status } of answers) assert.ok([200, 403].includes(status), String(status))
    const { body } = await fleet.admin('GET', '/certificates?deviceId=cam-4')
    const states = new Set(body.items.map((item: { status: string }) => item.status))
    assert.equal(states.has('issued'), false)
  })

  test('a device that renews without end cannot keep its revocation away', async () => {
    const device = await fleet.enrolledDevice('busy-1')
    const csr = await fleet.renewalCsr(device)
    const agent = new Agent({ keepAlive: true })
    let stop = false
    const loops = Array.from({ length: 4 }, async () => {
      while (!stop) if ((await fleet.reenroll(device, csr, { agent })).status === 403) return
    })
    for (let certificates = 0; certificates < 150; ) {
      certificates = (await fleet.admin('GET', '/certificates?deviceId=busy-1&limit=1000')).body.items.length
    }
    const { status, body } = await fleet.admin('POST', '/devices/busy-1/revoke', { reason: 'keyCompromise' })
    stop = true
    await Promise.all(loops)
    agent.destroy()
    assert.deepEqual([status, body.alreadyRevoked], [200, false])
    const { items } = (await fleet.admin('GET', '/certificates?deviceId=busy-1&limit=1000')).body
    assert.ok(items.every((item: { status: string }) => item.status !== 'issued'))
  })

  test('a device renews so often an hour and no more', async () => {
    await using strict = await EnrollHarness.start({ config: testConfiguration({ enroll: { renewalsPerHour: 2 } }) })
    const device = await strict.enrolledDevice('often-1')
    const csr = await strict.renewalCsr(device)
    for (const status of [200, 200, 429]) assert.equal((await strict.reenroll(device, csr)).status, status)
  })

  test('a broker that went away is waited for until an operator forgets it', async () => {
    await using lone = await EnrollHarness.start()
    const feed = await followFeed(lone, startCursor)
    await feed.see(({ kind }) => kind === 'live')
    const early = await lone.admin('DELETE', '/brokers/broker-1')
    assert.deepEqual([early.status, early.body.code], [409, 'conflict'])
    await feed[Symbol.asyncDispose]()
    while ((await lone.admin('GET', '/status')).body.brokers[0].connected) await delay(10)
    await lone.enrolledDevice('cam-9')
    const revoked = await lone.admin('POST', '/devices/cam-9/revoke', { reason: 'keyCompromise' })
    assert.deepEqual([revoked.body.inForce, revoked.body.brokers.length], [false, 1])
    assert.equal((await lone.admin('DELETE', '/brokers/broker-1')).status, 200)
    assert.equal((await lone.admin('DELETE', '/brokers/broker-1')).status, 404)
    assert.deepEqual((await lone.admin('GET', '/status')).body.brokers, [])
  })

  test('the receipt says which brokers confirmed, and in what time', async () => {
    await fleet.enrolledDevice('cam-5')
    await using feed = await followFeed(fleet, startCursor)
    feed.acknowledge = true
    const { body } = await fleet.admin('POST', '/devices/cam-5/revoke', { reason: 'keyCompromise', waitMs: 60_000 })
    assert.equal(body.inForce, true)
    assert.equal(body.brokers.length, 1)
    assert.ok(body.brokers[0].confirmedMs >= 0 && body.brokers[0].confirmed)
    await fleet.enrolledDevice('cam-6')
    feed.acknowledge = false
    const silent = await fleet.admin('POST', '/devices/cam-6/revoke', { reason: 'keyCompromise', waitMs: 50 })
    assert.deepEqual([silent.status, silent.body.inForce, silent.body.brokers[0].confirmed], [200, false, false])
    assert.equal(silent.body.ticketsVoid, false)
  })

  test('the receipt tells of each connection that was ended; asked again it tells the same, and the audit log has it', async () => {
    await fleet.enrolledDevice('cam-7')
    await using feed = await followFeed(fleet, startCursor)
    await feed.see(({ kind }) => kind === 'live')
    const revoke = (waitMs: number) => fleet.admin('POST', '/devices/cam-7/revoke', { reason: 'keyCompromise', waitMs })
    const revoked = revoke(60_000)
    // The last of its batch.
    const isLast = (body: string) => body.includes('"certificate.revoked"') && body.includes('"cam-7"')
    await feed.see((message) => message.kind === 'event' && isLast(message.body))
    const at = new Date().toISOString()
    const cut: SessionCut = {
      ...{ type: 'session.cut', at, reason: 'device_revoked', listener: 'mqtts', remoteAddress: '192.0.2.7' },
      ...{ deviceId: 'cam-7', clientId: 'cam-7', state: 'live', isResumed: true, connectedAt: at, tookMs: 1.25 },
      ...{ lastPacket: { type: 'publish', topic: 'devices/cam-7/x', at }, publish: ['devices/cam-7/#'], subscribe: [] },
      ...{ packetsIn: 2, bytesIn: 80, packetsOut: 1, bytesOut: 4 },
    }
    feed.send({ kind: 'report', id: '0000-4001', report: cut })
    feed.send({ kind: 'report', id: '0000-4002', report: { ...cut, clientId: 'cam-7:b' } })
    feed.send({ kind: 'applied', seq: feed.events.at(-1)!.seq })
    const { body } = await revoked
    // In the order in which they were written: two reports that come together are written at once.
    const [first, second] = body.sessions.toSorted((a: Ended, b: Ended) => a.clientId.localeCompare(b.clientId))
    assert.deepEqual([first.clientId, second.clientId, body.sessions.length], ['cam-7', 'cam-7:b', 2])
    assert.deepEqual([first.broker, first.tookMs, first.lastPacket], ['broker-1', 1.25, cut.lastPacket])
    assert.ok(first.closedMs >= 0 && first.closedMs < 60_000)
    assert.deepEqual([body.inForce, body.ticketsVoid], [true, true])
    assert.ok(body.committedMs >= 0 && body.committedMs <= first.closedMs)
    assert.equal(first.sinceCommitMs, first.closedMs - body.committedMs)
    const again = (await revoke(60_000)).body
    const known = body.sessions.map(({ sinceCommitMs: _, ...session }: Ended) => session)
    assert.deepEqual([again.sessions, again.committedMs, again.brokers[0].confirmedMs], [known, undefined, undefined])
    const ended = (ids: string, since: string) => fleet.admin('GET', `/sessions/ended?deviceId=${ids}&since=${since}`)
    const { closedMs } = body.sessions.toSorted((a: Ended, b: Ended) => b.closedMs - a.closedMs)[0]
    const counted = (await ended('cam-5,cam-7,ghost,cam-7', body.revokedAt)).body
    assert.deepEqual([counted.sessions, counted.slowest.deviceId, counted.slowest.closedMs], [2, 'cam-7', closedMs])
    const later = new Date(Date.parse(body.revokedAt) + 1).toISOString()
    assert.deepEqual((await ended('cam-7', later)).body, { sessions: 0 }, 'of a change from before')
    assert.equal((await ended('cam-7', 'yesterday')).status, 400)
    const { items } = (await fleet.admin('GET', '/audit')).body
    const given = items.filter((entry: AuditView) => entry.action === 'receipt.given').at(-2)
    const told = ({ clientId, closedMs, sinceCommitMs }: Ended): string =>
      `broker-1 ${clientId} ${closedMs} ms after the order, ${sinceCommitMs} ms after the commit`
    const { committedMs, confirmed, sessions } = given.details
    assert.deepEqual([given.subject, confirmed.length, sessions], ['device:cam-7', 1, body.sessions.map(told)])
    assert.equal(committedMs, body.committedMs)
  })
})
