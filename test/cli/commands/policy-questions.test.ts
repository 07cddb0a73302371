// biome-ignore-all lint/suspicious/noTemplateCurlyInString: the variables of the policy language look like those of templates
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { policyDocument, starterPolicy } from '../../../contract/policy-document.ts'
import { parseYaml } from '../../../runtime/yaml.ts'
import { TestPki } from '../../harness/certificates.ts'
import { type AdminRequest, StubAdmin } from '../../harness/stub-admin.ts'
import { fleetgate } from '../../harness/stub-io.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
after(() => rmSync(folder, { recursive: true }))
const write = (name: string, text: string): string => {
  const path = join(folder, name)
  writeFileSync(path, text)
  return path
}
const policy = write('policy.yaml', starterPolicy)
const document = parseYaml(starterPolicy, policyDocument, policy, 'policy_invalid')
const facts = write('facts.yaml', 'device.id: cam-7\ndevice.profile: camera\ndevice.group: [roof]\n')
const offline = ['--policy', policy, '--facts', facts]

const pki = await TestPki.create()
const { pem } = await pki.device('cam-7', { organizationalUnits: ['roof'] })
const device = { id: 'cam-7', profile: 'camera', groups: ['roof'], status: 'active', createdAt: '2026-01-01T00:00:00Z' }
const registry =
  (more: object = {}) =>
  ({ path }: AdminRequest) => {
    if (path === '/v1/policy') return { status: 200, body: { version: 1, at: 'x', by: 'x', document } }
    if (path === '/v1/certificates/0a1b')
      return { status: 200, body: { serial: '0a1b', kind: 'device', profile: 'camera', status: 'issued', pem } }
    return { status: 200, body: { ...device, ...more } }
  }

test('can-i asks a policy file about a principal of a file: 0 and the statement, or 3 and what came nearest', async () => {
  const allowed = await fleetgate(['policy', 'can-i', 'pub', 'devices/cam-7/x', ...offline])
  assert.deepEqual(allowed, { code: 0, out: 'allowed: own-topics allows it\n', err: '' })
  const denied = await fleetgate(['policy', 'can-i', 'sub', 'devices/+/telemetry/#', ...offline])
  assert.deepEqual([denied.code, denied.out], [3, ''])
  assert.equal(
    denied.err,
    'error: this principal may not subscribe devices/+/telemetry/#: no statement allows it (subscribe_denied); ' +
      'nearest is applications: it allows devices/+/telemetry/# for profile service (it has camera)\n',
  )
  const received = await fleetgate(['policy', 'can-i', 'receive', 'groups/roof/broadcast', ...offline])
  assert.equal(received.code, 0)
})

test('can-i -o json tells a script the verdict, also when it is no', async () => {
  const argv = ['policy', 'can-i', 'pub', 'devices/cam-8/x', ...offline, '-o', 'json']
  const { code, out, err } = await fleetgate(argv)
  assert.equal(code, 3)
  assert.partialDeepStrictEqual(JSON.parse(out), { verdict: { allowed: false }, nearest: { statement: 'own-topics' } })
  assert.equal(JSON.parse(err).error.code, 'publish_denied')
})

test('can-i --as asks the gateway for the device, its certificate and the policy in force', async () => {
  await using stub = await StubAdmin.start(registry({ currentSerial: '0a1b', attributes: { site: 'berlin' } }))
  const ask = (...argv: string[]) =>
    fleetgate(['policy', 'can-i', ...argv, '--as', 'device:cam-7', '--data', stub.dataDir])
  assert.equal((await ask('pub', 'devices/cam-7/x')).code, 0)
  assert.match((await ask('pub', 'devices/cam-8/x')).err, /^error: cam-7 may not publish devices\/cam-8\/x/)
  const other = write(
    'other.yaml',
    'policies: [{ name: a, match: { subject.OU: roof, device.attributes.site: berlin, client.suffix: app }, allow: { publish: ["x/${subject.CN}"] } }]',
  )
  const argv = ['pub', 'x/cam-7', '--policy', other]
  assert.equal((await ask(...argv, '--client-id', 'cam-7:app')).code, 0)
  const without = await ask(...argv)
  assert.match(without.err, /nearest is a: it allows x\/\$\{subject\.CN\} for client\.suffix app \(it has none\)/)
  const foreign = await ask(...argv, '--client-id', 'cam-8')
  assert.deepEqual([foreign.code, /client_id_mismatch/.test(foreign.err)], [3, true])
})

test('a revoked device and one on hold may do nothing', async () => {
  for (const [status, sentence] of [
    ['revoked', 'cam-7 is revoked and may do nothing (device_revoked)'],
    ['held', 'cam-7 is on hold and may do nothing (device_held)'],
  ]) {
    await using stub = await StubAdmin.start(registry({ status }))
    const argv = ['policy', 'can-i', 'pub', 'devices/cam-7/x', '--as', 'device:cam-7', '--data', stub.dataDir]
    const { code, err } = await fleetgate(argv)
    assert.deepEqual([code, err], [3, `error: ${sentence}\n`])
  }
})

test('a question that is not one is a fault of the command line', async () => {
  for (const argv of [
    ['pub', 'x'],
    ['pub', 'x', '--as', 'device:a', '--facts', facts],
    ['pub', 'x', '--as', 'cam-7'],
    ['write', 'x', '--as', 'device:a'],
    ['pub', 'x', '--as', 'device:a', '--qos', '3'],
    ['pub', 'x', ...offline, '--client-id', 'a'],
    ['pub', 'x', '--policy', policy, '--facts', join(folder, 'none.yaml')],
  ]) {
    assert.equal((await fleetgate(['policy', 'can-i', ...argv])).code, 2, argv.join(' '))
  }
  const unknown = await fleetgate([
    'policy',
    'can-i',
    'pub',
    'x',
    '--policy',
    policy,
    '--facts',
    write('f.yaml', 'name: x\n'),
  ])
  assert.deepEqual([unknown.code, /f\.yaml:1:1: name: unknown name name/.test(unknown.err)], [3, true])
})

test('policy test runs a table of expectations and says which do not hold, with their places', async () => {
  const table = (last: string): string => `policy: policy.yaml
principals:
  cam: { device.id: cam-7, device.profile: camera }
  app: { device.id: app-1, device.profile: service }
tests:
  - { as: cam, publish: devices/cam-7/x, qos: 2, retain: true, expect: allow, by: own-topics }
  - { as: cam, subscribe: "#", expect: deny }
  - { as: app, receive: devices/cam-7/telemetry/t, expect: allow }
${last}`
  const good = await fleetgate(['policy', 'test', write('good.yaml', table(''))])
  assert.deepEqual(good, { code: 0, out: '3 passed, 0 failed\n', err: '' })
  const bad = write(
    'bad.yaml',
    table(
      '  - { as: cam, publish: devices/cam-8/x, expect: allow }\n  - { as: app, publish: groups/a/broadcast, expect: allow, by: other }\n',
    ),
  )
  const { code, out, err } = await fleetgate(['policy', 'test', bad])
  assert.equal(code, 3)
  assert.equal(
    out,
    `${bad}:9:5: cam publish devices/cam-8/x: allow was expected, but no statement allows it\n` +
      `${bad}:10:5: app publish groups/a/broadcast: allow by other was expected, but applications allows it\n3 passed, 2 failed\n`,
  )
  assert.match(err, /does not do what .*bad\.yaml expects \(policy_invalid\)/)
  const asJson = await fleetgate(['policy', 'test', bad, '-o', 'json', '--policy', policy])
  assert.partialDeepStrictEqual(JSON.parse(asJson.out), { ok: false, passed: 3, failed: 2 })
  for (const [name, text] of [
    ['nobody', '  - { as: nobody, publish: x, expect: deny }\n'],
    ['both', '  - { as: cam, publish: x, subscribe: y, expect: deny }\n'],
    ['neither', '  - { as: cam, expect: deny }\n'],
  ])
    assert.equal((await fleetgate(['policy', 'test', write(`${name}.yaml`, table(text!))])).code, 3, name)
})
