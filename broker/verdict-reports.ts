import { type BrokerReport, reportBounds } from '../contract/broker-reports.ts'
import { LogLimit } from '../runtime/log-limit.ts'
import type { Refused } from './denials.ts'

type VerdictReportsOptions = { report: (report: BrokerReport) => void; clock: () => Date }

const dayMs = 86_400_000

/**
 * Tells enroll, for the audit log, of certificates that were refused, quarantined or let in despite a fault. Of those alone that a
 * trusted CA has issued: of others anybody can make as many as he likes.
 */
export class VerdictReports {
  readonly #options: VerdictReportsOptions
  // A device that comes back every second is told of at once, and then once a day with how often it was.
  readonly #turns = new LogLimit({ burst: 1, everyMs: dayMs })

  constructor(options: VerdictReportsOptions) {
    this.#options = options
  }

  /** @param denial the id of the refusal, if it was one */
  note(
    { verdict, certificate, listener = '', remoteAddress = '', deviceId, clientId }: Refused,
    denial?: string,
  ): void {
    if (verdict?.cause === undefined || verdict.authority === undefined || certificate === undefined) return
    const { cause, message, state, action } = verdict
    if (action === 'admit') return
    const { report, clock } = this.#options
    const now = clock()
    const { fingerprint, serial } = certificate
    // Joined, since a text that was added up keeps its parts: there is one for each certificate that was ever refused.
    const key = [fingerprint, listener, cause, action].join(' ')
    const turn = this.#turns.take(key, now.getTime())
    if (turn === undefined) return
    report({
      type: 'verdict',
      at: now.toISOString(),
      listener: listener.slice(0, reportBounds.name),
      remoteAddress: remoteAddress.slice(0, reportBounds.name),
      verification: state,
      action,
      reason: cause,
      detail: message.slice(0, reportBounds.detail),
      serial,
      fingerprint,
      count: turn.suppressed + 1,
      ...(deviceId === undefined ? {} : { deviceId }),
      ...(clientId === undefined ? {} : { clientId: clientId.slice(0, reportBounds.clientId) }),
      ...(denial === undefined ? {} : { denial }),
    })
  }
}
