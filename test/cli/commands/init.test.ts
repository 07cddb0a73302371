import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { parseCertificate, parsePem } from '../../../pki/certificate.ts'
import { loadConfig } from '../../../runtime/config.ts'
import { fleetgate } from '../../harness/stub-io.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-init-'))
after(() => rmSync(folder, { recursive: true, force: true }))
const data = join(folder, 'data')
const config = join(folder, 'fleetgate.yaml')
const init = (...more: string[]) => fleetgate(['init', '--data', data, '--config', config, ...more])

test('init refuses a name that is none before anything is made', async () => {
  const { code, err } = await init('--name', 'a b')
  assert.equal(code, 2)
  assert.match(err, /names.*a DNS name or an IP address is wanted/)
  assert.deepEqual([existsSync(data), existsSync(config)], [false, false])
})

test('init shows what it made, and writes a configuration that has the names', async () => {
  const { code, out, err } = await init('--name', 'gw.example', '--name', '10.0.0.5')
  assert.deepEqual([code, err], [0, ''])
  assert.match(out, /^root SHA-256 +[0-9a-f]{64}\ndata folder .*\nconfiguration .*\nmade +enroll\/ca\/issuing\.crt\n/)
  assert.match(out, /^ +operator\/operator\.key$/m)
  assert.ok(out.endsWith(`\nStart it: npx fleetgate up --config ${config} --data ${data}\n`), out)
  const loaded = loadConfig({ file: config, env: {} })
  assert.deepEqual([loaded.data, loaded.names], [data, ['gw.example', '10.0.0.5', 'localhost', '127.0.0.1', '::1']])
  const [der] = parsePem(readFileSync(join(data, 'services/broker/tls.crt'), 'utf8'), 'CERTIFICATE')
  const { dns, ips } = parseCertificate(der!).subjectAltName
  assert.ok(dns.includes('gw.example') && ips.includes('10.0.0.5'))
})

test('init leaves a configuration that is there to its owner, and says what it lacks', async () => {
  const text = readFileSync(config, 'utf8')
  const { code, out, err } = await init('--name', 'other.example')
  assert.deepEqual([code, out], [1, ''])
  assert.match(err, /has no other\.example \(conflict\); add it there/)
  assert.equal(readFileSync(config, 'utf8'), text)
})
