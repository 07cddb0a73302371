/** Messages that a client does not get: a denial for each reason, of the stage `delivery`. */
import { type ProblemCode, problems } from '../contract/problems.ts'
import { deviceOf } from './backends/session-store.ts'
import { refusedOf } from './denials.ts'
import { type MqttContext, shown, warnRefused, who } from './mqtt-context.ts'
import type { Connection } from './sessions.ts'
import type { Dropped } from './wire/link-events.ts'
import type { Publish } from './wire/packet.ts'

/** A message that a subscription matched and the policy keeps back. */
export function noteUndelivered({ denials, log }: MqttContext, connection: Connection, topic: string): void {
  const cause = 'delivery_denied'
  const { title: message } = problems[cause]
  const asked = { action: 'receive', topic } as const
  const denial = denials.note(refusedOf(connection), { stage: 'delivery', cause, message, asked })
  const fields = { event: 'delivery.denied', reason: cause, denial, ...who(connection), topic: shown(topic) }
  log.debug(fields, 'delivery denied')
}

const causes = { slow: 'slow_reader', tooLarge: 'packet_too_large' } as const satisfies Record<Dropped, ProblemCode>
const messages = {
  slow: 'messages of QoS 0 were dropped since the client reads too slowly',
  tooLarge: 'messages were dropped since the client takes no packet so large',
}
const everyMs = 1_000

type Pending = { count: number; notedAt: number; topic: string }

/** What a connection did not take. There can be a hundred thousand a second: they are counted, and noted once in one. */
export class Undelivered {
  readonly #connection: Connection
  readonly #context: Pick<MqttContext, 'denials' | 'warn' | 'clock'>
  /** Most connections take all that they are sent. */
  readonly #pending: Partial<Record<Dropped, Pending>> = {}

  constructor(connection: Connection, context: Pick<MqttContext, 'denials' | 'warn' | 'clock'>) {
    this.#connection = connection
    this.#context = context
  }

  dropped(why: Dropped, topic: string): void {
    this.#pending[why] ??= { count: 0, notedAt: Number.NEGATIVE_INFINITY, topic: '' }
    const pending = this.#pending[why]
    pending.count++
    pending.topic = topic
    const now = this.#context.clock().getTime()
    if (Math.abs(now - pending.notedAt) < everyMs) return
    pending.notedAt = now
    this.#note(why, pending)
  }

  /** The connection is over: what was counted and not noted yet. */
  flush(): void {
    for (const why of ['slow', 'tooLarge'] as const) {
      const pending = this.#pending[why]
      if (pending !== undefined && pending.count > 0) this.#note(why, pending)
    }
  }

  #note(why: Dropped, pending: Pending): void {
    const { denials, warn } = this.#context
    const { count: times, topic } = pending
    pending.count = 0
    const refusal = { stage: 'delivery', cause: causes[why], message: messages[why], times } as const
    const denial = denials.note(refusedOf(this.#connection), refusal)
    warn(`dropped ${why} ${this.#connection.clientId}`, () => ({
      event: 'message.dropped',
      reason: causes[why],
      what: 'live',
      denial,
      ...who(this.#connection),
      topic: shown(topic),
      times,
    }))
  }
}

/** The other way: a message of QoS 0 that its sender has sent faster than the store takes them. */
export function noteBehind(context: MqttContext, connection: Connection, packet: Publish): void {
  const { topic, qos, retain, payload } = packet
  const asked = { action: 'publish', topic, qos, retain, payload } as const
  const detail = 'the store is behind, and no more messages of QoS 0 wait for it'
  warnRefused(context, connection, { event: 'publish.denied', reason: 'unavailable', detail, asked })
}

/** A queue, or what a device may retain, is full. */
export function noteFull(
  { denials, sessions, warn }: Pick<MqttContext, 'denials' | 'sessions' | 'warn'>,
  { what, owner, topic }: { what: 'queued' | 'retained'; owner: string; topic: string },
): void {
  const reason = 'quota_exceeded'
  const isQueue = what === 'queued'
  const connection = isQueue ? sessions.findLive(owner) : undefined
  const refused = connection
    ? refusedOf(connection)
    : { deviceId: deviceOf(owner), ...(isQueue ? { clientId: owner } : {}) }
  const denial = denials.note(refused, {
    stage: isQueue ? 'delivery' : 'publish',
    cause: reason,
    message: isQueue ? 'as much waits for the session as it may keep' : 'the device has retained as much as it may',
    asked: { action: isQueue ? 'receive' : 'publish', topic, retain: !isQueue },
  })
  const fields = { event: 'message.dropped', reason, what, owner, denial, topic: shown(topic) }
  warn(`dropped ${what} ${owner}`, () => fields)
}
