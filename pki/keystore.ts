import { createPrivateKey, createPublicKey, createSign, generateKeyPairSync, type KeyObject, sign } from 'node:crypto'
import { existsSync } from 'node:fs'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { promisify } from 'node:util'
import { FleetError } from '../runtime/errors.ts'
import { readPrivateFile, writeFileAtomic } from '../runtime/files.ts'
import { hasCoresToSpare } from '../runtime/threads.ts'

/** Signs with a key that it does not reveal. */
export interface Signer {
  readonly algorithm: 'ecdsa-p256-sha256'
  readonly publicKeySpki: Buffer
  /**
   * @returns the DER ECDSA-Sig-Value (RFC 3279 2.2.3)
   * @throws FleetError `key_unavailable`
   */
  sign(tbs: Uint8Array): Promise<Buffer>
  /** The same over `parts` one after another, of any length: the event loop runs between slices of them. */
  signParts(parts: readonly Uint8Array[]): Promise<Buffer>
}

/** What SHA-256 takes in about a millisecond. */
const sliceBytes = 1_048_576

/**
 * Makes a P-256 key and writes it as PKCS#8 PEM, mode 0600, encrypted when a passphrase is given.
 *
 * @throws FleetError `conflict` when there is a file already: a key is never overwritten
 */
export function createKeyFile(path: string, passphrase?: string): Signer {
  if (passphrase === '') throw new FleetError('key_passphrase', `The passphrase for ${path} is empty`)
  if (existsSync(path)) throw new FleetError('conflict', `${path} exists; a private key is never overwritten`)
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  writeFileAtomic(path, sealedKey(privateKey, passphrase), 0o600)
  return signerOf(privateKey)
}

/** PKCS#8 PEM, encrypted when a passphrase is given. */
export const sealedKey = (key: KeyObject, passphrase?: string): string =>
  key
    .export({
      format: 'pem',
      type: 'pkcs8',
      ...(passphrase === undefined ? {} : { cipher: 'aes-256-cbc', passphrase }),
    })
    .toString()

/**
 * @throws FleetError `key_passphrase` when the passphrase is wrong, missing, or given for a key that is not encrypted;
 *   `key_permissions`; `data_damaged` when the file is missing or no P-256 key
 */
export function openKeyFile(path: string, passphrase?: string): Signer {
  const pem = readPrivateFile(path)
  const encrypted = pem.includes('-----BEGIN ENCRYPTED PRIVATE KEY-----')
  if (encrypted && passphrase === undefined) {
    throw new FleetError('key_passphrase', `${path} is encrypted and no passphrase is configured`)
  }
  // Whoever configured a passphrase believes that the key is protected; going on would leave them wrong.
  if (!encrypted && passphrase !== undefined) {
    throw new FleetError('key_passphrase', `${path} is not encrypted although a passphrase is configured`)
  }
  const key = readKey(path, pem, encrypted ? passphrase : undefined)
  if (key.asymmetricKeyType !== 'ec' || key.asymmetricKeyDetails?.namedCurve !== 'prime256v1') {
    throw new FleetError('data_damaged', `${path} holds a key that is not P-256`)
  }
  return signerOf(key)
}

function readKey(path: string, pem: string, passphrase: string | undefined): KeyObject {
  try {
    return createPrivateKey({ key: pem, format: 'pem', ...(passphrase === undefined ? {} : { passphrase }) })
  } catch (cause) {
    if (passphrase === undefined)
      throw new FleetError('data_damaged', `${path} holds no readable private key`, { cause })
    throw new FleetError('key_passphrase', `${path} cannot be opened with the configured passphrase`, { cause })
  }
}

const signOnThread = promisify(sign)

/** @param key a private key on P-256 */
export function signerOf(key: KeyObject, { onThread = hasCoresToSpare } = {}): Signer {
  const failed = (cause: unknown): FleetError => new FleetError('key_unavailable', 'The signing key failed', { cause })
  return {
    algorithm: 'ecdsa-p256-sha256',
    publicKeySpki: createPublicKey(key).export({ format: 'der', type: 'spki' }),
    async sign(tbs) {
      try {
        return onThread ? await signOnThread('sha256', tbs, key) : sign('sha256', tbs, key)
      } catch (cause) {
        throw failed(cause)
      }
    },
    async signParts(parts) {
      const signature = createSign('sha256')
      for (const part of parts) {
        for (let at = 0; at < part.length; at += sliceBytes) {
          signature.update(part.subarray(at, at + sliceBytes))
          if (part.length > sliceBytes) await nextTurn()
        }
      }
      try {
        return signature.sign(key)
      } catch (cause) {
        throw failed(cause)
      }
    },
  }
}
