/** The smallest change that lets something pass that a policy refuses: smallest in what else becomes allowed by it. */
import type { PolicyEdit } from './denials.ts'
import { conditionFault } from './policy-conditions.ts'
import type { PolicyDocument, PolicyStatement } from './policy-document.ts'
import { askPolicy, explainPolicy, type Question } from './policy-explain.ts'
import type { PolicyLimits } from './policy-limits.ts'
import { expandPattern, matchHolds } from './policy-match.ts'
import type { Verdict } from './policy-matcher.ts'
import type { PrincipalFacts } from './principal-facts.ts'
import { filterCovers, isGatewayTopic } from './topics.ts'

/** A statement may stand in the way behind a statement that stood in the way. */
const maxSteps = 8
const attributePrefix = 'device.attributes.'
const maxGuesses = 20
/** Of statements for one device alone. */
const ownPrefix = 'only-'

/** @throws RangeError for a statement that is not there */
export function editPolicy(document: PolicyDocument, edits: readonly PolicyEdit[]): PolicyDocument {
  const { policies } = structuredClone(document)
  for (const { statement: name, path, value } of edits) {
    const statement = policies.find((one) => one.name === name)
    if (path === '') policies.push(value as PolicyStatement)
    else if (statement === undefined) throw new RangeError(`there is no statement ${name}`)
    else setAt(statement, path.split('.'), value)
  }
  return { policies }
}

function setAt(target: object, [name = '', ...rest]: string[], value: unknown): void {
  const place = target as Record<string, unknown>
  if (rest.length > 0) {
    place[name] ??= {}
    setAt(place[name] as object, rest, value)
  } else if (value === null) delete place[name]
  else place[name] = value
}

/**
 * The statements that a fix can be about: those that are for the device, or would be if it had attributes that it lacks. What is
 * tried again and again is tried on these, since a document may have thousands.
 */
export const statementsNear = ({ policies }: PolicyDocument, facts: PrincipalFacts): PolicyDocument => ({
  policies: policies.filter(({ name, match }) => {
    const asked = Object.entries(match).filter(([key]) => !key.startsWith(attributePrefix) || Object.hasOwn(facts, key))
    return name.startsWith(ownPrefix) || matchHolds(Object.fromEntries(asked), facts)
  }),
})

/** @returns undefined where no policy can allow it */
export function fixTopic(
  document: PolicyDocument,
  facts: PrincipalFacts,
  question: Question,
): PolicyEdit[] | undefined {
  const edits: PolicyEdit[] = []
  let changed = document
  for (let step = 0; step < maxSteps; step++) {
    const verdict = askPolicy(changed, facts, question)
    if (verdict.allowed) return edits
    const next = nextEdits(changed, facts, question, verdict)
    if (next.length === 0) return undefined
    edits.push(...next)
    changed = editPolicy(changed, next)
  }
  return undefined
}

/** An attribute of the device that it would only have to have. */
export function fixAttribute(
  document: PolicyDocument,
  facts: PrincipalFacts,
  question: Question,
): { name: string; value: string } | undefined {
  return guessedAttributes(document, facts, question).find(
    ({ name, value }) => askPolicy(document, { ...facts, [attributePrefix + name]: [value] }, question).allowed,
  )
}

/** Raises a limit wherever it is smaller than `needed`. */
export const fixLimit = (
  document: PolicyDocument,
  facts: PrincipalFacts,
  limit: 'connections' | 'subscriptions' | 'payloadBytes' | 'retainedMessages',
  needed: number,
): PolicyEdit[] =>
  applying(document, facts).flatMap(({ name, limits }) => {
    const value = limits?.[limit]
    return value === undefined || value >= needed ? [] : [{ statement: name, path: `limits.${limit}`, value: needed }]
  })

/** Twice what the narrowest statements give. */
export const fixRate = (document: PolicyDocument, facts: PrincipalFacts): PolicyEdit[] =>
  applying(document, facts).flatMap(({ name, limits }) =>
    (['messagesPerSecond', 'bytesPerSecond'] as const).flatMap((limit) => doubled(name, limits, limit)),
  )

function doubled(
  statement: string,
  limits: PolicyLimits | undefined,
  limit: 'messagesPerSecond' | 'bytesPerSecond',
): PolicyEdit[] {
  const rate = limits?.[limit]
  const value = rate && { rate: 2 * rate.rate, burst: 2 * rate.burst }
  return value === undefined ? [] : [{ statement, path: `limits.${limit}`, value }]
}

/** Lets this address in, or everybody at this hour of this weekday. */
export function fixConditions(
  document: PolicyDocument,
  facts: PrincipalFacts,
  asked: { now: Date; remoteAddress: string },
): PolicyEdit[] | undefined {
  const edits = applying(document, facts).flatMap(({ name: statement, connect }): PolicyEdit[] => {
    const { times, networks } = connect ?? {}
    const isLate = times !== undefined && conditionFault({ times }, asked) !== undefined
    const isElsewhere = networks !== undefined && conditionFault({ networks }, asked) !== undefined
    return [
      ...(isLate ? [{ statement, path: 'connect.times', value: [...times, hourOf(asked.now)] }] : []),
      ...(isElsewhere
        ? [{ statement, path: 'connect.networks', value: [...networks, hostNetwork(asked.remoteAddress)] }]
        : []),
    ]
  })
  const stillRefused = applying(editPolicy(document, edits), facts).some(
    ({ connect }) => connect !== undefined && conditionFault(connect, asked) !== undefined,
  )
  return stillRefused ? undefined : edits
}

function hourOf(now: Date) {
  const days = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat']
  const hour = now.getUTCHours()
  const written = (value: number): string => `${String(value).padStart(2, '0')}:00`
  return { days: [days[now.getUTCDay()]], from: written(hour), to: written(hour + 1) }
}

const hostNetwork = (address: string): string => {
  const plain = address.replace(/^::ffff:(?=\d+\.)/, '')
  return `${plain}/${plain.includes(':') ? 128 : 32}`
}

const applying = ({ policies }: PolicyDocument, facts: PrincipalFacts): PolicyStatement[] =>
  policies.filter(({ match }) => matchHolds(match, facts))

const listOf = ({ action }: Question): 'publish' | 'subscribe' => (action === 'publish' ? 'publish' : 'subscribe')

function nextEdits(
  document: PolicyDocument,
  facts: PrincipalFacts,
  question: Question,
  { statement, reason }: Verdict,
): PolicyEdit[] {
  if (reason === 'payload_too_large' && 'bytes' in question)
    return fixLimit(document, facts, 'payloadBytes', question.bytes)
  const found = document.policies.find(({ name }) => name === statement)
  if (found === undefined) {
    // Of a delivery only the answer is known, not who gave it.
    const denies = question.action === 'receive' ? applying(document, facts) : []
    const open = denies.flatMap((one) => withoutDeny(one, facts, question))
    return open.length > 0 ? open : newAllowance(document, facts, question)
  }
  if (reason === undefined) return withoutDeny(found, facts, question)
  const { qos = 0, retain = false } = question as { qos?: number; retain?: boolean }
  return [
    ...((found.maxQos ?? 2) < qos ? [{ statement: found.name, path: 'maxQos', value: qos }] : []),
    ...(retain && found.retain === false ? [{ statement: found.name, path: 'retain', value: null }] : []),
    ...(retain ? fixLimit(document, facts, 'retainedMessages', 1) : []),
  ]
}

/** What was denied by name is allowed by leaving that name out: nothing else beats a deny. */
function withoutDeny({ name, deny }: PolicyStatement, facts: PrincipalFacts, question: Question): PolicyEdit[] {
  const list = listOf(question)
  const kept = (deny[list] ?? []).filter(
    (pattern) => !expandPattern(pattern, facts).some((filter) => filterCovers(filter, question.topic)),
  )
  if (kept.length === deny[list]?.length) return []
  return [{ statement: name, path: `deny.${list}`, value: kept.length === 0 ? null : kept }]
}

/**
 * Where the topic has the device's own id in it, a line in a statement that is for the device already gives each of the others
 * no more than its own. Any other topic is for this device alone.
 */
function newAllowance(document: PolicyDocument, facts: PrincipalFacts, question: Question): PolicyEdit[] {
  const [id] = facts['device.id'] ?? []
  if (id === undefined || isClosed(question)) return []
  const list = listOf(question)
  const levels = question.topic.split('/')
  // The places of the gateway's own topics are literal, whatever a device is called.
  const isOwn = (level: string, at: number): boolean => level === id && (at > 1 || !question.topic.startsWith('$'))
  const nearest = explainPolicy(document, facts, question).nearest?.statement
  const home = applying(document, facts)
    .filter(({ allow, maxQos = 2, retain = true }) => {
      const isEnough = !('qos' in question) || (maxQos >= question.qos && (retain || !question.retain))
      return allow[list] !== undefined && isEnough
    })
    .toSorted((a, b) => Number(b.name === nearest) - Number(a.name === nearest))[0]
  if (home !== undefined && levels.some(isOwn)) {
    // biome-ignore lint/suspicious/noTemplateCurlyInString: a variable of the policy language
    const pattern = levels.map((level, at) => (isOwn(level, at) ? '${device.id}' : level)).join('/')
    return [{ statement: home.name, path: `allow.${list}`, value: [...home.allow[list]!, pattern] }]
  }
  const taken = new Set(document.policies.map(({ name }) => name))
  let name = `${ownPrefix}${id}`
  for (let count = 2; taken.has(name); count++) name = `${ownPrefix}${id}-${count}`
  const statement = { name, match: { 'device.id': [id] }, allow: { [list]: [question.topic] }, deny: {} }
  return [{ statement: name, path: '', value: statement }]
}

/** To whatever a policy says. */
const isClosed = ({ action, topic }: Question): boolean =>
  topic.startsWith('$') && (action === 'publish' || !isGatewayTopic(topic))

/** Values that a `match` asks for, or that a topic has where a pattern has the attribute. */
function guessedAttributes({ policies }: PolicyDocument, facts: PrincipalFacts, question: Question) {
  const guesses: { name: string; value: string }[] = []
  const guess = (variable: string, value: string | undefined): void => {
    const isUnset = variable.startsWith(attributePrefix) && !Object.hasOwn(facts, variable)
    if (!isUnset || !value || /[*+#]/.test(value) || guesses.length >= maxGuesses) return
    guesses.push({ name: variable.slice(attributePrefix.length), value })
  }
  const levels = question.topic.split('/')
  for (const { match, allow } of policies) {
    for (const [name, wanted] of Object.entries(match)) for (const value of wanted) guess(name, value)
    for (const pattern of allow[listOf(question)] ?? []) {
      for (const [at, level] of pattern.split('/').entries()) {
        const variable = /^\$\{([^}]*)\}$/.exec(level)?.[1]
        if (variable !== undefined) guess(variable, levels[at])
      }
    }
  }
  return guesses
}
