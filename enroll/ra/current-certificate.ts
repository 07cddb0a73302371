import { type CertificateFacts, parseCertificate } from '../../pki/certificate.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { EdgeRequest } from '../../runtime/https.ts'
import { findSuccessor } from '../ca/supersession.ts'
import { type CertificateRecord, findCertificate } from '../registry/certificates.ts'
import type { Stored } from '../registry/engine.ts'
import type { Registry } from '../registry/registry.ts'
import type { Voucher } from '../registry/vouchers.ts'
import { lateRenewalVoucher } from './late-renewal.ts'

export type CertificateEvidence = {
  kind: 'certificate'
  certificate: CertificateFacts
  record: Stored<CertificateRecord>
  /** What makes up for a certificate that has expired. */
  late?: Voucher
}

const read = new WeakMap<Buffer, CertificateFacts>()

/**
 * What the certificate of a connection says, read at its first request. What it is worth is asked at every one.
 *
 * @throws FleetError `request_malformed`
 */
export function factsOf(certificate: Buffer): CertificateFacts {
  const facts = read.get(certificate) ?? parseCertificate(certificate)
  read.set(certificate, facts)
  return facts
}

type Shown = Pick<EdgeRequest, 'certificate' | 'certificateFault'>

/** The same, of a certificate that may have expired where an operator has allowed a late renewal. */
export const readRenewalEvidence = (registry: Registry, request: Shown, now: Date): Promise<CertificateEvidence> =>
  readCertificateEvidence(registry, request, now, true)

/**
 * The client certificate of this very request: present, of a chain of ours, within its dates, in the registry byte for
 * byte, and not revoked. Read again for every request, since a resumed TLS session is not verified again.
 *
 * @throws FleetError `certificate_missing`, `certificate_untrusted`, `certificate_self_signed`, `certificate_expired`,
 *   `certificate_not_yet_valid`, `certificate_unregistered`, `device_held`, `certificate_revoked`
 */
export async function readCertificateEvidence(
  registry: Registry,
  request: Shown,
  now: Date,
  mayBeLate = false,
): Promise<CertificateEvidence> {
  if (request.certificate === undefined) {
    throw new FleetError('certificate_missing', 'present the current certificate over mutual TLS')
  }
  const certificate = factsOf(request.certificate)
  const context = { serial: certificate.serial, fingerprint: certificate.fingerprint }
  const isLate = certificate.notAfter < now
  if (isLate && !mayBeLate) {
    throw new FleetError('certificate_expired', `the certificate expired at ${certificate.notAfter.toISOString()}`, {
      context,
    })
  }
  if (certificate.notBefore > now) {
    throw new FleetError(
      'certificate_not_yet_valid',
      `the certificate is valid from ${certificate.notBefore.toISOString()} on`,
      { context },
    )
  }
  const fault = request.certificateFault
  // OpenSSL names the last fault it met, so this one may hide another: what is in the registry byte for byte is ours.
  const isExplained = isLate && fault === 'CERT_HAS_EXPIRED'
  if (fault !== undefined && !isExplained) {
    const selfSigned = fault === 'DEPTH_ZERO_SELF_SIGNED_CERT' || fault === 'SELF_SIGNED_CERT_IN_CHAIN'
    throw selfSigned
      ? new FleetError('certificate_self_signed', 'the certificate is self-signed', { context })
      : new FleetError('certificate_untrusted', `the certificate is not of an authority trusted here (${fault})`, {
          context,
        })
  }
  const record = await findCertificate(registry, certificate.serial)
  if (record?.doc.fingerprint !== certificate.fingerprint) {
    throw new FleetError('certificate_unregistered', 'the certificate is not in the registry', { context })
  }
  requireIssued(record.doc)
  if (!isLate) return { kind: 'certificate', certificate, record }
  return { kind: 'certificate', certificate, record, late: await lateRenewalVoucher(registry, record.doc, now) }
}

/** @throws FleetError `device_held`, `certificate_revoked` */
export function requireIssued({
  status,
  serial,
  fingerprint,
  deviceId,
  revokedAt,
  revocationReason,
}: CertificateRecord): void {
  const context = { serial, fingerprint, claimedId: deviceId }
  if (status === 'held') throw new FleetError('device_held', `${deviceId} is on hold since ${revokedAt}`, { context })
  if (status !== 'issued') {
    const sentence = `the certificate was revoked for ${revocationReason ?? 'an unknown reason'}`
    throw new FleetError('certificate_revoked', sentence, { context })
  }
}

/**
 * In the overlap an older certificate still connects. It does not renew: whoever needs that after the newer one was used is late,
 * or has the key and not the device.
 *
 * @throws FleetError `certificate_superseded`, with its `serial`
 */
export async function requireCurrent(registry: Registry, certificate: CertificateRecord): Promise<void> {
  const successor = await findSuccessor(registry, certificate)
  if (successor === undefined) return
  const { serial, deviceId } = certificate
  const sentence = `${deviceId} has used a newer certificate, ${successor.serial}; renew with that`
  throw new FleetError('certificate_superseded', sentence, { context: { serial, deviceId } })
}
