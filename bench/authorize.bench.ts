/**
 * Nanoseconds a verdict on a PUBLISH takes, side by side in one run and in turns: the compiled policy (a topic that was
 * asked about before, and one that was not), the list of filters that it was before, and a list of regular expressions as
 * one would write them by hand.
 *
 *   npm run bench -- authorize [rounds]
 */
import { type PolicyDocument, policyDocument, starterPolicy } from '../contract/policy-document.ts'
import { expandPattern, matchHolds } from '../contract/policy-match.ts'
import { compilePolicy } from '../contract/policy-matcher.ts'
import { factsOfDevice } from '../contract/principal-facts.ts'
import { filterCovers, isTopicName } from '../contract/topics.ts'
import { parseYaml } from '../runtime/yaml.ts'
import { note, percentile } from './figures.ts'

const rounds = Number(process.argv[2] ?? 20)
const most = 200_000
const facts = factsOfDevice({ id: 'sensor-42', profile: 'sensor', groups: ['hall-1', 'roof'] })

const starter = parseYaml(starterPolicy, policyDocument, 'starter', 'policy_invalid')
/** What a larger site has: a statement for each of many services, and denies. */
const large: PolicyDocument = policyDocument.parse({
  policies: [
    ...Array.from({ length: 200 }, (_, at) => ({
      name: `area-${at}`,
      allow: { publish: [`areas/${at}/+/state`, `areas/${at}/\${device.id}/#`] },
      deny: { publish: [`areas/${at}/locked/#`] },
    })),
    ...starter.policies,
  ],
})

const filtersOf = (document: PolicyDocument, effect: 'allow' | 'deny'): string[] =>
  document.policies
    .filter(({ match }) => matchHolds(match, facts))
    .flatMap((statement) => (statement[effect].publish ?? []).flatMap((text) => expandPattern(text, facts)))

type Judge = (topic: string) => boolean

function listOfFilters(document: PolicyDocument): Judge {
  const [allow, deny] = [filtersOf(document, 'allow'), filtersOf(document, 'deny')]
  return (topic) => {
    if (topic.startsWith('$') || topic.length > 1_024 || !isTopicName(topic)) return false
    return !deny.some((filter) => filterCovers(filter, topic)) && allow.some((filter) => filterCovers(filter, topic))
  }
}

function listOfExpressions(document: PolicyDocument): Judge {
  const expression = (filter: string): RegExp => {
    const escaped = filter.replaceAll(/[.*?^$()|[\]\\{}]/g, '\\$&').replaceAll('+', '[^/]*')
    return new RegExp(`^${escaped.replace(/\/#$/, '(/.*)?').replace(/^#$/, '.*')}$`)
  }
  const [allow, deny] = [filtersOf(document, 'allow').map(expression), filtersOf(document, 'deny').map(expression)]
  return (topic) => !deny.some((one) => one.test(topic)) && allow.some((one) => one.test(topic))
}

const text = 'devices/sensor-42/telemetry/temperature'
// As they come from the wire: a string of its own for each message.
const same = (count: number): string[] => Array.from({ length: count }, () => Buffer.from(text).toString())
let fresh = 0
const distinct = (count: number): string[] =>
  Array.from({ length: count }, () => Buffer.from(`${text}/${++fresh}`).toString())

function nanoseconds(judge: Judge, topics: readonly string[]): number {
  let allowed = 0
  const { user } = process.threadCpuUsage()
  for (const topic of topics) if (judge(topic)) allowed++
  const took = process.threadCpuUsage().user - user
  if (allowed !== topics.length) throw new Error(`${allowed} of ${topics.length} allowed`)
  return (took * 1e3) / topics.length
}

console.log(`${rounds} rounds in turns, ns of CPU a verdict, p50 (p90)\n`)
for (const [name, document, count] of [
  ['starter policy', starter, most],
  ['203 statements for everybody', large, most / 400],
] as const) {
  const judges: Record<string, () => number> = {}
  const matcher = compilePolicy(document, facts)
  const payload = Buffer.alloc(64)
  const compiled: Judge = (topic) => matcher.allowsMessage({ topic, qos: 0, retain: false, payload }).allowed
  const [filters, expressions] = [listOfFilters(document), listOfExpressions(document)]
  judges['compiled, a topic seen before'] = () => nanoseconds(compiled, same(most))
  judges['compiled, a topic never seen'] = () => nanoseconds(compiled, distinct(most))
  judges['list of filters'] = () => nanoseconds(filters, same(count))
  judges['list of regular expressions'] = () => nanoseconds(expressions, same(count))
  const samples = new Map(Object.keys(judges).map((judge) => [judge, [] as number[]]))
  for (let round = -3; round < rounds; round++) {
    for (const [judge, run] of Object.entries(judges)) {
      const took = run()
      if (round >= 0) samples.get(judge)!.push(took)
    }
  }
  console.log(name)
  const base = percentile(samples.get('list of filters')!, 50)
  for (const [judge, took] of samples) {
    const middle = percentile(took, 50)
    const figures = `${middle.toFixed(0).padStart(8)} (${percentile(took, 90).toFixed(0)})`.padEnd(20)
    if (judge.startsWith('compiled')) note({ what: `${name}: ${judge}`, measured: `${middle.toFixed(0)} ns a verdict` })
    console.log(`  ${judge.padEnd(32)}${figures}${(base / middle).toFixed(1)}x the list of filters`)
  }
  const { user } = process.threadCpuUsage()
  for (let i = 0; i < 50; i++) compilePolicy(document, facts)
  const each = (process.threadCpuUsage().user - user) / 50
  console.log(`  compiling it for one principal    ${each.toFixed(0).padStart(6)} us\n`)
}
