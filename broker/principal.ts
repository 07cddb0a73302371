import type { DeviceId, Fingerprint, SerialNumber } from '../contract/ids.ts'
import type { PrincipalFacts } from '../contract/policy-document.ts'
import type { CertificateFacts } from '../pki/certificate.ts'
import { valuesOf } from '../pki/names.ts'
import type { DeviceState } from './store.ts'

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

/**
 * Who a certificate is, by the registry's record of it. Names of the certificate itself reach `facts` only as values of
 * walked RDNs: printed names join and escape in ways that let different DER look alike.
 */
export function principalOf(input: {
  certificate: CertificateFacts
  deviceId: DeviceId
  device: DeviceState
  clientId: string
}): Principal {
  const { certificate, deviceId, device, clientId } = input
  const issuers = valuesOf(certificate.issuer, 'CN')
  return {
    deviceId,
    profile: device.profile,
    groups: device.groups,
    serial: certificate.serial,
    fingerprint: certificate.fingerprint,
    issuer: issuers[0] ?? '',
    notAfter: certificate.notAfter,
    facts: {
      'device.id': [deviceId],
      'device.profile': [device.profile],
      'device.group': device.groups,
      'client.id': [clientId],
      profile: [device.profile],
      group: device.groups,
      'subject.CN': valuesOf(certificate.subject, 'CN'),
      'subject.OU': valuesOf(certificate.subject, 'OU'),
      'subject.O': valuesOf(certificate.subject, 'O'),
      'san.uri': certificate.subjectAltName.uris,
      issuer: issuers,
    },
  }
}
