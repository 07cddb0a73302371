import { type EstOperation, estOperations } from '../contract/configuration.ts'
import { listScopes } from '../contract/crl-api.ts'
import { decodeBody, deviceStatuses } from '../contract/feed.ts'
import { type EnrollMetric, enrollMetrics, type OcspAnswerKind, ocspAnswers } from '../contract/metrics.ts'
import { Metrics, Tally, type Tell } from '../runtime/metrics.ts'
import type { Readiness } from '../runtime/probes.ts'
import { type NoticeDays, noticeDays } from './ca/expiry.ts'
import type { ServedList } from './ca/revocation-lists.ts'
import type { FeedServer } from './feed-server.ts'
import type { EnrollmentDenials } from './ra/enrollment-denials.ts'
import type { Registry } from './registry/registry.ts'

type MetersOptions = {
  registry: Pick<Registry, 'count' | 'head' | 'feedAfter'>
  denials: Pick<EnrollmentDenials, 'refusals'>
  clock: () => Date
}

type Attached = {
  feed: Pick<FeedServer, 'brokers'>
  certificateEnds: () => Date
  authorities: Record<'issuing' | 'root', { notAfter: Date }>
  ready: () => Promise<Readiness>
  served: () => readonly ServedList[]
  /** The place in the feed up to which lists carry everything; undefined where none are published. */
  listsUpTo: () => number | undefined
}

const dayMs = 86_400_000
const withinDays = [1, 7, 30, 90]
/** The registry may hold millions: what is counted there is counted so far, and looked at again after this. */
const countAtMost = 10_000
const countEveryMs = 60_000

/** What enroll counts as it happens, and what it reads from the registry for whoever asks. */
export class Meters {
  readonly metrics: Metrics<EnrollMetric>
  readonly #options: MetersOptions
  readonly #requests = new Tally()
  readonly #notices = new Map<NoticeDays, number>()
  readonly #ocsp = new Map<OcspAnswerKind, number>()
  #attached: Attached | undefined
  #counted: { at: number; samples: Parameters<Tell<EnrollMetric>>[] } | undefined

  constructor(options: MetersOptions) {
    this.#options = options
    this.metrics = new Metrics(enrollMetrics, (tell) => this.#read(tell))
  }

  /** What is there only once the service is whole. */
  attach(attached: Attached): void {
    this.#attached = attached
  }

  /** @param outcome ok, pending, or a code */
  answered(path: string, outcome: string): void {
    this.#requests.add(1, operationOf(path), outcome)
  }

  noticed(days: NoticeDays): void {
    this.#notices.set(days, (this.#notices.get(days) ?? 0) + 1)
  }

  ocspAnswered(kind: OcspAnswerKind): void {
    this.#ocsp.set(kind, (this.#ocsp.get(kind) ?? 0) + 1)
  }

  took(path: string, ms: number): void {
    this.metrics.observe('fleetgate_enroll_request_duration_seconds', ms / 1_000, operationOf(path))
  }

  async #read(tell: Tell<EnrollMetric>): Promise<void> {
    const { registry, denials } = this.#options
    for (const [count, labels] of this.#requests) tell('fleetgate_enroll_requests_total', count, ...labels)
    for (const [count, labels] of denials.refusals) tell('fleetgate_enroll_refusals_total', count, ...labels)
    // From nought on: the first step of a counter that was not there before is none.
    for (const days of noticeDays)
      tell('fleetgate_enroll_expiry_notices_total', this.#notices.get(days) ?? 0, String(days))
    for (const kind of ocspAnswers) tell('fleetgate_enroll_ocsp_answers_total', this.#ocsp.get(kind) ?? 0, kind)
    const head = (await registry.head()).feed.seq
    for (const { id, connected, appliedSeq } of (await this.#attached?.feed.brokers()) ?? []) {
      tell('fleetgate_enroll_feed_broker_connected', Number(connected), id)
      tell('fleetgate_enroll_feed_broker_lag_events', Math.max(0, head - appliedSeq), id)
    }
    for (const [part, fault] of Object.entries((await this.#attached?.ready()) ?? {}))
      tell('fleetgate_enroll_ready', Number(fault === undefined), part)
    await this.#readLists(tell)
    const ends = this.#attached?.certificateEnds()
    if (ends !== undefined) tell('fleetgate_enroll_certificate_not_after_seconds', ends.getTime() / 1_000)
    for (const [ca, { notAfter }] of Object.entries(this.#attached?.authorities ?? {}))
      tell('fleetgate_enroll_ca_not_after_seconds', notAfter.getTime() / 1_000, ca)
    for (const sample of await this.#counts()) tell(...sample)
  }

  async #readLists(tell: Tell<EnrollMetric>): Promise<void> {
    const { registry, clock } = this.#options
    const now = clock().getTime()
    const served = this.#attached?.served() ?? []
    for (const scope of listScopes) {
      const lists = served.filter((list) => list.scope === scope)
      if (lists.length === 0) continue
      const oldest = Math.min(...lists.map(({ thisUpdate }) => thisUpdate.getTime()))
      const first = Math.min(...lists.map(({ nextUpdate }) => nextUpdate.getTime()))
      tell('fleetgate_enroll_crl_age_seconds', (now - oldest) / 1_000, scope)
      tell('fleetgate_enroll_crl_next_update_seconds', first / 1_000, scope)
    }
    const upTo = this.#attached?.listsUpTo()
    if (upTo === undefined) return
    const [missing] = await registry.feedAfter(upTo, 1)
    const since = missing === undefined ? now : Date.parse(decodeBody(missing).at)
    tell('fleetgate_enroll_crl_lag_seconds', Math.max(0, now - since) / 1_000)
  }

  async #counts(): Promise<Parameters<Tell<EnrollMetric>>[]> {
    const { registry, clock } = this.#options
    const now = clock()
    if (this.#counted !== undefined && now.getTime() - this.#counted.at < countEveryMs) return this.#counted.samples
    const samples: Parameters<Tell<EnrollMetric>>[] = []
    for (const value of deviceStatuses)
      samples.push([
        'fleetgate_enroll_devices',
        await registry.count({ index: 'device.status', value }, countAtMost),
        value,
      ])
    samples.push(['fleetgate_enroll_tokens', await registry.count({ kind: 'token' }, countAtMost)])
    const pending = { index: 'approval.decision', value: 'pending' }
    samples.push(['fleetgate_enroll_approvals_pending', await registry.count(pending, countAtMost)])
    for (const days of withinDays) {
      const before = new Date(now.getTime() + days * dayMs).toISOString()
      const count = await registry.count({ index: 'certificate.notAfter', before }, countAtMost, now.toISOString())
      samples.push(['fleetgate_enroll_certificates_expiring', count, String(days)])
    }
    this.#counted = { at: now.getTime(), samples }
    return samples
  }
}

/** Of the path of a request; one that is none of EST is `other`, whatever it says. */
function operationOf(path: string): EstOperation | 'other' {
  const name = path.slice(path.lastIndexOf('/') + 1)
  return estOperations.find((operation) => operation === name) ?? 'other'
}
