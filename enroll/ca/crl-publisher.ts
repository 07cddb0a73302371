import { decodeBody, type FeedEvent } from '../../contract/feed.ts'
import type { ListIssuer } from '../../pki/crl.ts'
import type { TableEntry } from '../../pki/entry-table.ts'
import type { Log } from '../../runtime/log.ts'
import {
  type CertificateRecord,
  indexRevoked,
  isListed,
  listCertificates,
  listRevoked,
} from '../registry/certificates.ts'
import type { Stored } from '../registry/engine.ts'
import { type Page, type Registry, readAll } from '../registry/registry.ts'
import { findListRecord, type RevocationListRecord, writeListRecord } from '../registry/revocation-lists.ts'
import type { DistributionPoints } from './distribution-points.ts'
import { type KeptTables, readKeptTables, writeKeptTables } from './kept-tables.ts'
import { type PublishedList, RevocationLists, type ServedList } from './revocation-lists.ts'

type Options = {
  registry: Registry
  issuer: ListIssuer
  points: DistributionPoints
  /** on schedule, whether anything has changed or not */
  everyMs: number
  /** how long a list goes on holding when the next one does not come */
  overlapMs: number
  /** Where a start finds what the lists said when they were last signed on schedule; without it, it reads the whole registry. */
  keptIn?: string
  clock: () => Date
  log: Log
  /** The feed's wake is a hint, and the schedule has none. */
  pollMs?: number
}
/** `isForAll`: for lists that are all begun after this one has asked. */
type Waiter = { feedSeq: number; isForAll: boolean; resolve: (number: number) => void }

const page = 500
/** Of a start: what is read at once is encoded in one turn of the event loop, while devices are being served. */
const loadedAtOnce = 200
const retryMs = 5_000
/** A delta with more is not small any more: lists are published as on schedule, and deltas begin anew. */
const maxDeltaEntries = 20_000

/**
 * Keeps a CA's revocation lists as the registry has it: follows the trust feed, whose events are in the batch of the fact,
 * and signs anew at once and on schedule. The lists are in memory. What they said is kept on disk with each schedule, and a start
 * goes on from there; where that cannot be, it makes them from the registry.
 */
export class CrlPublisher implements AsyncDisposable {
  readonly #options: Options
  readonly #ended = new AbortController()
  readonly #waiters = new Set<Waiter>()
  readonly #listeners = new Set<(serial: string) => void>()
  /** Serials that may leave the lists again, by device. */
  readonly #held = new Map<string, Set<string>>()
  #lists: RevocationLists | undefined
  #cursor = 0
  #dueAt = Number.NEGATIVE_INFINITY
  #scheduledAt: string | undefined
  #published = { number: 0, feedSeq: 0 }
  /** The place in the feed from which a start can go on. */
  #keptTo: number | undefined
  #keeping: Promise<void> | undefined
  #retry: NodeJS.Timeout | undefined
  #running: Promise<void> | undefined
  #again = false
  #isCurrent = false
  /** How often the feed was said to have grown. */
  #growths = 0

  constructor(options: Options) {
    this.#options = options
    const timer = setInterval(() => this.#wake(), options.pollMs ?? 1_000)
    const unsubscribe = options.registry.onWake(() => {
      this.#growths++
      this.#isCurrent = false
      // Brokers hear of it in this turn, and are not to wait for what lists cost.
      setImmediate(() => this.#wake())
    })
    this.#ended.signal.addEventListener('abort', () => {
      clearInterval(timer)
      unsubscribe()
    })
    this.#wake()
  }

  /** @returns undefined for a file that there is not, or not yet */
  find(file: string): PublishedList | undefined {
    return this.#lists?.find(file)
  }

  /** of the CA */
  get name(): string {
    return this.#options.points.name
  }

  /** All that `find` finds. */
  get served(): ServedList[] {
    const { points } = this.#options
    return [...(this.#lists?.files ?? [])].map(([file, list]) => ({
      ...list,
      authority: points.name,
      file,
      scope: list.base !== undefined ? 'deltas' : file === 'all.crl' ? 'all' : 'shards',
      url: points.urlOf(file),
    }))
  }

  get isLoaded(): boolean {
    return this.#published.number > 0
  }

  /** The last CRL number, and the place in the feed up to which its lists carry everything. */
  get published(): { number: number; feedSeq: number } {
    return this.#published
  }

  /** The place in the feed that whoever shortens it must not pass: a start goes on from there. */
  get needsFeedAfter(): number {
    return Math.min(this.#published.feedSeq, this.#keptTo ?? Number.POSITIVE_INFINITY)
  }

  /**
   * Whether listeners have heard of everything that was committed, as far as is known: not while lists are loaded, nor
   * before a failure is tried again.
   */
  get isCurrent(): boolean {
    return this.#isCurrent
  }

  /**
   * The number of lists that carry everything up to this place in the feed, once they are published.
   *
   * @returns undefined when that has not come to pass before `signal`
   */
  carriedAt(feedSeq: number, signal: AbortSignal): Promise<number | undefined> {
    if (this.isLoaded && feedSeq <= this.#published.feedSeq) return Promise.resolve(this.#published.number)
    return this.#wait({ feedSeq, isForAll: false }, signal)
  }

  /**
   * Signs all lists anew, whatever has changed. The schedule stays as it is, and with it the base of the deltas.
   *
   * @returns their number; undefined when that has not come to pass before `signal`
   */
  publish(signal: AbortSignal): Promise<number | undefined> {
    const published = this.#wait({ feedSeq: 0, isForAll: true }, signal)
    this.#wake()
    return published
  }

  #wait(wanted: Omit<Waiter, 'resolve'>, signal: AbortSignal): Promise<number | undefined> {
    if (signal.aborted) return Promise.resolve(undefined)
    const { promise, resolve } = Promise.withResolvers<number | undefined>()
    const waiter = { ...wanted, resolve }
    this.#waiters.add(waiter)
    const given = (): void => {
      this.#waiters.delete(waiter)
      resolve(undefined)
    }
    signal.addEventListener('abort', given, { once: true })
    return promise.finally(() => signal.removeEventListener('abort', given))
  }

  /** @param listener hears of each certificate whose status has changed, before any list says so */
  onChange(listener: (serial: string) => void): void {
    this.#listeners.add(listener)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort()
    await this.#running
    await this.#keeping
  }

  /** A call during a run makes the run look once more. */
  #wake(): void {
    if (this.#ended.signal.aborted) return
    this.#again = true
    if (this.#running !== undefined || this.#retry !== undefined) return
    this.#running = this.#run()
      .catch((err: unknown) => {
        this.#retry = setTimeout(() => {
          this.#retry = undefined
        }, retryMs).unref()
        this.#options.log.error(
          { event: 'revocationLists.notPublished', err, authority: this.#options.points.name },
          'revocation lists could not be published',
        )
      })
      .finally(() => {
        this.#running = undefined
      })
  }

  async #run(): Promise<void> {
    let lists = this.#lists ?? (await this.#restore()) ?? (await this.#load())
    this.#lists = lists
    while (this.#again && !this.#ended.signal.aborted) {
      this.#again = false
      const growths = this.#growths
      // A clock that was ahead has let go of entries that count again. The former lists are served until there are others.
      if (lists.leavesOut !== undefined && this.#options.clock() < lists.leavesOut) lists = await this.#load()
      // What was loaded may not be whole.
      if (this.#ended.signal.aborted) return
      await this.#follow(lists)
      // What was committed since has called for another look.
      this.#isCurrent = growths === this.#growths
      await this.#publish(lists)
      this.#lists = lists
    }
  }

  /** @param stored what is known of lists that certificates may name */
  #newLists(stored: Stored<RevocationListRecord> | undefined): RevocationLists {
    const { issuer, points, everyMs, overlapMs } = this.#options
    const shards = Math.max(points.shards, stored?.doc.shards ?? 0)
    return new RevocationLists({ issuer, points, shards, validityMs: everyMs + overlapMs })
  }

  /** @returns undefined where nothing is kept that this registry can go on from */
  async #restore(): Promise<RevocationLists | undefined> {
    const { registry, points, keptIn, log } = this.#options
    if (keptIn === undefined) return undefined
    let kept: KeptTables | undefined
    try {
      kept = await readKeptTables(keptIn)
    } catch (err) {
      log.warn(
        { event: 'revocationLists.notKept', err },
        'what was kept of revocation lists is damaged; making them anew',
      )
    }
    // One that was restored from a backup has another event at this place, or none; and the feed may begin after it.
    if (kept?.authority !== points.name || (await registry.feedHashAt(kept.cursor.seq)) !== kept.cursor.hash)
      return undefined
    const stored = await findListRecord(registry, points.name)
    if (stored === undefined) return undefined
    const lists = this.#newLists(stored)
    lists.restore(kept)
    for (const [device, serials] of kept.held) this.#held.set(device, new Set(serials))
    this.#cursor = this.#keptTo = kept.cursor.seq
    return lists
  }

  async #load(): Promise<RevocationLists> {
    const { registry, points, clock } = this.#options
    const stored = await findListRecord(registry, points.name)
    if (stored === undefined) await indexRevoked(registry, clock())
    const lists = this.#newLists(stored)
    // What changes while they are read comes again with the feed.
    const { feed } = await registry.head()
    // RFC 5280 3.3: who had expired by then has been on a list that was made on schedule since.
    const expiredBefore = notAfter(stored?.doc.scheduledAt, clock()) ?? ''
    if (this.#lists === undefined) this.#held.clear()
    // In this order none is seen twice: what is held may become revoked, not the other way round.
    for (const status of ['revoked', 'held'] as const) {
      let coming: ReturnType<typeof listRevoked> | undefined = listRevoked(registry, { status, limit: loadedAtOnce })
      while (coming !== undefined) {
        const { items, next }: Page<CertificateRecord> = await coming
        // Read while this one is encoded: a start takes as long as the slower of the two.
        coming =
          next === undefined || this.#ended.signal.aborted
            ? undefined
            : listRevoked(registry, { status, after: next, limit: loadedAtOnce })
        for (const { doc } of items) {
          if (!points.isOf(doc)) continue
          if (doc.notAfter! < expiredBefore) {
            lists.leavesOut = new Date(expiredBefore)
            continue
          }
          lists.load(entryOf(doc), points.shardOf(doc.distributionPoint))
          this.#noteHold(doc)
        }
      }
    }
    // Listeners hear of everything, so who has followed goes on from there: what is applied twice changes nothing.
    if (this.#lists === undefined) this.#cursor = feed.seq
    return lists
  }

  async #follow(lists: RevocationLists): Promise<void> {
    const { registry } = this.#options
    for (;;) {
      const events = await registry.feedAfter(this.#cursor, page)
      for (const { doc } of await this.#changed(events)) this.#apply(doc, lists)
      this.#cursor = events.at(-1)?.seq ?? this.#cursor
      if (events.length < page) return
    }
  }

  /** Whose status may have changed: a hold is told of by its device alone. */
  async #changed(events: readonly FeedEvent[]): Promise<Stored<CertificateRecord>[]> {
    const { registry } = this.#options
    const serials = new Set<string>()
    const devices = new Set<string>()
    for (const event of events) {
      const { type, data } = decodeBody(event)
      if (type === 'certificate.revoked' || type === 'credential.revoked') serials.add(data.serial)
      if (type !== 'device.changed') continue
      if (data.status === 'held' || this.#held.has(data.id)) devices.add(data.id)
    }
    const found = await registry.findMany('certificate', [...serials])
    for (const deviceId of devices) {
      const theirs = await readAll((paging) => listCertificates(registry, { deviceId, ...paging }))
      // A hold that began after the cursor may have been on a list all the same, of the process before: it is taken back there.
      for (const { doc } of theirs) if (doc.status === 'issued') this.#noteHold({ ...doc, status: 'held' })
      found.push(...theirs)
    }
    return found
  }

  #apply(doc: CertificateRecord, lists: RevocationLists): void {
    const { points } = this.#options
    const { serial } = doc
    const wasHeld = this.#held.get(doc.deviceId ?? '')?.has(serial) === true
    if (!points.isOf(doc) || (!isListed(doc) && !wasHeld)) return
    this.#noteHold(doc)
    lists.change(serial, isListed(doc) ? entryOf(doc) : undefined, points.shardOf(doc.distributionPoint))
    for (const tell of this.#listeners) tell(serial)
  }

  #noteHold({ deviceId = '', serial, status }: CertificateRecord): void {
    const held = this.#held.get(deviceId)
    if (status === 'held') this.#held.set(deviceId, (held ?? new Set()).add(serial))
    else if (held?.delete(serial) && held.size === 0) this.#held.delete(deviceId)
  }

  async #publish(lists: RevocationLists): Promise<void> {
    const { everyMs, clock } = this.#options
    const at = clock()
    // A clock that was ahead for a while has made lists of a time to come, and put the next ones off by as much.
    const isDue = at.getTime() >= this.#dueAt || at.getTime() < this.#dueAt - everyMs
    // Lists that were made anew have to be signed before they are served, also where those before them were just now.
    const isScheduled = isDue || lists.files.size === 0 || lists.deltaCount > maxDeltaEntries
    const forAll = new Set([...this.#waiters].filter((waiter) => waiter.isForAll))
    const isComplete = forAll.size > 0
    const feedSeq = this.#cursor
    if (isScheduled || isComplete || lists.isPending) {
      const number = await this.#takeNumber(lists, at)
      const scheduledAt = notAfter(this.#scheduledAt, at)
      const expiredBefore = scheduledAt === undefined ? undefined : new Date(scheduledAt)
      await lists.publish({ number, at, expiredBefore, isScheduled, isComplete })
      if (isScheduled) {
        this.#dueAt = at.getTime() + everyMs
        this.#scheduledAt = at.toISOString()
        this.#keep(lists, number)
      }
      this.#published = { number, feedSeq }
    } else this.#published = { ...this.#published, feedSeq }
    for (const waiter of this.#waiters) {
      if (waiter.feedSeq > feedSeq || (waiter.isForAll && !forAll.has(waiter))) continue
      this.#waiters.delete(waiter)
      waiter.resolve(this.#published.number)
    }
  }

  /** Beside everything else: nothing waits for it, and where it fails a start takes longer. */
  #keep(lists: RevocationLists, number: number): void {
    const { registry, points, keptIn, log } = this.#options
    const seq = this.#cursor
    // The beginning is the same of every feed, and says nothing of whose it is.
    if (keptIn === undefined || this.#keeping !== undefined || seq === 0) return
    const { tables, leavesOut } = lists
    const held = new Map([...this.#held].map(([device, serials]) => [device, new Set(serials)]))
    const keep = async (): Promise<void> => {
      const hash = await registry.feedHashAt(seq)
      if (hash === undefined) return
      await writeKeptTables(keptIn, { authority: points.name, number, cursor: { seq, hash }, leavesOut, tables, held })
      this.#keptTo = seq
    }
    this.#keeping = keep()
      .catch((err: unknown) =>
        log.warn({ event: 'revocationLists.notKept', err }, 'revocation lists are not kept; a start makes them anew'),
      )
      .finally(() => {
        this.#keeping = undefined
      })
  }

  /** On disk before it is signed: RFC 5280 5.2.3 has numbers grow, whatever is lost. */
  async #takeNumber(lists: RevocationLists, at: Date): Promise<number> {
    const { registry, points } = this.#options
    const stored = await findListRecord(registry, points.name)
    this.#scheduledAt ??= stored?.doc.scheduledAt
    const number = (stored?.doc.number ?? 0) + 1
    const doc: RevocationListRecord = {
      number,
      shards: lists.shards,
      ...(this.#scheduledAt === undefined ? {} : { scheduledAt: this.#scheduledAt }),
    }
    const requestId = `lists-${points.name}-${number}`
    await registry.commit({
      requestId,
      writes: [writeListRecord(points.name, doc, stored?.rev ?? 0)],
      audit: [
        {
          action: 'revocationLists.signed',
          actor: 'system',
          subject: `authority:${points.name}`,
          outcome: 'intended',
          details: { number },
          requestId,
        },
      ],
      at,
    })
    return number
  }
}

/** A schedule that is still to come was noted by a clock that was ahead: it says nothing of who has expired. */
const notAfter = (scheduledAt: string | undefined, now: Date): string | undefined =>
  scheduledAt !== undefined && new Date(scheduledAt) <= now ? scheduledAt : undefined

const entryOf = ({ serial, revokedAt, revocationReason, notAfter }: CertificateRecord): TableEntry => ({
  serial,
  revokedAt: new Date(revokedAt!),
  reason: revocationReason!,
  notAfter: new Date(notAfter!),
})
