import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { DeviceId } from '../../../contract/ids.ts'
import { readCertificateEvidence } from '../../../enroll/ra/current-certificate.ts'
import { type Label, Profiles } from '../../../enroll/ra/profiles.ts'
import { RegistrationAuthority } from '../../../enroll/ra/registration-authority.ts'
import type { CertificateRecord } from '../../../enroll/registry/certificates.ts'
import type { Registry } from '../../../enroll/registry/registry.ts'
import { parseCertificate } from '../../../pki/certificate.ts'
import { parseCsr } from '../../../pki/csr.ts'
import { createKeyAndCsr } from '../../../pki/x509.ts'
import { TestPki } from '../../harness/certificates.ts'
import { pemToDer, testConfiguration } from '../../harness/fleet.ts'

const label: Label = { name: 'default', profile: undefined, factory: undefined, claim: undefined }
const device = { id: 'sensor-1', profile: 'sensor', groups: [], status: 'active', createdAt: '' }

/** A registry of one device and `others`, which a test changes between two look-ups. */
const holding = (others: Record<string, unknown>): Registry =>
  ({
    find: async (kind: string) => {
      const doc = kind === 'device' ? device : others[kind]
      return doc === undefined ? undefined : { rev: 1, doc }
    },
    findMany: async (kind: string) => (others[`${kind}s`] as object[] | undefined) ?? [],
    list: async () => ({ items: [] }),
  }) as unknown as Registry

const asking = (csrDer: Buffer) => ({
  id: '01',
  remoteAddress: '192.0.2.1',
  channelBinding: () => undefined,
  label,
  request: parseCsr(csrDer),
  now: new Date(),
})

test('a certificate that is revoked or held after it was looked at, and before its device is, renews nothing', async () => {
  const certificate = pemToDer((await (await TestPki.create()).device('sensor-1')).pem)
  const { serial, fingerprint, subject } = parseCertificate(certificate)
  const issued: Partial<CertificateRecord> = {
    serial,
    fingerprint,
    kind: 'device',
    deviceId: 'sensor-1',
    status: 'issued',
  }
  const records: Record<string, unknown> = { certificate: issued }
  const registry = holding(records)
  const ra = new RegistrationAuthority(registry, new Profiles(testConfiguration()), undefined as never)
  const { csrDer } = await createKeyAndCsr({ subject: subject.der })
  const evidence = await readCertificateEvidence(registry, { certificate, certificateFault: undefined }, new Date())
  assert.equal((await ra.decide(evidence, asking(csrDer))).decision, 'approved')
  for (const [status, code] of [
    ['revoked', 'certificate_revoked'],
    ['held', 'device_held'],
  ]) {
    records.certificate = { ...issued, status }
    await assert.rejects(ra.decide(evidence, asking(csrDer)), { code })
  }
})

test('a serial number that is taken off the list, or turns out to be stolen, after it was looked at, and before its device is, enrolls nothing', async () => {
  const config = testConfiguration({ profiles: { sensor: { evidence: ['factory'] } } })
  const allowance = { label: 'default', serial: 'SN1', deviceId: 'sensor-1', createdAt: '' }
  const records: Record<string, unknown> = { allowance }
  const ra = new RegistrationAuthority(holding(records), new Profiles(config), undefined as never)
  const { csrDer } = await createKeyAndCsr({ commonName: 'sensor-1' })
  const proof = { kind: 'factory', deviceId: 'sensor-1' as DeviceId, serial: 'SN1', spkiHash: '0b' } as const
  const decide = () => ra.decide({ kind: 'enrollment', proofs: [proof] }, asking(csrDer))
  const decision = await decide()
  assert.ok(decision.decision === 'approved')
  assert.deepEqual(decision.approval.device.doc.factoryKeys, ['0b'], 'it is known by its factory key from then on')
  records.devices = [{ rev: 1, doc: { id: 'SN1', stolenAt: '2026-01-01T00:00:00Z' } }]
  await assert.rejects(decide(), { code: 'hardware_stolen' })
  records.devices = []
  records.allowance = { ...allowance, removedAt: '2026-01-01T00:00:00Z' }
  await assert.rejects(decide(), { code: 'device_not_allowed' })
})
