/**
 * What the registry asks of a store. Every engine runs `test/suites/registry.ts`; its promises are
 * all or nothing, one writer at a time, dense numbers in commit order, and acknowledged means on disk.
 */
import type { Cursor, FeedEvent } from '../../contract/feed.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { AuditEntry } from './audit-log.ts'

/** `rev` is 1 when a record is first written and grows by 1 with each change, a deletion included. */
export type Stored<T = unknown> = { rev: number; doc: T }

/**
 * The ends of both chains, and where the audit log begins now, if entries were pruned. `feedFrom`: the oldest feed event that
 * is kept; absent while all are.
 */
export type Head = { feed: Cursor; audit: Cursor; auditStart?: Cursor; feedFrom?: number }

export type RecordKey = `${string} ${string}`
export type IndexEntry = { index: string; value: string }

export type View = { head: Readonly<Head>; records: ReadonlyMap<RecordKey, Stored> }

export type Changes = {
  /** Without `doc` the record goes; its revision is kept, so that one made again later is not taken for the former. */
  records: readonly { key: RecordKey; doc?: unknown }[]
  /** Goes without a trace. */
  forgotten?: readonly RecordKey[]
  indexed: readonly (IndexEntry & { id: string; present: boolean })[]
  /** Bodies; the engine numbers and chains them in this order. */
  audit: readonly string[]
  feed: readonly string[]
  /** Feed events below this number go, for good. */
  feedFrom?: number
  /** Where the audit log begins from now on; what is before goes with `dropAudit`. */
  auditStart?: Cursor
}

/** Ids of a kind in id order, of one index value in id order, or of all index values from one on and below another in order of value and id. */
export type Range =
  | { kind: string }
  | (IndexEntry & { before?: never })
  | { index: string; before: string; from?: string; value?: never }

export interface EngineSnapshot extends AsyncDisposable {
  readonly count: number
  /** Of keys and values as the engine has them, for `writeDatabase`. */
  pages(size: number): AsyncIterable<[key: string, value: string][]>
}

export interface RegistryEngine extends AsyncDisposable {
  /**
   * Decides over the records of `keys` and writes what was decided, or nothing when `decide` throws.
   *
   * @param decide pure: it may run again, and must not keep or change the view
   * @returns its answer, once everything that answer rests on is on disk
   * @throws FleetError `outcome_unknown` when the store failed between "begun" and "on disk"; `unavailable` before that
   */
  write<T>(keys: readonly RecordKey[], decide: (view: View) => { answer: T; changes?: Changes }): Promise<T>
  /** In the order of `keys`, with holes. */
  getMany(keys: readonly RecordKey[]): Promise<(Stored | undefined)[]>
  /**
   * @param after `next` of the page before, or one of its cursors; only good for the same range
   * @returns `cursors`: of each id, what a page that goes on behind it begins with; `records`: of a kind, each with its id
   */
  page(
    range: Range,
    after: string | undefined,
    limit: number,
  ): Promise<{ ids: string[]; cursors: string[]; records?: (Stored | undefined)[]; next?: string }>
  /** Of those that are kept: the first need not be the next one after `seq`. */
  feedAfter(seq: number, limit: number): Promise<FeedEvent[]>
  /** @returns the chain's hash at `seq`, or undefined for a number that was never given or is not kept */
  feedHashAt(seq: number): Promise<string | undefined>
  auditAfter(seq: number, limit: number): Promise<AuditEntry[]>
  /** Those that there are. */
  auditMany(seqs: readonly number[]): Promise<AuditEntry[]>
  /** Removes some of the entries that stand before the log's beginning. @returns whether there may be more */
  dropAudit(): Promise<boolean>
  auditHashAt(seq: number): Promise<string | undefined>
  head(): Promise<Head>
  /** All that there is, as it is now, whatever is written meanwhile; to be closed. */
  snapshot(): Promise<EngineSnapshot>
  /** A hint that the feed grew: it may be lost or come twice. @returns the function that ends it */
  onWake(listener: () => void): () => void
}

// A space parts the fields of a key and sorts before every character a field may have: ids stay in order, and no id
// of one range can look like a neighbour of another.
const keyPart = /^[\x21-\x7e]{1,256}$/

/** Of the number of an entry, so that text order is their order. */
export const entryId = (seq: number): string => String(seq).padStart(16, '0')

export const isKeyPart = (text: string): boolean => keyPart.test(text)

/** @throws FleetError `request_malformed` for an id that no record can have */
export function recordKey(kind: string, id: string): RecordKey {
  return `${kind} ${requireKeyPart(id)}`
}

export function requireKeyPart(text: string): string {
  if (!isKeyPart(text)) {
    throw new FleetError('request_malformed', 'an id is 1 to 256 printable ASCII characters without spaces')
  }
  return text
}
