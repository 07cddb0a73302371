/** Certificate requests and self-signed certificates as clients make them, with a library: not for the hot path. */
import 'reflect-metadata'
import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, type webcrypto } from 'node:crypto'
import {
  BasicConstraintsExtension,
  ChallengePasswordAttribute,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  Extension,
  Name,
  Pkcs10CertificateRequestGenerator,
  X509CertificateGenerator,
} from '@peculiar/x509'
import { FleetError } from '../runtime/errors.ts'
import { toPem } from './certificate.ts'
import { buildName } from './names.ts'
import { oids } from './oids.ts'

export type ClientKeyType = 'P-256' | 'P-384' | 'Ed25519' | 'RSA-2048'

/** `subject` is the DER of a Name, taken as it stands: re-enrollment keeps it byte for byte (RFC 7030 4.2.2). */
export type RequestedSubject = { commonName: string } | { subject: Uint8Array }

export type CsrInput = RequestedSubject & {
  /** GeneralNames DER to ask for, as re-enrollment has to (RFC 7030 4.2.2) */
  subjectAltName?: Uint8Array | undefined
  /** of what EST calls a channel binding (RFC 7030 3.5): characters of a PrintableString */
  challengePassword?: string | undefined
}

/** A new key with its certificate request; the key as PKCS#8 PEM, not encrypted. */
export async function createKeyAndCsr(
  input: CsrInput & { keyType?: ClientKeyType },
): Promise<{ privateKeyPem: string; csrDer: Buffer }> {
  const privateKeyPem = generateKeyPem(input.keyType ?? 'P-256')
  return { privateKeyPem, csrDer: await createCsr({ ...input, privateKeyPem }) }
}

/** A certificate request for a key that there is already. */
export async function createCsr(input: CsrInput & { privateKeyPem: string }): Promise<Buffer> {
  const { algorithm, keys } = importKeys(input.privateKeyPem)
  const subject = subjectOf(input)
  const name = new Name(subject)
  if (!subject.equals(Buffer.from(name.toArrayBuffer()))) {
    throw new FleetError('request_malformed', 'The subject cannot be written again byte for byte')
  }
  const request = await Pkcs10CertificateRequestGenerator.create({
    name,
    keys,
    signingAlgorithm: algorithm,
    attributes: input.challengePassword === undefined ? [] : [new ChallengePasswordAttribute(input.challengePassword)],
    extensions: input.subjectAltName ? [new Extension(oids.subjectAltName, false, input.subjectAltName)] : [],
  })
  return Buffer.from(request.rawData)
}

/** A certificate that nobody vouches for: what a stranger would present. */
export async function createSelfSigned(input: {
  commonName: string
  notBefore: Date
  notAfter: Date
}): Promise<{ privateKeyPem: string; certificatePem: string }> {
  const privateKeyPem = generateKeyPem('P-256')
  const { algorithm, keys } = importKeys(privateKeyPem)
  const certificate = await X509CertificateGenerator.createSelfSigned({
    name: new Name(buildName({ commonName: input.commonName })),
    notBefore: input.notBefore,
    notAfter: input.notAfter,
    keys,
    signingAlgorithm: algorithm,
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new ExtendedKeyUsageExtension([ExtendedKeyUsage.clientAuth]),
    ],
  })
  return { privateKeyPem, certificatePem: toPem(new Uint8Array(certificate.rawData)) }
}

const subjectOf = (input: RequestedSubject): Buffer =>
  'subject' in input ? Buffer.from(input.subject) : buildName({ commonName: input.commonName })

/** PKCS#8, not encrypted. */
export function generateKeyPem(type: ClientKeyType): string {
  return generateKey(type).export({ format: 'pem', type: 'pkcs8' }).toString()
}

function generateKey(type: ClientKeyType): KeyObject {
  switch (type) {
    case 'P-256':
    case 'P-384':
      return generateKeyPairSync('ec', { namedCurve: type }).privateKey
    case 'Ed25519':
      return generateKeyPairSync('ed25519').privateKey
    case 'RSA-2048':
      return generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey
  }
}

function importKeys(privateKeyPem: string): { algorithm: webcrypto.EcdsaParams; keys: webcrypto.CryptoKeyPair } {
  const privateKey = createPrivateKey(privateKeyPem)
  const algorithm = algorithmOf(privateKey)
  return {
    algorithm,
    keys: {
      privateKey: privateKey.toCryptoKey(algorithm, false, ['sign']),
      publicKey: createPublicKey(privateKey).toCryptoKey(algorithm, true, ['verify']),
    },
  }
}

function algorithmOf(key: KeyObject): webcrypto.EcdsaParams & { namedCurve?: string } {
  const curve = key.asymmetricKeyDetails?.namedCurve
  if (key.asymmetricKeyType === 'ed25519') return { name: 'Ed25519', hash: 'SHA-512' }
  if (key.asymmetricKeyType === 'rsa') return { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' }
  if (curve === 'prime256v1') return { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' }
  if (curve === 'secp384r1') return { name: 'ECDSA', namedCurve: 'P-384', hash: 'SHA-384' }
  throw new FleetError(
    'csr_key_unsupported',
    `A ${curve ?? key.asymmetricKeyType} key; P-256, P-384, Ed25519 or RSA is wanted`,
  )
}
