/** Full PKI Requests (RFC 5272 3.2) as a client makes them, good and bad. */
import { createHash, createPublicKey, sign } from 'node:crypto'
import { parseCertificate } from '../../pki/certificate.ts'
import {
  bitString,
  contextConstructed,
  contextPrimitive,
  element,
  integer,
  octetString,
  oid,
  sequence,
  setOf,
} from '../../pki/der.ts'
import { oids } from '../../pki/oids.ts'
import { pemToDer } from './fleet.ts'

export const cmcOids = {
  transactionId: '1.3.6.1.5.5.7.7.5',
  senderNonce: '1.3.6.1.5.5.7.7.6',
  recipientNonce: '1.3.6.1.5.5.7.7.7',
  identityProof: '1.3.6.1.5.5.7.7.3',
  statusInfoV2: '1.3.6.1.5.5.7.7.25',
}

export type CmcParts = {
  csrDer: Buffer
  /** PKCS#8 PEM of who signs */
  key: string
  /** PEM of the signer's certificate; without it the signer is named by its key alone */
  certificate?: string
  /** OID and DER of the one value */
  controls?: [string, Buffer][]
  /** more requests, beside the first */
  requests?: Buffer[]
  contentType?: string
  digest?: Buffer
  bodyPartId?: number
  /** PKIData instead of one made of the parts above */
  data?: Buffer
}

export function pkiData({ csrDer, controls = [], requests = [], bodyPartId = 1 }: CmcParts): Buffer {
  const tagged = (der: Buffer, id: number): Buffer => element(contextConstructed(0), integer(id), der)
  return sequence(
    sequence(...controls.map(([type, value], at) => sequence(integer(100 + at), oid(type), setOf(value)))),
    sequence(tagged(csrDer, bodyPartId), ...requests.map((der, at) => tagged(der, 50 + at))),
    sequence(),
    sequence(),
  )
}

export function cmcRequest(parts: CmcParts): Buffer {
  const { contentType = oids.pkiData, data = pkiData(parts) } = parts
  const sha256 = sequence(oid(oids.sha256))
  const attributes = setOf(
    sequence(oid(oids.contentType), setOf(oid(contentType))),
    sequence(oid(oids.messageDigest), setOf(octetString(parts.digest ?? createHash('sha256').update(data).digest()))),
  )
  const carried = Buffer.from(attributes)
  carried[0] = contextConstructed(0)
  const signer = sequence(
    integer(parts.certificate === undefined ? 3 : 1),
    signerId(parts),
    sha256,
    carried,
    sequence(oid(oids.ecdsaWithSha256)),
    octetString(sign('sha256', attributes, parts.key)),
  )
  const signedData = sequence(
    integer(3),
    setOf(sha256),
    sequence(oid(contentType), element(contextConstructed(0), octetString(data))),
    setOf(signer),
  )
  return sequence(oid(oids.signedData), element(contextConstructed(0), signedData))
}

function signerId({ certificate, key }: CmcParts): Buffer {
  if (certificate !== undefined) {
    const { issuer, serial } = parseCertificate(pemToDer(certificate))
    return sequence(issuer.der, integer(Buffer.from(serial, 'hex')))
  }
  const point = createPublicKey(key).export({ format: 'der', type: 'spki' }).subarray(-65)
  return element(contextPrimitive(0), createHash('sha1').update(bitString(point).subarray(3)).digest())
}
