import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { parse } from 'yaml'
import { policyDocument, starterPolicy } from '../../../contract/policy-document.ts'
import { parseYaml } from '../../../runtime/yaml.ts'
import { StubAdmin } from '../../harness/stub-admin.ts'
import { fleetgate } from '../../harness/stub-io.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
after(() => rmSync(folder, { recursive: true }))
const good = join(folder, 'policy.yaml')
writeFileSync(good, starterPolicy)
const bad = join(folder, 'bad.yaml')
writeFileSync(bad, `policies:\n  - name: a\n    allow: { publish: ["devices/\${nobody}/#"] }\n  - name: a\n`)
const document = parseYaml(starterPolicy, policyDocument, good, 'policy_invalid')
const view = { version: 3, at: '2026-01-01T00:00:00Z', by: 'operator', document }

test('policy check takes policy.yaml of the data folder and needs no gateway', async () => {
  const { code, out, err } = await fleetgate(['policy', 'check', '--data', folder])
  assert.deepEqual([code, err], [0, ''])
  assert.match(out, /policy\.yaml is valid: 3 statement\(s\)\n {2}own-topics\n/)
})

test('a policy that does not hold is refused with exit code 3 and every fault with its place', async () => {
  const { code, err } = await fleetgate(['policy', 'check', bad])
  assert.equal(code, 3)
  assert.match(err, /bad\.yaml:3:\d+: .*unknown variable \$\{nobody\}/)
  assert.match(err, /bad\.yaml:4:\d+: .*a stands twice/)
})

test('policy check -o json says the same to a script', async () => {
  const valid = await fleetgate(['policy', 'check', good, '-o', 'json'])
  assert.deepEqual(JSON.parse(valid.out), {
    ok: true,
    file: good,
    statements: ['own-topics', 'group-broadcast', 'applications'],
    faults: [],
    warnings: [],
  })
  assert.deepEqual(parse((await fleetgate(['policy', 'check', good, '-o', 'yaml'])).out), JSON.parse(valid.out))
  const invalid = await fleetgate(['policy', 'check', bad, '-o', 'json'])
  const { ok, faults } = JSON.parse(invalid.out)
  assert.deepEqual([invalid.code, ok, faults.length], [3, false, 2])
})

test('a policy file that is not there is a fault of the command line', async () => {
  const { code, err } = await fleetgate(['policy', 'check', join(folder, 'none.yaml')])
  assert.equal(code, 2)
  assert.match(err, /none\.yaml cannot be read/)
})

test('policy apply sends what it has checked, and nothing that does not hold', async () => {
  await using stub = await StubAdmin.start(() => ({ status: 200, body: view }))
  const applied = await fleetgate(['policy', 'apply', good, '--data', stub.dataDir])
  assert.deepEqual([applied.code, applied.out], [0, 'policy 3 is in force: 3 statement(s)\n'])
  assert.deepEqual(stub.requests[0]!.body, document)
  assert.equal((await fleetgate(['policy', 'apply', bad, '--data', stub.dataDir])).code, 3)
  assert.equal(stub.requests.length, 1)
})

test('what policy show prints can be applied again', async () => {
  await using stub = await StubAdmin.start(() => ({ status: 200, body: view }))
  const { out } = await fleetgate(['policy', 'show', '--data', stub.dataDir])
  assert.match(out, /^# policy 3, in force since/)
  assert.deepEqual(policyDocument.parse(parse(out)), document)
})

test('policy check warns, with the place, of what is valid and most likely not meant', async () => {
  const odd = join(folder, 'odd.yaml')
  writeFileSync(
    odd,
    'policies:\n  - name: all\n    allow: { publish: ["#"] }\n  - name: typo\n    match: { profile: kamera }\n    allow: { publish: [x] }\n',
  )
  const { code, out, err } = await fleetgate(['policy', 'check', odd])
  assert.deepEqual([code, err], [0, ''])
  assert.match(
    out,
    /\nwarning: .*odd\.yaml:3:24: all: every device may publish to #;.*\nwarning: .*odd\.yaml:5:14: typo: there is no profile kamera/,
  )
  const asJson = await fleetgate(['policy', 'check', odd, '-o', 'json'])
  assert.equal(JSON.parse(asJson.out).warnings.length, 2)
  const config = join(folder, 'gateway.yaml')
  writeFileSync(config, 'profiles: { kamera: {} }\n')
  const known = await fleetgate(['policy', 'check', odd, '--config', config])
  assert.doesNotMatch(known.out, /kamera/)
})
