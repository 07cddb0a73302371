/** The registry: every change is one commit with a request id, decided by a pure function over the records it read. */
import { EventEmitter, once } from 'node:events'
import type { Cursor, FeedEvent, FeedFact } from '../../contract/feed.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import type { Asked } from './asked.ts'
import { withChange } from './audit-changes.ts'
import { type AuditEntry, type AuditFact, aboutIndex, aboutOf, encodeAudit } from './audit-log.ts'
import { type Condition, provided } from './conditions.ts'
import {
  type Changes,
  type EngineSnapshot,
  entryId,
  type Head,
  isKeyPart,
  type Range,
  type RecordKey,
  type RegistryEngine,
  recordKey,
  type Stored,
  type View,
} from './engine.ts'
import { encodeFeed } from './feed-log.ts'
import { indexChanges, type RecordKind, type RecordTypes, type RequestRecord } from './indexes.ts'

/** `expect` is the revision the record was read at, 0 for "must not exist"; without `doc` the record is deleted. */
export type Write = {
  [K in Exclude<RecordKind, 'request'>]: { kind: K; id: string; expect?: number; doc: RecordTypes[K] | undefined }
}[Exclude<RecordKind, 'request'>]

export type Commit = {
  /** Absent where nobody can send it again: the id is of one attempt, and known to nobody else. */
  requestId?: string
  /** Compared when the request id was used before. */
  digest?: string | undefined
  writes: readonly Write[]
  /** What must not exist, beside what is written. */
  absent?: readonly { kind: RecordKind; id: string }[]
  audit: readonly AuditFact[]
  feed?: readonly FeedFact[]
  /** How many things it was about, where the answer says so: whoever asks again is told the same. */
  count?: number
  /** Puts all entries of what is written into the indexes, for records that are older than one of them. */
  reindexes?: true
  at: Date
}

/** `auditSeq` and `feedSeq` are the heads right after the commit; `replayed` when an earlier one had the same request id. */
export type Receipt = { auditSeq: number; feedSeq: number; replayed: boolean; count?: number }

export type Paging = { after?: string | undefined; limit: number }
/** May hold fewer than `limit`, even none; it is the last one when `next` is absent. */
export type Page<T> = { items: Stored<T>[]; next?: string }

/**
 * Runs `attempt` again while it loses against another writer; each run reads and decides afresh.
 *
 * @param asked the revision that the caller insists on: to lose at that one is final
 */
export async function untilNoConflict<T>(attempt: () => Promise<T>, attempts = 6, asked?: number): Promise<T> {
  for (let left = attempts - 1; ; left--) {
    try {
      return await attempt()
    } catch (error) {
      if (left === 0 || !isFleetError(error, 'conflict') || error.context.final) throw error
      if (asked !== undefined && error.context.expected === asked) throw error
    }
  }
}

/**
 * The same, of a change that may be asked for at one revision alone. The attempt writes with `asked.ifMatch` where there is one,
 * so that a repeated request is answered as the first was, before anybody looks at revisions.
 *
 * @throws FleetError `precondition_failed`
 */
export async function atRevision<T>({ ifMatch }: Asked, attempt: () => Promise<T>): Promise<T> {
  try {
    return await untilNoConflict(attempt, undefined, ifMatch)
  } catch (cause) {
    if (ifMatch === undefined || !isFleetError(cause, 'conflict') || cause.context.expected !== ifMatch) throw cause
    const sentence = `it is at revision ${cause.context.actual}, and no longer at ${ifMatch}; read it again, then decide`
    throw new FleetError('precondition_failed', sentence, { cause })
  }
}

/** Every page of a listing that is known to be short. */
export async function readAll<T>(read: (paging: Paging) => Promise<Page<T>>): Promise<Stored<T>[]> {
  const items: Stored<T>[] = []
  for (let after: string | undefined; ; ) {
    const page = await read({ after, limit: 500 })
    items.push(...page.items)
    if (page.next === undefined) return items
    after = page.next
  }
}

const nothingChanged: Changes = { records: [], indexed: [], audit: [], feed: [] }
const commitsRemembered = 1_000
const keepRequestsMs = 7 * 24 * 60 * 60_000
const pruneEveryMs = 60_000
const pruneAtMost = 100
const lookAtOnce = 200
const lookAtMost = 1_000

export class Registry implements AsyncDisposable {
  readonly #engine: RegistryEngine
  readonly #onRecorded: (facts: readonly AuditFact[]) => void
  #conditions: readonly Condition[] = []
  #growth = new EventEmitter().setMaxListeners(0)
  /** By the place in the feed at which a commit ended: its time, and `performance.now()` of when it was on disk. */
  #onDisk = new Map<number, { at: Date; ms: number }>()
  #pruning: Promise<void> | undefined
  #pruneNotBefore = Number.NEGATIVE_INFINITY

  /**
   * @param engine     is closed together with the registry
   * @param onRecorded hears the audit facts of each commit once they are on disk
   */
  constructor(engine: RegistryEngine, onRecorded: (facts: readonly AuditFact[]) => void = () => {}) {
    this.#engine = engine
    this.#onRecorded = onRecorded
  }

  /** The same for who may change something as long as that is so: its first commit is made then, or not at all. */
  while(conditions: readonly Condition[]): Registry {
    const own = new Registry(this.#engine, this.#onRecorded)
    own.#conditions = conditions
    ;[own.#growth, own.#onDisk] = [this.#growth, this.#onDisk]
    own.#pruneNotBefore = Number.POSITIVE_INFINITY
    return own
  }

  /**
   * All of it or nothing, on disk when it returns. A commit whose answer was lost may be sent again with the same request
   * id for 7 days: one effect, same answer.
   *
   * @throws FleetError `conflict` (its context names the write), `outcome_unknown`, `unavailable`
   */
  async commit(commit: Commit): Promise<Receipt> {
    const keys = keysOf(commit)
    const all = [...keys.writes, ...keys.request, ...keys.absent]
    if (new Set(all).size < all.length) throw new Error('a commit names a record once')
    const feed = (commit.feed ?? []).map((fact) => encodeFeed(fact, commit.at))
    const write = provided(this.#conditions, all, (view) => decide(view, commit, { keys, feed }))
    const receipt = await this.#engine.write(...write)
    this.#conditions = []
    if (!receipt.replayed && feed.length > 0) this.#noteOnDisk(receipt.feedSeq, commit.at)
    if (!receipt.replayed && commit.audit.length > 0) {
      this.#onRecorded(commit.audit)
      this.#growth.emit('audit')
    }
    this.#prune(commit.at)
    return receipt
  }

  /**
   * When it was on disk, by `performance.now()`, what was committed with this time and ended at this place in the feed; undefined
   * where that is not so, is long past, or was in another process.
   */
  onDiskAt(feedSeq: number, committed: Date): number | undefined {
    const { at, ms } = this.#onDisk.get(feedSeq) ?? {}
    return at?.getTime() === committed.getTime() ? ms : undefined
  }

  /**
   * What an earlier commit with this request id was answered; undefined where there was none.
   *
   * @throws FleetError `conflict` when it was for another request
   */
  async findReceipt({ requestId, digest }: Pick<Commit, 'requestId' | 'digest'>): Promise<Receipt | undefined> {
    const known = requestId === undefined ? undefined : await this.find('request', requestId)
    if (known === undefined) return undefined
    requireSame(known.doc, digest)
    return receiptOf(known.doc, true)
  }

  /** @throws FleetError `conflict` when something was written for another request under this id, by whatever operation */
  async requireSameRequest(requestId: string, digest: string): Promise<void> {
    // Each commit puts a word of its own behind the id, and none has a dash; another id may begin with this one.
    const { ids } = await this.#engine.page({ kind: 'request' }, `${requestId}-`, 100)
    const own = ids.filter((id) => id.startsWith(requestId) && !id.includes('-', requestId.length + 1))
    for (const { doc } of await this.findMany('request', own)) if (doc.digest !== undefined) requireSame(doc, digest)
  }

  async find<K extends RecordKind>(kind: K, id: string): Promise<Stored<RecordTypes[K]> | undefined> {
    if (!isKeyPart(id)) return undefined
    const [found] = await this.#engine.getMany([`${kind} ${id}`])
    return found as Stored<RecordTypes[K]> | undefined
  }

  /** Those that exist, in the order of `ids`. */
  async findMany<K extends RecordKind>(kind: K, ids: readonly string[]): Promise<Stored<RecordTypes[K]>[]> {
    const found = await this.#engine.getMany(ids.filter(isKeyPart).map((id) => recordKey(kind, id)))
    return found.filter((record) => record !== undefined) as Stored<RecordTypes[K]>[]
  }

  /**
   * @param range where to look
   * @param keep  asked again of each record: it may have changed after the index was read
   */
  async list<K extends RecordKind>(
    kind: K,
    range: Range,
    { after, limit }: Paging,
    keep: (doc: RecordTypes[K]) => boolean = () => true,
  ): Promise<Page<RecordTypes[K]>> {
    const items: Stored<RecordTypes[K]>[] = []
    let from = after
    for (let looked = 0; ; ) {
      const page = await this.#engine.page(range, from, Math.max(limit - items.length, lookAtOnce))
      const { ids, cursors, next } = page
      const found = page.records ?? (await this.#engine.getMany(ids.map((id) => recordKey(kind, id))))
      for (const [at, record] of (found as (Stored<RecordTypes[K]> | undefined)[]).entries()) {
        if (record === undefined || !keep(record.doc)) continue
        items.push(record)
        if (items.length < limit) continue
        return next === undefined && at === ids.length - 1 ? { items } : { items, next: cursors[at]! }
      }
      looked += ids.length
      if (next === undefined) return { items }
      // A filter that hardly anything passes must not hold one caller's answer, and the store, for a whole scan.
      if (looked >= lookAtMost) return { items, next }
      from = next
    }
  }

  /** All of a kind, in id order, in pages that may hold fewer than `limit`. */
  async *scan<K extends RecordKind>(kind: K, limit: number): AsyncGenerator<RecordTypes[K][]> {
    for (let after: string | undefined; ; ) {
      const { records = [], next } = await this.#engine.page({ kind }, after, limit)
      yield records.flatMap((record) => (record === undefined ? [] : [record.doc as RecordTypes[K]]))
      if (next === undefined) return
      after = next
    }
  }

  /**
   * How many there are in `range`, counting no further than `atMost`.
   *
   * @param after where in an index that goes `before` something to begin: a value
   */
  async count(range: Range, atMost: number, after?: string): Promise<number> {
    return (await this.#engine.page(range, after, atMost)).ids.length
  }

  /** Writes nothing new, by the way of every commit. @throws FleetError `outcome_unknown`, `unavailable` */
  async probe(): Promise<void> {
    await this.#engine.write([], () => ({ answer: undefined, changes: nothingChanged }))
  }

  feedAfter(seq: number, limit: number): Promise<FeedEvent[]> {
    return this.#engine.feedAfter(seq, limit)
  }

  feedHashAt(seq: number): Promise<string | undefined> {
    return this.#engine.feedHashAt(seq)
  }

  /** Forgets feed events below `feedFrom`, all at once; whoever is not past them has to begin with a snapshot. */
  async forgetFeedBefore(feedFrom: number): Promise<void> {
    await this.#engine.write([], ({ head }) => {
      if (feedFrom > head.feed.seq) throw new Error('the end of the feed is what its chain goes on from')
      const isNew = feedFrom > (head.feedFrom ?? 1)
      return { answer: undefined, ...(isNew ? { changes: { ...nothingChanged, feedFrom } } : {}) }
    })
  }

  auditAfter(seq: number, limit: number): Promise<AuditEntry[]> {
    return this.#engine.auditAfter(seq, limit)
  }

  /** Those that tell of a device or a certificate, in their order. @param about as `device:cam-1` or `certificate:0a1b` */
  async auditAbout(about: string, { after, limit }: Paging): Promise<{ items: AuditEntry[]; next?: string }> {
    const { ids, next } = await this.#engine.page({ index: aboutIndex, value: about }, after, limit)
    const items = await this.#engine.auditMany(ids.map(Number))
    return next === undefined ? { items } : { items, next }
  }

  auditHashAt(seq: number): Promise<string | undefined> {
    return this.#engine.auditHashAt(seq)
  }

  /** @returns whether the audit log grew after the call and before the signal */
  async untilAuditGrows(signal: AbortSignal): Promise<boolean> {
    return once(this.#growth, 'audit', { signal }).then(
      () => true,
      () => false,
    )
  }

  head(): Promise<Head> {
    return this.#engine.head()
  }

  /** The audit log begins behind this place from now on; what is before goes for good, with its checkpoints. */
  async pruneAudit(
    start: Cursor,
    checkpoints: readonly { id: string; doc: RecordTypes['checkpoint'] }[],
  ): Promise<void> {
    const keys = checkpoints.map(({ id }) => recordKey('checkpoint', id))
    await this.#engine.write(keys, () => ({
      answer: undefined,
      changes: {
        records: [],
        forgotten: keys,
        indexed: checkpoints.flatMap(({ id, doc }) => indexChanges('checkpoint', id, doc, undefined)),
        audit: [],
        feed: [],
        auditStart: start,
      },
    }))
    while (await this.#engine.dropAudit());
  }

  snapshot(): Promise<EngineSnapshot> {
    return this.#engine.snapshot()
  }

  onWake(listener: () => void): () => void {
    return this.#engine.onWake(listener)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pruning
    await this.#engine[Symbol.asyncDispose]()
  }

  #noteOnDisk(feedSeq: number, at: Date): void {
    this.#onDisk.set(feedSeq, { at, ms: performance.now() })
    if (this.#onDisk.size > commitsRemembered) this.#onDisk.delete(this.#onDisk.keys().next().value!)
  }

  /** Forgets some request ids that are past their time; what it does not get done waits for the next commit. */
  #prune(now: Date): void {
    if (this.#pruning !== undefined || now.getTime() < this.#pruneNotBefore) return
    const before = new Date(now.getTime() - keepRequestsMs).toISOString()
    this.#pruning = this.#forgetRequests(before)
      .then((forgotten) => {
        if (forgotten < pruneAtMost) this.#pruneNotBefore = now.getTime() + pruneEveryMs
      })
      .catch(() => {}) // Nobody waits for it and nothing rests on it; a store that fails says so at the next commit.
      .finally(() => {
        this.#pruning = undefined
      })
  }

  async #forgetRequests(before: string): Promise<number> {
    const { ids } = await this.#engine.page({ index: 'request.at', before }, undefined, pruneAtMost)
    if (ids.length === 0) return 0
    const keys = ids.map((id) => recordKey('request', id))
    return this.#engine.write(keys, ({ records }) => {
      const expired = ids.flatMap((id, at) => {
        const request = records.get(keys[at]!) as Stored<RequestRecord> | undefined
        return request !== undefined && request.doc.at < before ? [{ id, key: keys[at]!, doc: request.doc }] : []
      })
      return {
        answer: expired.length,
        changes: {
          records: [],
          forgotten: expired.map(({ key }) => key),
          indexed: expired.flatMap(({ id, doc }) => indexChanges('request', id, doc, undefined)),
          audit: [],
          feed: [],
        },
      }
    })
  }
}

type Keys = { writes: RecordKey[]; request: RecordKey[]; absent: RecordKey[] }

const keysOf = ({ writes, requestId, absent = [] }: Commit): Keys => ({
  writes: writes.map(({ kind, id }) => recordKey(kind, id)),
  request: requestId === undefined ? [] : [recordKey('request', requestId)],
  absent: absent.map(({ kind, id }) => recordKey(kind, id)),
})

function decide(
  { head, records }: View,
  commit: Commit,
  { keys, feed }: { keys: Keys; feed: string[] },
): { answer: Receipt; changes?: Changes } {
  const { requestId, digest, at } = commit
  const known = keys.request.map((key) => records.get(key))[0]
  if (known !== undefined) {
    requireSame(known.doc as RequestRecord, digest)
    return { answer: receiptOf(known.doc as RequestRecord, true) }
  }
  for (const [n, write] of commit.writes.entries()) requireExpected(write, records.get(keys.writes[n]!))
  for (const [n, record] of (commit.absent ?? []).entries()) {
    requireExpected({ ...record, expect: 0 }, records.get(keys.absent[n]!))
  }
  const docs = new Map(commit.writes.map(({ doc }, n) => [keys.writes[n]!, doc]))
  const audit = commit.audit.map((fact) => encodeAudit(withChange(fact, docs, records), at))
  const ends = {
    auditSeq: head.audit.seq + audit.length,
    feedSeq: head.feed.seq + feed.length,
    ...(commit.count === undefined ? {} : { count: commit.count }),
  }
  const written: Changes['records'][number][] = []
  const indexed: Changes['indexed'][number][] = []
  for (const [n, { kind, id, doc }] of commit.writes.entries()) {
    const key = keys.writes[n]!
    const old = records.get(key)?.doc as RecordTypes[typeof kind] | undefined
    written.push({ key, doc })
    indexed.push(...indexChanges(kind, id, old, doc, commit.reindexes))
  }
  if (requestId !== undefined) {
    const request: RequestRecord = { at: at.toISOString(), ...(digest === undefined ? {} : { digest }), ...ends }
    written.push({ key: keys.request[0]!, doc: request })
    indexed.push(...indexChanges('request', requestId, undefined, request))
  }
  for (const [n, fact] of commit.audit.entries()) {
    const id = entryId(head.audit.seq + n + 1)
    for (const value of aboutOf(fact)) indexed.push({ index: aboutIndex, value, id, present: true })
  }
  return { answer: { ...ends, replayed: false }, changes: { records: written, indexed, audit, feed } }
}

const receiptOf = ({ auditSeq, feedSeq, count }: RequestRecord, replayed: boolean): Receipt => ({
  auditSeq,
  feedSeq,
  replayed,
  ...(count === undefined ? {} : { count }),
})

function requireSame(known: RequestRecord, digest: string | undefined): void {
  if (known.digest === digest) return
  throw new FleetError('conflict', 'this Idempotency-Key was used for another request', { context: { final: true } })
}

/** @throws FleetError `conflict` */
export function requireExpected(
  { kind, id, expect }: { kind: RecordKind; id: string; expect?: number | undefined },
  found: Stored | undefined,
): void {
  const actual = found?.rev ?? 0
  if (expect === undefined || expect === actual) return
  const seen = actual === 0 ? 'does not exist' : expect === 0 ? 'exists already' : 'was changed meanwhile'
  throw new FleetError('conflict', `${kind} ${id} ${seen}`, { context: { kind, id, expected: expect, actual } })
}
