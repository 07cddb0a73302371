import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decodeBody } from '../../../contract/feed.ts'
import {
  endSurplus,
  findSuccessor,
  isReplaced,
  maxUnused,
  noteUse,
  supersedeDue,
} from '../../../enroll/ca/supersession.ts'
import { decodeAudit } from '../../../enroll/registry/audit-log.ts'
import { type CertificateRecord, getCertificate, writeCertificate } from '../../../enroll/registry/certificates.ts'
import type { DeviceRecord } from '../../../enroll/registry/devices.ts'
import type { Registry } from '../../../enroll/registry/registry.ts'
import { device } from '../../suites/registry.ts'
import { put, withRegistry } from '../registry/with-registry.ts'

const minute = 60_000
const start = Date.parse('2026-03-01T00:00:00Z')
const at = (minutes: number): Date => new Date(start + minutes * minute)

/** One that was issued in that minute, and is good for a day. */
const certificate = (serial: string, issued: number, more: Partial<CertificateRecord> = {}): CertificateRecord => ({
  serial,
  kind: 'device',
  deviceId: 'cam-1',
  profile: 'camera',
  label: 'default',
  status: 'issued',
  spkiHash: 'ab',
  fingerprint: serial.repeat(32),
  reservedAt: at(issued).toISOString(),
  issuedAt: at(issued).toISOString(),
  notAfter: at(issued + 1440).toISOString(),
  via: 'reenroll',
  ...more,
})
const keep = (registry: Registry, ...certificates: CertificateRecord[]) =>
  put(registry, ...certificates.map((one) => writeCertificate(one, 0)))
const use = (registry: Registry, serial: string, now: Date, overlapMs = 5 * minute) =>
  noteUse(registry, {
    serial,
    at: now,
    actor: 'broker:main',
    remoteAddress: '192.0.2.1',
    requestId: 'r1',
    overlapMs,
    now,
  })
const states = async (registry: Registry, ...serials: string[]) =>
  Promise.all(serials.map(async (serial) => (await getCertificate(registry, serial)).doc.status))

test('the old certificate stays good until the new one is used, and for the overlap after that; then one commit ends all older ones', () =>
  withRegistry(async (registry) => {
    await keep(registry, certificate('01', 0), certificate('02', 1), certificate('03', 2), certificate('04', 3))
    await supersedeDue(registry, at(600))
    assert.deepEqual(await states(registry, '01', '02', '03', '04'), ['issued', 'issued', 'issued', 'issued'])
    await use(registry, '03', at(10))
    await supersedeDue(registry, at(15))
    assert.deepEqual(await states(registry, '01', '02', '03'), ['issued', 'issued', 'issued'])
    const before = (await registry.head()).audit.seq
    await supersedeDue(registry, new Date(at(15).getTime() + 1))
    assert.deepEqual(await states(registry, '01', '02', '03', '04'), ['revoked', 'revoked', 'issued', 'issued'])
    const entries = (await registry.auditAfter(before, 10)).map(decodeAudit)
    assert.deepEqual(
      entries.map(({ action, reason, details }) => [action, reason, details?.by, details?.certificates]),
      [['certificate.superseded', 'superseded', '03', ['01', '02']]],
    )
    const facts = (await registry.feedAfter(0, 10)).map(decodeBody)
    assert.deepEqual(
      facts.map(({ type, data }) => [type, 'serial' in data && data.serial, 'reason' in data && data.reason]),
      [
        ['certificate.revoked', '01', 'superseded'],
        ['certificate.revoked', '02', 'superseded'],
      ],
    )
    await supersedeDue(registry, at(60))
    assert.equal((await registry.head()).audit.seq, before + 1)
  }))

test('a use counts once, whoever tells of it and how often', () =>
  withRegistry(async (registry) => {
    await keep(registry, certificate('01', 0), certificate('02', 1))
    await Promise.all([1, 2, 3, 4].map(() => use(registry, '02', at(10))))
    await use(registry, '02', at(20))
    const { doc } = await getCertificate(registry, '02')
    assert.deepEqual([doc.firstUsedAt, doc.supersedesAt], [at(10).toISOString(), at(15).toISOString()])
    const entries = (await registry.auditAfter(0, 10)).map(decodeAudit)
    assert.deepEqual(
      entries.map(({ action, actor, details }) => [action, actor, details?.device, details?.replaces]),
      [['certificate.used', 'broker:main', 'cam-1', ['01']]],
    )
  }))

test('certificates of another device, label or profile, of the same moment, of services and of other CAs stay', () =>
  withRegistry(async (registry) => {
    await keep(
      registry,
      certificate('01', 0, { deviceId: 'cam-2' }),
      certificate('02', 0, { label: 'line-1' }),
      certificate('03', 0, { profile: 'sensor' }),
      certificate('04', 5),
      certificate('05', 5),
      certificate('06', 6, { kind: 'broker' }),
      certificate('07', 0, { kind: 'foreign' }),
    )
    await use(registry, '05', at(10), 0)
    await use(registry, '06', at(10), 0)
    await supersedeDue(registry, at(11))
    assert.deepEqual(new Set(await states(registry, '01', '02', '03', '04', '05', '06', '07')), new Set(['issued']))
    assert.equal((await getCertificate(registry, '06')).doc.firstUsedAt, undefined)
  }))

test('one that is revoked before its time has come replaces nothing', () =>
  withRegistry(async (registry) => {
    await keep(registry, certificate('01', 0), certificate('02', 1))
    await use(registry, '02', at(10))
    const { doc, rev } = await getCertificate(registry, '02')
    await put(registry, writeCertificate({ ...doc, status: 'revoked' }, rev))
    await supersedeDue(registry, at(60))
    assert.deepEqual(await states(registry, '01', '02'), ['issued', 'revoked'])
    assert.equal((await getCertificate(registry, '02')).doc.supersedesAt, undefined)
  }))

test('a hold changes nothing about it: what is on hold ends, and is ended, like the others', () =>
  withRegistry(async (registry) => {
    await keep(registry, certificate('01', 0, { status: 'held' }), certificate('02', 1, { status: 'held' }))
    await use(registry, '02', at(10))
    await supersedeDue(registry, at(60))
    assert.deepEqual(await states(registry, '01', '02'), ['revoked', 'held'])
  }))

test('a revoked certificate is not used', () =>
  withRegistry(async (registry) => {
    await keep(registry, certificate('01', 0), certificate('02', 1, { status: 'revoked' }))
    await use(registry, '02', at(10), 0)
    await supersedeDue(registry, at(60))
    assert.deepEqual(await states(registry, '01'), ['issued'])
  }))

test('of certificates that were never used a device keeps the newest; those that are used, or have expired, do not count', () =>
  withRegistry(async (registry) => {
    const unused = ['02', '03', '04', '05', '06'].map((serial, minutes) => certificate(serial, minutes))
    await keep(
      registry,
      certificate('01', 0, { firstUsedAt: at(0).toISOString() }),
      ...unused,
      certificate('07', -1440),
    )
    assert.equal(unused.length, maxUnused)
    const end = (more: Partial<DeviceRecord>) =>
      endSurplus(registry, { serial: '09', device: { ...device('cam-1'), ...more } }, at(30))
    // As the device's record has it, with one that is used and one that has expired since; and of one that does not say.
    for (const known of [{ unused: ['06', '05', '01', '04', '03', '02', '07'] }, {}]) {
      const { writes, feed, audit, unused: left } = await end(known)
      assert.deepEqual(
        writes.map(({ id }) => id),
        ['02'],
      )
      assert.deepEqual([feed.length, audit[0]!.details!.certificates], [1, ['02']])
      assert.deepEqual(left, ['03', '04', '05', '06', '09'])
    }
    const nothing = { writes: [], feed: [], audit: [] }
    assert.deepEqual(await end({ id: 'cam-2' }), { ...nothing, unused: ['09'] })
    assert.deepEqual(await end({ unused: ['01', '02'] }), { ...nothing, unused: ['01', '02', '09'] })
    const mostlyUsed = ['01', '02', '07', '08', '10']
    assert.deepEqual(await end({ unused: mostlyUsed }), { ...nothing, unused: ['02', '09'] })
  }))

test('a certificate is replaced once a newer one is used', () =>
  withRegistry(async (registry) => {
    const old = certificate('01', 0)
    await keep(registry, old, certificate('02', 1))
    assert.equal(await isReplaced(registry, old), false)
    await use(registry, '02', at(10))
    assert.equal(await isReplaced(registry, old), true)
  }))

test('which is newer is told by how they are counted, not by a clock; what was issued before they were is older', () =>
  withRegistry(async (registry) => {
    const ahead = certificate('01', 60, { nth: 1 })
    const uncounted = certificate('03', 50)
    await keep(registry, ahead, certificate('02', 1, { nth: 2 }), uncounted)
    await use(registry, '01', at(60))
    assert.equal(await isReplaced(registry, (await getCertificate(registry, '02')).doc), false)
    await use(registry, '02', at(2))
    assert.equal(await isReplaced(registry, (await getCertificate(registry, '01')).doc), true)
    await supersedeDue(registry, at(8))
    assert.deepEqual(await states(registry, '01', '02', '03'), ['revoked', 'issued', 'revoked'])
  }))

const issue = (serial: string, minutes: number, renews?: string): CertificateRecord =>
  certificate(serial, minutes, renews === undefined ? {} : { renews })

test('of two that were renewed from one and are both used neither ends the other, while what they were renewed from ends', () =>
  withRegistry(async (registry) => {
    await keep(registry, issue('01', 0), issue('02', 1, '01'), issue('03', 2, '01'), issue('04', 3, '01'))
    assert.equal(await use(registry, '01', at(4)), undefined)
    assert.equal(await use(registry, '03', at(5)), undefined)
    const fork = { deviceId: 'cam-1', serial: '02', other: '03', otherFrom: '192.0.2.1' }
    assert.deepEqual(await use(registry, '02', at(6)), fork)
    await supersedeDue(registry, at(60))
    assert.deepEqual(await states(registry, '01', '02', '03', '04'), ['revoked', 'issued', 'issued', 'issued'])
    // What each was renewed into replaces its own line alone, and the other is told of again.
    await keep(registry, issue('05', 61, '02'))
    assert.deepEqual(await use(registry, '05', at(62)), { ...fork, serial: '05' })
    await supersedeDue(registry, at(90))
    assert.deepEqual(await states(registry, '02', '03', '04', '05'), ['revoked', 'issued', 'revoked', 'issued'])
  }))

test('a chain of renewals is no fork, whatever of it is revoked, nor is a new enrollment, which replaces them all', () =>
  withRegistry(async (registry) => {
    await keep(registry, issue('01', 0), issue('02', 1, '01'))
    for (const serial of ['01', '02']) assert.equal(await use(registry, serial, at(2)), undefined)
    await keep(registry, certificate('03', 3, { renews: '02', status: 'revoked' }), issue('04', 4, '03'))
    assert.equal(await use(registry, '04', at(5)), undefined)
    await keep(registry, issue('05', 6))
    assert.equal(await use(registry, '05', at(7)), undefined)
    await supersedeDue(registry, at(60))
    assert.deepEqual(await states(registry, '01', '02', '04', '05'), ['revoked', 'revoked', 'revoked', 'issued'])
  }))

test('the successor in use is found, and is none where it was revoked', () =>
  withRegistry(async (registry) => {
    await keep(registry, issue('01', 0), issue('02', 1, '01'))
    const successor = async () => findSuccessor(registry, (await getCertificate(registry, '01')).doc)
    assert.equal(await successor(), undefined)
    await use(registry, '02', at(2))
    const found = await successor()
    assert.deepEqual([found?.serial, found?.firstUsedFrom], ['02', '192.0.2.1'])
    const { doc, rev } = await getCertificate(registry, '02')
    await put(registry, writeCertificate({ ...doc, status: 'revoked' }, rev))
    assert.equal(await successor(), undefined)
  }))
