import { createHash, timingSafeEqual } from 'node:crypto'
import type { Role } from '../../contract/operator-api.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { Stored } from './engine.ts'
import type { Page, Paging, Registry, Write } from './registry.ts'

/** What lets a program use the admin API without a certificate, known by its digest alone. */
export type ApiTokenRecord = {
  name: string
  /** SHA-256 of the token, lower-case hex. A 256-bit random token needs no slow hash. */
  digest: string
  role: Role
  createdAt: string
  createdBy: string
  expiresAt: string
  /** To within minutes. */
  lastUsedAt?: string
  lastUsedFrom?: string
}

/** @param random gives that many octets from a cryptographic source */
export function mintApiToken(name: string, random: (size: number) => Uint8Array): { token: string; digest: string } {
  const token = `fgat_${name}_${Buffer.from(random(32)).toString('base64url')}`
  return { token, digest: digestOf(token).toString('hex') }
}

/** The record of the very token that is shown; the comparison takes as long for a wrong one, and for a name that there is not. */
export async function findApiToken(registry: Registry, token: string): Promise<Stored<ApiTokenRecord> | undefined> {
  const [, name = ''] = /^fgat_([A-Za-z0-9.-]{1,64})_[A-Za-z0-9_-]{43}$/.exec(token) ?? []
  const known = await registry.find('apiToken', name)
  const expected = known === undefined ? Buffer.alloc(32) : Buffer.from(known.doc.digest, 'hex')
  return timingSafeEqual(expected, digestOf(token)) ? known : undefined
}

/** @throws FleetError `api_token_unknown` */
export async function getApiToken(registry: Registry, name: string): Promise<Stored<ApiTokenRecord>> {
  const known = await registry.find('apiToken', name)
  if (known !== undefined) return known
  throw new FleetError('api_token_unknown', `there is no API token ${name.slice(0, 64)}`, {
    context: { unknown: name },
  })
}

/** In order of name, expired ones too. */
export const listApiTokens = (registry: Registry, paging: Paging): Promise<Page<ApiTokenRecord>> =>
  registry.list('apiToken', { kind: 'apiToken' }, paging)

/** @param expect the revision it was read at; 0: it must not exist */
export const writeApiToken = (doc: ApiTokenRecord, expect: number): Write => ({
  kind: 'apiToken',
  id: doc.name,
  expect,
  doc,
})

export const deleteApiToken = ({ doc, rev }: Stored<ApiTokenRecord>): Write => ({
  kind: 'apiToken',
  id: doc.name,
  expect: rev,
  doc: undefined,
})

const digestOf = (token: string): Buffer => createHash('sha256').update(token).digest()
