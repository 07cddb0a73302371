import { createHash } from 'node:crypto'
import type { Purge } from '../../contract/feed.ts'
import { type DeviceId, isDeviceId, nameRule, type ProfileName } from '../../contract/ids.ts'
import type { RequestedCertificate } from '../../pki/csr.ts'
import { singleCommonName } from '../../pki/csr.ts'
import { buildName, formatName, namesEqual } from '../../pki/names.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { EdgeRequest } from '../../runtime/https.ts'
import type { Approval } from '../ca/certificate-authority.ts'
import { type CertificateRecord, getCertificate } from '../registry/certificates.ts'
import { findClaim } from '../registry/claims.ts'
import { type DeviceRecord, findDevice, requireActive, withFactoryKey } from '../registry/devices.ts'
import type { Stored } from '../registry/engine.ts'
import type { Registry } from '../registry/registry.ts'
import type { Voucher } from '../registry/vouchers.ts'
import type { ApprovalQueue, Request as ApprovalRequest } from './approval-queue.ts'
import { claimRefused, claimVoucher } from './claim-certificate.ts'
import { type CertificateEvidence, requireCurrent, requireIssued } from './current-certificate.ts'
import {
  type EnrollmentEvidence,
  type Evidence,
  missing,
  type Proof,
  type ProvenKind,
  provenDevice,
} from './evidence.ts'
import { requireStillAllowed } from './factory-certificate.ts'
import { requireLateRenewalFor } from './late-renewal.ts'
import { defaultLabel, type EnrollmentProfile, type Label, type Profiles } from './profiles.ts'
import { requireTokenFor, tokenInvalid } from './token.ts'

/**
 * `issued` gives again what was issued before: an answer that was lost on its way. `pending` waits for somebody to approve,
 * and the same request is to come again.
 */
export type Decision =
  | { decision: 'approved'; approval: Approval }
  | { decision: 'issued'; der: Buffer }
  | { decision: 'pending'; retryAfterMs: number }

/**
 * What is asked for, and where: the label decides which profile may be had. `der` is what the device sent and signed; there
 * is none where the key is made here.
 */
export type Asking = Pick<EdgeRequest, 'channelBinding' | 'id' | 'remoteAddress'> & {
  label: Label
  request: RequestedCertificate & { der?: Buffer }
  now: Date
}

export type Expectations = {
  profile: EnrollmentProfile | undefined
  /** DER of the Name that the request has to carry; undefined where the caller did not say who it is */
  subject: Buffer | undefined
  channelBinding: boolean
}

export class RegistrationAuthority {
  readonly #registry: Registry
  readonly #profiles: Profiles
  readonly #approvals: ApprovalQueue

  constructor(registry: Registry, profiles: Profiles, approvals: ApprovalQueue) {
    this.#registry = registry
    this.#profiles = profiles
    this.#approvals = approvals
  }

  /** A first enrollment or another one, by what was proved. */
  decide(evidence: Evidence, asking: Asking): Promise<Decision> {
    return evidence.kind === 'enrollment'
      ? this.#decideEnrollment(evidence, asking)
      : this.#decideReenrollment(evidence, asking)
  }

  /**
   * A first enrollment: identity comes from what was proved, and the request must name exactly that device.
   *
   * @throws FleetError `device_revoked`, `device_held`, `evidence_mismatch`, `unauthenticated`, `certificate_missing`, `token_…`, `claim_…`, `device_not_allowed`, `hardware_stolen`, `approval_…`,
   *   `csr_subject_mismatch`, `profile_unknown`, `label_mismatch`, `csr_key_unsupported`, `channel_binding_…`
   */
  async #decideEnrollment(evidence: EnrollmentEvidence, asking: Asking): Promise<Decision> {
    const { label, request, now } = asking
    const deviceId = provenDevice(evidence)
    if (deviceId === undefined) return this.#decideUnproven(evidence, asking)
    // A credential for a device that is not there any more proves nothing.
    const device = await this.#getActiveDevice(deviceId)
    const sharers: Stored<DeviceRecord>[] = []
    for (const proof of evidence.proofs) {
      if (proof.kind === 'token') requireTokenFor(proof, request.spkiHash, now)
      // Once more, after the device: who takes it off the list from now on writes the device too, so this issue would lose.
      if (proof.kind === 'factory') sharers.push(...(await requireStillAllowed(this.#registry, proof, label.name)))
    }
    requireSubject(request, deviceId)
    const profile = this.#profileFor(asking, device.doc.profile)
    const proofs = proofsFor(profile, evidence)
    const vouchers: Voucher[] = []
    for (const proof of proofs) {
      if (proof.kind === 'token') vouchers.push(proof.voucher)
      if (proof.kind === 'claim') {
        const known = await findClaim(this.#registry, deviceId)
        vouchers.push(claimVoucher(proof, known, { device: device.doc, spkiHash: request.spkiHash, now }))
      }
    }
    const spent = vouchers.find(({ doc }) => doc.status === 'spent')
    if (spent !== undefined) return this.#issuedBefore(spent, deviceId, now)
    if (profile.evidence.includes('approval')) {
      const answer = await this.#approvals.ask(approvalRequest(asking, { deviceId, profile, proofs }), {
        requestId: asking.id,
        now,
      })
      if (answer.decision === 'pending') return answer
      if (answer.voucher.doc.status === 'spent') return this.#issuedBefore(answer.voucher, deviceId, now)
      vouchers.push(answer.voucher)
    }
    const via = profile.evidence.join('+')
    const shown = evidence.proofs.find((proof) => proof.kind === 'factory')
    // Known with the first certificate that it gives, so that the hardware is known again when the device is stolen.
    const known = shown === undefined ? device : { ...device, doc: withFactoryKey(device.doc, shown.spkiHash) }
    return { decision: 'approved', approval: { device: known, profile, label: label.name, via, vouchers, sharers } }
  }

  /**
   * Who shows nothing, or what many devices share, can name any device. It is answered by what it sends, by what an operator
   * said to this very request and by what its key was given before, not by what the registry has under that name.
   */
  async #decideUnproven(evidence: EnrollmentEvidence, asking: Asking): Promise<Decision> {
    const { label, request, now } = asking
    const deviceId = requestedDevice(request)
    const profile = this.#profileFor(asking, label.profile!.name)
    const proofs = proofsFor(profile, evidence)
    const vouchers: Voucher[] = []
    if (profile.evidence.includes('approval')) {
      const asked = approvalRequest(asking, { deviceId, profile, proofs })
      const answer = await this.#approvals.ask(asked, { requestId: asking.id, now })
      if (answer.decision === 'pending') return answer
      vouchers.push(answer.voucher)
    }
    const claim = proofs.find((proof) => proof.kind === 'claim')
    const known = claim && (await findClaim(this.#registry, deviceId))
    try {
      const device = await this.#findActiveDevice(deviceId)
      // Whoever approved the request created its device.
      if (device === undefined) throw new FleetError('device_unknown', `there is no device ${deviceId}`)
      if (claim !== undefined) {
        vouchers.push(claimVoucher(claim, known, { device: device.doc, spkiHash: request.spkiHash, now }))
      }
      const spent = vouchers.find(({ doc }) => doc.status === 'spent')
      if (spent !== undefined) return await this.#issuedBefore(spent, deviceId, now)
      this.#profileUnder(label, device.doc.profile)
      const via = profile.evidence.join('+')
      return { decision: 'approved', approval: { device, profile, label: label.name, via, vouchers } }
    } catch (cause) {
      // The key that claimed the device has shown whose it is.
      if (claim === undefined || known?.doc.spkiHash === request.spkiHash) throw cause
      throw claimRefused(cause, claim, deviceId)
    }
  }

  /** The answer may have been lost on its way. */
  async #issuedBefore({ kind, doc }: Voucher, deviceId: DeviceId, now: Date): Promise<Decision> {
    const certificate = await getCertificate(this.#registry, doc.serial!)
    const { status, notAfter, der } = certificate.doc
    const expired = notAfter !== undefined && new Date(notAfter) <= now
    if (status === 'issued' && !expired) return { decision: 'issued', der: Buffer.from(der!, 'base64') }
    const why = expired ? 'has expired' : 'is revoked'
    throw new FleetError(
      spentCodes[kind],
      `this ${voucherNames[kind]} was used, and its certificate ${why}; ask the operator`,
      {
        context: { deviceId },
      },
    )
  }

  /**
   * A re-enrollment, with the same key or a new one: identity comes from the current certificate, and subject and SAN of
   * the request are those of that certificate (RFC 7030 4.2.2). A request without a SAN leaves it to us.
   *
   * @throws FleetError `device_revoked`, `device_held`, `certificate_wrong_usage`, `certificate_superseded`, `subject_changed`, `profile_unknown`,
   *   `label_mismatch`, `csr_key_unsupported`, `channel_binding_…`, `late_renewal_spent`
   */
  async #decideReenrollment(evidence: CertificateEvidence, asking: Asking): Promise<Decision> {
    const { label, request } = asking
    const { certificate, late } = evidence
    const { device, current } = await this.#standingOf(evidence)
    requireSameLabel(current, label)
    const profile = this.#profileFor(asking, device.doc.profile)
    if (!namesEqual(request.subject, certificate.subject)) {
      throw new FleetError(
        'subject_changed',
        `the request is for ${formatName(request.subject).slice(0, 200) || 'an empty subject'}; the certificate is for ${formatName(certificate.subject)}`,
        { context: { deviceId: device.doc.id } },
      )
    }
    const { subjectAltName } = request
    if (subjectAltName !== undefined && !(certificate.subjectAltNameDer?.equals(subjectAltName) ?? false)) {
      throw new FleetError('subject_changed', 'the subjectAltName of the request is not that of the certificate', {
        context: { deviceId: device.doc.id },
      })
    }
    const approval = { device, profile, label: label.name, renews: current.serial }
    if (late === undefined) return { decision: 'approved', approval: { ...approval, via: 'reenroll', vouchers: [] } }
    requireLateRenewalFor(late, request.spkiHash)
    if (late.doc.status === 'spent') return this.#issuedBefore(late, device.doc.id as DeviceId, asking.now)
    return { decision: 'approved', approval: { ...approval, via: 'reenroll+late', vouchers: [late] } }
  }

  /**
   * Whether a certificate may be renewed at all, by whatever request.
   *
   * @returns the label under which that would be
   * @throws FleetError `device_revoked`, `device_held`, `certificate_wrong_usage`, `certificate_superseded`, `not_found`,
   *   `profile_unknown`, `label_mismatch`
   */
  async requireRenewable(evidence: CertificateEvidence): Promise<string> {
    const { device, label: name } = await this.#standingOf(evidence)
    const label = this.#profiles.findLabel(name)
    if (label === undefined) throw new FleetError('not_found', `the label ${name} that it was enrolled under is gone`)
    this.#profileUnder(label, device.doc.profile)
    return name
  }

  async #standingOf({ record }: CertificateEvidence) {
    const { serial, kind, deviceId, label = defaultLabel } = record.doc
    if (kind !== 'device' || deviceId === undefined) {
      throw new FleetError('certificate_wrong_usage', 'only a device certificate can be re-enrolled', {
        context: { serial },
      })
    }
    const device = await this.#getActiveDevice(deviceId as DeviceId)
    // Once more, after the device: what ends the certificate from now on writes the device too, so this issue would lose.
    const { doc: current } = await getCertificate(this.#registry, serial)
    requireIssued(current)
    await requireCurrent(this.#registry, current)
    return { device, current, label }
  }

  /**
   * What a request under this label has to look like, as far as that can be known of who asks (RFC 7030 4.5).
   *
   * @throws FleetError `device_revoked`, `device_held`, `label_mismatch`, `profile_unknown`
   */
  async describe(label: Label, evidence: Evidence | undefined): Promise<Expectations> {
    const stranger = {
      profile: label.profile,
      subject: undefined,
      channelBinding: this.#profiles.mayNeedChannelBinding(label),
    }
    if (evidence === undefined) return stranger
    const { deviceId, certificate } =
      evidence.kind === 'enrollment'
        ? { deviceId: provenDevice(evidence), certificate: undefined }
        : { deviceId: evidence.record.doc.deviceId as DeviceId | undefined, certificate: evidence.certificate }
    if (deviceId === undefined) return stranger
    const { doc } = await this.#getActiveDevice(deviceId)
    if (evidence.kind === 'certificate') requireSameLabel(evidence.record.doc, label)
    const profile = this.#profileUnder(label, doc.profile)
    return {
      profile,
      subject: certificate?.subject.der ?? buildName({ commonName: deviceId }),
      channelBinding: profile.channelBinding === 'required',
    }
  }

  /** @throws FleetError `profile_unknown` */
  requireProfile(name: string): void {
    this.#profiles.getProfile(name)
  }

  /**
   * @param advice what would let a device of this profile be under that label
   * @throws FleetError `label_mismatch` when the label is for another profile; one that is gone is for none
   */
  requireProfileUnder(labelName: string, name: string, advice: string): void {
    const wanted = this.#profiles.findLabel(labelName)?.profile?.name ?? name
    if (wanted === name) return
    throw new FleetError(
      'label_mismatch',
      `it is known under the label ${labelName}, which is for ${wanted}; ${advice}`,
    )
  }

  /** What of the messages of a device of this profile becomes void when it is revoked. */
  purged(profile: string, isStolen: boolean): (keyof Purge)[] {
    return this.#profiles.purged(profile, isStolen)
  }

  /** @throws FleetError `request_malformed` when there is no such label, or it is for no profile of its own */
  profileOfLabel(name: string): ProfileName {
    const profile = this.#profiles.findLabel(name)?.profile
    if (profile !== undefined) return profile.name as ProfileName
    throw new FleetError('request_malformed', `there is no label ${name} with a profile of its own`)
  }

  /** The profile, when the request is as it asks. */
  #profileFor({ label, request, channelBinding }: Asking, name: string): EnrollmentProfile {
    const profile = this.#profileUnder(label, name)
    if (!profile.keyTypes.includes(request.keyType)) {
      const wanted = profile.keyTypes.join(', ')
      throw new FleetError('csr_key_unsupported', `The key is ${request.keyType}; profile ${name} wants ${wanted}`)
    }
    checkChannelBinding(profile, request.challengePassword, channelBinding)
    return profile
  }

  #profileUnder(label: Label, name: string): EnrollmentProfile {
    const profile = this.#profiles.getProfile(name)
    if (label.profile !== undefined && label.profile.name !== name) {
      throw new FleetError(
        'label_mismatch',
        `the device has the profile ${name}; the label ${label.name} is for ${label.profile.name}`,
      )
    }
    return profile
  }

  async #getActiveDevice(id: DeviceId): Promise<Stored<DeviceRecord>> {
    const device = await this.#findActiveDevice(id)
    if (device === undefined) throw tokenInvalid(id)
    return device
  }

  /** @throws FleetError `device_revoked`: whatever it still holds, it stays out until it is readmitted; `device_held` */
  async #findActiveDevice(id: DeviceId): Promise<Stored<DeviceRecord> | undefined> {
    const device = await findDevice(this.#registry, id)
    if (device !== undefined) requireActive(device.doc)
    return device
  }
}

const spentCodes = {
  token: 'token_spent',
  claim: 'claim_spent',
  approval: 'approval_spent',
  lateRenewal: 'late_renewal_spent',
} as const

const voucherNames = { token: 'token', claim: 'claim', approval: 'approval', lateRenewal: 'permission to renew late' }

function requireSameLabel({ label: before = defaultLabel, deviceId }: CertificateRecord, { name }: Label): void {
  if (before === name) return
  const sentence = `the certificate was enrolled under the label ${before}; renew it there, not under ${name}`
  throw new FleetError('label_mismatch', sentence, { context: { deviceId } })
}

/** What the profile asks for, of what was shown. */
const proofsFor = ({ evidence: kinds }: EnrollmentProfile, evidence: EnrollmentEvidence): Proof[] =>
  kinds.filter((kind) => kind !== 'approval').map((kind) => proofOf(evidence, kind))

function proofOf({ proofs }: EnrollmentEvidence, kind: ProvenKind): Proof {
  const proof = proofs.find((one) => one.kind === kind)
  if (proof === undefined) throw missing(kind)
  return proof
}

function requestedDevice(request: RequestedCertificate): DeviceId {
  const name = singleCommonName(request)
  if (isDeviceId(name)) return name
  throw new FleetError(
    'csr_subject_mismatch',
    `the request names ${JSON.stringify(name.slice(0, 80))}; a device id is ${nameRule}`,
  )
}

function approvalRequest(
  { label, request, remoteAddress }: Asking,
  { deviceId, profile, proofs }: { deviceId: DeviceId; profile: EnrollmentProfile; proofs: Proof[] },
): ApprovalRequest {
  const { der, keyType, spkiHash } = request
  return {
    // There is one: serverkeygen, which has none, makes no keys where somebody has to approve them.
    id: createHash('sha256').update(der!).digest('hex'),
    deviceId,
    profile: profile.name,
    label: label.name,
    keyType,
    spkiHash,
    proved: proofs.map(({ kind }) => kind),
    remoteAddress,
  }
}

function requireSubject(request: RequestedCertificate, deviceId: DeviceId): void {
  const name = singleCommonName(request)
  if (name !== deviceId) {
    throw new FleetError(
      'csr_subject_mismatch',
      `the request names ${JSON.stringify(name.slice(0, 80))}; this credential is for CN=${deviceId}`,
      {
        context: { deviceId },
      },
    )
  }
}

// RFC 7030 3.5: what a client supplies is verified whether or not it is asked for, so a request that somebody took from
// another connection is not signed for.
function checkChannelBinding(
  profile: EnrollmentProfile,
  claimed: string | undefined,
  channelBinding: Asking['channelBinding'],
): void {
  if (claimed === undefined) {
    if (profile.channelBinding === 'optional') return
    throw new FleetError(
      'channel_binding_missing',
      `profile ${profile.name} wants the channel binding in challengePassword: base64 of tls-unique (TLS 1.2) or tls-exporter (TLS 1.3)`,
    )
  }
  const actual = channelBinding()
  if (actual === undefined) {
    throw new FleetError(
      'channel_binding_unavailable',
      'the request carries a challengePassword, and this connection has no channel binding to hold it against: use TLS 1.3, or TLS 1.2 with Extended Master Secret',
    )
  }
  if (claimed !== actual.toString('base64')) {
    throw new FleetError(
      'channel_binding_mismatch',
      'the challengePassword is not the channel binding of this connection (base64 of tls-unique or tls-exporter); bind to it, or leave it out',
    )
  }
}
