import { setImmediate } from 'node:timers/promises'
import { type RevocationKept, reportBounds } from '../../contract/broker-reports.ts'
import type { DeviceState } from './device-table.ts'
import type { SnapshotState } from './snapshot-state.ts'

/** What is known here of a device and not any more where the feed comes from. */
export type Kept = Pick<RevocationKept, 'deviceId' | 'status' | 'certificates'>

/**
 * Another feed is that of an enroll that was restored from a backup, and has forgotten who was revoked since. What was stricter
 * before is carried over into what is to come into force: a certificate that was revoked stays so, a device that was revoked or
 * held too, unless an event of the new feed says something of it that is younger than all that was known.
 *
 * @param younger devices of which it does
 */
export async function keepStricter(
  before: SnapshotState,
  draft: SnapshotState,
  younger: ReadonlySet<string>,
): Promise<Kept[]> {
  const kept = new Map<string, Kept>()
  const keptOf = (deviceId: string): Kept => {
    const status = draft.devices.find(deviceId)?.status ?? 'active'
    const known = kept.get(deviceId) ?? { deviceId, status, certificates: [] }
    kept.set(deviceId, known)
    return known
  }
  const stricter = before.devices.idsWith(({ status }) => status !== 'active')
  for (const id of stricter) {
    const was = before.devices.find(id)!
    if (younger.has(id) || !isStricter(was, draft.devices.find(id))) continue
    draft.devices.set(id, was)
    keptOf(id).status = was.status
  }
  for (const rows of before.certificates.revoked()) {
    for (const { fingerprint, owner, notAfter, reason } of rows) {
      if (draft.certificates.find(fingerprint)?.reason !== undefined) continue
      const deviceId = before.devices.idOf(owner)
      draft.certificates.set(fingerprint, { owner: draft.devices.numberOf(deviceId), notAfter, reason })
      const { certificates } = keptOf(deviceId)
      if (certificates.length < reportBounds.certificates) certificates.push({ fingerprint, reason })
    }
    await setImmediate()
  }
  return [...kept.values()]
}

const severity = { active: 0, held: 1, revoked: 2 }

const isStricter = (was: DeviceState, is: DeviceState | undefined): boolean =>
  severity[was.status] > severity[is?.status ?? 'active'] || (was.stolen === true && is?.stolen !== true)
