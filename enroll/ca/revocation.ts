import type { FeedFact, Purge } from '../../contract/feed.ts'
import type { DeviceId, RevocationReason } from '../../contract/ids.ts'
import { deleteApproval, listApprovals } from '../registry/approvals.ts'
import type { Asked } from '../registry/asked.ts'
import { type CertificateRecord, listCertificates, writeCertificate } from '../registry/certificates.ts'
import { findClaim } from '../registry/claims.ts'
import { type DeviceRecord, deviceChanged, getDevice, purging, writeDevice } from '../registry/devices.ts'
import type { Stored } from '../registry/engine.ts'
import { type IncidentRecord, incidentIdOf, writeIncident } from '../registry/incidents.ts'
import { deleteLateRenewal, findLateRenewal } from '../registry/late-renewals.ts'
import { type Registry, readAll, untilNoConflict, type Write } from '../registry/registry.ts'
import { listTokens, writeToken } from '../registry/tokens.ts'
import { watchKeys } from '../registry/watched-keys.ts'

export type Revocation = {
  revokedAt: string
  reason: string
  alreadyRevoked: boolean
  certificates: string[]
  tokensVoided: number
  approvalsDeleted: number
  /** Of keys that nobody is to use any more, those that were not watched before. */
  keysWatched: number
  /** The feed has it at this place: a broker that has applied it has put it in force. */
  feedSeq: number
}
/** What is true of a device that was stolen, beside that it is revoked. */
export type Theft = Revocation & {
  stolenAt: string
  alreadyStolen: boolean
  incident: string
  /** Fingerprint of the certificate that it once enrolled with and shares with others: the thief has that key too. */
  claimCertificate?: string
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
 * one durable batch. Keys that were compromised are watched from then on. Doing it again changes nothing and answers the same.
 *
 * @throws FleetError `device_unknown`
 */
export function revokeDevice(registry: Registry, input: RevocationOrder): Promise<Revocation> {
  return barring(input.id, 'device_revoked', () =>
    untilNoConflict(async () => {
      const { doc: device, rev } = await getDevice(registry, input.id)
      const holdings = await readHoldings(registry, input.id)
      if (device.status === 'revoked') return revokedBefore(registry, device, holdings)
      const ended = await endDevice(registry, { device, rev, holdings }, input)
      return { ...ended.result, feedSeq: await commitAs('device.revoked', registry, ended, input) }
    }, barringAttempts),
  )
}

/**
 * Revokes a device that a thief may have, whatever became of it before, and opens an incident, in one durable batch. All keys
 * that it ever had a certificate for are watched. It comes back only when an operator says that it was recovered.
 *
 * @throws FleetError `device_unknown`
 */
export function reportStolen(registry: Registry, asked: Omit<RevocationOrder, 'reason'>): Promise<Theft> {
  const input: RevocationOrder = { ...asked, reason: 'keyCompromise' }
  return barring(input.id, 'device_revoked', () => untilNoConflict(() => stealing(registry, input), barringAttempts))
}

async function stealing(registry: Registry, input: RevocationOrder): Promise<Theft> {
  const { doc: device, rev } = await getDevice(registry, input.id)
  const holdings = await readHoldings(registry, input.id)
  const claim = await findClaim(registry, input.id)
  const known = claim === undefined ? {} : { claimCertificate: claim.doc.fingerprint }
  const about = (stolenAt: string) => ({ kind: 'stolen' as const, deviceId: device.id, openedAt: stolenAt })
  const { stolenAt: before } = device
  if (before !== undefined) {
    const incident = incidentIdOf(about(before))
    const revocation = await revokedBefore(registry, device, holdings)
    return { ...revocation, ...known, stolenAt: before, alreadyStolen: true, incident }
  }
  const stolenAt = input.now.toISOString()
  const incident = incidentIdOf(about(stolenAt))
  const ended = await endDevice(registry, { device: { ...device, stolenAt }, rev, holdings }, input)
  const { profile, groups } = device
  const { certificates, tokensVoided, approvalsDeleted } = ended.result
  const details = { profile, groups, certificates, tokensVoided, approvalsDeleted, ...known }
  const opened: IncidentRecord = {
    id: incident,
    ...about(stolenAt),
    openedBy: input.actor,
    evidence: [{ at: stolenAt, what: 'device.stolen', by: 'enroll', details }],
  }
  ended.writes.push(writeIncident(opened, 0))
  const feedSeq = await commitAs('device.stolen', registry, ended, input)
  return { ...ended.result, ...known, stolenAt, alreadyStolen: false, incident, feedSeq }
}

type Holdings = Awaited<ReturnType<typeof readHoldings>>

/** All that a device has, and that could still get it in. */
async function readHoldings(registry: Registry, deviceId: DeviceId) {
  const certificates = await readAll((paging) => listCertificates(registry, { deviceId, ...paging }))
  const tokens = await readAll((paging) => listTokens(registry, { deviceId, ...paging }))
  const approvals = await readAll((paging) => listApprovals(registry, { openOf: deviceId, ...paging }))
  return { certificates, tokens, approvals, late: await findLateRenewal(registry, deviceId) }
}

async function revokedBefore(
  registry: Registry,
  { revokedAt, revocationReason }: DeviceRecord,
  { certificates }: Holdings,
): Promise<Revocation> {
  return {
    revokedAt: revokedAt!,
    reason: revocationReason!,
    alreadyRevoked: true,
    certificates: certificates.filter(({ doc }) => doc.status === 'revoked').map(({ doc }) => doc.serial),
    tokensVoided: 0,
    approvalsDeleted: 0,
    keysWatched: 0,
    feedSeq: (await registry.head()).feed.seq,
  }
}

type Ended = { result: Omit<Revocation, 'feedSeq'>; writes: Write[]; feed: FeedFact[] }

/** What ends a device, for the batch that also says why. One that was stolen has every certificate ended for that, former ones too. */
async function endDevice(
  registry: Registry,
  { device, rev, holdings }: { device: DeviceRecord; rev: number; holdings: Holdings },
  { id, reason, purged, now }: RevocationOrder,
): Promise<Ended> {
  const { heldAt: _, ...rest } = device
  const isStolen = device.stolenAt !== undefined
  const revokedAt = now.toISOString()
  const revoked: DeviceRecord = {
    ...rest,
    ...purging(device.purge, purged(device.profile), revokedAt),
    status: 'revoked',
    revokedAt: device.revokedAt ?? revokedAt,
    revocationReason: reason,
  }
  const ended = holdings.certificates.filter((one) => (isStolen ? one.doc.fingerprint !== undefined : isLive(one)))
  const tokens = holdings.tokens.filter(({ doc }) => doc.status === 'unspent' || doc.status === 'redeeming')
  const keys = reason === 'keyCompromise' ? (isStolen ? holdings.certificates : ended) : []
  const watched = await watchKeys(
    registry,
    keys.map(({ doc }) => doc.spkiHash),
    { deviceId: id, since: revokedAt },
  )
  return {
    result: {
      revokedAt: revoked.revokedAt!,
      reason,
      alreadyRevoked: device.status === 'revoked',
      certificates: ended.map(({ doc }) => doc.serial),
      tokensVoided: tokens.length,
      approvalsDeleted: holdings.approvals.length,
      keysWatched: watched.length,
    },
    writes: [
      writeDevice(revoked, rev),
      ...ended.map(({ doc, rev }) => writeCertificate(revokedCertificate(doc, reason, revokedAt), rev)),
      ...tokens.map(({ doc, rev }) => writeToken({ ...doc, status: 'void' }, rev)),
      ...holdings.approvals.map(deleteApproval),
      ...(holdings.late === undefined ? [] : [deleteLateRenewal(holdings.late)]),
      ...watched,
    ],
    feed: [deviceChanged(revoked), ...ended.map(({ doc }) => certificateRevoked(doc, reason))],
  }
}

/** Whether there is still something to revoke. */
export const isLive = ({ doc }: Stored<CertificateRecord>): boolean => doc.status === 'issued' || doc.status === 'held'

/** What was revoked before keeps its time: RFC 5280 5.3.2 asks for the first. */
export const revokedCertificate = (
  doc: CertificateRecord,
  reason: RevocationReason,
  at: string,
): CertificateRecord => ({
  ...doc,
  status: 'revoked',
  revokedAt: doc.status === 'revoked' ? doc.revokedAt! : at,
  revocationReason: reason,
})

export const certificateRevoked = (doc: CertificateRecord, reason: RevocationReason): FeedFact => ({
  type: 'certificate.revoked',
  data: {
    serial: doc.serial,
    fingerprint: doc.fingerprint!,
    deviceId: doc.deviceId!,
    reason,
    ...(reason === 'keyCompromise' ? { watchedKey: doc.spkiHash } : {}),
  },
})

async function commitAs(action: string, registry: Registry, ended: Ended, input: RevocationOrder): Promise<number> {
  const { id, reason, actor, remoteAddress, requestId, digest, now } = input
  const { certificates, tokensVoided, approvalsDeleted, keysWatched } = ended.result
  const { feedSeq } = await registry.commit({
    requestId: `${requestId}-revoke`,
    digest,
    writes: ended.writes,
    audit: [
      {
        action,
        actor,
        subject: `device:${id}`,
        outcome: 'done',
        reason,
        details: { certificates, tokensVoided, approvalsDeleted, keysWatched },
        remoteAddress,
        requestId,
      },
    ],
    feed: ended.feed,
    at: now,
  })
  return feedSeq
}
