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
import { type Registry, readAll, untilNoConflict } from '../registry/registry.ts'
import { listTokens, writeToken } from '../registry/tokens.ts'
import { watchKeys } from '../registry/watched-keys.ts'
import { carryOut, type Plan } from './plan.ts'

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

export async function barring<T>(deviceIds: readonly string[], as: Barred, work: () => Promise<T>): Promise<T> {
  for (const id of deviceIds) underWay.set(id, as)
  try {
    return await work()
  } finally {
    for (const id of deviceIds) underWay.delete(id)
  }
}

export type RevocationOrder = Asked & {
  id: DeviceId
  reason: RevocationReason
  /** What of the messages of a device of this profile becomes void. */
  purged: (profile: string) => readonly (keyof Purge)[]
}
export type TheftReport = Omit<RevocationOrder, 'reason'>

/**
 * Revokes a device: the device, every certificate, every unspent token and what waits for approval of it, the audit entry and the feed events in
 * one durable batch. Keys that were compromised are watched from then on. Doing it again changes nothing and answers the same.
 *
 * @throws FleetError `device_unknown`
 */
export const revokeDevice = (registry: Registry, input: RevocationOrder): Promise<Revocation> =>
  ending(registry, input, () => planRevocation(registry, input))

/**
 * Revokes a device that a thief may have, whatever became of it before, and opens an incident, in one durable batch. All keys
 * that it ever had a certificate for are watched. It comes back only when an operator says that it was recovered.
 *
 * @throws FleetError `device_unknown`
 */
export const reportStolen = (registry: Registry, input: TheftReport): Promise<Theft> =>
  ending(registry, input, () => planTheft(registry, input))

const ending = <T>(
  registry: Registry,
  input: TheftReport,
  plan: () => Promise<Plan<T>>,
): Promise<T & { feedSeq: number }> =>
  barring([input.id], 'device_revoked', () =>
    untilNoConflict(async () => {
      const planned = await plan()
      const requestId = `${input.requestId}-revoke`
      return { ...planned.answer, feedSeq: await carryOut(registry, [planned], { ...input, requestId }) }
    }, barringAttempts),
  )

/** @throws FleetError `device_unknown` */
export async function planRevocation(
  registry: Registry,
  input: RevocationOrder,
): Promise<Plan<Omit<Revocation, 'feedSeq'>>> {
  const { doc: device, rev } = await getDevice(registry, input.id)
  const holdings = await readHoldings(registry, input.id)
  if (device.status === 'revoked') return { answer: revokedBefore(device, holdings) }
  return endDevice(registry, { device, rev, holdings, action: 'device.revoked' }, input)
}

/** @throws FleetError `device_unknown` */
export async function planTheft(registry: Registry, report: TheftReport): Promise<Plan<Omit<Theft, 'feedSeq'>>> {
  const input: RevocationOrder = { ...report, reason: 'keyCompromise' }
  const { doc: device, rev } = await getDevice(registry, input.id)
  const holdings = await readHoldings(registry, input.id)
  const claim = await findClaim(registry, input.id)
  const known = claim === undefined ? {} : { claimCertificate: claim.doc.fingerprint }
  const stolenAt = device.stolenAt ?? input.now.toISOString()
  const about = { kind: 'stolen' as const, deviceId: device.id, openedAt: stolenAt }
  const theft = { ...known, stolenAt, alreadyStolen: device.stolenAt !== undefined, incident: incidentIdOf(about) }
  if (device.stolenAt !== undefined) return { answer: { ...revokedBefore(device, holdings), ...theft } }
  const stolen = { device: { ...device, stolenAt }, rev, holdings, action: 'device.stolen' }
  const { answer, change } = await endDevice(registry, stolen, input)
  const { profile, groups } = device
  const { certificates, tokensVoided, approvalsDeleted } = answer
  const details = { profile, groups, certificates, tokensVoided, approvalsDeleted, ...known }
  const opened: IncidentRecord = {
    id: theft.incident,
    ...about,
    openedBy: input.actor,
    evidence: [{ at: stolenAt, what: 'device.stolen', by: 'enroll', details }],
  }
  return {
    answer: { ...answer, ...theft },
    change: { ...change, writes: [...change.writes, writeIncident(opened, 0)] },
  }
}

type Holdings = Awaited<ReturnType<typeof readHoldings>>

/** All that a device has, and that could still get it in. */
async function readHoldings(registry: Registry, deviceId: DeviceId) {
  const certificates = await readAll((paging) => listCertificates(registry, { deviceId, ...paging }))
  const tokens = await readAll((paging) => listTokens(registry, { deviceId, ...paging }))
  const approvals = await readAll((paging) => listApprovals(registry, { openOf: deviceId, ...paging }))
  return { certificates, tokens, approvals, late: await findLateRenewal(registry, deviceId) }
}

function revokedBefore(
  { revokedAt, revocationReason }: DeviceRecord,
  { certificates }: Holdings,
): Omit<Revocation, 'feedSeq'> {
  return {
    revokedAt: revokedAt!,
    reason: revocationReason!,
    alreadyRevoked: true,
    certificates: certificates.filter(({ doc }) => doc.status === 'revoked').map(({ doc }) => doc.serial),
    tokensVoided: 0,
    approvalsDeleted: 0,
    keysWatched: 0,
  }
}

/** What ends a device, for the batch that also says why. One that was stolen has every certificate ended for that, former ones too. */
async function endDevice(
  registry: Registry,
  { device, rev, holdings, action }: { device: DeviceRecord; rev: number; holdings: Holdings; action: string },
  { id, reason, purged, actor, remoteAddress, requestId, now }: RevocationOrder,
): Promise<Required<Plan<Omit<Revocation, 'feedSeq'>>>> {
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
  const certificates = ended.map(({ doc }) => doc.serial)
  const counts = {
    tokensVoided: tokens.length,
    approvalsDeleted: holdings.approvals.length,
    keysWatched: watched.length,
  }
  const alreadyRevoked = device.status === 'revoked'
  return {
    answer: { revokedAt: revoked.revokedAt!, reason, alreadyRevoked, certificates, ...counts },
    change: {
      writes: [
        writeDevice(revoked, rev),
        ...ended.map(({ doc, rev }) => writeCertificate(revokedCertificate(doc, reason, revokedAt), rev)),
        ...tokens.map(({ doc, rev }) => writeToken({ ...doc, status: 'void' }, rev)),
        ...holdings.approvals.map(deleteApproval),
        ...(holdings.late === undefined ? [] : [deleteLateRenewal(holdings.late)]),
        ...watched,
      ],
      audit: {
        ...{ action, actor, subject: `device:${id}`, outcome: 'done', reason },
        details: { certificates, ...counts },
        remoteAddress,
        requestId,
      },
      feed: [deviceChanged(revoked), ...ended.map(({ doc }) => certificateRevoked(doc, reason))],
    },
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
