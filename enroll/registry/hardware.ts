import { isDeviceId } from '../../contract/ids.ts'
import { listAllOf, listBySerial } from './allowances.ts'
import { type DeviceRecord, listByFactoryKey } from './devices.ts'
import type { Stored } from './engine.ts'
import { type Registry, readAll } from './registry.ts'

type Sharers = {
  /** Of the same key, which is of one piece of hardware. */
  byKey: Stored<DeviceRecord>[]
  /** Of the same serial number alone: two factories may give one. */
  bySerial: Stored<DeviceRecord>[]
}

/** Other devices, not revoked, that came in as the same piece of hardware, or may have or may come. */
export async function listSharers(registry: Registry, device: DeviceRecord): Promise<Sharers> {
  const allowances = (await readAll((paging) => listAllOf(registry, device.id, paging))).map(({ doc }) => doc)
  const otherThan = allowances.flatMap((allowance) => allowance.otherThan ?? [])
  const serials = [...allowances.map(({ serial }) => serial), device.id]
  return listSharing(registry, { id: device.id, keys: device.factoryKeys ?? [], serials, otherThan })
}

/** @param input.otherThan devices of which an operator said that theirs is other hardware with the same serial number */
export async function listSharing(
  registry: Registry,
  { id, keys, serials, otherThan }: { id: string; keys: string[]; serials: string[]; otherThan: readonly string[] },
): Promise<Sharers> {
  const isMeant = ({ doc }: Stored<DeviceRecord>): boolean => doc.id !== id && doc.status !== 'revoked'
  const byKey = new Map<string, Stored<DeviceRecord>>()
  for (const key of new Set(keys)) {
    const found = await readAll((paging) => listByFactoryKey(registry, key, paging))
    for (const device of found.filter(isMeant)) byKey.set(device.doc.id, device)
  }
  const owners = new Set<string>()
  for (const serial of new Set(serials)) {
    const listed = await readAll((paging) => listBySerial(registry, serial, paging))
    for (const { doc } of listed) if (!doc.otherThan?.includes(id)) owners.add(doc.deviceId)
    if (isDeviceId(serial)) owners.add(serial)
  }
  const isOther = ({ doc }: Stored<DeviceRecord>): boolean => !byKey.has(doc.id) && !otherThan.includes(doc.id)
  const bySerial = (await registry.findMany('device', [...owners])).filter((one) => isMeant(one) && isOther(one))
  return { byKey: [...byKey.values()], bySerial }
}
