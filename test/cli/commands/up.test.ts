import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { welcome } from '../../../cli/commands/up.ts'
import { endpointsFile, readEndpoints } from '../../../runtime/endpoints.ts'
import { fleetgate } from '../../harness/stub-io.ts'
import { Up } from '../../harness/up-process.ts'

// How it ends otherwise: test/long/up.test.ts.
const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
after(() => rmSync(folder, { recursive: true, force: true }))

test('up runs a gateway, keeps a second one from its data, and stops cleanly at SIGTERM', async () => {
  const dataDir = join(folder, 'first')
  const gateway = new Up(dataDir)
  await gateway.says('Ctrl-C stops the gateway.')
  const { rootFingerprint } = readEndpoints(dataDir)
  assert.match(gateway.out, /✔ enroll is ready after .*EST https:.*\n✔ broker is ready after .*MQTT mqtts:/)
  assert.ok(gateway.out.includes(`root SHA-256      ${rootFingerprint}`))

  const status = await fleetgate(['status', '-o', 'json', '--data', dataDir])
  assert.equal(status.code, 0)
  assert.equal(JSON.parse(status.out).rootFingerprint, rootFingerprint)

  const doctor = await fleetgate(['doctor', '-o', 'json', '--data', dataDir])
  assert.deepEqual([doctor.code, doctor.err], [0, ''], doctor.out)
  const { findings } = JSON.parse(doctor.out) as { findings: { check: string; state: string; what: string }[] }
  const said = (check: string) => findings.filter((one) => one.check === check).map(({ what }) => what)
  assert.match(said('TLS of mqtts')[0]!, /speaks TLSv1\.3 with TLS_AES_\d+_GCM_SHA\d+; its chain ends at the root/)
  assert.match(said('TLS of est')[1]!, /is valid until .* days left/)
  assert.match(said('brokers')[0]!, /^broker-1 is connected, and has all/)
  assert.match(said('clock')[0]!, /agree/)
  assert.match(said('keys')[0]!, /are readable by their owner alone/)

  const second = new Up(dataDir)
  assert.deepEqual(await second.ended(), [2, null])
  assert.match(second.err, /error: .* is in use by another instance \(data_in_use\); .*--data\n$/)
  assert.ok(existsSync(endpointsFile(dataDir)))

  gateway.process.kill('SIGTERM')
  assert.deepEqual(await gateway.ended(), [0, null])
  assert.match(gateway.out, /stopping \.\.\.\nstopped\n$/)
  assert.equal(existsSync(endpointsFile(dataDir)), false)
})

test('the lines to paste name the ports and paths of this gateway, quoted where a shell needs it', () => {
  const endpoints = {
    est: 'https://localhost:8443',
    mqtts: 'mqtts://localhost:8883',
    admin: 'https://127.0.0.1:9443',
    rootFingerprint: 'ab',
    rootCertificate: '/srv/my data/root.crt',
    operatorCertificate: '/x',
    operatorKey: '/y',
  }
  const text = welcome(endpoints, '/srv/my data', false)
  assert.match(
    text,
    /TOKEN=\$\(npx fleetgate token create --device cam-1 --profile camera --quiet --data '\/srv\/my data'\)\n/,
  )
  assert.match(
    text,
    /--cacert '\/srv\/my data\/root.crt' .* https:\/\/localhost:8443\/\.well-known\/est\/simpleenroll\n/,
  )
  assert.match(text, /-h localhost -p 8883 -i cam-1/)
  assert.doesNotMatch(welcome(endpoints, './data', false), /--data /)
})
