import type { X509Certificate } from 'node:crypto'
import { isFleetError } from '../runtime/errors.ts'
import { parseCertificate } from './certificate.ts'
import { oids } from './oids.ts'

/** Longer ones are followed no further, like a chain that goes round in a circle. */
const longest = 20
/** What OpenSSL asks of every key at security level 2, which is Node's. */
const leastRsaBits = 2_048

/**
 * What TLS would say of the chain of a client certificate, in OpenSSL's words (RFC 5280 6.1, as far as signatures, dates, CAs
 * and purposes go): for a question about a certificate whose holder is not there to shake hands. As in Node, a chain holds when
 * it leads to a root among the anchors. Policies, name constraints and path lengths are not looked at.
 *
 * @param chain what the client sends: its own certificate, then those above it
 * @returns undefined when nothing is wrong
 */
export function chainFault(
  chain: readonly [X509Certificate, ...X509Certificate[]],
  anchors: readonly X509Certificate[],
  now: Date,
): string | undefined {
  const [leaf, ...sent] = chain
  // Those that are trusted before those that anybody may send.
  const candidates = [...anchors, ...sent]
  const path = [leaf]
  while (!isSelfSigned(path.at(-1)!) && path.length < longest) {
    const above = issuerOf(path.at(-1)!, candidates)
    if (above === undefined) break
    path.push(above)
  }
  const top = path.at(-1)!
  if (!isSelfSigned(top))
    return path.length === 1 ? 'UNABLE_TO_VERIFY_LEAF_SIGNATURE' : 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY'
  if (!anchors.some(({ raw }) => raw.equals(top.raw)))
    return path.length === 1 ? 'DEPTH_ZERO_SELF_SIGNED_CERT' : 'SELF_SIGNED_CERT_IN_CHAIN'
  return path.map((one, depth) => faultOf(one, path[depth + 1] ?? one, depth, now)).find((fault) => fault !== undefined)
}

const isSelfSigned = (one: X509Certificate): boolean => one.verify(one.publicKey)

/** By names and key identifiers; where a CA has another key by now, the certificate of the key that signed. */
function issuerOf(one: X509Certificate, candidates: readonly X509Certificate[]): X509Certificate | undefined {
  const named = candidates.filter((candidate) => one.checkIssued(candidate))
  return named.find(({ publicKey }) => one.verify(publicKey)) ?? named[0]
}

/** OpenSSL tells the last fault that it meets, and looks at the dates last. */
function faultOf(one: X509Certificate, above: X509Certificate, depth: number, now: Date): string | undefined {
  if (now > one.validToDate) return 'CERT_HAS_EXPIRED'
  if (now < one.validFromDate) return 'CERT_NOT_YET_VALID'
  if (!one.verify(above.publicKey)) return 'CERT_SIGNATURE_FAILURE'
  const { modulusLength = leastRsaBits } = one.publicKey.asymmetricKeyDetails ?? {}
  if (modulusLength < leastRsaBits) return depth === 0 ? 'EE_KEY_TOO_SMALL' : 'CA_KEY_TOO_SMALL'
  if (depth > 0 && !one.ca) return 'INVALID_CA'
  // RFC 5280 4.2.1.12, 4.2.1.3: an extension that is absent allows every use.
  const isPurpose = one.keyUsage?.includes(oids.clientAuth) ?? true
  return isPurpose && (depth > 0 || maySign(one)) ? undefined : 'INVALID_PURPOSE'
}

/** Of what cannot be read as RFC 5280 asks, that is the fault to tell, and others tell it. */
function maySign({ raw }: X509Certificate): boolean {
  try {
    const { keyUsage } = parseCertificate(raw)
    return keyUsage.length === 0 || keyUsage.includes('digitalSignature') || keyUsage.includes('keyAgreement')
  } catch (error) {
    if (!isFleetError(error)) throw error
    return true
  }
}
