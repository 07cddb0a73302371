import { isDeviceId } from '../../contract/ids.ts'
import { FleetError } from '../../runtime/errors.ts'
import { listBySerial } from '../registry/allowances.ts'
import { type DeviceRecord, listByFactoryKey } from '../registry/devices.ts'
import { type Registry, readAll } from '../registry/registry.ts'

export type StolenDevice = DeviceRecord & { stolenAt: string }

/**
 * Devices that count as stolen and came in by this serial number, or may have: under whatever label, on a list or under
 * the serial number itself.
 *
 * @param except the device that is asked about
 */
export async function listStolenAs(registry: Registry, serial: string, except: string): Promise<StolenDevice[]> {
  const listed = await readAll((paging) => listBySerial(registry, serial, paging))
  const owners = new Set(listed.flatMap(({ doc }) => [doc.deviceId, ...(doc.otherThan ?? [])]))
  if (isDeviceId(serial)) owners.add(serial)
  owners.delete(except)
  const devices = await registry.findMany('device', [...owners])
  return devices.flatMap(({ doc }) => (isStolen(doc) ? [doc] : []))
}

type Hardware = { serial: string; spkiHash: string; deviceId: string; otherThan: readonly string[] }

/**
 * What a factory wrote into a piece of hardware stays when the hardware is stolen and gets another name. An operator may say of a serial
 * number that it is another factory's; of a key, nobody.
 *
 * @throws FleetError `hardware_stolen`
 */
export async function requireNotStolen(
  registry: Registry,
  { serial, spkiHash, deviceId, otherThan }: Hardware,
): Promise<void> {
  const byKey = await readAll((paging) => listByFactoryKey(registry, spkiHash, paging))
  const stolen =
    byKey.map(({ doc }) => doc).find((device) => device.id !== deviceId && isStolen(device)) ??
    (await listStolenAs(registry, serial, deviceId)).find(({ id }) => !otherThan.includes(id))
  if (stolen === undefined) return
  const since = stolen.stolenAt!
  throw new FleetError('hardware_stolen', stolenSentence(serial, stolen), {
    context: { deviceId: stolen.id, shownKey: { spkiHash, deviceId: stolen.id, since } },
  })
}

export const stolenSentence = (serial: string, { id, stolenAt }: DeviceRecord): string =>
  `serial number ${JSON.stringify(serial.slice(0, 128))} is that of ${id}, which was stolen at ${stolenAt}`

const isStolen = (device: DeviceRecord): device is StolenDevice => device.stolenAt !== undefined
