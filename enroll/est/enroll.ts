import { certsOnly } from '../../pki/cms.ts'
import { verifyCsr } from '../../pki/csr.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { EdgeAnswer, EdgeRequest } from '../../runtime/https.ts'
import { networkOf } from '../../runtime/limits.ts'
import { noteUse } from '../ca/supersession.ts'
import { readRenewalEvidence } from '../ra/current-certificate.ts'
import { type Evidence, provenDevice, readEnrollmentEvidence } from '../ra/evidence.ts'
import { requireUnwatched } from '../ra/key-watch.ts'
import type { Label } from '../ra/profiles.ts'
import type { Asking } from '../ra/registration-authority.ts'
import { untilNoConflict } from '../registry/registry.ts'
import { certsOnlyType, decodeBody, encodeBody, windowOf } from './encoding.ts'
import type { EstContext } from './routes.ts'

/** RFC 7030 4.2.1: the first certificate, on the strength of what the profile asks for. */
export async function simpleenroll(request: EdgeRequest, label: Label, context: EstContext): Promise<EdgeAnswer> {
  const prove = () => readEnrollmentEvidence(request, { ...context, label, now: context.clock() })
  const evidence = await prove() // who asks, before what they sent is looked at
  if (canRepeat(evidence)) limitRenewals(request, evidence, context)
  const csr = await verifyCsr(decodeBody(request.body))
  return certificateAnswer(request, await certify({ request, label, csr, evidence, prove }, context))
}

/** RFC 7030 4.2.2: renewal or rekey, on the strength of the current certificate, or of the last one where an operator allowed that. */
export async function simplereenroll(request: EdgeRequest, label: Label, context: EstContext): Promise<EdgeAnswer> {
  const prove = () => readRenewalEvidence(context.registry, request, context.clock())
  const evidence = await prove()
  limitRenewals(request, evidence, context)
  const { publicKeySpki: spki, spkiHash } = evidence.certificate
  const known = { spki, spkiHash, key: () => request.certificateKey()! }
  const csr = await verifyCsr(decodeBody(request.body), { known })
  return certificateAnswer(request, await certify({ request, label, csr, evidence, prove }, context))
}

/** Whether it is good for more than one certificate. */
export const canRepeat = (evidence: Evidence): boolean =>
  evidence.kind === 'certificate' || evidence.proofs.some(({ kind }) => kind === 'factory')

/** Every certificate is kept by the registry, the feed and the brokers: a device must not fill them. */
export function limitRenewals(request: EdgeRequest, evidence: Evidence, { renewals, clock }: EstContext): void {
  const holder = holderOf(evidence) ?? networkOf(request.remoteAddress)
  const now = clock().getTime()
  const waitMs = renewals.waitMs(holder, now)
  if (waitMs > 0) {
    throw new FleetError('too_many_requests', 'the device has renewed too often', {
      context: { retryAfterSeconds: Math.ceil(waitMs / 1000), deviceId: holder },
    })
  }
  renewals.note(holder, now)
}

const holderOf = (evidence: Evidence): string | undefined =>
  evidence.kind === 'enrollment' ? provenDevice(evidence) : (evidence.record.doc.deviceId ?? evidence.record.doc.serial)

type Wanted = {
  request: EdgeRequest
  label: Label
  csr: Asking['request']
  evidence: Evidence
  prove: () => Promise<Evidence>
}

/** The certificate, new or given again; or not yet. */
export type Certified = { der: Buffer } | { retryAfterMs: number }

export async function certify(
  { request, label, csr, evidence: first, prove }: Wanted,
  context: EstContext,
): Promise<Certified> {
  const { registry, ra, ca, clock, overlapMs } = context
  const now = clock()
  const { id, remoteAddress, channelBinding } = request
  const asking = { id, remoteAddress, channelBinding, label, request: csr, now }
  // Evidence and decision are taken afresh whenever another writer was first, so what is signed is what was decided.
  let known: Evidence | undefined = first
  return untilNoConflict(async () => {
    await requireUnwatched(registry, csr.spkiHash)
    const evidence = known ?? (await prove())
    known = undefined
    if (evidence.kind === 'certificate' && evidence.record.doc.firstUsedAt === undefined) {
      const { serial, deviceId } = evidence.record.doc
      const by = { actor: `device:${deviceId}`, remoteAddress, requestId: id }
      const fork = await noteUse(registry, { serial, at: now, ...by, overlapMs, now })
      if (fork !== undefined) context.onFork(fork, request)
    }
    const decision = await ra.decide(evidence, asking)
    if (decision.decision !== 'approved') return decision
    const asked = { requestId: id, remoteAddress, now }
    return { der: await ca.issue(decision.approval, csr, asked) }
  })
}

function certificateAnswer(request: EdgeRequest, certified: Certified): EdgeAnswer {
  if ('retryAfterMs' in certified) return pendingAnswer(request, certified)
  return {
    status: 200,
    headers: { 'Content-Type': certsOnlyType, 'Content-Transfer-Encoding': 'base64', ...windowOf(certified.der) },
    body: encodeBody(certsOnly([certified.der]), request),
  }
}

/** RFC 7030 4.2.3. Retry-After is in seconds: libest does not read a date. */
export const pendingAnswer = (request: EdgeRequest, { retryAfterMs }: { retryAfterMs: number }): EdgeAnswer => ({
  status: 202,
  headers: { 'Content-Type': 'text/plain; charset=utf-8', 'Retry-After': String(Math.ceil(retryAfterMs / 1000)) },
  body: `the request waits for approval; send the same one again (request ${request.id})\n`,
})
