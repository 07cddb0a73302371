import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import type { FeedFact } from '../../contract/feed.ts'
import { readState } from '../../enroll/feed-state.ts'
import { type CertificateRecord, writeCertificate } from '../../enroll/registry/certificates.ts'
import { openDatabase } from '../../enroll/registry/database.ts'
import { writeDevice } from '../../enroll/registry/devices.ts'
import { writeIncident } from '../../enroll/registry/incidents.ts'
import { Registry } from '../../enroll/registry/registry.ts'
import { at, device } from '../suites/registry.ts'

const certificate = (serial: string, deviceId: string, more: Partial<CertificateRecord>): CertificateRecord => ({
  ...{ serial, kind: 'device', deviceId, profile: 'sensor', via: 'token', reservedAt: '2020-01-01T00:00:00.000Z' },
  ...{ status: 'issued', fingerprint: serial.repeat(32), spkiHash: serial.repeat(32), ...more },
})

test('certificates that ended before the time that is asked about are left out, but for keys that are watched', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fleetgate-state-'))
  try {
    await using registry = new Registry(await openDatabase(folder))
    const theft = { id: '0123456789ab', kind: 'stolen', deviceId: 'van', openedAt: '2021-01-01T00:00:00.000Z' } as const
    const [ended, good] = ['2022-01-01T00:00:00Z', '2030-01-01T00:00:00Z']
    const revoked = { status: 'revoked', revocationReason: 'keyCompromise' } as const
    const certificates = [
      certificate('0a', 'cam', { notAfter: ended }),
      certificate('0b', 'cam', { notAfter: good }),
      certificate('0c', 'van', { notAfter: ended, ...revoked }),
      certificate('0d', 'van', { notAfter: good, ...revoked, reservedAt: '2025-01-01T00:00:00.000Z' }),
      // Reserved, and of a broker: no device has them.
      { ...certificate('0e', 'cam', { status: 'reserved' }), fingerprint: undefined as never },
      { ...certificate('0f', 'cam', { notAfter: good }), deviceId: undefined as never },
    ]
    await registry.commit({
      requestId: 'fill',
      writes: [
        writeDevice(device('cam'), 0),
        writeDevice(device('van'), 0),
        writeIncident({ ...theft, openedBy: 'operator:test', evidence: [] }, 0),
        ...certificates.map((one) => writeCertificate(one, 0)),
      ],
      audit: [],
      at,
    })
    const factsOf = async (endedBefore?: Date): Promise<string[]> => {
      const facts: FeedFact[] = []
      for await (const some of readState(registry, { anchors: ['root'], endedBefore })) facts.push(...some)
      return facts.map(({ type, data }) => {
        if (type === 'device.changed') return `${data.id} ${data.stolen ? 'stolen' : data.status}`
        if (type === 'certificate.revoked') return `${data.serial} ${data.watchedKey ? 'watched' : data.reason}`
        return type === 'certificate.issued' ? data.serial : type
      })
    }
    const theftAgain = ['0c', '0c watched', '0d', '0d keyCompromise', 'van active']
    const begin = ['trust.changed', 'cam active', 'van stolen']
    assert.deepEqual(await factsOf(), [...begin, '0a', '0b', ...theftAgain.slice(0, 4), ...theftAgain])
    assert.deepEqual(await factsOf(at), [...begin, '0b', '0d', '0d keyCompromise', ...theftAgain])
  } finally {
    rmSync(folder, { recursive: true })
  }
})
