import type { PolicyLimits } from '../contract/policy-limits.ts'
import {
  type Delivery,
  deviceOf,
  type EnqueueAnswer,
  type Message,
  type SessionStore,
} from './backends/session-store.ts'
import type { Audience } from './fast-path.ts'
import type { Quotas } from './quotas.ts'
import type { RetainedMessages } from './retained.ts'
import type { Sessions } from './sessions.ts'
import type { Bus } from './wire/aedes-port.ts'
import type { Delivery as Entry, RouteIndex } from './wire/route-index.ts'

/** What the bus carries: a message and what each of its live receivers gets of it at QoS 0. */
export type Carried = { readonly message: Message; readonly entries: ReadonlyMap<string, Entry> }
/** A QoS 2 packet that a message came with. */
export type Incoming = { clientId: string; epoch: number; packetId: number }

type RouterOptions = {
  index: RouteIndex
  bus: Bus<Carried>
  store: SessionStore
  retained: RetainedMessages
  quotas: Quotas
  sessions: Sessions
  /** Whether the policy lets a client that is connected have this; for others it is asked at the delivery. */
  mayReceive(clientId: string, topic: string): boolean
  limits: { absent: Delivery['limits']; live: Delivery['limits'] }
  onDropped(what: 'queued' | 'retained', owner: string, topic: string): void
}

/** From a message that was allowed in to everybody who gets it. */
export class Router {
  readonly #options: RouterOptions
  /** Messages on the bus, by who has sent them. */
  readonly #underWay = new Map<string, number>()

  constructor(options: RouterOptions) {
    this.#options = options
  }

  /** To be waited for before the message is routed: who subscribes meanwhile could miss it both ways. */
  async retain(message: Message, limits: PolicyLimits): Promise<void> {
    this.#options.quotas.note(deviceOf(message.from), limits)
    const answer = await this.#options.retained.retain(message)
    if (answer === 'full') this.#options.onDropped('retained', deviceOf(message.from), message.topic)
  }

  /** Whether the bus still has a message of this client: one that is delivered by another way would overtake it. */
  isUnderWay(clientId: string): boolean {
    return this.#underWay.size > 0 && this.#underWay.has(clientId)
  }

  /**
   * Routes in the turn of the call, so that messages keep their order.
   *
   * @returns whether there was a matching subscription, once all that was promised is stored
   */
  async route(message: Message, incoming?: Incoming): Promise<boolean> {
    const { index, bus, store, sessions } = this.#options
    const { topic } = message
    const { deliveries, groups } = index.match(topic, message.from)
    const entries = new Map<string, Entry>()
    const queued: Delivery[] = []
    for (const entry of deliveries) {
      const isLive = sessions.findLive(entry.clientId) !== undefined
      if (message.qos === 0 || entry.granted === 0) {
        if (isLive) entries.set(entry.clientId, entry)
      } else if (this.#mayHave(entry.clientId, topic)) queued.push(this.#deliveryOf(message, entry))
    }
    for (const group of groups) {
      const chosen = index.pick(
        group,
        (clientId) => sessions.findLive(clientId) !== undefined,
        (clientId) => this.#mayHave(clientId, topic),
      )
      if (chosen === undefined) continue
      // An object of its own: who is in the group and has a subscription beside gets both (MQTT 5, 4.8.2).
      if (message.qos > 0 && chosen.granted > 0) queued.push(this.#deliveryOf({ ...message }, chosen))
      else sessions.findLive(chosen.clientId)?.receiver?.deliver(message, chosen)
    }
    if (entries.size > 0) {
      this.#count(message.from, 1)
      bus.publish(topic, { message, entries }, () => this.#count(message.from, -1))
    }
    if (queued.length > 0) await this.#enqueue(queued, incoming)
    else if (incoming !== undefined) await store.incoming(incoming.clientId, incoming.epoch, incoming.packetId, 'put')
    return deliveries.length > 0 || groups.length > 0
  }

  /** Messages for one session that is connected, in one write. */
  async enqueueRetained(deliveries: readonly Omit<Delivery, 'limits'>[]): Promise<void> {
    const limits = this.#options.limits.live
    await this.#enqueue(
      deliveries.map((delivery) => ({ ...delivery, limits })),
      undefined,
    )
  }

  /**
   * Whether all who are to have a message of QoS 1 above QoS 0 are connected, with sessions that are in memory alone.
   *
   * @param bytes of its topic and payload
   */
  mayEnqueueAtOnce({ stored, hasAbsent }: Audience, bytes: number): boolean {
    return !hasAbsent && this.#options.store.mayEnqueueAtOnce(stored, bytes)
  }

  /** To those, and to whoever gets it at QoS 0, where `mayEnqueueAtOnce` says so in this turn. @param message kept as it is */
  enqueueAtOnce(message: Message, { stored, receivers }: Audience): void {
    const queued = stored.map((entry) => this.#deliveryOf(message, entry))
    const answers = this.#options.store.enqueueAtOnce(queued)
    this.#wake(queued)
    this.#noteFull(queued, answers)
    if (receivers.length === stored.length) return
    for (const { receiver, delivery } of receivers) if (delivery.granted === 0) receiver.deliver(message, delivery)
  }

  #count(from: string, more: 1 | -1): void {
    const underWay = (this.#underWay.get(from) ?? 0) + more
    if (underWay === 0) this.#underWay.delete(from)
    else this.#underWay.set(from, underWay)
  }

  #mayHave(clientId: string, topic: string): boolean {
    return this.#options.sessions.findLive(clientId) === undefined || this.#options.mayReceive(clientId, topic)
  }

  #deliveryOf(message: Message, { clientId, granted, retainAsPublished, identifiers }: Entry): Delivery {
    const { limits, sessions } = this.#options
    return {
      clientId,
      message,
      qos: Math.min(message.qos, granted) as 1 | 2, // [MQTT-3.8.4-8]
      retain: message.retain && retainAsPublished, // [MQTT-3.3.1-12] [MQTT-3.3.1-13]
      identifiers,
      limits: sessions.findLive(clientId) === undefined ? limits.absent : limits.live,
    }
  }

  async #enqueue(queued: readonly Delivery[], incoming: Incoming | undefined): Promise<void> {
    const enqueued = this.#options.store.enqueue(queued, incoming)
    // The store has it in its order by now; the sender's acknowledgement alone waits for the disk.
    this.#wake(queued)
    this.#noteFull(queued, await enqueued)
  }

  #wake(queued: readonly Delivery[]): void {
    for (const { clientId } of queued) this.#options.sessions.findLive(clientId)?.receiver?.wake()
  }

  #noteFull(queued: readonly Delivery[], answers: readonly EnqueueAnswer[]): void {
    for (let at = 0; at < answers.length; at++) {
      if (answers[at] === 'full') this.#options.onDropped('queued', queued[at]!.clientId, queued[at]!.message.topic)
    }
  }
}
