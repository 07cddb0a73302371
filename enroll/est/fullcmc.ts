import { randomBytes } from 'node:crypto'
import { type ProblemCode, problems } from '../../contract/problems.ts'
import {
  type CmcReference,
  cmcFailure,
  cmcSuccess,
  type Failure,
  parseCmcRequest,
  wholeMessage,
} from '../../pki/cmc.ts'
import { verifyCsr } from '../../pki/csr.ts'
import { contextPrimitive, element } from '../../pki/der.ts'
import { isSignedBy, issuerAndSerial, type SignedMessage } from '../../pki/signed-data.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import type { EdgeAnswer, EdgeRequest } from '../../runtime/https.ts'
import { type Evidence, readEvidence } from '../ra/evidence.ts'
import type { Label } from '../ra/profiles.ts'
import { certsOnlyType, decodeBody, encodeBody, windowOf } from './encoding.ts'
import { canRepeat, certify, limitRenewals, pendingAnswer } from './enroll.ts'
import type { EstContext, Refusal } from './routes.ts'

const responseType = 'application/pkcs7-mime; smime-type=CMC-response'
const headersOf = (type: string) => ({ 'Content-Type': type, 'Content-Transfer-Encoding': 'base64' })

/**
 * RFC 7030 4.3: enrollment and renewal as CMC. Whoever the connection belongs to has to have signed the message too: the
 * current certificate when that was shown, else the key that is to be certified (RFC 5272 3.2).
 */
export async function fullcmc(request: EdgeRequest, label: Label, context: EstContext): Promise<EdgeAnswer | Refusal> {
  let reference: CmcReference | undefined
  const responder = { by: context.responder(), now: context.clock(), senderNonce: randomBytes(16) }
  try {
    requireCmcType(request)
    const prove = () => readEvidence(request, { ...context, label, now: context.clock() })
    const evidence = await prove()
    if (canRepeat(evidence)) limitRenewals(request, evidence, context)
    const { csrDer, message, ...rest } = parseCmcRequest(decodeBody(request.body, 'cmc_malformed'))
    reference = rest.reference
    const csr = await verifyCsr(csrDer)
    await requireSignature(message, evidence, csr.publicKeySpki)
    const certified = await certify({ request, label, csr, evidence, prove }, context)
    if ('retryAfterMs' in certified) return pendingAnswer(request, certified)
    const { kind, der } = await cmcSuccess(reference, certified.der, responder)
    return {
      status: 200,
      headers: { ...headersOf(kind === 'simple' ? certsOnlyType : responseType), ...windowOf(certified.der) },
      body: encodeBody(der, request),
    }
  } catch (error) {
    if (!isFleetError(error)) throw error
    // RFC 7030 4.3.2: a refusal is a CMC answer too.
    const body = async (about: string): Promise<string | Buffer> => {
      const why = { failure: failureOf(error.code), sentence: `${error.code}: ${error.message} (${about})` }
      return encodeBody(await cmcFailure(reference ?? wholeMessage, why, responder), request)
    }
    return { refused: error, headers: headersOf(responseType), body }
  }
}

function requireCmcType(request: EdgeRequest): void {
  const found = /;\s*smime-type="?([A-Za-z-]+)"?/i.exec(request.headers['content-type'] ?? '')?.[1] ?? ''
  if (/^cmc-request$/i.test(found)) return
  throw new FleetError('media_type_unsupported', 'fullcmc takes application/pkcs7-mime; smime-type=CMC-request')
}

async function requireSignature(message: SignedMessage, evidence: Evidence, requestedSpki: Buffer): Promise<void> {
  if (evidence.kind === 'enrollment') {
    if (await isSignedBy(message, requestedSpki)) return
    throw new FleetError('cmc_signature_invalid', 'the message is not signed by the key that is to be certified')
  }
  const { certificate } = evidence
  const keyId = element(contextPrimitive(0), Buffer.from(certificate.subjectKeyId!, 'hex'))
  const names = message.signerId.equals(issuerAndSerial(certificate)) || message.signerId.equals(keyId)
  if (names && (await isSignedBy(message, certificate.publicKeySpki))) return
  throw new FleetError(
    'cmc_signature_invalid',
    'the message is not signed by the certificate that the connection shows',
  )
}

/** RFC 5272 6.1.4 has a dozen reasons; the code stands in the sentence. */
function failureOf(code: ProblemCode): Failure {
  const { status } = problems[code]
  if (code === 'csr_key_unsupported' || code === 'csr_key_too_weak') return 'badAlg'
  if (code === 'csr_signature_invalid') return 'popFailed'
  if (code === 'cmc_signature_invalid') return 'badMessageCheck'
  if (status === 401) return 'authDataFail'
  if (status === 403) return 'badIdentity'
  if (status === 429 || status === 503) return 'tryLater'
  return status >= 500 ? 'internalCAError' : 'badRequest'
}
