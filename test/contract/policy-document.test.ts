// biome-ignore-all lint/suspicious/noTemplateCurlyInString: the variables of the policy language look like those of templates
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { array, assert as assertProperty, constantFrom, property, string } from 'fast-check'
import { type PolicyStatement, policyDocument, starterPolicy } from '../../contract/policy-document.ts'
import { expandPattern, matchHolds } from '../../contract/policy-match.ts'
import { factNames, type PrincipalFacts } from '../../contract/principal-facts.ts'
import { isTopicFilter, topicMatches } from '../../contract/topics.ts'
import { parseYaml } from '../../runtime/yaml.ts'

const statement = (change: object = {}) => ({ name: 'one', match: {}, allow: {}, deny: {}, ...change })
const parse = (policies: unknown) => policyDocument.safeParse({ policies })
const faultsOf = (policies: unknown): string[] => parse(policies).error?.issues.map((issue) => issue.message) ?? []
const matching = (match: object): PolicyStatement =>
  policyDocument.parse({ policies: [statement({ match })] }).policies[0]!

const applies = ({ match }: PolicyStatement, facts: PrincipalFacts): boolean => matchHolds(match, facts)

test('the starter policy lets a device have its own topics and nothing of another', () => {
  const { policies } = parseYaml(starterPolicy, policyDocument, 'policy.yaml', 'policy_invalid')
  const own = policies.find(({ name }) => name === 'own-topics')!
  assert.deepEqual(expandPattern(own.allow.publish![0]!, { 'device.id': ['cam-1'] }), ['devices/cam-1/#'])
  assert.equal(applies(own, { 'device.profile': ['service'] }), false)
  assert.equal(applies(own, { 'device.profile': ['camera'] }), true)
})

test('a single value may stand where a list may', () => {
  assert.deepEqual(matching({ profile: 'camera' }).match, { profile: ['camera'] })
})

test('unknown keys are refused at every level', () => {
  for (const policies of [[statement({ permit: {} })], [statement({ allow: { read: ['a'] } })]]) {
    assert.match(faultsOf(policies).join(), /Unrecognized key/)
  }
})

test('a match that names what is not known is refused with the names that are', () => {
  for (const name of [
    'name',
    'constructor',
    'device.attributes.',
    'device.attributes.A',
    'device.attributes.__proto__',
    'subject.C',
  ])
    assert.match(
      faultsOf([statement({ match: { [name]: 'x' } })]).join(),
      /unknown name .*; known: device\.attributes\.NAME, device\.id/,
    )
  assert.deepEqual(matching({ 'device.attributes.constructor': 'x' }).match, { 'device.attributes.constructor': ['x'] })
})

test('a name that stands twice is refused', () => {
  assert.deepEqual(faultsOf([statement(), statement()]), ['one stands twice'])
})

test('a pattern that is not a topic filter, is closed, or names an unknown variable is refused with the reason', () => {
  const cases: [pattern: string, fault: RegExp][] = [
    ['', /Too small/],
    ['a/#/b', /is not a topic filter/],
    ['a+', /is not a topic filter/],
    ['x${device.id}+', /is not a topic filter/],
    ['a\u0000', /is not a topic filter/],
    ['$SYS/#', /closed to clients/],
    ['$share/g/a', /closed to clients/],
    ['$fleetgate/events/x', /closed to clients; the gateway alone publishes there/],
    ['a/${device.name}', /unknown variable \$\{device\.name\}; known: device\.attributes\.NAME, device\.id/],
    ['a/${device.attributes.Site}', /unknown variable/],
    ['a/${cert.notAfter}', /unknown variable/],
    ['a/${__proto__}', /unknown variable/],
    ['a/${constructor}', /unknown variable/],
    ['a/${device.id', /without its \}|a \$\{ without its/],
    ['a/${}', /unknown variable/],
    ['${device.id}/'.repeat(5), /5 variables; a pattern has at most 4/],
    [`a/${'b'.repeat(1_000)}`, /Too big/],
  ]
  for (const [pattern, fault] of cases) {
    assert.match(faultsOf([statement({ allow: { publish: [pattern] } })]).join('\n'), fault, JSON.stringify(pattern))
  }
})

test('keys that mean something to JavaScript mean nothing here', () => {
  const text = '{"policies":[{"name":"x","match":{"__proto__":{"profile":["camera"]}},"allow":{}}]}'
  assert.match(policyDocument.safeParse(JSON.parse(text)).error!.message, /unknown name __proto__/)
  assert.equal(({} as { profile?: unknown }).profile, undefined)
  assert.equal(policyDocument.safeParse(JSON.parse('{"policies":[],"__proto__":1}')).success, false)
  assert.deepEqual(expandPattern('${constructor}/${toString}', {}), [])
})

test('a statement without conditions is for everybody', () => {
  assert.equal(applies(matching({}), {}), true)
})

test('every key must hold, by any one of its values', () => {
  const both = matching({ profile: ['sensor', 'camera'], group: 'hall-1' })
  assert.equal(applies(both, { 'device.profile': ['camera'], 'device.group': ['hall-2', 'hall-1'] }), true)
  assert.equal(applies(both, { 'device.profile': ['camera'], 'device.group': ['hall-2'] }), false)
  assert.equal(applies(both, { 'device.profile': ['service'], 'device.group': ['hall-1'] }), false)
  assert.equal(applies(both, { 'device.profile': ['camera'] }), false)
  for (const key of [...factNames, 'group', 'profile', 'issuer', 'device.attributes.site'])
    assert.equal(applies(matching({ [key]: '*' }), {}), false, key)
})

test('a star stands for any run of characters, every other character for itself', () => {
  const cases: [glob: string, value: string, matches: boolean][] = [
    ['*', '', true],
    ['*', 'x', true],
    ['cam-*', 'cam-', true],
    ['cam-*', 'xcam-1', false],
    ['*-1', 'cam-1', true],
    ['a*a', 'a', false],
    ['a*a', 'aa', true],
    ['a*b*c', 'axxbyyc', true],
    ['a*b*c', 'axxcyyb', false],
    ['a*bc*c', 'abc', false],
    ['**', 'x', true],
    ['a.c', 'abc', false],
    ['[a]', 'a', false],
    ['?', 'a', false],
    ['A', 'a', false],
  ]
  for (const [glob, value, matches] of cases) {
    assert.equal(applies(matching({ 'subject.CN': glob }), { 'subject.CN': [value] }), matches, `${glob} ~ ${value}`)
  }
})

test('globs agree with a regular expression of the same meaning', () => {
  const text = array(constantFrom('a', 'b', '.', '*'), { maxLength: 8 }).map((letters) => letters.join(''))
  assertProperty(
    property(
      text.filter((glob) => glob !== ''),
      text,
      (glob, value) => {
        const expression = new RegExp(`^${glob.replaceAll('.', '\\.').replaceAll('*', '.*')}$`, 's')
        assert.equal(
          applies(matching({ issuer: glob }), { issuer: [value] }),
          expression.test(value),
          `${glob} ~ ${value}`,
        )
      },
    ),
    { numRuns: 2_000 },
  )
})

test('a glob of many stars does not take long', () => {
  const glob = matching({ issuer: `${'a*'.repeat(200)}b` })
  const before = process.cpuUsage()
  assert.equal(applies(glob, { issuer: ['a'.repeat(20_000)] }), false)
  assert.ok(process.cpuUsage(before).user < 500_000)
})

test('a pattern stands for one filter per combination of values', () => {
  const facts: PrincipalFacts = { 'device.id': ['cam-1'], 'device.group': ['g1', 'g2'], 'subject.OU': ['x', 'y'] }
  assert.deepEqual(expandPattern('plain/#', facts), ['plain/#'])
  assert.deepEqual(expandPattern('${device.id}', facts), ['cam-1'])
  assert.deepEqual(expandPattern('g/${device.group}/${subject.OU}/+', facts), [
    'g/g1/x/+',
    'g/g1/y/+',
    'g/g2/x/+',
    'g/g2/y/+',
  ])
})

test('a variable that is missing, empty, or could change the shape of the pattern matches nothing', () => {
  for (const values of [
    undefined,
    [],
    [''],
    ['+'],
    ['#'],
    ['a/b'],
    ['a+'],
    ['$SYS'],
    ['a\u0000'],
    ['a\n'],
    ['\u0085'],
    ['\ud800'],
  ]) {
    const facts = values === undefined ? {} : { 'subject.OU': values }
    assert.deepEqual(expandPattern('sites/${subject.OU}/#', facts), [], JSON.stringify(values))
  }
  assert.deepEqual(expandPattern('sites/${subject.OU}', { 'subject.OU': ['a/b', 'fine'] }), ['sites/fine'])
  assert.deepEqual(expandPattern('${subject.OU}', { 'subject.OU': ['$SYS'] }), [])
})

test('a value that looks like a variable is not expanded again', () => {
  const facts: PrincipalFacts = { 'subject.CN': ['x${device.id}'], 'device.id': ['cam-1'] }
  assert.deepEqual(expandPattern('a/${subject.CN}/b', facts), ['a/x${device.id}/b'])
})

test('whatever a certificate says, a variable fills one level and no more', () => {
  assertProperty(
    property(string({ unit: 'binary' }), (value) => {
      const facts: PrincipalFacts = { 'subject.CN': [value], 'device.id': ['cam-1'] }
      for (const filter of expandPattern('devices/${subject.CN}/x', facts)) {
        assert.ok(isTopicFilter(filter))
        assert.equal(filter.split('/').length, 3)
        assert.equal(topicMatches(filter, 'devices/other-device/x'), value === 'other-device')
      }
    }),
    { numRuns: 2_000 },
  )
})

test('of what begins with $ a pattern to subscribe to may name what the gateway publishes, and that literally', () => {
  const parse = (pattern: string) =>
    policyDocument.safeParse({
      policies: [{ name: 'p', allow: { subscribe: [pattern] }, deny: { subscribe: [pattern] } }],
    })
  for (const pattern of ['$fleetgate/events/#', '$fleetgate/devices/+/presence', '$fleetgate/devices/${device.id}/#'])
    assert.ok(parse(pattern).success, pattern)
  const closed = /closed to clients, but for what begins with \$fleetgate\/devices\/ or \$fleetgate\/events\//
  for (const pattern of [
    '$SYS/#',
    '$fleetgate/#',
    '$fleetgate/events',
    '$fleetgate/+/x',
    '$fleetgate/${device.id}/x',
    '$fleetgate/devices${device.id}/x',
    '$${device.id}/events/x',
  ])
    assert.match(JSON.stringify(parse(pattern).error?.issues), closed, pattern)
})

test('what is said beside the topics is checked, and names its place', () => {
  const cases: [change: object, fault: RegExp][] = [
    [{ maxQos: 3, allow: { publish: ['a'] } }, /Invalid option|Invalid input/],
    [{ maxQos: 1 }, /maxQos is about what this statement's allow.publish allows, and it has none/],
    [{ retain: false, allow: { subscribe: ['a'] } }, /retain is about/],
    [{ onDeny: 'ignore' }, /Invalid option/],
    [{ responseTopic: 'a/#' }, /is not a topic name/],
    [{ responseTopic: '$SYS/x' }, /closed to clients/],
    [{ limits: { messagesPerSecond: 'many' } }, /a rate is wanted/],
    [{ connect: {} }, /times or networks are wanted/],
  ]
  for (const [change, fault] of cases)
    assert.match(faultsOf([statement(change)]).join('\n'), fault, JSON.stringify(change))
  const text = 'policies:\n  - name: a\n    limits:\n      payloadBytes: -1\n    connect: { networks: [10.0.0.1/8] }\n'
  assert.throws(
    () => parseYaml(text, policyDocument, 'p.yaml', 'policy_invalid'),
    /^FleetError: p\.yaml:5:27: .*a network is wanted.*\np\.yaml:4:7: policies\.0\.limits\.payloadBytes: Too small/s,
  )
})
