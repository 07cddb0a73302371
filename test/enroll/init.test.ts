import assert from 'node:assert/strict'
import { createPrivateKey } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  globSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { BrokerStore } from '../../broker/store.ts'
import { initialize } from '../../enroll/init.ts'
import { sealKeys } from '../../enroll/key-files.ts'
import { openDatabase } from '../../enroll/registry/database.ts'
import { openKeyFile, sealedKey } from '../../pki/keystore.ts'
import { loadConfig } from '../../runtime/config.ts'
import { createLog } from '../../runtime/log.ts'

const dataDir = mkdtempSync(join(tmpdir(), 'fleetgate-init-'))
after(() => rmSync(dataDir, { recursive: true, force: true }))
const now = new Date('2026-03-01T09:00:00Z')
const initAt = (clock: Date, names?: string) => {
  const config = loadConfig({ env: names === undefined ? {} : { FLEETGATE_NAMES: names } })
  return initialize({ config, dataDir, clock: () => clock, log: createLog('enroll', 'silent') })
}
const path = (name: string): string => join(dataDir, name)

/** Each file with what tells a rewritten one. */
const files = (): string[] =>
  readdirSync(dataDir, { recursive: true, encoding: 'utf8' })
    .filter((name) => !name.includes('registry') && statSync(path(name)).isFile())
    .map((name) => `${name} ${statSync(path(name)).ino}`)
    .sort()

let rootFingerprint: string

test('init makes CA, credentials, an operator and a policy, and names each file', async () => {
  const summary = await initAt(now)
  rootFingerprint = summary.rootFingerprint
  assert.match(rootFingerprint, /^[0-9a-f]{64}$/)
  const own = files().map((line) => line.split(' ')[0]!)
  assert.deepEqual(summary, { rootFingerprint, running: false, made: own, renewed: [] })
  for (const name of ['enroll/ca/root.key', 'services/broker/tls.crt', 'operator/operator.key', 'policy.yaml'])
    assert.ok(own.includes(name), name)
  assert.ok(!existsSync(path('endpoints.json')))
})

test('init ends at once where no folder can be made', async () => {
  const config = loadConfig({ env: {} })
  const within = path('policy.yaml')
  const start = { config, clock: () => now, log: createLog('enroll', 'silent') }
  await assert.rejects(initialize({ ...start, dataDir: join(within, 'data') }), {
    code: 'data_damaged',
    message: `the folder ${join(within, 'data')} cannot be made: ${within} is a file; name another`,
  })
})

test('init on a folder that is whole writes nothing', async () => {
  const before = files()
  assert.deepEqual(await initAt(now), { rootFingerprint, running: false, made: [], renewed: [] })
  assert.deepEqual(files(), before)
})

test('init makes what is missing, and renews a certificate whose names were changed', async () => {
  rmSync(path('operator/operator.crt'))
  const { made, renewed } = await initAt(now, 'localhost,gw.example')
  assert.deepEqual([made, renewed], [['operator/operator.crt'], ['services/broker/tls.crt', 'services/enroll/tls.crt']])
})

test('init on the folder of a gateway that runs changes nothing and does not fail', async () => {
  await using _ = await openDatabase(path('enroll/registry'))
  assert.deepEqual(await initAt(now), { rootFingerprint, running: true, made: [], renewed: [] })
  rmSync(path('root.crt'))
  await assert.rejects(initAt(now), { code: 'data_in_use' })
})

const keys = (): string[] => globSync('{enroll/ca,services/*,operator}/*.key', { cwd: dataDir }).sort()
const opens = (name: string, passphrase?: string): boolean => {
  try {
    return openKeyFile(path(name), passphrase).publicKeySpki.length > 0
  } catch {
    return false
  }
}

test('every key is sealed with another passphrase, on from where a crash has cut that short, and with none again', async () => {
  const all = keys()
  const [one, other] = ['the first', 'the second']
  assert.deepEqual(await sealKeys({ dataDir, from: undefined, to: one }), { sealed: all, kept: [] })
  assert.ok(all.every((name) => opens(name, one) && (statSync(path(name)).mode & 0o777) === 0o600))
  const cut = all[0]!
  writeFileSync(path(cut), sealedKey(createPrivateKey({ key: readFileSync(path(cut)), passphrase: one }), other))
  const rest = all.filter((name) => name !== cut)
  assert.deepEqual(await sealKeys({ dataDir, from: one, to: other }), { sealed: rest, kept: [cut] })
  assert.ok(all.every((name) => opens(name, other)))
  const before = files()
  await assert.rejects(sealKeys({ dataDir, from: one, to: undefined }), {
    code: 'key_passphrase',
    message: /issuing\.key opens neither/,
  })
  assert.deepEqual(files(), before)
  await sealKeys({ dataDir, from: other, to: undefined })
  assert.ok(all.every((name) => opens(name)))
})

test('no key is touched under a gateway that runs, where others can read one, or where there is none', async () => {
  const before = files()
  const seal = (folder = dataDir) => sealKeys({ dataDir: folder, from: undefined, to: 'x' })
  {
    await using _ = await openDatabase(path('enroll/registry'))
    await assert.rejects(seal(), { code: 'data_in_use' })
  }
  {
    await using _ = await BrokerStore.open(path('broker'))
    await assert.rejects(seal(), { code: 'data_in_use', message: /\/broker is in use/ })
  }
  rmSync(path('broker'), { recursive: true })
  chmodSync(path('operator/operator.key'), 0o644)
  await assert.rejects(seal(), { code: 'key_permissions' })
  chmodSync(path('operator/operator.key'), 0o600)
  assert.deepEqual(files(), before)
  await assert.rejects(seal(path('services')), { code: 'data_damaged', message: /there is no key in/ })
  await assert.rejects(seal(path('nowhere')), { code: 'data_damaged', message: /there is no / })
})

test('init refuses what is left of another gateway, as a start would', async () => {
  rmSync(path('enroll'), { recursive: true })
  await assert.rejects(initAt(now), { code: 'data_damaged' })
  rmSync(dataDir, { recursive: true })
  writeFileSync(dataDir, 'no folder')
  await assert.rejects(initAt(now), { code: 'data_damaged', message: /cannot be/ })
})
