import { FleetError, isFleetError } from '../runtime/errors.ts'
import { DerError, oid, sequence, tags } from './der.ts'
import { type DistinguishedName, parseAlternativeNames, valuesOf } from './names.ts'
import { oids } from './oids.ts'
import { type CertificateProfile, isOcspResponder, keyUsagesOf } from './profile.ts'
import { keyIdentifierOf, keyTypeOf } from './public-key.ts'
import { readPointers, type StatusPointers } from './status-pointers.ts'
import {
  type EncodedTime,
  readAuthorityKeyId,
  readBasicConstraints,
  readExtendedKeyUsage,
  readKeyUsage,
  readSubjectKeyId,
  readTbsCertificate,
  type TbsCertificate,
} from './tbs-certificate.ts'

export type LintContext = {
  profile: CertificateProfile
  /** what the issuer's own certificate says, or `self` for a trust anchor */
  issuer: TbsCertificate | 'self'
  /** public half of the key that will sign */
  signerSpki: Uint8Array
  hasAlternativeNames: boolean
  pointers?: StatusPointers | undefined
}

/** notBefore may lie this far before the moment of issuing, for clocks that lag; it adds to the profile's lifetime. */
export const maxBackdatingMs = 86_400_000

/**
 * Judges the bytes that are about to be signed: they are read again, so what is checked is what a relying party will see
 * and not what the builder meant.
 *
 * @throws FleetError `lint_failed` with the first rule that is broken
 */
export function lintCertificate(tbs: Uint8Array, context: LintContext): void {
  try {
    const certificate = readTbsCertificate(tbs)
    const issuer = context.issuer === 'self' ? certificate : context.issuer
    lintFields(certificate, context.profile)
    lintIssuer(certificate, issuer, context)
    lintKey(certificate, issuer, context)
    lintExtensions(certificate, issuer, context)
  } catch (cause) {
    if (cause instanceof DerError) throw lintFailed(`it cannot be read: ${cause.message}`, cause)
    if (isFleetError(cause, 'csr_key_too_weak') || isFleetError(cause, 'csr_key_unsupported')) {
      throw lintFailed(cause.message, cause)
    }
    throw cause
  }
}

export const lintFailed = (fault: string, cause?: unknown): FleetError =>
  new FleetError('lint_failed', `The certificate would not be right: ${fault}`, { cause })

function rule(holds: boolean, fault: string): asserts holds {
  if (!holds) throw lintFailed(fault)
}

const ecdsaWithSha256 = sequence(oid(oids.ecdsaWithSha256))

function lintFields(certificate: TbsCertificate, profile: CertificateProfile): void {
  // RFC 5280 4.1.2.1
  rule(certificate.version === 3, `version ${certificate.version} instead of 3`)
  // RFC 5280 4.1.2.2
  rule(certificate.serial[0]! < 0x80 && !certificate.serial.equals(Buffer.of(0)), 'the serial is not positive')
  rule(certificate.serial.length <= 20, 'the serial is longer than 20 octets')
  // RFC 5758 3.2: parameters are absent.
  rule(certificate.signatureAlgorithm.equals(ecdsaWithSha256), 'not signed by ECDSA with SHA-256')
  // RFC 5280 4.1.2.8
  rule(!certificate.hasUniqueIds, 'it has unique identifiers')
  lintDates(certificate, profile)
  lintSubject(certificate.subject, profile)
}

function lintDates({ notBefore, notAfter }: TbsCertificate, profile: CertificateProfile): void {
  for (const { date, tag } of [notBefore, notAfter]) {
    // RFC 5280 4.1.2.5
    const wanted = date.getUTCFullYear() < 2050 ? tags.utcTime : tags.generalizedTime
    rule(tag === wanted, 'a date is UTCTime from 2050 on, or GeneralizedTime before')
  }
  rule(notBefore.date < notAfter.date, 'it ends before it begins')
  const lifetime = notAfter.date.getTime() - notBefore.date.getTime()
  rule(lifetime <= profile.validityMs + maxBackdatingMs, `it lives longer than profile ${profile.name} allows`)
}

function lintSubject(subject: DistinguishedName, profile: CertificateProfile): void {
  rule(subject.rdns.length > 0, 'the subject is empty')
  for (const rdn of subject.rdns) {
    rule(rdn.length === 1, 'the subject has a multi-valued RDN')
    const { value, encoding } = rdn[0]!
    rule(encoding === 'utf8' || encoding === 'printable', 'the subject has a value that is no well-formed text')
    // RFC 5280 appendix A.1: ub-common-name, ub-organization-name and ub-organizational-unit-name are 64 characters.
    const isPlain = /^[ -~]*$/.test(value)
    const length = isPlain ? value.length : [...value].length
    rule(length >= 1 && length <= 64, `the subject has a value of ${length} characters; 1 to 64 are allowed`)
    rule(isPlain || !/\p{C}/u.test(value), 'the subject has a value with control characters')
  }
  const organizations = valuesOf(subject, 'O')
  const wanted = profile.organization === undefined ? [] : [profile.organization]
  rule(organizations.join('\n') === wanted.join('\n'), `the subject's O is not that of profile ${profile.name}`)
}

function lintIssuer(certificate: TbsCertificate, issuer: TbsCertificate, { profile }: LintContext): void {
  // RFC 5280 4.1.2.4, and byte for byte so that every relying party can chain by it
  rule(certificate.issuer.rdns.length > 0, 'the issuer is empty')
  rule(certificate.issuer.der.equals(issuer.subject.der), "the issuer is not the issuing certificate's subject")
  const within = (date: EncodedTime): boolean => date.date >= issuer.notBefore.date && date.date <= issuer.notAfter.date
  rule(within(certificate.notBefore) && within(certificate.notAfter), 'it is valid at a time when its issuer is not')
  const constraints = readBasicConstraints(issuer)
  rule(constraints?.ca === true, 'its issuer is not a CA')
  rule(readKeyUsage(issuer)?.includes('keyCertSign') === true, 'its issuer may not sign certificates')
  if (profile.ca === undefined || issuer === certificate) return
  // RFC 5280 4.2.1.9: the CAs below this one are among those that the issuer's own limit counts.
  const allowed = constraints.pathLength ?? Number.POSITIVE_INFINITY
  rule(profile.ca.pathLength < allowed, `its issuer allows ${allowed} CAs below itself`)
}

function lintKey(certificate: TbsCertificate, issuer: TbsCertificate, { profile, signerSpki }: LintContext): void {
  rule(issuer.publicKeySpki.equals(signerSpki), 'the key that would sign is not that of the issuing certificate')
  const keyType = keyTypeOf(certificate.publicKeySpki)
  rule(profile.ca === undefined || keyType === 'P-256', `a CA has a ${keyType} key; P-256 is wanted`)
  rule(issuer === certificate || !certificate.publicKeySpki.equals(signerSpki), "it certifies its issuer's own key")
}

function lintExtensions(certificate: TbsCertificate, issuer: TbsCertificate, context: LintContext): void {
  const { profile, hasAlternativeNames, pointers } = context
  const isCa = profile.ca !== undefined
  const criticality = new Map<string, boolean>([
    [oids.basicConstraints, true],
    [oids.keyUsage, true],
    [oids.subjectKeyIdentifier, false],
    [oids.authorityKeyIdentifier, false],
  ])
  if (!isCa) criticality.set(oids.extendedKeyUsage, false)
  // RFC 5280 4.2.1.6: not critical beside a subject, which is never empty here.
  if (hasAlternativeNames) criticality.set(oids.subjectAltName, false)
  if (isOcspResponder(profile)) criticality.set(oids.ocspNoCheck, false)
  if (pointers !== undefined) {
    criticality.set(oids.cRLDistributionPoints, false)
    criticality.set(oids.authorityInfoAccess, false)
  }

  for (const [type, { critical }] of certificate.extensions) {
    rule(criticality.has(type), `profile ${profile.name} has no extension ${type}`)
    rule(critical === criticality.get(type), `extension ${type} is ${critical ? '' : 'not '}critical`)
    criticality.delete(type)
  }
  rule(criticality.size === 0, `extension ${[...criticality.keys()].join(', ')} is missing`)

  const constraints = readBasicConstraints(certificate)
  rule(constraints?.ca === isCa && constraints.pathLength === profile.ca?.pathLength, 'its basicConstraints are wrong')
  const usage = keyUsagesOf(profile, certificate.publicKeySpki)
  rule(readKeyUsage(certificate)?.join() === usage.join(), `its keyUsage is not ${usage.join(' and ')}`)
  const purposes = profile.extendedKeyUsage.map((purpose) => oids[purpose])
  rule(
    (readExtendedKeyUsage(certificate) ?? []).join() === purposes.join(),
    "its extendedKeyUsage is not the profile's",
  )

  const subjectKeyId = keyIdentifierOf(certificate.publicKeySpki)
  rule(readSubjectKeyId(certificate)?.equals(subjectKeyId) === true, 'its subjectKeyIdentifier is not that of its key')
  const issuerKeyId = readSubjectKeyId(issuer)
  rule(issuerKeyId !== undefined, 'its issuer has no subjectKeyIdentifier')
  rule(readAuthorityKeyId(certificate)?.equals(issuerKeyId) === true, "its authorityKeyIdentifier is not its issuer's")
  lintAlternativeNames(certificate, profile)
  lintPointers(certificate, pointers)
}

function lintPointers(certificate: TbsCertificate, wanted: StatusPointers | undefined): void {
  const { crl, ocsp, caIssuers } = readPointers(certificate) ?? {}
  rule(
    crl === wanted?.crl && ocsp === wanted?.ocsp && caIssuers === wanted?.caIssuers,
    'it does not say where its status is to be asked for',
  )
  for (const url of [crl, ocsp, caIssuers]) {
    // RFC 5280 8: to ask over TLS for what TLS rests on can go in a circle.
    rule(url === undefined || (URL.canParse(url) && url.startsWith('http://')), `${url} is no URL of plain HTTP`)
  }
}

function lintAlternativeNames(certificate: TbsCertificate, profile: CertificateProfile): void {
  const extension = certificate.extensions.get(oids.subjectAltName)
  const { uris, dns, ips } = extension ? parseAlternativeNames(extension.value) : { uris: [], dns: [], ips: [] }
  // RFC 9525 2: a server is known by its subjectAltName, never by its subject.
  const isServer = profile.extendedKeyUsage.includes('serverAuth')
  rule(!isServer || dns.length + ips.length > 0, 'a server certificate without a DNS name or IP address')
  for (const name of dns) rule(isHostName(name), `${name} is no DNS name`)
  for (const uri of uris) rule(URL.canParse(uri), `${uri} is no absolute URI`)
}

// RFC 5280 4.2.1.6: the preferred name syntax of RFC 1034 3.5, as RFC 1123 2.1 widened it.
const isHostName = (name: string): boolean =>
  name.length <= 253 && /^(?!-)[A-Za-z0-9-]{1,63}(?<!-)(?:\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*$/.test(name)
