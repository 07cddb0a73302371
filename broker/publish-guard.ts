import { setTimeout as sleep } from 'node:timers/promises'
import type { PolicyLimits } from '../contract/policy-limits.ts'
import type { AskedMessage, Matcher, Verdict } from '../contract/policy-matcher.ts'
import type { ProblemCode } from '../contract/problems.ts'
import { askAbout, type MqttContext, type RefusedPacket, type ToldRefusal, tellRefused } from './mqtt-context.ts'
import type { Connection } from './sessions.ts'
import { reason } from './wire/reason.ts'

/** It may go on at once. */
export const pass = 0
/** It may go on when its turn has come. */
export const later = -1
/** The connection ended before that. */
export const never = -2

/** For so long a refusal that is repeated is counted where it was noted. */
const repeatMs = 1_000

/** Looked at again this often while a message waits: the policy may have changed. */
const lookMs = 1_000

/**
 * What the policy lets one connection publish; asked before anything else is done with a message. It answers `pass`, `later`
 * or the reason code of a refusal, which may have ended the connection.
 */
export class PublishGuard {
  readonly #connection: Connection
  readonly #context: MqttContext
  /** Of who waits; to abort one costs more than most connections publish. */
  #stopped: AbortController | undefined
  #isStopped = false
  /** Of the last refusal, for a client of version 5. */
  sentence = ''
  /** The last refusal, for a while. */
  #last: LastRefusal | undefined
  #waiting = 0
  #waitMs = 0

  constructor(connection: Connection, context: MqttContext) {
    this.#connection = connection
    this.#context = context
  }

  /** Whether a message of that QoS could be told `later`. */
  mayDelay(qos: number): boolean {
    if (qos === 0 || this.#connection.link.version === 5) return false
    return isLimited(this.#context.gate.matcherOf(this.#connection).limits)
  }

  judge(packet: AskedMessage): number {
    const isBehind = packet.qos > 0 && this.#waiting > 0
    const code = isBehind ? later : this.#ask(packet)
    if (code === later) this.#waiting++
    return code
  }

  /** To be waited for in the order of the messages that were told `later`. @returns `pass`, `never`, or a reason code */
  async turn(packet: AskedMessage): Promise<number> {
    this.#stopped ??= new AbortController()
    const { signal } = this.#stopped
    try {
      for (;;) {
        if (this.#isStopped) return never
        const code = this.#ask(packet)
        if (code !== later) return code
        await sleep(Math.min(this.#waitMs, lookMs), undefined, { signal }).catch(() => {})
      }
    } finally {
      this.#waiting--
    }
  }

  /** Nobody waits any more: what was not acknowledged is the client's to send again. */
  stop(): void {
    this.#isStopped = true
    this.#stopped?.abort()
  }

  #ask(packet: AskedMessage): number {
    const { gate, quotas, clock } = this.#context
    const { deviceId, link } = this.#connection
    const matcher = gate.matcherOf(this.#connection)
    const last = this.#last?.matcher === matcher ? this.#last : undefined
    if (last !== undefined && isSame(last.packet, packet) && this.#again(last)) return last.code
    const verdict = matcher.allowsMessage(packet)
    if (!verdict.allowed) {
      const isLike = last?.isMixed === true && last.reason === verdict.reason
      return isLike && this.#again(last) ? last.code : this.#refuse(packet, verdict, matcher)
    }
    if (!isLimited(matcher.limits)) return pass
    this.#waitMs = quotas.take(deviceId!, matcher.limits, packet.payload.length, clock().getTime())
    if (this.#waitMs === 0) return pass
    // Version 5 can say no, and QoS 0 promises nothing. Before, the only way to say no would be to acknowledge what was
    // dropped: the message waits, and a client that goes on sending is read from more slowly.
    const isSlowed = packet.qos > 0 && link.version !== 5
    this.#warn('publish.limited', packet, { reason: 'rate_limited', slowed: isSlowed })
    return isSlowed ? later : reason.quotaExceeded
  }

  #refuse(packet: AskedMessage, { reason: fault, statement }: Verdict, matcher: Matcher): number {
    const problem = fault ?? 'publish_denied'
    const told = this.#warn('publish.denied', packet, { reason: problem, statement })
    const code = problem === 'payload_too_large' ? reason.quotaExceeded : reason.notAuthorized
    if (matcher.onDeny === 'disconnect') this.#connection.close(problem, this.sentence, told.denial)
    const { clock, denials } = this.#context
    const { topic, qos, retain, payload } = packet
    this.#last = {
      matcher,
      packet: { topic, qos, retain, payload: { length: payload.length } },
      reason: fault,
      code,
      told,
      sentence: this.sentence,
      isMixed: denials.isMixed(told.denial),
      until: clock().getTime() + repeatMs,
    }
    return code
  }

  /** @returns false when it has to be told anew */
  #again(last: LastRefusal): boolean {
    const now = this.#context.clock().getTime()
    if (now >= last.until || !last.told.again(now)) {
      this.#last = undefined
      return false
    }
    this.sentence = last.sentence
    return true
  }

  #warn(
    event: string,
    message: AskedMessage,
    fields: Pick<RefusedPacket, 'reason' | 'statement' | 'slowed'>,
  ): ToldRefusal {
    const { topic, qos, retain, payload } = message
    const asked = { action: 'publish', topic, qos, retain, payload } as const
    const told = tellRefused(this.#context, this.#connection, { event, asked, ...fields })
    this.sentence = askAbout(told.denial)
    return told
  }
}

/** What was refused, by which policy: a client that repeats itself costs a comparison and a count, no policy and no look-up. */
type LastRefusal = {
  matcher: Matcher
  packet: AskedMessage
  reason: ProblemCode | undefined
  code: number
  told: ToldRefusal
  sentence: string
  /** The record stands for all of its kind: whatever else is refused for that reason is counted there too. */
  isMixed: boolean
  until: number
}

const isSame = (one: AskedMessage, other: AskedMessage): boolean =>
  one.topic === other.topic &&
  one.qos === other.qos &&
  one.retain === other.retain &&
  one.payload.length === other.payload.length

const isLimited = ({ messagesPerSecond, bytesPerSecond }: PolicyLimits): boolean =>
  messagesPerSecond !== undefined || bytesPerSecond !== undefined
