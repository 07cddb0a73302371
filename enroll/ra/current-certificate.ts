import { type CertificateFacts, parseCertificate } from '../../pki/certificate.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { EdgeRequest } from '../../runtime/https.ts'
import { type CertificateRecord, findCertificate } from '../registry/certificates.ts'
import type { Stored } from '../registry/engine.ts'
import type { Registry } from '../registry/registry.ts'

export type CertificateEvidence = {
  kind: 'certificate'
  certificate: CertificateFacts
  record: Stored<CertificateRecord>
}

/**
 * The client certificate of this very request: present, of a chain of ours, within its dates, in the registry byte for
 * byte, and not revoked. Read again for every request, since a resumed TLS session is not verified again.
 *
 * @throws FleetError `certificate_missing`, `certificate_untrusted`, `certificate_self_signed`, `certificate_expired`,
 *   `certificate_not_yet_valid`, `certificate_unregistered`, `device_held`, `certificate_revoked`
 */
export async function readCertificateEvidence(
  registry: Registry,
  request: Pick<EdgeRequest, 'certificate' | 'certificateFault'>,
  now: Date,
): Promise<CertificateEvidence> {
  if (request.certificate === undefined) {
    throw new FleetError('certificate_missing', 'present the current certificate over mutual TLS')
  }
  const certificate = parseCertificate(request.certificate)
  const context = { serial: certificate.serial, fingerprint: certificate.fingerprint }
  if (certificate.notAfter < now) {
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
  if (fault !== undefined) {
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
  if (record.doc.status === 'held') {
    const { deviceId, revokedAt } = record.doc
    throw new FleetError('device_held', `${deviceId} is on hold since ${revokedAt}`, {
      context: { ...context, claimedId: deviceId },
    })
  }
  if (record.doc.status !== 'issued') {
    throw new FleetError(
      'certificate_revoked',
      `the certificate was revoked for ${record.doc.revocationReason ?? 'an unknown reason'}`,
      { context: { ...context, claimedId: record.doc.deviceId } },
    )
  }
  return { kind: 'certificate', certificate, record }
}
