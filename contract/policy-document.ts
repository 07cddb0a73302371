/**
 * The policy language: which certificate subjects may touch which topics, and how much of it. docs/policy.md tells it whole.
 *
 * Deny by default, deny over allow. A statement applies to a principal when every key of its `match` holds (any one of the
 * values given for a key). `${...}` in a pattern is replaced by the principal's own value; a variable that is missing makes
 * that pattern match nothing, and so does one whose value could change the shape of a pattern that is allowed.
 */
import { z } from 'zod'
import { connectConditions } from './policy-conditions.ts'
import { policyLimits } from './policy-limits.ts'
import { placeholder } from './policy-match.ts'
import { isMatchName, isVariable, type MatchName, unknownName, unknownVariable } from './principal-facts.ts'
import { isGatewayTopic, isTopicFilter, isTopicName } from './topics.ts'

/** A pattern stands for one filter per combination of its variables' values, so their number is bounded. */
const maxVariables = 4

const closed = 'topics that begin with $ are closed to clients'
const closedToPublishers = `${closed}; the gateway alone publishes there`
const closedToSubscribers = `${closed}, but for what begins with $fleetgate/devices/ or $fleetgate/events/`

type PatternRules = {
  isShape: (shape: string) => boolean
  what: string
  /** Why a pattern that begins with `$` is refused; where it is not, undefined. */
  dollarFault: (text: string) => string | undefined
}

const patternOf = ({ isShape, what, dollarFault }: PatternRules) =>
  z
    .string()
    .min(1)
    .max(1_000)
    .superRefine((text, context) => {
      const found = [...text.matchAll(placeholder)]
      for (const [whole, name] of found) {
        if (!isVariable(name!)) context.addIssue({ code: 'custom', message: unknownVariable(whole) })
      }
      if (found.length > maxVariables) {
        const message = `${found.length} variables; a pattern has at most ${maxVariables}`
        context.addIssue({ code: 'custom', message })
      }
      // Each variable stands for text without `/ + #`, so a plain letter in its place shows the pattern's shape.
      const shape = text.replaceAll(placeholder, 'x')
      if (shape.includes('${')) context.addIssue({ code: 'custom', message: `${text}: a \${ without its }` })
      else if (!isShape(shape))
        context.addIssue({ code: 'custom', message: `${text} is not a topic ${what} (MQTT 4.7)` })
      else if (shape.startsWith('$')) {
        const fault = dollarFault(text)
        if (fault !== undefined) context.addIssue({ code: 'custom', message: `${text}: ${fault}` })
      }
    })
const published = patternOf({ isShape: isTopicFilter, what: 'filter', dollarFault: () => closedToPublishers })
const subscribed = patternOf({
  isShape: isTopicFilter,
  what: 'filter',
  dollarFault: (text) => (isGatewayTopic(text) ? undefined : closedToSubscribers),
})

const oneOrMore = z
  .union([z.string().min(1), z.array(z.string().min(1)).min(1)])
  .transform((value) => (Array.isArray(value) ? value : [value]))

const topics = z.strictObject({
  publish: z.array(published).optional().describe('Topic filters: every topic they match may be published to'),
  subscribe: z.array(subscribed).optional().describe('Topic filters: they and narrower ones may be subscribed to'),
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

const statement = z
  .strictObject({
    name: z.string().min(1).max(100).describe('Shown in logs when the statement decided'),
    match: match
      .prefault({})
      .describe(
        'Whom it is for; each key must hold, `*` in a value stands for any run of characters; empty: everybody',
      ),
    allow: topics.default({}).describe('What is allowed'),
    deny: topics.default({}).describe('What is denied, whatever another statement allows'),
    maxQos: z
      .literal([0, 1, 2])
      .optional()
      .describe('Highest QoS of what this statement allows to publish; another may allow more'),
    retain: z
      .boolean()
      .optional()
      .describe('false: what this statement allows to publish is allowed unretained; another may allow more'),
    onDeny: z
      .enum(['drop', 'disconnect'])
      .optional()
      .describe(
        'What follows on a message or subscription that is not allowed; one statement that says disconnect is enough',
      ),
    connect: connectConditions.optional().describe('What a CONNECT has to meet; every statement that applies is asked'),
    limits: policyLimits.optional().describe('How much; the smallest of the statements that apply counts'),
    responseTopic: patternOf({ isShape: isTopicName, what: 'name', dollarFault: () => closed })
      .optional()
      .describe(
        'Told to a version 5 client that asks for response information, if it may subscribe below; the first one that may counts',
      ),
  })
  .superRefine(({ allow, maxQos, retain }, context) => {
    if (allow.publish !== undefined) return
    for (const [key, value] of Object.entries({ maxQos, retain })) {
      const message = `${key} is about what this statement's allow.publish allows, and it has none`
      if (value !== undefined) context.addIssue({ code: 'custom', path: [key], message })
    }
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
    match: { profile: [sensor, camera] }   # also: device.id, group, subject.OU and others, see docs/policy.md
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
