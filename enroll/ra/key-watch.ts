import { FleetError, isFleetError } from '../../runtime/errors.ts'
import type { EdgeRequestHead } from '../../runtime/https.ts'
import type { AuditFact } from '../registry/audit-log.ts'
import type { Registry } from '../registry/registry.ts'
import { findWatchedKey, type WatchedKeyRecord } from '../registry/watched-keys.ts'
import { factsOf } from './current-certificate.ts'

/** Somebody used a key that is watched: held it in a handshake, or wanted it certified. */
export type WatchedKeyUse = {
  spkiHash: string
  /** Whose key it was; who uses it now may say another name. */
  deviceId?: string
  /** Of an operator's or a broker's key, the certificate that was revoked for it. */
  serial?: string
  remoteAddress: string
  where: 'handshake' | 'request'
  path: string
  requestId: string
  at: Date
}

/** @throws FleetError `key_compromised`, for whatever device it is asked */
export async function requireUnwatched(registry: Registry, spkiHash: string): Promise<void> {
  const watched = await findWatchedKey(registry, spkiHash)
  if (watched === undefined) return
  throw new FleetError('key_compromised', 'the key of this request was reported as compromised; make a new one', {
    context: { watchedKey: watched.doc },
  })
}

/**
 * What a request has shown of watched keys: the one that was to be certified and was refused for it, else that of the
 * connection.
 */
export async function findWatchedUse(
  registry: Registry,
  error: FleetError | undefined,
  { request, now }: { request: EdgeRequestHead; now: Date },
): Promise<WatchedKeyUse | undefined> {
  const { remoteAddress, path, id: requestId, certificate } = request
  const use = ({ since: _, ...key }: WatchedKeyRecord, where: WatchedKeyUse['where']): WatchedKeyUse => ({
    ...{ ...key, remoteAddress, where, path: path.slice(0, 200), requestId, at: now },
  })
  const { watchedKey, shownKey } = (error?.context ?? {}) as Partial<Record<string, WatchedKeyRecord>>
  if (watchedKey !== undefined) return use(watchedKey, 'request')
  if (shownKey !== undefined) return use(shownKey, 'handshake')
  const spkiHash = certificate && keyOf(certificate)
  const watched = spkiHash === undefined ? undefined : await findWatchedKey(registry, spkiHash)
  return watched && use(watched.doc, 'handshake')
}

/** The same, of a connection that is no EST client's. */
export async function findWatchedHandshake(
  registry: Registry,
  spkiHash: string,
  { id: requestId, path, remoteAddress }: Pick<EdgeRequestHead, 'id' | 'path' | 'remoteAddress'>,
  at: Date,
): Promise<WatchedKeyUse | undefined> {
  const watched = await findWatchedKey(registry, spkiHash)
  if (watched === undefined) return undefined
  const { since: _, ...key } = watched.doc
  return { ...key, remoteAddress, where: 'handshake', path, requestId, at }
}

function keyOf(certificate: Buffer): string | undefined {
  try {
    return factsOf(certificate).spkiHash
  } catch (error) {
    if (isFleetError(error)) return undefined
    throw error
  }
}

export const watchedUseFact = ({
  spkiHash,
  where,
  path,
  remoteAddress,
  requestId,
  ...whose
}: WatchedKeyUse): AuditFact => ({
  action: 'key.used',
  actor: 'unknown',
  subject: holderOf(whose),
  outcome: 'refused',
  reason: 'key_compromised',
  details: { key: spkiHash, where, path },
  remoteAddress,
  requestId,
})

const holderOf = ({ deviceId, serial }: Pick<WatchedKeyUse, 'deviceId' | 'serial'>): string =>
  deviceId === undefined ? `certificate:${serial}` : `device:${deviceId}`
