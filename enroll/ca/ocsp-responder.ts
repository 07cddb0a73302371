import { createHash } from 'node:crypto'
import type { CertificateFacts } from '../../pki/certificate.ts'
import {
  type CertificateId,
  type CertificateStatus,
  issuerIds,
  type OcspSigner,
  ocspFailure,
  parseOcspRequest,
  signOcspResponse,
} from '../../pki/ocsp.ts'
import { isFleetError } from '../../runtime/errors.ts'
import { type CertificateRecord, isListed } from '../registry/certificates.ts'
import type { Registry } from '../registry/registry.ts'

/** For one CA: `signer` is asked at every answer, since its certificate is renewed. */
export type Responder = {
  authority: CertificateFacts
  isOf: (distributionPoint: string | undefined) => boolean
  signer: () => OcspSigner
}
/** `kept`: the same for everybody who asks, until then. */
export type OcspAnswer = { der: Buffer; kept?: { thisUpdate: Date; nextUpdate: Date; etag: string } }

/** Answers are some 600 octets each. */
const maxKept = 20_000

/** Answers of certificates' status, from the registry; those that anybody may have asked for are signed once. */
export class OcspResponder {
  readonly #registry: Registry
  readonly #validityMs: number
  readonly #byIssuer: ReadonlyMap<string, Responder>
  /** By serial, then by CertID as it was written. */
  readonly #kept = new Map<string, Map<string, Required<OcspAnswer>>>()
  #keptCount = 0
  #changes = 0

  /** @param validityMs from thisUpdate to nextUpdate; after half of it an answer is signed anew */
  constructor(registry: Registry, responders: readonly Responder[], validityMs: number) {
    this.#registry = registry
    this.#validityMs = validityMs
    this.#byIssuer = new Map(
      responders.flatMap((responder) => issuerIds(responder.authority).map((id) => [id, responder] as const)),
    )
  }

  /** What was signed of this certificate does not hold any more. */
  forget(serial: string): void {
    this.#changes++
    this.#keptCount -= this.#kept.get(serial)?.size ?? 0
    this.#kept.delete(serial)
  }

  /** @param der of the request; what it is not able to answer is said in an answer too (RFC 6960 2.3) */
  async answer(der: Buffer, now: Date): Promise<OcspAnswer> {
    let request: ReturnType<typeof parseOcspRequest>
    try {
      request = parseOcspRequest(der)
    } catch (error) {
      if (!isFleetError(error, 'request_malformed')) throw error
      return { der: ocspFailure('malformedRequest') }
    }
    const { ids, nonce } = request
    const [first] = ids as [CertificateId, ...CertificateId[]]
    const responder = this.#byIssuer.get(first.issuer)
    // One signature is by one CA's responder.
    if (responder === undefined || ids.some(({ issuer }) => this.#byIssuer.get(issuer) !== responder)) {
      return { der: ocspFailure('unauthorized') }
    }
    const isForAll = ids.length === 1 && nonce === undefined
    const variant = first.der.toString('latin1')
    const kept = isForAll ? this.#kept.get(first.serial)?.get(variant) : undefined
    if (kept !== undefined && now.getTime() < (kept.kept.thisUpdate.getTime() + kept.kept.nextUpdate.getTime()) / 2)
      return kept

    const changes = this.#changes
    const records = await this.#registry.findMany('certificate', [...new Set(ids.map(({ serial }) => serial))])
    const bySerial = new Map(records.map(({ doc }) => [doc.serial, doc]))
    const answers = ids.map((id) => ({ id, status: statusOf(bySerial.get(id.serial), responder) }))
    const by = responder.signer()
    const nextUpdate = new Date(Math.min(now.getTime() + this.#validityMs, by.certificate.notAfter.getTime()))
    const signed = await signOcspResponse({ by, answers, nonce, thisUpdate: now, nextUpdate })
    // Anybody can ask for serials that there are not, without end; and what has changed meanwhile may be this one.
    const isWorthKeeping = isForAll && answers[0]!.status.status !== 'unknown' && changes === this.#changes
    if (!isWorthKeeping) return { der: signed }
    const etag = createHash('sha256').update(signed).digest('hex')
    const answer = { der: signed, kept: { thisUpdate: now, nextUpdate, etag } }
    this.#keep(first.serial, variant, answer)
    return answer
  }

  #keep(serial: string, variant: string, answer: Required<OcspAnswer>): void {
    const oldest = this.#keptCount >= maxKept ? this.#kept.keys().next().value : undefined
    if (oldest !== undefined) {
      this.#keptCount -= this.#kept.get(oldest)!.size
      this.#kept.delete(oldest)
    }
    const variants = this.#kept.get(serial) ?? new Map<string, Required<OcspAnswer>>()
    if (!variants.has(variant)) this.#keptCount++
    this.#kept.set(serial, variants.set(variant, answer))
  }
}

function statusOf(record: CertificateRecord | undefined, responder: Responder): CertificateStatus {
  // A serial that was reserved and never signed is no certificate.
  if (record === undefined || record.status === 'reserved' || !responder.isOf(record.distributionPoint)) {
    return { status: 'unknown' }
  }
  if (!isListed(record)) return { status: 'good' }
  return { status: 'revoked', revokedAt: new Date(record.revokedAt!), reason: record.revocationReason! }
}
