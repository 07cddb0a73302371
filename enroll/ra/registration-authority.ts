import type { DeviceId } from '../../contract/ids.ts'
import type { RequestedCertificate } from '../../pki/csr.ts'
import { singleCommonName } from '../../pki/csr.ts'
import { buildName, formatName, namesEqual } from '../../pki/names.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { EdgeRequest } from '../../runtime/https.ts'
import type { Approval } from '../ca/certificate-authority.ts'
import { getCertificate } from '../registry/certificates.ts'
import { type DeviceRecord, findDevice } from '../registry/devices.ts'
import type { Stored } from '../registry/engine.ts'
import type { Registry } from '../registry/registry.ts'
import type { CertificateEvidence, Evidence, TokenEvidence } from './evidence.ts'
import { defaultLabel, type EnrollmentProfile, type Label, type Profiles } from './profiles.ts'

/**
 * `issued` gives again what was issued before: an answer that was lost on its way. `pending` waits for somebody to approve,
 * and the same request is to come again.
 */
export type Decision =
  | { decision: 'approved'; approval: Approval }
  | { decision: 'issued'; der: Buffer }
  | { decision: 'pending'; retryAfterMs: number }

/** What is asked for, and where: the label decides which profile may be had. */
export type Asking = Pick<EdgeRequest, 'channelBinding'> & { label: Label; request: RequestedCertificate; now: Date }

export type Expectations = {
  profile: EnrollmentProfile | undefined
  /** DER of the Name that the request has to carry; undefined where the caller did not say who it is */
  subject: Buffer | undefined
  channelBinding: boolean
}

export class RegistrationAuthority {
  readonly #registry: Registry
  readonly #profiles: Profiles

  constructor(registry: Registry, profiles: Profiles) {
    this.#registry = registry
    this.#profiles = profiles
  }

  /** A first enrollment or another one, by what was proved. */
  decide(evidence: Evidence, asking: Asking): Promise<Decision> {
    return evidence.kind === 'token'
      ? this.#decideEnrollment(evidence, asking)
      : this.#decideReenrollment(evidence, asking)
  }

  /**
   * A first enrollment: identity comes from the token, and the request must name exactly that device.
   *
   * @throws FleetError `device_revoked`, `token_void`, `token_expired`, `token_spent`, `csr_subject_mismatch`,
   *   `profile_unknown`, `label_mismatch`, `csr_key_unsupported`, `channel_binding_…`
   */
  async #decideEnrollment(evidence: TokenEvidence, asking: Asking): Promise<Decision> {
    const { label, request, now } = asking
    const { token, deviceId } = evidence
    const device = await this.#activeDevice(deviceId)
    const { status, spkiHash, serial, expiresAt } = token.doc
    if (status === 'void') throw new FleetError('token_void', 'this token was voided', { context: { deviceId } })
    const bound = status === 'spent' || status === 'redeeming'
    if (bound && spkiHash !== request.spkiHash) {
      throw new FleetError('token_spent', 'this token was used for another key', { context: { deviceId } })
    }
    requireSubject(request, deviceId)
    const profile = this.#profileFor(asking, token.doc.profile)
    if (status === 'spent') {
      const { doc } = await getCertificate(this.#registry, serial!)
      const expired = doc.notAfter !== undefined && new Date(doc.notAfter) <= now
      if (doc.status === 'issued' && !expired) return { decision: 'issued', der: Buffer.from(doc.der!, 'base64') }
      const why = expired ? 'has expired' : 'is revoked'
      throw new FleetError(
        'token_spent',
        `this token was used, and its certificate ${why}; ask the operator for a new one`,
        {
          context: { deviceId },
        },
      )
    }
    // A redemption that began in time may end late: the serial it reserved waits for it.
    if (status === 'unspent' && new Date(expiresAt) <= now) {
      throw new FleetError('token_expired', `this token expired at ${expiresAt}`, { context: { deviceId } })
    }
    return {
      decision: 'approved',
      approval: { device, profile, label: label.name, via: 'token', token },
    }
  }

  /**
   * A re-enrollment, with the same key or a new one: identity comes from the current certificate, and subject and SAN of
   * the request are those of that certificate (RFC 7030 4.2.2). A request without a SAN leaves it to us.
   *
   * @throws FleetError `device_revoked`, `certificate_wrong_usage`, `subject_changed`, `profile_unknown`,
   *   `label_mismatch`, `csr_key_unsupported`, `channel_binding_…`
   */
  async #decideReenrollment(evidence: CertificateEvidence, asking: Asking): Promise<Decision> {
    const { label, request } = asking
    const { certificate, record } = evidence
    if (record.doc.kind !== 'device' || record.doc.deviceId === undefined) {
      throw new FleetError('certificate_wrong_usage', 'only a device certificate can be re-enrolled', {
        context: { serial: record.doc.serial },
      })
    }
    const device = await this.#activeDevice(record.doc.deviceId as DeviceId)
    const before = record.doc.label ?? defaultLabel
    if (before !== label.name) {
      throw new FleetError(
        'label_mismatch',
        `the certificate was enrolled under the label ${before}; renew it there, not under ${label.name}`,
        { context: { deviceId: device.doc.id } },
      )
    }
    const profile = this.#profileFor(asking, device.doc.profile)
    if (!namesEqual(request.subject, certificate.subject)) {
      throw new FleetError(
        'subject_changed',
        `the request is for ${formatName(request.subject) || 'an empty subject'}; the certificate is for ${formatName(certificate.subject)}`,
        { context: { deviceId: device.doc.id } },
      )
    }
    const { subjectAltName } = request
    if (subjectAltName !== undefined && !(certificate.subjectAltNameDer?.equals(subjectAltName) ?? false)) {
      throw new FleetError('subject_changed', 'the subjectAltName of the request is not that of the certificate', {
        context: { deviceId: device.doc.id },
      })
    }
    return { decision: 'approved', approval: { device, profile, label: label.name, via: 'reenroll' } }
  }

  /**
   * What a request under this label has to look like, as far as that can be known of who asks (RFC 7030 4.5).
   *
   * @throws FleetError `device_revoked`, `label_mismatch`, `profile_unknown`
   */
  async describe(label: Label, evidence: Evidence | undefined): Promise<Expectations> {
    const stranger = {
      profile: label.profile,
      subject: undefined,
      channelBinding: this.#profiles.mayNeedChannelBinding(label),
    }
    if (evidence === undefined) return stranger
    const { deviceId, certificate } =
      evidence.kind === 'token'
        ? { deviceId: evidence.deviceId, certificate: undefined }
        : { deviceId: evidence.record.doc.deviceId as DeviceId | undefined, certificate: evidence.certificate }
    if (deviceId === undefined) return stranger
    const { doc } = await this.#activeDevice(deviceId)
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
    if (label.profile !== undefined && label.profile !== profile) {
      throw new FleetError(
        'label_mismatch',
        `the device has the profile ${name}; the label ${label.name} is for ${label.profile.name}`,
      )
    }
    return profile
  }

  async #activeDevice(id: DeviceId): Promise<Stored<DeviceRecord>> {
    const device = await findDevice(this.#registry, id)
    // A credential for a device that is not there any more proves nothing.
    if (device === undefined)
      throw new FleetError(
        'token_invalid',
        'this token is not valid for this device id; ask the operator for a new one',
      )
    if (device.doc.status === 'revoked') {
      const { revocationReason, revokedAt } = device.doc
      throw new FleetError('device_revoked', `${id} was revoked for ${revocationReason} at ${revokedAt}`, {
        context: { deviceId: id },
      })
    }
    return device
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
