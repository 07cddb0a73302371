import { randomBytes } from 'node:crypto'
import type { TokenView } from '../../contract/admin-api.ts'
import { attributePairs, type DeviceAttributes } from '../../contract/device-attributes.ts'
import type { FeedFact } from '../../contract/feed.ts'
import type { DeviceId, GroupName, ProfileName } from '../../contract/ids.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import type { Asked } from '../registry/asked.ts'
import type { AuditFact } from '../registry/audit-log.ts'
import { type DeviceRecord, deviceChanged, findDevice, requireActive, writeDevice } from '../registry/devices.ts'
import type { Stored } from '../registry/engine.ts'
import { type Registry, untilNoConflict, type Write } from '../registry/registry.ts'
import { mintToken, type TokenRecord, writeToken } from '../registry/tokens.ts'

export type NewDevice = {
  id: DeviceId
  profile: ProfileName
  groups: GroupName[]
  attributes?: DeviceAttributes | undefined
}

type TokenOrder = { deviceId: DeviceId; ttlMs: number; create?: NewDevice }
export type TokenPlan = { answer: TokenView; writes: Write[]; audit: AuditFact[]; feed: FeedFact[] }

/**
 * Creates an enrollment token: 256 random bits of which only the SHA-256 is kept, for one device, once, until it expires.
 *
 * @param input.create the device to create in the same batch when there is none of that id
 * @throws FleetError `device_unknown`, `device_revoked`, `device_held`, `conflict` (the device exists with another profile)
 */
export function createToken(registry: Registry, input: TokenOrder, asked: Asked): Promise<TokenView> {
  return untilNoConflict(async () => {
    const { answer, ...change } = planToken(await findDevice(registry, input.deviceId), input, asked)
    const requestId = `${asked.requestId}-token`
    const { replayed } = await registry.commit({ requestId, digest: asked.digest, ...change, at: asked.now })
    if (replayed) throw shownOnce()
    return answer
  })
}

// Only the digest was kept, so the token of the first answer cannot be shown again.
export const shownOnce = (): FleetError =>
  new FleetError('token_void', 'this request made a token before; a token is shown once, so ask for a new one')

/** @throws as `createToken` */
export function planToken(known: Stored<DeviceRecord> | undefined, input: TokenOrder, asked: Asked): TokenPlan {
  const { token, digest } = mintToken(randomBytes)
  const expiresAt = new Date(asked.now.getTime() + input.ttlMs).toISOString()
  const writes: Write[] = []
  const audit: AuditFact[] = []
  const feed: FeedFact[] = []
  let device: DeviceRecord
  if (known) {
    device = known.doc
    requireActive(device)
    // Written as it is: a revocation that comes in between makes this commit a loser, and no token survives it.
    writes.push(writeDevice(device, known.rev))
    if (input.create && input.create.profile !== device.profile) {
      throw new FleetError(
        'conflict',
        `${device.id} exists with the profile ${device.profile}; leave the profile out, or name that one`,
      )
    }
  } else if (input.create) {
    const change = deviceCreation(input.create, asked)
    device = change.device
    writes.push(change.write)
    audit.push(change.audit)
    feed.push(change.feed)
  } else {
    throw new FleetError(
      'device_unknown',
      `there is no device ${input.deviceId}; create it first, or name its profile as well (--profile) to create it now`,
    )
  }
  const record: TokenRecord = {
    digest,
    deviceId: device.id,
    profile: device.profile,
    createdAt: asked.now.toISOString(),
    expiresAt,
    status: 'unspent',
  }
  writes.push(writeToken(record, 0))
  audit.push({
    action: 'token.created',
    actor: asked.actor,
    subject: `device:${device.id}`,
    outcome: 'done',
    details: { profile: device.profile, expiresAt },
    remoteAddress: asked.remoteAddress,
    requestId: asked.requestId,
  })
  return { answer: { token, deviceId: device.id, profile: device.profile, expiresAt }, writes, audit, feed }
}

/** @throws FleetError `device_exists` */
export async function createDevice(registry: Registry, input: NewDevice, asked: Asked): Promise<DeviceRecord> {
  const change = deviceCreation(input, asked)
  try {
    await registry.commit({
      requestId: `${asked.requestId}-device`,
      digest: asked.digest,
      writes: [change.write],
      audit: [change.audit],
      feed: [change.feed],
      at: asked.now,
    })
  } catch (cause) {
    if (!isFleetError(cause, 'conflict') || cause.context.final) throw cause
    throw new FleetError('device_exists', `there is a device ${input.id} already`, { cause })
  }
  return change.device
}

/** What creates a device, for the batch of whatever is the cause. */
export function deviceCreation(
  input: NewDevice,
  asked: Asked,
): { device: DeviceRecord; write: Write; audit: AuditFact; feed: FeedFact } {
  const { id, profile, groups, attributes } = input
  const device: DeviceRecord = {
    id,
    profile,
    groups,
    ...(attributes === undefined ? {} : { attributes }),
    status: 'active',
    createdAt: asked.now.toISOString(),
  }
  return {
    device,
    write: writeDevice(device, 0),
    audit: {
      action: 'device.created',
      actor: asked.actor,
      subject: `device:${id}`,
      outcome: 'done',
      details: { profile, groups, ...(attributes === undefined ? {} : { attributes: attributePairs(attributes) }) },
      remoteAddress: asked.remoteAddress,
      requestId: asked.requestId,
    },
    feed: deviceChanged(device),
  }
}
