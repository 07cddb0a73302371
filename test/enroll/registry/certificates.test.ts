import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  type CertificateRecord,
  findCertificate,
  getCertificate,
  listCertificates,
  writeCertificate,
} from '../../../enroll/registry/certificates.ts'
import { readAll } from '../../../enroll/registry/registry.ts'
import { at } from '../../suites/registry.ts'
import { put, withRegistry } from './with-registry.ts'

const certificate = (serial: string, more: Partial<CertificateRecord> = {}): CertificateRecord => ({
  serial,
  kind: 'device',
  profile: 'sensor',
  status: 'reserved',
  spkiHash: 'ab',
  reservedAt: at.toISOString(),
  via: 'token',
  ...more,
})

test('a certificate is found by serial; one that is not there is undefined, or certificate_unknown', () =>
  withRegistry(async (registry) => {
    await put(registry, writeCertificate(certificate('0a'), 0))
    assert.deepEqual(await getCertificate(registry, '0a'), { rev: 1, doc: certificate('0a') })
    assert.equal(await findCertificate(registry, '0b'), undefined)
    await assert.rejects(getCertificate(registry, '0b'), { code: 'certificate_unknown' })
  }))

test('certificates are listed all, by device, and by what expires first', () =>
  withRegistry(async (registry) => {
    await put(
      registry,
      writeCertificate(certificate('01', { deviceId: 'cam-1', notAfter: '2026-05-01T00:00:00.000Z' }), 0),
      writeCertificate(certificate('02', { deviceId: 'cam-1', notAfter: '2026-04-01T00:00:00Z' }), 0),
      writeCertificate(certificate('03', { deviceId: 'cam-10', notAfter: '2026-04-01T00:00:00.000Z' }), 0),
      writeCertificate(certificate('04', { kind: 'server', notAfter: '2026-03-01T00:00:00.000Z' }), 0),
      writeCertificate(certificate('05', { deviceId: 'cam-1' }), 0),
    )
    const listed = async (filter: { deviceId?: string; expiresFrom?: Date; expiresBefore?: Date }): Promise<string[]> =>
      (await readAll((paging) => listCertificates(registry, { ...filter, ...paging, limit: 1 }))).map(
        ({ doc }) => doc.serial,
      )
    assert.deepEqual(await listed({}), ['01', '02', '03', '04', '05'])
    assert.deepEqual(await listed({ deviceId: 'cam-1' }), ['01', '02', '05'])
    assert.deepEqual(await listed({ expiresBefore: new Date('2026-05-01T00:00:00Z') }), ['04', '02', '03'])
    assert.deepEqual(await listed({ expiresBefore: new Date('2026-05-01T00:00:00.001Z') }), ['04', '02', '03', '01'])
    assert.deepEqual(await listed({ deviceId: 'cam-1', expiresBefore: new Date('2026-04-15T00:00:00Z') }), ['02'])
    const [expiresFrom, expiresBefore] = [new Date('2026-04-01T00:00:00Z'), new Date('2026-05-02T00:00:00Z')]
    assert.deepEqual(await listed({ expiresFrom, expiresBefore }), ['02', '03', '01'])
    assert.deepEqual(await listed({ expiresFrom: new Date('2026-04-01T00:00:00.001Z'), expiresBefore }), ['01'])
    assert.deepEqual(await listed({ deviceId: 'cam-1', expiresFrom: new Date('2026-04-02T00:00:00Z') }), ['01'])
  }))
