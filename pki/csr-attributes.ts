import { contextConstructed, element, integer, oid, sequence, setOf, tags } from './der.ts'
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

/**
 * CsrAttrs (RFC 7030 4.5.2), said twice: in the form that older clients read and as the template of RFC 9908 3.4, which can
 * also say the subject.
 *
 * @param subject DER of the Name; without it the template leaves the subject to the client
 */
export function buildCsrAttributes(wanted: {
  keyType: KeyType
  extendedKeyUsage: CertificateProfile['extendedKeyUsage']
  subject: Buffer | undefined
}): Buffer {
  const { keyType, extendedKeyUsage, subject } = wanted
  const purposes = sequence(...extendedKeyUsage.map((purpose) => oid(oids[purpose])))
  // RFC 9908 3.2: one id-ExtensionReq with one Extensions, and one attribute that says the type of key.
  const extensions = attribute(oids.extensionRequest, sequence(writeExtension(oids.extendedKeyUsage, purposes)))
  const key = keys[keyType]
  const template = sequence(
    integer(0),
    ...(subject === undefined ? [] : [subject]),
    // The key itself is left out: a placeholder would demand one size of RSA (RFC 9908 3.4).
    element(contextConstructed(0), key.algorithm),
    element(contextConstructed(1), extensions),
  )
  return sequence(key.attribute, extensions, attribute(oids.certificationRequestInfoTemplate, template))
}
