/** An operator's word that a device whose certificate has expired may renew with it, once and for a while. */
import type { DeviceId } from '../../contract/ids.ts'
import { FleetError } from '../../runtime/errors.ts'
import { isReplaced } from '../ca/supersession.ts'
import type { Asked } from '../registry/asked.ts'
import type { CertificateRecord } from '../registry/certificates.ts'
import { getDevice, writeDevice } from '../registry/devices.ts'
import {
  deleteLateRenewal,
  findLateRenewal,
  getLateRenewal,
  type LateRenewalRecord,
  writeLateRenewal,
} from '../registry/late-renewals.ts'
import { type Registry, untilNoConflict } from '../registry/registry.ts'
import type { Voucher } from '../registry/vouchers.ts'

/**
 * Gives a device the permission, in the place of one that it had.
 *
 * @throws FleetError `device_unknown`, `device_revoked`, `device_held`
 */
export function allowLateRenewal(
  registry: Registry,
  { deviceId, ttlMs }: { deviceId: DeviceId; ttlMs: number },
  asked: Asked,
): Promise<LateRenewalRecord> {
  const record: LateRenewalRecord = {
    deviceId,
    allowedAt: asked.now.toISOString(),
    allowedBy: asked.actor,
    expiresAt: new Date(asked.now.getTime() + ttlMs).toISOString(),
    status: 'unspent',
  }
  return untilNoConflict(async () => {
    const device = await getDevice(registry, deviceId)
    if (device.doc.status !== 'active') {
      const code = device.doc.status === 'held' ? 'device_held' : 'device_revoked'
      throw new FleetError(code, `${deviceId} is ${device.doc.status}; it cannot renew, late or not`)
    }
    const before = await findLateRenewal(registry, deviceId)
    const { replayed } = await registry.commit({
      requestId: `${asked.requestId}-late`,
      digest: asked.digest,
      // The device is written as it is: a revocation that comes in between makes this commit a loser.
      writes: [writeLateRenewal(record, before?.rev ?? 0), writeDevice(device.doc, device.rev)],
      audit: [
        {
          action: 'lateRenewal.allowed',
          actor: asked.actor,
          subject: `device:${deviceId}`,
          outcome: 'done',
          details: { expiresAt: record.expiresAt },
          remoteAddress: asked.remoteAddress,
          requestId: asked.requestId,
        },
      ],
      at: asked.now,
    })
    return replayed ? (await getLateRenewal(registry, deviceId)).doc : record
  })
}

/** @throws FleetError `late_renewal_unknown` */
export function withdrawLateRenewal(registry: Registry, deviceId: DeviceId, asked: Asked): Promise<LateRenewalRecord> {
  return untilNoConflict(async () => {
    const known = await getLateRenewal(registry, deviceId)
    await registry.commit({
      requestId: `${asked.requestId}-late`,
      digest: asked.digest,
      writes: [deleteLateRenewal(known)],
      audit: [
        {
          action: 'lateRenewal.withdrawn',
          actor: asked.actor,
          subject: `device:${deviceId}`,
          outcome: 'done',
          details: { was: known.doc.status },
          remoteAddress: asked.remoteAddress,
          requestId: asked.requestId,
        },
      ],
      at: asked.now,
    })
    return known.doc
  })
}

/**
 * What lets a certificate that has expired be renewed: good for the last one that its device has used, and for one key.
 *
 * @throws FleetError `certificate_expired`
 */
export async function lateRenewalVoucher(
  registry: Registry,
  certificate: CertificateRecord,
  now: Date,
): Promise<Voucher> {
  const { deviceId, notAfter, serial } = certificate
  const context = { serial, claimedId: deviceId }
  const expired = `the certificate expired at ${notAfter}`
  const permission = deviceId === undefined ? undefined : await findLateRenewal(registry, deviceId)
  if (permission === undefined) throw new FleetError('certificate_expired', expired, { context })
  const { doc, rev } = permission
  // One that was begun in time may end late: the serial that it reserved waits for it.
  if (doc.status === 'unspent' && new Date(doc.expiresAt) <= now) {
    const sentence = `${expired}, and the permission to renew it late ran out at ${doc.expiresAt}`
    throw new FleetError('certificate_expired', sentence, { context })
  }
  if (await isReplaced(registry, certificate)) {
    const sentence = `${expired}, and the device has used a newer one since: only that can be renewed`
    throw new FleetError('certificate_expired', sentence, { context })
  }
  return { kind: 'lateRenewal', id: doc.deviceId, doc, rev }
}

/** @throws FleetError `late_renewal_spent` */
export function requireLateRenewalFor({ doc, id }: Voucher, spkiHash: string): void {
  if (doc.spkiHash === undefined || doc.spkiHash === spkiHash) return
  throw new FleetError('late_renewal_spent', 'the permission to renew late was used for another key', {
    context: { deviceId: id },
  })
}
