import { contextConstructed, element, integer, oid, readDer, sequence, setOf, tags } from './der.ts'
import { writeExtension } from './extensions.ts'
import { oids } from './oids.ts'
import type { CertificateProfile } from './profile.ts'
import type { KeyType } from './public-key.ts'

/** Each key type as an attribute (RFC 9908 3.2) and as an AlgorithmIdentifier (RFC 5480 2.1.1, 8410 3, 3279 2.3.1). */
const keys: Record<KeyType, { attribute: Buffer; algorithm: Buffer }> = {
  'P-256': curve(oids.p256),
  'P-384': curve(oids.p384),
  Ed25519: { attribute: attribute(oids.ed25519), algorithm: sequence(oid(oids.ed25519)) },
  RSA: {
    attribute: attribute(oids.rsaEncryption, integer(Buffer.of(0x08, 0x00))),
    algorithm: sequence(oid(oids.rsaEncryption), element(tags.null)),
  },
}

function curve(name: string): { attribute: Buffer; algorithm: Buffer } {
  return { attribute: attribute(oids.ecPublicKey, oid(name)), algorithm: sequence(oid(oids.ecPublicKey), oid(name)) }
}

function attribute(type: string, ...values: Buffer[]): Buffer {
  return sequence(oid(type), setOf(...values))
}

export type RequestTemplate = {
  keyType: KeyType
  extendedKeyUsage: CertificateProfile['extendedKeyUsage']
  /** DER of the Name; without it the client fills in its own CN */
  subject: Buffer | undefined
}

/**
 * CsrAttrs (RFC 7030 4.5.2), said twice: in the form that older clients read and as the template of RFC 9908 3.4, which can
 * also say the subject.
 *
 * @param wanted.channelBinding asks for the challengePassword (RFC 7030 3.5), for the client to fill in
 */
export function buildCsrAttributes(wanted: { template: RequestTemplate | undefined; channelBinding: boolean }): Buffer {
  const { template, channelBinding } = wanted
  const challenge = channelBinding ? [oid(oids.challengePassword)] : []
  if (template === undefined) return sequence(...challenge)
  const purposes = sequence(...template.extendedKeyUsage.map((purpose) => oid(oids[purpose])))
  // RFC 9908 3.2: one id-ExtensionReq with one Extensions, and one attribute that says the type of key.
  const extensions = attribute(oids.extensionRequest, sequence(writeExtension(oids.extendedKeyUsage, purposes)))
  const key = keys[template.keyType]
  // RFC 9908 3.4, 4: attributes of a template are those of PKCS#10, with a value or not at all (RFC 5912 5), and who reads the
  // template reads nothing else. So it cannot ask for a challengePassword that the client is to fill in.
  if (channelBinding) return sequence(...challenge, key.attribute, extensions)
  const info = sequence(
    integer(0),
    // RFC 9908 3.4: there wherever anything is asked of it.
    template.subject ?? anyCommonName,
    // The key itself is left out: a placeholder would demand one size of RSA (RFC 9908 3.4).
    element(contextConstructed(0), key.algorithm),
    element(contextConstructed(1), extensions),
  )
  return sequence(key.attribute, extensions, attribute(oids.certificationRequestInfoTemplate, info))
}

/** A NameTemplate (RFC 9908 3.4) of one CN without its value: what a request has to have, and only the client knows. */
const anyCommonName = sequence(setOf(sequence(oid(oids.commonName))))

const maxBytes = 65_536

/**
 * Whether CsrAttrs ask for a challengePassword (RFC 7030 3.5), as an OID or as an attribute of that type.
 *
 * @throws DerError
 */
export function asksForChannelBinding(der: Uint8Array): boolean {
  const list = readDer(der, maxBytes).enter()
  let asks = false
  while (!list.done) {
    const type = list.nextTag === tags.oid ? list.oid() : list.enter().oid()
    asks ||= type === oids.challengePassword
  }
  return asks
}
