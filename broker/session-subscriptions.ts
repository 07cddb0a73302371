import { isFleetError } from '../runtime/errors.ts'
import type { StoredSubscription } from './backends/session-store.ts'
import { askAbout, type MqttContext, type RefusedPacket as Refused, warnRefused } from './mqtt-context.ts'
import type { RetainedDelivery } from './retained.ts'
import { restoreRoutes } from './routes.ts'
import type { Connection } from './sessions.ts'
import type { BusClient } from './wire/aedes-port.ts'
import { parseFilter, type Subscribe, type Unsubscribe } from './wire/packet.ts'
import { reason } from './wire/reason.ts'
import type { Subscription } from './wire/route-index.ts'

type SubscriptionsOptions = {
  epoch: number
  bus: BusClient
  mayReceive(topic: string): boolean
  /** Resolves when the stored queue has gone out, as far as the client lets it. */
  untilIdle(): Promise<void>
  /** When all of it has, there is room for more, and no more than so many octets are not acknowledged. */
  untilRoom(mostBytes: number): Promise<void>
}

/** The bus asks once for each filter that matches: a few hundred overlapping ones would stall everybody. */
export const maxFilters = 100
/** Denials that one SUBACK names. */
const maxTold = 8

/** What one connection is subscribed to, in the store, in the route index and on the bus; and retained messages for it. */
export class SessionSubscriptions {
  readonly #connection: Connection
  readonly #context: MqttContext
  readonly #options: SubscriptionsOptions
  #waiting: (() => void)[] = []

  constructor(connection: Connection, context: MqttContext, options: SubscriptionsOptions) {
    this.#connection = connection
    this.#context = context
    this.#options = options
  }

  /** Those of a session that goes on are in the store; in the index too, unless a write failed half-way. */
  async restore(): Promise<void> {
    const { store, index } = this.#context
    await restoreRoutes(store, index, this.#connection.clientId!)
    this.#readFilters()
    await this.#options.bus.subscribe([...this.#connection.filters].filter(isPlain))
  }

  async subscribe({ packetId, subscriptions, properties }: Subscribe): Promise<void> {
    const { store, index } = this.#context
    const { filters, clientId: id } = this.#connection
    const clientId = id!
    const identifier = properties?.subscriptionIdentifiers?.[0]
    const granted = new Map<string, StoredSubscription>()
    const told: string[] = []
    const reasons = subscriptions.map(({ filter, ...options }) => {
      const refusal = this.#refusalOf(filter, told)
      if (refusal !== undefined) return refusal
      filters.add(filter)
      granted.set(filter, { filter, ...options, ...(identifier === undefined ? {} : { identifier }) })
      return options.qos
    })
    if (this.#connection.endReason !== undefined) return // one was denied by a policy that disconnects
    const added = [...granted.values()]
    const changing =
      added.length === 0 ? undefined : store.changeSubscriptions(clientId, this.#options.epoch, added, [])
    // In the same turn as in the store, so that both see packets in the same order.
    const routes = added.map(({ qos, ...rest }): Subscription => ({ clientId, granted: qos, ...rest }))
    const fresh = new Set(routes.filter((route) => index.add(route)).map(({ filter }) => filter))
    try {
      await changing
    } catch (error) {
      if (!isFleetError(error, 'quota_exceeded')) throw error
      await restoreRoutes(store, index, clientId)
      this.#readFilters()
      const all = reasons.map((code) => (code < 0x80 ? reason.quotaExceeded : code))
      for (const filter of granted.keys()) this.#refuse(filter, { reason: error.code, detail: error.message }, told)
      this.#answer(packetId, all, told)
      return
    }
    // Not what the client, behind this packet, has unsubscribed from: nobody would take it off the bus again.
    await this.#options.bus.subscribe([...granted.keys()].filter((filter) => filters.has(filter) && isPlain(filter)))
    this.#answer(packetId, reasons, told)
    for (const route of routes) await this.#sendRetained(route, fresh.has(route.filter))
  }

  async unsubscribe({ packetId, filters }: Unsubscribe): Promise<void> {
    const { store, index } = this.#context
    const { clientId, link } = this.#connection
    const changing = store.changeSubscriptions(clientId!, this.#options.epoch, [], filters)
    for (const filter of filters) {
      index.remove(clientId!, filter)
      this.#connection.filters.delete(filter)
    }
    this.#options.bus.unsubscribe(filters.filter(isPlain))
    const { existed } = await changing
    const reasons = filters.map((filter) => (existed.has(filter) ? reason.success : reason.noSubscriptionExisted))
    link.send({ type: 'unsuback', packetId, reasons })
  }

  /** The link takes messages again, or never will. */
  room(): void {
    for (const resolve of this.#waiting.splice(0)) resolve()
  }

  #readFilters(): void {
    const { filters, clientId } = this.#connection
    filters.clear()
    for (const { filter } of this.#context.index.filtersOf(clientId!)) filters.add(filter)
  }

  get #isLive(): boolean {
    return this.#connection.state === 'live' && !this.#connection.cut
  }

  #answer(packetId: number, reasons: number[], denials: readonly string[] = []): void {
    const properties = denials.length === 0 ? {} : { properties: { reasonString: askAbout(denials.join(' ')) } }
    this.#connection.link.send({ type: 'suback', packetId, reasons, ...properties })
  }

  #refusalOf(filter: string, told: string[]): number | undefined {
    const { filters } = this.#connection
    const parts = parseFilter(filter)
    if (parts === undefined) return reason.topicFilterInvalid
    const matcher = this.#context.gate.matcherOf(this.#connection)
    const { limits, onDeny } = matcher
    const { allowed, statement } = matcher.allows('subscribe', parts.filter)
    const isFull = filters.size >= Math.min(maxFilters, limits.subscriptions ?? maxFilters) && !filters.has(filter)
    if (allowed && !isFull) return undefined
    const problem = allowed ? 'quota_exceeded' : 'subscribe_denied'
    const needed = allowed ? { needed: filters.size + 1 } : {}
    const denial = this.#refuse(parts.filter, { reason: problem, statement, ...needed }, told)
    if (!allowed && onDeny === 'disconnect') this.#connection.close('subscribe_denied', askAbout(denial), denial)
    return allowed ? reason.quotaExceeded : reason.notAuthorized
  }

  #refuse(topic: string, why: Pick<Refused, 'reason' | 'detail' | 'needed' | 'statement'>, told: string[]): string {
    const asked = { action: 'subscribe', topic } as const
    const denial = warnRefused(this.#context, this.#connection, { event: 'subscribe.denied', asked, ...why })
    if (told.length < maxTold && !told.includes(denial)) told.push(denial)
    return denial
  }

  async #sendRetained(route: Subscription, isNew: boolean): Promise<void> {
    const { mayReceive, untilIdle, untilRoom } = this.#options
    const { bytes } = this.#context.quotas.keptFor(this.#connection.deviceId!)
    await this.#context.retained.deliver(route, isNew, {
      mayReceive,
      mostBytes: bytes / 8,
      room: async (isStored) => {
        // What is stored before its client takes it fills the queue, and what comes then is lost.
        await (isStored ? untilRoom(bytes / 2) : untilIdle())
        return this.#isLive && this.#connection.filters.has(route.filter)
      },
      send: (deliveries) => this.#sendAll(route.clientId, deliveries),
    })
  }

  /** Above QoS 0 they are messages of the session's queue. */
  async #sendAll(clientId: string, deliveries: readonly RetainedDelivery[]): Promise<void> {
    const queued = deliveries.flatMap(({ message, qos, retain, identifiers }) =>
      qos === 0 ? [] : [{ clientId, message, qos, retain, identifiers }],
    )
    if (queued.length > 0) await this.#context.router.enqueueRetained(queued)
    for (const { message, qos, retain, identifiers } of deliveries) {
      if (qos > 0) continue
      const delivery = { qos, retain, identifiers, mayWait: true }
      const { mayReceive } = this.#options
      // Asked again after each wait: the policy may have changed.
      while (mayReceive(message.topic) && this.#connection.link.deliver(message, delivery) === 'waiting') {
        await new Promise<void>((resolve) => this.#waiting.push(resolve))
      }
    }
  }
}

/** Not of a shared subscription: those are not for the bus. */
const isPlain = (filter: string): boolean => parseFilter(filter)?.group === undefined
