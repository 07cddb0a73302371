import { FleetError } from '../../runtime/errors.ts'
import type { Operation } from '../store.ts'
import { encodeSubscription, keys } from './session-records.ts'
import type { Session } from './session-state.ts'
import type { DeviceQuota, StoredSubscription } from './session-store.ts'

/**
 * All or none of it.
 *
 * @returns which of the filters were there before
 * @throws FleetError `quota_exceeded`
 */
export function changeSubscriptions(
  session: Session,
  change: { add: readonly StoredSubscription[]; remove: readonly string[]; quota: DeviceQuota },
  operations: Operation[],
): Set<string> {
  const { id, device, subscriptions } = session
  const { add, remove, quota } = change
  const existed = new Set([...remove, ...add.map(({ filter }) => filter)].filter((filter) => subscriptions.has(filter)))
  const after = new Map(subscriptions)
  for (const filter of remove) after.delete(filter)
  // Each filter stands for itself, whatever else it overlaps (trap T15).
  for (const subscription of add) after.set(subscription.filter, subscription)
  const growth = after.size - subscriptions.size
  const byteGrowth = bytesOf(after) - bytesOf(subscriptions)
  if (growth > 0 && device.subscriptions + growth > quota.subscriptions) {
    throw new FleetError('quota_exceeded', `${device.id} has ${device.subscriptions} subscriptions`)
  }
  if (byteGrowth > 0 && device.bytes + byteGrowth > quota.bytes) {
    throw new FleetError('quota_exceeded', `${device.id} has ${device.bytes} octets of messages and filters`)
  }
  for (const filter of remove) {
    if (subscriptions.delete(filter)) operations.push({ type: 'del', key: keys.subscription(id, filter) })
  }
  for (const subscription of add) {
    const { filter } = subscription
    subscriptions.set(filter, subscription)
    operations.push({ type: 'put', key: keys.subscription(id, filter), value: encodeSubscription(subscription) })
  }
  device.subscriptions += growth
  device.bytes += byteGrowth
  return existed
}

/** What a session's subscriptions count for among the octets of its device. */
export function bytesOf(subscriptions: ReadonlyMap<string, StoredSubscription>): number {
  let bytes = 0
  for (const filter of subscriptions.keys()) bytes += Buffer.byteLength(filter)
  return bytes
}
