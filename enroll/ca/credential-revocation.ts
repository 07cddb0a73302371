import type { CredentialKind } from '../../contract/credential-api.ts'
import type { FeedFact } from '../../contract/feed.ts'
import type { RevocationReason, SerialNumber } from '../../contract/ids.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { Asked } from '../registry/asked.ts'
import { type CertificateRecord, getCertificate, listOwn, writeCertificate } from '../registry/certificates.ts'
import type { Stored } from '../registry/engine.ts'
import { findOperator } from '../registry/operators.ts'
import { type Registry, readAll, untilNoConflict } from '../registry/registry.ts'
import { watchKeys } from '../registry/watched-keys.ts'
import type { CertificateRevocation } from './certificate-revocation.ts'
import { listInCharge, nameIn } from './in-charge.ts'
import { isLive, revokedCertificate } from './revocation.ts'

/** `isCurrent`, `remaining`: of that operator or broker. */
export type CredentialRevocation = Omit<CertificateRevocation, 'deviceId'> & { kind: CredentialKind; name: string }
type Input = Asked & { serial: SerialNumber; reason: RevocationReason; lastOperator: boolean }
type Credential = Stored<CertificateRecord> & { kind: CredentialKind; name: string }

/**
 * Revokes a certificate of an operator or a broker in one durable batch; no certificate takes its place by itself. Who is connected
 * with it has to be ended by the caller.
 *
 * @param input.lastOperator also where no operator is left; without it that is refused
 * @throws FleetError `certificate_unknown`, `last_operator`, `conflict` for one of a device or of enroll itself
 */
export const revokeCredential = (registry: Registry, input: Input): Promise<CredentialRevocation> =>
  untilNoConflict(async () => {
    const { serial, reason, now, actor, remoteAddress, requestId } = input
    const credential = credentialOf(await getCertificate(registry, serial))
    const { doc, kind, name } = credential
    const ofKind = (await readAll((paging) => listOwn(registry, kind, paging))).map(credentialOf)
    const isCompromise = reason === 'keyCompromise'
    const ended = ofKind.filter((one) =>
      one.doc.serial === serial
        ? one.doc.status !== 'revoked' || (isCompromise && one.doc.revocationReason !== reason)
        : isCompromise && one.doc.spkiHash === doc.spkiHash && isLive(one),
    )
    const certificates = ended.map((one) => one.doc.serial)
    const left = ofKind.filter((one) => isLive(one) && !ended.includes(one))
    const about = {
      ...{ serial, kind, name, isCurrent: (await currentOf(registry, credential, ofKind)) === serial },
      remaining: left.filter((one) => one.name === name).map((one) => one.doc.serial),
    }
    const alreadyRevoked = doc.status === 'revoked'
    if (ended.length === 0) {
      const before = { reason: doc.revocationReason!, revokedAt: doc.revokedAt!, alreadyRevoked }
      return { ...about, ...before, certificates, keysWatched: 0, feedSeq: (await registry.head()).feed.seq }
    }
    const inCharge = kind === 'operator' ? await listInCharge(registry, now) : []
    const successor = inCharge.find((one) => !certificates.includes(one.doc.serial))
    if (inCharge.length > 0 && successor === undefined && !input.lastOperator) throw lastOperator()
    const revokedAt = now.toISOString()
    const keys = isCompromise ? [doc.spkiHash] : []
    const watched = await watchKeys(registry, keys, { serial, since: revokedAt })
    const { feedSeq } = await registry.commit({
      requestId: `${requestId}-revoke`,
      digest: input.digest,
      writes: [
        ...ended.map((one) => writeCertificate(revokedCertificate(one.doc, reason, revokedAt), one.rev)),
        // Written as it is: of two operators who revoke each other at the same time one loses, and is asked again.
        ...(successor === undefined ? [] : [writeCertificate(successor.doc, successor.rev)]),
        ...watched,
      ],
      audit: [
        {
          action: 'credential.revoked',
          actor,
          subject: `certificate:${serial}`,
          outcome: 'done',
          reason,
          details: { kind, name, certificates, remaining: about.remaining, keysWatched: watched.length },
          remoteAddress,
          requestId,
        },
      ],
      feed: ended.map((one) => credentialRevoked(one.doc, { kind, name, reason })),
      at: now,
    })
    const at = alreadyRevoked ? doc.revokedAt! : revokedAt
    return { ...about, reason, revokedAt: at, alreadyRevoked, certificates, keysWatched: watched.length, feedSeq }
  })

export const credentialRevoked = (
  { serial, fingerprint }: CertificateRecord,
  about: Pick<CredentialRevocation, 'kind' | 'name' | 'reason'>,
): FeedFact => ({ type: 'credential.revoked', data: { serial, fingerprint: fingerprint!, ...about } })

/** @throws FleetError `conflict` */
function credentialOf({ doc, rev }: Stored<CertificateRecord>): Credential {
  const { kind, serial } = doc
  if (kind === 'operator' || kind === 'broker') {
    return { doc, rev, kind, name: nameIn(doc) }
  }
  const sentence =
    kind === 'device' || kind === 'foreign'
      ? `${serial} is a certificate of a device (${doc.deviceId}): it is revoked as one`
      : `${serial} is a certificate of enroll itself (${kind}): delete its file and key in the data folder and start anew`
  throw new FleetError('conflict', sentence, { context: { final: true, serial } })
}

/** The newest of its name. Two may be of one instant; of an operator its record says which one came last. */
async function currentOf(
  registry: Registry,
  { kind, name }: Credential,
  ofKind: readonly Credential[],
): Promise<string | undefined> {
  const told = kind === 'operator' ? (await findOperator(registry, name))?.doc.serial : undefined
  if (told !== undefined) return told
  const [first, ...others] = ofKind.filter((one) => one.name === name)
  return others.reduce((newest, one) => (one.doc.issuedAt! > newest!.doc.issuedAt! ? one : newest), first)?.doc.serial
}

const lastOperator = (): FleetError =>
  new FleetError(
    'last_operator',
    'no operator with the role admin would have a certificate any more. If that is what you want, say so; to get back in, somebody deletes operator.crt and operator.key in the folder operator of the data folder and starts enroll again, which makes another',
  )
