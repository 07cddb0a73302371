import { X509Certificate } from 'node:crypto'
import { certificatesAtMost, type RenewalVerdict } from '../../contract/certificate-verdicts.ts'
import { explainDenial } from '../../contract/denial-explain.ts'
import { problems } from '../../contract/problems.ts'
import { type VerificationView, verificationView, verifyCertificate } from '../../contract/verify-api.ts'
import { parsePem } from '../../pki/certificate.ts'
import { chainFault } from '../../pki/chain.ts'
import { maxCertificateBytes } from '../../pki/tbs-certificate.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import { readRenewalEvidence } from '../ra/current-certificate.ts'
import { type AdminContext, route } from './route.ts'

export const verifyRoute = route({
  method: 'POST',
  path: '/v1/certificates/verify',
  role: 'viewer',
  summary: 'What brokers and EST would do with a certificate that was presented to them now; nothing is changed',
  answer: verificationView,
  body: verifyCertificate,
  handle: async ({ body, asked: { now } }, context): Promise<VerificationView> => {
    const chain = readChain(body.pem)
    const [leaf] = chain
    const [{ brokers, unheard }, renewal] = await Promise.all([
      context.feed.questions.verdicts(chain.map(({ raw }) => raw)),
      renewalOf(chain, context, now),
    ])
    return { fingerprint: leaf.fingerprint256.replaceAll(':', '').toLowerCase(), brokers, unheard, renewal }
  },
})

type Chain = [X509Certificate, ...X509Certificate[]]

function readChain(pem: string): Chain {
  const ders = parsePem(pem, 'CERTIFICATE')
  if (ders.length === 0 || ders.length > certificatesAtMost)
    throw new FleetError('request_malformed', `1 to ${certificatesAtMost} certificates in PEM are wanted`)
  return ders.map((der, at) => {
    try {
      if (der.length <= maxCertificateBytes) return new X509Certificate(der)
    } catch (cause) {
      throw new FleetError('request_malformed', `certificate ${at + 1} of it cannot be read`, { cause })
    }
    throw new FleetError('request_malformed', `certificate ${at + 1} of it is larger than ${maxCertificateBytes} bytes`)
  }) as Chain
}

/** As EST would answer a renewal over mutual TLS with this certificate, as far as no request is there to look at. */
async function renewalOf(chain: Chain, context: AdminContext, now: Date): Promise<RenewalVerdict> {
  const { registry, ra, clientAuthorities } = context
  const anchors = clientAuthorities().map((pem) => new X509Certificate(pem))
  const shown = { certificate: chain[0].raw, certificateFault: chainFault(chain, anchors, now) }
  try {
    const evidence = await readRenewalEvidence(registry, shown, now)
    const label = await ra.requireRenewable(evidence)
    return { isAllowed: true, label, ...(evidence.late === undefined ? {} : { isLate: true }) }
  } catch (error) {
    if (!isFleetError(error) || problems[error.code].status >= 500) throw error
    const { code, message } = error
    const { deviceId, claimedId = deviceId } = error.context as { deviceId?: string; claimedId?: string }
    const { fix } = explainDenial(
      {
        ...{ stage: 'enrollment', cause: code, message, firstAt: now.toISOString(), variables: {} },
        ...(claimedId === undefined ? {} : { claimedId }),
      },
      undefined,
    )
    return { isAllowed: false, code, message: message.slice(0, 300), ...(fix === undefined ? {} : { fix }) }
  }
}
