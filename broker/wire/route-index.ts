/** Who gets a message: the subscriptions of all sessions, connected or stored. */
import { FleetError } from '../../runtime/errors.ts'
import { type FilterNode, FilterTree } from './filter-tree.ts'
import { parseFilter, type Qos } from './packet.ts'

export type Subscription = {
  readonly clientId: string
  /** as the client wrote it, `$share/group/` included */
  readonly filter: string
  readonly granted: Qos
  readonly noLocal: boolean
  readonly retainAsPublished: boolean
  readonly retainHandling: 0 | 1 | 2
  readonly identifier?: number | undefined
}

/** What one client gets of a message, whatever number of its subscriptions matched. Shared; not to be changed. */
export type Delivery = {
  readonly clientId: string
  /** The highest QoS that a matching subscription was granted; the message's own QoS caps it [MQTT-3.8.4-8]. */
  readonly granted: Qos
  /** Whether the RETAIN flag goes out as it came in [MQTT-3.3.1-13], or as 0 [MQTT-3.3.1-12]. */
  readonly retainAsPublished: boolean
  /** Ascending. One for each matching subscription that has one, so the same may come twice (MQTT 5, 3.3.4). */
  readonly identifiers: readonly number[]
}

/** A shared subscription. `filter` is the one behind the group's name; `members` are in the order in which they came. */
export type Group = { readonly group: string; readonly filter: string; readonly members: readonly Delivery[] }

/** Groups get a copy each, also where a member has a subscription of its own that matches (MQTT 5, 4.8.2). */
export type Route = {
  readonly deliveries: readonly Delivery[]
  readonly groups: readonly Group[]
  /** What clients with a matching no-local subscription get of what they publish themselves, where there are such. */
  readonly own?: ReadonlyMap<string, Delivery | undefined> | undefined
}

type SharedGroup = { readonly group: string; readonly filter: string; readonly members: Delivery[]; next: number }
/** `stamp`, `place` and `merged`: where the merge that is under way has put this client. */
type Client = { id: string; entries: Map<string, Entry>; stamp: number; place: number; merged: Merged | undefined }
type Entry = {
  subscription: Subscription
  noLocal: boolean
  delivery: Delivery
  readonly client: Client
  readonly node: FilterNode<Subscribers>
  /** Of a shared subscription. */
  readonly group: SharedGroup | undefined
  /** Otherwise the place among the filter's entries. */
  at: number
}
/** Everybody with one filter. */
type Subscribers = {
  readonly filter: string
  readonly entries: Entry[]
  groups: Map<string, SharedGroup> | undefined
  /** For topics that no other filter matches; undefined until one is looked for. */
  route: FoundRoute | undefined
}
type Merged = { readonly clientId: string; granted: Qos; retainAsPublished: boolean; readonly identifiers: number[] }
type FoundRoute = Required<Route>

const none: readonly number[] = []
const nobody: FoundRoute = Object.freeze({ deliveries: [], groups: [], own: undefined })

const maxCachedTopicLength = 256
/** Deliveries in merged routes, all cached topics together: some 20 MB at worst. */
const maxCachedDeliveries = 262_144

/** Memory is bounded by what is added; whoever adds has counted it. */
export class RouteIndex {
  readonly #tree: FilterTree<Subscribers>
  readonly #clients = new Map<string, Client>()
  #subscriptions = 0
  #groups = 0
  #epoch = 0
  #stamp = 0
  readonly #found: Subscribers[] = []

  // A slot for each value of the last bits of a topic's hash: a topic takes another's place, and nothing has to be evicted.
  readonly #cachedTopics: (string | undefined)[]
  readonly #cachedRoutes: (FoundRoute | undefined)[]
  readonly #cachedSizes: Uint32Array
  /** Hash of the topic that was last looked for in vain. Only one that comes twice in a row is worth its place. */
  readonly #missed: Int32Array
  readonly #cachedSlots: number[] = []
  #cachedDeliveries = 0

  /**
   * @param seed         any 32 bits that a client cannot know
   * @param cachedTopics rounded up to a power of two; by default some 30 MB when all are in use
   */
  constructor(options: { seed: number; cachedTopics?: number }) {
    this.#tree = new FilterTree(options.seed)
    const slots = 2 ** Math.ceil(Math.log2(options.cachedTopics ?? 65_536))
    this.#cachedTopics = new Array(slots).fill(undefined)
    this.#cachedRoutes = new Array(slots).fill(undefined)
    this.#cachedSizes = new Uint32Array(slots)
    this.#missed = new Int32Array(slots)
  }

  /** Grows with every change: what was derived from the index holds while this stays. */
  get epoch(): number {
    return this.#epoch
  }

  get counts(): { clients: number; subscriptions: number; groups: number; nodes: number; cachedTopics: number } {
    return {
      clients: this.#clients.size,
      subscriptions: this.#subscriptions,
      groups: this.#groups,
      nodes: this.#tree.nodes,
      cachedTopics: this.#cachedSlots.length,
    }
  }

  /**
   * An equal filter of the same client is replaced [MQTT-3.8.4-3] and keeps its turn in its group. One that says nothing
   * new, as clients send them at every reconnect, changes nothing, the epoch included.
   *
   * @returns whether the client did not have this subscription yet, which is what retain handling 1 asks
   * @throws FleetError `protocol_violation` when the filter is not well formed
   */
  add(subscription: Subscription): boolean {
    const { clientId, filter: written, noLocal } = subscription
    const known = this.#clients.get(clientId)?.entries.get(written)
    if (known !== undefined) {
      if (!isSame(known.subscription, subscription)) this.#replace(known, subscription)
      return false
    }
    const parts = parseFilter(written)
    if (parts === undefined) throw new FleetError('protocol_violation', 'a topic filter that is not valid')
    const { group: name, filter } = parts
    this.#tree.read(filter)
    const node = this.#tree.getNode()
    node.value ??= { filter, entries: [], groups: undefined, route: undefined }
    const delivery = deliveryOf(subscription)
    const group = name === undefined ? undefined : this.#join(node.value, name, delivery)
    const client = this.#getClient(clientId)
    const entry: Entry = { subscription, noLocal, delivery, client, node, group, at: node.value.entries.length }
    if (group === undefined) node.value.entries.push(entry)
    client.entries.set(written, entry)
    this.#subscriptions++
    this.#changed(node.value)
    return true
  }

  /** @returns false when there was no such subscription (MQTT 5: UNSUBACK 0x11) */
  remove(clientId: string, filter: string): boolean {
    const entry = this.#clients.get(clientId)?.entries.get(filter)
    if (entry === undefined) return false
    this.#remove(entry)
    return true
  }

  /** @returns how many subscriptions it had */
  removeClient(clientId: string): number {
    const entries = [...(this.#clients.get(clientId)?.entries.values() ?? [])]
    for (const entry of entries) this.#remove(entry)
    return entries.length
  }

  /** In the order in which they were made. */
  filtersOf(clientId: string): Subscription[] {
    const entries = this.#clients.get(clientId)?.entries.values() ?? []
    return Array.from(entries, ({ subscription }) => subscription)
  }

  /**
   * Holds a client's subscriptions to new rules.
   *
   * @param allowed is asked with the filter alone, without the group of a shared subscription
   * @returns the subscriptions that had to go
   */
  revalidate(clientId: string, allowed: (filter: string) => boolean): Subscription[] {
    const entries = [...(this.#clients.get(clientId)?.entries.values() ?? [])]
    const gone = entries.filter(({ node }) => !allowed(node.value!.filter))
    for (const entry of gone) this.#remove(entry)
    return gone.map(({ subscription }) => subscription)
  }

  /**
   * Who gets a message on `topic`, each client once [MQTT-3.3.4-2]. The answer stays as it is, but for the members of
   * groups, who come and go.
   *
   * @param publisher client id; its own no-local subscriptions do not count [MQTT-3.8.3-3]
   */
  match(topic: string, publisher?: string): Route {
    const route = this.#findRoute(topic)
    if (route.own === undefined || publisher === undefined || !route.own.has(publisher)) return route
    const instead = route.own.get(publisher)
    const others = route.deliveries.filter(({ clientId }) => clientId !== publisher)
    return { deliveries: instead === undefined ? others : [...others, instead], groups: route.groups }
  }

  /**
   * The member of a group whose turn it is among those that are present. When none is, among those whose session can keep
   * the message, which a subscription of QoS 0 does not ask for.
   *
   * @param isPresent  whether a message would reach this client now
   * @param mayReceive who is refused the message is passed over
   */
  pick(
    group: Group,
    isPresent: (clientId: string) => boolean,
    mayReceive: (clientId: string) => boolean = () => true,
  ): Delivery | undefined {
    const shared = group as SharedGroup
    const { members } = shared
    let chosen: number | undefined
    for (let i = 0; i < members.length; i++) {
      const at = (shared.next + i) % members.length
      const { clientId, granted } = members[at]!
      const isHere = isPresent(clientId)
      if (!isHere && (granted === 0 || chosen !== undefined)) continue
      if (!mayReceive(clientId)) continue
      chosen = at
      if (isHere) break
    }
    if (chosen === undefined) return undefined
    shared.next = (chosen + 1) % members.length
    return members[chosen]
  }

  #findRoute(topic: string): FoundRoute {
    const hash = this.#tree.read(topic)
    const slot = hash & (this.#cachedTopics.length - 1)
    if (this.#cachedTopics[slot] === topic) return this.#cachedRoutes[slot]!
    const isWorthCaching = this.#missed[slot] === hash
    this.#missed[slot] = hash
    const found = this.#found
    this.#tree.collect(found)
    const first = found[0]
    if (first === undefined) return nobody
    if (found.length === 1) {
      first.route ??= this.#merge(found)
      if (isWorthCaching) this.#cache(slot, topic, first.route, 0)
      found.length = 0
      return first.route
    }
    const route = this.#merge(found)
    if (isWorthCaching) this.#cache(slot, topic, route, route.deliveries.length + route.groups.length)
    found.length = 0
    return route
  }

  #merge(found: readonly Subscribers[]): FoundRoute {
    const stamp = ++this.#stamp
    const deliveries: Delivery[] = []
    let groups: Group[] | undefined
    let several: Client[] | undefined
    let own: Map<string, Delivery | undefined> | undefined
    for (const { entries, groups: sharing } of found) {
      for (const { client, delivery, noLocal } of entries) {
        if (client.stamp !== stamp) {
          client.stamp = stamp
          client.place = deliveries.push(delivery) - 1
        } else if (client.merged !== undefined) combine(client.merged, delivery)
        else {
          client.merged = copyOf(deliveries[client.place]!)
          combine(client.merged, delivery)
          several ??= []
          several.push(client)
        }
        if (noLocal) {
          own ??= new Map()
          own.set(client.id, undefined)
        }
      }
      if (sharing !== undefined) {
        groups ??= []
        for (const group of sharing.values()) groups.push(group)
      }
    }
    for (const client of several ?? []) {
      deliveries[client.place] = ascending(client.merged!)
      client.merged = undefined
    }
    if (own !== undefined) mergeOthers(found, own)
    return { deliveries, groups: groups ?? nobody.groups, own }
  }

  /** @param size deliveries that are kept for this topic alone */
  #cache(slot: number, topic: string, route: FoundRoute, size: number): void {
    if (topic.length > maxCachedTopicLength || size > maxCachedDeliveries) return
    if (this.#cachedDeliveries + size > maxCachedDeliveries) this.#uncacheAll()
    if (this.#cachedTopics[slot] === undefined) this.#cachedSlots.push(slot)
    else this.#cachedDeliveries -= this.#cachedSizes[slot]!
    this.#cachedTopics[slot] = topic
    this.#cachedRoutes[slot] = route
    this.#cachedSizes[slot] = size
    this.#cachedDeliveries += size
  }

  #uncacheAll(): void {
    for (const slot of this.#cachedSlots) {
      this.#cachedTopics[slot] = undefined
      this.#cachedRoutes[slot] = undefined
    }
    this.#cachedSlots.length = 0
    this.#cachedDeliveries = 0
  }

  #changed(subscribers: Subscribers): void {
    this.#epoch++
    subscribers.route = undefined
    this.#uncacheAll()
  }

  #replace(entry: Entry, subscription: Subscription): void {
    const delivery = deliveryOf(subscription)
    const members = entry.group?.members
    if (members !== undefined) members[members.indexOf(entry.delivery)] = delivery
    entry.subscription = subscription
    entry.noLocal = subscription.noLocal
    entry.delivery = delivery
    this.#changed(entry.node.value!)
  }

  #remove({ client, node, group, subscription, delivery, at }: Entry): void {
    const subscribers = node.value!
    const { entries } = subscribers
    client.entries.delete(subscription.filter)
    if (client.entries.size === 0) this.#clients.delete(client.id)
    if (group !== undefined) this.#leave(subscribers, group, delivery)
    else {
      const last = entries.pop()!
      if (at < entries.length) {
        entries[at] = last
        last.at = at
      }
    }
    this.#subscriptions--
    this.#changed(subscribers)
    if (entries.length > 0 || subscribers.groups !== undefined) return
    node.value = undefined
    this.#tree.release(node)
  }

  #join(subscribers: Subscribers, name: string, member: Delivery): SharedGroup {
    subscribers.groups ??= new Map()
    let group = subscribers.groups.get(name)
    if (group === undefined) {
      group = { group: name, filter: subscribers.filter, members: [], next: 0 }
      subscribers.groups.set(name, group)
      this.#groups++
    }
    group.members.push(member)
    return group
  }

  #leave(subscribers: Subscribers, group: SharedGroup, member: Delivery): void {
    const { members } = group
    const at = members.indexOf(member)
    members.splice(at, 1)
    // The turn stays with whom it was.
    if (at < group.next) group.next--
    if (group.next >= members.length) group.next = 0
    if (members.length > 0) return
    this.#groups--
    subscribers.groups!.delete(group.group)
    if (subscribers.groups!.size === 0) subscribers.groups = undefined
  }

  #getClient(id: string): Client {
    let client = this.#clients.get(id)
    if (client === undefined) {
      client = { id, entries: new Map(), stamp: 0, place: 0, merged: undefined }
      this.#clients.set(id, client)
    }
    return client
  }
}

function isSame(a: Subscription, b: Subscription): boolean {
  return (
    a.granted === b.granted &&
    a.noLocal === b.noLocal &&
    a.retainAsPublished === b.retainAsPublished &&
    a.retainHandling === b.retainHandling &&
    a.identifier === b.identifier
  )
}

function deliveryOf({ clientId, granted, retainAsPublished, identifier }: Subscription): Delivery {
  return { clientId, granted, retainAsPublished, identifiers: identifier === undefined ? none : [identifier] }
}

function copyOf({ clientId, granted, retainAsPublished, identifiers }: Delivery): Merged {
  return { clientId, granted, retainAsPublished, identifiers: identifiers.slice() }
}

function ascending(one: Merged): Delivery {
  if (one.identifiers.length > 1) one.identifiers.sort((a, b) => a - b)
  return one
}

/**
 * One copy for all matching subscriptions: at the highest QoS [MQTT-3.3.4-2], with all identifiers [MQTT-3.3.4-4].
 * Where one asks for the RETAIN flag as published and another for 0, a single copy cannot do both. It keeps the flag:
 * who asked for it (a bridge) cannot learn it otherwise.
 */
function combine(into: Merged, other: Delivery): void {
  if (other.granted > into.granted) into.granted = other.granted
  into.retainAsPublished ||= other.retainAsPublished
  for (const identifier of other.identifiers) into.identifiers.push(identifier)
}

/** Fills in what the clients in `own` get when their no-local subscriptions are left out. */
function mergeOthers(found: readonly Subscribers[], own: Map<string, Delivery | undefined>): void {
  const merged = new Map<string, Merged>()
  for (const { entries } of found) {
    for (const { client, delivery, noLocal } of entries) {
      if (noLocal || !own.has(client.id)) continue
      const before = merged.get(client.id)
      if (before === undefined) merged.set(client.id, copyOf(delivery))
      else combine(before, delivery)
    }
  }
  for (const [clientId, one] of merged) own.set(clientId, ascending(one))
}
