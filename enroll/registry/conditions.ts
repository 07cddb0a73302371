import { type RecordKey, recordKey, type View } from './engine.ts'
import type { RecordKind, RecordTypes } from './indexes.ts'

/** A record that a commit rests on and need not write, as it has to be when that is made; `require` throws where it is not. */
export type Condition = {
  [K in RecordKind]: { kind: K; id: string; require(doc: RecordTypes[K] | undefined): void }
}[RecordKind]

/** A write of the engine that is made only while the conditions hold. */
export function provided<T>(
  conditions: readonly Condition[],
  keys: readonly RecordKey[],
  decide: (view: View) => T,
): [keys: readonly RecordKey[], decide: (view: View) => T] {
  if (conditions.length === 0) return [keys, decide]
  const own = conditions.map(({ kind, id }) => recordKey(kind, id))
  const decideIfMet = (view: View): T => {
    for (const [at, { require }] of conditions.entries()) require(view.records.get(own[at]!)?.doc as never)
    return decide(view)
  }
  return [[...new Set([...keys, ...own])], decideIfMet]
}
