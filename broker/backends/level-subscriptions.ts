import { FleetError } from '../../runtime/errors.ts'
import type { Operation } from '../store.ts'
import { keys } from './session-records.ts'
import { bytesOf, noteSubscription, type Session } from './session-state.ts'
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
  const { id, device, subscriptions, isOnDisk } = session
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
    if (subscriptions.delete(filter) && isOnDisk) operations.push({ type: 'del', key: keys.subscription(id, filter) })
  }
  for (const subscription of add) {
    const { filter } = subscription
    subscriptions.set(filter, subscription)
    if (isOnDisk) operations.push(noteSubscription(id, subscription))
  }
  device.subscriptions += growth
  device.bytes += byteGrowth
  return existed
}
