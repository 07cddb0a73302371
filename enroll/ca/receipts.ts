import type { EndedCount } from '../../contract/session-api.ts'
import type { Asked } from '../registry/asked.ts'
import { type Cut, findCuts } from '../registry/cuts.ts'
import type { Registry } from '../registry/registry.ts'

/** A connection that a change has ended. */
export type EndedSession = Omit<Cut, 'fingerprint' | 'serial' | 'at' | 'heardAt' | 'reason'> & {
  /** From the time of the order, the commit included, to our having heard that the socket is closed; by our own clock. */
  closedMs: number
  /** Of that, what came after the commit, where that is known. */
  sinceCommitMs?: number
}

/**
 * The connections of a device that were ended since a change was ordered, whichever call did.
 *
 * @param serials     those with one of these certificates alone
 * @param committedMs from the order to the disk
 */
export async function endedSince(
  registry: Registry,
  {
    deviceId,
    since,
    serials,
    committedMs,
  }: { deviceId: string; since: string; serials?: readonly string[] | undefined; committedMs?: number | undefined },
): Promise<EndedSession[]> {
  const { cuts = [] } = (await findCuts(registry, deviceId))?.doc ?? {}
  return cuts
    .filter(({ heardAt, serial = '' }) => heardAt >= since && (serials?.includes(serial) ?? true))
    .map(({ fingerprint: _f, serial: _s, at: _a, reason: _r, heardAt, ...session }) => {
      const closedMs = Date.parse(heardAt) - Date.parse(since)
      const afterwards = committedMs === undefined ? {} : { sinceCommitMs: Math.max(0, closedMs - committedMs) }
      return { ...session, closedMs, ...afterwards }
    })
}

/** Of devices of which each was revoked or put on hold at `since` or later, what that has ended. */
export async function countEndedSince(
  registry: Registry,
  { deviceIds, since }: { deviceIds: readonly string[]; since: string },
): Promise<EndedCount> {
  let sessions = 0
  let slowest: EndedCount['slowest']
  for (const { doc } of await registry.findMany('device', [...new Set(deviceIds)])) {
    const changedAt = doc.revokedAt ?? doc.heldAt
    if (changedAt === undefined || changedAt < since) continue
    const ended = await endedSince(registry, { deviceId: doc.id, since: changedAt })
    sessions += ended.length
    for (const { broker, clientId, closedMs } of ended) {
      if (closedMs <= (slowest?.closedMs ?? -1)) continue
      slowest = { deviceId: doc.id, broker, ...(clientId === undefined ? {} : { clientId }), closedMs }
    }
  }
  return { sessions, ...(slowest === undefined ? {} : { slowest }) }
}

/** Puts into the audit log what an operator was told of a change: who has confirmed it, who has not, what it ended. */
export async function recordReceipt(
  registry: Registry,
  receipt: {
    /** `device:ID` or `certificate:SERIAL`. */
    subject: string
    /** Serial numbers of those that it is about, beside that. */
    certificates?: readonly string[]
    feedSeq: number
    /** From the order to the disk; absent where an earlier order has made the change. */
    committedMs?: number
    brokers: readonly { broker: string; confirmed: boolean; confirmedMs?: number }[]
    sessions: readonly EndedSession[]
    crlNumber?: number
    /** Of operators or brokers. */
    connectionsEnded?: number
  },
  { actor, remoteAddress, requestId, digest, now }: Asked,
): Promise<void> {
  const { subject, certificates = [], feedSeq, committedMs, brokers, sessions, crlNumber, connectionsEnded } = receipt
  const told = (wanted: boolean): string[] =>
    brokers
      .filter(({ confirmed }) => confirmed === wanted)
      .map(({ broker, confirmedMs }) => (confirmedMs === undefined ? broker : `${broker} ${confirmedMs} ms`))
  await registry.commit({
    requestId: `${requestId}-receipt`,
    digest,
    writes: [],
    audit: [
      {
        action: 'receipt.given',
        actor,
        subject,
        outcome: 'done',
        details: {
          feedSeq,
          ...(certificates.length === 0 ? {} : { certificates: [...certificates] }),
          ...(committedMs === undefined ? {} : { committedMs }),
          confirmed: told(true),
          missing: told(false),
          ...(crlNumber === undefined ? {} : { crlNumber }),
          ...(connectionsEnded === undefined ? {} : { connectionsEnded }),
          sessions: sessions.map(toldOf),
        },
        remoteAddress,
        requestId,
      },
    ],
    at: now,
  })
}

const toldOf = ({ broker, clientId = '-', closedMs, sinceCommitMs }: EndedSession): string => {
  const afterwards = sinceCommitMs === undefined ? '' : `, ${sinceCommitMs} ms after the commit`
  return `${broker} ${clientId} ${closedMs} ms after the order${afterwards}`
}
