/** Failures as data: each is explained with its cause and a fix, and with the fix applied it is none. */
// biome-ignore-all lint/suspicious/noTemplateCurlyInString: the variables of the policy language look like those of templates
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { connectFault } from '../../broker/connect-policy.ts'
import { Quotas } from '../../broker/quotas.ts'
import { explainDenial } from '../../contract/denial-explain.ts'
import type { Denial, DenialAsked, DenialFix } from '../../contract/denials.ts'
import { type PolicyDocument, policyDocument } from '../../contract/policy-document.ts'
import { askPolicy } from '../../contract/policy-explain.ts'
import { editPolicy } from '../../contract/policy-fix.ts'
import { compilePolicy } from '../../contract/policy-matcher.ts'
import type { PrincipalFacts } from '../../contract/principal-facts.ts'
import type { ProblemCode } from '../../contract/problems.ts'
import { parsePolicy, starter } from '../harness/broker.ts'

const camera: PrincipalFacts = {
  'device.id': ['cam-7'],
  'device.profile': ['camera'],
  'device.group': ['roof'],
  'client.id': ['cam-7'],
}

const denial = (cause: ProblemCode, facts: PrincipalFacts, more: Partial<Denial> = {}): Denial => ({
  id: '0123456789ab',
  stage: 'publish',
  cause,
  message: cause,
  count: 1,
  firstAt: '2026-03-04T10:30:00.000Z',
  lastAt: '2026-03-04T10:30:00.000Z',
  by: 'broker-1',
  deviceId: facts['device.id']?.[0] ?? 'cam-7',
  variables: facts as Record<string, string[]>,
  policyVersion: 1,
  ...more,
})

const questionOf = (asked: DenialAsked) =>
  asked.action === 'publish' ? { ...asked, action: asked.action } : { action: asked.action, topic: asked.topic }

/** The document and the facts once the fix has been applied, as an operator would. */
function applied(
  fix: DenialFix | undefined,
  document: PolicyDocument,
  facts: PrincipalFacts,
): { document: PolicyDocument; facts: PrincipalFacts } {
  const attribute = fix?.command?.join(' ').match(/^device set \S+ --attribute ([^=]+)=(.*)$/)
  if (attribute) return { document, facts: { ...facts, [`device.attributes.${attribute[1]}`]: [attribute[2]!] } }
  // Through the schema: what is suggested has to be a policy that can be applied.
  return { document: policyDocument.parse(editPolicy(document, fix?.edits ?? [])), facts }
}

type TopicRow = {
  name: string
  policy?: string
  facts?: PrincipalFacts
  ask: Partial<DenialAsked> & { topic: string }
  cause: ProblemCode
  /** of the sentence, or of the command */
  fix: string
  nearest?: string
}
const own = 'policies: [{ name: own, match: { profile: camera }, allow: { publish: ["devices/${device.id}/#"] } }]'

const topics: TopicRow[] = [
  {
    name: 'a topic of its own that no statement has: a line with its variable where it has others',
    policy: 'policies: [{ name: own, allow: { publish: ["devices/${device.id}/state"] } }]',
    ask: { topic: 'devices/cam-7/battery' },
    cause: 'publish_denied',
    fix: 'in own, set allow.publish: ["devices/${device.id}/state","devices/${device.id}/battery"]',
    nearest: 'own',
  },
  {
    name: 'a topic of another device: for this one alone',
    ask: { topic: 'devices/cam-8/state' },
    cause: 'publish_denied',
    fix: 'add the statement { name: only-cam-7, match: {"device.id":["cam-7"]}, allow: {"publish":["devices/cam-8/state"]} }',
    nearest: 'own-topics',
  },
  {
    name: 'a topic that is for another profile',
    ask: { topic: 'groups/roof/broadcast' },
    cause: 'publish_denied',
    fix: 'add the statement { name: only-cam-7',
    nearest: 'applications',
  },
  {
    name: 'an empty policy',
    policy: 'policies: []',
    ask: { topic: 'x' },
    cause: 'publish_denied',
    fix: 'add the statement',
  },
  {
    name: 'a name that is taken',
    policy: 'policies: [{ name: only-cam-7, allow: { subscribe: ["x"] } }]',
    ask: { topic: 'y' },
    cause: 'publish_denied',
    fix: 'add the statement { name: only-cam-7-2',
  },
  {
    name: 'a deny: its line is taken out',
    policy: 'policies: [{ name: a, allow: { publish: ["#"] } }, { name: stop, deny: { publish: ["x/#", "y/#"] } }]',
    ask: { topic: 'x/1' },
    cause: 'publish_denied',
    fix: 'in stop, set deny.publish: ["y/#"]',
  },
  {
    name: 'the only line of a deny',
    policy: 'policies: [{ name: a, allow: { publish: ["#"] } }, { name: stop, deny: { publish: ["x/#"] } }]',
    ask: { topic: 'x/1' },
    cause: 'publish_denied',
    fix: 'in stop, take deny.publish out',
  },
  {
    name: 'two denies behind each other, and nothing that allows',
    policy: 'policies: [{ name: s1, deny: { publish: ["x/#"] } }, { name: s2, deny: { publish: ["x/+"] } }]',
    ask: { topic: 'x/1' },
    cause: 'publish_denied',
    fix: 'in s1, take deny.publish out; in s2, take deny.publish out; add the statement',
  },
  {
    name: 'a deny by a variable',
    policy:
      'policies: [{ name: a, allow: { publish: ["#"] } }, { name: stop, deny: { publish: ["g/${device.group}"] } }]',
    ask: { topic: 'g/roof' },
    cause: 'publish_denied',
    fix: 'in stop, take deny.publish out',
  },
  {
    name: 'an attribute that a statement is for: the device is given it',
    policy: 'policies: [{ name: b, match: { device.attributes.site: berlin }, allow: { publish: ["site"] } }]',
    ask: { topic: 'site' },
    cause: 'publish_denied',
    fix: 'device set cam-7 --attribute site=berlin',
    nearest: 'b',
  },
  {
    name: 'an attribute in a filter',
    policy: 'policies: [{ name: b, allow: { publish: ["sites/${device.attributes.site}/t"] } }]',
    ask: { topic: 'sites/berlin/t' },
    cause: 'publish_denied',
    fix: 'device set cam-7 --attribute site=berlin',
    nearest: 'b',
  },
  {
    name: 'an attribute that it has with another value is not overwritten',
    policy: 'policies: [{ name: b, match: { device.attributes.site: berlin }, allow: { publish: ["site"] } }]',
    facts: { ...camera, 'device.attributes.site': ['bonn'] },
    ask: { topic: 'site' },
    cause: 'publish_denied',
    fix: 'add the statement',
  },
  {
    name: 'a variable without a value that could stand in a topic',
    policy: 'policies: [{ name: b, allow: { publish: ["ou/${subject.OU}/t"] } }]',
    facts: { ...camera, 'subject.OU': ['a/b'] },
    ask: { topic: 'ou/x/t' },
    cause: 'publish_denied',
    fix: 'add the statement',
    nearest: 'b',
  },
  {
    name: 'a higher QoS than the statement allows',
    policy: own.replace(' }]', ', maxQos: 0 }]'),
    ask: { topic: 'devices/cam-7/x', qos: 2 },
    cause: 'qos_denied',
    fix: 'in own, set maxQos: 2',
  },
  {
    name: 'RETAIN where the statement has none',
    policy: own.replace(' }]', ', retain: false }]'),
    ask: { topic: 'devices/cam-7/x', retain: true },
    cause: 'retain_denied',
    fix: 'in own, take retain out',
  },
  {
    name: 'QoS and RETAIN together',
    policy: own.replace(' }]', ', retain: false, maxQos: 1 }]'),
    ask: { topic: 'devices/cam-7/x', retain: true, qos: 2 },
    cause: 'qos_denied',
    fix: 'in own, set maxQos: 2; in own, take retain out',
  },
  {
    name: 'RETAIN where the limits leave nothing to retain',
    policy: `${own.slice(0, -1)}, { name: none, limits: { retainedMessages: 0 } }]`,
    ask: { topic: 'devices/cam-7/x', retain: true },
    cause: 'retain_denied',
    fix: 'in none, set limits.retainedMessages: 1',
  },
  {
    name: 'a payload over the limits of two statements',
    policy: `${own.slice(0, -1)}, { name: l1, limits: { payloadBytes: 10 } }, { name: l2, limits: { payloadBytes: 20 } }]`,
    ask: { topic: 'devices/cam-7/x', bytes: 30 },
    cause: 'payload_too_large',
    fix: 'in l1, set limits.payloadBytes: 30; in l2, set limits.payloadBytes: 30',
  },
  {
    name: 'a new line does not go where the QoS is too low for it',
    policy: 'policies: [{ name: low, maxQos: 0, allow: { publish: ["devices/${device.id}/a"] } }]',
    ask: { topic: 'devices/cam-7/b', qos: 1 },
    cause: 'publish_denied',
    fix: 'add the statement',
  },
  {
    name: 'a subscription that is wider than what is allowed',
    ask: { action: 'subscribe', topic: 'devices/cam-7/#' },
    cause: 'subscribe_denied',
    fix: 'in own-topics, set allow.subscribe: ["devices/${device.id}/commands/#","devices/${device.id}/#"]',
  },
  {
    name: 'a subscription of a group that the device is not in',
    ask: { action: 'subscribe', topic: 'groups/hall/broadcast' },
    cause: 'subscribe_denied',
    fix: 'add the statement',
    nearest: 'group-broadcast',
  },
  {
    name: 'a subscription to everything',
    ask: { action: 'subscribe', topic: '#' },
    cause: 'subscribe_denied',
    fix: 'allow: {"subscribe":["#"]}',
  },
  {
    name: 'the presence of the device itself',
    ask: { action: 'subscribe', topic: '$fleetgate/devices/cam-7/presence' },
    cause: 'subscribe_denied',
    fix: '"$fleetgate/devices/${device.id}/presence"]',
  },
  {
    name: 'the presence of a device that is called as its place is',
    facts: { ...camera, 'device.id': ['devices'] },
    ask: { action: 'subscribe', topic: '$fleetgate/devices/devices/presence' },
    cause: 'subscribe_denied',
    fix: '"$fleetgate/devices/${device.id}/presence"]',
  },
  {
    name: 'events about everybody, for a device that is called so',
    facts: { ...camera, 'device.id': ['events'] },
    ask: { action: 'subscribe', topic: '$fleetgate/events/#' },
    cause: 'subscribe_denied',
    fix: 'allow: {"subscribe":["$fleetgate/events/#"]}',
  },
  {
    name: 'a delivery that a later policy denies',
    policy: 'policies: [{ name: a, allow: { subscribe: ["#"] } }, { name: stop, deny: { subscribe: ["x/+"] } }]',
    ask: { action: 'receive', topic: 'x/1' },
    cause: 'delivery_denied',
    fix: 'in stop, take deny.subscribe out',
  },
  {
    name: 'a will on a topic of others',
    ask: { topic: 'alarms/cam-7', qos: 1, retain: true },
    cause: 'will_denied',
    fix: 'in own-topics, set allow.publish: ["devices/${device.id}/#","alarms/${device.id}"]',
  },
]

for (const { name, policy, facts = camera, ask, cause, fix, nearest } of topics) {
  test(`${cause}: ${name}`, () => {
    const document = policy === undefined ? starter : parsePolicy(policy)
    const asked: DenialAsked = { action: 'publish', qos: 0, retain: false, bytes: 0, ...ask }
    const before = askPolicy(document, facts, questionOf(asked))
    assert.equal(before.allowed, false)
    if (before.reason !== undefined) assert.equal(before.reason, cause)
    const explained = explainDenial(denial(cause, facts, { asked }), document)
    const said = explained.fix?.command?.join(' ') ?? explained.fix?.text ?? ''
    assert.ok(said.includes(fix), said)
    if (nearest !== undefined) assert.equal(explained.nearest?.statement, nearest)
    const after = applied(explained.fix, document, facts)
    assert.equal(askPolicy(after.document, after.facts, questionOf(asked)).allowed, true)
  })
}

test('a fix for one device gives others nothing beyond their own', () => {
  const other = { ...camera, 'device.id': ['cam-9'] }
  for (const topic of ['devices/cam-8/state', 'elsewhere', 'alarms/cam-7']) {
    const asked: DenialAsked = { action: 'publish', topic, qos: 0, retain: false, bytes: 0 }
    const { fix } = explainDenial(denial('publish_denied', camera, { asked }), starter)
    const { document } = applied(fix, starter, camera)
    assert.equal(askPolicy(document, other, questionOf(asked)).allowed, false, topic)
  }
})

test('topics that no policy can open have a fix on the device', () => {
  for (const [cause, action, topic] of [
    ['publish_denied', 'publish', '$SYS/x'],
    ['publish_denied', 'publish', '$fleetgate/devices/cam-7/presence'],
    ['subscribe_denied', 'subscribe', '$SYS/x'],
    ['subscribe_denied', 'subscribe', '$fleetgate/#'],
    ['will_denied', 'publish', '$SYS/x'],
  ] as const) {
    const asked: DenialAsked = { action, topic, qos: 0, retain: false, bytes: 0 }
    assert.equal(explainDenial(denial(cause, camera, { asked }), starter).fix?.kind, 'device')
  }
})

const connecting = (document: PolicyDocument, more: object = {}) =>
  connectFault(compilePolicy(document, camera), {
    deviceId: 'cam-7',
    will: undefined,
    remoteAddress: '192.0.2.9',
    otherConnections: 0,
    now: new Date('2026-03-04T10:30:00Z'), // a Wednesday
    ...more,
  })

const connects: { name: string; policy: string; remoteAddress?: string; others?: number; fix: string }[] = [
  { name: 'another network', policy: 'connect: { networks: [10.0.0.0/8] }', fix: '["10.0.0.0/8","192.0.2.9/32"]' },
  {
    name: 'another network of IPv6',
    policy: 'connect: { networks: [10.0.0.0/8] }',
    remoteAddress: '2001:db8::1',
    fix: '["10.0.0.0/8","2001:db8::1/128"]',
  },
  {
    name: 'an address of IPv4 on a socket of IPv6',
    policy: 'connect: { networks: [10.0.0.0/8] }',
    remoteAddress: '::ffff:192.0.2.9',
    fix: '["10.0.0.0/8","192.0.2.9/32"]',
  },
  {
    name: 'another time',
    policy: 'connect: { times: [{ days: [mon], from: "07:00", to: "19:00" }] }',
    fix: '{"days":["wed"],"from":"10:00","to":"11:00"}',
  },
  {
    name: 'neither time nor network',
    policy: 'connect: { times: [{ from: "20:00", to: "06:00" }], networks: ["2001:db8::/32"] }',
    fix: 'connect.networks',
  },
  { name: 'too many connections', policy: 'limits: { connections: 1 }', others: 1, fix: 'set limits.connections: 2' },
]
for (const { name, policy, remoteAddress = '192.0.2.9', others = 0, fix } of connects) {
  test(`a CONNECT: ${name}`, () => {
    const document = parsePolicy(`policies: [{ name: all, ${policy} }, { name: own, allow: { publish: [x] } }]`)
    const asked = { remoteAddress, otherConnections: others }
    const fault = connecting(document, asked)
    assert.ok(fault)
    const record = denial(fault.reason, camera, {
      stage: 'connect',
      remoteAddress,
      ...(fault.needed === undefined ? {} : { needed: fault.needed }),
    })
    const explained = explainDenial(record, document)
    assert.ok(explained.fix?.text.includes(fix), explained.fix?.text)
    assert.equal(connecting(applied(explained.fix, document, camera).document, asked), undefined)
  })
}

test('quota_exceeded: a subscription too many', () => {
  const document = parsePolicy('policies: [{ name: few, limits: { subscriptions: 3 }, allow: { subscribe: ["#"] } }]')
  const asked: DenialAsked = { action: 'subscribe', topic: 'x', qos: 0, retain: false, bytes: 0 }
  const { fix } = explainDenial(denial('quota_exceeded', camera, { asked, needed: 4 }), document)
  assert.equal(fix?.text, 'in few, set limits.subscriptions: 4')
  assert.equal(compilePolicy(applied(fix, document, camera).document, camera).limits.subscriptions, 4)
})

test('rate_limited: more at once, and in a second', () => {
  const document = parsePolicy('policies: [{ name: slow, limits: { messagesPerSecond: 2, bytesPerSecond: 100 } }]')
  const waits = (policy: PolicyDocument): number => {
    const quotas = new Quotas({ sessions: 1, subscriptions: 1, messages: 1, bytes: 1, retained: 1, retainedBytes: 1 })
    const { limits } = compilePolicy(policy, camera)
    return Math.max(...[1, 2, 3].map(() => quotas.take('cam-7', limits, 50, 0)))
  }
  assert.ok(waits(document) > 0)
  const { fix } = explainDenial(denial('rate_limited', camera), document)
  assert.match(fix!.text, /messagesPerSecond: \{"rate":4,"burst":4\}; in slow, set limits.bytesPerSecond/)
  assert.equal(waits(applied(fix, document, camera).document), 0)
})

test('an edit of a statement that is gone is refused', () => {
  assert.throws(() => editPolicy(starter, [{ statement: 'gone', path: 'maxQos', value: 1 }]), RangeError)
})

test('a document of thousands of statements is looked through once, and explained in well under a second', () => {
  const many = Array.from({ length: 5_000 }, (_, i) => ({
    name: `s-${i}`,
    match: { 'device.id': [`cam-${i + 1_000}`] },
    allow: { publish: [`x/${i}/#`] },
    deny: {},
  }))
  const asked: DenialAsked = { action: 'publish', topic: 'x/7/y', qos: 0, retain: false, bytes: 0 }
  const before = process.cpuUsage()
  const { fix, statements } = explainDenial(denial('publish_denied', camera, { asked }), { policies: many })
  assert.ok(process.cpuUsage(before).user < 1_000_000)
  assert.equal(statements?.length, 50)
  assert.match(fix!.text, /only-cam-7/)
})
