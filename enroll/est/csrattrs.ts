import { buildCsrAttributes } from '../../pki/csr-attributes.ts'
import { isFleetError } from '../../runtime/errors.ts'
import type { EdgeAnswer, EdgeRequest } from '../../runtime/https.ts'
import { type Evidence, readCertificateEvidence, readTokenEvidence } from '../ra/evidence.ts'
import type { Label } from '../ra/profiles.ts'
import { encodeBody } from './encoding.ts'
import type { EstContext } from './routes.ts'

/** RFC 7030 4.5: what a request has to contain. Nobody has to say who it is; who does is told its own subject too. */
export async function csrattrs(request: EdgeRequest, label: Label, context: EstContext): Promise<EdgeAnswer> {
  const { profile, subject, channelBinding } = await context.ra.describe(label, await findEvidence(request, context))
  // RFC 7030 4.5.2: 204 where there is nothing to say.
  if (profile === undefined && !channelBinding) return { status: 204 }
  const template = profile && { keyType: profile.keyTypes[0]!, extendedKeyUsage: profile.extendedKeyUsage, subject }
  const der = buildCsrAttributes({ template, channelBinding })
  return {
    status: 200,
    headers: { 'Content-Type': 'application/csrattrs', 'Content-Transfer-Encoding': 'base64' },
    body: encodeBody(der, request),
  }
}

/** A wrong token is refused like everywhere. A certificate that does not count here may be meant for something else. */
async function findEvidence(request: EdgeRequest, { registry, clock }: EstContext): Promise<Evidence | undefined> {
  if (request.headers.authorization !== undefined) return readTokenEvidence(registry, request)
  if (request.certificate === undefined) return undefined
  try {
    return await readCertificateEvidence(registry, request, clock())
  } catch (error) {
    if (isFleetError(error)) return undefined
    throw error
  }
}
