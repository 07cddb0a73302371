import type { PrincipalFacts } from '../contract/principal-facts.ts'
import type { CertificateFacts } from './certificate.ts'
import { attributesOf, type DistinguishedName, valuesOf } from './names.ts'

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
  const unread = [
    ...subjectNames.filter((type) => hasMore(subject, type)).map((type) => `subject.${type}`),
    ...(hasMore(issuer, 'CN') ? ['issuer'] : []),
  ]
  return {
    ...(unread.length > 0 ? { unread } : {}),
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

const subjectNames = ['CN', 'OU', 'O', 'serialNumber'] as const

/** Some that stand in a multi-valued RDN, or are no well encoded directory string: another CA may write its names so. */
const hasMore = (name: DistinguishedName, type: (typeof subjectNames)[number]): boolean =>
  attributesOf(name, type).length > valuesOf(name, type).length
