import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Denial } from '../../../contract/denials.ts'
import { problem, StubAdmin } from '../../harness/stub-admin.ts'
import { fleetgate } from '../../harness/stub-io.ts'

const denial: Denial = {
  id: '0123456789ab',
  stage: 'publish',
  cause: 'publish_denied',
  message: 'The policy does not allow this publish',
  count: 3,
  firstAt: '2026-01-01T00:00:00.000Z',
  lastAt: '2026-01-01T00:01:00.000Z',
  by: 'broker-1',
  listener: 'main',
  state: 'valid',
  action: 'admit',
  remoteAddress: '192.0.2.1',
  deviceId: 'cam-1',
  clientId: 'cam-1:a',
  asked: { action: 'publish', topic: 'x/\u001b[2J', qos: 1, retain: true, bytes: 5 },
  variables: { 'device.group': ['roof', 'hall'] },
  policyVersion: 4,
  statements: [{ statement: 'own', because: 'allows y' }],
  nearest: { statement: 'own', because: 'it allows y' },
  fix: { kind: 'command', text: 'give it the attribute', command: ['device', 'set', 'cam-1', '--attribute', 'a=b c'] },
}

test('explain tells who was refused what and why, the statements, and the fix as a line to paste', async () => {
  await using stub = await StubAdmin.start(() => ({ status: 200, body: denial }))
  const { code, out } = await fleetgate(['explain', denial.id, '--data', stub.dataDir])
  assert.equal(code, 0)
  assert.equal(stub.requests[0]!.path, '/v1/denials/0123456789ab')
  for (const text of [
    'publish x/<U+001B>[2J (at QoS 1, retained, 5 bytes)',
    'publish_denied: The policy does not allow this publish',
    '3 times, 2026-01-01T00:00:00.000Z to 2026-01-01T00:01:00.000Z',
    'roof, hall',
    'own        allows y',
    'nearest: own: it allows y',
    "npx fleetgate device set cam-1 --attribute 'a=b c' --data",
  ])
    assert.ok(out.includes(text), `${text}\nin\n${out}`)
})

test('explain shows a line for the policy, a setting of the configuration, and that nothing is known', async () => {
  const fixes: [Denial['fix'], RegExp][] = [
    [
      { kind: 'policy', text: 'in own, set maxQos: 1', edits: [] },
      /in own, set maxQos: 1\n.*policy apply policy\.yaml/,
    ],
    [{ kind: 'configuration', text: 'more', setting: { path: 'broker.x', value: 3 } }, /more\n {2}broker\.x: 3/],
    [undefined, /none is known/],
  ]
  for (const [fix, wanted] of fixes) {
    const { fix: _, ...rest } = denial
    await using stub = await StubAdmin.start(() => ({ status: 200, body: fix === undefined ? rest : { ...rest, fix } }))
    assert.match((await fleetgate(['explain', denial.id, '--data', stub.dataDir])).out, wanted)
  }
})

test('denial ls lists them, and names the brokers that did not answer', async () => {
  await using stub = await StubAdmin.start(() => ({ status: 200, body: { items: [denial], unheard: ['broker-2'] } }))
  const { out } = await fleetgate(['denial', 'ls', '--device', 'cam-1', '-n', '5', '--data', stub.dataDir])
  assert.deepEqual(stub.requests[0]!.query, { deviceId: 'cam-1', limit: '5' })
  assert.match(out, /0123456789ab {2}2026-01-01T00:01:00\.000Z {2}3 +cam-1 {2}publish_denied/)
  assert.match(out, /broker-2 does not answer/)
})

test('an id of another form is a fault of usage, one that is not kept a refusal', async () => {
  assert.equal((await fleetgate(['explain', 'x'])).code, 2)
  await using stub = await StubAdmin.start(() => problem(404, 'denial_unknown', 'no denial is kept'))
  assert.equal((await fleetgate(['explain', denial.id, '--data', stub.dataDir])).code, 3)
})
