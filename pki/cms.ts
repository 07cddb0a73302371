import { fromBER } from 'asn1js'
import { Certificate, ContentInfo, SignedData } from 'pkijs'
import { FleetError } from '../runtime/errors.ts'
import { contextConstructed, element, integer, oid, sequence, setOf } from './der.ts'
import { oids } from './oids.ts'

/**
 * The degenerate SignedData that EST answers with (RFC 7030 4.1.3, RFC 5272 4.1): certificates and nothing signed.
 *
 * @param certificates DER, kept in this order: some clients write the first one to the front of their file
 */
export function certsOnly(certificates: Uint8Array[]): Buffer {
  const signedData = sequence(
    integer(1),
    setOf(),
    // RFC 5652 5.2: eContent is left out, not empty, when nothing is signed.
    sequence(oid(oids.data)),
    element(contextConstructed(0), ...certificates),
    setOf(),
  )
  return sequence(oid(oids.signedData), element(contextConstructed(0), signedData))
}

const maxBytes = 262_144

/**
 * The certificates of a certs-only answer, in its order.
 *
 * @throws FleetError `request_malformed` when it is anything else, also with signatures or bytes after its end
 */
export function parseCertsOnly(der: Uint8Array): Buffer[] {
  const input = Buffer.from(der)
  if (input.length > maxBytes) throw malformed(`${input.length} bytes, at most ${maxBytes} are read`)
  // CMS may be BER, so the reader here is not the strict one of der.ts.
  const { offset, result } = fromBER(Uint8Array.from(input))
  if (offset === -1) throw malformed(result.error || 'not BER')
  if (offset !== input.length) throw malformed(`${input.length - offset} bytes after its end`)
  const { certificates, signerInfos, encapContentInfo } = readSignedData(result)
  if (signerInfos.length > 0 || encapContentInfo.eContent !== undefined) throw malformed('it carries signed content')
  const found = (certificates ?? []).map((certificate) => {
    if (!(certificate instanceof Certificate)) throw malformed('it holds something other than X.509 certificates')
    const bytes = Buffer.from(certificate.toSchema().toBER())
    // A certificate is its bytes: one that pkijs would write in another way is not handed on.
    if (!input.includes(bytes)) throw malformed('a certificate is not DER')
    return bytes
  })
  if (found.length === 0) throw malformed('it holds no certificate')
  return found
}

function readSignedData(schema: unknown): SignedData {
  try {
    const info = new ContentInfo({ schema })
    if (info.contentType === ContentInfo.SIGNED_DATA) return new SignedData({ schema: info.content })
  } catch (cause) {
    throw malformed('it is not built as RFC 5652 asks', cause)
  }
  throw malformed('its content is not SignedData')
}

const malformed = (fault: string, cause?: unknown): FleetError =>
  new FleetError('request_malformed', `Not a certs-only message: ${fault}`, { cause })
