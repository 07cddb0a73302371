import type { PrincipalFacts } from '../contract/principal-facts.ts'
import type { CertificateFacts } from './certificate.ts'
import { valuesOf } from './names.ts'

/**
 * What a policy may look at of a certificate. Names reach it only as values of walked RDNs: printed names join and escape in
 * ways that let different DER look alike.
 */
export function factsOfCertificate(certificate: CertificateFacts): PrincipalFacts {
  const facts = known.get(certificate) ?? readFacts(certificate)
  known.set(certificate, facts)
  return facts
}

/** A certificate that was read once is the same object for who connects again, and for each session of a device. */
const known = new WeakMap<CertificateFacts, PrincipalFacts>()

function readFacts(certificate: CertificateFacts): PrincipalFacts {
  const { subject, issuer, subjectAltName, serial, fingerprint, notAfter } = certificate
  return {
    'subject.CN': valuesOf(subject, 'CN'),
    'subject.OU': valuesOf(subject, 'OU'),
    'subject.O': valuesOf(subject, 'O'),
    'subject.serialNumber': valuesOf(subject, 'serialNumber'),
    'san.uri': subjectAltName.uris,
    'san.dns': subjectAltName.dns,
    'cert.serial': [serial],
    'cert.fingerprint': [fingerprint],
    'cert.notAfter': [notAfter.toISOString()],
    issuer: valuesOf(issuer, 'CN'),
  }
}
