/**
 * One key in two places. Addresses alone say little: devices roam, NAT gives them others, and an old connection lingers behind
 * a new one. What counts is a connection that is heard after another one came with the same key from somewhere else.
 */
import { isAmong, type Network, parseNetwork } from '../contract/networks.ts'
import { networkOf } from '../runtime/limits.ts'

/** Where a connection comes from, as far as its address tells. */
export type Place = {
  /** The very address, of IPv6 its /64. */
  readonly spot: string
  /** What one site, or one carrier's NAT, is taken to have: a public /24 or /48; of private addresses each one. */
  readonly area: string
  readonly family: 4 | 6
}

const privateNetworks = ['10.0.0.0/8', '127.0.0.0/8', '169.254.0.0/16', '172.16.0.0/12', '192.168.0.0/16'].map(
  (text) => parseNetwork(text)!,
)

export type Sites = ReadonlyMap<string, readonly Network[]>

/** @param sites networks that belong together, as those of a site with two uplinks, by name */
export function placeOf(remoteAddress: string, sites: Sites = new Map()): Place {
  const address = remoteAddress.replace(/^::ffff:(?=\d+\.)/i, '')
  const family = address.includes(':') ? 6 : 4
  for (const [name, networks] of sites) {
    if (isAmong(address, networks)) return { spot: name, area: name, family }
  }
  const spot = networkOf(address)
  if (family === 6) return { spot, area: spot.split(':').slice(0, 3).join(':'), family }
  const isPrivate = isAmong(address, privateNetworks)
  return { spot, area: isPrivate ? spot : spot.slice(0, spot.lastIndexOf('.')), family }
}

/** Over IPv4 and IPv6 a device with both is in one place, and nothing shows it. */
const isApart = (one: Place, other: Place): boolean => one.family === other.family && one.area !== other.area

/** A connection that was let in; `id` is the caller's name for it. */
export type Contact<T> = {
  readonly key: string
  readonly id: T
  readonly clientId: string
  readonly place: Place
  /** milliseconds, like all times here */
  readonly since: number
  heardAt: number
}

/**
 * `duel`: who lost its client id to another place while it was there comes back for it. `overlap`: two places stay.
 * `crossing`: they come in turns, each before the other has gone.
 */
export type Clone<T> = { rule: 'duel' | 'overlap' | 'crossing'; first: Contact<T>; second: Contact<T>; open: T[] }

/**
 * At a second broker. `beside`: one is heard for longer than a change of networks takes beside another that this broker was told
 * of. `back`: who yielded its client id to another there, and was there to hear of it, comes back for it.
 */
export type Beside<T> = { rule: 'beside' | 'back'; broker: string; contact: Contact<T> }
/** At another broker; `since` is when it came there, as far as it is told, and `toldAt` when that was. */
type Elsewhere = { place: Place; since: number; toldAt: number }

/** To a connection here, or to one at another broker. */
type Winner<T> = { winner: Contact<T>; broker?: never } | { winner?: never; broker: string }
type Loss<T> = { loser: Contact<T>; at: number; wasThere: boolean } & Winner<T>
type Crossing = { from: string; beside: string; at: number }
type KeyState<T> = {
  readonly open: Map<T, Contact<T>>
  /** By client id: who had it, and who took it from another spot. */
  readonly losses: Map<string, Loss<T>>
  crossings: Crossing[]
  /** By broker. */
  elsewhere?: Map<string, Elsewhere>
  /** When one of them last yielded to another broker. */
  yieldedAt?: number
}

/** A loser that is back by then was never on its way to where its client id went. */
const returnMs = 15_000
const windowMs = 600_000
/** What two brokers may need to hear of each other's connections, and more. */
const settledMs = 1_000
/** A device that moves between two networks, and is in both for a moment, does not do so more often in that time. */
const maxCrossings = 3
const maxLosses = 16
const maxElsewhere = 16
const maxRemembered = 5_000

/** Observations in, verdict out. What a verdict was given about is forgotten: it is the caller's from then on. */
export class Clones<T> {
  readonly #overlapMs: number
  readonly #keys = new Map<string, KeyState<T>>()
  readonly #contacts = new Map<T, Contact<T>>()
  /** Keys with connections from two places. */
  readonly #shared = new Set<string>()
  /** Keys with something to remember when nobody is connected, the oldest first. */
  readonly #remembered = new Set<string>()

  /** @param overlapMs so long two places may be there at a time: a device that changes networks is in both for a moment */
  constructor(overlapMs: number) {
    this.#overlapMs = overlapMs
  }

  /** A connection is about to be let in, and whoever has its client id to go. */
  arrived({
    key,
    id,
    clientId,
    place,
    at,
  }: Omit<Contact<T>, 'since' | 'heardAt'> & { at: number }): Clone<T> | Beside<T> | undefined {
    const state = this.#keys.get(key) ?? { open: new Map(), losses: new Map(), crossings: [] }
    const contact: Contact<T> = { key, id, clientId, place, since: at, heardAt: at }
    const holder = [...state.open.values()].findLast((one) => one.clientId === clientId)
    const loss = state.losses.get(clientId)
    const isBack = loss?.wasThere === true && loss.loser.place.spot === place.spot && at - loss.at <= returnMs
    if (holder !== undefined && isBack && loss.winner === holder) return this.#verdict('duel', holder, contact)
    state.losses.delete(clientId)
    if (holder !== undefined && holder.place.spot !== place.spot) {
      state.losses.set(clientId, { loser: holder, winner: contact, at, wasThere: false })
      if (state.losses.size > maxLosses) state.losses.delete(state.losses.keys().next().value!)
      this.#remember(key)
    }
    if ([...state.open.values()].some((other) => isApart(other.place, place))) this.#shared.add(key)
    state.open.set(id, contact)
    this.#keys.set(key, state)
    this.#contacts.set(id, contact)
    return isBack && loss.broker !== undefined ? { rule: 'back', broker: loss.broker, contact } : undefined
  }

  /** Something came from the peer, if only that it has closed its end. */
  heard(id: T, at: number): Clone<T> | Beside<T> | undefined {
    const contact = this.#contacts.get(id)
    const state = contact && this.#keys.get(contact.key)
    if (contact === undefined || state === undefined) return undefined
    const loss = state.losses.get(contact.clientId)
    if (loss?.loser === contact) loss.wasThere = true
    const before = contact.heardAt
    contact.heardAt = at
    for (const other of state.open.values()) {
      if (!isApart(contact.place, other.place)) continue
      const both = Math.max(contact.since, other.since) + this.#overlapMs
      if (contact.heardAt >= both && other.heardAt >= both) return this.#verdict('overlap', contact, other)
      const isFirst = other.since > contact.since && other.since >= before
      if (isFirst && this.#cross(state, contact, other)) return this.#verdict('crossing', contact, other)
    }
    return this.#beside(state, contact)
  }

  /**
   * Somebody has come to another broker with a key, or was there before.
   *
   * @param isEarlier it is heard there, and came before what is here
   */
  elsewhere({
    key,
    broker,
    place,
    isEarlier,
    at,
  }: Pick<Contact<T>, 'key' | 'place'> & { broker: string; isEarlier: boolean; at: number }): void {
    const state = this.#keys.get(key)
    if (state === undefined || ![...state.open.values()].some((contact) => isApart(contact.place, place))) return
    state.elsewhere ??= new Map()
    state.elsewhere.set(broker, { place, since: isEarlier ? Number.NEGATIVE_INFINITY : at, toldAt: at })
    if (state.elsewhere.size > maxElsewhere) state.elsewhere.delete(state.elsewhere.keys().next().value!)
    this.#shared.add(key)
  }

  /**
   * Who has the client id here that somebody has come with to another broker, from elsewhere. Of one key that is asked for once
   * in a while: who yields slowly and comes back slowly is found by staying.
   *
   * @param toldAt when we heard of it: who came here shortly before may have come after it
   */
  rivalOf({
    key,
    clientId,
    place,
    toldAt,
  }: Pick<Contact<T>, 'key' | 'clientId' | 'place'> & { toldAt: number }): T | undefined {
    const state = this.#keys.get(key)
    if (state?.yieldedAt !== undefined && toldAt - state.yieldedAt < windowMs) return undefined
    const holder = [...(state?.open.values() ?? [])].findLast((one) => one.clientId === clientId)
    if (holder === undefined || holder.since + settledMs > toldAt) return undefined
    return isApart(holder.place, place) ? holder.id : undefined
  }

  /** It is about to be ended for one at another broker. */
  yields(id: T, { broker, at }: { broker: string; at: number }): void {
    const loser = this.#contacts.get(id)!
    const state = this.#keys.get(loser.key)!
    state.losses.set(loser.clientId, { loser, broker, at, wasThere: false })
    state.yieldedAt = at
    this.#remember(loser.key)
  }

  gone(id: T): void {
    const contact = this.#contacts.get(id)
    const state = contact && this.#keys.get(contact.key)
    if (contact === undefined || state === undefined) return
    this.#contacts.delete(id)
    state.open.delete(id)
    if (state.open.size === 0) delete state.elsewhere
    this.#stopWatching(contact.key, state)
    if (state.open.size === 0 && !this.#remembered.has(contact.key)) this.#keys.delete(contact.key)
  }

  /** Whether what becomes of it is followed here. */
  has(id: T): boolean {
    return this.#contacts.has(id)
  }

  /** Connections with this key. */
  ofKey(key: string): T[] {
    return [...(this.#keys.get(key)?.open.keys() ?? [])]
  }

  /** The same, and forgets all that is known of it. */
  take(key: string): T[] {
    const open = this.ofKey(key)
    for (const id of open) this.#contacts.delete(id)
    this.#keys.delete(key)
    this.#remembered.delete(key)
    this.#shared.delete(key)
    return open
  }

  /** Connections whose key is used in two places now: whether they are heard says something. */
  watched(): T[] {
    return [...this.#shared].flatMap((key) => this.ofKey(key))
  }

  /** Drops what is too old to count. */
  forget(now: number): void {
    for (const key of this.#remembered) {
      const state = this.#keys.get(key)!
      state.crossings = state.crossings.filter(({ at }) => now - at < windowMs)
      for (const [clientId, { at }] of state.losses) if (now - at > returnMs) state.losses.delete(clientId)
      if (state.yieldedAt !== undefined && now - state.yieldedAt >= windowMs) delete state.yieldedAt
      if (state.crossings.length === 0 && state.losses.size === 0 && state.yieldedAt === undefined) this.#drop(key)
    }
  }

  /** @returns whether there were too many, counting those one after another in the same direction as one */
  #cross(state: KeyState<T>, contact: Contact<T>, other: Contact<T>): boolean {
    const [from, beside, at] = [contact.place.area, other.place.area, contact.heardAt]
    const recent = state.crossings.filter((crossing) => at - crossing.at < windowMs)
    const last = recent.at(-1)
    if (last?.from === from && last.beside === beside) return false
    const ofPair = recent.filter(
      (crossing) => [crossing.from, crossing.beside].sort().join() === [from, beside].sort().join(),
    )
    state.crossings = [...ofPair, { from, beside, at }]
    this.#remember(contact.key)
    return state.crossings.length > maxCrossings
  }

  /** Each is told once: who is told answers by what it has itself. */
  #beside(state: KeyState<T>, contact: Contact<T>): Beside<T> | undefined {
    for (const [broker, there] of state.elsewhere ?? []) {
      // Who came since will be told of there, and it is there that somebody has to be heard beside it.
      if (contact.since >= there.toldAt || !isApart(contact.place, there.place)) continue
      if (contact.heardAt < Math.max(contact.since, there.since) + this.#overlapMs) continue
      state.elsewhere!.delete(broker)
      this.#stopWatching(contact.key, state)
      return { rule: 'beside', broker, contact }
    }
    return undefined
  }

  #stopWatching(key: string, { open, elsewhere }: KeyState<T>): void {
    if (open.size < 2 && (elsewhere?.size ?? 0) === 0) this.#shared.delete(key)
  }

  #remember(key: string): void {
    this.#remembered.add(key)
    if (this.#remembered.size > maxRemembered) this.#drop(this.#remembered.keys().next().value!)
  }

  #drop(key: string): void {
    this.#remembered.delete(key)
    const state = this.#keys.get(key)
    if (state === undefined) return
    state.losses.clear()
    state.crossings = []
    delete state.yieldedAt
    if (state.open.size === 0) this.#keys.delete(key)
  }

  #verdict(rule: Clone<T>['rule'], first: Contact<T>, second: Contact<T>): Clone<T> {
    return { rule, first, second, open: this.take(first.key) }
  }
}
