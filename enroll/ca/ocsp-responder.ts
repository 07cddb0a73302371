import { createHash } from 'node:crypto'
import type { OcspAnswerKind } from '../../contract/metrics.ts'
import type { CertificateFacts } from '../../pki/certificate.ts'
import {
  type CertificateId,
  type CertificateStatus,
  issuerIds,
  type OcspRequest,
  type OcspSigner,
  ocspFailure,
  parseOcspRequest,
  signOcspResponse,
} from '../../pki/ocsp.ts'
import { isFleetError } from '../../runtime/errors.ts'
import { type CertificateRecord, findCertificate, isListed } from '../registry/certificates.ts'
import type { Stored } from '../registry/engine.ts'
import type { Registry } from '../registry/registry.ts'

/** For one CA: `signer` is asked at every answer, since its certificate is renewed. */
export type Responder = {
  authority: CertificateFacts
  isOf: (record: CertificateRecord) => boolean
  signer: () => OcspSigner
}
/** `kept`: the same for everybody who asks, until then. */
export type OcspAnswer = {
  der: Buffer
  kind: OcspAnswerKind
  kept?: { thisUpdate: Date; nextUpdate: Date; etag: string }
}

/** What is known of a certificate until its status changes, and the answers about it, by CertID as it was written. */
type Known = { status: CertificateStatus; answers: Map<string, Required<OcspAnswer>> }

/** Each has some 700 octets for an answer, and four at most: two hashes, with parameters and without. */
const maxKnown = 20_000

/** Answers of certificates' status, from the registry; those that anybody may have asked for are signed once. */
export class OcspResponder {
  readonly #registry: Registry
  readonly #validityMs: number
  readonly #isCurrent: () => boolean
  readonly #byIssuer: ReadonlyMap<string, Responder>
  readonly #known = new Map<string, Known>()
  #changes = 0

  /**
   * @param input.validityMs from thisUpdate to nextUpdate; after half of it an answer is signed anew
   * @param input.isCurrent whether everything that has changed by now has been forgotten; otherwise the registry is asked
   */
  constructor(
    registry: Registry,
    responders: readonly Responder[],
    input: { validityMs: number; isCurrent: () => boolean },
  ) {
    this.#registry = registry
    this.#validityMs = input.validityMs
    this.#isCurrent = input.isCurrent
    this.#byIssuer = new Map(
      responders.flatMap((responder) => issuerIds(responder.authority).map((id) => [id, responder] as const)),
    )
  }

  /** What was known of this certificate does not hold any more. */
  forget(serial: string): void {
    this.#changes++
    this.#known.delete(serial)
  }

  /** @param der of the request; what it is not able to answer is said in an answer too (RFC 6960 2.3) */
  async answer(der: Buffer, now: Date): Promise<OcspAnswer> {
    let request: OcspRequest
    try {
      request = parseOcspRequest(der)
    } catch (error) {
      if (!isFleetError(error, 'request_malformed')) throw error
      return { der: ocspFailure('malformedRequest'), kind: 'malformedRequest' }
    }
    const { ids, nonce } = request
    const first = ids[0]!
    const responder = this.#byIssuer.get(first.issuer)
    // One signature is by one CA's responder.
    if (responder === undefined || ids.some(({ issuer }) => this.#byIssuer.get(issuer) !== responder)) {
      return { der: ocspFailure('unauthorized'), kind: 'unauthorized' }
    }
    const isForAll = ids.length === 1 && nonce === undefined
    const variant = isForAll ? first.der.toString('latin1') : ''
    const kept = isForAll && this.#isCurrent() ? this.#known.get(first.serial)?.answers.get(variant) : undefined
    if (kept !== undefined && isInFirstHalf(kept.kept, now)) return kept

    const answers: { id: CertificateId; status: CertificateStatus }[] = []
    for (const id of ids)
      answers.push({ id, status: this.#knownOf(id.serial) ?? (await this.#statusOf(id.serial, responder)) })
    const by = responder.signer()
    const nextUpdate = new Date(Math.min(now.getTime() + this.#validityMs, by.certificate.notAfter.getTime()))
    // It may be forgotten while it is signed, and then it is not kept; nor beside what another has found out since.
    const found = isForAll ? this.#known.get(first.serial) : undefined
    const known = found?.status === answers[0]!.status ? found : undefined
    const signed = await signOcspResponse({ by, answers, nonce, thisUpdate: now, nextUpdate })
    if (known === undefined) return { der: signed, kind: 'signed' }
    const etag = createHash('sha256').update(signed).digest('hex')
    const answer = { der: unpooled(signed), kind: 'kept' as const, kept: { thisUpdate: now, nextUpdate, etag } }
    known.answers.set(variant, answer)
    return { ...answer, kind: 'signed' }
  }

  #knownOf(serial: string): CertificateStatus | undefined {
    return this.#isCurrent() ? this.#known.get(serial)?.status : undefined
  }

  async #statusOf(serial: string, responder: Responder): Promise<CertificateStatus> {
    const isCurrent = this.#isCurrent()
    const changes = this.#changes
    const status = statusIn(await findCertificate(this.#registry, serial), responder)
    // Anybody can ask for serials that there are not, without end; and what has changed meanwhile may be this one.
    if (isCurrent && status.status !== 'unknown' && changes === this.#changes && !this.#known.has(serial)) {
      if (this.#known.size >= maxKnown) this.#known.delete(this.#known.keys().next().value!)
      this.#known.set(serial, { status, answers: new Map() })
    }
    return status
  }
}

/** A small buffer is a view into 8 KiB that others share, and to keep one is to keep them all. */
function unpooled(der: Buffer): Buffer {
  const copy = Buffer.allocUnsafeSlow(der.length)
  der.copy(copy)
  return copy
}

/** One of a time to come was signed by a clock that was ahead: nobody believes it. */
const isInFirstHalf = ({ thisUpdate, nextUpdate }: { thisUpdate: Date; nextUpdate: Date }, now: Date): boolean =>
  thisUpdate <= now && now.getTime() < (thisUpdate.getTime() + nextUpdate.getTime()) / 2

function statusIn(found: Stored<CertificateRecord> | undefined, responder: Responder): CertificateStatus {
  // A serial that was reserved and never signed is no certificate.
  if (found === undefined || found.doc.status === 'reserved' || !responder.isOf(found.doc)) return { status: 'unknown' }
  const { doc } = found
  if (!isListed(doc)) return { status: 'good' }
  return { status: 'revoked', revokedAt: new Date(doc.revokedAt!), reason: doc.revocationReason! }
}
