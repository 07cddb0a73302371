/**
 * The registry's embedded engine: one LevelDB, open in one process.
 *
 *   schema                        version of this layout
 *   head                          Head
 *   r <kind> <id>                 { rev, doc }, or { rev } of what was deleted
 *   i <index> <value> <id>        nothing; the key is the fact
 *   f <number>, a <number>        hash and body of a feed event, of an audit entry
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { Level } from 'level'
import { type Cursor, type FeedEvent, genesis, startCursor } from '../../contract/feed.ts'
import { FleetError } from '../../runtime/errors.ts'
import { type AuditEntry, aboutIndex, aboutOf, verifyAudit } from './audit-log.ts'
import { schemaKey, takeSnapshot } from './database-copy.ts'
import {
  type Batch,
  boundsOf,
  decodeEntry,
  decodeHead,
  decodeRecord,
  encodeChanges,
  entryKey,
  present,
  revisionsOf,
  viewOf,
} from './database-encoding.ts'
import { codesOf, openError, requireWholeFolder } from './database-faults.ts'
import {
  type Changes,
  type EngineSnapshot,
  entryId,
  type Head,
  type Range,
  type RecordKey,
  type RegistryEngine,
  type Stored,
  type View,
} from './engine.ts'
import { migrate, schemaVersion } from './migrations.ts'

const headKey = 'head'
const beginning: Head = { feed: startCursor, audit: startCursor }
const dropAtOnce = 500
const groupAtMost = 500
const reopenMs = 1_000
const queueAtMost = 10_000
// Keys are random, so each table that is written is merged with all that there are, again and again while the registry grows. Tables
// eight times as large as LevelDB's own are merged seldom: over 100,000 renewals half the CPU time of what it was with twice its own.
const writeBufferSize = 32 * 2 ** 20
// What LevelDB may have to recover from its logs at an open is twice that; the smallest commit takes some 500 octets of it. What a
// log has lost shows at the next open too, when the log is gone: so it is this many, however long the logs are.
const recheckAtOpen = 128_000
const recheckAtOnce = 500

// Waking a thread takes more than ten times what reading a record does. A page is read on one all the same, so that a cold
// disk holds up its reader alone.
const readHereAtMost = 8

type Decision = { answer: unknown; changes?: Changes }
type Pending = {
  keys: readonly RecordKey[]
  decide: (view: View) => Decision
  resolve: (answer: unknown) => void
  reject: (error: unknown) => void
}

/**
 * @param folder is created when missing; nothing else may be kept in it
 * @throws FleetError `data_in_use` when another instance has it open; `data_damaged` when it cannot be used as it is
 */
export async function openDatabase(folder: string): Promise<RegistryEngine> {
  requireWholeFolder(folder)
  const database = new LevelEngine(folder)
  await database.open()
  return database
}

/**
 * Keeps every other process from opening a database, whoever's it is and whatever is in it; of one that is not there nobody is kept.
 *
 * @throws FleetError `data_in_use` when another has it open
 */
export async function holdDatabase(folder: string): Promise<AsyncDisposable> {
  const level = existsSync(join(folder, 'CURRENT')) ? new Level(folder) : undefined
  try {
    await level?.open()
  } catch (error) {
    throw openError(folder, error)
  }
  return {
    async [Symbol.asyncDispose]() {
      await level?.close()
    },
  }
}

class LevelEngine implements RegistryEngine {
  readonly #folder: string
  readonly #level: Level<string, string>
  readonly #queue: Pending[] = []
  readonly #listeners = new Set<() => void>()
  #writing: Promise<void> | undefined
  #inDoubt = false
  #reopening: NodeJS.Timeout | undefined
  /** As it is on disk, which nobody else writes. */
  #head: Head = beginning
  #closed = false

  constructor(folder: string) {
    this.#folder = folder
    this.#level = new Level(folder, { writeBufferSize })
  }

  async open(): Promise<void> {
    try {
      await this.#level.open()
      await this.#requireSound()
    } catch (error) {
      await this.#level.close()
      throw openError(this.#folder, error)
    }
  }

  write<T>(keys: readonly RecordKey[], decide: (view: View) => { answer: T; changes?: Changes }): Promise<T> {
    if (this.#closed) return Promise.reject(new FleetError('unavailable', 'the registry is closed'))
    if (this.#queue.length >= queueAtMost) {
      return Promise.reject(new FleetError('unavailable', `${queueAtMost} changes are waiting to be written`))
    }
    const { promise, resolve, reject } = Promise.withResolvers<T>()
    this.#queue.push({ keys, decide, resolve: resolve as Pending['resolve'], reject })
    this.#writing ??= this.#drain()
    return promise
  }

  async getMany(keys: readonly RecordKey[]): Promise<(Stored | undefined)[]> {
    const names = keys.map((key) => `r ${key}`)
    const texts =
      names.length <= readHereAtMost ? this.#readHere(names) : await this.#read(() => this.#level.getMany(names))
    return texts.map((text) => present(decodeRecord(text)))
  }

  async page(range: Range, after: string | undefined, limit: number): ReturnType<RegistryEngine['page']> {
    const bounds = boundsOf(range)
    if (bounds === undefined) return { ids: [], cursors: [] }
    const { start, from, end } = bounds
    const place = { gt: start + (after ?? from), lt: end, limit: limit + 1 }
    // Of a kind the records stand one after the other; of an index each would have to be looked for.
    const entries: [key: string, text?: string][] = await this.#read(async () =>
      'kind' in range
        ? await this.#level.iterator(place).all()
        : (await this.#level.keys(place).all()).map((key): [string] => [key]),
    )
    const shown = entries.slice(0, limit)
    const cursors = shown.map(([key]) => key.slice(start.length))
    const ids = cursors.map((cursor) => cursor.slice(cursor.lastIndexOf(' ') + 1))
    const records = 'kind' in range ? { records: shown.map(([, text]) => present(decodeRecord(text))) } : {}
    const last = cursors.at(-1)
    return { ids, cursors, ...records, ...(entries.length > limit && last !== undefined ? { next: last } : {}) }
  }

  async feedAfter(seq: number, limit: number): Promise<FeedEvent[]> {
    return (await this.#read(async () => this.#lastEvents(seq, limit))) ?? this.#entriesAfter('f', seq, limit)
  }

  feedHashAt(seq: number): Promise<string | undefined> {
    return this.#hashAt('f', seq)
  }

  auditAfter(seq: number, limit: number): Promise<AuditEntry[]> {
    return this.#entriesAfter('a', Math.max(seq, this.#auditStart.seq), limit)
  }

  async dropAudit(): Promise<boolean> {
    const end = `${entryKey('a', this.#auditStart.seq)} `
    const entries = await this.#read(() => this.#level.iterator({ gt: 'a ', lt: end, limit: dropAtOnce }).all())
    await this.#level.batch(
      entries.flatMap(([key, text]) => {
        const { seq, body } = decodeEntry(Number(key.slice(2)), text)
        const indexed = aboutOf(JSON.parse(body)).map((value) => `i ${aboutIndex} ${value} ${entryId(seq)}`)
        return [key, ...indexed].map((key) => ({ type: 'del' as const, key }))
      }),
    )
    return entries.length === dropAtOnce
  }

  async auditMany(seqs: readonly number[]): Promise<AuditEntry[]> {
    const texts = await this.#read(() => this.#level.getMany(seqs.map((seq) => entryKey('a', seq))))
    return texts.flatMap((text, at) => (text === undefined ? [] : [decodeEntry(seqs[at]!, text)]))
  }

  auditHashAt(seq: number): Promise<string | undefined> {
    return this.#hashAt('a', seq)
  }

  async head(): Promise<Head> {
    return decodeHead(await this.#read(() => this.#level.get(headKey)))
  }

  snapshot(): Promise<EngineSnapshot> {
    return this.#read(() => takeSnapshot(this.#level))
  }

  onWake(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => {
      this.#listeners.delete(listener)
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true
    clearTimeout(this.#reopening)
    await this.#writing
    await this.#level.close()
  }

  get #auditStart(): Cursor {
    return this.#head.auditStart ?? startCursor
  }

  /**
   * While one group is being synced the next one gathers, and what this turn of the event loop brings is one group: to hand a write to
   * a thread and hear of its end costs more than to decide on it.
   */
  async #drain(): Promise<void> {
    while (this.#queue.length > 0) {
      await nextTurn()
      await this.#commit(this.#queue.splice(0, groupAtMost))
    }
    this.#writing = undefined
  }

  async #commit(group: Pending[]): Promise<void> {
    const before = new Map<RecordKey, string | undefined>()
    let head: Head
    try {
      if (this.#inDoubt) await this.#reopen()
      head = this.#head
      for (const { keys } of group) {
        for (const key of keys) if (!before.has(key)) before.set(key, this.#level.getSync(`r ${key}`))
      }
    } catch (cause) {
      const error = this.#readError(cause)
      if (this.#inDoubt) this.#reopenLater()
      for (const pending of group) pending.reject(error)
      return
    }

    const feedBefore = head.feed.seq
    let isWriting = false
    const batch: Batch = new Map()
    const settle = group.map((pending) => {
      try {
        const known = revisionsOf(pending.keys, before, batch)
        const { answer, changes } = pending.decide({ head, records: viewOf(known) })
        if (changes !== undefined) {
          isWriting = true
          const encoded = encodeChanges(head, changes, known)
          for (const [key, value] of encoded.batch) batch.set(key, value)
          head = encoded.head
        }
        return () => pending.resolve(answer)
      } catch (error) {
        return () => pending.reject(error)
      }
    })

    if (isWriting) {
      batch.set(headKey, JSON.stringify(head))
      try {
        await this.#put(batch)
      } catch (cause) {
        this.#inDoubt = true
        // At once, so that who is told "unknown" and looks sees what is; where it fails, the next write tries again, or time.
        await this.#reopen().catch(() => this.#reopenLater())
        // Refusals and repeated answers too: each may rest on a change of this group that is now unsure.
        const error = new FleetError('outcome_unknown', 'the registry did not confirm the change', { cause })
        for (const pending of group) pending.reject(error)
        return
      }
    }
    this.#head = head
    for (const tell of settle) tell()
    if (head.feed.seq > feedBefore) queueMicrotask(() => this.#wake())
  }

  /** All of it, on disk when it returns. */
  async #put(batch: Batch): Promise<void> {
    const operations = this.#level.batch()
    for (const [key, value] of batch) {
      if (value === undefined) operations.del(key)
      else operations.put(key, value)
    }
    await operations.write({ sync: true })
  }

  #wake(): void {
    for (const listener of this.#listeners) listener()
  }

  /**
   * LevelDB refuses every write after a failed one, as its log may or may not hold that batch; opening it again reads the
   * log and so decides what happened.
   */
  async #reopen(): Promise<void> {
    await this.#level.close()
    await this.open()
    this.#inDoubt = false
    queueMicrotask(() => this.#wake())
  }

  /** Most who ask read before they write, and come no further while it is closed. */
  #reopenLater(): void {
    this.#reopening ??= setTimeout(() => {
      this.#reopening = undefined
      if (!this.#closed) this.write([], () => ({ answer: undefined })).catch(() => {})
    }, reopenMs).unref()
  }

  async #requireSound(): Promise<void> {
    const version: string | undefined = await this.#level.get(schemaKey)
    if (version === undefined) {
      const [stray] = await this.#level.keys({ limit: 1 }).all()
      if (stray !== undefined) throw new FleetError('data_damaged', `${this.#folder} is not a registry`)
      await this.#level.batch(
        [
          { type: 'put', key: schemaKey, value: String(schemaVersion) },
          {
            type: 'put',
            key: headKey,
            value: JSON.stringify(beginning),
          },
        ],
        { sync: true },
      )
      this.#head = beginning
      return
    }
    if (version !== String(schemaVersion) && !(await migrate(this.#level, version))) {
      throw new FleetError(
        'data_damaged',
        `${this.#folder} has registry layout ${version}, this version of Fleetgate knows ${schemaVersion}; start the version that wrote it`,
      )
    }
    const head = decodeHead(await this.#level.get(headKey))
    this.#head = head
    await this.#requireEnding('f', head.feed, head.feedFrom, 'feed')
    await this.#requireEnding('a', head.audit, this.#auditStart.seq, 'audit log')
  }

  /** LevelDB leaves out, and does not say so, what it cannot read of its log: look whether what was written last is whole. */
  async #requireEnding(log: 'f' | 'a', end: Cursor, oldest: number | undefined, name: string): Promise<void> {
    const damaged = (what: string): FleetError =>
      new FleetError('data_damaged', `${this.#folder}: the ${name} ${what}; restore the registry from a backup`)
    const from = Math.max(oldest ?? 0, end.seq - recheckAtOpen)
    const hash = await this.#hashAt(log, from)
    if (hash === undefined) throw damaged(`is broken at number ${from}`)
    let cursor: Cursor = { seq: from, hash }
    for (;;) {
      const entries = await this.#entriesAfter(log, cursor.seq, recheckAtOnce)
      if (entries.length === 0) break
      const { intact, brokenAt } = verifyAudit(entries, cursor)
      if (brokenAt !== undefined) throw damaged(`is broken at number ${brokenAt}`)
      cursor = intact
    }
    if (cursor.seq !== end.seq || cursor.hash !== end.hash) throw damaged('does not end where it should')
  }

  async #hashAt(log: 'f' | 'a', seq: number): Promise<string | undefined> {
    const { seq: first, hash } = log === 'a' ? this.#auditStart : startCursor
    if (seq === first) return hash
    if (seq < first) return undefined
    const text: string | undefined = await this.#read(() => this.#level.get(entryKey(log, seq)))
    return text?.slice(0, genesis.length)
  }

  /**
   * The last events, where they are few: read here, as a revocation may be among them.
   *
   * @returns undefined where there may be more
   */
  #lastEvents(seq: number, limit: number): FeedEvent[] | undefined {
    const events: FeedEvent[] = []
    while (events.length < Math.min(limit, readHereAtMost)) {
      const next = seq + events.length + 1
      const text: string | undefined = this.#level.getSync(entryKey('f', next))
      // What is kept has no gaps, and need not begin here.
      if (text === undefined) return events.length === 0 ? undefined : events
      events.push(decodeEntry(next, text))
    }
    return events.length === limit ? events : undefined
  }

  async #entriesAfter(
    log: 'f' | 'a',
    seq: number,
    limit: number,
  ): Promise<{ seq: number; hash: string; body: string }[]> {
    const entries = await this.#read(() =>
      this.#level.iterator({ gt: entryKey(log, Math.max(seq, 0)), lt: `${log}!`, limit }).all(),
    )
    return entries.map(([key, text]) => decodeEntry(Number(key.slice(2)), text))
  }

  #readHere(names: readonly string[]): (string | undefined)[] {
    try {
      return names.map((name) => this.#level.getSync(name))
    } catch (error) {
      throw this.#readError(error)
    }
  }

  async #read<T>(read: () => Promise<T>): Promise<T> {
    try {
      return await read()
    } catch (error) {
      throw this.#readError(error)
    }
  }

  #readError(error: unknown): FleetError {
    if (error instanceof FleetError) return error
    if (codesOf(error).includes('LEVEL_CORRUPTION')) {
      return new FleetError('data_damaged', `${this.#folder} has damaged files`, { cause: error })
    }
    return new FleetError('unavailable', 'the registry cannot be read now', { cause: error })
  }
}
