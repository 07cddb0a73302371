import type { Stored } from './engine.ts'
import type { Registry, Write } from './registry.ts'

/** A public key whose private half is in somebody else's hands, or may be. It is watched for ever. */
export type WatchedKeyRecord = {
  /** SHA-256 of the SubjectPublicKeyInfo, lower-case hex. */
  spkiHash: string
  /** Whose it was; of an operator's or a broker's key, the certificate that was revoked for it. */
  deviceId?: string
  serial?: string
  since: string
}

export const findWatchedKey = (registry: Registry, spkiHash: string): Promise<Stored<WatchedKeyRecord> | undefined> =>
  registry.find('watchedKey', spkiHash)

/**
 * What makes keys watched, for the batch that says why. One that is watched already, for this device or another, stays as it is.
 */
export async function watchKeys(
  registry: Registry,
  spkiHashes: readonly string[],
  whose: Omit<WatchedKeyRecord, 'spkiHash'>,
): Promise<Write[]> {
  const distinct = [...new Set(spkiHashes)]
  const known = new Set((await registry.findMany('watchedKey', distinct)).map(({ doc }) => doc.spkiHash))
  return distinct
    .filter((spkiHash) => !known.has(spkiHash))
    .map((spkiHash) => ({ kind: 'watchedKey', id: spkiHash, expect: 0, doc: { spkiHash, ...whose } }))
}
