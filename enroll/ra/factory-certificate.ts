import { readFileSync } from 'node:fs'
import type { FactorySettings } from '../../contract/configuration.ts'
import { type DeviceId, isDeviceId } from '../../contract/ids.ts'
import { type CertificateFacts, parseCertificate, parsePem } from '../../pki/certificate.ts'
import { isIssuedBy, parseAuthority } from '../../pki/issued-by.ts'
import { attributesOf, formatName } from '../../pki/names.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { EdgeRequest } from '../../runtime/https.ts'
import { findAllowance, isAllowListed } from '../registry/allowances.ts'
import { type DeviceRecord, findDevice } from '../registry/devices.ts'
import type { Stored } from '../registry/engine.ts'
import { listSharing } from '../registry/hardware.ts'
import type { Registry } from '../registry/registry.ts'
import { requireNotStolen } from './stolen-hardware.ts'

/** What a label takes for a factory certificate (IDevID, IEEE 802.1AR). */
export type FactoryTrust = { authorities: readonly CertificateFacts[]; serialFrom: FactorySettings['serialFrom'] }
/** `spkiHash`: SHA-256 of the key that the factory certified, lower-case hex. */
export type FactoryProof = { kind: 'factory'; deviceId: DeviceId; serial: string; spkiHash: string }

export const readFactoryTrust = ({ authorities, serialFrom }: FactorySettings, where: string): FactoryTrust => ({
  authorities: readAuthorities(authorities, where),
  serialFrom,
})

/**
 * A file of CA certificates, each of them trusted for what it issues itself: a chain through a CA that is not in the file is
 * not followed, since a resumed TLS session no longer has it.
 *
 * @throws FleetError `config_invalid`
 */
export function readAuthorities(path: string, where: string): CertificateFacts[] {
  const invalid = (what: string, cause?: unknown): FleetError =>
    new FleetError('config_invalid', `${where}: ${path} ${what}`, { cause })
  let found: Buffer[]
  try {
    found = parsePem(readFileSync(path, 'utf8'), 'CERTIFICATE')
  } catch (cause) {
    throw invalid(`cannot be read: ${(cause as Error).message}`, cause)
  }
  if (found.length === 0) throw invalid('holds no certificate; PEM of CA certificates is wanted')
  return found.map((der, at) => {
    try {
      return parseAuthority(der)
    } catch (cause) {
      throw invalid(`cannot be used, certificate ${at + 1} of it: ${(cause as Error).message}`, cause)
    }
  })
}

/**
 * The certificate of this very request, when an authority of the label issued it: within its dates, for a client, of a
 * device that the allow-list has under its serial number, or that is registered under that name. That the key is held, TLS
 * has shown. Read for every request: a resumed session is judged again.
 *
 * @returns undefined when the certificate is none of this factory
 * @throws FleetError `certificate_expired`, `certificate_not_yet_valid`, `certificate_wrong_usage`, `device_not_allowed`,
 *   `hardware_stolen`
 */
export async function findFactoryProof(
  registry: Registry,
  request: Pick<EdgeRequest, 'certificate'>,
  { label, trust, now }: { label: string; trust: FactoryTrust | undefined; now: Date },
): Promise<FactoryProof | undefined> {
  if (request.certificate === undefined || trust === undefined) return undefined
  const certificate = parseCertificate(request.certificate)
  if (!trust.authorities.some((authority) => isIssuedBy(certificate, authority))) return undefined
  requireClientCertificate(certificate, now)
  const serial = serialOf(certificate, trust.serialFrom)
  const allowance = await findAllowance(registry, label, serial)
  const isRemoved = allowance?.doc.removedAt !== undefined
  const deviceId = isRemoved ? undefined : (allowance?.doc.deviceId ?? (await registered(registry, serial)))
  if (deviceId === undefined) throw notAllowed(serial, { fingerprint: certificate.fingerprint })
  const { spkiHash } = certificate
  await requireNotStolen(registry, { serial, spkiHash, deviceId, otherThan: allowance?.doc.otherThan ?? [] })
  return { kind: 'factory', deviceId: deviceId as DeviceId, serial, spkiHash }
}

/**
 * @returns other devices that share the hardware, or may: the theft of one from now on has to meet this enrollment
 * @throws FleetError `device_not_allowed` when it was taken off the list meanwhile, `hardware_stolen`
 */
export async function requireStillAllowed(
  registry: Registry,
  proof: FactoryProof,
  label: string,
): Promise<Stored<DeviceRecord>[]> {
  const allowance = await findAllowance(registry, label, proof.serial)
  if (allowance?.doc.removedAt !== undefined) throw notAllowed(proof.serial, { deviceId: proof.deviceId })
  const otherThan = allowance?.doc.otherThan ?? []
  const { deviceId: id, spkiHash, serial } = proof
  // Read before the look for stolen ones, so that a theft in between shows in one or the other.
  const { byKey, bySerial } = await listSharing(registry, { id, keys: [spkiHash], serials: [serial], otherThan })
  await requireNotStolen(registry, { ...proof, otherThan })
  return [...byKey, ...bySerial]
}

function notAllowed(serial: string, context: Record<string, string>): FleetError {
  const shown = JSON.stringify(serial.slice(0, 128))
  return new FleetError('device_not_allowed', `serial number ${shown} is not on the allow-list`, { context })
}

/** @throws FleetError `certificate_expired`, `certificate_not_yet_valid`, `certificate_wrong_usage` */
export function requireClientCertificate(certificate: CertificateFacts, now: Date): void {
  const { notBefore, notAfter, isCa, keyUsage, extendedKeyUsage, fingerprint } = certificate
  const context = { fingerprint }
  if (notAfter < now) {
    throw new FleetError('certificate_expired', `the certificate expired at ${notAfter.toISOString()}`, { context })
  }
  if (notBefore > now) {
    const sentence = `the certificate is valid from ${notBefore.toISOString()} on`
    throw new FleetError('certificate_not_yet_valid', sentence, { context })
  }
  // RFC 5280 4.2.1.3, 4.2.1.12: an extension that is absent allows every use.
  const isForClients = extendedKeyUsage.length === 0 || extendedKeyUsage.includes('clientAuth')
  const mayAuthenticate = keyUsage.length === 0 || keyUsage.includes('digitalSignature')
  if (isCa || !isForClients || !mayAuthenticate) {
    throw new FleetError('certificate_wrong_usage', 'the certificate is not for client authentication', { context })
  }
}

/** The one value of that attribute in the whole name; two of them, or a string that is not well formed, name nobody. */
function serialOf({ subject, fingerprint }: CertificateFacts, from: FactorySettings['serialFrom']): string {
  const found = attributesOf(subject, from)
  const [attribute] = found
  if (found.length === 1 && (attribute!.encoding === 'utf8' || attribute!.encoding === 'printable')) {
    return attribute!.value
  }
  throw new FleetError(
    'device_not_allowed',
    `the factory certificate is for ${formatName(subject).slice(0, 200) || 'nobody'}; one ${from}, UTF8String or PrintableString, is wanted`,
    { context: { fingerprint } },
  )
}

/** One that an allow-list names under a serial number is not found under another label's. */
async function registered(registry: Registry, serial: string): Promise<string | undefined> {
  if (!isDeviceId(serial) || (await findDevice(registry, serial)) === undefined) return undefined
  return (await isAllowListed(registry, serial)) ? undefined : serial
}
