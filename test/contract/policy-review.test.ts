// biome-ignore-all lint/suspicious/noTemplateCurlyInString: the variables of the policy language look like those of templates
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { reviewPolicy } from '../../contract/policy-review.ts'
import { parsePolicy, starter } from '../harness/broker.ts'

const profiles = ['sensor', 'camera', 'service']
const warnings = (statements: string): string[] =>
  reviewPolicy(parsePolicy(`policies: [${statements}]`), { profiles }).map(({ message }) => message)

test('the starter policy gives no cause for a warning', () => {
  assert.deepEqual(reviewPolicy(starter, { profiles }), [])
})

test('a wildcard for every device is warned of, one for some and a device’s own topics are not', () => {
  assert.deepEqual(warnings('{ name: a, allow: { publish: ["#"], subscribe: ["x/+"] } }'), [
    'a: every device may publish to #; say in match whom it is for',
    'a: every device may read x/+; say in match whom it is for',
  ])
  assert.deepEqual(
    warnings('{ name: a, allow: { subscribe: ["$fleetgate/events/denied", "$fleetgate/devices/${device.id}/+"] } }'),
    ['a: every device may read $fleetgate/events/denied; say in match whom it is for'],
  )
  assert.equal(warnings('{ name: a, match: { device.id: "*" }, allow: { publish: ["+/${device.id}"] } }').length, 1)
  for (const fine of [
    '{ name: a, match: { profile: service }, allow: { publish: ["#"] } }',
    '{ name: a, allow: { publish: ["d/${device.id}/#", "one/topic"] } }',
    '{ name: a, deny: { publish: ["#"] } }',
  ])
    assert.deepEqual(warnings(fine), [], fine)
})

test('an allow that a deny takes away from all whom it is for is warned of', () => {
  const deny = (match: string): string => `{ name: no, match: ${match}, deny: { publish: ["d/+/locked/#"] } }`
  const allow = '{ name: a, match: { profile: [sensor, camera] }, allow: { publish: ["d/${device.id}/locked/x"] } }'
  for (const match of ['{}', '{ device.profile: "*" }', '{ profile: [camera, "s*"] }']) {
    const [warning = '', ...more] = warnings(`${allow}, ${deny(match)}`)
    assert.match(warning, /^a: d\/\$\{device\.id\}\/locked\/x is never allowed: no denies it/)
    assert.deepEqual(more, [])
  }
  for (const match of ['{ profile: sensor }', '{ device.id: "*" }', '{ profile: "*", group: roof }'])
    assert.deepEqual(warnings(`${allow}, ${deny(match)}`), [], match)
})

test('a condition that no device meets is warned of: an unknown profile, a name that no device or group can have', () => {
  assert.deepEqual(
    warnings('{ name: a, match: { profile: [camera, kamera, "x*"], group: "a b" }, allow: { publish: [x] } }'),
    [
      'a: there is no profile kamera; known: sensor, camera, service',
      'a: there is no profile x*; known: sensor, camera, service',
      'a: no device.group can be a b',
    ],
  )
  assert.deepEqual(warnings('{ name: a, match: { device.id: "a:b" }, allow: { publish: [x] } }'), [
    'a: no device.id can be a:b',
  ])
  assert.match(
    warnings('{ name: a, match: { verify.state: [valid, "exp*", ok] }, allow: { publish: [x] } }').join(),
    /^a: there is no state ok; known: valid, /,
  )
  assert.deepEqual(warnings('{ name: a, match: { device.id: ["*-7", "cam-*"] }, allow: { publish: [x] } }'), [])
})

test('a statement that says nothing is warned of, with its place', () => {
  const document = parsePolicy(
    'policies: [{ name: a, limits: { connections: 1 } }, { name: b, allow: { publish: [] } }]',
  )
  assert.deepEqual(reviewPolicy(document, { profiles }), [{ path: ['policies', 1], message: 'b: it says nothing' }])
})
