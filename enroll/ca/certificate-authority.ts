import type { DeviceId, SerialNumber } from '../../contract/ids.ts'
import { issue, newSerialNumber, prepare } from '../../pki/certificate.ts'
import type { RequestedCertificate } from '../../pki/csr.ts'
import { buildName, deviceUri, formatName, parseName } from '../../pki/names.ts'
import type { CertificateProfile } from '../../pki/profile.ts'
import type { StatusPointers } from '../../pki/status-pointers.ts'
import { FleetError } from '../../runtime/errors.ts'
import { randomOctets } from '../../runtime/random.ts'
import { type CertificateRecord, getCertificate, writeCertificate } from '../registry/certificates.ts'
import { type DeviceRecord, writeDevice } from '../registry/devices.ts'
import type { Stored } from '../registry/engine.ts'
import type { Registry, Write } from '../registry/registry.ts'
import { findVoucher, type Voucher, writeVoucher } from '../registry/vouchers.ts'
import { findBarred } from './barring.ts'
import type { DistributionPoints } from './distribution-points.ts'
import { nextNotice } from './expiry.ts'
import type { Hierarchy } from './hierarchy.ts'
import { endSurplus } from './supersession.ts'

/** What the registration authority approved: the CA signs this and nothing else. */
export type Approval = {
  device: Stored<DeviceRecord>
  profile: CertificateProfile
  /** RFC 7030 3.2.2: where it was asked for, and where alone it can be renewed */
  label: string
  /** what was proved */
  via: string
  /** Serial of the certificate that was shown for it, if one was. */
  renews?: string
  /** Spent in the same batch that records the certificate. */
  vouchers: readonly Voucher[]
  /** Devices whose theft from now on would be one of this hardware. */
  sharers?: readonly Stored<DeviceRecord>[]
}
export type IssueContext = { requestId: string; remoteAddress: string; now: Date }

/** Devices' clocks may run a little behind ours. */
const backdateMs = 5 * 60_000

export class CertificateAuthority {
  readonly #registry: Registry
  readonly #hierarchy: Hierarchy
  readonly #points: DistributionPoints | undefined

  /** @param points where the status of what is issued can be asked for, if anywhere */
  constructor(registry: Registry, hierarchy: Hierarchy, points?: DistributionPoints) {
    this.#registry = registry
    this.#hierarchy = hierarchy
    this.#points = points
  }

  /**
   * Signs what was approved and records it. The serial is reserved, and each voucher bound to this key, before the CA key is
   * used: a crash can leave an unused serial but never an unrecorded certificate.
   *
   * @param request its key is known to be the asker's: by proof of possession (RFC 7030 3.4), or because we made it for them
   * @returns DER of the leaf alone (RFC 7030 4.2.3)
   * @throws FleetError `conflict` when the device or a voucher changed meanwhile: ask the RA again;
   *   `lint_failed`, `key_unavailable`, `outcome_unknown`
   */
  async issue(approval: Approval, request: RequestedCertificate, context: IssueContext): Promise<Buffer> {
    const barred = findBarred(approval.device.doc.id)
    if (barred !== undefined) throw new FleetError(barred, 'the device is being taken out of service at this moment')
    const reserved = await this.#reserve(approval, request, context)
    const { device, profile } = approval
    const reservedSerial = reserved.certificate.doc.serial as SerialNumber
    const status = this.#points?.assign(reservedSerial)
    const subject = subjectOf(device.doc, profile)
    const certificate = await this.#sign(
      reservedSerial,
      { approval, subject, pointers: status?.pointers },
      request,
      context.now,
    )
    const noticeAt = nextNotice(certificate, context.now)
    const nth = (device.doc.issued ?? 0) + 1
    const record: CertificateRecord = {
      ...reserved.certificate.doc,
      status: 'issued',
      fingerprint: certificate.fingerprint,
      der: certificate.der.toString('base64'),
      subject: formatName(parseName(subject)),
      notBefore: certificate.notBefore.toISOString(),
      notAfter: certificate.notAfter.toISOString(),
      issuedAt: context.now.toISOString(),
      nth,
      ...(status === undefined ? {} : { distributionPoint: status.distributionPoint }),
      ...(noticeAt === undefined ? {} : { noticeAt }),
    }
    const { serial } = record
    const { unused, ...surplus } = await endSurplus(this.#registry, { serial, device: device.doc }, context.now)
    const writes: Write[] = [
      writeCertificate(record, reserved.certificate.rev),
      // Written even where nothing else changes: a revocation that came in between makes this commit a loser.
      writeDevice({ ...device.doc, currentSerial: serial, issued: nth, unused }, device.rev),
      // As they are: of the theft of one and this commit one loses, and then looks for the other.
      ...(approval.sharers ?? []).map(({ doc, rev }) => writeDevice(doc, rev)),
    ]
    const spent = { status: 'spent', spkiHash: request.spkiHash, serial, spentAt: record.issuedAt! } as const
    for (const voucher of reserved.vouchers) writes.push(writeVoucher(voucher, spent))
    await this.#registry.commit({
      writes: [...writes, ...surplus.writes],
      // A theft that was told of since the request was looked at makes this commit a loser.
      absent: [{ kind: 'watchedKey', id: request.spkiHash }],
      audit: [
        {
          action: 'certificate.issued',
          actor: `device:${device.doc.id}`,
          subject: `certificate:${record.serial}`,
          outcome: 'done',
          details: {
            device: device.doc.id,
            via: approval.via,
            profile: profile.name,
            label: approval.label,
            fingerprint: certificate.fingerprint,
            notAfter: record.notAfter!,
            ...(device.doc.currentSerial === undefined ? {} : { before: device.doc.currentSerial }),
          },
          remoteAddress: context.remoteAddress,
          requestId: context.requestId,
        },
        ...surplus.audit,
      ],
      feed: [
        {
          type: 'certificate.issued',
          data: {
            serial: record.serial,
            fingerprint: certificate.fingerprint,
            deviceId: device.doc.id,
            notAfter: record.notAfter!,
            via: approval.via,
          },
        },
        ...surplus.feed,
      ],
      at: context.now,
    })
    return certificate.der
  }

  async #reserve(
    approval: Approval,
    request: RequestedCertificate,
    context: IssueContext,
  ): Promise<{ certificate: Stored<CertificateRecord>; vouchers: Voucher[] }> {
    const { device, vouchers } = approval
    // A redemption that a crash cut short goes on with the serial it reserved.
    const begun = vouchers.find(({ doc }) => doc.status === 'redeeming')
    if (begun !== undefined) return this.#reserved(begun.doc.serial!, vouchers)
    const serial = newSerialNumber(randomOctets)
    const certificate: CertificateRecord = {
      serial,
      kind: 'device',
      deviceId: device.doc.id,
      profile: approval.profile.name,
      label: approval.label,
      status: 'reserved',
      spkiHash: request.spkiHash,
      reservedAt: context.now.toISOString(),
      via: approval.via,
      ...(approval.renews === undefined ? {} : { renews: approval.renews }),
    }
    const bound = { status: 'redeeming', spkiHash: request.spkiHash, serial } as const
    await this.#registry.commit({
      writes: [writeCertificate(certificate, 0), ...vouchers.map((voucher) => writeVoucher(voucher, bound))],
      audit: [
        {
          action: 'certificate.issued',
          actor: `device:${device.doc.id}`,
          subject: `certificate:${serial}`,
          outcome: 'intended',
          details: { device: device.doc.id, key: request.spkiHash, keyType: request.keyType },
          remoteAddress: context.remoteAddress,
          requestId: context.requestId,
        },
      ],
      at: context.now,
    })
    // Nobody else has heard of this serial, and what was never there before has the revision 1.
    if (vouchers.length === 0) return { certificate: { rev: 1, doc: certificate }, vouchers: [] }
    return this.#reserved(serial, vouchers)
  }

  // Another request with the same vouchers and key may have taken this reservation to its end already.
  async #reserved(serial: string, vouchers: readonly Voucher[]) {
    const certificate = await getCertificate(this.#registry, serial)
    const now = await Promise.all(vouchers.map((voucher) => findVoucher(this.#registry, voucher)))
    const usable = now.filter((voucher) => voucher?.doc.status === 'redeeming' || voucher?.doc.status === 'unspent')
    if (certificate.doc.status !== 'reserved' || usable.length < vouchers.length) {
      throw new FleetError('conflict', 'the reservation was used meanwhile', { context: { serial } })
    }
    return { certificate, vouchers: usable as Voucher[] }
  }

  #sign(
    serial: SerialNumber,
    { approval, subject, pointers }: { approval: Approval; subject: Buffer; pointers: StatusPointers | undefined },
    request: RequestedCertificate,
    now: Date,
  ) {
    const { device, profile } = approval
    const { issuing } = this.#hierarchy
    return issue(
      prepare({
        profile,
        issuer: { certificate: issuing.certificate, signer: issuing.signer },
        serial,
        subject,
        subjectAltName: { uris: [deviceUri(device.doc.id as DeviceId)] },
        publicKeySpki: request.publicKeySpki,
        notBefore: new Date(Math.max(now.getTime() - backdateMs, issuing.certificate.notBefore.getTime())),
        notAfter: new Date(now.getTime() + profile.validityMs),
        pointers,
      }),
    )
  }
}

/** The subject comes from the registry record, never from the request: O from the profile, an OU for each group, CN the id. */
function subjectOf(device: DeviceRecord, profile: CertificateProfile): Buffer {
  return buildName({
    commonName: device.id,
    organizationalUnits: device.groups,
    ...(profile.organization === undefined ? {} : { organization: profile.organization }),
  })
}
