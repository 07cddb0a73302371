import { type CertificateFacts, parseCertificate, toPem } from '../../pki/certificate.ts'
import { parseCsr } from '../../pki/csr.ts'
import { serverAndClientProfile } from '../../pki/profile.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import type { Asked } from '../registry/asked.ts'
import { findBroker, removeBroker } from '../registry/brokers.ts'
import { type CertificateRecord, getCertificate, listOwn, writeCertificate } from '../registry/certificates.ts'
import type { Stored } from '../registry/engine.ts'
import { type Registry, readAll, untilNoConflict } from '../registry/registry.ts'
import { credentialRevoked } from './credential-revocation.ts'
import { enrollName } from './credentials.ts'
import type { Authority } from './hierarchy.ts'
import { nameIn } from './in-charge.ts'
import { byWhom, issuedFact, requireUnwatched, signOwn } from './own-certificates.ts'
import { isLive, revokedCertificate } from './revocation.ts'

type Issuer = { registry: Registry; issuing: Authority }
export type BrokerCertificate = { record: CertificateRecord; facts: CertificateFacts; names: string[] }

/** As enroll renews its own. */
const renewedWithLeft = 1 / 3

/** The newest of those that are good, by broker. */
export async function listCertified(registry: Registry, now: Date): Promise<Map<string, BrokerCertificate>> {
  const good = (await certificatesOfBrokers(registry)).filter(({ doc }) => isGood(doc, now))
  return new Map(good.map(({ doc }) => [nameIn(doc), read(doc)]))
}

/**
 * Certifies the key of another broker. One that has a certificate which is good keeps its name for itself: of two under one name,
 * each would cut the other off.
 *
 * @throws FleetError `conflict` for such a name, `request_malformed` for that of enroll as one to be reached by, `key_compromised` and the
 *   faults of a request
 */
export async function createBroker(
  { registry, issuing }: Issuer,
  { id, names, csr }: { id: string; names: readonly string[]; csr: Buffer },
  asked: Asked,
): Promise<BrokerCertificate> {
  // Operators and brokers take whoever shows it for enroll.
  if (names.some((name) => name.toLowerCase() === enrollName))
    throw new FleetError('request_malformed', `${enrollName} is the name of enroll alone`)
  const { publicKeySpki, spkiHash } = parseCsr(csr)
  await requireUnwatched(registry, spkiHash)
  const known = await certificatesOf(registry, id)
  const good = known.findLast(({ doc }) => isGood(doc, asked.now))?.doc
  if (good !== undefined) {
    const made = read(good)
    // The same request once more: its answer was lost.
    if (good.spkiHash === spkiHash && made.names.toSorted().join() === names.toSorted().join()) return made
    const until = good.notAfter
    throw taken(
      `${id} has a certificate until ${until}; take another name, or end it first: fleetgate broker forget ${id}`,
    )
  }
  const { record } = await signOwn(issuing, { ...kindOf(id, names), publicKeySpki, via: 'operator' }, asked.now)
  const details = { name: id, names: [...names] }
  const created = { action: 'broker.created', subject: `broker:${id}`, outcome: 'done', details } as const
  try {
    await registry.commit({
      // One id for whatever may follow those that there are: of two who ask at the same time, one loses.
      requestId: `broker-${id}-${known.length}`,
      digest: record.serial,
      writes: [writeCertificate(record, 0)],
      absent: [{ kind: 'watchedKey', id: spkiHash }],
      audit: [{ ...created, ...byWhom(asked) }, issuedFact(record, byWhom(asked), details)],
      at: asked.now,
    })
  } catch (cause) {
    if (isFleetError(cause, 'conflict')) throw taken(`somebody else makes ${id} at this moment`, cause)
    throw cause
  }
  return read(record)
}

const taken = (sentence: string, cause?: unknown): FleetError =>
  new FleetError('conflict', sentence, { cause, context: { final: true } })

/**
 * What a broker is to show from now on in place of `shown`: the newest for its key, or one that is made now, with a third of the life
 * left or for an issuing CA that is another. Its key stays, which it proves by showing a certificate.
 *
 * @param isKept its certificates are made elsewhere: here it is only told of them
 * @returns PEM with the CA behind it; undefined where `shown` is what it ought to show
 */
export function successorOf(
  { registry, issuing }: Issuer,
  shown: CertificateRecord,
  { isKept, now }: { isKept: boolean; now: Date },
): Promise<string | undefined> {
  return untilNoConflict(async () => {
    const { doc, rev } = await getCertificate(registry, shown.serial)
    const id = nameIn(doc)
    const newest = (await certificatesOf(registry, id)).findLast(
      (one) => one.doc.spkiHash === doc.spkiHash && isGood(one.doc, now),
    )?.doc
    if (newest === undefined) return undefined
    const { facts, names } = read(newest)
    const left = facts.notAfter.getTime() - now.getTime()
    const isDue =
      left <= (facts.notAfter.getTime() - facts.notBefore.getTime()) * renewedWithLeft ||
      facts.authorityKeyId !== issuing.certificate.subjectKeyId
    if (!isDue || isKept) return newest.serial === doc.serial ? undefined : toPem(facts.der) + issuing.pem
    const { publicKeySpki } = facts
    const { record, pem } = await signOwn(issuing, { ...kindOf(id, names), publicKeySpki, via: 'renewal' }, now)
    const requestId = `renewal-${record.serial}`
    await registry.commit({
      requestId,
      // Written as it is: a revocation that comes in between makes this commit a loser.
      writes: [writeCertificate(record, 0), writeCertificate(doc, rev)],
      absent: [{ kind: 'watchedKey', id: doc.spkiHash }],
      audit: [issuedFact(record, { actor: `broker:${id}`, requestId }, { name: id, names, before: newest.serial })],
      at: now,
    })
    return pem + issuing.pem
  })
}

/**
 * Nobody waits for this broker any more. What it proves itself with ends, but for the one whose credential enroll keeps.
 *
 * @throws FleetError `not_found`
 */
export const forgetBroker = (
  registry: Registry,
  { id, isKept }: { id: string; isKept: boolean },
  asked: Asked,
): Promise<{ certificates: string[] }> =>
  untilNoConflict(async () => {
    const { now, digest } = asked
    const known = await findBroker(registry, id)
    const ended = isKept ? [] : (await certificatesOf(registry, id)).filter(isLive)
    if (known === undefined && ended.length === 0) throw new FleetError('not_found', 'there is no such broker')
    const certificates = ended.map(({ doc }) => doc.serial)
    const reason = 'cessationOfOperation'
    await registry.commit({
      requestId: `${asked.requestId}-forget`,
      digest,
      writes: [
        ...(known === undefined ? [] : [removeBroker(known)]),
        ...ended.map((one) => writeCertificate(revokedCertificate(one.doc, reason, now.toISOString()), one.rev)),
      ],
      audit: [
        {
          action: 'broker.forgotten',
          ...byWhom(asked),
          subject: `broker:${id}`,
          outcome: 'done',
          details: { certificates },
        },
      ],
      feed: ended.map((one) => credentialRevoked(one.doc, { kind: 'broker', name: id, reason })),
      at: now,
    })
    return { certificates }
  })

const kindOf = (id: string, names: readonly string[]) =>
  ({ kind: 'broker', profile: serverAndClientProfile, commonName: id, names }) as const

const isGood = ({ status, notAfter }: CertificateRecord, now: Date): boolean =>
  status === 'issued' && new Date(notAfter!) > now

/** The oldest first. */
const certificatesOfBrokers = async (registry: Registry): Promise<Stored<CertificateRecord>[]> =>
  (await readAll((paging) => listOwn(registry, 'broker', paging))).toSorted((a, b) =>
    a.doc.issuedAt!.localeCompare(b.doc.issuedAt!),
  )

const certificatesOf = async (registry: Registry, id: string): Promise<Stored<CertificateRecord>[]> =>
  (await certificatesOfBrokers(registry)).filter(({ doc }) => nameIn(doc) === id)

function read(record: CertificateRecord): BrokerCertificate {
  const facts = parseCertificate(Buffer.from(record.der!, 'base64'))
  const { dns, ips } = facts.subjectAltName
  return { record, facts, names: [...dns, ...ips] }
}
