/** Why something was refused, and what to change so that it passes: made of a denial and the policy of that moment. */
import { plainFix } from './denial-fixes.ts'
import type { Denial, DenialFix, PolicyEdit, Refusal } from './denials.ts'
import type { PolicyDocument, PolicyStatement } from './policy-document.ts'
import { explainPolicy, type Question } from './policy-explain.ts'
import { fixAttribute, fixConditions, fixLimit, fixRate, fixTopic, statementsNear } from './policy-fix.ts'
import { expandPattern, valueHolds } from './policy-match.ts'
import { factNameOf, type PrincipalFacts } from './principal-facts.ts'
import type { ProblemCode } from './problems.ts'
import { filterCovers } from './topics.ts'

/** A document may have thousands; those that are for the device come first. */
const maxStatements = 50

type Explained = Pick<Denial, 'statements' | 'nearest' | 'fix'>

/** @param document the policy that refused; without one, as at enrollment, only what it takes no policy to say */
export function explainDenial(denial: Refusal, document: PolicyDocument | undefined): Explained {
  const { asked, variables } = denial
  const fix = fixOf(denial, document)
  const answer = fix === undefined ? {} : { fix }
  if (document === undefined) return answer
  const facts = variables as PrincipalFacts
  // In quarantine no policy is asked.
  if (asked === undefined || denial.action === 'quarantine') return answer
  const question = questionOf(asked)
  const { nearest } = explainPolicy(document, facts, question)
  return { ...answer, statements: triedOf(document, facts, question), ...(nearest === undefined ? {} : { nearest }) }
}

const questionOf = ({ action, topic, qos, retain, bytes }: NonNullable<Denial['asked']>): Question =>
  action === 'publish' ? { action, topic, qos, retain, bytes } : { action, topic }

function triedOf(
  { policies }: PolicyDocument,
  facts: PrincipalFacts,
  question: Question,
): { statement: string; because: string }[] {
  const list = question.action === 'publish' ? 'publish' : 'subscribe'
  const missing = ({ match }: PolicyStatement): [string, string[]][] =>
    Object.entries(match).filter(([name, wanted]) => !valueHolds(wanted, facts[factNameOf(name)]))
  const rows = policies.flatMap((statement) => {
    const { name, allow, deny } = statement
    if (allow[list] === undefined && deny[list] === undefined) return []
    const absent = missing(statement)
    if (absent.length > 0) {
      const wants = absent.map(([key, wanted]) => `${key} ${wanted.join(' or ')}`).join(', ')
      return [{ statement: name, because: `is for ${wants}`, isFor: false }]
    }
    const speaks = (patterns: string[] = []): string | undefined =>
      patterns.find((pattern) => expandPattern(pattern, facts).some((filter) => filterCovers(filter, question.topic)))
    const denies = speaks(deny[list])
    const allows = speaks(allow[list])
    const because =
      denies !== undefined
        ? `denies ${denies}`
        : allows !== undefined
          ? `allows ${allows}`
          : `allows ${(allow[list] ?? ['nothing']).slice(0, 5).join(', ')}`
    return [{ statement: name, because, isFor: true }]
  })
  return rows
    .toSorted((a, b) => Number(b.isFor) - Number(a.isFor))
    .slice(0, maxStatements)
    .map(({ statement, because }) => ({ statement, because }))
}

function fixOf(denial: Refusal, document: PolicyDocument | undefined): DenialFix | undefined {
  const near = document && statementsNear(document, denial.variables as PrincipalFacts)
  return (near && policyFix(denial, near)) ?? plainFix(denial)
}

function policyFix(denial: Refusal, document: PolicyDocument): DenialFix | undefined {
  const { cause, asked, deviceId, needed, remoteAddress = '' } = denial
  const facts = denial.variables as PrincipalFacts
  switch (cause) {
    case 'connect_condition':
      return editing(fixConditions(document, facts, { now: new Date(denial.firstAt), remoteAddress }))
    case 'rate_limited':
      return editing(fixRate(document, facts))
    case 'too_many_connections':
      return editing(fixLimit(document, facts, 'connections', needed ?? 0))
    case 'quota_exceeded':
      return editing(fixLimit(document, facts, 'subscriptions', needed ?? 0))
  }
  if (asked === undefined || !topicCauses.has(cause)) return undefined
  const question = questionOf(asked)
  const attribute = fixAttribute(document, facts, question)
  if (attribute !== undefined && deviceId !== undefined) {
    const { name, value } = attribute
    const text = `a statement is for devices whose attribute ${name} is ${value}; if this is one, say so`
    return { kind: 'command', text, command: ['device', 'set', deviceId, '--attribute', `${name}=${value}`] }
  }
  return editing(fixTopic(document, facts, question))
}

const topicCauses: ReadonlySet<ProblemCode> = new Set([
  'publish_denied',
  'subscribe_denied',
  'delivery_denied',
  'will_denied',
  'qos_denied',
  'retain_denied',
  'payload_too_large',
])

function editing(edits: PolicyEdit[] | undefined): DenialFix | undefined {
  if (edits === undefined || edits.length === 0) return undefined
  return { kind: 'policy', text: edits.map(sentenceOf).join('; '), edits }
}

/** As it would stand in the file: every JSON value is a YAML value. */
function sentenceOf({ statement, path, value }: PolicyEdit): string {
  if (path === '') {
    const { name, match, allow } = value as PolicyStatement
    return `add the statement { name: ${name}, match: ${JSON.stringify(match)}, allow: ${JSON.stringify(allow)} }`
  }
  if (value === null) return `in ${statement}, take ${path} out`
  return `in ${statement}, set ${path}: ${JSON.stringify(value)}`
}
