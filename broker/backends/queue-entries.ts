/** What a place in a queue is made of, and what it is given out as. */
import { FleetError } from '../../runtime/errors.ts'
import type { Entry } from './session-records.ts'
import type { Session } from './session-state.ts'
import type { Delivery, DeviceQuota, Message, Queued } from './session-store.ts'

/** Without the views of what a publisher sent, each of which would keep a whole read buffer alive. */
export function ownOf(message: Message): Message {
  const { payload, properties } = message
  const own = { ...message, payload: Buffer.from(payload) }
  if (properties?.correlationData === undefined) return own
  return { ...own, properties: { ...properties, correlationData: Buffer.from(properties.correlationData) } }
}

export function hasRoom(session: Session, bytes: number, limits: Delivery['limits'], quota: DeviceQuota): boolean {
  const { device } = session
  return (
    session.messages < limits.messages &&
    session.bytes + bytes <= limits.bytes &&
    device.messages < quota.messages &&
    device.bytes + bytes <= quota.bytes
  )
}

export function entryOf(delivery: Delivery, { seq, bytes }: { seq: number; bytes: number }): Entry {
  return {
    seq,
    qos: delivery.qos,
    retain: delivery.retain ?? false,
    identifiers: delivery.identifiers,
    shared: false,
    expiresAt: delivery.message.expiresAt ?? Number.POSITIVE_INFINITY,
    bytes,
    packetId: undefined,
    released: false,
  }
}

/** @throws FleetError `data_damaged` */
export function queued(session: Session, entry: Entry, message: Message | undefined): Queued {
  const { seq, qos, retain, identifiers, packetId } = entry
  if (entry.released) return { seq, qos, retain, identifiers, state: 'pubrel', packetId: packetId! }
  if (message === undefined) throw new FleetError('data_damaged', 'the broker has lost a stored message')
  if (packetId !== undefined) return { seq, qos, retain, identifiers, state: 'publish', message, packetId, dup: true }
  // QoS 2 goes out only once that is noted on disk.
  const dup = qos === 1 && seq < session.unsureBelow
  return { seq, qos, retain, identifiers, state: 'publish', message, dup }
}
