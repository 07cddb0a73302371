import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { type Area, BrokerStore } from '../../../broker/store.ts'
import { Snapshot } from '../../../broker/trust/snapshot.ts'
import { type FeedEvent, type FeedFact, startCursor } from '../../../contract/feed.ts'
import { policyDocument } from '../../../contract/policy-document.ts'
import { chainHash } from '../../../runtime/chain.ts'
import { TestLog } from '../../harness/broker.ts'

function eventsOf(facts: FeedFact[], at = '2026-01-01T00:00:00.000Z', cursor = startCursor): FeedEvent[] {
  return facts.map((fact) => {
    const body = JSON.stringify({ at, ...fact })
    cursor = { seq: cursor.seq + 1, hash: chainHash(cursor.hash, body) }
    return { ...cursor, body }
  })
}
const device = (id: string, status: 'active' | 'revoked'): FeedFact => ({
  type: 'device.changed',
  data: { id, profile: 'camera', groups: [], status },
})
const fingerprint = 'ab'.repeat(32)
const certificate = { serial: '01', fingerprint }
const issuedTo = (deviceId: string): FeedFact => ({
  type: 'certificate.issued',
  data: { ...certificate, deviceId, notAfter: '2030-01-01T00:00:00Z' },
})
const revokedOf = (deviceId: string): FeedFact => ({
  type: 'certificate.revoked',
  data: { ...certificate, deviceId, reason: 'keyCompromise' },
})
const revokedCertificate = { deviceId: 'cam-2', status: 'revoked', reason: 'keyCompromise' }

async function withStore(run: (store: BrokerStore, testLog: TestLog) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'fleetgate-snapshot-'))
  try {
    await using store = await BrokerStore.open(join(folder, 'store'))
    await run(store, new TestLog())
  } finally {
    rmSync(folder, { recursive: true })
  }
}

test('a device keeps its attributes over a restart, and may have none, as before there were any', () =>
  withStore(async (store, { log }) => {
    const snapshot = await Snapshot.load(store.snapshot, log)
    const { type, data } = device('cam-2', 'active')
    const noted = { type, data: { ...data, attributes: { site: 'berlin' } } } as FeedFact
    snapshot.apply(eventsOf([device('cam-1', 'active'), noted]))
    await snapshot.save()
    const again = await Snapshot.load(store.snapshot, log)
    assert.deepEqual(again.findDevice('cam-1'), { profile: 'camera', groups: [], status: 'active' })
    assert.deepEqual(again.findDevice('cam-2')?.attributes, { site: 'berlin' })
  }))

test('a revocation is in force although the disk fails, and the stored cursor does not get ahead of its facts', () =>
  withStore(async (store, { log }) => {
    let broken = false
    // The real store, with a disk that can be made to fail.
    const disk: Area = {
      ...store.snapshot,
      write: (operations, options) =>
        broken ? Promise.reject(new Error('no space left')) : store.snapshot.write(operations, options),
    }
    const snapshot = await Snapshot.load(disk, log)
    const [active, other, issued, revoked, later] = eventsOf([
      device('cam-1', 'active'),
      device('cam-2', 'active'),
      issuedTo('cam-2'),
      device('cam-1', 'revoked'),
      revokedOf('cam-2'),
    ])
    snapshot.apply([active!, other!, issued!])
    await snapshot.save()
    broken = true
    assert.deepEqual(snapshot.apply([revoked!]).devices, ['cam-1'])
    assert.equal(snapshot.findDevice('cam-1')?.status, 'revoked')
    await assert.rejects(snapshot.save(), /no space left/)
    assert.deepEqual((await Snapshot.load(store.snapshot, log)).cursor, { seq: 3, hash: issued!.hash })

    broken = false
    assert.deepEqual(snapshot.apply([later!]).certificates, [fingerprint])
    await snapshot.save()
    const stored = await Snapshot.load(store.snapshot, log)
    assert.equal(stored.cursor.seq, 5)
    assert.equal(stored.findDevice('cam-1')?.status, 'revoked')
    assert.equal(stored.findDevice('cam-2')?.status, 'active')
    assert.deepEqual(stored.findCertificate(fingerprint), revokedCertificate)
  }))

test('a certificate of which the revocation is all that was heard, and its device, are known as that', () =>
  withStore(async (store, { log }) => {
    const snapshot = await Snapshot.load(store.snapshot, log)
    snapshot.apply(eventsOf([revokedOf('cam-2')]))
    await snapshot.save()
    for (const known of [snapshot, await Snapshot.load(store.snapshot, log)]) {
      assert.deepEqual(known.findCertificate(fingerprint), revokedCertificate)
      assert.equal(known.findDevice('cam-2'), undefined)
    }
  }))

test('what counts, without its events, is only taken where a snapshot was begun', () =>
  withStore(async (store, { log }) => {
    const snapshot = await Snapshot.load(store.snapshot, log)
    snapshot.apply(eventsOf([device('cam-1', 'active')]))
    const cursor = snapshot.cursor
    const facts = [{ at: '2026-01-01T00:00:00.000Z', ...device('cam-1', 'revoked') }]
    assert.throws(() => snapshot.applyFacts(facts), { code: 'data_damaged' })
    assert.throws(() => snapshot.continueFrom(startCursor), { code: 'data_damaged' })
    assert.deepEqual([snapshot.findDevice('cam-1')?.status, snapshot.cursor], ['active', cursor])
  }))

test('certificates that ended long ago are forgotten, revoked ones too, where enroll is as late; one of unknown end stays', () =>
  withStore(async (store, { log }) => {
    const snapshot = await Snapshot.load(store.snapshot, log)
    const other = 'cd'.repeat(32)
    const unended = revokedOf('cam-1')
    snapshot.apply(
      eventsOf([
        issuedTo('cam-2'),
        revokedOf('cam-2'),
        { ...unended, data: { ...unended.data, fingerprint: other } } as FeedFact,
      ]),
    )
    const ended = new Date('2030-01-01T00:00:01Z')
    assert.equal(await snapshot.forgetEnded(ended, 0), 0, 'a clock that is ahead')
    snapshot.apply(eventsOf([device('cam-1', 'active')], '2030-01-02T00:00:00Z', snapshot.cursor))
    await snapshot.save()
    const again = await Snapshot.load(store.snapshot, log)
    for (const known of [snapshot, again]) {
      assert.equal(await known.forgetEnded(new Date('2029-12-31T23:59:59Z'), 0), 0)
      assert.equal(await known.forgetEnded(ended, 2_000), 0)
      assert.deepEqual(known.findCertificate(fingerprint), revokedCertificate)
      assert.equal(await known.forgetEnded(ended, 0), 1)
      assert.equal(known.findCertificate(fingerprint), undefined)
      assert.equal(known.findCertificate(other)?.status, 'revoked')
    }
  }))

test('what is stored and damaged is as if it were not there, and can be written again', () =>
  withStore(async (store, testLog) => {
    const { log } = testLog
    const snapshot = await Snapshot.load(store.snapshot, log)
    const [first, ...others] = eventsOf([device('cam-1', 'active'), device('cam-2', 'active')])
    snapshot.apply([first!])
    await snapshot.save()
    const [[key, value]] = (await store.snapshot.page('record!', 'record!', 1)) as [[string, Buffer]]
    value[value.length - 1]! ^= 1
    await store.snapshot.write([{ type: 'put', key, value }], { sync: true })

    const fresh = await Snapshot.load(store.snapshot, log)
    assert.ok(testLog.find('snapshot.damaged'))
    assert.deepEqual(fresh.cursor, startCursor)
    assert.equal(fresh.findDevice('cam-1'), undefined)
    fresh.apply([first!, ...others])
    await fresh.save()
    assert.deepEqual((await Snapshot.load(store.snapshot, log)).cursor, fresh.cursor)
  }))

test('written anew while events come, it has all that was saved', () =>
  withStore(async (store, { log }) => {
    // Nothing is taken in while the snapshot is written anew but what this test puts in between.
    let between: (() => void) | undefined
    const disk: Area = {
      ...store.snapshot,
      write: async (operations, options) => {
        await store.snapshot.write(operations, options)
        if (!options.sync && operations[0]?.type === 'put') between?.()
      },
    }
    const snapshot = await Snapshot.load(disk, log)
    const long = { policies: [{ name: 'long', match: { group: 'x'.repeat(1_000_000) } }] }
    const policies = Array.from({ length: 11 }, (_, n): FeedFact => {
      const document = n > 8 ? { policies: [] } : policyDocument.parse(long)
      return { type: 'policy.changed', data: { version: n, document } }
    })
    const events = eventsOf([device('cam-2', 'active'), ...policies, issuedTo('cam-2'), revokedOf('cam-2')])
    let at = 0
    const next = (): void => {
      const event = events[at++]
      if (event !== undefined) snapshot.apply([event])
    }
    let pieces = 0
    between = () => {
      pieces++
      next()
    }
    while (at < events.length) {
      next()
      await snapshot.save()
    }
    assert.equal(pieces, 2, 'the devices and the rest')
    await snapshot.save()
    await snapshot[Symbol.asyncDispose]()
    const bytes = (await store.snapshot.page('', '', 10_000)).reduce((sum, [, value]) => sum + value.length, 0)
    assert.ok(bytes < 1_000, `${bytes} octets`)
    const stored = await Snapshot.load(store.snapshot, log)
    assert.deepEqual(stored.cursor, { seq: events.length, hash: events.at(-1)!.hash })
    assert.deepEqual(stored.findCertificate(fingerprint), revokedCertificate)
    assert.equal(stored.findDevice('cam-2')?.status, 'active')
    assert.equal(stored.policy.version, 10)
  }))

test('another feed, which has forgotten revocations, does not take them back, unless it says something younger', () =>
  withStore(async (store, testLog) => {
    const { log } = testLog
    const snapshot = await Snapshot.load(store.snapshot, log)
    const held = (id: string): FeedFact => {
      const { type, data } = device(id, 'active')
      return { type, data: { ...data, status: 'held' } } as FeedFact
    }
    const backup = eventsOf([
      device('cam-1', 'active'),
      device('cam-2', 'active'),
      issuedTo('cam-2'),
      device('cam-4', 'revoked'),
    ])
    const { hash, seq } = backup.at(-1)!
    const since = eventsOf(
      [device('cam-1', 'revoked'), revokedOf('cam-2'), held('cam-3'), held('cam-5')],
      '2026-01-02T00:00:00.000Z',
      { hash, seq },
    )
    snapshot.apply([...backup, ...since])
    await snapshot.save()
    const younger = '2026-01-03T00:00:00.000Z'
    snapshot.startOver(true)
    snapshot.apply(backup)
    snapshot.apply(eventsOf([device('cam-4', 'active'), device('cam-5', 'active')], younger, { hash, seq }))
    const { kept, replaced } = await snapshot.reachedHead()
    assert.equal(replaced, true)
    assert.deepEqual(kept, [
      { deviceId: 'cam-1', status: 'revoked', certificates: [] },
      { deviceId: 'cam-3', status: 'held', certificates: [] },
      { deviceId: 'cam-2', status: 'active', certificates: [{ fingerprint, reason: 'keyCompromise' }] },
    ])
    assert.ok(testLog.find('feed.wentBack', { kept: 3 }))
    for (const told of [snapshot, await Snapshot.load(store.snapshot, log)]) {
      const statuses = [1, 2, 3, 4, 5].map((n) => told.findDevice(`cam-${n}`)?.status)
      assert.deepEqual(statuses, ['revoked', 'active', 'held', 'active', 'active'])
      assert.deepEqual(told.findCertificate(fingerprint), revokedCertificate)
    }
    // One that is known to be the same is believed, whatever it takes back.
    snapshot.startOver()
    snapshot.apply(backup)
    snapshot.apply(eventsOf([device('cam-1', 'active')], '2026-01-04T00:00:00.000Z', { hash, seq }))
    await snapshot.reachedHead()
    assert.equal(snapshot.findDevice('cam-1')?.status, 'active')
  }))
