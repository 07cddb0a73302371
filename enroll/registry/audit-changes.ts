/** What a change that somebody asked for has made of its subject: the fields that differ, as they were and as they are. */
import { isDeepStrictEqual } from 'node:util'
import type { AuditFact } from './audit-log.ts'
import { type RecordKey, recordKey, type Stored } from './engine.ts'
import type { RecordKind } from './indexes.ts'

type Written = { kind: RecordKind; id: string; doc: unknown }
type Fields = NonNullable<AuditFact['details']>

/** Of each subject, the records that are it. Not of what is larger than a line, or is in the entry as it is. */
const kindsOf: Record<string, RecordKind[]> = {
  device: ['device', 'lateRenewal'],
  certificate: ['certificate'],
  approval: ['approval'],
  incident: ['incident'],
  operator: ['operator'],
  'api-token': ['apiToken'],
  broker: ['broker'],
  policy: ['policy'],
}
const untold = new Set(['der', 'document', 'digest', 'evidence'])
/** There is one policy, whatever its version. */
const idOf = (noun: string, id: string): string => (noun === 'policy' ? 'current' : id)

/** Devices, and the service itself, change what the entry says anyway; a person may change anything. */
const isAsked = ({ actor, outcome }: AuditFact): boolean =>
  outcome === 'done' && (actor.startsWith('operator:') || actor.startsWith('api-token:'))

export function withChange(
  fact: AuditFact,
  writes: readonly Written[],
  records: ReadonlyMap<RecordKey, Stored>,
): AuditFact {
  if (!isAsked(fact)) return fact
  const [, noun = '', id = ''] = /^([a-z-]+):(.*)$/s.exec(fact.subject) ?? []
  const own = writes.filter(
    (write) => (Object.hasOwn(kindsOf, noun) ? kindsOf[noun]! : []).includes(write.kind) && write.id === idOf(noun, id),
  )
  const before: Fields = {}
  const after: Fields = {}
  for (const { kind, id: written, doc } of own) {
    const old = asFields(records.get(recordKey(kind, written))?.doc)
    const now = asFields(doc)
    for (const name of new Set([...Object.keys(old), ...Object.keys(now)])) {
      if (untold.has(name) || isDeepStrictEqual(old[name], now[name])) continue
      if (old[name] !== undefined) before[name] = told(old[name])
      if (now[name] !== undefined) after[name] = told(now[name])
    }
  }
  return {
    ...fact,
    ...(Object.keys(before).length > 0 ? { before } : {}),
    ...(Object.keys(after).length > 0 ? { after } : {}),
  }
}

const asFields = (doc: unknown): Record<string, unknown> => (doc ?? {}) as Record<string, unknown>

function told(value: unknown): Fields[string] {
  if (typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean') return value
  return Array.isArray(value) && value.every((item) => typeof item === 'string') ? value : JSON.stringify(value)
}
