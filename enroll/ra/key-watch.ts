import { parseCertificate } from '../../pki/certificate.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import type { EdgeRequestHead } from '../../runtime/https.ts'
import type { AuditFact } from '../registry/audit-log.ts'
import type { Registry } from '../registry/registry.ts'
import { findWatchedKey, type WatchedKeyRecord } from '../registry/watched-keys.ts'

/** Somebody used a key that is watched: held it in a handshake, or wanted it certified. */
export type WatchedKeyUse = {
  spkiHash: string
  /** Whose key it was; who uses it now may say another name. */
  deviceId: string
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
  const use = ({ spkiHash, deviceId }: WatchedKeyRecord, where: WatchedKeyUse['where']): WatchedKeyUse => ({
    ...{ spkiHash, deviceId, remoteAddress, where, path: path.slice(0, 200), requestId, at: now },
  })
  const { watchedKey } = (error?.context ?? {}) as { watchedKey?: WatchedKeyRecord }
  if (watchedKey !== undefined) return use(watchedKey, 'request')
  const spkiHash = certificate && keyOf(certificate)
  const watched = spkiHash === undefined ? undefined : await findWatchedKey(registry, spkiHash)
  return watched && use(watched.doc, 'handshake')
}

function keyOf(certificate: Buffer): string | undefined {
  try {
    return parseCertificate(certificate).spkiHash
  } catch (error) {
    if (isFleetError(error)) return undefined
    throw error
  }
}

export const watchedUseFact = ({
  spkiHash,
  deviceId,
  where,
  path,
  remoteAddress,
  requestId,
}: WatchedKeyUse): AuditFact => ({
  action: 'key.used',
  actor: 'unknown',
  subject: `device:${deviceId}`,
  outcome: 'refused',
  reason: 'key_compromised',
  details: { key: spkiHash, where, path },
  remoteAddress,
  requestId,
})
