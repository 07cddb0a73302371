/** Retained messages: which there are, and who is sent them for a new subscription (MQTT 5, 3.3.1.3). */
import { setImmediate } from 'node:timers/promises'
import { isGatewayTopic } from '../contract/topics.ts'
import { isFleetError } from '../runtime/errors.ts'
import type { Message, QoS, SessionStore } from './backends/session-store.ts'
import { type Entry, type Found, GatewayRetained, pageSize } from './gateway-retained.ts'
import { parseFilter } from './wire/packet.ts'
import type { Subscription } from './wire/route-index.ts'

/** Always goes out with the RETAIN flag (MQTT 5, 3.8.3.1). */
export type RetainedDelivery = {
  readonly message: Message
  readonly qos: QoS
  readonly retain: true
  /** That of the subscription, if it has one [MQTT-3.3.4-3]. */
  readonly identifiers: readonly number[]
  /** Seconds that are left, at least 1 [MQTT-3.3.2-6]; missing when the message does not expire. */
  readonly expiryInterval?: number
}

export type RetainedReceiver = {
  /** The policy of this client. */
  mayReceive(topic: string): boolean
  /** Of the messages of one send, where there are several. */
  readonly mostBytes: number
  /**
   * Asked before each send, and waited for.
   *
   * @param isStored what is to be sent is for the store
   * @returns false when nothing more is wanted: unsubscribed, or gone
   */
  room(isStored: boolean): boolean | Promise<boolean>
  /** One message of QoS 0, or a page of QoS 1 and 2, which the store takes in one write. Never none. */
  send(deliveries: readonly RetainedDelivery[]): void | Promise<void>
}

type Store = Pick<SessionStore, 'retain' | 'retained' | 'retainedBy'>
type RetainedOptions = {
  /** Milliseconds of the epoch. */
  now: () => number
  /** Is not delivered any more, and removed when its device is purged. */
  isVoid: (message: Message) => boolean
}
type Node = {
  entry: Entry | undefined
  readonly level: string
  readonly parent: Node | undefined
  readonly children: Map<string, Node>
}

const stepsPerTurn = 1_000

/**
 * Knows every topic that devices have retained, by level, and leaves the messages to the store, which also says what a device
 * may have. It is the store's only writer of them.
 */
export class RetainedMessages {
  readonly #store: Store
  readonly #now: () => number
  readonly #isVoid: (message: Message) => boolean
  readonly #ofGateway: GatewayRetained
  readonly #root = createNode('', undefined)
  #serial = 0
  #messages = 0
  #nodes = 0

  private constructor(store: Store, options: RetainedOptions) {
    this.#store = store
    this.#now = options.now
    this.#isVoid = options.isVoid
    this.#ofGateway = new GatewayRetained(store)
  }

  static async open(store: Store, options: RetainedOptions): Promise<RetainedMessages> {
    const retained = new RetainedMessages(store, options)
    // Nothing that begins with `$` [MQTT-4.7.2-1], where no device may publish.
    for await (const message of store.retained(['#'])) retained.#place(retained.#entryOf(message))
    return retained
  }

  /** Of devices. */
  get counts(): { messages: number; nodes: number } {
    return { messages: this.#messages, nodes: this.#nodes }
  }

  /**
   * Retains a message in place of the one its topic had [MQTT-3.3.1-5]; with an empty payload, none [MQTT-3.3.1-6]
   * [MQTT-3.3.1-7]. Written when it resolves; only then may the message be routed, or a client that subscribes meanwhile
   * could miss it both ways.
   *
   * @returns 'full' when the publisher's device may not have that much: the topic keeps what it had
   */
  async retain(message: Message): Promise<'stored' | 'full'> {
    if (isGatewayTopic(message.topic)) return this.#ofGateway.retain(message)
    const before = this.#find(message.topic)
    if (message.payload.length === 0) {
      if (before !== undefined) await this.#drop(before)
      return 'stored'
    }
    return this.#put(this.#entryOf(message), before, message)
  }

  /**
   * Removes what a device has retained and is void.
   *
   * @param before is done for each before it is removed; where a crash comes between, for that one again
   * @returns how many
   */
  async purge(deviceId: string, before: (message: Message) => Promise<unknown>): Promise<number> {
    let purged = 0
    for (const topic of await this.#store.retainedBy(deviceId)) {
      const entry = this.#find(topic)
      for await (const message of this.#store.retained([topic])) {
        // Somebody else may have retained another one meanwhile.
        if (entry === undefined || this.#find(topic) !== entry || !this.#isVoid(message)) continue
        await before(message)
        await this.#drop(entry)
        purged++
      }
    }
    return purged
  }

  /** The store has removed what these topics had, since it expired. */
  swept(topics: readonly string[]): void {
    const now = this.#now()
    for (const topic of topics) {
      const entry = this.#find(topic)
      // Another one may have been retained meanwhile.
      if (entry !== undefined && entry.expiresAt <= now) this.#unplaceIfCurrent(entry)
    }
  }

  /**
   * Sends what is retained for the filter of a subscription that was just made, and is in the route index by now: what is
   * published from here on reaches the client as any message does, and is not sent twice.
   *
   * @param isNew whether the client did not have this subscription before
   * @returns how many were sent
   */
  async deliver(subscription: Subscription, isNew: boolean, receiver: RetainedReceiver): Promise<number> {
    const { retainHandling } = subscription
    if (retainHandling === 2 || (retainHandling === 1 && !isNew)) return 0 // [MQTT-3.3.1-10] [MQTT-3.3.1-11]
    const parts = parseFilter(subscription.filter)
    if (parts === undefined || parts.group !== undefined) return 0 // 4.8.2: none for shared subscriptions
    let sent = 0
    for await (const found of this.#foundBy(parts.filter, receiver)) {
      // [MQTT-3.8.3-3] knows no exception for retained messages, though some servers make one.
      const wanted = found.filter(({ message }) => !(subscription.noLocal && message.from === subscription.clientId))
      for (const group of groupsOf(wanted, subscription, receiver.mostBytes)) {
        if (!(await receiver.room(isStored(group[0]!, subscription)))) return sent
        const deliveries = this.#current(group, subscription, receiver)
        if (deliveries.length === 0) continue
        await receiver.send(deliveries)
        sent += deliveries.length
      }
    }
    return sent
  }

  async *#foundBy(filter: string, receiver: RetainedReceiver): AsyncGenerator<Found[]> {
    if (isGatewayTopic(filter)) yield* this.#ofGateway.pages(filter)
    else for await (const page of this.#pages(filter, receiver)) yield await this.#read(page)
  }

  async #read(page: readonly Entry[]): Promise<Found[]> {
    const entries = new Map(page.map((entry) => [entry.topic, entry]))
    const found: Found[] = []
    for await (const message of this.#store.retained([...entries.keys()])) {
      if (!this.#isVoid(message)) found.push({ entry: entries.get(message.topic)!, message })
      entries.delete(message.topic)
    }
    // What the store does not have any more is not to be counted either.
    for (const entry of entries.values()) this.#unplaceIfCurrent(entry)
    return found
  }

  /** While there was no room some may have expired, been replaced (and the new one routed), removed or forbidden. */
  #current(group: readonly Found[], subscription: Subscription, receiver: RetainedReceiver): RetainedDelivery[] {
    const now = this.#now()
    return group.flatMap(({ entry, message }) => {
      const { topic, expiresAt = Number.POSITIVE_INFINITY } = message
      if (expiresAt <= now || !this.#isCurrent(entry) || !receiver.mayReceive(topic)) return []
      return [deliveryOf(message, subscription, expiresAt - now)]
    })
  }

  #isCurrent(entry: Entry): boolean {
    const { topic } = entry
    return isGatewayTopic(topic) ? this.#ofGateway.isCurrent(entry) : this.#find(topic) === entry
  }

  /** What matches and was there at the time of the call, a page at a time. */
  async *#pages(filter: string, receiver: RetainedReceiver): AsyncGenerator<Entry[]> {
    const upTo = this.#serial
    let page: Entry[] = []
    let steps = 0
    for (const entry of walk(this.#root, filter.split('/'), 0)) {
      if (++steps % stepsPerTurn === 0) await setImmediate() // others have their turn
      if (entry === undefined || entry.serial > upTo) continue
      if (entry.expiresAt > this.#now() && receiver.mayReceive(entry.topic)) page.push(entry)
      if (page.length < pageSize) continue
      yield page
      page = []
    }
    if (page.length > 0) yield page
  }

  #entryOf(message: Message): Entry {
    const { topic, expiresAt = Number.POSITIVE_INFINITY } = message
    return { topic, expiresAt, serial: ++this.#serial }
  }

  async #put(entry: Entry, before: Entry | undefined, message: Message): Promise<'stored' | 'full'> {
    this.#place(entry)
    try {
      const answer = await this.#store.retain(entry.topic, message)
      if (answer === 'full') this.#undo(entry, before)
      return answer
    } catch (error) {
      // A topic that the store may have stays known: whoever reads it next finds out.
      if (before !== undefined || !isFleetError(error, 'outcome_unknown')) this.#undo(entry, before)
      throw error
    }
  }

  #undo(entry: Entry, before: Entry | undefined): void {
    if (this.#unplaceIfCurrent(entry) && before !== undefined) this.#place(before)
  }

  async #drop(entry: Entry): Promise<void> {
    if (!this.#unplaceIfCurrent(entry)) return
    try {
      await this.#store.retain(entry.topic, null)
    } catch (error) {
      if (this.#find(entry.topic) === undefined) this.#place(entry)
      throw error
    }
  }

  #find(topic: string): Entry | undefined {
    let node: Node | undefined = this.#root
    for (const level of topic.split('/')) {
      node = node.children.get(level)
      if (node === undefined) return undefined
    }
    return node.entry
  }

  /** In place of what the topic has. */
  #place(entry: Entry): void {
    let node = this.#root
    for (const level of entry.topic.split('/')) {
      let child = node.children.get(level)
      if (child === undefined) {
        child = createNode(level, node)
        node.children.set(level, child)
        this.#nodes++
      }
      node = child
    }
    if (node.entry === undefined) this.#messages++
    node.entry = entry
  }

  /** @returns false when the topic has another message by now, or none */
  #unplaceIfCurrent(entry: Entry): boolean {
    let node: Node | undefined = this.#root
    for (const level of entry.topic.split('/')) node = node?.children.get(level)
    if (node?.entry !== entry) return false
    node.entry = undefined
    this.#messages--
    for (let at = node; at.parent !== undefined && at.entry === undefined && at.children.size === 0; at = at.parent) {
      at.parent.children.delete(at.level)
      this.#nodes--
    }
    return true
  }
}

const isStored = ({ message }: Found, subscription: Subscription): boolean => qosOf(message, subscription) > 0

/** Those of QoS 0 one by one, since each may have to wait for a slow reader; the others together, as far as they are small. */
function* groupsOf(found: readonly Found[], subscription: Subscription, most: number): Generator<readonly Found[]> {
  let stored: Found[] = []
  let bytes = 0
  for (const one of found) {
    if (!isStored(one, subscription)) continue
    const { length } = one.message.payload
    if (stored.length > 0 && bytes + length > most) {
      yield stored
      stored = []
      bytes = 0
    }
    stored.push(one)
    bytes += length
  }
  if (stored.length > 0) yield stored
  for (const one of found) if (!isStored(one, subscription)) yield [one]
}

function createNode(level: string, parent: Node | undefined): Node {
  return { entry: undefined, level, parent, children: new Map() }
}

/**
 * The entries whose topics match, and `undefined` for each other place that was looked at. The tree may change meanwhile: a
 * Map's iterator goes on with what is there then.
 */
function* walk(node: Node, levels: readonly string[], at: number): Generator<Entry | undefined> {
  if (at === levels.length) {
    yield node.entry
    return
  }
  const level = levels[at]!
  if (level === '#') {
    yield* walkAll(node)
    return
  }
  yield undefined
  if (level !== '+') {
    const child = node.children.get(level)
    if (child !== undefined) yield* walk(child, levels, at + 1)
    return
  }
  for (const child of wildChildren(node)) yield* walk(child, levels, at + 1)
}

/** `#` stands for the parent level too (4.7.1.2). */
function* walkAll(node: Node): Generator<Entry | undefined> {
  yield node.entry
  for (const child of wildChildren(node)) yield* walkAll(child)
}

/** [MQTT-4.7.2-1]: no wildcard at the beginning stands for a level that begins with `$`. */
function* wildChildren(node: Node): Generator<Node> {
  for (const child of node.children.values()) {
    if (node.parent !== undefined || !child.level.startsWith('$')) yield child
  }
}

const qosOf = (message: Message, { granted }: Subscription): QoS => Math.min(message.qos, granted) as QoS // [MQTT-3.8.4-8]

function deliveryOf(message: Message, subscription: Subscription, leftMs: number): RetainedDelivery {
  const { identifier } = subscription
  const qos = qosOf(message, subscription)
  const identifiers = identifier === undefined ? [] : [identifier]
  if (leftMs === Number.POSITIVE_INFINITY) return { message, qos, retain: true, identifiers }
  return { message, qos, retain: true, identifiers, expiryInterval: Math.ceil(leftMs / 1_000) }
}
