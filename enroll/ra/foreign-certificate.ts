import type { DeviceId } from '../../contract/ids.ts'
import { type CertificateFacts, parseCertificate, parsePem } from '../../pki/certificate.ts'
import { formatName } from '../../pki/names.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { Asked } from '../registry/asked.ts'
import { type CertificateRecord, findCertificate, writeCertificate } from '../registry/certificates.ts'
import { getDevice, writeDevice } from '../registry/devices.ts'
import type { Stored } from '../registry/engine.ts'
import { type Registry, untilNoConflict } from '../registry/registry.ts'
import { requireUnwatched } from './key-watch.ts'

/**
 * CAs of others number as they like, so what stands for the number here is made of the fingerprint. The top bit of ours is clear
 * (RFC 5280 4.1.2.2): none of them begins like that.
 */
const nameOf = (fingerprint: string): string => `f0${fingerprint.slice(0, 38)}`

/**
 * Notes a certificate that another CA has issued as that of a device, which is what listeners with pinned certificates ask for. Nothing
 * is trusted for it: whose certificates are taken is said by `broker.trust`, and enrollment takes none of them. The same
 * once more changes nothing.
 *
 * @param pem one certificate; what signed it is neither looked for nor asked
 * @throws FleetError `request_malformed`, `device_unknown`, `device_revoked`, `device_held`, `certificate_expired`,
 *   `key_compromised`, `conflict` for one of this gateway, and one that is another device's or was revoked
 */
export function registerCertificate(
  registry: Registry,
  { deviceId, pem }: { deviceId: DeviceId; pem: string },
  asked: Asked,
): Promise<CertificateRecord> {
  const certificate = readOne(pem)
  const { fingerprint, spkiHash, notAfter } = certificate
  if (notAfter <= asked.now) {
    throw new FleetError('certificate_expired', `the certificate expired at ${notAfter.toISOString()}`)
  }
  return untilNoConflict(async () => {
    const device = await getDevice(registry, deviceId)
    if (device.doc.status !== 'active') {
      const code = device.doc.status === 'held' ? 'device_held' : 'device_revoked'
      throw new FleetError(code, `${deviceId} is ${device.doc.status}; nothing is registered for it`)
    }
    await requireUnwatched(registry, spkiHash)
    const ours = await findCertificate(registry, certificate.serial)
    if (ours?.doc.fingerprint === fingerprint) throw final(`${certificate.serial} was issued here, and is registered`)
    const serial = nameOf(fingerprint)
    const known = await findCertificate(registry, serial)
    if (known !== undefined) return registered(known, deviceId)
    const record: CertificateRecord = {
      serial,
      kind: 'foreign',
      deviceId,
      profile: device.doc.profile,
      status: 'issued',
      spkiHash,
      reservedAt: asked.now.toISOString(),
      fingerprint,
      der: certificate.der.toString('base64'),
      subject: formatName(certificate.subject),
      issuer: formatName(certificate.issuer),
      issuerSerial: certificate.serial,
      notBefore: certificate.notBefore.toISOString(),
      notAfter: notAfter.toISOString(),
      issuedAt: asked.now.toISOString(),
      via: 'operator',
    }
    await registry.commit({
      requestId: `${asked.requestId}-register`,
      digest: asked.digest,
      // The device as it is: a revocation that came in between makes this commit a loser.
      writes: [writeCertificate(record, 0), writeDevice(device.doc, device.rev)],
      absent: [{ kind: 'watchedKey', id: spkiHash }],
      audit: [
        {
          action: 'certificate.registered',
          actor: asked.actor,
          subject: `certificate:${serial}`,
          outcome: 'done',
          details: { device: deviceId, fingerprint, issuer: record.issuer!, issuerSerial: certificate.serial },
          remoteAddress: asked.remoteAddress,
          requestId: asked.requestId,
        },
      ],
      feed: [{ type: 'certificate.issued', data: { serial, fingerprint, deviceId, notAfter: record.notAfter! } }],
      at: asked.now,
    })
    return record
  })
}

function readOne(pem: string): CertificateFacts {
  const [der, ...more] = parsePem(pem, 'CERTIFICATE')
  if (der === undefined || more.length > 0) {
    throw new FleetError(
      'request_malformed',
      `one certificate in PEM is wanted, ${more.length + (der ? 1 : 0)} were found`,
    )
  }
  const certificate = parseCertificate(der)
  if (certificate.isCa) throw new FleetError('request_malformed', "the certificate is a CA's, not a device's")
  return certificate
}

function registered({ doc }: Stored<CertificateRecord>, deviceId: DeviceId): CertificateRecord {
  if (doc.deviceId !== deviceId) throw final(`the certificate is registered for ${doc.deviceId}`)
  if (doc.status === 'revoked') throw final(`the certificate was revoked at ${doc.revokedAt}; that is for good`)
  return doc
}

const final = (sentence: string): FleetError => new FleetError('conflict', sentence, { context: { final: true } })
