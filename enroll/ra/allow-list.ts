import type { DeviceId, GroupName, ProfileName } from '../../contract/ids.ts'
import { FleetError } from '../../runtime/errors.ts'
import { findAllowance, writeAllowance } from '../registry/allowances.ts'
import type { Asked } from '../registry/asked.ts'
import type { AuditFact } from '../registry/audit-log.ts'
import { findDevice, getDevice, writeDevice } from '../registry/devices.ts'
import { type Registry, untilNoConflict, type Write } from '../registry/registry.ts'
import { deviceCreation } from './enrollment-tokens.ts'
import { listStolenAs, stolenSentence } from './stolen-hardware.ts'

export type Allowed = { serial: string; deviceId: DeviceId }

/**
 * Lets hardware enroll by what its factory called it, and registers the devices that are not there yet. All entries or none.
 *
 * @param input.otherHardware that serial numbers of stolen devices are those of another factory's hardware here
 * @returns how many are new; what was allowed before stays as it is
 * @throws FleetError `request_malformed` (an entry stands twice), `conflict` (another device has the serial number, or the
 *   device another profile), `device_revoked`, `device_held`, `hardware_stolen`
 */
export function allowDevices(
  registry: Registry,
  input: { label: string; profile: ProfileName; groups: GroupName[]; entries: Allowed[]; otherHardware: boolean },
  asked: Asked,
): Promise<{ added: number }> {
  const { label, profile, groups, entries, otherHardware } = input
  requireDistinct(entries)
  const request = { requestId: `${asked.requestId}-allow`, digest: asked.digest }
  return untilNoConflict(async () => {
    // Before anything is judged: the list may have changed since, and the answer was given then.
    const given = await registry.findReceipt(request)
    if (given !== undefined) return { added: given.count ?? 0 }
    const writes: Write[] = []
    const created: ReturnType<typeof deviceCreation>[] = []
    const setAside = new Set<string>()
    let added = 0
    for (const { serial, deviceId } of entries) {
      const before = await findAllowance(registry, label, serial)
      const known = before?.doc.removedAt === undefined ? before : undefined
      if (known !== undefined && known.doc.deviceId !== deviceId) {
        throw final(`serial number ${serial} is allowed under ${label} as ${known.doc.deviceId}, not as ${deviceId}`)
      }
      const otherThan = before?.doc.otherThan ?? []
      const stolen = (await listStolenAs(registry, serial, deviceId)).filter(({ id }) => !otherThan.includes(id))
      if (stolen[0] !== undefined && !otherHardware) {
        const sentence = `${stolenSentence(serial, stolen[0])}; if this is hardware of another factory, say so (--other-hardware)`
        throw new FleetError('hardware_stolen', sentence, { context: { deviceId: stolen[0].id } })
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
      if (known !== undefined && stolen.length === 0) continue
      if (known === undefined) added++
      for (const { id } of stolen) setAside.add(id)
      const aside = [...otherThan, ...stolen.map(({ id }) => id)]
      const createdAt = known?.doc.createdAt ?? asked.now.toISOString()
      const allowance = { label, serial, deviceId, createdAt, ...(aside.length === 0 ? {} : { otherThan: aside }) }
      writes.push(writeAllowance(allowance, before?.rev ?? 0))
      // Written as it is where it exists: a revocation that comes in between makes this commit a loser.
      if (device === undefined) created.push(deviceCreation({ id: deviceId, profile, groups }, asked))
      else writes.push(writeDevice(device.doc, device.rev))
    }
    const summary: AuditFact = {
      action: 'device.allowed',
      actor: asked.actor,
      subject: `label:${label}`,
      outcome: 'done',
      details: {
        ...{ added, devices: entries.map(({ deviceId }) => deviceId) },
        ...(setAside.size === 0 ? {} : { otherThan: [...setAside] }),
      },
      remoteAddress: asked.remoteAddress,
      requestId: asked.requestId,
    }
    const { count } = await registry.commit({
      ...request,
      writes: [...writes, ...created.map(({ write }) => write)],
      // What changes nothing is kept all the same: asked again under its key, it must not come to change something.
      audit: writes.length === 0 ? [] : [summary, ...created.map(({ audit }) => audit)],
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
