import { type DeviceId, type GroupName, isDeviceId, type ProfileName } from '../../contract/ids.ts'
import { FleetError } from '../../runtime/errors.ts'
import { findAllowance, writeAllowance } from '../registry/allowances.ts'
import type { Asked } from '../registry/asked.ts'
import type { AuditFact } from '../registry/audit-log.ts'
import { findDevice, getDevice, writeDevice } from '../registry/devices.ts'
import { type Registry, untilNoConflict, type Write } from '../registry/registry.ts'
import { deviceCreation } from './enrollment-tokens.ts'

export type Allowed = { serial: string; deviceId: DeviceId }

/**
 * Lets hardware enroll by what its factory called it, and registers the devices that are not there yet. All entries or none.
 *
 * @returns how many are new; what was allowed before stays as it is
 * @throws FleetError `request_malformed` (an entry stands twice), `conflict` (another device has the serial number, or the
 *   device another profile), `device_revoked`, `device_held`
 */
export function allowDevices(
  registry: Registry,
  input: { label: string; profile: ProfileName; groups: GroupName[]; entries: Allowed[] },
  asked: Asked,
): Promise<{ added: number }> {
  const { label, profile, groups, entries } = input
  requireDistinct(entries)
  const request = { requestId: `${asked.requestId}-allow`, digest: asked.digest }
  return untilNoConflict(async () => {
    // Before anything is judged: the list may have changed since, and the answer was given then.
    const given = await registry.findReceipt(request)
    if (given !== undefined) return { added: given.count ?? 0 }
    const writes: Write[] = []
    const created: ReturnType<typeof deviceCreation>[] = []
    let added = 0
    for (const { serial, deviceId } of entries) {
      const before = await findAllowance(registry, label, serial)
      const known = before?.doc.removedAt === undefined ? before : undefined
      if (known !== undefined && known.doc.deviceId !== deviceId) {
        throw final(`serial number ${serial} is allowed under ${label} as ${known.doc.deviceId}, not as ${deviceId}`)
      }
      // Under its own serial number a device comes in without being on a list.
      const owner = before?.doc.deviceId ?? (isDeviceId(serial) ? serial : deviceId)
      const former = owner === deviceId ? undefined : await findDevice(registry, owner)
      if (former?.doc.stolenAt !== undefined) {
        throw final(`serial number ${serial} is that of ${former.doc.id}, which was stolen at ${former.doc.stolenAt}`)
      }
      const device = await findDevice(registry, deviceId)
      if (device?.doc.status === 'revoked') {
        const sentence = `${deviceId} was revoked at ${device.doc.revokedAt}; readmit it first`
        throw new FleetError('device_revoked', sentence)
      }
      if (device?.doc.status === 'held') {
        throw new FleetError('device_held', `${deviceId} is on hold since ${device.doc.heldAt}; enable it first`)
      }
      if (device !== undefined && device.doc.profile !== profile) {
        throw final(`${deviceId} has the profile ${device.doc.profile}; the label ${label} is for ${profile}`)
      }
      if (known !== undefined) continue
      added++
      writes.push(writeAllowance({ label, serial, deviceId, createdAt: asked.now.toISOString() }, before?.rev ?? 0))
      // Written as it is where it exists: a revocation that comes in between makes this commit a loser.
      if (device === undefined) created.push(deviceCreation({ id: deviceId, profile, groups }, asked))
      else writes.push(writeDevice(device.doc, device.rev))
    }
    const summary: AuditFact = {
      action: 'device.allowed',
      actor: asked.actor,
      subject: `label:${label}`,
      outcome: 'done',
      details: { added, devices: entries.map(({ deviceId }) => deviceId) },
      remoteAddress: asked.remoteAddress,
      requestId: asked.requestId,
    }
    const { count } = await registry.commit({
      ...request,
      writes: [...writes, ...created.map(({ write }) => write)],
      // What changes nothing is kept all the same: asked again under its key, it must not come to change something.
      audit: added === 0 ? [] : [summary, ...created.map(({ audit }) => audit)],
      feed: created.map(({ feed }) => feed),
      count: added,
      at: asked.now,
    })
    return { added: count! }
  })
}

/**
 * Takes serial numbers off the list: their hardware gets no first certificate any more. What it has already stays good until
 * the device is revoked.
 *
 * @returns how many were on it
 */
export function disallowDevices(
  registry: Registry,
  { label, serials }: { label: string; serials: string[] },
  asked: Asked,
): Promise<{ removed: number }> {
  const request = { requestId: `${asked.requestId}-disallow`, digest: asked.digest }
  return untilNoConflict(async () => {
    const given = await registry.findReceipt(request)
    if (given !== undefined) return { removed: given.count ?? 0 }
    const found = await Promise.all([...new Set(serials)].map((serial) => findAllowance(registry, label, serial)))
    const held = found.filter((allowance) => allowance !== undefined).filter(({ doc }) => doc.removedAt === undefined)
    const ids = [...new Set(held.map(({ doc }) => doc.deviceId))]
    const devices = await Promise.all(ids.map((id) => getDevice(registry, id)))
    const disallowed: AuditFact = {
      action: 'device.disallowed',
      actor: asked.actor,
      subject: `label:${label}`,
      outcome: 'done',
      details: { removed: held.length, devices: ids },
      remoteAddress: asked.remoteAddress,
      requestId: asked.requestId,
    }
    const { count } = await registry.commit({
      ...request,
      writes: [
        ...held.map(({ doc, rev }) => writeAllowance({ ...doc, removedAt: asked.now.toISOString() }, rev)),
        // Written as they are: a certificate that is being issued at this moment loses, and its request is judged again.
        ...devices.map(({ doc, rev }) => writeDevice(doc, rev)),
      ],
      audit: held.length === 0 ? [] : [disallowed],
      count: held.length,
      at: asked.now,
    })
    return { removed: count! }
  })
}

function requireDistinct(entries: Allowed[]): void {
  for (const key of ['serial', 'deviceId'] as const) {
    const seen = new Set<string>()
    for (const entry of entries) {
      if (seen.has(entry[key])) throw new FleetError('request_malformed', `${entry[key]} stands twice`)
      seen.add(entry[key])
    }
  }
}

const final = (sentence: string): FleetError => new FleetError('conflict', sentence, { context: { final: true } })
