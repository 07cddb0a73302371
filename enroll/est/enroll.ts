import { certsOnly } from '../../pki/cms.ts'
import { type CertificateRequest, parseCsr } from '../../pki/csr.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { EdgeAnswer, EdgeRequest } from '../../runtime/https.ts'
import { readCertificateEvidence, readTokenEvidence } from '../ra/evidence.ts'
import type { Label } from '../ra/profiles.ts'
import type { Asking, Decision } from '../ra/registration-authority.ts'
import { untilNoConflict } from '../registry/registry.ts'
import { decodeBody, encodeBody } from './encoding.ts'
import type { EstContext } from './routes.ts'

/** RFC 7030 4.2.1: the first certificate, on the strength of an enrollment token. */
export async function simpleenroll(request: EdgeRequest, label: Label, context: EstContext): Promise<EdgeAnswer> {
  const { registry, ra } = context
  await readTokenEvidence(registry, request) // who asks, before what they sent is looked at
  const csr = parseCsr(decodeBody(request.body))
  return answer(request, context, csr, async (now) =>
    ra.decideEnrollment(await readTokenEvidence(registry, request), asking(request, label, csr, now)),
  )
}

/** RFC 7030 4.2.2: renewal or rekey, on the strength of the current certificate. */
export async function simplereenroll(request: EdgeRequest, label: Label, context: EstContext): Promise<EdgeAnswer> {
  const { registry, ra, renewals } = context
  const { record } = await readCertificateEvidence(registry, request, context.clock())
  // Every certificate is kept by the registry, the feed and the brokers: a device must not fill them.
  const waitMs = renewals.waitMs(record.doc.deviceId ?? record.doc.serial, context.clock().getTime())
  if (waitMs > 0) {
    throw new FleetError('too_many_requests', 'the device has renewed too often', {
      context: { retryAfterSeconds: Math.ceil(waitMs / 1000), deviceId: record.doc.deviceId },
    })
  }
  renewals.note(record.doc.deviceId ?? record.doc.serial, context.clock().getTime())
  const csr = parseCsr(decodeBody(request.body))
  return answer(request, context, csr, async (now) =>
    ra.decideReenrollment(await readCertificateEvidence(registry, request, now), asking(request, label, csr, now)),
  )
}

const asking = (request: EdgeRequest, label: Label, csr: CertificateRequest, now: Date): Asking => ({
  label,
  request: csr,
  now,
  channelBinding: request.channelBinding,
})

async function answer(
  request: EdgeRequest,
  { ca, clock }: EstContext,
  csr: CertificateRequest,
  decide: (now: Date) => Promise<Decision>,
): Promise<EdgeAnswer> {
  const now = clock()
  // Evidence and decision are taken afresh whenever another writer was first, so what is signed is what was decided.
  const der = await untilNoConflict(async () => {
    const decision = await decide(now)
    if (decision.decision === 'issued') return decision.der
    return ca.issue(decision.approval, csr, { requestId: request.id, remoteAddress: request.remoteAddress, now })
  })
  return {
    status: 200,
    headers: { 'Content-Type': 'application/pkcs7-mime; smime-type=certs-only', 'Content-Transfer-Encoding': 'base64' },
    body: encodeBody(certsOnly([der]), request),
  }
}
