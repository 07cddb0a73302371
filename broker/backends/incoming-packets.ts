import { FleetError } from '../../runtime/errors.ts'
import type { Operation } from '../store.ts'
import type { SessionQueues } from './session-queues.ts'
import { empty, keys } from './session-records.ts'
import type { Session } from './session-state.ts'

/** QoS 2 messages of one client that wait for their PUBREL. */
const most = 1_000

/**
 * @returns false when it was noted before
 * @throws FleetError `quota_exceeded`
 */
export function noteIncoming(
  session: Session,
  packetId: number,
  { moves }: Pick<SessionQueues, 'moves'>,
  operations: Operation[],
): boolean {
  if (session.incoming.has(packetId)) return false
  if (session.incoming.size >= most) {
    throw new FleetError('quota_exceeded', `${most} messages of ${session.clientId} wait for their PUBREL`)
  }
  if (!session.isOnDisk) moves.putOnDisk(session, operations)
  session.incoming.add(packetId)
  operations.push({ type: 'put', key: keys.incoming(session.id, packetId), value: empty })
  return true
}
