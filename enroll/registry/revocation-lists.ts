import type { Stored } from './engine.ts'
import type { Registry, Write } from './registry.ts'

/** What of a CA's revocation lists has to outlive a crash; the lists themselves are made anew. */
export type RevocationListRecord = {
  /** The last number that was taken, before anything was signed with it: none is ever used twice. */
  number: number
  /** Certificates name lists from 0 on to one below this. */
  shards: number
  /** When lists were last published on schedule; who had expired by then has been on one more list since. */
  scheduledAt?: string
}

/** @param authority name of the CA */
export const findListRecord = (
  registry: Registry,
  authority: string,
): Promise<Stored<RevocationListRecord> | undefined> => registry.find('revocationList', authority)

/** @param expect the revision it was read at; 0: there must be none yet */
export const writeListRecord = (authority: string, doc: RevocationListRecord, expect: number): Write => ({
  kind: 'revocationList',
  id: authority,
  expect,
  doc,
})
