import type { X509Certificate } from 'node:crypto'
import { clientIdBelongsTo, type DeviceId } from '../contract/ids.ts'
import { compilePolicy, type Matcher } from '../contract/policy-matcher.ts'
import type { ProblemCode } from '../contract/problems.ts'
import { isTopicName } from '../contract/topics.ts'
import { type CertificateFacts, parseCertificate } from '../pki/certificate.ts'
import { namesEqual } from '../pki/names.ts'
import { isFleetError } from '../runtime/errors.ts'
import { type Principal, principalOf } from './principal.ts'
import type { CertificateState, DeviceState, PolicyState } from './store.ts'

/** What TLS left us about a peer. Nothing in it is a decision yet. */
export type PeerEvidence = {
  certificate: CertificateFacts | undefined
  /** Node's word on the chain. Replayed on a resumed session, so it says nothing about today. */
  chainAccepted: boolean
  chainError: string | undefined
  /** The leaf's signature was checked with the key of one of our anchors. Asked only where the chain was not accepted. */
  issuedByUs: boolean
}
export type Will = { topic: string; payload: Buffer; qos: number; retain: boolean }
export type ConnectFacts = { clientId: string; clean: boolean; will?: Will | undefined }
export type Beliefs = {
  policy: PolicyState
  findDevice(id: string): DeviceState | undefined
  findCertificate(fingerprint: string): CertificateState | undefined
}
export type Refusal = { admitted: false; reason: ProblemCode; message: string; at: 'handshake' | 'connect' }
export type Admission = { admitted: true; principal: Principal; matcher: Matcher } | Refusal

/** Reads what a TLS peer presented. `issuedByUs` is the caller's check against the anchors in force. */
export function readEvidence(
  peer: { authorized: boolean; authorizationError: unknown; certificate: X509Certificate | undefined },
  issuedByUs: (certificate: X509Certificate) => boolean,
): PeerEvidence {
  const { authorized, certificate } = peer
  const chainError = peer.authorizationError
    ? String((peer.authorizationError as { code?: string }).code ?? peer.authorizationError)
    : undefined
  let facts: CertificateFacts | undefined
  try {
    facts = certificate && parseCertificate(certificate.raw)
  } catch (error) {
    if (!isFleetError(error)) throw error
    // A chain that OpenSSL accepts and we cannot read is not one that our CA made.
    return { certificate: undefined, chainAccepted: false, chainError: 'unreadable certificate', issuedByUs: false }
  }
  return {
    certificate: facts,
    chainAccepted: authorized,
    chainError,
    issuedByUs: !authorized && certificate !== undefined && issuedByUs(certificate),
  }
}

/**
 * At the end of the handshake: strangers go before one MQTT byte is read. One of ours that is not welcome may stay until
 * its CONNECT, so that it can be told.
 */
export function admitHandshake(evidence: PeerEvidence): { admitted: true; certificate: CertificateFacts } | Refusal {
  const { certificate, chainAccepted, chainError, issuedByUs } = evidence
  const refuse = (reason: ProblemCode, message: string): Refusal => ({
    admitted: false,
    reason,
    message,
    at: 'handshake',
  })
  if (certificate === undefined) {
    return chainError === 'unreadable certificate'
      ? refuse('certificate_untrusted', 'the client certificate cannot be read')
      : refuse('certificate_missing', 'no client certificate was presented')
  }
  // OpenSSL keeps the last fault it met, so a foreign certificate that has also expired reads CERT_HAS_EXPIRED: only a
  // signature by one of our CAs makes a certificate ours.
  if (chainAccepted || issuedByUs) return { admitted: true, certificate }
  return namesEqual(certificate.subject, certificate.issuer)
    ? refuse('certificate_self_signed', 'the client certificate is self-signed')
    : refuse(
        'certificate_untrusted',
        `the client certificate is of an unknown authority (${chainError ?? 'no reason given'})`,
      )
}

/** Whether the registry, as we know it, still stands behind a certificate. Dates and usage are not looked at. */
export function standingOf(
  fingerprint: string,
  beliefs: Beliefs,
): { reason: ProblemCode; message: string } | undefined {
  const record = beliefs.findCertificate(fingerprint)
  if (record === undefined)
    return { reason: 'certificate_unregistered', message: 'the certificate is not in the registry' }
  if (record.status !== 'issued') {
    return {
      reason: 'certificate_revoked',
      message: `the certificate was revoked for ${record.reason ?? 'unspecified'}`,
    }
  }
  const device = beliefs.findDevice(record.deviceId)
  if (device === undefined)
    return { reason: 'certificate_unregistered', message: `device ${record.deviceId} is not in the registry` }
  if (device.status !== 'active') return { reason: 'device_revoked', message: `device ${record.deviceId} is revoked` }
  return undefined
}

/**
 * At CONNECT, on every connection, resumed ones included: Node checks neither dates nor revocation on resumption.
 *
 * @param live             whether the feed's head was reached since the process started
 * @param otherConnections of the same device, without one that this CONNECT takes over
 */
export function admitConnect(input: {
  evidence: PeerEvidence
  connect: ConnectFacts
  beliefs: Beliefs
  live: boolean
  now: Date
  otherConnections: number
  maxConnections: number
}): Admission {
  const { evidence, connect, beliefs, now } = input
  const atHandshake = admitHandshake(evidence)
  if (!atHandshake.admitted) return atHandshake
  const { certificate } = atHandshake
  const refuse = (reason: ProblemCode, message: string): Refusal => ({
    admitted: false,
    reason,
    message,
    at: 'connect',
  })

  if (!input.live) return refuse('snapshot_stale', 'the broker has not heard yet who is revoked; try again')
  const fault = certificateFault(certificate, now)
  if (fault !== undefined) return refuse(...fault)
  const standing = standingOf(certificate.fingerprint, beliefs)
  if (standing !== undefined) return refuse(standing.reason, standing.message)
  // Every fault of the leaf itself has its own name above; what is left is a fault of the chain.
  if (!evidence.chainAccepted)
    return refuse('certificate_untrusted', `the certificate's chain does not hold (${evidence.chainError})`)

  const deviceId = beliefs.findCertificate(certificate.fingerprint)!.deviceId as DeviceId
  if (connect.clientId === '' && !connect.clean) {
    return refuse('client_id_mismatch', 'a session that is to be kept needs a client id') // [MQTT-3.1.3-8] of 3.1.1
  }
  const clientId = connect.clientId || deviceId
  if (!clientIdBelongsTo(clientId, deviceId)) {
    return refuse(
      'client_id_mismatch',
      `the client id must be ${deviceId}, or ${deviceId}: and a suffix of at most 64 characters`,
    )
  }
  if (input.otherConnections >= input.maxConnections) {
    return refuse('too_many_connections', `${deviceId} has ${input.otherConnections} connections already`)
  }
  const principal = principalOf({ certificate, deviceId, device: beliefs.findDevice(deviceId)!, clientId })
  const matcher = compilePolicy(beliefs.policy.document, principal.facts)
  if (connect.will !== undefined && !isWillAllowed(connect.will, matcher)) {
    return refuse('will_denied', `a will on ${JSON.stringify(connect.will.topic.slice(0, 200))} is not allowed`)
  }
  return { admitted: true, principal, matcher }
}

/** mqtt-packet lets a will of QoS 3, with wildcards or with an empty topic through (trap T11). */
export const isWillAllowed = (will: Will, matcher: Matcher): boolean =>
  will.qos <= 2 && isTopicName(will.topic) && matcher.allows('publish', will.topic).allowed

function certificateFault(certificate: CertificateFacts, now: Date): [ProblemCode, string] | undefined {
  const { notBefore, notAfter, extendedKeyUsage } = certificate
  if (now > notAfter) return ['certificate_expired', `the certificate expired at ${notAfter.toISOString()}`]
  if (now < notBefore) return ['certificate_not_yet_valid', `the certificate is valid from ${notBefore.toISOString()}`]
  // RFC 5280 4.2.1.12 lets an absent extension stand for any use; our profiles always name theirs.
  if (!extendedKeyUsage.includes('clientAuth') || certificate.isCa) {
    return ['certificate_wrong_usage', 'the certificate is not for client authentication']
  }
  return undefined
}
