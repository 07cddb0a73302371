import { oids } from './oids.ts'
import type { KeyType } from './public-key.ts'

/** `hash` is null where the scheme has its own (RFC 8032). */
export type SignatureScheme = { keys: readonly KeyType[]; hash: string | null; parameters: 'absent' | 'null' }
const ecdsa = (hash: string): SignatureScheme => ({ keys: ['P-256', 'P-384'], hash, parameters: 'absent' })
const rsa = (hash: string): SignatureScheme => ({ keys: ['RSA'], hash, parameters: 'null' })

/** Signatures that we accept, by OID. */
export const signatureSchemes: ReadonlyMap<string, SignatureScheme> = new Map([
  [oids.ecdsaWithSha256, ecdsa('sha256')],
  [oids.ecdsaWithSha384, ecdsa('sha384')],
  [oids.ecdsaWithSha512, ecdsa('sha512')],
  [oids.sha256WithRsa, rsa('sha256')],
  [oids.sha384WithRsa, rsa('sha384')],
  [oids.sha512WithRsa, rsa('sha512')],
  [oids.ed25519, { keys: ['Ed25519'], hash: null, parameters: 'absent' }],
])
