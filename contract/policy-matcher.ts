/** A policy document as it stands for one principal: variables replaced, statements for others left out. */
import type { ConnectConditions } from './policy-conditions.ts'
import type { PolicyAction, PolicyDocument, PolicyStatement } from './policy-document.ts'
import { narrowest, type PolicyLimits } from './policy-limits.ts'
import { expandDenied, expandPattern, matchHolds, valueHolds } from './policy-match.ts'
import { type Rule, RuleTree } from './policy-rules.ts'
import { factNameOf, type PrincipalFacts } from './principal-facts.ts'
import { isGatewayTopic, isTopicFilter, isTopicName } from './topics.ts'

/** What is not about the topic; a refusal without it is. */
export type MessageFault = 'retain_denied' | 'qos_denied' | 'payload_too_large'
/** `statement` is the name of the one that decided; without it nothing spoke for the topic. */
export type Verdict = {
  readonly allowed: boolean
  readonly statement?: string
  readonly reason?: MessageFault
}
/** A message to be published; a PUBLISH packet and a will are such. */
export type AskedMessage = {
  readonly topic: string
  readonly qos: number
  readonly retain: boolean
  readonly payload: { readonly length: number }
}

/** Verdicts are made once and handed out again: asking about a topic that was asked about lately allocates nothing. */
export type Matcher = {
  /** Whether a topic may be published to, at QoS 0 and not retained, or a filter subscribed to. */
  allows(action: PolicyAction, topicOrFilter: string): Verdict
  /** Whether this very message may be published. */
  allowsMessage(message: AskedMessage): Verdict
  /** Whether a message on `topic` may reach this principal, whatever filter it was subscribed with. */
  allowsDelivery(topic: string): boolean
  readonly limits: PolicyLimits
  readonly onDeny: 'drop' | 'disconnect'
  readonly conditions: readonly { readonly statement: string; readonly connect: ConnectConditions }[]
  /** The highest QoS that any topic may be published to with, and whether any may be with RETAIN; for one that may not publish, what MQTT takes for granted. */
  readonly maxQos: 0 | 1 | 2
  readonly mayRetain: boolean
  /** For response information: a topic below which this principal may subscribe. */
  readonly responseTopic: string | undefined
}

type MatcherOptions = {
  /** Names whose values are not known, as those of a certificate that is not at hand: what is denied by them is denied. */
  isUnknown?: (name: string) => boolean
}

const denied: Verdict = { allowed: false }
const tooLarge: Verdict = { allowed: false, reason: 'payload_too_large' }
/** MQTT would take 65,535; what is kept for each subscription and retained message grows with it. */
const maxTopicLength = 1_024
/** Verdicts that one connection remembers in each direction, and how long a topic may be for it. */
const maxRemembered = 256
const maxRememberedLength = 256

export function compilePolicy(
  document: PolicyDocument,
  facts: PrincipalFacts,
  { isUnknown = isUnreadIn(facts) }: MatcherOptions = {},
): Matcher {
  return new CompiledPolicy(document, facts, isUnknown)
}

const isUnreadIn = ({ unread }: PrincipalFacts): MatcherOptions['isUnknown'] =>
  unread && ((name) => unread.includes(name))

function rulesOf(
  { policies }: PolicyDocument,
  applying: ReadonlySet<PolicyStatement>,
  facts: PrincipalFacts,
  isUnknown: MatcherOptions['isUnknown'],
): Rules {
  const rules: Rules = { publish: new RuleTree(), subscribe: new RuleTree() }
  for (const [order, statement] of policies.entries()) {
    const isApplying = applying.has(statement)
    if (isApplying || (isUnknown !== undefined && mayHold(statement, facts, isUnknown)))
      addRules(rules, { statement, order, facts, isApplying, isUnknown: isUnknown ?? (() => false) })
  }
  return rules
}

type Rules = Record<PolicyAction, RuleTree>
type Addition = {
  statement: PolicyStatement
  order: number
  facts: PrincipalFacts
  isApplying: boolean
  isUnknown: (name: string) => boolean
}

function addRules(rules: Rules, { statement, order, facts, isApplying, isUnknown }: Addition): void {
  const { name, allow, deny, maxQos = 2, retain = true } = statement
  const common = { order, statement: name, maxQos, retain }
  for (const action of ['publish', 'subscribe'] as const) {
    for (const text of isApplying ? (allow[action] ?? []) : []) {
      for (const filter of expandPattern(text, facts)) rules[action].add(filter, { ...common, isDeny: false })
    }
    for (const text of deny[action] ?? []) {
      for (const filter of expandDenied(text, facts, isUnknown)) rules[action].add(filter, { ...common, isDeny: true })
    }
  }
}

/** Whether the statement could be for this principal if the names that are not known had the right values. */
const mayHold = ({ match }: PolicyStatement, facts: PrincipalFacts, isUnknown: (name: string) => boolean): boolean =>
  Object.entries(match).every(([name, wanted]) => {
    const fact = factNameOf(name)
    return isUnknown(fact) || valueHolds(wanted, facts[fact])
  })

class CompiledPolicy implements Matcher {
  readonly limits: PolicyLimits
  readonly onDeny: 'drop' | 'disconnect'
  readonly conditions: Matcher['conditions']
  readonly #document: PolicyDocument
  readonly #facts: PrincipalFacts
  readonly #isUnknown: MatcherOptions['isUnknown']
  readonly #applying: readonly PolicyStatement[]
  readonly #maxPayload: number
  readonly #retains: boolean
  /** Of who says nothing there are none. */
  #madeRules: Rules | undefined
  /** By topic: a verdict for each QoS, not retained and retained. */
  readonly #published = new Remembered<readonly Verdict[]>()
  readonly #delivered = new Remembered<boolean>()
  /** For topics that one rule alone speaks for: most of them. */
  #ofRule: Map<Rule, readonly Verdict[]> | undefined

  constructor(document: PolicyDocument, facts: PrincipalFacts, isUnknown: MatcherOptions['isUnknown']) {
    const applying = document.policies.filter(({ match }) => matchHolds(match, facts))
    this.#document = document
    this.#facts = facts
    this.#isUnknown = isUnknown
    this.#applying = applying
    const isUnread = isUnreadIn(facts)
    const restricting = isUnread ? document.policies.filter((one) => mayHold(one, facts, isUnread)) : applying
    this.limits = narrowest(restricting.flatMap(({ limits }) => (limits === undefined ? [] : [limits])))
    this.#maxPayload = this.limits.payloadBytes ?? Number.POSITIVE_INFINITY
    this.#retains = this.limits.retainedMessages !== 0
    this.onDeny = restricting.some(({ onDeny }) => onDeny === 'disconnect') ? 'disconnect' : 'drop'
    this.conditions = restricting.flatMap(({ name, connect }) =>
      connect === undefined ? [] : [{ statement: name, connect }],
    )
  }

  get maxQos(): 0 | 1 | 2 {
    const publishing = this.#publishing
    return publishing.length === 0 ? 2 : (Math.max(...publishing.map(({ maxQos = 2 }) => maxQos)) as 0 | 1 | 2)
  }

  get mayRetain(): boolean {
    const publishing = this.#publishing
    return publishing.length === 0 || (this.#retains && publishing.some(({ retain = true }) => retain))
  }

  get responseTopic(): string | undefined {
    return this.#applying
      .flatMap(({ responseTopic }) => (responseTopic === undefined ? [] : expandPattern(responseTopic, this.#facts)))
      .find((topic) => this.allows('subscribe', `${topic.replace(/\/$/, '')}/#`).allowed)
  }

  get #publishing(): PolicyStatement[] {
    return this.#applying.filter(({ allow }) =>
      allow.publish?.some((text) => expandPattern(text, this.#facts).length > 0),
    )
  }

  get #rules(): Rules {
    this.#madeRules ??= rulesOf(this.#document, new Set(this.#applying), this.#facts, this.#isUnknown)
    return this.#madeRules
  }

  allows(action: PolicyAction, text: string): Verdict {
    if (action === 'publish') return this.#verdictsOf(text)[0]!
    // Of a shared subscription the filter behind its group is asked.
    if (isClosed(text) || text.length > maxTopicLength || !isTopicFilter(text)) return denied
    // A deny that a requested filter only overlaps is held at each delivery.
    return decide(this.#rules.subscribe.find(text))
  }

  allowsMessage({ topic, qos, retain, payload }: AskedMessage): Verdict {
    const verdict = this.#verdictsOf(topic)[2 * qos + (retain ? 1 : 0)] ?? denied
    return verdict.allowed && payload.length > this.#maxPayload ? tooLarge : verdict
  }

  allowsDelivery(topic: string): boolean {
    let isAllowed = this.#delivered.get(topic)
    if (isAllowed === undefined) {
      isAllowed = !isClosed(topic) && isBoundedName(topic) && decide(this.#rules.subscribe.find(topic)).allowed
      this.#delivered.set(topic, isAllowed)
    }
    return isAllowed
  }

  #verdictsOf(topic: string): readonly Verdict[] {
    let verdicts = this.#published.get(topic)
    if (verdicts === undefined) {
      verdicts = this.#askedOf(topic)
      this.#published.set(topic, verdicts)
    }
    return verdicts
  }

  #askedOf(topic: string): readonly Verdict[] {
    if (topic.startsWith('$') || !isBoundedName(topic)) return everyDenied
    const found = this.#rules.publish.find(topic)
    if (found.length === 0) return everyDenied
    const [only] = found
    if (found.length > 1 || only === undefined) return verdictsOn(found, this.#retains)
    let verdicts = this.#ofRule?.get(only)
    if (verdicts === undefined) {
      verdicts = verdictsOn(found, this.#retains)
      this.#ofRule ??= new Map()
      this.#ofRule.set(only, verdicts)
    }
    return verdicts
  }
}

/** For each QoS, not retained and retained. */
function verdictsOn(found: readonly Rule[], retains: boolean): readonly Verdict[] {
  const first = decide(found)
  if (!first.allowed) return [first, first, first, first, first, first]
  return [0, 1, 2].flatMap((qos) => {
    const enough = found.filter(({ maxQos }) => maxQos >= qos)
    const reason = enough.length === 0 ? 'qos_denied' : 'retain_denied'
    const no: Verdict = { allowed: false, statement: first.statement!, reason }
    return [enough[0], retains ? enough.find(({ retain }) => retain) : undefined].map((rule) =>
      rule === undefined ? no : { allowed: true, statement: rule.statement },
    )
  })
}

/** To whoever subscribes: what begins with `$`, but for what the gateway itself publishes. */
const isClosed = (text: string): boolean => text.startsWith('$') && !isGatewayTopic(text)
const isBoundedName = (topic: string): boolean => topic.length <= maxTopicLength && isTopicName(topic)

const everyDenied: readonly Verdict[] = [denied, denied, denied, denied, denied, denied]

function decide(found: readonly Rule[]): Verdict {
  const decisive = found.find(({ isDeny }) => isDeny) ?? found[0]
  return decisive === undefined ? denied : { allowed: !decisive.isDeny, statement: decisive.statement }
}

/** What was lately found out by topic. It is bounded: full, it keeps what it has, and begins anew when that is of no use. */
class Remembered<V> {
  /** Not before there is something: of a connection that is idle there is nothing. */
  #values: Map<string, V> | undefined
  #missed = 0

  get(topic: string): V | undefined {
    return this.#values?.get(topic)
  }

  set(topic: string, value: V): void {
    if (topic.length > maxRememberedLength) return
    this.#values ??= new Map()
    if (this.#values.size >= maxRemembered) {
      if (++this.#missed < 4 * maxRemembered) return
      this.#missed = 0
      this.#values.clear()
    }
    this.#values.set(topic, value)
  }
}
