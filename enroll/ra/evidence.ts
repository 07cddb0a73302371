import type { DeviceId } from '../../contract/ids.ts'
import { isDeviceId } from '../../contract/ids.ts'
import { type CertificateFacts, parseCertificate } from '../../pki/certificate.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { EdgeRequest } from '../../runtime/https.ts'
import { type CertificateRecord, findCertificate } from '../registry/certificates.ts'
import type { Stored } from '../registry/engine.ts'
import type { Registry } from '../registry/registry.ts'
import { digestOf, findToken, type TokenRecord } from '../registry/tokens.ts'

/** What the caller proved, before any decision. */
export type TokenEvidence = { kind: 'token'; deviceId: DeviceId; token: Stored<TokenRecord> }
export type CertificateEvidence = {
  kind: 'certificate'
  certificate: CertificateFacts
  record: Stored<CertificateRecord>
}
export type Evidence = TokenEvidence | CertificateEvidence

/** A token where one is given, else the certificate of the connection, for operations that take either. */
export function readEvidence(
  registry: Registry,
  request: Pick<EdgeRequest, 'headers' | 'certificate' | 'certificateFault'>,
  now: Date,
): Promise<Evidence> {
  return request.headers.authorization === undefined && request.certificate !== undefined
    ? readCertificateEvidence(registry, request, now)
    : readTokenEvidence(registry, request)
}

/**
 * HTTP Basic (RFC 7617) with the device id as username and the enrollment token as password (RFC 7030 3.2.3).
 * An unknown device and a wrong token are one answer: nobody learns which device ids exist.
 *
 * @throws FleetError `unauthenticated` when there is no usable header, `token_invalid`
 */
export async function readTokenEvidence(
  registry: Registry,
  request: Pick<EdgeRequest, 'headers'>,
): Promise<TokenEvidence> {
  const credentials = findBasicCredentials(request)
  if (credentials === undefined) {
    const wanted = 'enroll with HTTP Basic: the device id as username and its enrollment token as password'
    throw new FleetError('unauthenticated', wanted)
  }
  const { username, password } = credentials
  const invalid = (): FleetError =>
    new FleetError('token_invalid', 'this token is not valid for this device id; ask the operator for a new one', {
      context: { deviceId: username.slice(0, 64) },
    })
  if (!isDeviceId(username)) throw invalid()
  const token = await findToken(registry, digestOf(password))
  if (token === undefined || token.doc.deviceId !== username) throw invalid()
  return { kind: 'token', deviceId: username, token }
}

/** @returns undefined when there is no Basic header, or none that can be read */
export function findBasicCredentials(
  request: Pick<EdgeRequest, 'headers'>,
): { username: string; password: string } | undefined {
  const found = /^basic +([A-Za-z0-9+/]+={0,2})$/i.exec(request.headers.authorization ?? '')
  if (found === null) return undefined
  const text = Buffer.from(found[1]!, 'base64').toString('utf8')
  const colon = text.indexOf(':')
  return colon < 0 ? undefined : { username: text.slice(0, colon), password: text.slice(colon + 1) }
}

/**
 * The client certificate of this very request: present, of a chain of ours, within its dates, in the registry byte for
 * byte, and not revoked. Read again for every request, since a resumed TLS session is not verified again.
 *
 * @throws FleetError `certificate_missing`, `certificate_untrusted`, `certificate_self_signed`, `certificate_expired`,
 *   `certificate_not_yet_valid`, `certificate_unregistered`, `certificate_revoked`
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
  if (record.doc.status !== 'issued') {
    throw new FleetError(
      'certificate_revoked',
      `the certificate was revoked for ${record.doc.revocationReason ?? 'an unknown reason'}`,
      { context },
    )
  }
  return { kind: 'certificate', certificate, record }
}
