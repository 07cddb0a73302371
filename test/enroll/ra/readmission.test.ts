import assert from 'node:assert/strict'
import { after, before, suite, test } from 'node:test'
import { decodeBody, startCursor } from '../../../contract/feed.ts'
import { createKeyAndCsr } from '../../../pki/x509.ts'
import { codeOf, EnrollHarness } from '../../harness/fleet.ts'
import { followFeed } from '../../harness/follower.ts'

suite('readmitting a device', () => {
  let fleet: EnrollHarness
  before(async () => {
    fleet = await EnrollHarness.start()
  })
  after(() => fleet[Symbol.asyncDispose]())

  test('it enrolls anew with a new token; what it held before stays worthless', async () => {
    const device = await fleet.enrolledDevice('cam-1', { groups: ['roof'] })
    const unused = await fleet.token('cam-1')
    await fleet.admin('POST', '/devices/cam-1/revoke', { reason: 'keyCompromise' })
    const { status, body } = await fleet.admin('POST', '/devices/cam-1/readmit')
    assert.deepEqual([status, body.status, body.groups], [200, 'active', ['roof']])
    assert.deepEqual([body.revokedAt, body.revocationReason, body.currentSerial], [undefined, undefined, undefined])

    const renewal = await fleet.reenroll(device, await fleet.renewalCsr(device))
    assert.deepEqual([renewal.status, codeOf(renewal)], [403, 'certificate_revoked'])
    const { csrDer } = await createKeyAndCsr({ commonName: 'cam-1' })
    const former = await fleet.enroll('cam-1', unused, csrDer)
    assert.deepEqual([former.status, codeOf(former)], [403, 'token_void'])
    const fresh = await fleet.enrolledDevice('cam-1')
    assert.equal((await fleet.reenroll(fresh, await fleet.renewalCsr(fresh))).status, 200)
  })

  test('brokers are told that the device is there again, and the audit log by whom', async () => {
    await fleet.enrolledDevice('cam-2')
    await fleet.admin('POST', '/devices/cam-2/revoke', { reason: 'cessationOfOperation' })
    await fleet.admin('POST', '/devices/cam-2/readmit')
    const { body } = await fleet.admin('GET', '/audit?limit=1')
    const [entry] = body.items
    assert.deepEqual(
      [entry.action, entry.actor, entry.subject],
      ['device.readmitted', 'operator:operator', 'device:cam-2'],
    )
    assert.equal(entry.details.revokedFor, 'cessationOfOperation')
    const { feedSeq } = (await fleet.admin('GET', '/status')).body
    await using feed = await followFeed(fleet, startCursor)
    const last = decodeBody((await feed.until(feedSeq)).at(-1)!)
    assert.ok(last.type === 'device.changed' && last.data.id === 'cam-2' && last.data.status === 'active')
  })

  test('one that is not revoked is left as it is, one that is not there is refused', async () => {
    await fleet.admin('POST', '/devices', { id: 'cam-3', profile: 'camera' })
    const before = (await fleet.admin('GET', '/status')).body.feedSeq
    assert.equal((await fleet.admin('POST', '/devices/cam-3/readmit')).status, 200)
    assert.equal((await fleet.admin('GET', '/status')).body.feedSeq, before)
    const unknown = await fleet.admin('POST', '/devices/ghost/readmit')
    assert.deepEqual([unknown.status, unknown.body.code], [404, 'device_unknown'])
  })
})
