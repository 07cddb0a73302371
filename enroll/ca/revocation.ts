import type { FeedFact, Purge } from '../../contract/feed.ts'
import type { DeviceId, RevocationReason } from '../../contract/ids.ts'
import { deleteApproval, listApprovals } from '../registry/approvals.ts'
import type { Asked } from '../registry/asked.ts'
import { listCertificates, writeCertificate } from '../registry/certificates.ts'
import { deviceChanged, getDevice, purging, writeDevice } from '../registry/devices.ts'
import { deleteLateRenewal, findLateRenewal } from '../registry/late-renewals.ts'
import { type Registry, readAll, untilNoConflict, type Write } from '../registry/registry.ts'
import { listTokens, writeToken } from '../registry/tokens.ts'

export type Revocation = {
  revokedAt: string
  reason: string
  alreadyRevoked: boolean
  certificates: string[]
  tokensVoided: number
  /** The feed has it at this place: a broker that has applied it has put it in force. */
  feedSeq: number
}

// What was begun before the revocation may still make a few attempts lose.
export const barringAttempts = 25

/**
 * Devices that are being revoked or put on hold in this process: the CA issues nothing to them meanwhile. Without it a device
 * that renews without end would change its own record faster than a revocation can read it.
 */
const underWay = new Map<string, Barred>()
export type Barred = 'device_revoked' | 'device_held'
export const findBarred = (deviceId: string): Barred | undefined => underWay.get(deviceId)

export async function barring<T>(deviceId: string, as: Barred, work: () => Promise<T>): Promise<T> {
  underWay.set(deviceId, as)
  try {
    return await work()
  } finally {
    underWay.delete(deviceId)
  }
}

export type RevocationOrder = Asked & {
  id: DeviceId
  reason: RevocationReason
  /** What of the messages of a device of this profile becomes void. */
  purged: (profile: string) => readonly (keyof Purge)[]
}

/**
 * Revokes a device: the device, every certificate, every unspent token and what waits for approval of it, the audit entry and the feed events in
 * one durable batch. Doing it again changes nothing and answers the same.
 *
 * @throws FleetError `device_unknown`
 */
export function revokeDevice(registry: Registry, input: RevocationOrder): Promise<Revocation> {
  return barring(input.id, 'device_revoked', () => untilNoConflict(() => revoke(registry, input), barringAttempts))
}

async function revoke(registry: Registry, input: RevocationOrder): Promise<Revocation> {
  const { id, reason, now } = input

  const device = await getDevice(registry, id)
  const certificates = await readAll((paging) => listCertificates(registry, { deviceId: id, ...paging }))
  if (device.doc.status === 'revoked') {
    return {
      revokedAt: device.doc.revokedAt!,
      reason: device.doc.revocationReason!,
      alreadyRevoked: true,
      certificates: certificates.filter(({ doc }) => doc.status === 'revoked').map(({ doc }) => doc.serial),
      tokensVoided: 0,
      feedSeq: (await registry.head()).feed.seq,
    }
  }
  const revokedAt = now.toISOString()
  const issued = certificates.filter(({ doc }) => doc.status === 'issued' || doc.status === 'held')
  const tokens = (await readAll((paging) => listTokens(registry, { deviceId: id, ...paging }))).filter(
    ({ doc }) => doc.status === 'unspent' || doc.status === 'redeeming',
  )
  const { heldAt: _, ...known } = device.doc
  const purge = purging(device.doc.purge, input.purged(device.doc.profile), revokedAt)
  const revoked = { ...known, ...purge, status: 'revoked' as const, revokedAt, revocationReason: reason }
  const late = await findLateRenewal(registry, id)
  const approvals = await readAll((paging) => listApprovals(registry, { openOf: id, ...paging }))
  const writes: Write[] = [
    writeDevice(revoked, device.rev),
    ...issued.map(({ doc, rev }) =>
      writeCertificate({ ...doc, status: 'revoked', revokedAt, revocationReason: reason }, rev),
    ),
    ...tokens.map(({ doc, rev }) => writeToken({ ...doc, status: 'void' }, rev)),
    ...approvals.map(deleteApproval),
    ...(late === undefined ? [] : [deleteLateRenewal(late)]),
  ]
  const feed: FeedFact[] = [
    deviceChanged(revoked),
    ...issued.map(
      ({ doc }): FeedFact => ({
        type: 'certificate.revoked',
        data: { serial: doc.serial, fingerprint: doc.fingerprint!, deviceId: id, reason },
      }),
    ),
  ]
  const { feedSeq } = await registry.commit({
    requestId: `${input.requestId}-revoke`,
    digest: input.digest,
    writes,
    audit: [
      {
        action: 'device.revoked',
        actor: input.actor,
        subject: `device:${id}`,
        outcome: 'done',
        reason,
        details: { certificates: issued.map(({ doc }) => doc.serial), tokensVoided: tokens.length },
        remoteAddress: input.remoteAddress,
        requestId: input.requestId,
      },
    ],
    feed,
    at: now,
  })
  return {
    revokedAt,
    reason,
    alreadyRevoked: false,
    certificates: issued.map(({ doc }) => doc.serial),
    tokensVoided: tokens.length,
    feedSeq,
  }
}
