import assert from 'node:assert/strict'
import { chmodSync, existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { test } from 'node:test'
import { createEnrollService } from '../../../enroll/service.ts'
import { parseCertificate } from '../../../pki/certificate.ts'
import { createLog } from '../../../runtime/log.ts'
import { EnrollHarness, movableClock, pemToDer, testConfiguration } from '../../harness/fleet.ts'

const ca = (fleet: EnrollHarness, name: string): string => join(fleet.dataDir, 'enroll', 'ca', name)

test('the first start makes a root and an issuing CA, keys readable by their owner alone; the next start keeps them', async () => {
  await using fleet = await EnrollHarness.start()
  const keys = [
    'enroll/ca/root.key',
    'enroll/ca/issuing.key',
    'services/enroll/tls.key',
    'services/broker/tls.key',
    'operator/operator.key',
  ]
  for (const key of keys) assert.equal(statSync(join(fleet.dataDir, key)).mode & 0o777, 0o600, key)
  const root = parseCertificate(pemToDer(readFileSync(ca(fleet, 'root.crt'), 'utf8')))
  const years = (root.notAfter.getTime() - root.notBefore.getTime()) / 86_400_000 / 365.25
  assert.ok(years > 9.9 && years < 10.1)
  const before = [...keys, 'enroll/ca/root.crt', 'enroll/ca/issuing.crt', 'root.crt', 'policy.yaml'].map((file) =>
    readFileSync(join(fleet.dataDir, file), 'utf8'),
  )
  await fleet.close()
  await fleet.open()
  const afterwards = [...keys, 'enroll/ca/root.crt', 'enroll/ca/issuing.crt', 'root.crt', 'policy.yaml'].map((file) =>
    readFileSync(join(fleet.dataDir, file), 'utf8'),
  )
  assert.deepEqual(afterwards, before)
})

test('with a passphrase file every key is encrypted, and a start without or with another passphrase is refused', async () => {
  const passphraseFile = join(process.cwd(), `.passphrase-${process.pid}`)
  writeFileSync(passphraseFile, 'correct horse\n', { mode: 0o600 })
  try {
    await using fleet = await EnrollHarness.start({ config: testConfiguration({ keys: { passphraseFile } }) })
    for (const key of [
      'enroll/ca/root.key',
      'enroll/ca/issuing.key',
      'services/enroll/tls.key',
      'services/broker/tls.key',
      'operator/operator.key',
    ]) {
      assert.match(readFileSync(join(fleet.dataDir, key), 'utf8'), /BEGIN ENCRYPTED PRIVATE KEY/)
    }
    await fleet.close()
    writeFileSync(passphraseFile, 'wrong\n')
    await assert.rejects(fleet.open(), { code: 'key_passphrase' })
    writeFileSync(passphraseFile, '\n')
    await assert.rejects(fleet.open(), { code: 'config_invalid' })
    fleet.config.keys.passphraseFile = undefined
    await assert.rejects(fleet.open(), { code: 'key_passphrase' })
    writeFileSync(passphraseFile, 'correct horse\n')
    fleet.config.keys.passphraseFile = passphraseFile
    await fleet.open()
  } finally {
    rmSync(passphraseFile)
  }
})

test('a key that others can read stops the start and names the remedy', async () => {
  await using fleet = await EnrollHarness.start()
  await fleet.close()
  chmodSync(ca(fleet, 'issuing.key'), 0o644)
  await assert.rejects(fleet.open(), { code: 'key_permissions', message: /chmod 600 .*issuing\.key/ })
  chmodSync(ca(fleet, 'issuing.key'), 0o600)
  await fleet.open()
})

test('the root key may be taken away; a missing issuing key stops the start', async () => {
  await using fleet = await EnrollHarness.start()
  await fleet.close()
  rmSync(ca(fleet, 'root.key'))
  await fleet.open()
  assert.ok(await fleet.enrolledDevice())
  await fleet.close()
  rmSync(ca(fleet, 'issuing.key'))
  await assert.rejects(fleet.open(), { code: 'data_damaged', message: /issuing\.key is missing/ })
  assert.equal(existsSync(ca(fleet, 'issuing.key')), false)
})

test('a key of another certificate stops the start', async () => {
  await using fleet = await EnrollHarness.start()
  await using other = await EnrollHarness.start()
  await fleet.close()
  writeFileSync(ca(fleet, 'issuing.key'), readFileSync(ca(other, 'issuing.key')))
  await assert.rejects(fleet.open(), { code: 'data_damaged', message: /is not the key of the certificate/ })
})

test('a CA whose registry is gone does not start: nobody would know who was revoked', async () => {
  await using fleet = await EnrollHarness.start()
  await fleet.close()
  rmSync(join(fleet.dataDir, 'enroll', 'registry'), { recursive: true })
  await assert.rejects(fleet.open(), { code: 'data_damaged', message: /without it nobody knows who was revoked/ })
})

test('a data folder whose enroll part is missing does not get a second CA', async () => {
  await using fleet = await EnrollHarness.start()
  const root = fleet.root
  await fleet.close()
  rmSync(join(fleet.dataDir, 'enroll'), { recursive: true })
  await assert.rejects(fleet.open(), { code: 'data_damaged', message: /Mount or restore it/ })
  assert.equal(existsSync(join(fleet.dataDir, 'enroll')), false)
  assert.equal(fleet.root, root)
})

test('a data folder that cannot be made is one sentence', async () => {
  await using fleet = await EnrollHarness.start()
  const dataDir = join(fleet.dataDir, 'policy.yaml', 'below-a-file')
  const starting = createEnrollService({ config: testConfiguration(), dataDir, log: createLog('enroll', 'silent') })
  await assert.rejects(starting, { code: 'data_damaged', message: /cannot be made/ })
})

test('a second instance on the same data folder is told so', async () => {
  await using fleet = await EnrollHarness.start()
  await assert.rejects(fleet.open(), { code: 'data_in_use' })
})

test('a port in use is one sentence, and what was opened before it is closed again', async () => {
  await using fleet = await EnrollHarness.start()
  await fleet.close()
  const blocker = createServer()
  await new Promise<void>((resolve) => blocker.listen(0, '127.0.0.1', resolve))
  const { port } = blocker.address() as { port: number }
  fleet.config.enroll.est = `127.0.0.1:${port}`
  await assert.rejects(fleet.open(), { code: 'port_in_use', message: new RegExp(`127.0.0.1:${port} is in use`) })
  await new Promise((resolve) => blocker.close(resolve))
  await fleet.open()
})

test('service certificates are renewed with a third of their life left, and when the names change', async () => {
  const clock = movableClock()
  await using fleet = await EnrollHarness.start({ clock: clock.now })
  const path = join(fleet.dataDir, 'services', 'enroll', 'tls.crt')
  const read = () => parseCertificate(pemToDer(readFileSync(path, 'utf8').split('-----END')[0]!))
  const first = read()
  await fleet.close()
  clock.advance(200 * 86_400_000)
  await fleet.open()
  assert.equal(read().serial, first.serial)
  await fleet.close()
  clock.advance(60 * 86_400_000)
  await fleet.open()
  assert.notEqual(read().serial, first.serial)
  assert.deepEqual(read().publicKeySpki, first.publicKeySpki)
  await fleet.close()
  fleet.config.names.push('gateway.example')
  await fleet.open()
  assert.ok(read().subjectAltName.dns.includes('gateway.example'))
})
