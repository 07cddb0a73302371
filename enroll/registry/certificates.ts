import type { StatusReason } from '../../contract/ids.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { Range, Stored } from './engine.ts'
import type { Page, Paging, Registry, Write } from './registry.ts'

/**
 * Of a foreign certificate, one of another CA that an operator has registered, `serial` is made of its fingerprint: numbers of
 * other CAs are not one of a kind.
 *
 * The serial is reserved before the key is used; what only the finished certificate has is absent until it is issued.
 */
export type CertificateRecord = {
  serial: string
  kind: 'device' | 'foreign' | 'server' | 'broker' | 'operator' | 'responder' | 'auditor'
  deviceId?: string
  profile: string
  /** EST label it was enrolled under; absent for what was not, and for what is older than labels. */
  label?: string
  /** `held` as long as its device is. */
  status: 'reserved' | 'issued' | 'held' | 'revoked'
  /** SHA-256 of the SubjectPublicKeyInfo, lower-case hex. */
  spkiHash: string
  reservedAt: string
  fingerprint?: string
  /** base64 */
  der?: string
  subject?: string
  /** Of a foreign one, likewise the next. */
  issuer?: string
  issuerSerial?: string
  notBefore?: string
  notAfter?: string
  issuedAt?: string
  /** The how manieth of its device; absent of what is older than this field. */
  nth?: number
  /** When its device first showed it: as the broker has it that had the first session with it, or here. */
  firstUsedAt?: string
  /** From where. */
  firstUsedFrom?: string
  /** The one that was shown for it; absent of a first one, and of what is older than this field. */
  renews?: string
  /** A newer one of its device that is in use: it has its overlap left, and renews no more. */
  replacedBy?: string
  /** When the older ones of its device end because it is in use; absent once they have ended. */
  supersedesAt?: string
  /** When somebody is to be told that it expires soon; absent when there is nothing more to tell. */
  noticeAt?: string
  /** Of one that is held too. */
  revokedAt?: string
  revocationReason?: StatusReason
  /** The list that its own text names, fixed when it was issued: name of the CA, `/`, number of the list. */
  distributionPoint?: string
  /** What was proved for it; for a first certificate all of it, as in `token+approval`. */
  via: string
}

export const findCertificate = (registry: Registry, serial: string): Promise<Stored<CertificateRecord> | undefined> =>
  registry.find('certificate', serial)

/** @throws FleetError `certificate_unknown` */
export async function getCertificate(registry: Registry, serial: string): Promise<Stored<CertificateRecord>> {
  const certificate = await findCertificate(registry, serial)
  if (certificate !== undefined) return certificate
  throw new FleetError('certificate_unknown', `there is no certificate ${serial}`, { context: { serial } })
}

type CertificateFilter = {
  deviceId?: string | undefined
  status?: CertificateRecord['status'] | undefined
  serial?: string | undefined
  expiresFrom?: Date | undefined
  expiresBefore?: Date | undefined
  /** Asked of each beside. */
  keep?: (certificate: CertificateRecord) => boolean
}

/** In order of serial; with `expiresBefore` and neither device nor serial the first to expire comes first. */
export function listCertificates(
  registry: Registry,
  { deviceId, status, serial, expiresFrom, expiresBefore, keep = () => true, ...paging }: CertificateFilter & Paging,
): Promise<Page<CertificateRecord>> {
  const [from = '', before] = [expiresFrom?.toISOString(), expiresBefore?.toISOString()]
  const expiresThen = ({ notAfter }: CertificateRecord): boolean =>
    notAfter !== undefined && instant(notAfter) >= from && (before === undefined || instant(notAfter) < before)
  const isTimed = expiresFrom !== undefined || expiresBefore !== undefined
  const isWanted = (certificate: CertificateRecord): boolean =>
    (deviceId === undefined || certificate.deviceId === deviceId) &&
    (status === undefined || certificate.status === status) &&
    (!isTimed || expiresThen(certificate)) &&
    keep(certificate)
  if (serial !== undefined) return onlyOne(registry, serial, isWanted)
  const range: Range =
    deviceId !== undefined
      ? { index: 'certificate.device', value: deviceId }
      : before !== undefined
        ? { index: 'certificate.notAfter', from, before }
        : status === 'held' || status === 'revoked'
          ? { index: 'certificate.status', value: status }
          : { kind: 'certificate' }
  return registry.list('certificate', range, paging, isWanted)
}

async function onlyOne(
  registry: Registry,
  serial: string,
  isWanted: (certificate: CertificateRecord) => boolean,
): Promise<Page<CertificateRecord>> {
  const found = await findCertificate(registry, serial)
  return { items: found !== undefined && isWanted(found.doc) ? [found] : [] }
}

/** Whether its device has it and has never shown it, as far as anybody knows. */
export const isUnused = ({ kind, status, firstUsedAt }: CertificateRecord): boolean =>
  kind === 'device' && status === 'issued' && firstUsedAt === undefined

/** Those of which is to be told that they expire soon, the first that is due first. */
export const listNoticeable = (registry: Registry, now: Date, paging: Paging): Promise<Page<CertificateRecord>> =>
  registry.list('certificate', { index: 'certificate.noticeAt', before: now.toISOString() }, paging)

/** Those whose use has ended the time of the older ones, the first that is due first. */
export const listSuperseding = (registry: Registry, now: Date, paging: Paging): Promise<Page<CertificateRecord>> =>
  registry.list('certificate', { index: 'certificate.supersedesAt', before: now.toISOString() }, paging)

/** What is on hold may come back, and is then what it was. */
export const isAlive = ({ status }: CertificateRecord): boolean => status === 'issued' || status === 'held'

/** Whether it stands on revocation lists, for good or for as long as it is held. */
export const isListed = ({ status }: Pick<CertificateRecord, 'status'>): boolean =>
  status === 'held' || status === 'revoked'

/** Of one status that is on revocation lists. */
export const listRevoked = (
  registry: Registry,
  { status, ...paging }: { status: 'held' | 'revoked' } & Paging,
): Promise<Page<CertificateRecord>> =>
  registry.list('certificate', { index: 'certificate.status', value: status }, paging, (doc) => doc.status === status)

/** Writes again, page by page, what was revoked before there was an index of it. */
export const indexRevoked = (registry: Registry, at: Date): Promise<void> =>
  writeAgain(registry, { of: isListed, as: 'index' }, at)

async function writeAgain(
  registry: Registry,
  { of, as }: { of: (certificate: CertificateRecord) => boolean; as: string },
  at: Date,
): Promise<void> {
  for (let after: string | undefined; ; ) {
    const { items, next } = await registry.list('certificate', { kind: 'certificate' }, { after, limit: 500 }, of)
    if (items.length > 0) {
      const requestId = `${as}-${items[0]!.doc.serial}-${items[0]!.rev}-${items.length}`
      await registry.commit({
        requestId,
        writes: items.map(({ doc, rev }) => writeCertificate(doc, rev)),
        audit: [],
        reindexes: true,
        at,
      })
    }
    if (next === undefined) return
    after = next
  }
}

export type OwnKind = Exclude<CertificateRecord['kind'], 'device' | 'foreign'>

/** Whether it is of the gateway itself or of who runs it. */
export const isOwn = ({ kind }: Pick<CertificateRecord, 'kind'>): boolean => kind !== 'device' && kind !== 'foreign'

/** Of one kind of the gateway's own, in order of serial: few. */
export const listOwn = (registry: Registry, kind: OwnKind, paging: Paging): Promise<Page<CertificateRecord>> =>
  registry.list('certificate', { index: 'certificate.own', value: kind }, paging)

/** Writes the gateway's own again, where they are older than their index. */
export async function indexOwn(registry: Registry, at: Date): Promise<void> {
  if ((await registry.count({ index: 'certificate.own', value: 'server' }, 1)) === 0) {
    await writeAgain(registry, { of: isOwn, as: 'own' }, at)
  }
}

/** @returns whether an instant is from the one on and before the other, where they are given; one that is missing never is */
export function isWithin(from: string | undefined, to: string | undefined): (at: string | undefined) => boolean {
  if (from === undefined && to === undefined) return () => true
  const [first, end] = [from, to].map((text) => (text === undefined ? undefined : instant(text)))
  return (text) => {
    if (text === undefined) return false
    const at = instant(text)
    return (first === undefined || at >= first) && (end === undefined || at < end)
  }
}

/** One way to write an instant, so that text order is time order. */
export const instant = (iso: string): string => (asWritten.test(iso) ? iso : new Date(iso).toISOString())

const asWritten = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/

/** @param expect the revision it was read at; 0: it must not exist */
export const writeCertificate = (doc: CertificateRecord, expect: number): Write => ({
  kind: 'certificate',
  id: doc.serial,
  expect,
  doc,
})
