/**
 * The registry's embedded engine: one LevelDB, open in one process.
 *
 *   schema                        version of this layout
 *   head                          Head
 *   r <kind> <id>                 { rev, doc }, or { rev } of what was deleted
 *   i <index> <value> <id>        nothing; the key is the fact
 *   f <number>, a <number>        hash and body of a feed event, of an audit entry
 */
import { mkdirSync, readdirSync } from 'node:fs'
import { Level } from 'level'
import { type Cursor, type FeedEvent, genesis, startCursor } from '../../contract/feed.ts'
import { chainHash } from '../../runtime/chain.ts'
import { FleetError } from '../../runtime/errors.ts'
import { type AuditEntry, verifyAudit } from './audit-log.ts'
import {
  type Changes,
  type Head,
  isKeyPart,
  type Range,
  type RecordKey,
  type RegistryEngine,
  requireKeyPart,
  type Stored,
  type View,
} from './engine.ts'

const schemaVersion = 1
const schemaKey = 'schema'
const headKey = 'head'
const groupAtMost = 500
const queueAtMost = 10_000
// What LevelDB may have to recover from its logs at an open is 8 MiB; the smallest commit takes some 500 octets of it.
const recheckAtOpen = 16_000

type Operation = { type: 'put'; key: string; value: string } | { type: 'del'; key: string }
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

class LevelEngine implements RegistryEngine {
  readonly #folder: string
  readonly #level: Level<string, string>
  readonly #queue: Pending[] = []
  readonly #listeners = new Set<() => void>()
  #writing: Promise<void> | undefined
  #inDoubt = false
  #closed = false

  constructor(folder: string) {
    this.#folder = folder
    this.#level = new Level(folder)
  }

  async open(): Promise<void> {
    try {
      await this.#level.open()
      await this.#requireSound()
    } catch (error) {
      await this.#level.close()
      throw this.#openError(error)
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
    const [only, ...more] = keys.map((key) => `r ${key}`)
    if (only === undefined) return []
    // One needs no snapshot, and taking one waits, on the main thread, for the lock that a write holds.
    const texts = await this.#read(async () =>
      more.length === 0 ? [await this.#level.get(only)] : await this.#level.getMany([only, ...more]),
    )
    return texts.map(decodeRecord)
  }

  async page(range: Range, after: string | undefined, limit: number): Promise<{ ids: string[]; next?: string }> {
    const bounds = boundsOf(range)
    if (bounds === undefined) return { ids: [] }
    const { start, from, end } = bounds
    const keys = await this.#read(() =>
      this.#level.keys({ gt: start + (after ?? from), lt: end, limit: limit + 1 }).all(),
    )
    const shown = keys.slice(0, limit)
    const ids = shown.map((key) => key.slice(key.lastIndexOf(' ') + 1))
    const last = shown.at(-1)
    return keys.length > limit && last !== undefined ? { ids, next: last.slice(start.length) } : { ids }
  }

  feedAfter(seq: number, limit: number): Promise<FeedEvent[]> {
    return this.#entriesAfter('f', seq, limit)
  }

  feedHashAt(seq: number): Promise<string | undefined> {
    return this.#hashAt('f', seq)
  }

  auditAfter(seq: number, limit: number): Promise<AuditEntry[]> {
    return this.#entriesAfter('a', seq, limit)
  }

  auditHashAt(seq: number): Promise<string | undefined> {
    return this.#hashAt('a', seq)
  }

  async head(): Promise<Head> {
    return decodeHead(await this.#read(() => this.#level.get(headKey)))
  }

  onWake(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => {
      this.#listeners.delete(listener)
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true
    await this.#writing
    await this.#level.close()
  }

  /** While one group is being synced the next one gathers. */
  async #drain(): Promise<void> {
    while (this.#queue.length > 0) await this.#commit(this.#queue.splice(0, groupAtMost))
    this.#writing = undefined
  }

  async #commit(group: Pending[]): Promise<void> {
    let before: Map<string, string>
    let head: Head
    try {
      if (this.#inDoubt) await this.#reopen()
      const keys = [...new Set(group.flatMap((pending) => pending.keys))]
      const [headText, ...texts] = await this.#level.getMany([headKey, ...keys.map((key) => `r ${key}`)])
      head = decodeHead(headText)
      before = new Map(keys.flatMap((key, at) => (texts[at] === undefined ? [] : [[`r ${key}`, texts[at]]])))
    } catch (cause) {
      const error = this.#readError(cause)
      for (const pending of group) pending.reject(error)
      return
    }

    const feedBefore = head.feed.seq
    let isWriting = false
    const batch = new Map<string, Operation>()
    const settle = group.map((pending) => {
      try {
        const texts = new Map(pending.keys.map((key) => [key, textOf(key, before, batch)]))
        const { answer, changes } = pending.decide({ head, records: decodeRecords(texts) })
        if (changes !== undefined) {
          isWriting = true
          const encoded = encodeChanges(head, changes, texts)
          for (const operation of encoded.operations) batch.set(operation.key, operation)
          head = encoded.head
        }
        return () => pending.resolve(answer)
      } catch (error) {
        return () => pending.reject(error)
      }
    })

    if (isWriting) {
      batch.set(headKey, { type: 'put', key: headKey, value: JSON.stringify(head) })
      try {
        await this.#level.batch([...batch.values()], { sync: true })
      } catch (cause) {
        this.#inDoubt = true
        // At once, so that who is told "unknown" and looks sees what is; where it fails, the next write tries again.
        await this.#reopen().catch(() => {})
        // Refusals and repeated answers too: each may rest on a change of this group that is now unsure.
        const error = new FleetError('outcome_unknown', 'the registry did not confirm the change', { cause })
        for (const pending of group) pending.reject(error)
        return
      }
    }
    for (const tell of settle) tell()
    if (head.feed.seq > feedBefore) queueMicrotask(() => this.#wake())
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
            value: JSON.stringify({ feed: startCursor, audit: startCursor } satisfies Head),
          },
        ],
        { sync: true },
      )
      return
    }
    if (version !== String(schemaVersion)) {
      throw new FleetError(
        'data_damaged',
        `${this.#folder} has registry layout ${version}, this version of Fleetgate knows ${schemaVersion}; start the version that wrote it`,
      )
    }
    const head = decodeHead(await this.#level.get(headKey))
    await this.#requireEnding('f', head.feed, 'feed')
    await this.#requireEnding('a', head.audit, 'audit log')
  }

  /** LevelDB leaves out, and does not say so, what it cannot read of its log: look whether what was written last is whole. */
  async #requireEnding(log: 'f' | 'a', end: Cursor, name: string): Promise<void> {
    const damaged = (what: string): FleetError =>
      new FleetError('data_damaged', `${this.#folder}: the ${name} ${what}; restore the registry from a backup`)
    const from = Math.max(0, end.seq - recheckAtOpen)
    const hash = await this.#hashAt(log, from)
    if (hash === undefined) throw damaged(`is broken at number ${from}`)
    let cursor: Cursor = { seq: from, hash }
    for (;;) {
      const entries = await this.#entriesAfter(log, cursor.seq, 100)
      if (entries.length === 0) break
      const { intact, brokenAt } = verifyAudit(entries, cursor)
      if (brokenAt !== undefined) throw damaged(`is broken at number ${brokenAt}`)
      cursor = intact
    }
    if (cursor.seq !== end.seq || cursor.hash !== end.hash) throw damaged('does not end where it should')
  }

  async #hashAt(log: 'f' | 'a', seq: number): Promise<string | undefined> {
    if (seq === 0) return genesis
    const text: string | undefined = await this.#read(() => this.#level.get(entryKey(log, seq)))
    return text?.slice(0, genesis.length)
  }

  async #entriesAfter(
    log: 'f' | 'a',
    seq: number,
    limit: number,
  ): Promise<{ seq: number; hash: string; body: string }[]> {
    const entries = await this.#read(() =>
      this.#level.iterator({ gt: entryKey(log, Math.max(seq, 0)), lt: `${log}!`, limit }).all(),
    )
    return entries.map(([key, text]) => ({
      seq: Number(key.slice(2)),
      hash: text.slice(0, genesis.length),
      body: text.slice(genesis.length + 1),
    }))
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

  #openError(error: unknown): FleetError {
    if (error instanceof FleetError) return error
    if (codesOf(error).includes('LEVEL_LOCKED')) {
      return new FleetError('data_in_use', `${this.#folder} is in use by another instance`, { cause: error })
    }
    const why = error instanceof Error && error.cause instanceof Error ? error.cause.message : String(error)
    return new FleetError('data_damaged', `${this.#folder} cannot be opened: ${why}`, { cause: error })
  }
}

/** LevelDB takes a folder that has lost its CURRENT file for a new one, and would begin again with an empty registry. */
function requireWholeFolder(folder: string): void {
  let names: string[]
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 })
    names = readdirSync(folder)
  } catch (cause) {
    throw new FleetError('data_damaged', `${folder} cannot be opened: ${(cause as Error).message}`, { cause })
  }
  if (!names.includes('CURRENT') && names.some((name) => /^\d+\.(ldb|log|sst)$/.test(name))) {
    throw new FleetError('data_damaged', `${folder} has lost files; restore it from a backup`)
  }
}

/** Keys strictly between `start` and `end`; undefined where nothing can be. `!` is the character after the space. */
/** @returns `from` is below `start`, as cursors are */
function boundsOf(range: Range): { start: string; from: string; end: string } | undefined {
  if ('kind' in range) return { start: `r ${range.kind} `, from: '', end: `r ${range.kind}!` }
  if (range.before !== undefined) {
    return { start: `i ${range.index} `, from: range.from ?? '', end: `i ${range.index} ${range.before}` }
  }
  if (!isKeyPart(range.value)) return undefined
  return { start: `i ${range.index} ${range.value} `, from: '', end: `i ${range.index} ${range.value}!` }
}

/** A record's text as the changes of this group leave it. */
function textOf(key: RecordKey, before: Map<string, string>, batch: Map<string, Operation>): string | undefined {
  const changed = batch.get(`r ${key}`)
  if (changed === undefined) return before.get(`r ${key}`)
  return changed.type === 'put' ? changed.value : undefined
}

function decodeRecords(texts: Map<RecordKey, string | undefined>): Map<RecordKey, Stored> {
  const records = new Map<RecordKey, Stored>()
  for (const [key, text] of texts) {
    const record = decodeRecord(text)
    if (record !== undefined) records.set(key, record)
  }
  return records
}

function encodeChanges(
  head: Head,
  changes: Changes,
  texts: ReadonlyMap<RecordKey, string | undefined>,
): { operations: Operation[]; head: Head } {
  const operations: Operation[] = []
  for (const { key, doc } of changes.records) {
    if (!texts.has(key)) throw new Error(`${key} was not read before it is written`)
    operations.push({ type: 'put', key: `r ${key}`, value: JSON.stringify({ rev: revIn(texts.get(key)) + 1, doc }) })
  }
  for (const key of changes.forgotten ?? []) operations.push({ type: 'del', key: `r ${key}` })
  for (const { index, value, id, present } of changes.indexed) {
    const key = `i ${index} ${requireKeyPart(value)} ${requireKeyPart(id)}`
    operations.push(present ? { type: 'put', key, value: '' } : { type: 'del', key })
  }
  const append = (log: 'f' | 'a', cursor: Cursor, bodies: readonly string[]): Cursor =>
    bodies.reduce((last, body) => {
      const next = { seq: last.seq + 1, hash: chainHash(last.hash, body) }
      operations.push({ type: 'put', key: entryKey(log, next.seq), value: `${next.hash} ${body}` })
      return next
    }, cursor)
  return {
    operations,
    head: { feed: append('f', head.feed, changes.feed), audit: append('a', head.audit, changes.audit) },
  }
}

const entryKey = (log: 'f' | 'a', seq: number): string => `${log} ${String(seq).padStart(16, '0')}`

function decodeRecord(text: string | undefined): Stored | undefined {
  if (text === undefined) return undefined
  const { rev, doc } = parse(text) as Stored
  return doc === undefined ? undefined : { rev, doc }
}

const revIn = (text: string | undefined): number => (text === undefined ? 0 : (parse(text) as Stored).rev)

function decodeHead(text: string | undefined): Head {
  if (text === undefined) throw new FleetError('data_damaged', 'the registry has lost its head')
  return parse(text) as Head
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new FleetError('data_damaged', 'the registry holds a record that cannot be read', { cause })
  }
}

/** abstract-level wraps the engine's error as the cause of its own. */
function codesOf(error: unknown): unknown[] {
  const codes: unknown[] = []
  for (let at = error; at instanceof Error && codes.length < 5; at = at.cause)
    codes.push((at as { code?: unknown }).code)
  return codes
}
