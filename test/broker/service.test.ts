import assert from 'node:assert/strict'
import { createPrivateKey } from 'node:crypto'
import { once } from 'node:events'
import { chmodSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { connect } from 'node:tls'
import { credentialStamp, readCredential } from '../../broker/credential.ts'
import { createBrokerService } from '../../broker/service.ts'
import { configuration } from '../../contract/configuration.ts'
import { splitAddress } from '../../runtime/config.ts'
import { BrokerHarness, closeOf, connectPacket, Inbox, parsePolicy } from '../harness/broker.ts'

let harness: BrokerHarness
let credentialDir: string
beforeEach(async () => {
  harness = await BrokerHarness.start({
    policy: parsePolicy('policies: [{ name: all, allow: { publish: ["#"], subscribe: ["#"] } }]'),
  })
  credentialDir = join(harness.folder, 'credential')
})
afterEach(() => harness[Symbol.asyncDispose]())

test('the endpoint of a wildcard address names a host that can be reached from here', async () => {
  await using broker = await createBrokerService({
    config: configuration.parse({ broker: { listen: '0.0.0.0:0', feed: harness.feed.address } }),
    dataDir: join(harness.folder, 'second'),
    credentialDir,
    log: harness.testLog.log,
  })
  assert.match(broker.endpoints.mqtts, /^mqtts:\/\/localhost:\d+$/)
})

test('a data folder in use by another instance stops the start with one sentence', async () => {
  await assert.rejects(harness.startDetached(), { code: 'data_in_use', message: /in use by another instance/ })
})

test('wills are delivered when the broker stops, and every client sees the end', async () => {
  const watcher = await harness.connect(await harness.device('watcher-1'))
  await watcher.subscribeAsync('wills/#', { qos: 1 })
  const will = (topic: string) => ({ will: { topic, payload: Buffer.from('stopped'), qos: 1 as const, retain: false } })
  const client = await harness.connect(await harness.device('sensor-1'), will('wills/sensor-1'))
  const inbox = new Inbox(watcher)
  const closed = Promise.all([closeOf(watcher), closeOf(client)])
  await harness.stopBroker()
  assert.equal((await inbox.until('stopped')).topic, 'wills/sensor-1')
  await closed
  await harness.startBroker()
})

test('a broker that starts while enroll is away may let devices in for as long after the feed was last followed as a listener says', async () => {
  const device = await harness.device('sensor-1')
  const patient = { name: 'patient', listen: '127.0.0.1:0', handling: { stale_status: 'grace(1h)' } }
  harness.settings.broker = { ...harness.settings.broker, listeners: [patient], metrics: '127.0.0.1:0' }
  await harness.stopBroker()
  harness.feed.answering = false
  await harness.startBroker()
  const ready = await fetch(`${harness.broker.probes}/readyz`)
  assert.deepEqual(
    [ready.status, (await ready.text()).split('\n')[0]],
    [503, 'feed: nobody has said yet who is revoked'],
  )
  const connack = async (listener: string): Promise<unknown> => {
    const port = Number(new URL(harness.broker.endpoints[listener]!).port)
    const socket = await harness.socket(device, { port })
    socket.write(connectPacket(device.id))
    const [answer] = await once(socket, 'data')
    socket.destroy()
    return [...(answer as Buffer)].at(-1)
  }
  assert.equal(await connack('mqtts'), 3)
  assert.equal(await connack('patient'), 0)
  await harness.testLog.until('session.opened', { verification: 'stale_status', action: 'grace', listener: 'patient' })
  await harness.stopBroker()
  harness.settings.clock = () => new Date(Date.now() + 3_600_000)
  await harness.startBroker()
  assert.equal(await connack('patient'), 3, 'this process has not followed it, so that the note is the old one')
})

test('a file of CAs that is missing, or holds something else, stops the start with one sentence', async () => {
  await harness.stopBroker()
  const file = join(harness.folder, 'former.pem')
  const { broker } = harness.settings
  harness.settings.broker = { ...broker, trust: [{ label: 'former', file, deviceId: 'subject.CN' }] }
  const refused = (message: RegExp) => assert.rejects(harness.startDetached(), { code: 'config_invalid', message })
  await refused(/broker\.trust former: .* cannot be read/)
  writeFileSync(file, 'nothing')
  await refused(/holds no certificate in PEM/)
  writeFileSync(file, (await harness.strangeDevice('sensor-1')).pem)
  await refused(/holds a certificate that is not of a CA/)
  harness.settings.broker = { ...broker, listeners: [{ name: 'mqtts', password: { file } }] }
  await refused(/former\.pem:1: device:/)
  harness.settings.broker = broker
  await harness.startBroker() // nothing was left open
})

test('a key that others can read is refused', () => {
  chmodSync(join(credentialDir, 'tls.key'), 0o644)
  assert.throws(() => readCredential(credentialDir, undefined), { code: 'key_permissions' })
})

test('an encrypted key needs its passphrase, and the right one', () => {
  const key = join(credentialDir, 'tls.key')
  const passphrase = join(harness.folder, 'passphrase')
  const pem = createPrivateKey(readFileSync(key)).export({
    format: 'pem',
    type: 'pkcs8',
    cipher: 'aes-256-cbc',
    passphrase: 'right',
  })
  writeFileSync(key, pem)
  writeFileSync(passphrase, 'right\n')
  assert.equal(readCredential(credentialDir, passphrase).passphrase, 'right')
  writeFileSync(passphrase, 'wrong\n')
  assert.throws(() => readCredential(credentialDir, passphrase), { code: 'key_passphrase' })
  assert.throws(() => readCredential(credentialDir, undefined), { code: 'key_passphrase' })
  assert.throws(() => readCredential(credentialDir, join(harness.folder, 'missing')), { code: 'config_invalid' })
})

test('a missing credential is one sentence, and a renewed one has another stamp', () => {
  const before = credentialStamp(credentialDir)
  const path = join(credentialDir, 'tls.crt')
  const text = readFileSync(path)
  renameSync(path, `${path}.old`)
  assert.throws(() => readCredential(credentialDir, undefined), {
    code: 'data_damaged',
    message: /tls\.crt cannot be read/,
  })
  writeFileSync(path, text)
  assert.notEqual(credentialStamp(credentialDir), before)
})

test('a certificate that enroll gives for its key is kept and shown from then on; any other is not', async () => {
  const { key, cert } = readCredential(credentialDir, undefined)
  const shown = async () => {
    const socket = connect({ ...splitAddress(new URL(harness.broker.endpoints.mqtts).host), ca: harness.pki.root.pem })
    await once(socket, 'secureConnect')
    const pem = socket.getPeerX509Certificate()!.toString()
    socket.destroy()
    return pem
  }
  const strange = await harness.pki.service('broker')
  const { pem } = await harness.pki.service('broker', key)
  for (const unfit of [strange.chain, 'x', pem]) {
    const { length } = harness.testLog.lines
    harness.feed.give(unfit)
    while (!harness.testLog.lines.slice(length).some(({ event }) => event === 'credential.notRenewed')) await turn()
  }
  assert.equal(readCredential(credentialDir, undefined).cert, cert)
  const next = await harness.pki.service('broker', key)
  harness.feed.give(next.chain)
  await harness.testLog.until('credential.renewed')
  assert.equal(readCredential(credentialDir, undefined).cert, next.chain)
  assert.equal(await shown(), next.pem)
  assert.ok(harness.broker.feed.connected)
})

test('a certificate that does not belong to the key is told of, and never shown, whatever else changes', async () => {
  const strange = await harness.pki.service('broker')
  writeFileSync(join(credentialDir, 'tls.crt'), strange.chain)
  harness.feed.give('x')
  await harness.testLog.until('credential.notRenewed')
  harness.feed.append({ type: 'trust.changed', data: { anchors: harness.pki.anchors.toReversed() } })
  await harness.feed.untilApplied()
  assert.ok(!harness.testLog.lines.some(({ event }) => event === 'feed.broken'))
  const device = await harness.device('sensor-1')
  await harness.connect(device)
})
