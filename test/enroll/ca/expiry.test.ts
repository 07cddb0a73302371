import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decodeBody } from '../../../contract/feed.ts'
import { nextNotice, noticeExpiring } from '../../../enroll/ca/expiry.ts'
import { noteUse } from '../../../enroll/ca/supersession.ts'
import { decodeAudit } from '../../../enroll/registry/audit-log.ts'
import { type CertificateRecord, getCertificate, writeCertificate } from '../../../enroll/registry/certificates.ts'
import { type DeviceRecord, getDevice, writeDevice } from '../../../enroll/registry/devices.ts'
import type { Registry } from '../../../enroll/registry/registry.ts'
import { put, withRegistry } from '../registry/with-registry.ts'

const day = 86_400_000
const start = new Date('2026-03-01T00:00:00Z')
const at = (days: number, ms = 1): Date => new Date(start.getTime() + days * day + ms)

/** One that is good from that day on for so long, of a device whose newest it is. */
async function keep(
  registry: Registry,
  {
    serial,
    from,
    days,
    deviceId = 'cam-1',
    ...more
  }: { serial: string; from: number; days: number } & Partial<CertificateRecord>,
): Promise<void> {
  const [notBefore, notAfter] = [at(from, 0), at(from + days, 0)]
  const noticeAt = nextNotice({ notBefore, notAfter }, notBefore)
  const certificate: CertificateRecord = {
    serial,
    kind: 'device',
    deviceId,
    profile: 'camera',
    label: 'default',
    status: 'issued',
    spkiHash: 'ab',
    fingerprint: serial.repeat(32),
    reservedAt: notBefore.toISOString(),
    issuedAt: notBefore.toISOString(),
    notBefore: notBefore.toISOString(),
    notAfter: notAfter.toISOString(),
    via: 'token',
    ...(noticeAt === undefined ? {} : { noticeAt }),
    ...more,
  }
  const createdAt = start.toISOString()
  const known = await registry.find('device', deviceId)
  const device: DeviceRecord = { id: deviceId, profile: 'camera', groups: [], status: 'active', createdAt }
  await put(
    registry,
    writeCertificate(certificate, 0),
    writeDevice({ ...device, currentSerial: serial }, known?.rev ?? 0),
  )
}

/** Looks each day, and says what was told when. */
async function told(registry: Registry, from: number, until: number, step = 1): Promise<string[]> {
  const lines: string[] = []
  for (let today = from; today <= until; today += step) {
    const before = (await registry.head()).audit.seq
    await noticeExpiring(registry, at(today))
    for (const entry of (await registry.auditAfter(before, 10)).map(decodeAudit)) {
      lines.push(`day ${today}: ${entry.action} ${entry.subject} ${entry.details?.daysLeft}`)
    }
  }
  return lines
}

test('30, 14, 7 and 1 days before its end is told of a certificate, once each, to the audit log and to brokers', () =>
  withRegistry(async (registry) => {
    await keep(registry, { serial: '01', from: 0, days: 365 })
    assert.deepEqual(await told(registry, 0, 400), [
      'day 335: certificate.expiring certificate:01 30',
      'day 351: certificate.expiring certificate:01 14',
      'day 358: certificate.expiring certificate:01 7',
      'day 364: certificate.expiring certificate:01 1',
    ])
    const facts = (await registry.feedAfter(0, 10)).map(decodeBody)
    const data = { serial: '01', fingerprint: '01'.repeat(32), deviceId: 'cam-1', notAfter: at(365, 0).toISOString() }
    assert.deepEqual(
      facts.map((fact) => [fact.type, fact.data]),
      Array(4).fill(['certificate.expiring', data]),
    )
    assert.equal((await getCertificate(registry, '01')).doc.noticeAt, undefined)
  }))

test('each notice is counted as the one it was, a late one as the last that was due', () =>
  withRegistry(async (registry) => {
    await keep(registry, { serial: '01', from: 0, days: 365 })
    await keep(registry, { serial: '02', from: 0, days: 370, deviceId: 'cam-2' })
    assert.deepEqual(await noticeExpiring(registry, at(330)), [])
    assert.deepEqual((await noticeExpiring(registry, at(360))).sort(), [14, 7])
    assert.deepEqual((await noticeExpiring(registry, at(364))).sort(), [1, 7])
    assert.deepEqual(await noticeExpiring(registry, at(364)), [])
  }))

test('nothing is told before a device has to have renewed, nor of what lives for a moment', () =>
  withRegistry(async (registry) => {
    await keep(registry, { serial: '01', from: 0, days: 30 })
    await keep(registry, { serial: '02', from: 0, days: 2, deviceId: 'cam-2' })
    assert.deepEqual(await told(registry, 0, 40), [
      'day 23: certificate.expiring certificate:01 7',
      'day 29: certificate.expiring certificate:01 1',
    ])
  }))

test('what was due while the service was down is told in one, and nothing of what has expired', () =>
  withRegistry(async (registry) => {
    await keep(registry, { serial: '01', from: 0, days: 365 })
    await keep(registry, { serial: '02', from: 0, days: 100, deviceId: 'cam-2' })
    assert.deepEqual(await told(registry, 360, 370, 10), ['day 360: certificate.expiring certificate:01 5'])
  }))

test('nothing is told of one that was replaced, revoked, or lost before its use, nor of a device that is out', () =>
  withRegistry(async (registry) => {
    await keep(registry, { serial: '01', from: 0, days: 90 })
    await keep(registry, { serial: '02', from: 60, days: 90 })
    const use = {
      at: at(61),
      overlapMs: 1e12,
      now: at(61),
      actor: 'broker:b',
      remoteAddress: '192.0.2.1',
      requestId: 'r',
    }
    await noteUse(registry, { serial: '02', ...use })
    await keep(registry, { serial: '03', from: 0, days: 90, deviceId: 'cam-2', status: 'revoked' })
    await keep(registry, { serial: '04', from: 0, days: 90, deviceId: 'cam-3' })
    await keep(registry, { serial: '05', from: 1, days: 365, deviceId: 'cam-3' })
    await keep(registry, { serial: '06', from: 0, days: 90, deviceId: 'cam-4' })
    const { doc, rev } = await getDevice(registry, 'cam-4')
    await put(registry, writeDevice({ ...doc, status: 'held' }, rev))
    assert.deepEqual(await told(registry, 62, 100), [])
  }))

test('of one that was renewed, and the new one never used, is told: the device may not have it', () =>
  withRegistry(async (registry) => {
    await keep(registry, { serial: '01', from: 0, days: 90, firstUsedAt: at(0).toISOString() })
    await keep(registry, { serial: '02', from: 60, days: 90 })
    assert.deepEqual(await told(registry, 61, 84), [
      'day 76: certificate.expiring certificate:01 14',
      'day 83: certificate.expiring certificate:01 7',
    ])
  }))
