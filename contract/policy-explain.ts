/** Why a policy says yes or no, for people: which statement decided, or which would have come nearest. */
import type { PolicyDocument, PolicyStatement } from './policy-document.ts'
import { expandPattern, valueHolds } from './policy-match.ts'
import { compilePolicy, type Verdict } from './policy-matcher.ts'
import { factNameOf, type PrincipalFacts } from './principal-facts.ts'
import { filterCovers } from './topics.ts'

export type Question =
  | { action: 'publish'; topic: string; qos: number; retain: boolean; bytes: number }
  | { action: 'subscribe' | 'receive'; topic: string }

export type Explanation = {
  verdict: Verdict
  /** A clause: `own-topics allows it` */
  because: string
  nearest?: { statement: string; because: string }
}

export function askPolicy(document: PolicyDocument, facts: PrincipalFacts, question: Question): Verdict {
  const matcher = compilePolicy(document, facts)
  if ('qos' in question) return matcher.allowsMessage({ ...question, payload: { length: question.bytes } })
  if (question.action === 'subscribe') return matcher.allows('subscribe', question.topic)
  return { allowed: matcher.allowsDelivery(question.topic) }
}

export function explainPolicy(document: PolicyDocument, facts: PrincipalFacts, question: Question): Explanation {
  const verdict = askPolicy(document, facts, question)
  const because = becauseOf(verdict, question)
  if (verdict.allowed || verdict.statement !== undefined || verdict.reason !== undefined) return { verdict, because }
  const nearest = nearestOf(document, facts, question)
  return nearest === undefined ? { verdict, because } : { verdict, because, nearest }
}

function becauseOf({ allowed, statement, reason }: Verdict, question: Question): string {
  if (reason === 'payload_too_large') return 'the payload is larger than the limits allow'
  if (statement === undefined) return allowed ? 'the policy allows it' : 'no statement allows it'
  if (reason === 'qos_denied' && question.action === 'publish') return `${statement} does not allow QoS ${question.qos}`
  if (reason === 'retain_denied') return `${statement} does not allow it to be retained`
  return allowed ? `${statement} allows it` : `${statement} denies it`
}

type Candidate = { statement: string; because: string; distance: number }

/** The one that is missing the fewest conditions; of those that are met, the one whose filter has most levels in common. */
function nearestOf(document: PolicyDocument, facts: PrincipalFacts, question: Question): Explanation['nearest'] {
  const list = question.action === 'publish' ? 'publish' : 'subscribe'
  const candidates = document.policies.flatMap((statement) =>
    (statement.allow[list] ?? []).flatMap((pattern) => candidateOf(statement, pattern, facts, question.topic)),
  )
  const [best] = candidates.toSorted((a, b) => a.distance - b.distance)
  return best === undefined ? undefined : { statement: best.statement, because: best.because }
}

function candidateOf(
  { name, match }: PolicyStatement,
  pattern: string,
  facts: PrincipalFacts,
  topic: string,
): Candidate[] {
  const filters = expandPattern(pattern, facts)
  const missing = Object.entries(match).filter(([key, wanted]) => !valueHolds(wanted, facts[factNameOf(key)]))
  const isCovering = filters.some((filter) => filterCovers(filter, topic))
  if (isCovering) {
    const wants = missing.map(([key, wanted]) => `${key} ${wanted.join(' or ')} (it has ${valuesOf(facts, key)})`)
    return [{ statement: name, because: `it allows ${pattern} for ${wants.join(', and ')}`, distance: missing.length }]
  }
  const common = Math.max(0, ...filters.map((filter) => levelsInCommon(filter, topic)))
  const isUnset = filters.length === 0
  if (missing.length > 0 || (common === 0 && !isUnset)) return []
  const unset = isUnset ? ', of which a variable has no value that could stand in a topic' : ` (${filters.join(', ')})`
  return [
    {
      statement: name,
      because: `it allows ${pattern}${pattern === filters[0] ? '' : unset}`,
      distance: 1_000 - common,
    },
  ]
}

const valuesOf = (facts: PrincipalFacts, key: string): string => (facts[factNameOf(key)] ?? []).join(', ') || 'none'

function levelsInCommon(filter: string, topic: string): number {
  if (topic.startsWith('$') && !filter.startsWith('$')) return 0 // [MQTT-4.7.2-1]
  const levels = topic.split('/')
  const at = filter.split('/').findIndex((level, index) => level !== '+' && level !== levels[index])
  return at < 0 ? levels.length : at
}
