import { generateKeyPair } from 'node:crypto'
import type { KeyType } from './public-key.ts'

const encoding = {
  publicKeyEncoding: { type: 'spki', format: 'der' },
  privateKeyEncoding: { type: 'pkcs8', format: 'der' },
} as const

/** @returns `pkcs8` belongs to the caller, who overwrites it after use */
export function generateKey(type: KeyType): Promise<{ pkcs8: Buffer; publicKeySpki: Buffer }> {
  return new Promise((resolve, reject) => {
    const made = (error: Error | null, publicKeySpki: Buffer, pkcs8: Buffer): void =>
      error === null ? resolve({ pkcs8, publicKeySpki }) : reject(error)
    switch (type) {
      case 'RSA':
        return generateKeyPair('rsa', { modulusLength: 2048, ...encoding }, made)
      case 'Ed25519':
        return generateKeyPair('ed25519', encoding, made)
      case 'P-256':
      case 'P-384':
        return generateKeyPair('ec', { namedCurve: type, ...encoding }, made)
    }
  })
}
