import { z } from 'zod'
import { listEvents } from '../../contract/event-api.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import { decodeAudit } from '../registry/audit-log.ts'
import type { Registry } from '../registry/registry.ts'
import { route } from './route.ts'

const heartbeatMs = 15_000
const atOnce = 100
const streamsOfAll = 64
const streamsOfOne = 8

export const eventRoutes = [
  route({
    method: 'GET',
    path: '/v1/events',
    role: 'viewer',
    summary: 'The audit log as it grows, as server-sent events; each has the number of its entry for an id',
    answer: z.custom<AsyncIterable<string>>(),
    media: 'text/event-stream',
    query: listEvents,
    handle: async ({ query, lastEventId, requireStanding, signal, asked: { actor } }, { registry, streams }) => {
      const { seq } = (await registry.head()).audit
      const after = lastEventId === undefined ? (query.since ?? seq) : numberOf(lastEventId)
      if (after > seq) throw new FleetError('request_malformed', `the audit log ends at ${seq}; begin there or before`)
      streams.enter(actor, signal)
      return eventsOf(registry, after, { requireStanding, signal })
    },
  }),
]

/** How many streams are open, of everybody and of each who asks. */
export class Streams {
  readonly #open: string[] = []

  /** @throws FleetError `too_many_requests` */
  enter(actor: string, signal: AbortSignal): void {
    const own = this.#open.filter((other) => other === actor).length
    if (own >= streamsOfOne || this.#open.length >= streamsOfAll) {
      const context = { retryAfterSeconds: 60 }
      throw new FleetError('too_many_requests', `${own} streams of ${actor} are open; close one`, { context })
    }
    this.#open.push(actor)
    signal.addEventListener('abort', () => this.#open.splice(this.#open.indexOf(actor), 1), { once: true })
  }
}

/**
 * WHATWG HTML 9.2.5. Nothing is kept for a reader: it reads the log at its own pace, and more is read from it when the last was
 * taken. A stream ends with the standing of who reads it, which is asked before whatever is sent.
 */
async function* eventsOf(
  registry: Registry,
  after: number,
  { requireStanding, signal }: { requireStanding(): Promise<void>; signal: AbortSignal },
): AsyncGenerator<string> {
  try {
    yield `: after ${after}\n\n`
    for (let from = after; !signal.aborted; ) {
      const grown = registry.untilAuditGrows(AbortSignal.any([signal, AbortSignal.timeout(heartbeatMs)]))
      const entries = await registry.auditAfter(from, atOnce)
      const isWorthIt = entries.length > 0 || !(await grown)
      await requireStanding()
      if (entries.length > 0) yield entries.map((entry) => eventOf(decodeAudit(entry))).join('')
      else if (isWorthIt) yield ': nothing new\n\n'
      from = entries.at(-1)?.seq ?? from
    }
  } catch (error) {
    if (!isFleetError(error)) throw error
    yield `event: ended\ndata: ${JSON.stringify({ code: error.code, detail: error.message })}\n\n`
  }
}

// What stands in an entry has no line breaks as JSON, and names of actions are ours.
const eventOf = (entry: ReturnType<typeof decodeAudit>): string =>
  `id: ${entry.seq}\nevent: ${entry.action}\ndata: ${JSON.stringify(entry)}\n\n`

function numberOf(lastEventId: string): number {
  if (/^\d{1,15}$/.test(lastEventId)) return Number(lastEventId)
  throw new FleetError('request_malformed', 'Last-Event-ID is the id of an event')
}
