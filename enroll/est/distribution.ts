import { certsOnly } from '../../pki/cms.ts'
import type { EdgeAnswer, EdgeRequest } from '../../runtime/https.ts'
import type { Label } from '../ra/profiles.ts'
import { encodeBody } from './encoding.ts'
import type { EstContext } from './routes.ts'

/** RFC 7030 4.1: the root, and every certificate that a chain to it needs. */
export async function cacerts(request: EdgeRequest, _label: Label, { hierarchy }: EstContext): Promise<EdgeAnswer> {
  return {
    status: 200,
    headers: { 'Content-Type': 'application/pkcs7-mime', 'Content-Transfer-Encoding': 'base64' },
    body: encodeBody(certsOnly(hierarchy.distributed), request),
  }
}
