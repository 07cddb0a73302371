import { createPublicKey, hash, type KeyObject } from 'node:crypto'
import { FleetError } from '../runtime/errors.ts'
import { DerError, type DerReader, readDer, tags } from './der.ts'
import { oids } from './oids.ts'

export type KeyType = 'P-256' | 'P-384' | 'Ed25519' | 'RSA'

const wanted = 'P-256, P-384, Ed25519 or RSA of 2048 to 4096 bits is wanted'
const maxSpkiBytes = 8_192

/** Names for keys that are refused, so that a refusal can say what it saw. */
const otherKeys = new Map([
  ['1.2.840.10040.4.1', 'DSA'],
  ['1.2.840.113549.1.1.10', 'RSASSA-PSS'],
  ['1.3.101.110', 'X25519'],
  ['1.3.101.111', 'X448'],
  ['1.3.101.113', 'Ed448'],
])
const otherCurves = new Map([
  ['1.3.132.0.35', 'P-521'],
  ['1.3.132.0.10', 'secp256k1'],
  ['1.3.132.0.33', 'P-224'],
  ['1.2.840.10045.3.1.1', 'P-192'],
  ['1.3.36.3.3.2.8.1.1.7', 'brainpoolP256r1'],
])

/**
 * The type of a SubjectPublicKeyInfo that we certify. Whether an EC point is on its curve shows only when the key is used.
 *
 * @throws FleetError `csr_key_unsupported`, `csr_key_too_weak`; DerError when it is not a SubjectPublicKeyInfo
 */
export function keyTypeOf(spki: Uint8Array): KeyType {
  const reader = readDer(spki, maxSpkiBytes).enter()
  const algorithm = reader.enter()
  const type = algorithm.oid()
  const key = reader.bitString()
  reader.end()
  switch (type) {
    case oids.ecPublicKey:
      return checkCurve(algorithm, key)
    case oids.ed25519:
      // RFC 8410 3: no parameters; the key is 32 octets.
      algorithm.end()
      if (key.length !== 32) throw new DerError(`an Ed25519 key of ${key.length} octets`)
      checkEdwardsPoint(key)
      return 'Ed25519'
    case oids.rsaEncryption:
      // RFC 3279 2.3.1: parameters are NULL.
      algorithm.next(tags.null)
      algorithm.end()
      checkRsa(key)
      return 'RSA'
    default:
      throw unsupported(`The key is of type ${otherKeys.get(type) ?? type}`)
  }
}

function checkCurve(algorithm: DerReader, point: Buffer): KeyType {
  // RFC 5480 2.1.1: a named curve. Explicit parameters let a forger choose the generator (CVE-2020-0601).
  if (algorithm.nextTag !== tags.oid) throw unsupported('The key has explicit EC parameters or none')
  const curve = algorithm.oid()
  algorithm.end()
  if (curve !== oids.p256 && curve !== oids.p384)
    throw unsupported(`The key is on curve ${otherCurves.get(curve) ?? curve}`)
  if (point[0] === 0x02 || point[0] === 0x03) throw unsupported('The key is a compressed EC point')
  const octets = curve === oids.p256 ? 65 : 97
  if (point[0] !== 0x04 || point.length !== octets) throw new DerError('an EC point of the wrong form or length')
  return curve === oids.p256 ? 'P-256' : 'P-384'
}

/** y of the points of order 1, 2, 4 and 8, little endian, without the sign of x. */
const smallOrder = new Set([
  `01${'00'.repeat(31)}`,
  `ec${'ff'.repeat(30)}7f`,
  '00'.repeat(32),
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05',
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
])

function checkEdwardsPoint(key: Buffer): void {
  const y = Buffer.from(key)
  y[31]! &= 0x7f
  // RFC 8032 5.1.3: y is below p = 2^255 - 19.
  if (y[0]! >= 0xed && y[31] === 0x7f && y.subarray(1, 31).every((octet) => octet === 0xff)) {
    throw new DerError('an Ed25519 key that is not on its curve')
  }
  // RFC 8032 5.1.7 verifies with them as with any other: for the neutral element one known signature fits every message, and
  // for the rest every few messages. Such a key proves nothing, and anybody could be the device that has it.
  if (smallOrder.has(y.toString('hex'))) {
    throw new FleetError('csr_key_too_weak', 'The Ed25519 key is a point of small order, for which anybody can sign')
  }
}

function checkRsa(key: Buffer): void {
  const reader = readDer(key, maxSpkiBytes).enter()
  const modulus = reader.integer()
  const exponent = reader.integer()
  reader.end()
  if (modulus[0]! > 0x7f || exponent[0]! > 0x7f) throw new DerError('a negative RSA modulus or exponent')
  const bits = bitLength(modulus)
  if (bits < 2048) throw new FleetError('csr_key_too_weak', `The RSA key has ${bits} bits; 2048 to 4096 are wanted`)
  if (bits > 4096) throw unsupported(`The RSA key has ${bits} bits`)
  if (exponent.toString('hex') !== '010001') {
    const shown = exponent.length <= 4 ? `exponent ${exponent.readUIntBE(0, exponent.length)}` : 'a long exponent'
    throw new FleetError('csr_key_unsupported', `The RSA key has ${shown}; 65537 is wanted`)
  }
  if (modulus.at(-1)! % 2 === 0) throw new DerError('an even RSA modulus')
}

function bitLength(positive: Buffer): number {
  const octets = positive[0] === 0 ? positive.subarray(1) : positive
  return octets.length === 0 ? 0 : octets.length * 8 - (Math.clz32(octets[0]!) - 24)
}

const unsupported = (seen: string): FleetError => new FleetError('csr_key_unsupported', `${seen}; ${wanted}`)

/** SHA-256 of the SubjectPublicKeyInfo, lower-case hex: the name of a key. */
export const spkiHashOf = (spki: Uint8Array): string => hash('sha256', spki)

/** Key identifier after RFC 7093 2 (1): the leftmost 160 bits of the SHA-256 of the public key's bits. */
export function keyIdentifierOf(spki: Uint8Array): Buffer {
  const reader = readDer(spki, maxSpkiBytes).enter()
  reader.next(tags.sequence)
  return hash('sha256', reader.bitString(), 'buffer').subarray(0, 20)
}

/** @throws FleetError `csr_malformed` when it is no key, for example a point that is not on its curve */
export function importPublicKey(spki: Buffer): KeyObject {
  // Node asks four times whether what it was given is a key object by having it throw, and the stacks of those errors, which
  // nobody sees, take longer than reading the key.
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0
  try {
    return createPublicKey({ key: spki, format: 'der', type: 'spki' })
  } catch (cause) {
    throw new FleetError('csr_malformed', 'The public key in the certificate request is not a valid key', { cause })
  } finally {
    Error.stackTraceLimit = stackTraceLimit
  }
}
