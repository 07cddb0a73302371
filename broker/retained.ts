/** Retained messages: which there are, what they may take, and who is sent them for a new subscription (MQTT 5, 3.3.1.3). */
import { setImmediate } from 'node:timers/promises'
import { isFleetError } from '../runtime/errors.ts'
import { deviceOf, type Message, type QoS, type SessionStore } from './backends/session-store.ts'
import { parseFilter } from './wire/packet.ts'
import type { Subscription } from './wire/route-index.ts'

/** What all clients of one device may have retained. `bytes` count topics, payloads and properties. */
export type RetainedLimits = { readonly messages: number; readonly bytes: number }

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
  /** Asked before each message, and waited for. @returns false when nothing more is wanted: unsubscribed, or gone */
  room(): boolean | Promise<boolean>
  send(delivery: RetainedDelivery): void | Promise<void>
}

type Store = Pick<SessionStore, 'retain' | 'retained'>
type Entry = {
  readonly topic: string
  /** Device id. */
  readonly owner: string
  readonly bytes: number
  /** Milliseconds; Infinity for good */
  readonly expiresAt: number
  /** Grows with each message that is retained. */
  readonly serial: number
}
type Owner = { readonly entries: Set<Entry>; bytes: number }
type Node = {
  entry: Entry | undefined
  readonly level: string
  readonly parent: Node | undefined
  readonly children: Map<string, Node>
}

const pageSize = 64
const stepsPerTurn = 1_000

/**
 * Knows every retained topic, by level, and leaves the messages to the store. It is the store's only writer of them.
 */
export class RetainedMessages {
  readonly #store: Store
  readonly #limits: RetainedLimits
  readonly #now: () => number
  readonly #root = createNode('', undefined)
  readonly #owners = new Map<string, Owner>()
  #serial = 0
  #messages = 0
  #bytes = 0
  #nodes = 0

  private constructor(store: Store, options: { limits: RetainedLimits; now: () => number }) {
    this.#store = store
    this.#limits = options.limits
    this.#now = options.now
  }

  /** @param options.now milliseconds of the epoch */
  static async open(store: Store, options: { limits: RetainedLimits; now: () => number }): Promise<RetainedMessages> {
    const retained = new RetainedMessages(store, options)
    for await (const message of store.retained(['#'])) retained.#place(retained.#entryOf(message))
    return retained
  }

  get counts(): { messages: number; owners: number; bytes: number; nodes: number } {
    return { messages: this.#messages, owners: this.#owners.size, bytes: this.#bytes, nodes: this.#nodes }
  }

  /**
   * Retains a message in place of the one its topic had [MQTT-3.3.1-5]; with an empty payload, none [MQTT-3.3.1-6]
   * [MQTT-3.3.1-7]. Written when it resolves; only then may the message be routed, or a client that subscribes meanwhile
   * could miss it both ways.
   *
   * @returns 'full' when the publisher's device may not have that much: the topic keeps what it had
   */
  async retain(message: Message): Promise<'stored' | 'full'> {
    const before = this.#find(message.topic)
    if (message.payload.length === 0) {
      if (before !== undefined) await this.#drop(before)
      return 'stored'
    }
    const entry = this.#entryOf(message)
    // Not waited for here: the store takes effect in the order of the calls, and so do we.
    const dropped = this.#hasRoom(entry, before) ? [] : this.#dropExpired(entry.owner, before)
    if (!this.#hasRoom(entry, before)) {
      await Promise.all(dropped)
      return 'full'
    }
    const [answer] = await Promise.all([this.#put(entry, before, message), ...dropped])
    return answer
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
    for await (const page of this.#pages(parts.filter, receiver)) {
      const missing = new Set(page)
      for await (const message of this.#store.retained(page.map(({ topic }) => topic))) {
        const entry = page.find(({ topic }) => topic === message.topic)
        if (entry === undefined) continue
        missing.delete(entry)
        // [MQTT-3.8.3-3] knows no exception for retained messages, though some servers make one.
        if (subscription.noLocal && message.from === subscription.clientId) continue
        if (!(await receiver.room())) return sent
        // While there was no room it may have been replaced (then the new one has been routed), removed or forbidden.
        if (this.#find(message.topic) !== entry || !receiver.mayReceive(message.topic)) continue
        const leftMs = (message.expiresAt ?? Number.POSITIVE_INFINITY) - this.#now()
        if (leftMs <= 0) {
          await this.#drop(entry)
          continue
        }
        await receiver.send(deliveryOf(message, subscription, leftMs))
        sent++
      }
      // What the store does not have any more (it sweeps on its own) is not to be counted either.
      for (const entry of missing) this.#unplaceIfCurrent(entry)
    }
    return sent
  }

  /** @returns how many messages of the device's clients were removed */
  async purgeOwner(deviceId: string): Promise<number> {
    const entries = [...(this.#owners.get(deviceId)?.entries ?? [])]
    await Promise.all(entries.map((entry) => this.#drop(entry)))
    return entries.length
  }

  /** What matches and was there at the time of the call, a page at a time. Expired messages are removed on the way. */
  async *#pages(filter: string, receiver: RetainedReceiver): AsyncGenerator<Entry[]> {
    const upTo = this.#serial
    let page: Entry[] = []
    let steps = 0
    for (const entry of walk(this.#root, filter.split('/'), 0)) {
      if (++steps % stepsPerTurn === 0) await setImmediate() // others have their turn
      if (entry === undefined || entry.serial > upTo) continue
      if (entry.expiresAt <= this.#now()) await this.#drop(entry)
      else if (receiver.mayReceive(entry.topic)) page.push(entry)
      if (page.length < pageSize) continue
      yield page
      page = []
    }
    if (page.length > 0) yield page
  }

  #entryOf(message: Message): Entry {
    const { topic, expiresAt = Number.POSITIVE_INFINITY } = message
    return { topic, owner: deviceOf(message.from), bytes: bytesOf(message), expiresAt, serial: ++this.#serial }
  }

  #hasRoom({ owner, bytes }: Entry, before: Entry | undefined): boolean {
    const has = this.#owners.get(owner)
    const replaced = before?.owner === owner ? before : undefined
    const messages = (has?.entries.size ?? 0) + (replaced === undefined ? 1 : 0)
    const total = (has?.bytes ?? 0) - (replaced?.bytes ?? 0) + bytes
    return messages <= this.#limits.messages && total <= this.#limits.bytes
  }

  #dropExpired(owner: string, except: Entry | undefined): Promise<void>[] {
    const now = this.#now()
    const expired = [...(this.#owners.get(owner)?.entries ?? [])].filter(
      (entry) => entry.expiresAt <= now && entry !== except,
    )
    return expired.map((entry) => this.#drop(entry))
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
    if (node.entry !== undefined) this.#uncount(node.entry)
    node.entry = entry
    this.#messages++
    this.#bytes += entry.bytes
    const owner = this.#owners.get(entry.owner) ?? { entries: new Set(), bytes: 0 }
    owner.entries.add(entry)
    owner.bytes += entry.bytes
    this.#owners.set(entry.owner, owner)
  }

  /** @returns false when the topic has another message by now, or none */
  #unplaceIfCurrent(entry: Entry): boolean {
    let node: Node | undefined = this.#root
    for (const level of entry.topic.split('/')) node = node?.children.get(level)
    if (node?.entry !== entry) return false
    node.entry = undefined
    this.#uncount(entry)
    for (let at = node; at.parent !== undefined && at.entry === undefined && at.children.size === 0; at = at.parent) {
      at.parent.children.delete(at.level)
      this.#nodes--
    }
    return true
  }

  #uncount(entry: Entry): void {
    const owner = this.#owners.get(entry.owner)!
    this.#messages--
    this.#bytes -= entry.bytes
    owner.entries.delete(entry)
    owner.bytes -= entry.bytes
    if (owner.entries.size === 0) this.#owners.delete(entry.owner)
  }
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

function deliveryOf(message: Message, { granted, identifier }: Subscription, leftMs: number): RetainedDelivery {
  const qos = Math.min(message.qos, granted) as QoS // [MQTT-3.8.4-8]
  const identifiers = identifier === undefined ? [] : [identifier]
  if (leftMs === Number.POSITIVE_INFINITY) return { message, qos, retain: true, identifiers }
  return { message, qos, retain: true, identifiers, expiryInterval: Math.ceil(leftMs / 1_000) }
}

const bytesOf = ({ topic, payload, properties }: Message): number =>
  Buffer.byteLength(topic) + payload.length + valueBytes(properties)

function valueBytes(value: unknown): number {
  if (typeof value === 'string') return Buffer.byteLength(value)
  if (value instanceof Uint8Array) return value.length
  if (value === undefined) return 0
  if (typeof value !== 'object' || value === null) return 4
  return Object.values(value).reduce((sum: number, one) => sum + valueBytes(one), 0)
}
