/**
 * The trust feed: what enroll tells brokers. Ordered events with a cursor; lines of JSON over mutual TLS, both ways.
 *
 * broker -> enroll  hello (who, cursor), then `applied` after each batch it has put in force, `ping` to ask for the head
 *                   `report` of what has happened there, again until it is `noted`
 *                   `arrived` who has come, where enroll passes that on; `beside` a session that is heard beside one elsewhere
 * enroll -> broker  `refused` when its certificate is not good enough, and then the end
 *                   `ask` what was refused there lately, who is connected or what a certificate is worth, or for a session to be
 *                   ended, which `answer` tells
 *                   events in order from the cursor, `live` once the head is reached, `pong`
 *                   `elsewhere` who has come to another broker, or was there before and is heard
 *                   `credential`, the certificate that a broker is to show from now on
 *                   `reset` first when the feed does not go on at the cursor; then what it has said by now, in few words: `facts`,
 *                   and with `snapshot` the cursor at which events go on
 */

import { z } from 'zod'
import type { BrokerReport } from './broker-reports.ts'
import type { ListenerVerdict, VerdictQuery } from './certificate-verdicts.ts'
import type { Denial, DenialQuery } from './denials.ts'
import type { DeviceAttributes } from './device-attributes.ts'
import type { KeyOrder, KickOrder, LiveSession, SessionQuery, Sighting } from './live-sessions.ts'
import type { Reloaded } from './live-settings.ts'
import type { PolicyDocument } from './policy-document.ts'
import type { ProblemCode } from './problems.ts'

/** `held` can be taken back, `revoked` only by enrolling anew. */
export const deviceStatuses = ['active', 'held', 'revoked'] as const
export type DeviceStatus = (typeof deviceStatuses)[number]
/**
 * What of a device's messages is void: what it published before that time, and all of it while it is revoked, unless that is `kept`.
 * ISO times.
 */
export type Purge = { retained?: string; queued?: string }
export const purgeKinds = ['retained', 'queued'] as const satisfies (keyof Purge)[]

/** Event types and the shape of their `data`; identifiers have been parsed by the writer. */
export type FeedData = {
  'trust.changed': { anchors: string[] } // PEM of every CA certificate that may stand in a device's chain
  'policy.changed': { version: number; document: PolicyDocument }
  'device.changed': {
    id: string
    profile: string
    groups: string[]
    attributes?: DeviceAttributes
    status: DeviceStatus
    purge?: Purge
    /** It is revoked, and what of `purge` is of an earlier revocation. */
    kept?: (keyof Purge)[]
    /** A thief may have it: it is revoked, and more is to be done about what it left. */
    stolen?: true
  }
  /** `via`: how the device proved itself, `reenroll` for a renewal; missing in events from before it was noted. */
  'certificate.issued': { serial: string; fingerprint: string; deviceId: string; notAfter: string; via?: string }
  /** It has few days left, and nothing newer is in use. */
  'certificate.expiring': { serial: string; fingerprint: string; deviceId: string; notAfter: string }
  'certificate.revoked': {
    serial: string
    fingerprint: string
    deviceId: string
    reason: string
    /** SHA-256 of its SubjectPublicKeyInfo, where nobody is to use this key any more. */
    watchedKey?: string
  }
  /** Of an operator or a broker: for revocation lists; no device is concerned. */
  'credential.revoked': {
    serial: string
    fingerprint: string
    kind: 'operator' | 'broker'
    name: string
    reason: string
  }
  /** What the EST service saw and somebody should look at; brokers tell applications. */
  'alert.raised': {
    kind: 'key_reused' | 'clone'
    /** Whose key it was; absent where it is of an operator or a broker. */
    deviceId?: string
    remoteAddress: string
    /** For people. */
    message: string
    /** It stands for so many. */
    count: number
    incident?: string
  }
}
export type FeedType = keyof FeedData
export type FeedFact = { [T in FeedType]: { type: T; data: FeedData[T] } }[FeedType]

/** Place in the feed: the last event seen and the chain's hash there. `{ seq: 0, hash: genesis }` is the start. */
export type Cursor = { seq: number; hash: string }

/** One event as stored and sent. `body` is the JSON text of `FeedFact & { at }`, kept byte for byte: the hash is over it. */
export type FeedEvent = { seq: number; hash: string; body: string }

const bound = z.int().min(0).max(1e12)
/**
 * How long a broker that hears nothing of enroll goes on letting devices in, and goes on with sessions, from when it last
 * asked and was answered, in milliseconds; null: without end.
 */
export const staleBounds = z.object({ admitsMs: bound.nullable(), servesMs: bound.nullable() })
export type StaleBounds = z.output<typeof staleBounds>
/** From how long after its end on a broker has no use for a certificate, and its time. */
export const forgetting = z.object({ at: z.iso.datetime(), afterMs: z.int().min(0) })
/** Of a connection on which a broker asks, in milliseconds. */
export const silence = z.int().min(200).max(600_000)

/** What a broker can be asked, and what it answers with a list of. */
export type Questions = {
  denials: { query: DenialQuery; answer: Denial }
  sessions: { query: SessionQuery; answer: LiveSession }
  /** Of every listener about a certificate; nobody is taken to have used it. */
  verdicts: { query: VerdictQuery; answer: ListenerVerdict }
  /** An order to read its configuration once more; answered by one that knows how to, once that is in force. */
  reload: { query: Record<string, never>; answer: Reloaded }
  /** An order: carried out when it is answered. */
  kick: { query: KickOrder; answer: LiveSession }
  /** An order where it says so. */
  key: { query: KeyOrder; answer: LiveSession }
}
export type QuestionKind = keyof Questions
type Asked = { [K in QuestionKind]: { [k in K]: Questions[K]['query'] } }[QuestionKind]
type Answered = { [K in QuestionKind]: { [k in K]: Questions[K]['answer'][] } }[QuestionKind]
/** Those that a broker of this version names in its hello; one of another may name others. */
export const laterQuestions = ['sessions', 'kick', 'verdicts', 'key', 'reload'] as const satisfies QuestionKind[]
export const knownQuestions = z.array(z.string().max(40)).max(40)

export type FromBroker =
  /**
   * `answers`: knows what an `ask` for denials is, and `questions`: for what else; what it does not know it is not asked.
   * `silenceMs`: sends a `ping` more often than that. `snapshots`: reads `facts`; `forgets`: certificates that
   * it need not be told of then. `renews`: keeps what a `credential` brings.
   */
  | {
      kind: 'hello'
      protocol: 1
      broker: string
      cursor: Cursor
      answers?: boolean
      questions?: string[]
      bounds?: StaleBounds
      silenceMs?: number
      snapshots?: boolean
      forgets?: z.output<typeof forgetting>
      renews?: boolean
    }
  | { kind: 'applied'; seq: number }
  | { kind: 'ping'; id: number }
  | ({ kind: 'answer'; id: number } & Answered)
  | { kind: 'report'; id: string; report: BrokerReport }
  | { kind: 'arrived'; sessions: Sighting[] }
  /** `isBack`: it yielded its client id to the one there, and has come back for it at once. */
  | { kind: 'beside'; key: string; broker: string; session: LiveSession; isBack?: boolean }
export type FromEnroll =
  | { kind: 'refused'; code: ProblemCode }
  /** `isOther`: the cursor is of no feed that this one ever was, as after a restore from a backup. */
  | { kind: 'reset'; isOther?: boolean }
  /**
   * What makes the same of somebody who knows nothing as all events up to a place do. Some may say what only later events do,
   * and no more than those up to `live`.
   */
  | { kind: 'facts'; facts: (FeedFact & { at: string })[] }
  /** The end of them: events go on behind this place. */
  | { kind: 'snapshot'; cursor: Cursor }
  | ({ kind: 'event' } & FeedEvent)
  /** `notes`: knows what a `report` is; one that does not is sent none. `relays`: passes on who has `arrived`. */
  | { kind: 'live'; seq: number; notes?: boolean; relays?: boolean }
  /** To a broker that knows what is asked of a `key`. `isEarlier`: they were there before, and are heard. */
  | { kind: 'elsewhere'; broker: string; sessions: Sighting[]; isEarlier: boolean }
  | { kind: 'pong'; id: number }
  | ({ kind: 'ask'; id: number } & Asked)
  | { kind: 'noted'; id: string }
  /** PEM for the key of the certificate that was shown, the CA that issued it behind; it may be what the broker has already. */
  | { kind: 'credential'; certificate: string }

// hash(n) = SHA-256(hash(n-1), body(n)), the rule of runtime/chain.ts; before the first event stand 32 zero octets.
export const genesis = '0'.repeat(64)
export const startCursor: Cursor = { seq: 0, hash: genesis }
/** A longer line is refused (counted in UTF-16 units); a policy document is the largest thing that travels. */
export const maxLineBytes = 4 * 1024 * 1024

export const encodeLine = (message: FromBroker | FromEnroll): string => `${JSON.stringify(message)}\n`
export const decodeBody = (event: FeedEvent): FeedFact & { at: string } => JSON.parse(event.body)

/** So many pieces of a line are put together at once: to do so with each would cost as many times its length. */
const piecesAtOnce = 1_000

/** Splits a byte stream into lines; a line over `maxLineBytes` throws before it is kept. */
export class LineReader {
  #pieces: string[] = []
  #length = 0

  push(chunk: string): string[] {
    const lines = chunk.split('\n')
    const rest = lines.pop()!
    this.#requireLength(this.#length + (lines[0] ?? rest).length)
    for (const line of [...lines.slice(1), rest]) this.#requireLength(line.length)
    if (lines.length > 0) {
      lines[0] = this.#pieces.join('') + lines[0]
      this.#pieces = []
      this.#length = 0
    }
    this.#length += rest.length
    if (this.#pieces.push(rest) > piecesAtOnce) this.#pieces = [this.#pieces.join('')]
    return lines
  }

  #requireLength(length: number): void {
    if (length > maxLineBytes) throw new RangeError('feed line too long')
  }
}
