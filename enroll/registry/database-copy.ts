/** The registry's database as a whole: taken out while it is in use, and made anew from that. Its keys are those of database.ts. */
import { Level } from 'level'
import { type Cursor, startCursor } from '../../contract/feed.ts'
import { FleetError } from '../../runtime/errors.ts'
import { makeFolder } from '../../runtime/files.ts'
import { verifyAudit } from './audit-log.ts'
import type { EngineSnapshot, Head } from './engine.ts'

export const schemaKey = 'schema'
const countAtOnce = 10_000
const hashLength = startCursor.hash.length

type Item = [key: string, value: string]

export async function takeSnapshot(level: Level<string, string>): Promise<EngineSnapshot> {
  const snapshot = level.snapshot()
  let count = 0
  try {
    for await (const keys of paged(level.keys({ snapshot }), countAtOnce)) count += keys.length
  } catch (error) {
    await snapshot.close()
    throw error
  }
  return {
    count,
    pages: (size) => paged(level.iterator({ snapshot }), size),
    [Symbol.asyncDispose]: () => snapshot.close(),
  }
}

/**
 * Makes a database of what a snapshot held. Until this resolves it is none that can be opened: what says so is written last.
 *
 * @param folder new or empty
 */
export async function writeDatabase(folder: string, pages: AsyncIterable<Item[]>): Promise<void> {
  makeFolder(folder)
  const level = new Level(folder, { errorIfExists: true })
  await level.open()
  try {
    let schema: string | undefined
    for await (const page of pages) {
      schema = page.find(([key]) => key === schemaKey)?.[1] ?? schema
      const batch = page.filter(([key]) => key !== schemaKey)
      await level.batch(batch.map(([key, value]) => ({ type: 'put' as const, key, value })))
    }
    if (schema === undefined) throw new FleetError('backup_unreadable', 'the backup holds no registry')
    // Everything before it in the log is on the disk with it.
    await level.put(schemaKey, schema, { sync: true })
  } finally {
    await level.close()
  }
}

/** Sees that both logs are whole and end where the registry says, while a snapshot goes by. */
export class SnapshotCheck {
  readonly #logs = new Map<string, { first: Cursor | undefined; end: Cursor; count: number }>()
  #head: Head | undefined

  /** @throws FleetError `backup_unreadable` */
  take(page: Item[]): void {
    for (const [key, value] of page) {
      if (key === 'head') this.#head = JSON.parse(value)
      else if (/^[af] \d/.test(key)) this.#follow(key[0]!, Number(key.slice(2)), value)
    }
  }

  /** @throws FleetError `backup_unreadable` */
  finish(): { auditEntries: number; feedEvents: number } {
    const head = this.#head
    if (head === undefined) throw unreadable('the registry in it has no head')
    const ofAudit = this.#requireEnd('a', head.auditStart ?? startCursor, head.audit)
    return { auditEntries: ofAudit, feedEvents: this.#requireEnd('f', { seq: (head.feedFrom ?? 1) - 1 }, head.feed) }
  }

  #follow(name: string, seq: number, value: string): void {
    const entry = { seq, hash: value.slice(0, hashLength), body: value.slice(hashLength + 1) }
    const log = this.#logs.get(name)
    if (log === undefined) {
      // What it begins with is held against the registry's head, which comes behind it.
      this.#logs.set(name, { first: { seq, hash: entry.hash }, end: { seq, hash: entry.hash }, count: 1 })
      return
    }
    const { intact, brokenAt } = verifyAudit([entry], log.end)
    if (brokenAt !== undefined)
      throw unreadable(`${name === 'a' ? 'the audit log' : 'the feed'} is broken at number ${brokenAt}`)
    log.end = intact
    log.count++
  }

  #requireEnd(name: string, start: { seq: number }, end: Cursor): number {
    const log = this.#logs.get(name)
    const isWhole =
      log === undefined
        ? start.seq === end.seq
        : // What was pruned may not all be gone yet.
          log.first!.seq <= start.seq + 1 && log.end.seq === end.seq && log.end.hash === end.hash
    if (!isWhole)
      throw unreadable(`${name === 'a' ? 'the audit log' : 'the feed'} does not go from ${start.seq} to ${end.seq}`)
    return log?.count ?? 0
  }
}

type Pageable<T> = { nextv(size: number): Promise<T[]>; close(): Promise<void> }

async function* paged<T>(iterator: Pageable<T>, size: number): AsyncGenerator<T[]> {
  try {
    for (let page = await iterator.nextv(size); page.length > 0; page = await iterator.nextv(size)) yield page
  } finally {
    await iterator.close()
  }
}

const unreadable = (what: string): FleetError => new FleetError('backup_unreadable', what)
