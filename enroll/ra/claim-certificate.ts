import type { ClaimSettings } from '../../contract/configuration.ts'
import type { DeviceId } from '../../contract/ids.ts'
import { problems } from '../../contract/problems.ts'
import { type CertificateFacts, parseCertificate } from '../../pki/certificate.ts'
import { isIssuedBy } from '../../pki/issued-by.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import type { EdgeRequest } from '../../runtime/https.ts'
import type { ClaimRecord } from '../registry/claims.ts'
import type { DeviceRecord } from '../registry/devices.ts'
import type { Stored } from '../registry/engine.ts'
import type { Voucher } from '../registry/vouchers.ts'
import { readAuthorities, requireClientCertificate } from './factory-certificate.ts'

/** What a label takes for a claim certificate: one that many devices share from birth. */
export type ClaimTrust = { authorities: readonly CertificateFacts[]; fingerprints: ReadonlySet<string> }
/** It proves where a device comes from, and not which one it is. */
export type ClaimProof = { kind: 'claim'; fingerprint: string }

export const readClaimTrust = ({ authorities, fingerprints }: ClaimSettings, where: string): ClaimTrust => ({
  authorities: authorities === undefined ? [] : readAuthorities(authorities, where),
  fingerprints: new Set(fingerprints),
})

/**
 * @returns undefined when the certificate of this request is no claim certificate of the label
 * @throws FleetError `certificate_expired`, `certificate_not_yet_valid`, `certificate_wrong_usage`
 */
export function findClaimProof(
  request: Pick<EdgeRequest, 'certificate'>,
  { trust, now }: { trust: ClaimTrust | undefined; now: Date },
): ClaimProof | undefined {
  if (request.certificate === undefined || trust === undefined) return undefined
  const certificate = parseCertificate(request.certificate)
  const { fingerprint } = certificate
  const isClaim =
    trust.fingerprints.has(fingerprint) || trust.authorities.some((authority) => isIssuedBy(certificate, authority))
  if (!isClaim) return undefined
  requireClientCertificate(certificate, now)
  return { kind: 'claim', fingerprint }
}

/**
 * What lets a registered device be claimed, once and by one key: whoever holds the shared key can ask for any name.
 *
 * @param known the claim that there is
 * @throws FleetError `claim_spent`
 */
export function claimVoucher(
  { fingerprint }: ClaimProof,
  known: Stored<ClaimRecord> | undefined,
  { device, spkiHash, now }: { device: DeviceRecord; spkiHash: string; now: Date },
): Voucher {
  const deviceId = device.id as DeviceId
  const isTaken = known === undefined ? device.currentSerial !== undefined : known.doc.spkiHash !== spkiHash
  if (isTaken) {
    const sentence = `${deviceId} was enrolled already; a claim certificate is good for one key of each device`
    throw new FleetError('claim_spent', sentence, { context: { deviceId, fingerprint } })
  }
  if (known !== undefined) return { kind: 'claim', id: deviceId, ...known }
  const doc = { deviceId, fingerprint, claimedAt: now.toISOString(), status: 'unspent' as const }
  return { kind: 'claim', id: deviceId, rev: 0, doc }
}

/**
 * The refusal of a name, whatever speaks against it: with the shared key anybody can ask for all of them, and is not to learn
 * which there are, which are taken and which were thrown out.
 *
 * @param cause is for the operator; what is our own failure stays what it is
 */
export function claimRefused(cause: unknown, { fingerprint }: ClaimProof, deviceId: DeviceId): unknown {
  if (!isFleetError(cause) || problems[cause.code].status >= 500) return cause
  const sentence = `the claim certificate does not enroll ${deviceId} for this key; ask the operator`
  const unsaid = `${cause.code}: ${cause.message}`
  return new FleetError('claim_refused', sentence, { cause, context: { claimedId: deviceId, fingerprint, unsaid } })
}
