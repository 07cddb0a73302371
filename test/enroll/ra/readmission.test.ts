import assert from 'node:assert/strict'
import { after, before, suite, test } from 'node:test'
import { decodeBody, startCursor } from '../../../contract/feed.ts'
import { Profiles } from '../../../enroll/ra/profiles.ts'
import { createKeyAndCsr } from '../../../pki/x509.ts'
import { codeOf, EnrollHarness, testConfiguration } from '../../harness/fleet.ts'
import { followFeed } from '../../harness/follower.ts'

suite('readmitting a device', () => {
  let fleet: EnrollHarness
  before(async () => {
    fleet = await EnrollHarness.start({
      config: testConfiguration({ profiles: { camera: {}, lab: { onRevoke: { retained: 'purge' } } } }),
    })
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

  const purgeAfter = async (change: string, body?: object, id = 'lab-1') => {
    await fleet.admin('POST', `/devices/${id}/${change}`, body)
    const { feedSeq } = (await fleet.admin('GET', '/status')).body
    await using feed = await followFeed(fleet, startCursor)
    const last = decodeBody((await feed.until(feedSeq)).at(-1)!)
    assert.ok(last.type === 'device.changed')
    return { at: last.at, purge: last.data.purge, kept: last.data.kept }
  }

  test('what its profile purges is void from its revocation on, and after it is let in again all that is older', async () => {
    await fleet.admin('POST', '/devices', { id: 'lab-1', profile: 'lab' })
    const revoked = await purgeAfter('revoke', { reason: 'keyCompromise' })
    assert.deepEqual(revoked.purge, { retained: revoked.at })
    const readmitted = await purgeAfter('readmit')
    assert.deepEqual(readmitted.purge, { retained: readmitted.at })
    assert.ok(readmitted.at > revoked.at)
  })

  test('what was void by a theft is not by a later revocation that keeps it, nor when that is taken back', async () => {
    await fleet.admin('POST', '/devices', { id: 'lab-2', profile: 'lab' })
    await purgeAfter('stolen', {}, 'lab-2')
    const recovered = await purgeAfter('readmit', { stolenRecovered: true }, 'lab-2')
    const revoked = await purgeAfter('revoke', { reason: 'superseded' }, 'lab-2')
    const purge = { retained: revoked.at, queued: recovered.at }
    assert.deepEqual([revoked.purge, revoked.kept], [purge, ['queued']])
    const again = await purgeAfter('readmit', {}, 'lab-2')
    assert.deepEqual([again.purge, again.kept], [{ ...purge, retained: again.at }, undefined])
    const stolen = await purgeAfter('stolen', {}, 'lab-2')
    assert.deepEqual([stolen.purge, stolen.kept], [{ retained: stolen.at, queued: stolen.at }, undefined])
  })

  test('a thief’s messages are purged and those of others kept, unless their profile says otherwise', () => {
    const profiles = new Profiles(
      testConfiguration({
        profiles: { plain: {}, meter: { onRevoke: { retained: 'keep' } }, lab: { onRevoke: { queued: 'purge' } } },
      }),
    )
    const both = (name: string) => [profiles.purged(name, false), profiles.purged(name, true)]
    assert.deepEqual(both('plain'), [[], ['retained', 'queued']])
    assert.deepEqual(both('meter'), [[], ['queued']])
    assert.deepEqual(both('lab'), [['queued'], ['retained', 'queued']])
    assert.deepEqual(both('of another day'), [[], ['retained', 'queued']])
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
