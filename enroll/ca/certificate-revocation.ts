import type { RevocationReason, SerialNumber } from '../../contract/ids.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { Asked } from '../registry/asked.ts'
import { type CertificateRecord, getCertificate, listCertificates, writeCertificate } from '../registry/certificates.ts'
import { getDevice, writeDevice } from '../registry/devices.ts'
import { type Registry, readAll, untilNoConflict } from '../registry/registry.ts'
import { watchKeys } from '../registry/watched-keys.ts'
import { barringAttempts } from './barring.ts'
import { certificateRevoked, isLive, revokedCertificate } from './revocation.ts'

export type CertificateRevocation = {
  serial: string
  deviceId: string
  reason: string
  revokedAt: string
  alreadyRevoked: boolean
  /** Whether it was the newest of its device. */
  isCurrent: boolean
  /** Serial numbers of all that this revoked: where the key was compromised, of all that are for that key. */
  certificates: string[]
  /** Serial numbers of those that the device still has. */
  remaining: string[]
  keysWatched: number
  feedSeq: number
}
type Input = Asked & { serial: SerialNumber; reason: RevocationReason }

/**
 * Revokes one certificate and leaves its device the others, in one durable batch. A key that was compromised ends every
 * certificate that the device has for it.
 *
 * @throws FleetError `certificate_unknown`, `conflict` for one that is no device's or was not issued yet
 */
export const revokeCertificate = (registry: Registry, input: Input): Promise<CertificateRevocation> =>
  untilNoConflict(() => revoke(registry, input), barringAttempts)

async function revoke(registry: Registry, input: Input): Promise<CertificateRevocation> {
  const { serial, reason, actor, remoteAddress, requestId, now } = input
  const { doc } = await getCertificate(registry, serial)
  const deviceId = requireRevocable(doc)
  const device = await getDevice(registry, deviceId)
  const all = await readAll((paging) => listCertificates(registry, { deviceId, ...paging }))
  const live = all.filter(isLive)
  const isCompromise = reason === 'keyCompromise'
  const ended = all.filter(({ doc: one, ...rest }) =>
    one.serial === serial
      ? one.status !== 'revoked' || (isCompromise && one.revocationReason !== reason)
      : isCompromise && one.spkiHash === doc.spkiHash && isLive({ doc: one, ...rest }),
  )
  const certificates = ended.map((one) => one.doc.serial)
  const about = {
    ...{ serial, deviceId, isCurrent: device.doc.currentSerial === serial },
    remaining: live.filter((one) => !ended.includes(one)).map((one) => one.doc.serial),
  }
  if (ended.length === 0) {
    const before = { reason: doc.revocationReason!, revokedAt: doc.revokedAt!, alreadyRevoked: true }
    return { ...about, ...before, certificates: [], keysWatched: 0, feedSeq: (await registry.head()).feed.seq }
  }
  const revokedAt = now.toISOString()
  const keys = isCompromise ? [doc.spkiHash] : []
  const watched = await watchKeys(registry, keys, { deviceId, since: revokedAt })
  const { feedSeq } = await registry.commit({
    requestId: `${requestId}-revoke`,
    digest: input.digest,
    writes: [
      ...ended.map((one) => writeCertificate(revokedCertificate(one.doc, reason, revokedAt), one.rev)),
      // Written as it is: a renewal that is being issued on the strength of it loses, and is judged again.
      writeDevice(device.doc, device.rev),
      ...watched,
    ],
    audit: [
      {
        action: 'certificate.revoked',
        actor,
        subject: `certificate:${serial}`,
        outcome: 'done',
        reason,
        details: { device: deviceId, certificates, remaining: about.remaining, keysWatched: watched.length },
        remoteAddress,
        requestId,
      },
    ],
    feed: ended.map((one) => certificateRevoked(one.doc, reason)),
    at: now,
  })
  return {
    ...{ ...about, reason, revokedAt: doc.status === 'revoked' ? doc.revokedAt! : revokedAt },
    ...{ alreadyRevoked: doc.status === 'revoked', certificates, keysWatched: watched.length, feedSeq },
  }
}

function requireRevocable({ kind, deviceId, status, serial }: CertificateRecord): string {
  const final = { context: { final: true, serial } }
  if ((kind !== 'device' && kind !== 'foreign') || deviceId === undefined) {
    throw new FleetError('conflict', `${serial} is no device's certificate but of the gateway itself (${kind})`, final)
  }
  if (status === 'reserved') throw new FleetError('conflict', `nothing has been issued under ${serial}`, final)
  return deviceId
}
