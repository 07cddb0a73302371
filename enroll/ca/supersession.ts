/** Old and new certificates of one device: both good until the new one is used, and then only that. */
import type { FeedFact } from '../../contract/feed.ts'
import type { AuditFact } from '../registry/audit-log.ts'
import {
  type CertificateRecord,
  findCertificate,
  isAlive,
  isUnused,
  listCertificates,
  listSuperseding,
  writeCertificate,
} from '../registry/certificates.ts'
import type { DeviceRecord } from '../registry/devices.ts'
import type { Stored } from '../registry/engine.ts'
import { type Registry, readAll, untilNoConflict, type Write } from '../registry/registry.ts'

/** A device that loses every answer must not fill registry, feed and brokers. */
export const maxUnused = 5

/** Who showed it and where: a broker, or a device at the EST edge. */
type Use = { serial: string; at: Date; overlapMs: number; now: Date } & Pick<
  AuditFact,
  'actor' | 'remoteAddress' | 'requestId'
>

/** Two certificates of one device that are in use, and neither was renewed from the other: somebody else has its key. */
export type Fork = { deviceId: string; serial: string; other: string; otherFrom: string | undefined }

/**
 * Notes that a device has shown a certificate. With the first use of it the time of the older ones of its label and profile
 * is limited; before, a device that lost the answer to its renewal still needs them. One that is in use beside it is not ended
 * by it: nobody knows which of the two the device has.
 *
 * @returns what that use has shown, when it is the first
 */
export function noteUse(registry: Registry, { serial, at, overlapMs, now, ...by }: Use): Promise<Fork | undefined> {
  return untilNoConflict(async () => {
    const used = await findCertificate(registry, serial)
    if (used?.doc.kind !== 'device' || !isAlive(used.doc) || used.doc.firstUsedAt !== undefined) return undefined
    const line = await sameLine(registry, used.doc)
    const older = olderIn(line, used.doc)
    const beside = line.find(({ doc }) => isAlive(doc) && isBeside(doc, used.doc, line))?.doc
    const supersedesAt = new Date(now.getTime() + overlapMs).toISOString()
    const record = {
      ...{ ...used.doc, firstUsedAt: at.toISOString() },
      ...(by.remoteAddress === undefined ? {} : { firstUsedFrom: by.remoteAddress }),
      ...(older.length > 0 ? { supersedesAt } : {}),
    }
    await registry.commit({
      requestId: `${by.requestId}-use-${serial.slice(0, 8)}`,
      writes: [
        writeCertificate(record, used.rev),
        ...older.map(({ doc, rev }) => writeCertificate({ ...doc, replacedBy: serial }, rev)),
      ],
      audit: [
        {
          action: 'certificate.used',
          ...by,
          subject: `certificate:${serial}`,
          outcome: 'done',
          details: { device: used.doc.deviceId!, replaces: older.map(({ doc }) => doc.serial) },
        },
      ],
      at: now,
    })
    if (beside === undefined) return undefined
    return { deviceId: used.doc.deviceId!, serial, other: beside.serial, otherFrom: beside.firstUsedFrom }
  })
}

/** Ends what is due: for each certificate in use the older ones in one commit. What is too much for one turn waits for the next. */
export async function supersedeDue(registry: Registry, now: Date): Promise<void> {
  const { items } = await listSuperseding(registry, now, { limit: 500 })
  for (const { doc } of items) await untilNoConflict(() => supersede(registry, doc.serial, now))
}

async function supersede(registry: Registry, serial: string, now: Date): Promise<void> {
  const used = await findCertificate(registry, serial)
  if (used?.doc.supersedesAt === undefined) return
  const { supersedesAt, ...doc } = used.doc
  // One that was itself revoked since replaces nothing: the device may have no other than the one before.
  const older = isAlive(doc) ? olderIn(await sameLine(registry, doc), doc) : []
  const { writes, feed } = revocations(older, now)
  await registry.commit({
    requestId: `supersede-${serial}-${used.rev}`,
    writes: [writeCertificate(doc, used.rev), ...writes],
    audit: older.length > 0 ? [superseded(older, { by: serial, why: 'a newer one is in use' })] : [],
    feed,
    at: now,
  })
}

/**
 * What has to go for one more certificate of a device: the oldest of those that were never used.
 *
 * @returns parts of the commit that records the new one; `unused` is for the record of the device
 */
export async function endSurplus(
  registry: Registry,
  { serial, device }: { serial: string; device: DeviceRecord },
  now: Date,
): Promise<{ writes: Write[]; feed: FeedFact[]; audit: AuditFact[]; unused: string[] }> {
  const before = device.unused ?? (await readUnused(registry, device.id))
  // Whoever uses what it is given comes here seldom with more than one, and nothing has to be read.
  if (before.length < maxUnused) return { writes: [], feed: [], audit: [], unused: [...before, serial] }
  const found = await registry.findMany('certificate', before)
  const unused = found.filter(({ doc }) => isUnused(doc) && new Date(doc.notAfter!) > now).toSorted(byAge)
  const surplus = unused.splice(0, unused.length + 1 - maxUnused)
  const why = `${maxUnused} that were never used are enough`
  return {
    ...revocations(surplus, now),
    audit: surplus.length > 0 ? [superseded(surplus, { by: serial, why })] : [],
    unused: [...unused.map(({ doc }) => doc.serial), serial],
  }
}

/** Of a device whose record does not say. */
async function readUnused(registry: Registry, deviceId: string): Promise<string[]> {
  const all = await readAll((paging) => listCertificates(registry, { deviceId, keep: isUnused, ...paging }))
  return all.map(({ doc }) => doc.serial)
}

/** Whether a newer certificate of the device, of the same label and profile, is in use. */
export async function isReplaced(registry: Registry, certificate: CertificateRecord): Promise<boolean> {
  const others = await sameLine(registry, certificate)
  return others.some(({ doc }) => doc.firstUsedAt !== undefined && isOlder(certificate, doc))
}

/**
 * The newer one that is in use in the place of this one; undefined where that was revoked since, as the device may have no other.
 *
 * @param certificate as it is now
 */
export async function findSuccessor(
  registry: Registry,
  { replacedBy }: CertificateRecord,
): Promise<CertificateRecord | undefined> {
  const successor = replacedBy === undefined ? undefined : await findCertificate(registry, replacedBy)
  return successor !== undefined && isAlive(successor.doc) ? successor.doc : undefined
}

/** All of one device, label and profile, ended ones too. */
type Line = readonly Stored<CertificateRecord>[]

/** Those of the line that end when this one is in use. */
const olderIn = (line: Line, certificate: CertificateRecord): Stored<CertificateRecord>[] =>
  line.filter(({ doc }) => isAlive(doc) && isOlder(doc, certificate) && !isBeside(doc, certificate, line))

/** Whether the first is in use, and both were renewed, neither from the other. A new enrollment is beside nothing. */
const isBeside = (one: CertificateRecord, other: CertificateRecord, line: Line): boolean =>
  one.serial !== other.serial &&
  one.firstUsedAt !== undefined &&
  one.renews !== undefined &&
  other.renews !== undefined &&
  !descends(one, other.serial, line) &&
  !descends(other, one.serial, line)

function descends({ renews }: CertificateRecord, from: string, line: Line): boolean {
  for (let at = renews; at !== undefined; at = line.find(({ doc }) => doc.serial === at)?.doc.renews) {
    if (at === from) return true
  }
  return false
}

async function sameLine(registry: Registry, { deviceId, label, profile }: CertificateRecord) {
  const all = await readAll((paging) => listCertificates(registry, { deviceId, ...paging }))
  return all.filter(({ doc }) => doc.kind === 'device' && doc.label === label && doc.profile === profile)
}

/** As counted at their device: a clock may have been ahead. What was issued before they were counted is older, and in the order of its time. */
function isOlder(one: CertificateRecord, other: CertificateRecord): boolean {
  if (one.issuedAt === undefined || other.issuedAt === undefined) return false
  const [first = 0, second = 0] = [one.nth, other.nth]
  return first === second ? one.issuedAt < other.issuedAt : first < second
}

const byAge = (one: Stored<CertificateRecord>, other: Stored<CertificateRecord>): number =>
  isOlder(one.doc, other.doc) ? -1 : 1

function revocations(
  certificates: readonly Stored<CertificateRecord>[],
  now: Date,
): { writes: Write[]; feed: FeedFact[] } {
  const end = { status: 'revoked', revokedAt: now.toISOString(), revocationReason: 'superseded' } as const
  return {
    writes: certificates.map(({ doc: { supersedesAt: _, ...doc }, rev }) => writeCertificate({ ...doc, ...end }, rev)),
    feed: certificates.map(({ doc: { serial, fingerprint, deviceId } }) => ({
      type: 'certificate.revoked',
      data: { serial, fingerprint: fingerprint!, deviceId: deviceId!, reason: 'superseded' },
    })),
  }
}

const superseded = (older: readonly Stored<CertificateRecord>[], details: { by: string; why: string }): AuditFact => ({
  action: 'certificate.superseded',
  actor: 'system',
  subject: `device:${older[0]!.doc.deviceId}`,
  outcome: 'done',
  reason: 'superseded',
  details: { ...details, certificates: older.map(({ doc }) => doc.serial) },
  requestId: `supersede-${details.by}`,
})
