import { buildCsrAttributes } from '../../pki/csr-attributes.ts'
import { isFleetError } from '../../runtime/errors.ts'
import type { EdgeAnswer, EdgeRequest } from '../../runtime/https.ts'
import { readEvidence } from '../ra/evidence.ts'
import type { Label } from '../ra/profiles.ts'
import type { Expectations } from '../ra/registration-authority.ts'
import { encodeBody } from './encoding.ts'
import type { EstContext } from './routes.ts'

/** RFC 7030 4.5: what a request has to contain. Nobody has to say who it is; who does is told its own subject too. */
export async function csrattrs(request: EdgeRequest, label: Label, context: EstContext): Promise<EdgeAnswer> {
  const { profile, subject, channelBinding } = await describe(request, label, context)
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
async function describe(
  request: EdgeRequest,
  label: Label,
  { registry, ra, clock }: EstContext,
): Promise<Expectations> {
  const { headers, certificate } = request
  if (headers.authorization === undefined && certificate === undefined) return ra.describe(label, undefined)
  try {
    return await ra.describe(label, await readEvidence(request, { registry, label, now: clock() }))
  } catch (error) {
    if (isFleetError(error) && headers.authorization === undefined) return ra.describe(label, undefined)
    throw error
  }
}
