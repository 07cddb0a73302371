import { setImmediate as nextTurn } from 'node:timers/promises'
import type { ListScope } from '../../contract/crl-api.ts'
import { encodeEntry, type ListIssuer, type SignedList, signList } from '../../pki/crl.ts'
import { EntryTable, type TableEntry } from '../../pki/entry-table.ts'
import type { DistributionPoints } from './distribution-points.ts'
import type { KeptTables } from './kept-tables.ts'

/** Up to this size the list of all is signed with every change; a larger one on schedule, its delta with every change. */
const atOnceBytes = 4 * 1_048_576

/** A list that is served. `base`: it is a delta CRL, to lists of this number or a later one. */
export type PublishedList = SignedList & { entries: number; base?: number }

/** `authority`: name of the CA. */
export type ServedList = PublishedList & { authority: string; file: string; scope: ListScope; url: string }

/** The certificates that name one list, or (`name` undefined) that name none. */
class Partition {
  readonly name: string | undefined
  table = new EntryTable()
  /** Since the base of the deltas: what came and went, and with which number. */
  readonly changes = new Map<string, { number: number; entry: Buffer }>()
  pending = new Map<string, TableEntry | undefined>()
  /** Its lists are older than its table. */
  isDirty = false

  constructor(name: string | undefined) {
    this.name = name
  }

  take(number: number, at: Date): void {
    if (this.pending.size === 0) return
    const { pending } = this
    this.pending = new Map()
    this.isDirty = true
    this.table.apply(pending)
    for (const [serial, entry] of pending) {
      const removed = { serial, revokedAt: at, reason: 'removeFromCRL' }
      this.changes.set(serial, { number, entry: encodeEntry(entry ?? removed) })
    }
  }

  forget(upTo: number): void {
    for (const [serial, { number }] of this.changes) if (number <= upTo) this.changes.delete(serial)
  }

  get delta(): Buffer {
    return Buffer.concat([...this.changes.values()].map(({ entry }) => entry))
  }
}

/**
 * The revocation lists of one CA: one of all its certificates, one for each distribution point that certificates name, and
 * a delta CRL beside each. What has changed is signed with the next `publish`; one runs at a time.
 */
export class RevocationLists {
  readonly #issuer: ListIssuer
  readonly #points: DistributionPoints
  readonly #validityMs: number
  readonly #unnamed = new Partition(undefined)
  readonly #named: Partition[] = []
  readonly #lists = new Map<string, PublishedList>()
  /** Who had expired by then is not on them; undefined: everybody is. */
  leavesOut: Date | undefined
  #scheduled: number | undefined
  #base = 0

  /** @param validityMs from thisUpdate to nextUpdate */
  constructor(input: { issuer: ListIssuer; points: DistributionPoints; shards: number; validityMs: number }) {
    this.#issuer = input.issuer
    this.#points = input.points
    this.#validityMs = input.validityMs
    this.#partition(input.shards - 1)
  }

  get shards(): number {
    return this.#named.length
  }

  get isPending(): boolean {
    return this.#all.some(({ pending, isDirty }) => pending.size > 0 || isDirty)
  }

  /** Entries in the delta of all. */
  get deltaCount(): number {
    return this.#all.reduce((sum, { changes }) => sum + changes.size, 0)
  }

  /** @param file `all.crl`, `0.crl`, or with `-delta` before the dot */
  find(file: string): PublishedList | undefined {
    return this.#lists.get(file)
  }

  get files(): ReadonlyMap<string, PublishedList> {
    return this.#lists
  }

  /** Before the first `publish`; each serial once. */
  load(entry: TableEntry, shard: number | undefined): void {
    this.#partition(shard).table.append(entry)
  }

  /** Before the first `publish`, in place of `load`: everything as it was when lists of this number were signed on schedule. */
  restore({ number, tables, leavesOut }: Pick<KeptTables, 'number' | 'tables' | 'leavesOut'>): void {
    this.#partition(tables.length - 2)
    for (const [at, table] of tables.entries()) this.#all[at]!.table = table
    this.#scheduled = number
    this.leavesOut = leavesOut
  }

  /** Of certificates that name no list, then of each list; as of the last `publish`. */
  get tables(): EntryTable[] {
    return this.#all.map(({ table }) => table)
  }

  /** From the next `publish` on. @param entry undefined: it is on no list any more */
  change(serial: string, entry: TableEntry | undefined, shard: number | undefined): void {
    this.#partition(shard).pending.set(serial, entry)
  }

  /**
   * Signs what has changed, or everything. What could not be signed is due again with the next call.
   *
   * @param number        greater than any before
   * @param isScheduled   everything, and a later base for the deltas
   * @param expiredBefore on schedule: entries leave whose certificates had expired by then
   * @param isComplete    everything, and otherwise as without it
   * @throws FleetError `key_unavailable`
   */
  async publish(input: {
    number: number
    at: Date
    expiredBefore?: Date | undefined
    isScheduled: boolean
    isComplete: boolean
  }): Promise<void> {
    const { number, at, expiredBefore, isScheduled } = input
    const isComplete = isScheduled || input.isComplete
    for (const partition of this.#all) partition.take(number, at)
    if (isScheduled) {
      // RFC 5280 5.2.4: who has the list of the schedule before, or any later one, can use the deltas until the next.
      this.#base = this.#scheduled ?? number
      for (const partition of this.#all) {
        if (expiredBefore !== undefined && partition.table.dropExpired(expiredBefore)) this.leavesOut = expiredBefore
        partition.forget(this.#base)
        await nextTurn()
      }
    }
    const base = this.#base
    for (const partition of this.#named) {
      if (!isComplete && !partition.isDirty) continue
      const name = partition.name!
      await this.#sign(name, { number, at, entries: [partition.table.bytes], count: partition.table.count })
      await this.#sign(name, { number, at, entries: [partition.delta], count: partition.changes.size, base })
      partition.isDirty = false
    }
    const entries = this.#all.map(({ table }) => table.bytes)
    const bytes = entries.reduce((sum, { length }) => sum + length, 0)
    const count = this.#all.reduce((sum, { table }) => sum + table.count, 0)
    if (isComplete || bytes <= atOnceBytes) await this.#sign('all', { number, at, entries, count })
    const deltas = this.#all.map(({ delta }) => delta)
    await this.#sign('all', { number, at, entries: deltas, count: this.deltaCount, base })
    this.#unnamed.isDirty = false
    if (isScheduled) this.#scheduled = number
  }

  async #sign(
    name: string,
    { at, count, ...input }: { number: number; at: Date; entries: readonly Buffer[]; count: number; base?: number },
  ): Promise<void> {
    const delta = `${name}-delta.crl`
    const list = await signList({
      issuer: this.#issuer,
      ...input,
      thisUpdate: at,
      nextUpdate: new Date(at.getTime() + this.#validityMs),
      scope: name === 'all' ? undefined : this.#points.urlOf(`${name}.crl`),
      ...(input.base === undefined ? { freshest: this.#points.urlOf(delta) } : {}),
    })
    const { base } = input
    this.#lists.set(base === undefined ? `${name}.crl` : delta, {
      ...list,
      entries: count,
      ...(base === undefined ? {} : { base }),
    })
    await nextTurn()
  }

  get #all(): Partition[] {
    return [this.#unnamed, ...this.#named]
  }

  #partition(shard: number | undefined): Partition {
    if (shard === undefined) return this.#unnamed
    while (this.#named.length <= shard) this.#named.push(new Partition(String(this.#named.length)))
    return this.#named[shard]!
  }
}
