import { createHash } from 'node:crypto'
import type { Stored } from './engine.ts'
import type { Page, Paging, Registry, Write } from './registry.ts'
import type { Redemption } from './vouchers.ts'

/** An enrollment token as the registry knows it: by its digest alone. */
export type TokenRecord = Redemption & {
  digest: string
  deviceId: string
  profile: string
  createdAt: string
  expiresAt: string
}

/** @param random gives that many octets from a cryptographic source */
export function mintToken(random: (size: number) => Uint8Array): { token: string; digest: string } {
  const token = Buffer.from(random(32)).toString('base64url')
  return { token, digest: digestOf(token) }
}

/** The token's key in the registry. A 256-bit random token needs no slow hash, and a look-up by digest compares no secret. */
export const digestOf = (token: string): string => createHash('sha256').update(token).digest('hex')

export const findToken = (registry: Registry, digest: string): Promise<Stored<TokenRecord> | undefined> =>
  registry.find('token', digest)

type TokenFilter = {
  deviceId?: string | undefined
  status?: TokenRecord['status'] | undefined
  profile?: string | undefined
}

/** In order of digest, spent and expired ones too. */
export const listTokens = (
  registry: Registry,
  { deviceId, status, profile, ...paging }: TokenFilter & Paging,
): Promise<Page<TokenRecord>> =>
  registry.list(
    'token',
    deviceId === undefined ? { kind: 'token' } : { index: 'token.device', value: deviceId },
    paging,
    (token) =>
      (status === undefined || token.status === status) && (profile === undefined || token.profile === profile),
  )

/** @param expect the revision it was read at; 0: it must not exist */
export const writeToken = (doc: TokenRecord, expect: number): Write => ({ kind: 'token', id: doc.digest, expect, doc })
