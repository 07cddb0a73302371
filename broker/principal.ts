import type { DeviceId, Fingerprint, SerialNumber } from '../contract/ids.ts'
import { factsOfClient, factsOfDevice, type PrincipalFacts } from '../contract/principal-facts.ts'
import type { VerificationState } from '../contract/verification.ts'
import type { CertificateFacts } from '../pki/certificate.ts'
import { factsOfCertificate } from '../pki/principal-facts.ts'
import type { DeviceState } from './trust/device-table.ts'

/** The authenticated identity behind a connection. */
export type Principal = {
  deviceId: DeviceId
  profile: string
  groups: readonly string[]
  serial: SerialNumber
  fingerprint: Fingerprint
  /** CN of the issuing CA. */
  issuer: string
  notAfter: Date
  facts: PrincipalFacts
}

/** Who is behind a connection: the registry's record, what the certificate says beside it, and what was verified. */
export function principalOf(input: {
  certificate: CertificateFacts
  deviceId: DeviceId
  device: DeviceState
  clientId: string
  verdict: { state: VerificationState; authority: string | undefined }
}): Principal {
  const { certificate, deviceId, device, clientId, verdict } = input
  const ofCertificate = factsOfCertificate(certificate)
  return {
    deviceId,
    profile: device.profile,
    groups: device.groups,
    serial: certificate.serial,
    fingerprint: certificate.fingerprint,
    issuer: ofCertificate.issuer?.[0] ?? '',
    notAfter: certificate.notAfter,
    facts: {
      ...ofCertificate,
      'issuer.label': verdict.authority === undefined ? [] : [verdict.authority],
      'verify.state': [verdict.state],
      ...factsOfRecord({ deviceId, device, clientId }),
    },
  }
}

/** What is known of a client whose certificate is not. */
export function factsOfRecord({
  deviceId,
  device,
  clientId,
}: {
  deviceId: string
  device: DeviceState
  clientId: string
}): PrincipalFacts {
  return { ...factsOfDevice({ id: deviceId, ...device }), ...factsOfClient(clientId) }
}
