import type { DeviceAttributes } from '../../contract/device-attributes.ts'
import { type DeviceStatus, type FeedFact, type Purge, purgeKinds } from '../../contract/feed.ts'
import type { RevocationReason } from '../../contract/ids.ts'
import { FleetError } from '../../runtime/errors.ts'
import { isWithin } from './certificates.ts'
import type { Range, Stored } from './engine.ts'
import type { Page, Paging, Registry, Write } from './registry.ts'

export type DeviceRecord = {
  id: string
  profile: string
  groups: string[]
  attributes?: DeviceAttributes
  status: DeviceStatus
  createdAt: string
  heldAt?: string
  revokedAt?: string
  revocationReason?: RevocationReason
  currentSerial?: string
  /** How many certificates it was issued since they are counted. */
  issued?: number
  /**
   * Serials of certificates that it had never shown when the last one was issued, and of that one. Some may have been used
   * or revoked since; none is missing. Absent before a first one.
   */
  unused?: string[]
  /** Of what it published. */
  purge?: Purge
  /** From when a thief may have it; such a one is revoked. */
  stolenAt?: string
  /** SHA-256 of the SubjectPublicKeyInfo of factory certificates that it enrolled with, the last few. */
  factoryKeys?: string[]
}
const maxFactoryKeys = 8

export const findDevice = (registry: Registry, id: string): Promise<Stored<DeviceRecord> | undefined> =>
  registry.find('device', id)

/** @throws FleetError `device_unknown` */
export async function getDevice(registry: Registry, id: string): Promise<Stored<DeviceRecord>> {
  const device = await findDevice(registry, id)
  if (device === undefined)
    throw new FleetError('device_unknown', `there is no device ${id}`, { context: { deviceId: id, unknown: id } })
  return device
}

export const listByFactoryKey = (registry: Registry, spkiHash: string, paging: Paging): Promise<Page<DeviceRecord>> =>
  registry.list('device', { index: 'device.factoryKey', value: spkiHash }, paging)

export const withFactoryKey = (device: DeviceRecord, spkiHash: string): DeviceRecord => ({
  ...device,
  factoryKeys: [...(device.factoryKeys ?? []).filter((key) => key !== spkiHash), spkiHash].slice(-maxFactoryKeys),
})

/** @throws FleetError `device_revoked`, `device_held` */
export function requireActive({ id, status, revocationReason, revokedAt, heldAt }: DeviceRecord): void {
  const context = { deviceId: id }
  if (status === 'revoked') {
    throw new FleetError('device_revoked', `${id} was revoked for ${revocationReason} at ${revokedAt}`, { context })
  }
  if (status === 'held') throw new FleetError('device_held', `${id} is on hold since ${heldAt}`, { context })
}

type DeviceFilter = {
  group?: string | undefined
  profile?: string | undefined
  status?: DeviceStatus | undefined
  /** `NAME=VALUE`, or several that it has all of. */
  attribute?: string | string[] | undefined
  /** Of its current certificate. */
  serial?: string | undefined
  stolen?: boolean | undefined
  reason?: RevocationReason | undefined
  createdFrom?: string | undefined
  /** Not that instant itself. */
  createdTo?: string | undefined
  revokedFrom?: string | undefined
  revokedTo?: string | undefined
}

/** Devices for which everything given holds, in id order. */
export function listDevices(registry: Registry, filter: DeviceFilter & Paging): Promise<Page<DeviceRecord>> {
  const { group, profile, status, attribute = [], serial, stolen, reason, ...rest } = filter
  const { createdFrom, createdTo, revokedFrom, revokedTo, ...paging } = rest
  const isCreatedThen = isWithin(createdFrom, createdTo)
  const isRevokedThen = isWithin(revokedFrom, revokedTo)
  const attributes = [attribute].flat().map((pair) => [pair.split('=', 1)[0]!, pair.replace(/^[^=]*=/s, '')] as const)
  return registry.list(
    'device',
    narrowest({ group, profile, status }),
    paging,
    (device) =>
      (group === undefined || device.groups.includes(group)) &&
      (profile === undefined || device.profile === profile) &&
      (status === undefined || device.status === status) &&
      attributes.every(([name, value]) => attributeOf(device, name) === value) &&
      (serial === undefined || device.currentSerial === serial) &&
      (stolen === undefined || (device.stolenAt !== undefined) === stolen) &&
      (reason === undefined || device.revocationReason === reason) &&
      isCreatedThen(device.createdAt) &&
      isRevokedThen(device.revokedAt),
  )
}

const attributeOf = ({ attributes = {} }: DeviceRecord, name: string): string | undefined =>
  Object.hasOwn(attributes, name) ? attributes[name] : undefined

function narrowest({ group, profile, status }: Pick<DeviceFilter, 'group' | 'profile' | 'status'>): Range {
  if (group !== undefined) return { index: 'device.group', value: group }
  if (status === 'revoked' || status === 'held') return { index: 'device.status', value: status }
  if (profile !== undefined) return { index: 'device.profile', value: profile }
  if (status !== undefined) return { index: 'device.status', value: status }
  return { kind: 'device' }
}

/** @param expect the revision it was read at; 0: it must not exist */
export const writeDevice = (doc: DeviceRecord, expect: number): Write => ({ kind: 'device', id: doc.id, expect, doc })

/** What brokers are told of a device. */
export const deviceChanged = (device: DeviceRecord): FeedFact => {
  const { id, profile, groups, attributes, status, purge, stolenAt } = device
  const kept = keptOf(device)
  return {
    type: 'device.changed',
    data: {
      ...{ id, profile, groups },
      ...(attributes === undefined ? {} : { attributes }),
      status,
      ...(purge === undefined ? {} : { purge }),
      ...(kept.length === 0 ? {} : { kept }),
      ...(stolenAt === undefined ? {} : { stolen: true }),
    },
  }
}

/** Of a revoked device: what an earlier revocation has made void, and this one has not. */
export const keptOf = ({ purge, revokedAt }: DeviceRecord): (keyof Purge)[] =>
  purgeKinds.filter((kind) => revokedAt !== undefined && purge?.[kind] !== undefined && purge[kind] < revokedAt)

/** What a device published before `at` is void from now on. */
export const purging = (purge: Purge | undefined, kinds: readonly (keyof Purge)[], at: string): { purge?: Purge } =>
  purge === undefined && kinds.length === 0
    ? {}
    : { purge: { ...purge, ...Object.fromEntries(kinds.map((kind) => [kind, at])) } }
