/** What goes with a session, and which one goes for another. */
import { FleetError } from '../../runtime/errors.ts'
import type { Operation } from '../store.ts'
import type { WillStore } from './level-wills.ts'
import type { SessionQueues } from './session-queues.ts'
import { keys } from './session-records.ts'
import { bytesOf, deviceIn, leaveDevice, type Session, type State } from './session-state.ts'
import type { DeviceQuota } from './session-store.ts'

type Parts = { state: State; queues: SessionQueues; wills: WillStore }

export function forgetSession({ state, queues, wills }: Parts, session: Session, operations: Operation[]): void {
  const { id, clientId, device, subscriptions, incoming, isOnDisk } = session
  if (isOnDisk) {
    operations.push({ type: 'del', key: keys.session(id) })
    for (const filter of subscriptions.keys()) operations.push({ type: 'del', key: keys.subscription(id, filter) })
    for (const packetId of incoming) operations.push({ type: 'del', key: keys.incoming(id, packetId) })
  }
  wills.endSession(session.epoch, operations)
  state.sessions.delete(clientId)
  device.sessions.delete(clientId)
  device.subscriptions -= subscriptions.size
  device.bytes -= bytesOf(subscriptions)
  queues.abandon(session)
  leaveDevice(state, device)
}

/**
 * A device that makes up client ids displaces its own oldest session, as long as nobody uses that.
 *
 * @throws FleetError `quota_exceeded` when all are in use
 */
export function findDisplaced(
  { sessions, devices }: State,
  deviceId: string,
  quotaOf: (deviceId: string) => DeviceQuota,
): Session | undefined {
  const kept = devices.get(deviceId)?.sessions
  if (kept === undefined || kept.size < quotaOf(deviceId).sessions) return undefined
  for (const clientId of kept) {
    const session = sessions.get(clientId)!
    if (session.owner === undefined) return session
  }
  throw new FleetError('quota_exceeded', `${deviceId} has ${kept.size} sessions, all of them in use`)
}

/**
 * Where memory was made anew from disk: sessions that the disk does not have were none of what has failed.
 *
 * @returns what has to be written for that
 */
export function carryOver(parts: Parts, before: State): Operation[] {
  const operations: Operation[] = []
  const { state, queues } = parts
  state.nextNumber = Math.max(state.nextNumber, before.nextNumber)
  for (const known of before.sessions.values()) {
    if (known.isOnDisk && known.moving === undefined) continue
    const older = state.sessions.get(known.clientId)
    if (older?.id === known.id) {
      // It was written down after all.
      queues.moves.letGo(known)
      continue
    }
    const session = known.moving === undefined ? known : queues.moves.takeBack(known)
    const { clientId, subscriptions, messages, bytes } = session
    if (older !== undefined) forgetSession(parts, older, operations)
    const device = deviceIn(state, session.device.id)
    state.sessions.set(clientId, { ...session, device, removed: undefined, reading: undefined })
    device.sessions.add(clientId)
    device.subscriptions += subscriptions.size
    device.messages += messages
    device.bytes += bytes + bytesOf(subscriptions)
  }
  return operations
}
