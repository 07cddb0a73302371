import type { FeedFact } from '../contract/feed.ts'
import { type CertificateRecord, listCertificates } from './registry/certificates.ts'
import { type DeviceRecord, deviceChanged, findDevice } from './registry/devices.ts'
import { findPolicy } from './registry/policies.ts'
import { type Registry, readAll } from './registry/registry.ts'

const perPage = 100

export type StateWanted = {
  anchors: string[]
  /** Certificates that ended before are left out, but for keys that are watched. */
  endedBefore?: Date | undefined
}

/**
 * What the feed has said by now, as facts that make the same of a broker that knows nothing. Records that change while they are
 * read are here as they were or as they are: their events come behind what the feed had when this began, and go over them.
 */
export async function* readState(
  registry: Registry,
  { anchors, endedBefore }: StateWanted,
): AsyncGenerator<FeedFact[]> {
  yield [{ type: 'trust.changed', data: { anchors } }]
  const policy = await findPolicy(registry)
  if (policy !== undefined) {
    const { version, document } = policy.doc
    yield [{ type: 'policy.changed', data: { version, document } }]
  }
  const thefts = await lastThefts(registry)
  // A broker watches the keys of which it hears while their device is stolen, and goes on watching them when it is recovered.
  const asStolen = (device: DeviceRecord): DeviceRecord => {
    const stolenAt = thefts.get(device.id)
    return stolenAt === undefined ? device : { ...device, stolenAt }
  }
  for await (const devices of registry.scan('device', perPage))
    yield devices.map((device) => deviceChanged(asStolen(device)))
  const isAskedAbout = ({ notAfter }: CertificateRecord): boolean =>
    endedBefore === undefined || (notAfter !== undefined && new Date(notAfter) >= endedBefore)
  for await (const certificates of registry.scan('certificate', perPage))
    yield certificates.filter(isAskedAbout).flatMap((certificate) => factsOf(certificate, thefts))
  for (const id of thefts.keys()) {
    const certificates = await readAll((paging) => listCertificates(registry, { deviceId: id, ...paging }))
    yield certificates.flatMap(({ doc }) => factsOf(doc, thefts))
    const device = await findDevice(registry, id)
    if (device !== undefined && device.doc.stolenAt === undefined) yield [deviceChanged(device.doc)]
  }
}

/** By device, when it was last reported: closed incidents count, as a key that was stolen is watched for ever. */
async function lastThefts(registry: Registry): Promise<Map<string, string>> {
  const thefts = new Map<string, string>()
  for await (const incidents of registry.scan('incident', perPage)) {
    for (const { kind, deviceId, openedAt } of incidents) {
      if (kind === 'stolen' && openedAt > (thefts.get(deviceId) ?? '')) thefts.set(deviceId, openedAt)
    }
  }
  return thefts
}

/** What is on hold is told of by its device alone. A certificate of enroll itself, or of a broker, is none of a device. */
function factsOf(certificate: CertificateRecord, thefts: ReadonlyMap<string, string>): FeedFact[] {
  const { serial, fingerprint, deviceId, notAfter, via, status, reservedAt, spkiHash } = certificate
  if (fingerprint === undefined || deviceId === undefined || notAfter === undefined) return []
  const issued: FeedFact = { type: 'certificate.issued', data: { serial, fingerprint, deviceId, notAfter, via } }
  if (status !== 'revoked') return [issued]
  const reason = certificate.revocationReason!
  const isWatched = reason === 'keyCompromise' && reservedAt <= (thefts.get(deviceId) ?? '')
  const watched = isWatched ? { watchedKey: spkiHash } : {}
  return [issued, { type: 'certificate.revoked', data: { serial, fingerprint, deviceId, reason, ...watched } }]
}
