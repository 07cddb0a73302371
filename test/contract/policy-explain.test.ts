// biome-ignore-all lint/suspicious/noTemplateCurlyInString: the variables of the policy language look like those of templates
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { explainPolicy, type Question } from '../../contract/policy-explain.ts'
import { parsePolicy, starter } from '../harness/broker.ts'

const camera = { 'device.id': ['cam-7'], 'device.profile': ['camera'], 'device.group': ['roof', 'hall'] }
const publish = (topic: string, more: Partial<Question> = {}): Question =>
  ({ action: 'publish', topic, qos: 0, retain: false, bytes: 0, ...more }) as Question

test('what decided is named: the statement that allows, denies, or allows less', () => {
  const document = parsePolicy(`policies:
    - { name: own, maxQos: 1, retain: false, allow: { publish: ["a/#"] } }
    - { name: quiet, deny: { publish: ["a/no"] }, limits: { payloadBytes: 5 } }`)
  const because = (question: Question) => explainPolicy(document, camera, question).because
  assert.equal(because(publish('a/b')), 'own allows it')
  assert.equal(because(publish('a/no')), 'quiet denies it')
  assert.equal(because(publish('a/b', { qos: 2 })), 'own does not allow QoS 2')
  assert.equal(because(publish('a/b', { retain: true })), 'own does not allow it to be retained')
  assert.equal(because(publish('a/b', { bytes: 6 })), 'the payload is larger than the limits allow')
})

test('where nothing speaks for a topic, the statement that misses one condition comes nearest', () => {
  const { verdict, because, nearest } = explainPolicy(starter, camera, publish('devices/cam-8/commands/x'))
  assert.deepEqual([verdict, because], [{ allowed: false }, 'no statement allows it'])
  assert.deepEqual(nearest, {
    statement: 'applications',
    because: 'it allows devices/+/commands/# for profile service (it has camera)',
  })
})

test('else the one that is for it and has the most levels in common, with what its variables stand for', () => {
  assert.deepEqual(explainPolicy(starter, camera, publish('devices/cam-8/state')).nearest, {
    statement: 'own-topics',
    because: 'it allows devices/${device.id}/# (devices/cam-7/#)',
  })
  const groups = explainPolicy(starter, camera, { action: 'subscribe', topic: 'groups/cellar/broadcast' })
  assert.match(groups.nearest!.because, /\(groups\/roof\/broadcast, groups\/hall\/broadcast\)$/)
  const unset = explainPolicy(
    parsePolicy('policies: [{ name: a, allow: { publish: ["x/${subject.OU}"] } }]'),
    camera,
    publish('x/y'),
  )
  assert.match(unset.nearest!.because, /of which a variable has no value that could stand in a topic/)
})

test('of what the gateway publishes, no wildcard of other topics comes near', () => {
  const document = parsePolicy(`policies:
    - { name: all, allow: { subscribe: ["+/devices/cam-7/presence", "#"] } }
    - { name: own, allow: { subscribe: ["$fleetgate/devices/\${device.id}/presence"] } }`)
  const ask = (topic: string) => explainPolicy(document, camera, { action: 'subscribe', topic })
  assert.equal(ask('$fleetgate/devices/cam-7/presence').because, 'own allows it')
  assert.equal(ask('$fleetgate/devices/cam-8/presence').nearest?.statement, 'own')
  assert.equal(ask('$SYS/devices/cam-7/presence').nearest, undefined)
})

test('a question about something wholly else has nothing near', () => {
  assert.equal(explainPolicy(starter, camera, publish('weather/berlin')).nearest, undefined)
  assert.equal(
    explainPolicy(starter, camera, { action: 'receive', topic: 'groups/roof/broadcast' }).because,
    'the policy allows it',
  )
})
