/** Devices and tokens by the hundred: what cannot be made is named, and holds nobody up. */
import { isDeepStrictEqual } from 'node:util'
import type { ImportReceipt, TokenReceipt } from '../../contract/batch-api.ts'
import type { DeviceId, GroupName, ProfileName } from '../../contract/ids.ts'
import type { ProblemCode } from '../../contract/problems.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import type { Asked } from '../registry/asked.ts'
import { type DeviceRecord, requireActive } from '../registry/devices.ts'
import type { Stored } from '../registry/engine.ts'
import { type Registry, untilNoConflict } from '../registry/registry.ts'
import { deviceCreation, type NewDevice, planToken, shownOnce, type TokenPlan } from './enrollment-tokens.ts'

type RequireProfile = (name: string) => void
type DeviceOrder = { devices: readonly NewDevice[]; atomic: boolean; dryRun: boolean; requireProfile: RequireProfile }
type WantedToken = { deviceId: DeviceId; profile?: ProfileName | undefined; groups?: GroupName[] | undefined }
type TokenOrder = { tokens: readonly WantedToken[]; ttlMs: number; requireProfile: RequireProfile }

/**
 * Registers devices in one durable batch: after a crash there are all of those that could be registered, or none. A device that
 * is there already and is like that is no refusal, so the same call may come again.
 *
 * @throws FleetError `conflict`
 */
export function importDevices(registry: Registry, order: DeviceOrder, asked: Asked): Promise<ImportReceipt> {
  const { devices, atomic, dryRun, requireProfile } = order
  return untilNoConflict(async () => {
    const known = await readDevices(
      registry,
      devices.map(({ id }) => id),
    )
    const outcomes = devices.map((device): ImportReceipt['devices'][number] => {
      const deviceId = device.id
      return orRefused(deviceId, () => {
        requireProfile(device.profile)
        const there = known.get(deviceId)
        if (there === undefined) return { deviceId, outcome: 'created' }
        requireSame(there.doc, device)
        return { deviceId, outcome: 'already' }
      })
    })
    const isApplied = !dryRun && !(atomic && outcomes.some(({ outcome }) => outcome === 'refused'))
    const changes = devices.flatMap((device, at) =>
      outcomes[at]!.outcome === 'created' ? deviceCreation(device, asked) : [],
    )
    if (isApplied && changes.length > 0) {
      await registry.commit({
        requestId: `${asked.requestId}-import`,
        digest: asked.digest,
        writes: changes.map(({ write }) => write),
        audit: changes.map(({ audit }) => audit),
        feed: changes.map(({ feed }) => feed),
        at: asked.now,
      })
    }
    return { devices: outcomes, applied: isApplied }
  })
}

/**
 * Makes a token for each device, in one durable batch, and with a profile the device where there is none of its id.
 *
 * @throws FleetError `conflict`, `token_void` when this request has been answered before: a token is shown once
 */
export function createTokens(registry: Registry, order: TokenOrder, asked: Asked): Promise<TokenReceipt> {
  const { tokens, ttlMs, requireProfile } = order
  return untilNoConflict(async () => {
    const known = await readDevices(
      registry,
      tokens.map(({ deviceId }) => deviceId),
    )
    const plans: TokenPlan[] = []
    const outcomes = tokens.map((wanted): TokenReceipt['tokens'][number] => {
      const { deviceId } = wanted
      return orRefused(deviceId, () => {
        const create = creationOf(wanted, requireProfile)
        const plan = planToken(known.get(deviceId), { deviceId, ttlMs, ...create }, asked)
        plans.push(plan)
        return { outcome: 'created', ...plan.answer }
      })
    })
    if (plans.length === 0) return { tokens: outcomes }
    const { replayed } = await registry.commit({
      requestId: `${asked.requestId}-tokens`,
      digest: asked.digest,
      writes: plans.flatMap(({ writes }) => writes),
      audit: plans.flatMap(({ audit }) => audit),
      feed: plans.flatMap(({ feed }) => feed),
      at: asked.now,
    })
    if (replayed) throw shownOnce()
    return { tokens: outcomes }
  })
}

/** @throws FleetError `request_malformed`, `profile_unknown` */
export function creationOf(
  { deviceId, profile, groups }: WantedToken,
  requireProfile: RequireProfile,
): { create?: NewDevice } {
  if (profile === undefined && groups !== undefined) {
    throw new FleetError('request_malformed', 'groups are for a new device: give its profile too')
  }
  if (profile === undefined) return {}
  requireProfile(profile)
  return { create: { id: deviceId, profile, groups: groups ?? [] } }
}

async function readDevices(
  registry: Registry,
  ids: readonly DeviceId[],
): Promise<ReadonlyMap<string, Stored<DeviceRecord>>> {
  return new Map((await registry.findMany('device', ids)).map((device) => [device.doc.id, device]))
}

const refusals: readonly ProblemCode[] = [
  'request_malformed',
  'profile_unknown',
  'device_unknown',
  'device_exists',
  'device_revoked',
  'device_held',
  'conflict',
]

function orRefused<T>(
  deviceId: DeviceId,
  plan: () => T,
): T | { deviceId: DeviceId; outcome: 'refused'; code: ProblemCode; detail: string } {
  try {
    return plan()
  } catch (error) {
    if (!isFleetError(error) || !refusals.includes(error.code)) throw error
    return { deviceId, outcome: 'refused', code: error.code, detail: error.message }
  }
}

function requireSame(there: DeviceRecord, wanted: NewDevice): void {
  requireActive(there)
  const different = [
    there.profile === wanted.profile ? undefined : `the profile ${there.profile}`,
    isDeepStrictEqual(there.groups.toSorted(), wanted.groups.toSorted()) ? undefined : 'other groups',
    isDeepStrictEqual(there.attributes ?? {}, wanted.attributes ?? {}) ? undefined : 'other attributes',
  ].filter((what) => what !== undefined)
  if (different.length === 0) return
  throw new FleetError('device_exists', `there is a device ${there.id} already, with ${different.join(' and ')}`)
}
