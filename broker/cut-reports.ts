import { type BrokerReport, reportBounds, type SessionCut } from '../contract/broker-reports.ts'
import type { PolicyAction, PolicyDocument } from '../contract/policy-document.ts'
import { reachOf } from '../contract/policy-reach.ts'
import type { PrincipalFacts } from '../contract/principal-facts.ts'
import type { ProblemCode } from '../contract/problems.ts'
import type { Connection } from './sessions.ts'
import type { PolicyState } from './trust/snapshot-state.ts'

type CutReportsOptions = {
  raise: (report: BrokerReport) => void
  policy: () => PolicyState
  clock: () => Date
}

/** Tells enroll of each connection that was ended because somebody lost their standing: what it had done, and when it was over. */
export class CutReports {
  readonly #options: CutReportsOptions
  readonly #closing = new Set<Promise<void>>()

  constructor(options: CutReportsOptions) {
    this.#options = options
  }

  /**
   * To be called in the turn that the connection is ended in.
   *
   * @param heardAt `performance.now()` of when this broker heard of the reason
   */
  note(connection: Connection, reason: ProblemCode, heardAt: number): void {
    const evidence = this.#evidence(connection, reason)
    const { document } = this.#options.policy()
    const facts = connection.principal?.facts
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#closing.add(promise)
    const over = (): void => {
      this.#closing.delete(promise)
      const tookMs = Math.round((performance.now() - heardAt) * 1_000) / 1_000
      const at = this.#options.clock().toISOString()
      // Only now: a thousand that end in one turn are not to wait for what is found out about each.
      this.#options.raise({ ...evidence, at, tookMs, ...reachFor(document, facts) })
      resolve()
    }
    // One whose peer has gone in this very turn is closed, and its session not over yet.
    if (connection.socket.closed) over()
    else connection.socket.once('close', over)
  }

  /** Resolves when the sockets of the connections that were noted by now are closed, and that is on its way to enroll. */
  async settled(): Promise<void> {
    await Promise.all(this.#closing)
  }

  #evidence(connection: Connection, reason: ProblemCode): Omit<SessionCut, 'at' | 'tookMs' | 'publish' | 'subscribe'> {
    const { rules, remoteAddress, clientId, deviceId, certificate, state, isResumed, connectedAt, link } = connection
    const { packetsIn, bytesIn, packetsOut, bytesOut } = link.counters
    const lastPacket = lastPacketOf(connection, this.#options.clock())
    return {
      type: 'session.cut',
      reason,
      listener: rules.name.slice(0, reportBounds.name),
      remoteAddress: remoteAddress.slice(0, reportBounds.name),
      state: state as SessionCut['state'], // what is closed is not ended again
      isResumed,
      connectedAt: connectedAt.toISOString(),
      packetsIn,
      bytesIn,
      packetsOut,
      bytesOut,
      ...(clientId === undefined ? {} : { clientId: clientId.slice(0, reportBounds.clientId) }),
      ...(deviceId === undefined ? {} : { deviceId }),
      ...(certificate === undefined ? {} : { serial: certificate.serial, fingerprint: certificate.fingerprint }),
      ...(lastPacket === undefined ? {} : { lastPacket }),
    }
  }
}

export function lastPacketOf({ link }: Connection, now: Date): SessionCut['lastPacket'] {
  const { type, topic, at } = link.taken
  if (type === undefined) return undefined
  const ms = now.getTime() - (performance.now() - at)
  return {
    type,
    at: new Date(ms).toISOString(),
    ...(topic === undefined ? {} : { topic: topic.slice(0, reportBounds.topic) }),
  }
}

/** Before a CONNECT was accepted nothing was in reach. */
function reachFor(document: PolicyDocument, facts: PrincipalFacts | undefined): Pick<SessionCut, PolicyAction> {
  if (facts === undefined) return { publish: [], subscribe: [] }
  const shown = (filters: string[]): string[] =>
    filters.slice(0, reportBounds.topics).map((filter) => filter.slice(0, reportBounds.topic))
  const { publish, subscribe } = reachOf(document, facts)
  return { publish: shown(publish), subscribe: shown(subscribe) }
}
