/**
 * The policy language once more, straight from docs/policy.md and as naive as can be: nothing compiled, nothing remembered,
 * one sentence of the page after the other. And random policies, principals and topics to compare with.
 */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import { type PolicyDocument, policyDocument } from '../../contract/policy-document.ts'
import { compilePolicy, type Verdict } from '../../contract/policy-matcher.ts'

type Values = Record<string, string[]>
type Statement = PolicyDocument['policies'][number]

function valuesOf(facts: Values, name: string): string[] {
  const known = name === 'group' ? 'device.group' : name === 'profile' ? 'device.profile' : name
  return Object.hasOwn(facts, known) ? facts[known]! : []
}

const globs = (glob: string, value: string): boolean =>
  glob === ''
    ? value === ''
    : glob[0] === '*'
      ? globs(glob.slice(1), value) || (value !== '' && globs(glob, value.slice(1)))
      : value !== '' && glob[0] === value[0] && globs(glob.slice(1), value.slice(1))

const isFor = (statement: Statement, facts: Values): boolean =>
  Object.entries(statement.match).every(([name, wanted]) =>
    wanted.some((glob) => valuesOf(facts, name).some((value) => globs(glob, value))),
  )

/** A variable stands for one level or a part of one. */
const isSafe = (value: string): boolean =>
  value !== '' &&
  !value.startsWith('$') &&
  [...value].every((letter) => !'+#/'.includes(letter) && !/[\u0000-\u001f\u007f-\u009f\ud800-\udfff]/.test(letter))

/** What a topic can hold: what is denied by such a value is denied. */
const isInTopics = (value: string): boolean => value.isWellFormed() && !/[+#\u0000]/.test(value)

function filtersOf(pattern: string, facts: Values, isFit: (value: string) => boolean): string[] {
  const found = /\$\{([^}]*)\}/.exec(pattern)
  if (found === null) return [pattern]
  const [before, after] = [pattern.slice(0, found.index), pattern.slice(found.index + found[0].length)]
  return valuesOf(facts, found[1]!)
    .filter(isFit)
    .flatMap((value) => filtersOf(after, facts, isFit).map((rest) => before + value + rest))
}

/** Every topic of `narrow` is one of `wide`; a topic name is the filter of itself alone. */
function covers([wide, ...wider]: string[], [narrow, ...narrower]: string[]): boolean {
  if (wide === '#') return true
  if (wide === undefined || narrow === undefined) return wide === narrow
  if (narrow === '#') return false
  return (wide === '+' || wide === narrow) && covers(wider, narrower)
}

export type Asked =
  | { action: 'publish'; topic: string; qos: number; retain: boolean; bytes: number }
  | { action: 'subscribe' | 'deliver'; topic: string }

const isName = (text: string): boolean => text !== '' && text.isWellFormed() && !/[+#\u0000]/.test(text)
const isFilter = (text: string): boolean =>
  text !== '' &&
  text.isWellFormed() &&
  !text.includes('\u0000') &&
  /^([^+#/]*|\+)(\/([^+#/]*|\+))*(\/#)?$|^#$/.test(text)

/** Of all that begins with `$` clients may have this alone, where a statement says so literally. */
const isOfGateway = (text: string): boolean => /^\$fleetgate\/(devices|events)\//.test(text)

export function verdictOf(document: PolicyDocument, facts: Values, asked: Asked): Verdict {
  const { action, topic } = asked
  const isDollar = topic.startsWith('$')
  if (isDollar && (action === 'publish' || !isOfGateway(topic))) return { allowed: false }
  if (topic.length > 1_024 || topic.split('/').length > 100) return { allowed: false }
  if (!(action === 'subscribe' ? isFilter(topic) : isName(topic))) return { allowed: false }
  const list = action === 'publish' ? 'publish' : 'subscribe'
  // `#` and `/#` stand for no topic that has an empty name, so the level before them is there.
  const levels = topic.replace(/^(\/?)#$/, '$1+/#').split('/')
  const speaks = (patterns: string[] | undefined, isFit: (value: string) => boolean): boolean =>
    (patterns ?? []).some(
      (pattern) =>
        (isDollar ? isOfGateway(pattern) : true) &&
        filtersOf(pattern, facts, isFit).some((one) => covers(one.split('/'), levels)),
    )
  const mine = document.policies.filter((statement) => isFor(statement, facts))
  const against = mine.find(({ deny }) => speaks(deny[list], isInTopics))
  if (against !== undefined) return { allowed: false, statement: against.name }
  const inFavour = mine.filter(({ allow }) => speaks(allow[list], isSafe))
  if (inFavour.length === 0) return { allowed: false }
  if (asked.action !== 'publish') return { allowed: true, statement: inFavour[0]!.name }
  const smallest = (name: 'payloadBytes' | 'retainedMessages'): number =>
    Math.min(...mine.map(({ limits }) => limits?.[name] ?? Number.POSITIVE_INFINITY))
  const highEnough = inFavour.filter(({ maxQos = 2 }) => asked.qos <= maxQos)
  const [statement] = inFavour.map(({ name }) => name) as [string]
  if (highEnough.length === 0) return { allowed: false, statement, reason: 'qos_denied' }
  const asIs = highEnough.find(({ retain = true }) => !asked.retain || (retain && smallest('retainedMessages') > 0))
  if (asIs === undefined) return { allowed: false, statement, reason: 'retain_denied' }
  if (asked.bytes > smallest('payloadBytes')) return { allowed: false, reason: 'payload_too_large' }
  return { allowed: true, statement: asIs.name }
}

/** Values that a certificate or a client may bring on purpose. */
const hostile = [
  '+',
  '#',
  '/',
  '$',
  '$SYS',
  '',
  'a/b',
  'a+',
  '#a',
  '\u0000',
  'a\u0000',
  '\ud800',
  '*',
  '__proto__',
  'constructor',
]
const names = [
  'device.id',
  'device.group',
  'subject.CN',
  'subject.OU',
  'client.suffix',
  'device.attributes.constructor',
]
const level = fc.constantFrom('a', 'a', 'b', '', '+', '+')
const variable = fc.constantFrom(...names).map((name) => `\${${name}}`)
const part = fc.oneof(
  { weight: 5, arbitrary: level },
  { weight: 3, arbitrary: variable },
  { weight: 1, arbitrary: variable.map((name) => `a${name}`) },
)
const pattern = fc
  .tuple(fc.array(part, { minLength: 1, maxLength: 3 }), fc.boolean())
  .map(([parts, isOpen]) => [...parts, ...(isOpen ? ['#'] : [])].join('/'))
  .map((text) => (text === '' ? '#' : text))
const gatewayPlace = fc.constantFrom('$fleetgate/devices/', '$fleetgate/events/')
const subscribed = fc.oneof(
  { weight: 3, arbitrary: pattern },
  { weight: 1, arbitrary: fc.tuple(gatewayPlace, pattern).map((parts) => parts.join('')) },
)
const topics = fc.record({
  publish: fc.array(pattern, { maxLength: 2 }),
  subscribe: fc.array(subscribed, { maxLength: 2 }),
})
const match = fc.dictionary(
  fc.constantFrom(...names, 'group', 'profile'),
  fc.array(fc.constantFrom('a', 'b', '*', '*', 'a*', '*b', '__proto__'), { minLength: 1, maxLength: 2 }),
  { maxKeys: 1 },
)
const statement = fc.record(
  {
    match,
    allow: topics,
    deny: fc.oneof({ weight: 2, arbitrary: fc.constant({}) }, { weight: 1, arbitrary: topics }),
    maxQos: fc.constantFrom(0 as const, 1 as const, 2 as const),
    retain: fc.boolean(),
    limits: fc.record({ payloadBytes: fc.constant(10), retainedMessages: fc.constantFrom(0, 5) }, { requiredKeys: [] }),
  },
  { requiredKeys: ['match', 'allow', 'deny'] },
)
const documents = fc
  .array(statement, { minLength: 1, maxLength: 4 })
  .map((list) => policyDocument.parse({ policies: list.map((one, at) => ({ name: `s${at}`, ...one })) }))
const value = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom('a', 'b', 'ab') },
  { weight: 1, arbitrary: fc.constantFrom(...hostile) },
)
const facts = fc.record(
  Object.fromEntries(['device.profile', ...names].map((name) => [name, fc.array(value, { maxLength: 2 })])),
  { requiredKeys: [] },
)
const plainTopic = fc
  .array(
    fc.oneof(
      { weight: 8, arbitrary: fc.constantFrom('a', 'a', 'b', 'ab') },
      { weight: 1, arbitrary: fc.constantFrom(...hostile, '+', '#') },
    ),
    {
      minLength: 1,
      maxLength: 3,
    },
  )
  .map((levels) => levels.join('/'))
/** The places of the gateway, and some that look like them. */
const place = fc.oneof(
  { weight: 3, arbitrary: gatewayPlace },
  {
    weight: 1,
    arbitrary: fc.constantFrom('$fleetgate/', '$fleetgate/a/', '$fleetgate/+/', '$SYS/', '$', '+/devices/'),
  },
)
const topic = fc.oneof(
  { weight: 3, arbitrary: plainTopic },
  { weight: 1, arbitrary: fc.tuple(place, plainTopic).map((parts) => parts.join('')) },
)
const asked: fc.Arbitrary<Asked> = fc.oneof(
  fc.record({
    action: fc.constant('publish' as const),
    topic,
    qos: fc.nat(2),
    retain: fc.boolean(),
    bytes: fc.constantFrom(0, 10, 11),
  }),
  fc.record({ action: fc.constantFrom('subscribe' as const, 'deliver' as const), topic }),
)

/** @throws AssertionError at the first policy that is compiled to something else than it says */
export function compareWithReference(runs: number, seed: number): { allowed: number; denied: number } {
  const counts = { allowed: 0, denied: 0 }
  fc.assert(
    fc.property(documents, facts, fc.array(asked, { minLength: 5, maxLength: 5 }), (document, principal, questions) => {
      const matcher = compilePolicy(document, principal)
      // Twice: what is remembered is the same as what was found out.
      for (const question of [...questions, ...questions]) {
        const wanted = verdictOf(document, principal as Values, question)
        counts[wanted.allowed ? 'allowed' : 'denied']++
        const { topic: text } = question
        if ('qos' in question) {
          const { qos, retain, bytes } = question
          assert.deepEqual(
            matcher.allowsMessage({ topic: text, qos, retain, payload: { length: bytes } }),
            wanted,
            text,
          )
        } else if (question.action === 'deliver') assert.equal(matcher.allowsDelivery(text), wanted.allowed, text)
        else assert.deepEqual(matcher.allows('subscribe', text), wanted, text)
      }
    }),
    { numRuns: runs, seed },
  )
  return counts
}
