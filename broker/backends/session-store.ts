/**
 * What keeps MQTT sessions: who owns one, its subscriptions, its queue, its QoS 2 state, its will; and retained messages.
 *
 * - Effects take place in the order of the calls, whether or not a call is awaited before the next one.
 * - A call that resolves is written. `enqueue`, `changeSubscriptions`, `putWill`, `dropDevice`, `retain` of QoS 1 and 2 and
 *   whatever QoS 2 rests on are on disk by then; the rest outlives the process, and a power cut at worst brings back a
 *   message that was acknowledged, which is sent again (at least once).
 * - A session that is claimed to be kept for 0 ms ends with its connection: nobody would find it after a crash, so nothing of it
 *   has to be written, but for its will.
 * - Writes carry the epoch that `claim` gave: at most one epoch may write.
 * - No call outlives its deadline, but for the turn that it waits for while a store that does answer is busy.
 *
 * A call rejects with FleetError
 *   `session_taken_over`  the epoch is not the session's any more, and nothing was changed
 *   `quota_exceeded`      a quota does not allow it, and nothing was changed
 *   `unavailable`         the store cannot take it now, and nothing was changed
 *   `outcome_unknown`     it was or was not changed
 */

import type { Properties } from '../wire/properties.ts'

export type QoS = 0 | 1 | 2

/** Never mutated, and shared by all its receivers. */
export type Message = {
  readonly topic: string
  readonly payload: Buffer
  /** As published; a delivery may have less. */
  readonly qos: QoS
  readonly retain: boolean
  /** Those of an MQTT 5 PUBLISH; of a will also its message expiry interval, which begins when it is published. */
  readonly properties?: Readonly<Properties>
  /** Milliseconds of the epoch. Not delivered from then on, unless its delivery had begun [MQTT-3.3.2-5]. */
  readonly expiresAt?: number
  /** Client id of the publisher; its device is the message's owner where it is retained. */
  readonly from: string
  /** Milliseconds of the epoch. */
  readonly publishedAt: number
}

export type StoredSubscription = {
  readonly filter: string
  /** As granted. */
  readonly qos: QoS
  readonly noLocal: boolean
  readonly retainAsPublished: boolean
  readonly retainHandling: 0 | 1 | 2
  readonly identifier?: number
}

/** One message to one session. The same object as `message` in several of one call is stored once. */
export type Delivery = {
  readonly clientId: string
  readonly message: Message
  /** QoS 0 is never stored. */
  readonly qos: 1 | 2
  /** The RETAIN flag that it goes out with; false when missing [MQTT-3.3.1-12]. */
  readonly retain?: boolean
  /** Subscription identifiers of all subscriptions that matched. */
  readonly identifiers: readonly number[]
  /** What may wait for this session. */
  readonly limits: { readonly messages: number; readonly bytes: number }
}
export type Receiver = Pick<Delivery, 'clientId'>
export type EnqueueAnswer = 'queued' | 'full' | 'noSession'

/** A place in a session's queue. `seq` grows along the queue, over restarts too. */
export type Queued = {
  readonly seq: number
  readonly qos: 1 | 2
  readonly retain: boolean
  readonly identifiers: readonly number[]
} & (
  | {
      readonly state: 'publish'
      readonly message: Message
      /** Present when it was noted to go out: it goes out again with this id [MQTT-4.4.0-1]. */
      readonly packetId?: number
      /** It went out before, or may have where a crash took the note of that [MQTT-3.3.1-1]. */
      readonly dup: boolean
    }
  /** The receiver has it: PUBREL goes out, the message never again [MQTT-4.3.3-6]. */
  | { readonly state: 'pubrel'; readonly packetId: number }
)

export type Will = {
  readonly message: Message
  readonly delayMs: number
  /** DER of what its connection proved itself with: the policy may ask for names in it when the will is published. */
  readonly certificate?: Buffer
}
/** A session or a will by the epoch that it was left with. */
export type Due = { readonly clientId: string; readonly epoch: number }

export type Claim = {
  /** Greater than any before, over restarts and over sessions that were forgotten. */
  readonly epoch: number
  /** Whether there was a session to go on with. */
  readonly present: boolean
  /** The broker that had the session and did not release it; what it still tries is refused. */
  readonly formerOwner?: string
  /** Client id of a session of the same device that had to go for this one. */
  readonly displaced?: string
  /** Whether a will that was waiting may be due now. */
  readonly isWillLeft: boolean
}

/** What one device may have stored, all its sessions together. */
export type DeviceQuota = {
  readonly sessions: number
  readonly subscriptions: number
  /** Waiting for its sessions. */
  readonly messages: number
  /** Of those, and of the filters of its subscriptions. */
  readonly bytes: number
  /** Published by it and retained. */
  readonly retained: number
  readonly retainedBytes: number
}

/** Of all sessions; `bytes` are those of their messages and filters. */
export type Counts = { sessions: number; messages: number; bytes: number }

/** The queue of a session that is in memory alone; good in the turn in which it was asked for. All of it is QoS 1. */
export interface QueueInMemory {
  /** In order, from behind `after` (0: from the start), without what has expired. */
  read(after: number, limit: number): Queued[]
  /** Notes the packet id a message went out with. */
  sent(seq: number, packetId: number): void
  /** PUBACK. Unknown packet ids are fine. */
  ack(packetId: number): void
  /** As that of the store. */
  discard(seq: number): void
}

export interface SessionStore extends AsyncDisposable {
  readonly counts: Counts
  /**
   * Makes `broker` the owner. A will that the former connection left behind becomes due where a server publishes it: unless
   * the session goes on before the will's delay has passed [MQTT-3.1.3-9].
   *
   * @param keepMs how long the session is kept (Infinity: for good) if its owner dies without a `release`
   * @param clean  begins with nothing; what there was is forgotten
   * @throws FleetError `quota_exceeded` when the device has no session left that could be displaced
   */
  claim(clientId: string, broker: string, options: { keepMs: number; clean?: boolean }): Promise<Claim>
  /**
   * The connection is over. A will that is still stored becomes due after its delay, or when the session ends.
   * With 'forget' also for a session that is released already (see `deadlines`).
   *
   * @param keepUntil milliseconds of the epoch; Infinity for good
   * @param dropsWill its will goes with it, unpublished, in the same write
   */
  release(
    clientId: string,
    epoch: number,
    keepUntil: number | 'forget',
    options?: { dropsWill?: boolean },
  ): Promise<void>

  /** Every session that is kept, to build an index from. */
  sessions(): AsyncIterable<{ clientId: string; subscriptions: StoredSubscription[] }>
  subscriptions(clientId: string): Promise<StoredSubscription[]>
  /**
   * All or none of it; `remove` before `add`, and an equal filter replaces.
   * @returns which of the filters were there before
   */
  changeSubscriptions(
    clientId: string,
    epoch: number,
    add: readonly StoredSubscription[],
    remove: readonly string[],
  ): Promise<{ existed: Set<string> }>

  /**
   * To all receivers or to none; one entry for each session and message. Only once it resolves may the publisher hear
   * PUBACK or PUBREC.
   *
   * @param incoming the QoS 2 packet that this came with, noted in the same write: a crash can neither lose nor repeat it.
   *   When it was noted before, nothing is enqueued again and the answers are 'queued'.
   */
  enqueue(
    deliveries: readonly Delivery[],
    incoming?: { clientId: string; epoch: number; packetId: number },
  ): Promise<EnqueueAnswer[]>
  /**
   * Whether `enqueueAtOnce` may be called in this turn: one message of QoS 1, to sessions that are all in memory alone.
   *
   * @param bytes of its topic and payload
   */
  mayEnqueueAtOnce(receivers: readonly Receiver[], bytes: number): boolean
  /** The message is kept as it is: see `ownOf`. */
  enqueueAtOnce(deliveries: readonly Delivery[]): EnqueueAnswer[]
  /** Undefined for one that is not in memory alone, and where the store cannot say. */
  findQueueInMemory(clientId: string, epoch: number): QueueInMemory | undefined
  /** Of what waits for a client, or is not acknowledged. */
  queuedBytes(clientId: string): number
  /** In order, from behind `after` (0: from the start), without what has expired. */
  readQueue(clientId: string, epoch: number, after: number, limit: number): Promise<Queued[]>
  /**
   * Notes the packet id a message goes out with. For QoS 2 to be sent only once it resolves.
   * @returns false when there is no such entry any more, and nothing is to be sent
   * @throws FleetError `conflict` when another message has this packet id
   */
  assignPacketId(clientId: string, epoch: number, seq: number, packetId: number): Promise<boolean>
  /**
   * PUBREC: the message is dropped, its packet id kept. PUBREL is to be sent only once this resolves.
   * @returns false when no QoS 2 message has this packet id
   */
  markReceived(clientId: string, epoch: number, packetId: number): Promise<boolean>
  /** PUBACK, PUBCOMP, or a PUBREC that refuses. Unknown packet ids are fine. */
  ack(clientId: string, epoch: number, packetIds: readonly number[]): Promise<void>
  /** Entries that cannot be delivered (too large for the client, not allowed any more). Unknown ones are fine. */
  discard(clientId: string, epoch: number, seqs: readonly number[]): Promise<void>

  /**
   * QoS 2 packet ids of the client that wait for their PUBREL.
   * @returns put: false when it was noted before; take, has: whether it is noted
   */
  incoming(clientId: string, epoch: number, packetId: number, action: 'put' | 'take' | 'has'): Promise<boolean>

  /** In place of one that this epoch put before. */
  putWill(clientId: string, epoch: number, will: Will): Promise<void>
  /** The will that this epoch put, for one caller; publishing it before taking it makes sure that a crash does not lose it. */
  takeWill(clientId: string, epoch: number): Promise<Will | undefined>

  /** @param message in place of the one retained for `topic`; null for none */
  retain(topic: string, message: Message | null): Promise<'stored' | 'full'>
  /**
   * Retained messages that match any of the filters, each once. May take as long as its reader wants, and never gives what was
   * replaced meanwhile; but for topics of the gateway itself, of which it does not know.
   */
  retained(filters: readonly string[]): AsyncIterable<Message>

  /** Topics of what a device has retained. */
  retainedBy(deviceId: string): Promise<string[]>

  /**
   * Sessions to be forgotten (by `release`) and wills to be published (then `takeWill`), at most some of them: ask again
   * until there are none. Also frees what messages that expired by then take, and names the topics of those that were
   * retained, each once.
   */
  deadlines(before: number): Promise<{ sessions: Due[]; wills: (Due & Will)[]; retained: string[] }>
  /**
   * Forgets all sessions of a device with their queues, and its wills, unpublished. Retained messages stay.
   * @returns client ids of the sessions
   */
  dropDevice(deviceId: string): Promise<string[]>
}

/** Publisher of what the broker says itself, and the first level of where it does; no client id begins with `$`. */
export const brokerItself = '$fleetgate'

/** A client id is the device id, or the device id, `:` and a suffix. */
export function deviceOf(clientId: string): string {
  const end = clientId.indexOf(':')
  return end < 0 ? clientId : clientId.slice(0, end)
}
