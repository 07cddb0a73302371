import assert from 'node:assert/strict'
import { createHash, generateKeyPairSync } from 'node:crypto'
import { test } from 'node:test'
import { bitString, DerError, element, integer, oid, sequence, tags } from '../../pki/der.ts'
import { oids } from '../../pki/oids.ts'
import { keyIdentifierOf, keyTypeOf, spkiHashOf } from '../../pki/public-key.ts'
import { isFleetError } from '../../runtime/errors.ts'
import { createSpki } from './hierarchy.ts'

const rsa = (modulus: Uint8Array, exponent: Uint8Array = Buffer.of(1, 0, 1)): Buffer =>
  sequence(
    sequence(oid(oids.rsaEncryption), element(tags.null)),
    bitString(sequence(integer(modulus), integer(exponent))),
  )
/** An odd number of this many bits; nobody factors it here. */
const oddNumber = (bits: number): Buffer => {
  const octets = Buffer.alloc(Math.ceil(bits / 8), 0xff)
  octets[0] = 0xff >> ((8 - (bits % 8)) % 8)
  return octets
}

test('key types that are certified', () => {
  assert.equal(keyTypeOf(createSpki()), 'P-256')
  const { publicKey } = generateKeyPairSync('ed25519')
  assert.equal(keyTypeOf(publicKey.export({ format: 'der', type: 'spki' })), 'Ed25519')
  for (const bits of [2048, 3072, 4096]) assert.equal(keyTypeOf(rsa(oddNumber(bits))), 'RSA')
})

test('RSA keys are held to 2048 to 4096 bits and exponent 65537, to the bit', () => {
  const refused = (spki: Buffer, code: 'csr_key_too_weak' | 'csr_key_unsupported') =>
    assert.throws(
      () => keyTypeOf(spki),
      (error) => isFleetError(error, code),
    )
  refused(rsa(oddNumber(2047)), 'csr_key_too_weak')
  refused(rsa(Buffer.of(0)), 'csr_key_too_weak')
  refused(rsa(oddNumber(4097)), 'csr_key_unsupported')
  for (const exponent of [[1], [3], [1, 0, 3], [1, 0, 0, 0, 0, 0, 1]]) {
    refused(rsa(oddNumber(2048), Buffer.from(exponent)), 'csr_key_unsupported')
  }
})

test('keys that are not built as their type asks are refused', () => {
  const ed25519 = (octets: number): Buffer => sequence(sequence(oid(oids.ed25519)), bitString(Buffer.alloc(octets)))
  const even = oddNumber(2048)
  even[255] = 0xfe
  const negative = sequence(element(tags.integer, Buffer.alloc(256, 0x80)), integer(Buffer.of(1, 0, 1)))
  const p256 = (point: Buffer): Buffer => sequence(sequence(oid(oids.ecPublicKey), oid(oids.p256)), bitString(point))
  const broken = [
    ed25519(31),
    sequence(sequence(oid(oids.ed25519), element(tags.null)), bitString(Buffer.alloc(32))),
    rsa(even),
    sequence(sequence(oid(oids.rsaEncryption), element(tags.null)), bitString(negative)),
    sequence(
      sequence(oid(oids.rsaEncryption)),
      bitString(sequence(integer(oddNumber(2048)), integer(Buffer.of(1, 0, 1)))),
    ),
    p256(Buffer.alloc(97, 4)),
    p256(Buffer.of()),
    sequence(),
  ]
  for (const spki of broken) assert.throws(() => keyTypeOf(spki), DerError, spki.toString('hex'))
})

test('a key is named by the SHA-256 of its SubjectPublicKeyInfo, and identified as RFC 7093 says', () => {
  const spki = createSpki()
  assert.equal(spkiHashOf(spki), createHash('sha256').update(spki).digest('hex'))
  const point = spki.subarray(-65)
  assert.deepEqual(keyIdentifierOf(spki), createHash('sha256').update(point).digest().subarray(0, 20))
})
