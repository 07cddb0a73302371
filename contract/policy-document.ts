/**
 * The policy language: which certificate subjects may touch which topics.
 *
 * Deny by default, deny over allow. A statement applies to a principal when every key of its `match` holds (any one of the
 * values given for a key). `${...}` in a pattern is replaced by the principal's own value; a variable that is missing or
 * whose value could change the pattern's shape makes that pattern match nothing.
 */
import { z } from 'zod'
import {
  factNameOf,
  isMatchName,
  isVariable,
  type MatchName,
  type PrincipalFacts,
  unknownName,
  unknownVariable,
} from './principal-facts.ts'
import { isTopicFilter } from './topics.ts'

const placeholder = /\$\{([^}]*)\}/g
/** A pattern stands for one filter per combination of its variables' values, so their number is bounded. */
const maxVariables = 4

const pattern = z
  .string()
  .min(1)
  .max(1_000)
  .superRefine((text, context) => {
    const found = [...text.matchAll(placeholder)]
    for (const [whole, name] of found) {
      if (!isVariable(name!)) {
        context.addIssue({ code: 'custom', message: unknownVariable(whole) })
      }
    }
    if (found.length > maxVariables) {
      context.addIssue({ code: 'custom', message: `${found.length} variables; a pattern has at most ${maxVariables}` })
    }
    // Each variable stands for text without `/ + #`, so a plain letter in its place shows the pattern's shape.
    const shape = text.replaceAll(placeholder, 'x')
    if (shape.includes('${')) context.addIssue({ code: 'custom', message: `${text}: a \${ without its }` })
    else if (!isTopicFilter(shape))
      context.addIssue({ code: 'custom', message: `${text} is not a topic filter (MQTT 4.7)` })
    else if (shape.startsWith('$')) {
      context.addIssue({ code: 'custom', message: `${text}: topics that begin with $ are closed to clients` })
    }
  })

const oneOrMore = z
  .union([z.string().min(1), z.array(z.string().min(1)).min(1)])
  .transform((value) => (Array.isArray(value) ? value : [value]))

const topics = z.strictObject({
  publish: z.array(pattern).optional().describe('Topic filters: every topic they match may be published to'),
  subscribe: z.array(pattern).optional().describe('Topic filters: they and narrower ones may be subscribed to'),
})

/** A record would pass over `__proto__`, and a condition that is passed over is one that everybody meets. */
const match = z
  .custom<{ [N in MatchName]?: string | string[] }>(
    (input) => typeof input === 'object' && input !== null && !Array.isArray(input),
    'names with the values that are wanted',
  )
  .superRefine((input, context) => {
    for (const name of Object.keys(input)) {
      if (!isMatchName(name)) context.addIssue({ code: 'custom', path: [name], message: unknownName(name) })
    }
  })
  .pipe(z.record(z.string(), oneOrMore))

const statement = z.strictObject({
  name: z.string().min(1).max(100).describe('Shown in logs when the statement decided'),
  match: match
    .prefault({})
    .describe('Whom it is for; each key must hold, `*` in a value stands for any run of characters; empty: everybody'),
  allow: topics.default({}).describe('What is allowed'),
  deny: topics.default({}).describe('What is denied, whatever another statement allows'),
})

export const policyDocument = z.strictObject({
  policies: z
    .array(statement)
    .max(10_000)
    .superRefine((list, context) => {
      const seen = new Set<string>()
      for (const [at, { name }] of list.entries()) {
        if (seen.has(name)) context.addIssue({ code: 'custom', path: [at, 'name'], message: `${name} stands twice` })
        seen.add(name)
      }
    }),
})
export type PolicyDocument = z.output<typeof policyDocument>
export type PolicyStatement = PolicyDocument['policies'][number]
export type PolicyAction = 'publish' | 'subscribe'

/** Written as `policy.yaml` on the first start. */
export const starterPolicy = `# Who may touch which topics. Deny by default; deny beats allow.
# Check it with 'fleetgate policy check', put it in force with 'fleetgate policy apply'; open sessions obey at once.
policies:
  - name: own-topics
    match: { profile: [sensor, camera] }   # also: device.id, group, subject.CN, subject.OU, subject.O, san.uri, issuer
    allow:
      publish: ["devices/\${device.id}/#"]
      subscribe: ["devices/\${device.id}/commands/#"]

  - name: group-broadcast
    match: { profile: [sensor, camera] }
    allow:
      subscribe: ["groups/\${device.group}/broadcast"]

  - name: applications
    match: { profile: service }
    allow:
      publish: ["devices/+/commands/#", "groups/+/broadcast"]
      subscribe: ["devices/+/telemetry/#", "devices/+/state"]
`

/** @returns whether `statement` is for a principal with these facts */
export function statementApplies(statement: PolicyStatement, facts: PrincipalFacts): boolean {
  return Object.entries(statement.match).every(([key, wanted]) => {
    const values = facts[factNameOf(key)] ?? []
    return wanted.some((glob) => values.some((value) => globMatches(glob, value)))
  })
}

/**
 * @returns the topic filters that `text` stands for with these facts: one for each combination of values, none when a
 *   variable is missing or has a value that is empty or holds `+ # /`, a control character or a leading `$`
 */
export function expandPattern(text: string, facts: PrincipalFacts): string[] {
  let results = ['']
  let end = 0
  for (const found of text.matchAll(placeholder)) {
    const literal = text.slice(end, found.index)
    end = found.index + found[0].length
    const values = (isVariable(found[1]!) ? (facts[found[1]] ?? []) : []).filter(isSafeLevel)
    results = results.flatMap((start) => values.map((value) => start + literal + value))
  }
  return results
    .map((start) => start + text.slice(end))
    .filter((filter) => isTopicFilter(filter) && !filter.startsWith('$'))
}

const isSafeLevel = (value: string): boolean =>
  /^[^+#/$\u0000-\u001f\u007f-\u009f][^+#/\u0000-\u001f\u007f-\u009f]*$/u.test(value)

function globMatches(glob: string, value: string): boolean {
  const parts = glob.split('*')
  if (parts.length === 1) return glob === value
  const first = parts.shift()!
  const last = parts.pop()!
  if (!value.startsWith(first) || !value.endsWith(last) || value.length < first.length + last.length) return false
  let at = first.length
  const end = value.length - last.length
  for (const part of parts) {
    const found = value.indexOf(part, at)
    if (found < 0 || found + part.length > end) return false
    at = found + part.length
  }
  return true
}
