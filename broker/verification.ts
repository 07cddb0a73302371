import type { X509Certificate } from 'node:crypto'
import { type DeviceId, isDeviceId } from '../contract/ids.ts'
import type { AuthorityConfiguration } from '../contract/listeners.ts'
import type { ProblemCode } from '../contract/problems.ts'
import { type VerificationFault, verificationFaults } from '../contract/verification.ts'
import type { CertificateFacts } from '../pki/certificate.ts'
import { namesEqual, valuesOf } from '../pki/names.ts'
import { isFleetError } from '../runtime/errors.ts'
import type { PeerFacts } from './peer.ts'
import type { DeviceState } from './trust/device-table.ts'
import type { CertificateState, PolicyState } from './trust/snapshot-state.ts'

/** A CA that a listener trusts. */
export type Authority = {
  label: string
  /** How its certificates name a device; undefined for our own, whose certificates the registry lists. */
  naming:
    | (Pick<AuthorityConfiguration, 'deviceId' | 'deviceIdPrefix' | 'pins'> & {
        groups?: readonly string[] | undefined
      })
    | undefined
  /** What its revocation list says; undefined where there is none to ask. */
  statusOf: ((certificate: CertificateFacts, now: Date) => ListedStatus) | undefined
}
export type ListedStatus =
  /** @param until when the list runs out */
  | { status: 'good'; until?: Date }
  | { status: 'revoked'; reason: string }
  /** @param since when the list ran out, undefined when there never was one */
  | { status: 'stale'; since: Date | undefined }
/** Who made a leaf: a trusted CA, by its signature; somebody in the name of one; or somebody else. */
export type Issuer = { kind: 'trusted'; authority: Authority } | { kind: 'forged' } | { kind: 'unknown' }

/** What TLS left us about a peer. Nothing in it is a decision yet. */
export type PeerEvidence = {
  certificate: CertificateFacts | undefined
  /** A certificate was presented that we cannot read. */
  isUnreadable: boolean
  /** Node's word on the chain. Replayed on a resumed session, so it says nothing about today. */
  chainAccepted: boolean
  chainError: string | undefined
  issuer: Issuer
}
export type Beliefs = {
  policy: PolicyState
  findDevice(id: string): DeviceState | undefined
  findCertificate(fingerprint: string): CertificateState | undefined
}
export type Fault = {
  state: VerificationFault
  cause: ProblemCode
  message: string
  /** When it began, where that is known. */
  since?: Date | undefined
}
/** All that verification looks at. */
export type Facts = {
  evidence: PeerEvidence
  beliefs: Beliefs
  /** Whether it is known who is revoked. */
  live: boolean
  /** Up to when that was known, by this process or one before it. */
  lastLive: Date | undefined
  now: Date
  /** The certificate is not known here, and enroll could not be asked about it. */
  isUnasked: boolean
  /** Its key was used in two places, and may not be used before. */
  suspendedUntil: Date | undefined
}

/** Reads what a TLS peer presented. */
export function readEvidence(
  { authorized, chainError, certificate }: PeerFacts,
  findIssuer: (leaf: X509Certificate) => Issuer,
  read: (der: Buffer) => CertificateFacts,
): PeerEvidence {
  const nobody = {
    certificate: undefined,
    isUnreadable: false,
    chainAccepted: false,
    issuer: { kind: 'unknown' } as const,
  }
  if (certificate === undefined) return { ...nobody, chainError }
  try {
    return {
      certificate: read(certificate.raw),
      isUnreadable: false,
      chainAccepted: authorized,
      chainError,
      issuer: findIssuer(certificate),
    }
  } catch (error) {
    if (!isFleetError(error)) throw error
    // A chain that OpenSSL accepts and we cannot read is not one that our CA made.
    return { ...nobody, isUnreadable: true, chainError }
  }
}

/**
 * Whose certificate it is: of our own CA what the registry has noted under its fingerprint, of another CA the one value that
 * its rule names, when that is the id of a registered device that it may speak for. Printed names are never asked.
 */
export function deviceIdOf({ certificate, issuer }: PeerEvidence, beliefs: Beliefs): DeviceId | undefined {
  if (certificate === undefined || issuer.kind !== 'trusted') return undefined
  const { naming } = issuer.authority
  if (naming === undefined) return beliefs.findCertificate(certificate.fingerprint)?.deviceId as DeviceId | undefined
  const values = namesIn(certificate, naming.deviceId)
  const [value = ''] = values
  const id = value.slice(naming.deviceIdPrefix.length)
  const isName = values.length === 1 && value.startsWith(naming.deviceIdPrefix) && isDeviceId(id)
  const device = isName ? beliefs.findDevice(id) : undefined
  if (device === undefined) return undefined
  const isSpokenFor = naming.groups === undefined || naming.groups.some((group) => device.groups.includes(group))
  return isSpokenFor ? (id as DeviceId) : undefined
}

function namesIn(certificate: CertificateFacts, rule: AuthorityConfiguration['deviceId']): string[] {
  switch (rule) {
    case 'subject.CN':
      return valuesOf(certificate.subject, 'CN')
    case 'subject.serialNumber':
      return valuesOf(certificate.subject, 'serialNumber')
    case 'san.dns':
      return certificate.subjectAltName.dns
    case 'san.uri':
      return certificate.subjectAltName.uris
  }
}

/** What makes a peer somebody that no CA of this listener has ever vouched for. */
export function strangeness({ certificate, isUnreadable, chainError, issuer }: PeerEvidence): Fault | undefined {
  if (isUnreadable) {
    return { state: 'unknown_ca', cause: 'certificate_untrusted', message: 'the client certificate cannot be read' }
  }
  if (certificate === undefined) {
    return { state: 'none', cause: 'certificate_missing', message: 'no client certificate was presented' }
  }
  // OpenSSL keeps the last fault it met, so a foreign certificate that has also expired reads CERT_HAS_EXPIRED: only a
  // signature by one of our CAs makes a certificate ours.
  if (issuer.kind === 'trusted') return undefined
  if (issuer.kind === 'forged') {
    const message = 'the client certificate names a CA as its issuer that did not sign it'
    return { state: 'bad_signature', cause: 'certificate_bad_signature', message }
  }
  if (namesEqual(certificate.subject, certificate.issuer)) {
    return { state: 'self_signed', cause: 'certificate_self_signed', message: 'the client certificate is self-signed' }
  }
  const message = `the client certificate is of an unknown authority (${chainError ?? 'its issuer is not in the list'})`
  return { state: 'unknown_ca', cause: 'certificate_untrusted', message }
}

/** Every fault of a certificate that a CA of ours has signed: a fault that is tolerated must not hide another. */
export function faultsOfDevice(facts: Facts): Fault[] {
  const { evidence, live, lastLive, now, isUnasked, suspendedUntil } = facts
  const { certificate, issuer } = evidence
  if (certificate === undefined || issuer.kind !== 'trusted') return []
  const faults = faultsOfStatus(facts, certificate, issuer.authority)
  const isUnknown = faults.some(({ state }) => state === 'not_registered')
  if (isUnknown && (isUnasked || !live)) {
    // Of no age that a grace could be for: it may be new, and it may be nobody's.
    const message = 'the certificate is not known here, and the enrollment service cannot be asked now; try again'
    faults.push({ state: 'stale_status', cause: 'snapshot_stale', message })
  } else if (!live) {
    const since = lastLive === undefined ? 'yet' : `since ${lastLive.toISOString()}`
    const message = `the broker has not heard ${since} who is revoked; try again`
    faults.push({ state: 'stale_status', cause: 'snapshot_stale', message, since: lastLive })
  }
  if (suspendedUntil !== undefined) {
    const message = `the key was used in two places at once; it may be used again at ${suspendedUntil.toISOString()}`
    faults.push({ state: 'held', cause: 'key_suspended', message })
  }
  faults.push(...faultsOfLeaf(certificate, now))
  const states = new Set(faults.map(({ state }) => state))
  const explained = leafErrors.get(evidence.chainError ?? '')
  // Every fault of the leaf itself has its own name; what is left is a fault of the chain.
  if (!evidence.chainAccepted && (explained === undefined || !states.has(explained))) {
    const message = `the certificate's chain does not hold (${evidence.chainError})`
    faults.push({ state: 'unknown_ca', cause: 'certificate_untrusted', message })
  }
  return faults.toSorted((a, b) => order.get(a.state)! - order.get(b.state)!)
}

const order = new Map(verificationFaults.map((state, at) => [state, state === 'unknown_ca' ? 100 : at]))
const leafErrors = new Map<string, VerificationFault>([
  ['CERT_HAS_EXPIRED', 'expired'],
  ['CERT_NOT_YET_VALID', 'not_yet_valid'],
  ['INVALID_PURPOSE', 'wrong_eku'],
])

function faultsOfLeaf(certificate: CertificateFacts, now: Date): Fault[] {
  const { notBefore, notAfter, extendedKeyUsage, isCa } = certificate
  const faults: Fault[] = []
  if (now > notAfter) {
    const message = `the certificate expired at ${notAfter.toISOString()}`
    faults.push({ state: 'expired', cause: 'certificate_expired', message, since: notAfter })
  }
  if (now < notBefore) {
    const message = `the certificate is valid from ${notBefore.toISOString()}`
    faults.push({ state: 'not_yet_valid', cause: 'certificate_not_yet_valid', message })
  }
  // RFC 5280 4.2.1.12 lets an absent extension stand for any use; our profiles always name theirs.
  if (!extendedKeyUsage.includes('clientAuth') || isCa) {
    const message = 'the certificate is not for client authentication'
    faults.push({ state: 'wrong_eku', cause: 'certificate_wrong_usage', message })
  }
  return faults
}

/** Whether those who have a say, the registry and the CA's revocation list, stand behind the certificate. */
function faultsOfStatus(
  { evidence, beliefs, now }: Facts,
  certificate: CertificateFacts,
  authority: Authority,
): Fault[] {
  const { label, naming, statusOf } = authority
  const faults: Fault[] = []
  const listed = statusOf?.(certificate, now) ?? { status: 'good' }
  const record = beliefs.findCertificate(certificate.fingerprint)
  if (listed.status === 'stale') {
    const message = `the revocation list of ${label} ${listed.since === undefined ? 'is missing' : `ran out at ${listed.since.toISOString()}`}`
    faults.push({ state: 'stale_status', cause: 'certificate_status_stale', message, since: listed.since })
  } else if (listed.status !== 'good') faults.push(withdrawn(listed.reason))
  const recorded = record?.status === 'revoked' ? [withdrawn(record.reason ?? 'unspecified')] : []

  const unregistered = (what: string): Fault => ({
    state: 'not_registered',
    cause: 'certificate_unregistered',
    message: `${what} is not in the registry`,
  })
  const deviceId = deviceIdOf(evidence, beliefs)
  if (deviceId === undefined) {
    const among = naming?.groups === undefined ? '' : ` of the groups ${naming.groups.join(', ')}`
    const what = naming === undefined ? 'the certificate' : `a device${among} by the certificate's ${naming.deviceId}`
    return [...faults, ...recorded, unregistered(what)]
  }
  const device = beliefs.findDevice(deviceId)
  if (device === undefined) faults.push(unregistered(`device ${deviceId}`))
  else if (device.status === 'held') {
    faults.push({ state: 'held', cause: 'device_held', message: `device ${deviceId} is on hold` })
  } else if (device.status !== 'active') {
    faults.push({ state: 'revoked', cause: 'device_revoked', message: `device ${deviceId} is revoked` })
  }
  // Behind the device: what would let one of its certificates in is of no use to a device that is out.
  faults.push(...recorded)
  const isPinned = record?.deviceId === deviceId
  if (record === undefined ? naming?.pins === 'required' : !isPinned) {
    const message = `the registry does not have this certificate as that of ${deviceId}`
    faults.push({ state: 'pin_mismatch', cause: 'certificate_pin_mismatch', message })
  }
  return faults
}

function withdrawn(reason: string): Fault {
  return reason === 'certificateHold'
    ? { state: 'held', cause: 'certificate_held', message: 'the certificate is on hold' }
    : { state: 'revoked', cause: 'certificate_revoked', message: `the certificate was revoked for ${reason}` }
}
