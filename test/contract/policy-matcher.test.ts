// biome-ignore-all lint/suspicious/noTemplateCurlyInString: the variables of the policy language look like those of templates
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { type PolicyDocument, policyDocument } from '../../contract/policy-document.ts'
import { compilePolicy } from '../../contract/policy-matcher.ts'
import type { PrincipalFacts } from '../../contract/principal-facts.ts'
import { parsePolicy, starter } from '../harness/broker.ts'

const sensor: PrincipalFacts = {
  'device.id': ['s1'],
  'device.profile': ['sensor'],
  'device.group': ['lab', 'roof'],
}

const publishes = (document: PolicyDocument, facts: PrincipalFacts, topic: string): boolean =>
  compilePolicy(document, facts).allows('publish', topic).allowed
const subscribes = (document: PolicyDocument, facts: PrincipalFacts, filter: string): boolean =>
  compilePolicy(document, facts).allows('subscribe', filter).allowed

test('the starter policy lets a device publish under its own name and read its own commands and groups', () => {
  assert.ok(publishes(starter, sensor, 'devices/s1/telemetry/t'))
  assert.ok(subscribes(starter, sensor, 'devices/s1/commands/#'))
  assert.ok(subscribes(starter, sensor, 'groups/lab/broadcast'))
  assert.ok(subscribes(starter, sensor, 'groups/roof/broadcast'))
  for (const topic of ['devices/s2/telemetry/t', 'devices', 'devices/s1x', 'groups/lab/broadcast'])
    assert.ok(!publishes(starter, sensor, topic))
  for (const filter of [
    'devices/+/commands/#',
    'devices/s1/#',
    '#',
    '+/s1/commands/x',
    'groups/+/broadcast',
    'groups/other/broadcast',
  ]) {
    assert.ok(!subscribes(starter, sensor, filter), filter)
  }
})

test('nobody is allowed what no statement speaks for, and the verdict names no statement', () => {
  assert.deepEqual(compilePolicy({ policies: [] }, sensor).allows('publish', 'a'), { allowed: false })
})

test('a deny beats every allow, whatever their order, and is named', () => {
  const allow = '{ name: yes, allow: { publish: ["a/#"], subscribe: ["a/#"] } }'
  const deny = '{ name: no, deny: { publish: ["a/+/x"], subscribe: ["a/b/#"] } }'
  for (const policies of [`${allow}, ${deny}`, `${deny}, ${allow}`]) {
    const matcher = compilePolicy(parsePolicy(`policies: [${policies}]`), sensor)
    assert.deepEqual(matcher.allows('publish', 'a/b/x'), { allowed: false, statement: 'no' })
    assert.deepEqual(matcher.allows('publish', 'a/b/y'), { allowed: true, statement: 'yes' })
    assert.deepEqual(matcher.allows('subscribe', 'a/b/c'), { allowed: false, statement: 'no' })
    // Wider than what is denied: subscribed, and the denied part is held back at delivery.
    assert.equal(matcher.allows('subscribe', 'a/#').allowed, true)
    assert.equal(matcher.allowsDelivery('a/b/c'), false)
    assert.equal(matcher.allowsDelivery('a/c'), true)
  }
})

test('a filter is allowed only when one allowed filter covers it whole', () => {
  const matcher = compilePolicy(parsePolicy('policies: [{ name: p, allow: { subscribe: ["a/b", "a/c", "d/+"] } }]'), {})
  assert.equal(matcher.allows('subscribe', 'a/+').allowed, false)
  assert.equal(matcher.allows('subscribe', 'd/+').allowed, true)
  assert.equal(matcher.allows('subscribe', 'd/#').allowed, false)
})

test('topics that begin with $ and shared subscriptions are closed to who may do everything', () => {
  const matcher = compilePolicy(
    parsePolicy('policies: [{ name: all, allow: { publish: ["#", "+/x"], subscribe: ["#", "+/x"] } }]'),
    {},
  )
  for (const text of ['$SYS/x', '$share/g/a', '$', '$x/x']) {
    assert.equal(matcher.allows('publish', text).allowed, false)
    assert.equal(matcher.allows('subscribe', text).allowed, false)
    assert.equal(matcher.allowsDelivery(text), false)
  }
})

test('what the gateway publishes is for whom a statement opens it literally, and nobody else publishes there', () => {
  const all = 'publish: ["#", "+/#", "+/+/+/+"], subscribe: ["#", "+/#", "+/devices/#", "+/+/+/+"]'
  const own = '$fleetgate/devices/${device.id}/presence'
  const document = parsePolicy(`policies:
    - { name: all, allow: { ${all} } }
    - { name: own, match: { profile: sensor }, allow: { subscribe: ["${own}"] } }
    - { name: app, match: { profile: service }, allow: { subscribe: ["$fleetgate/devices/+/presence", "$fleetgate/events/#"] } }
    - { name: hush, match: { profile: service }, deny: { subscribe: ["$fleetgate/events/denied"] } }`)
  const [nobody, sensor, app] = ['camera', 'sensor', 'service'].map((profile) =>
    compilePolicy(document, { 'device.id': ['s-1'], 'device.profile': [profile] }),
  )
  const presence = '$fleetgate/devices/s-1/presence'
  for (const text of [presence, '$fleetgate/devices/+/presence', '$fleetgate/events/#', '$fleetgate/#']) {
    assert.equal(nobody!.allows('subscribe', text).allowed, false, text)
    for (const matcher of [nobody, sensor, app]) assert.equal(matcher!.allows('publish', text).allowed, false, text)
  }
  assert.deepEqual(sensor!.allows('subscribe', presence), { allowed: true, statement: 'own' })
  assert.equal(sensor!.allows('subscribe', '$fleetgate/devices/s-2/presence').allowed, false)
  assert.equal(sensor!.allowsDelivery('$fleetgate/devices/s-2/presence'), false)
  assert.deepEqual(app!.allows('subscribe', '$fleetgate/devices/+/presence'), { allowed: true, statement: 'app' })
  for (const text of ['$fleetgate/#', '$fleetgate/+/x', '$fleetgate/devices/#', '$fleetgate/events'])
    assert.equal(app!.allows('subscribe', text).allowed, false, text)
  assert.deepEqual(
    ['refused', 'denied'].map((type) => app!.allowsDelivery(`$fleetgate/events/${type}`)),
    [true, false],
  )
})

test('a topic or filter of more than 1,024 characters is allowed to nobody', () => {
  const matcher = compilePolicy(
    parsePolicy('policies: [{ name: all, allow: { publish: ["#"], subscribe: ["#"] } }]'),
    {},
  )
  for (const action of ['publish', 'subscribe'] as const) {
    assert.equal(matcher.allows(action, 'x'.repeat(1_024)).allowed, true)
    assert.equal(matcher.allows(action, 'x'.repeat(1_025)).allowed, false)
  }
})

test('a wildcard in a topic name, an empty topic and a malformed filter are not allowed by anything', () => {
  const matcher = compilePolicy(
    parsePolicy('policies: [{ name: all, allow: { publish: ["#"], subscribe: ["#"] } }]'),
    {},
  )
  for (const topic of ['', 'a/#', 'a/+', '\u0000']) assert.equal(matcher.allows('publish', topic).allowed, false)
  for (const filter of ['', 'a/#/b', 'a+', 'a/b#']) assert.equal(matcher.allows('subscribe', filter).allowed, false)
})

test('a value that is missing or could change a pattern’s shape makes the pattern match nothing', () => {
  const document = parsePolicy(
    `policies: [{ name: p, allow: { publish: ["x/\${subject.OU}/y"], subscribe: ["x/\${subject.OU}/#", "\${subject.OU}/z"] } }]`,
  )
  for (const value of ['', '+', '#', 'a/b', 'a+', '/', '$SYS', 'a\u0000', 'a\nb']) {
    const matcher = compilePolicy(document, { 'subject.OU': [value] })
    for (const topic of ['x/a/y', `x/${value}/y`, 'x//y', 'x/+/y'])
      assert.equal(matcher.allows('publish', topic).allowed, false, value)
    for (const filter of ['x/a/#', 'x/+/#', 'x/#', '#'])
      assert.equal(matcher.allows('subscribe', filter).allowed, false, value)
  }
  assert.equal(compilePolicy(document, {}).allows('publish', 'x//y').allowed, false)
})

// A second opinion, from the words of the specification: by enumeration where the code compares levels.
const matches = (filter: string, topic: string): boolean => {
  if (topic.startsWith('$') && /^[+#]/.test(filter)) return false
  const parts = filter
    .split('/')
    .map((level) => (level === '+' ? '[^/]*' : level === '#' ? '.*' : level.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&')))
  if (parts.at(-1) === '.*') {
    const parent = parts.slice(0, -1).join('/')
    return parts.length === 1 || new RegExp(`^${parent}(/.*)?$`, 's').test(topic)
  }
  return new RegExp(`^${parts.join('/')}$`, 's').test(topic)
}
const levels = ['a', 'b', ''] as const
const allTopics = [1, 2, 3, 4].flatMap(function build(depth: number): string[] {
  return depth === 1 ? [...levels] : build(depth - 1).flatMap((topic) => levels.map((level) => `${topic}/${level}`))
})
const topicNames = allTopics.filter((topic) => topic !== '')

const plainLevel = fc.constantFrom(...levels)
const filter = fc
  .tuple(
    fc.array(fc.oneof({ weight: 3, arbitrary: plainLevel }, { weight: 1, arbitrary: fc.constant('+') }), {
      minLength: 1,
      maxLength: 3,
    }),
    fc.boolean(),
  )
  .map(([parts, rest]) => [...parts, ...(rest ? ['#'] : [])].join('/'))
  .filter((text) => text !== '')
const rules = fc.record({ publish: fc.array(filter, { maxLength: 3 }), subscribe: fc.array(filter, { maxLength: 3 }) })
const documents = fc
  .array(fc.record({ allow: rules, deny: rules }), { maxLength: 3 })
  .map((list) => policyDocument.parse({ policies: list.map((statement, at) => ({ name: `s${at}`, ...statement })) }))

test('publish and delivery agree with a naive evaluator on every topic', () => {
  fc.assert(
    fc.property(documents, (document) => {
      const matcher = compilePolicy(document, {})
      for (const topic of topicNames) {
        const speaks = (effect: 'allow' | 'deny', action: 'publish' | 'subscribe'): boolean =>
          document.policies.some((statement) => (statement[effect][action] ?? []).some((one) => matches(one, topic)))
        assert.equal(
          matcher.allows('publish', topic).allowed,
          speaks('allow', 'publish') && !speaks('deny', 'publish'),
          topic,
        )
        assert.equal(matcher.allowsDelivery(topic), speaks('allow', 'subscribe') && !speaks('deny', 'subscribe'), topic)
      }
    }),
    { numRuns: 300 },
  )
})

test('an allowed filter never reaches a topic outside the allowed ones', () => {
  fc.assert(
    fc.property(documents, filter, (document, wanted) => {
      const { allowed } = compilePolicy(document, {}).allows('subscribe', wanted)
      const covers = (one: string): boolean =>
        topicNames.filter((topic) => matches(wanted, topic)).every((topic) => matches(one, topic))
      const all = (effect: 'allow' | 'deny'): string[] =>
        document.policies.flatMap((statement) => statement[effect].subscribe ?? [])
      if (allowed) assert.ok(all('allow').some(covers), `${wanted} reaches beyond`)
      else assert.ok(!all('allow').includes(wanted) || all('deny').some(covers), `${wanted} is allowed word for word`)
    }),
    { numRuns: 3_000 },
  )
})

test('no value of a principal, however hostile, opens a topic outside its pattern', () => {
  const document = parsePolicy(
    `policies: [{ name: p, allow: { publish: ["d/\${subject.CN}/t"], subscribe: ["d/\${subject.CN}/c/#"] } }]`,
  )
  const hostile = fc.oneof(
    fc.string(),
    fc.string({ unit: fc.constantFrom('+', '#', '/', '$', '{', '}', 'a', '\u0000', '$SYS/') }),
  )
  fc.assert(
    fc.property(
      hostile,
      fc.array(fc.constantFrom('d', 'a', 't', 'c', 'x'), { minLength: 1, maxLength: 5 }),
      (value, parts) => {
        const matcher = compilePolicy(document, { 'subject.CN': [value] })
        const topic = parts.join('/')
        if (matcher.allows('publish', topic).allowed) assert.deepEqual(parts, ['d', value, 't'])
        if (matcher.allowsDelivery(topic)) assert.deepEqual(parts.slice(0, 3), ['d', value, 'c'])
        for (const wide of ['#', 'd/#', 'd/+/t', '+/+/+', 'd/+/c/#'])
          assert.equal(matcher.allows('subscribe', wide).allowed, false)
      },
    ),
    { numRuns: 3_000 },
  )
})

const message = (topic: string, more: { qos?: number; retain?: boolean; bytes?: number } = {}) => {
  const { qos = 0, retain = false, bytes = 0 } = more
  return { topic, qos, retain, payload: { length: bytes } }
}

test('a statement allows what it allows up to its QoS and unretained, and another may allow more', () => {
  const matcher = compilePolicy(
    parsePolicy(`policies:
      - { name: low, maxQos: 1, retain: false, allow: { publish: ["a/#"] } }
      - { name: high, allow: { publish: ["a/b"] } }`),
    {},
  )
  assert.deepEqual(matcher.allowsMessage(message('a/x', { qos: 1 })), { allowed: true, statement: 'low' })
  assert.deepEqual(matcher.allowsMessage(message('a/x', { qos: 2 })), {
    allowed: false,
    statement: 'low',
    reason: 'qos_denied',
  })
  assert.deepEqual(matcher.allowsMessage(message('a/x', { retain: true })), {
    allowed: false,
    statement: 'low',
    reason: 'retain_denied',
  })
  assert.deepEqual(matcher.allowsMessage(message('a/b', { qos: 2, retain: true })), {
    allowed: true,
    statement: 'high',
  })
  assert.deepEqual(matcher.allowsMessage(message('z', { qos: 2 })), { allowed: false })
  assert.deepEqual(matcher.allowsMessage(message('a/b', { qos: 3 })), { allowed: false })
  assert.deepEqual([matcher.maxQos, matcher.mayRetain], [2, true])
})

test('what no topic allows is known beforehand: the highest QoS, and whether anything may be retained', () => {
  const highest = (yaml: string): [number, boolean] => {
    const { maxQos, mayRetain } = compilePolicy(parsePolicy(yaml), sensor)
    return [maxQos, mayRetain]
  }
  assert.deepEqual(highest('policies: [{ name: a, maxQos: 1, retain: false, allow: { publish: ["a"] } }]'), [1, false])
  const other = '{ name: b, match: { profile: camera }, allow: { publish: ["b"] } }'
  assert.deepEqual(highest(`policies: [{ name: a, maxQos: 0, allow: { publish: ["a"] } }, ${other}]`), [0, true])
  assert.deepEqual(highest('policies: [{ name: a, limits: { retainedMessages: 0 }, allow: { publish: ["a"] } }]'), [
    2,
    false,
  ])
  // Who may not publish at all is not told of a limit.
  assert.deepEqual(highest('policies: []'), [2, true])
  assert.deepEqual(highest('policies: [{ name: a, maxQos: 0, allow: { publish: ["a/${subject.OU}"] } }]'), [2, true])
})

test('a payload over the limit is refused by that name, and so is retaining for a device that may retain nothing', () => {
  const matcher = compilePolicy(
    parsePolicy(
      'policies: [{ name: a, limits: { payloadBytes: 10, retainedMessages: 0 }, allow: { publish: ["a"] } }]',
    ),
    {},
  )
  assert.equal(matcher.allowsMessage(message('a', { bytes: 10 })).allowed, true)
  assert.deepEqual(matcher.allowsMessage(message('a', { bytes: 11 })), { allowed: false, reason: 'payload_too_large' })
  assert.equal(matcher.allowsMessage(message('b', { bytes: 11 })).reason, undefined)
  assert.equal(matcher.allowsMessage(message('a', { retain: true })).reason, 'retain_denied')
})

test('one statement that disconnects is enough, conditions are collected, and others’ are not', () => {
  const matcher = compilePolicy(
    parsePolicy(`policies:
      - { name: a, connect: { networks: ["10.0.0.0/8"] } }
      - { name: b, onDeny: disconnect, connect: { times: [{ days: [mon] }] } }
      - { name: c, onDeny: drop }
      - { name: d, match: { profile: camera }, connect: { times: [{ days: [tue] }] }, limits: { connections: 1 } }`),
    sensor,
  )
  assert.equal(matcher.onDeny, 'disconnect')
  assert.deepEqual(
    matcher.conditions.map(({ statement }) => statement),
    ['a', 'b'],
  )
  assert.deepEqual(matcher.limits, {})
})

test('a response topic is the first one below which its principal may subscribe', () => {
  const document = parsePolicy(`policies:
    - { name: a, responseTopic: "x/\${device.id}" }
    - { name: b, responseTopic: "y/\${device.id}/replies/", allow: { subscribe: ["y/\${device.id}/#"] } }`)
  assert.equal(compilePolicy(document, sensor).responseTopic, 'y/s1/replies/')
  assert.equal(compilePolicy(document, { 'device.id': ['+'] }).responseTopic, undefined)
})

test('what is denied by a name that is not known is denied, and nothing is allowed by it', () => {
  const document = parsePolicy(`policies:
    - { name: all, allow: { publish: ["#"] } }
    - { name: roof, match: { subject.OU: roof, profile: sensor }, deny: { publish: ["alarms/#"] } }
    - { name: other, match: { subject.OU: roof, profile: camera }, deny: { publish: ["x/#"] } }
    - { name: own, deny: { publish: ["u/x-\${subject.OU}/\${device.id}"] } }
    - { name: more, match: { subject.OU: roof }, allow: { publish: ["y"] }, limits: { payloadBytes: 1 } }`)
  const matcher = compilePolicy(document, sensor, { isUnknown: (name) => name === 'subject.OU' })
  const allowed = (topic: string): boolean => matcher.allows('publish', topic).allowed
  assert.deepEqual(['alarms/1', 'x/1', 'u/x-1/s1', 'u/any/s1', 'v/x-1/s1'].map(allowed), [
    false,
    true,
    false,
    false,
    true,
  ])
  assert.deepEqual(matcher.limits, {})
  const known = compilePolicy(document, sensor)
  assert.equal(known.allows('publish', 'alarms/1').allowed, true)
})

test('a value that reaches beyond its level allows nothing, and what is denied by it is denied', () => {
  const document = parsePolicy(`policies:
    - { name: all, allow: { publish: ["#"], subscribe: ["#"] } }
    - { name: own, deny: { publish: ["sites/\${device.attributes.site}/lock"], subscribe: ["sites/\${device.attributes.site}/#"] } }`)
  for (const site of ['north/1', '$north', 'nor\u0007th', '']) {
    const matcher = compilePolicy(document, { 'device.attributes.site': [site] })
    assert.equal(matcher.allows('publish', `sites/${site}/lock`).statement, 'own', site)
    assert.equal(matcher.allowsDelivery(`sites/${site}/x`), false, site)
    assert.equal(matcher.allows('publish', 'sites/south/lock').allowed, true, site)
  }
  const nobody = compilePolicy(document, { 'device.attributes.site': ['+', '#', 'a\u0000'] })
  assert.equal(nobody.allows('publish', 'sites/south/lock').allowed, true, 'no topic holds such a value')
  const alone = parsePolicy('policies: [{ name: a, allow: { publish: ["sites/${device.attributes.site}"] } }]')
  assert.equal(
    compilePolicy(alone, { 'device.attributes.site': ['a/b'] }).allows('publish', 'sites/a/b').allowed,
    false,
  )
})

test('a pattern that would stand for more than a thousand filters allows nothing and denies all that it could', () => {
  const facts = { 'subject.OU': Array.from({ length: 40 }, (_, at) => `u${at}`) }
  const pattern = '"${subject.OU}/${subject.OU}/x"'
  const document = parsePolicy(
    `policies: [{ name: a, allow: { publish: [${pattern}, "#"] } }, { name: d, deny: { publish: [${pattern}] } }]`,
  )
  assert.equal(compilePolicy(document, facts).allows('publish', 'u1/u2/x').allowed, false)
  assert.equal(compilePolicy(document, facts).allows('publish', 'u1/u2/y').allowed, true)
  const alone = parsePolicy(`policies: [{ name: a, allow: { publish: [${pattern}] } }]`)
  assert.equal(compilePolicy(alone, facts).allows('publish', 'u1/u2/x').allowed, false)
})

test('a topic that was asked about is answered from memory with the same verdict, and memory is bounded', () => {
  const matcher = compilePolicy(
    parsePolicy('policies: [{ name: a, allow: { publish: ["a/+"], subscribe: ["a/+"] } }]'),
    {},
  )
  assert.equal(matcher.allows('publish', 'a/b'), matcher.allows('publish', 'a/b'))
  for (let at = 0; at < 5_000; at++) {
    assert.equal(matcher.allows('publish', `a/${at}`).allowed, true)
    assert.equal(matcher.allows('publish', `b/${at}`).allowed, false)
    assert.equal(matcher.allowsDelivery(`a/${at}`), true)
    assert.equal(matcher.allowsDelivery(`b/${at}`), false)
  }
})

test('a name of which a certificate has more than can be read speaks for nothing, and against whatever it could', () => {
  const document = parsePolicy(`policies:
    - { name: all, allow: { publish: ["#"] } }
    - name: by-unit
      match: { subject.OU: guests }
      allow: { subscribe: ["guests/#"] }
      deny: { publish: ["secret/#"] }
      limits: { payloadBytes: 8 }
      connect: { networks: ["192.0.2.0/24"] }
    - { name: by-other, match: { subject.O: guests }, deny: { publish: ["other/#"] } }
    - { name: own, deny: { publish: ["units/\${subject.OU}"] } }`)
  const read = compilePolicy(document, { ...sensor, 'subject.OU': ['staff'] })
  const unread = compilePolicy(document, { ...sensor, 'subject.OU': ['staff'], unread: ['subject.OU'] })
  const publishing = (topic: string) => [read, unread].map((matcher) => matcher.allows('publish', topic).allowed)
  assert.deepEqual(publishing('secret/x'), [true, false])
  assert.deepEqual(publishing('units/guests'), [true, false])
  assert.deepEqual(publishing('other/x'), [true, true])
  assert.equal(unread.allows('subscribe', 'guests/x').allowed, false)
  assert.deepEqual([read.limits.payloadBytes, unread.limits.payloadBytes], [undefined, 8])
  assert.deepEqual([read.conditions.length, unread.conditions.length], [0, 1])
})
