import type { FeedFact, Purge } from '../../contract/feed.ts'
import type { DeviceId, RevocationReason } from '../../contract/ids.ts'
import { isFleetError } from '../../runtime/errors.ts'
import { deleteApproval, listApprovals } from '../registry/approvals.ts'
import type { Asked } from '../registry/asked.ts'
import { type CertificateRecord, listCertificates, writeCertificate } from '../registry/certificates.ts'
import { findClaim } from '../registry/claims.ts'
import { type DeviceRecord, deviceChanged, getDevice, purging, writeDevice } from '../registry/devices.ts'
import type { Stored } from '../registry/engine.ts'
import { listSharers } from '../registry/hardware.ts'
import { type IncidentRecord, incidentIdOf, writeIncident } from '../registry/incidents.ts'
import { deleteLateRenewal, findLateRenewal } from '../registry/late-renewals.ts'
import { type Registry, readAll, untilNoConflict } from '../registry/registry.ts'
import { listTokens, writeToken } from '../registry/tokens.ts'
import { watchKeys } from '../registry/watched-keys.ts'
import { type Bar, barring, barringAttempts } from './barring.ts'
import { planHold } from './hold.ts'
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
  /** Devices that came in with a factory certificate for the same key, which are on hold: it is the same hardware. */
  sameHardware?: string[]
  /** That came in by the same serial number, and are left as they are: it may be that of another factory's hardware. */
  sameSerialNumber?: string[]
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
 * one durable batch. Keys that were compromised are watched from then on, also where the device was revoked for another reason
 * before. Doing it again changes nothing and answers the same.
 *
 * @throws FleetError `device_unknown`
 */
export const revokeDevice = (registry: Registry, input: RevocationOrder): Promise<Revocation> =>
  ending(registry, input, () => planRevocation(registry, input))

/**
 * Revokes a device that a thief may have, whatever became of it before, and opens an incident, in one durable batch. All keys
 * that it ever had a certificate for are watched. It comes back only when an operator says that it was recovered. What is the
 * same hardware under another name is put on hold with it.
 *
 * @throws FleetError `device_unknown`
 */
export const reportStolen = (registry: Registry, input: TheftReport): Promise<Theft> =>
  ending(registry, input, async (bar) => {
    const planned = await planTheft(registry, input)
    bar(planned.answer.sameHardware ?? [], 'device_held')
    return planned
  })

const ending = <T>(
  registry: Registry,
  input: TheftReport,
  plan: (bar: Bar) => Promise<Plan<T>>,
): Promise<T & { feedSeq: number }> =>
  barring([input.id], 'device_revoked', (bar) =>
    untilNoConflict(async () => {
      const requestId = `${input.requestId}-revoke`
      const { plans, feedSeq } = await carryOut(registry, async () => [await plan(bar)], { ...input, requestId })
      return { ...plans[0]!.answer, feedSeq }
    }, barringAttempts),
  )

/** @throws FleetError `device_unknown` */
export async function planRevocation(
  registry: Registry,
  input: RevocationOrder,
): Promise<Plan<Omit<Revocation, 'feedSeq'>>> {
  const { doc: device, rev } = await getDevice(registry, input.id)
  const holdings = await readHoldings(registry, input.id)
  // That its key is in other hands may be known later than that the device is out, and counts from then on.
  const isNews = input.reason === 'keyCompromise' && device.revocationReason !== 'keyCompromise'
  if (device.status === 'revoked' && !isNews) return { answer: revokedBefore(device, holdings) }
  return endDevice(registry, { device, rev, holdings, action: 'device.revoked' }, input)
}

/** @throws FleetError `device_unknown` */
export async function planTheft(registry: Registry, report: TheftReport): Promise<Plan<Omit<Theft, 'feedSeq'>>> {
  const input: RevocationOrder = { ...report, reason: 'keyCompromise' }
  const { doc: device, rev } = await getDevice(registry, input.id)
  const holdings = await readHoldings(registry, input.id)
  const claim = await findClaim(registry, input.id)
  const { byKey, bySerial } = await listSharers(registry, device)
  // Of a theft that was reported before, those that an operator has enabled since are not on hold.
  const concerned = device.stolenAt === undefined ? byKey : byKey.filter(({ doc }) => doc.status === 'held')
  const [sameHardware, sameSerialNumber] = [concerned, bySerial].map((some) => some.map(({ doc }) => doc.id))
  const known = {
    ...(claim === undefined ? {} : { claimCertificate: claim.doc.fingerprint }),
    ...(concerned.length === 0 ? {} : { sameHardware }),
    ...(bySerial.length === 0 ? {} : { sameSerialNumber }),
  }
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
    // Whether the thief has it under that name too a person can say, and take it back.
    also: await Promise.all(
      byKey.map(({ doc }) => planHoldUnlessRevoked(registry, { ...input, id: doc.id as DeviceId })),
    ),
  }
}

/** Who is revoked at this very moment is out, and no reason to leave a theft unsaid. */
const planHoldUnlessRevoked = (registry: Registry, input: TheftReport): Promise<Plan<unknown>> =>
  planHold(registry, 'held', input).catch((error: unknown) => {
    if (isFleetError(error, 'conflict')) return { answer: undefined }
    throw error
  })

type Holdings = Awaited<ReturnType<typeof readHoldings>>

/** All that a device has, and that could still get it in. */
async function readHoldings(registry: Registry, deviceId: DeviceId) {
  // Beside each other: each is read on threads, and to come by one takes longer than to read.
  const [certificates, tokens, approvals, late] = await Promise.all([
    readAll((paging) => listCertificates(registry, { deviceId, ...paging })),
    readAll((paging) => listTokens(registry, { deviceId, ...paging })),
    readAll((paging) => listApprovals(registry, { openOf: deviceId, ...paging })),
    findLateRenewal(registry, deviceId),
  ])
  return { certificates, tokens, approvals, late }
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
): Promise<Required<Omit<Plan<Omit<Revocation, 'feedSeq'>>, 'also'>>> {
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
  const endedWithIt = ({ doc }: Stored<CertificateRecord>): boolean =>
    doc.status === 'revoked' && device.revokedAt !== undefined && doc.revokedAt === device.revokedAt
  const ended = holdings.certificates.filter((one) =>
    isStolen ? one.doc.fingerprint !== undefined : isLive(one) || endedWithIt(one),
  )
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
