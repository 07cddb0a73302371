import {
  constants,
  createCipheriv,
  createHash,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  type KeyObject,
  publicEncrypt,
  randomBytes,
} from 'node:crypto'
import { FleetError } from '../runtime/errors.ts'
import type { CertificateFacts } from './certificate.ts'
import {
  bitString,
  contextConstructed,
  contextPrimitive,
  element,
  integer,
  octetString,
  oid,
  readDer,
  sequence,
  setOf,
} from './der.ts'
import { oids } from './oids.ts'
import { keyTypeOf } from './public-key.ts'
import type { Content } from './signed-data.ts'

/** For whom and how something will be encrypted; that it can be has been checked. */
export type EncryptionPlan = {
  recipient: CertificateFacts
  keyType: 'P-256' | 'P-384' | 'RSA'
  cipher: { oid: string; name: 'aes-256-cbc' | 'aes-192-cbc' | 'aes-128-cbc'; keyBytes: number }
}

const ciphers: EncryptionPlan['cipher'][] = [
  { oid: oids.aes256Cbc, name: 'aes-256-cbc', keyBytes: 32 },
  { oid: oids.aes192Cbc, name: 'aes-192-cbc', keyBytes: 24 },
  { oid: oids.aes128Cbc, name: 'aes-128-cbc', keyBytes: 16 },
]

/** RFC 5753 7.1.4: the hash is as strong as the curve. */
const agreements = {
  'P-256': { curve: oids.p256, scheme: oids.ecdhSha256Kdf, hash: 'sha256', namedCurve: 'P-256' },
  'P-384': { curve: oids.p384, scheme: oids.ecdhSha384Kdf, hash: 'sha384', namedCurve: 'P-384' },
} as const

const keyManagement = new Set<string>([
  oids.rsaEncryption,
  oids.rsaesOaep,
  oids.ecdhSha1Kdf,
  oids.ecdhSha256Kdf,
  oids.ecdhSha384Kdf,
  oids.ecdhSha512Kdf,
])

/**
 * Sees how the holder of a certificate can be sent something encrypted.
 *
 * @param capabilities dotted OIDs, the preferred one first; empty: whatever we think best
 * @throws FleetError `key_encryption_unavailable` with the reason
 */
export function planEncryption(recipient: CertificateFacts, capabilities: readonly string[]): EncryptionPlan {
  const keyType = keyTypeOf(recipient.publicKeySpki)
  if (keyType === 'Ed25519') throw unavailable('an Ed25519 key signs and cannot decrypt')
  // RFC 5280 4.2.1.3: a certificate that does not say so does not vouch for the key's use in decryption.
  const usage = keyType === 'RSA' ? 'keyEncipherment' : 'keyAgreement'
  if (!recipient.keyUsage.includes(usage)) throw unavailable(`the certificate of that key does not allow ${usage}`)

  const scheme = keyType === 'RSA' ? oids.rsaesOaep : agreements[keyType].scheme
  const schemes = capabilities.filter((capability) => keyManagement.has(capability))
  if (schemes.length > 0 && !schemes.includes(scheme)) {
    throw unavailable(`SMIMECapabilities lists ${schemes.join(', ')}; for that key ${scheme} is offered`)
  }
  const wanted = capabilities.filter((capability) => !keyManagement.has(capability) && capability !== oids.aes256Wrap)
  const cipher = wanted.length === 0 ? ciphers[0] : wanted.map(findCipher).find((found) => found !== undefined)
  if (cipher === undefined) {
    const offered = ciphers.map(({ name, oid: dotted }) => `${name} (${dotted})`).join(', ')
    throw unavailable(`SMIMECapabilities lists no content encryption that is offered: ${offered}`)
  }
  return { recipient, keyType, cipher }
}

const findCipher = (dotted: string): EncryptionPlan['cipher'] | undefined =>
  ciphers.find((cipher) => cipher.oid === dotted)

const unavailable = (why: string): FleetError =>
  new FleetError('key_encryption_unavailable', `the key cannot be encrypted as asked: ${why}`)

/** EnvelopedData (RFC 5652 6) for one recipient, without the ContentInfo. */
export function envelop(content: Content, { recipient, keyType, cipher }: EncryptionPlan): Buffer {
  const key = randomBytes(cipher.keyBytes)
  const iv = randomBytes(16)
  const encrypt = createCipheriv(cipher.name, key, iv)
  const encrypted = Buffer.concat([encrypt.update(content.octets), encrypt.final()])
  const recipientInfo = keyType === 'RSA' ? keyTransport(recipient, key) : keyAgreement(recipient, keyType, key)
  key.fill(0)
  return sequence(
    integer(2), // RFC 5652 6.1: a recipient is named by its key
    setOf(recipientInfo),
    sequence(oid(content.type), sequence(oid(cipher.oid), octetString(iv)), element(contextPrimitive(0), encrypted)),
  )
}

const publicKeyOf = ({ publicKeySpki }: CertificateFacts): KeyObject =>
  createPublicKey({ key: publicKeySpki, format: 'der', type: 'spki' })
const keyIdOf = ({ subjectKeyId }: CertificateFacts): Buffer => Buffer.from(subjectKeyId!, 'hex')

/** KeyTransRecipientInfo (RFC 5652 6.2.1) with RSAES-OAEP (RFC 4055 4.1), SHA-256 throughout. */
function keyTransport(recipient: CertificateFacts, key: Buffer): Buffer {
  const sha256 = sequence(oid(oids.sha256))
  const parameters = sequence(
    element(contextConstructed(0), sha256),
    element(contextConstructed(1), sequence(oid(oids.mgf1), sha256)),
  )
  const options = { key: publicKeyOf(recipient), padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha256' }
  return sequence(
    integer(2),
    element(contextPrimitive(0), keyIdOf(recipient)),
    sequence(oid(oids.rsaesOaep), parameters),
    octetString(publicEncrypt(options, key)),
  )
}

/** KeyAgreeRecipientInfo (RFC 5652 6.2.2) with an ephemeral key on the recipient's curve (RFC 5753 3.1). */
function keyAgreement(recipient: CertificateFacts, keyType: 'P-256' | 'P-384', key: Buffer): Buffer {
  const { curve, scheme, hash, namedCurve } = agreements[keyType]
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve })
  const ephemeral = readDer(publicKey.export({ format: 'der', type: 'spki' }), 256).enter()
  ephemeral.next()
  const wrap = sequence(oid(oids.aes256Wrap))
  // RFC 5753 7.2: ECC-CMS-SharedInfo, with the length of the key-encryption key in bits. The ukm may be left out, but pkijs
  // takes an absent one for an empty one.
  const ukm = octetString(randomBytes(32))
  const info = sequence(
    wrap,
    element(contextConstructed(0), ukm),
    element(contextConstructed(2), octetString(Buffer.of(0, 0, 1, 0))),
  )
  const secret = diffieHellman({ publicKey: publicKeyOf(recipient), privateKey })
  const kek = createHash(hash)
    .update(secret)
    .update(Buffer.of(0, 0, 0, 1))
    .update(info)
    .digest()
    .subarray(0, 32)
  const wrapper = createCipheriv('id-aes256-wrap', kek, Buffer.alloc(8, 0xa6)) // RFC 3394 2.2.3.1
  const wrapped = Buffer.concat([wrapper.update(key), wrapper.final()])
  secret.fill(0)
  kek.fill(0)
  return element(
    contextConstructed(1),
    integer(3),
    element(
      contextConstructed(0),
      element(contextConstructed(1), sequence(oid(oids.ecPublicKey), oid(curve)), bitString(ephemeral.bitString())),
    ),
    element(contextConstructed(1), ukm),
    sequence(oid(scheme), wrap),
    sequence(sequence(element(contextConstructed(0), octetString(keyIdOf(recipient))), octetString(wrapped))),
  )
}
