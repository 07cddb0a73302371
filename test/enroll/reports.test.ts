import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Alert, BrokerReport, SessionCut } from '../../contract/broker-reports.ts'
import { decodeBody } from '../../contract/feed.ts'
import { Alerts } from '../../enroll/alerts.ts'
import { CloneDesk } from '../../enroll/clone-desk.ts'
import { decodeAudit } from '../../enroll/registry/audit-log.ts'
import { type CertificateRecord, writeCertificate } from '../../enroll/registry/certificates.ts'
import { type DeviceRecord, getDevice, writeDevice } from '../../enroll/registry/devices.ts'
import type { Registry } from '../../enroll/registry/registry.ts'
import { createReportDesk } from '../../enroll/reports.ts'
import { createLog } from '../../runtime/log.ts'
import { put, withRegistry } from './registry/with-registry.ts'

const now = new Date('2026-03-01T00:00:00Z')
const clock = (): Date => now
const log = createLog('enroll', 'silent')

const clone = (deviceId: string): Alert => ({
  type: 'alert',
  kind: 'clone',
  at: now.toISOString(),
  listener: 'mqtts',
  remoteAddress: '192.0.2.7',
  detail: 'duel',
  count: 1,
  deviceId,
})
const device = (id: string, status: DeviceRecord['status']): DeviceRecord => ({
  id,
  profile: 'camera',
  groups: [],
  status,
  createdAt: now.toISOString(),
})

async function tell(registry: Registry, maxClonesHeld: number, ...reports: BrokerReport[]): Promise<string[]> {
  const alerts = new Alerts({ registry, clock, log })
  const clones = new CloneDesk({ registry, alerts, maxHeld: maxClonesHeld, clock, log })
  const desk = createReportDesk({ registry, alerts, clones, overlapMs: 0, clock })
  for (const [n, report] of reports.entries()) await desk({ broker: 'broker-1', id: `0000-${n}`, report })
  const entries = (await registry.auditAfter(0, 10)).map(decodeAudit)
  return entries.map(({ action, actor, subject }) => `${action} ${actor} ${subject}`)
}

test('a device whose key is used in two places is put on hold where that is wanted, once, and alerted of in any case', () =>
  withRegistry(async (registry) => {
    await put(registry, writeDevice(device('cam-1', 'active'), 0))
    assert.deepEqual(await tell(registry, 0, clone('cam-1')), ['alert.raised broker:broker-1 device:cam-1'])
    assert.equal((await getDevice(registry, 'cam-1')).doc.status, 'active')
    assert.deepEqual(await tell(registry, 2, clone('cam-1'), clone('cam-1')), [
      'alert.raised broker:broker-1 device:cam-1',
      'device.held broker:broker-1 device:cam-1',
      'alert.raised broker:broker-1 device:cam-1',
    ])
    assert.equal((await getDevice(registry, 'cam-1')).doc.status, 'held')
  }))

test('no more are put on hold in an hour than may be, whatever brokers say', () =>
  withRegistry(async (registry) => {
    const ids = ['cam-1', 'cam-2', 'cam-3']
    for (const id of ids) await put(registry, writeDevice(device(id, 'active'), 0))
    await tell(registry, 2, ...ids.map(clone))
    const states = await Promise.all(ids.map(async (id) => (await getDevice(registry, id)).doc.status))
    assert.deepEqual(states, ['held', 'held', 'active'])
  }))

test('one that is revoked stays so, and one that there is not is alerted of alone', () =>
  withRegistry(async (registry) => {
    await put(registry, writeDevice(device('cam-1', 'revoked'), 0))
    const told = await tell(registry, 2, clone('cam-1'), clone('cam-2'))
    assert.deepEqual(told, ['alert.raised broker:broker-1 device:cam-1', 'alert.raised broker:broker-1 device:cam-2'])
    assert.equal((await getDevice(registry, 'cam-1')).doc.status, 'revoked')
  }))

test('a key that is used at two brokers is alerted of once a minute, with both places, and its device held where that is wanted', () =>
  withRegistry(async (registry) => {
    await put(registry, writeDevice(device('cam-1', 'active'), 0))
    const alerts = new Alerts({ registry, clock, log })
    const clones = new CloneDesk({ registry, alerts, maxHeld: 1, clock, log })
    const sideAt = (broker: string, remoteAddress: string) => {
      const counters = { packetsIn: 1, bytesIn: 1, packetsOut: 1, bytesOut: 1 }
      const peer = { clientId: 'cam-1', deviceId: 'cam-1', listener: 'mqtts', remoteAddress, isResumed: false }
      return { broker, session: { ...peer, ...counters, connectedAt: now.toISOString() } }
    }
    const sides = [sideAt('broker-1', '192.0.2.7'), sideAt('broker-2', '198.51.100.7')] as const
    for (const requestId of ['one', 'two'])
      await clones.met({ key: 'ab'.repeat(32), rule: 'duel', sides, suspended: true, requestId })
    const entries = (await registry.auditAfter(0, 10)).map(decodeAudit)
    assert.deepEqual(
      entries.map(({ action, actor }) => `${action} ${actor}`),
      ['alert.raised system', 'device.held system'],
    )
    assert.deepEqual(entries[0]!.details!.places, [
      `cam-1 from 192.0.2.7 since ${now.toISOString()} at broker-1`,
      `cam-1 from 198.51.100.7 since ${now.toISOString()} at broker-2`,
    ])
    const [told] = (await registry.feedAfter(0, 10)).map(decodeBody)
    assert.ok(told?.type === 'alert.raised' && told.data.kind === 'clone' && told.data.deviceId === 'cam-1')
  }))

test('what a broker has decided about a certificate is in the audit log, with why and what came of it', () =>
  withRegistry(async (registry) => {
    const verdict = (action: 'reject' | 'quarantine' | 'grace'): BrokerReport => ({
      type: 'verdict',
      at: now.toISOString(),
      listener: 'mqtts',
      remoteAddress: '192.0.2.7',
      deviceId: 'cam-1',
      serial: '0a',
      fingerprint: 'ab'.repeat(32),
      verification: 'expired',
      action,
      reason: 'certificate_expired',
      detail: 'the certificate expired at noon',
      count: 1,
    })
    const told = await tell(registry, 0, verdict('reject'), verdict('quarantine'), verdict('grace'))
    assert.deepEqual(told, [
      'connection.refused broker:broker-1 device:cam-1',
      'connection.quarantined broker:broker-1 device:cam-1',
      'connection.tolerated broker:broker-1 device:cam-1',
    ])
    const [refused] = (await registry.auditAfter(0, 1)).map(decodeAudit)
    assert.deepEqual([refused?.outcome, refused?.reason], ['refused', 'certificate_expired'])
    assert.partialDeepStrictEqual(refused?.details, {
      verification: 'expired',
      fingerprint: 'ab'.repeat(32),
      serial: '0a',
    })
  }))

test('what a broker knows of a revocation that was lost here is noted, and revokes nobody', () =>
  withRegistry(async (registry) => {
    await put(registry, writeDevice(device('cam-1', 'active'), 0))
    const certificates = [{ fingerprint: 'ab'.repeat(32), reason: 'keyCompromise' }]
    const report = {
      type: 'revocation.kept',
      at: now.toISOString(),
      deviceId: 'cam-1',
      status: 'revoked',
      certificates,
    }
    const told = await tell(registry, 0, report as BrokerReport)
    assert.deepEqual(told, ['revocation.kept broker:broker-1 device:cam-1'])
    const [noted] = (await registry.auditAfter(0, 1)).map(decodeAudit)
    assert.partialDeepStrictEqual(noted?.details, {
      status: 'revoked',
      certificates: [`${'ab'.repeat(32)} keyCompromise`],
    })
    assert.equal((await getDevice(registry, 'cam-1')).doc.status, 'active')
  }))

const ownedBy = (serial: string, more: Partial<CertificateRecord>): CertificateRecord => ({
  ...{ serial, kind: 'device', deviceId: 'cam-1', profile: 'camera', label: 'default', status: 'issued' },
  ...{ spkiHash: serial, fingerprint: serial.repeat(32), reservedAt: now.toISOString(), via: 'reenroll' },
  ...{ issuedAt: `2026-02-0${Number(serial)}T00:00:00.000Z`, notAfter: '2027-01-01T00:00:00.000Z' },
  ...more,
})
const about = (serial: string, remoteAddress: string) => ({
  ...{ at: now.toISOString(), listener: 'mqtts', remoteAddress, deviceId: 'cam-1' },
  ...{ serial, fingerprint: serial.repeat(32), reason: 'certificate_revoked' },
})
const counts = { tookMs: 1, packetsIn: 0, bytesIn: 0, packetsOut: 0, bytesOut: 0, publish: [], subscribe: [] }
const cutOf = (serial: string, remoteAddress: string): SessionCut => ({
  ...{ type: 'session.cut', ...about(serial, remoteAddress), state: 'live', isResumed: false },
  ...{ connectedAt: now.toISOString(), ...counts },
})

test('who still uses a replaced certificate elsewhere, or one that never came, is told of as a clone', () =>
  withRegistry(async (registry) => {
    await put(registry, writeDevice(device('cam-1', 'active'), 0))
    const used = { firstUsedAt: now.toISOString(), firstUsedFrom: '192.0.2.7' }
    const ended = { status: 'revoked', revocationReason: 'superseded', replacedBy: '03' } as const
    await put(registry, writeCertificate(ownedBy('01', { ...used, ...ended }), 0))
    await put(registry, writeCertificate(ownedBy('02', { ...ended, renews: '01' }), 0))
    await put(registry, writeCertificate(ownedBy('03', { ...used, renews: '01' }), 0))
    const verdict = (serial: string, remoteAddress: string): BrokerReport => ({
      ...{ type: 'verdict', ...about(serial, remoteAddress), verification: 'revoked', action: 'reject' },
      ...{ detail: 'revoked', count: 1 },
    })
    const there = '198.51.100.7'
    const clones = (told: string[]) => told.filter((line) => /alert|held/.test(line))
    assert.deepEqual(clones(await tell(registry, 0, cutOf('01', '192.0.2.7'), verdict('02', '192.0.2.7'))), [])
    assert.deepEqual(
      clones(await tell(registry, 0, verdict('01', there), cutOf('03', there))),
      [],
      'it was used before',
    )
    await tell(registry, 0, cutOf('01', there), verdict('02', '198.51.100.8'))
    const entries = (await registry.auditAfter(0, 20)).map(decodeAudit)
    const alerts = entries.filter(({ action }) => action === 'alert.raised')
    assert.deepEqual(
      alerts.map(({ remoteAddress, details }) => [remoteAddress, details?.kind, details?.serial, details?.other]),
      [
        [there, 'clone', '01', '03'],
        ['198.51.100.8', 'clone', '02', '03'],
      ],
    )
    assert.equal((await getDevice(registry, 'cam-1')).doc.status, 'active')
    await tell(registry, 1, { ...cutOf('01', there), at: '2026-03-01T00:00:01Z' })
    assert.equal((await getDevice(registry, 'cam-1')).doc.status, 'held', 'where that is wanted')
  }))

test('two certificates that were renewed from one and are both used are told of as a clone', () =>
  withRegistry(async (registry) => {
    await put(registry, writeDevice(device('cam-1', 'active'), 0))
    await put(registry, writeCertificate(ownedBy('01', { firstUsedAt: now.toISOString() }), 0))
    for (const serial of ['02', '03']) await put(registry, writeCertificate(ownedBy(serial, { renews: '01' }), 0))
    const use = (serial: string): BrokerReport => ({ type: 'certificate.used', ...about(serial, '192.0.2.7') })
    const told = await tell(registry, 1, use('02'), use('03'))
    assert.deepEqual(told, [
      'certificate.used broker:broker-1 certificate:02',
      'certificate.used broker:broker-1 certificate:03',
      'alert.raised broker:broker-1 device:cam-1',
    ])
    assert.equal((await getDevice(registry, 'cam-1')).doc.status, 'active', 'of one network they may be two programs')
  }))

test('of a device that there is not neither an incident nor a list of its connections is kept', () =>
  withRegistry(async (registry) => {
    await put(registry, writeDevice(device('cam-1', 'active'), 0))
    const alerts = new Alerts({ registry, clock, log })
    const clones = new CloneDesk({ registry, alerts, maxHeld: 0, clock, log })
    const desk = createReportDesk({ registry, alerts, clones, overlapMs: 0, clock })
    const at = now.toISOString()
    for (const deviceId of ['cam-1', 'cam-2']) {
      const peer = { deviceId, listener: 'mqtts', remoteAddress: '192.0.2.7' }
      const cut: SessionCut = {
        ...{ type: 'session.cut', at, reason: 'device_revoked', ...peer, state: 'live', isResumed: false },
        ...{ connectedAt: at, ...counts },
      }
      await desk({ broker: 'broker-1', id: `${deviceId}-1`, report: clone(deviceId) })
      await desk({ broker: 'broker-1', id: `${deviceId}-2`, report: cut })
    }
    const kept = async (kind: 'incident' | 'cuts') => {
      const { items } = await registry.list(kind, { kind }, { limit: 10 })
      return items.map(({ doc }) => doc.deviceId)
    }
    assert.deepEqual([await kept('incident'), await kept('cuts')], [['cam-1'], ['cam-1']])
    assert.equal((await registry.auditAfter(0, 10)).length, 4, 'what was said is on record')
  }))

test('whoever has a stolen key is told of once a minute, from however many addresses of a /64', () =>
  withRegistry(async (registry) => {
    const alerts = new Alerts({ registry, clock, log })
    const told: string[] = []
    alerts.raise = async ({ remoteAddress }) => void told.push(remoteAddress)
    const use = { spkiHash: 'ab', deviceId: 'cam-1', where: 'handshake', path: '/', requestId: 'r', at: now } as const
    for (const remoteAddress of ['2001:db8::1', '2001:db8::2', '2001:db8:0:1::1'])
      alerts.keyUsed({ ...use, remoteAddress })
    assert.deepEqual(told, ['2001:db8::1', '2001:db8:0:1::1'])
  }))
