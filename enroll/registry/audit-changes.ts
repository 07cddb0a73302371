/** What a change that somebody asked for has made of its subject: the fields that differ, as they were and as they are. */
import { isDeepStrictEqual } from 'node:util'
import type { AuditFact } from './audit-log.ts'
import type { RecordKey, Stored } from './engine.ts'
import type { RecordKind } from './indexes.ts'

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
const untold = new Set(['der', 'document', 'digest', 'evidence', 'renewals'])
/** There is one policy, whatever its version. */
const idOf = (noun: string, id: string): string => (noun === 'policy' ? 'current' : id)

/** Devices, and the service itself, change what the entry says anyway; a person may change anything. */
const isAsked = ({ actor, outcome }: AuditFact): boolean =>
  outcome === 'done' && (actor.startsWith('operator:') || actor.startsWith('api-token:'))

/** @param written what the commit writes, by the key of each record */
export function withChange(
  fact: AuditFact,
  written: ReadonlyMap<RecordKey, unknown>,
  records: ReadonlyMap<RecordKey, Stored>,
): AuditFact {
  if (!isAsked(fact)) return fact
  const [, noun = '', id = ''] = /^([a-z-]+):(.*)$/s.exec(fact.subject) ?? []
  const kinds = Object.hasOwn(kindsOf, noun) ? kindsOf[noun]! : []
  const own = kinds.map((kind): RecordKey => `${kind} ${idOf(noun, id)}`).filter((key) => written.has(key))
  const before: Fields = {}
  const after: Fields = {}
  for (const key of own) {
    const old = asFields(records.get(key)?.doc)
    const now = asFields(written.get(key))
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
