import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import { test } from 'node:test'
import { loadConfig } from '../../runtime/config.ts'
import { readEndpoints } from '../../runtime/endpoints.ts'
import { isFleetError } from '../../runtime/errors.ts'
import { StubAdmin } from '../harness/stub-admin.ts'
import { freePorts, StubGateway } from '../harness/stub-gateway.ts'

test('the broker is started after enroll, with the address of the feed that enroll really has', async () => {
  await using stubs = new StubGateway()
  await stubs.start()
  const feed = stubs.startOf('enroll').feed
  assert.notEqual(feed, '127.0.0.1:0')
  assert.equal(stubs.startOf('broker').told, feed)
  assert.deepEqual(
    stubs.events.map(({ name, kind }) => `${name} ${kind}`),
    ['enroll ready', 'broker ready'],
  )
})

test('endpoints.json tells addresses and paths once both are ready and is gone after the stop', async () => {
  await using stubs = new StubGateway()
  const gateway = await stubs.start()
  const told = readEndpoints(stubs.dataDir)
  assert.deepEqual(told, gateway.endpoints)
  assert.deepEqual(Object.keys(told), [
    'est',
    'mqtts',
    'listeners',
    'admin',
    'rootFingerprint',
    'rootCertificate',
    'operatorCertificate',
    'operatorKey',
  ])
  assert.equal(told.rootCertificate, join(stubs.dataDir, 'root.crt'))
  assert.deepEqual(await gateway.stop(), [])
  assert.equal(existsSync(join(stubs.dataDir, 'endpoints.json')), false)
})

test('the passphrase file of the configuration stands in endpoints.json, as an absolute path', async () => {
  const config = loadConfig({ env: {}, flags: { 'keys.passphraseFile': 'secret.txt' } })
  await using stubs = new StubGateway({ config })
  const gateway = await stubs.start()
  assert.equal(gateway.endpoints.operatorKeyPassphraseFile, join(process.cwd(), 'secret.txt'))
})

test('configured ports are passed on as they are, and a child gets data folder and configuration file as absolute paths', async () => {
  const [est, admin, feed, mqtts] = (await freePorts(4)).map((port) => `127.0.0.1:${port}`)
  const flags = { 'enroll.est': est, 'enroll.admin': admin, 'enroll.feed': feed, 'broker.listen': mqtts }
  await using stubs = new StubGateway({
    ports: 'configured',
    configFile: 'package.json',
    config: loadConfig({ env: {}, flags }),
  })
  await stubs.start()
  const ofEnroll = stubs.startOf('enroll')
  assert.deepEqual([ofEnroll.est, ofEnroll.admin, ofEnroll.feed], [`https://${est}`, `https://${admin}`, feed])
  const ofBroker = stubs.startOf('broker')
  assert.deepEqual([ofBroker.mqtts, ofBroker.data], [`mqtts://${mqtts}`, stubs.dataDir])
  assert.equal(ofBroker.config, join(process.cwd(), 'package.json'))
})

test('a configured port that is in use is told by its setting before anything is started', async () => {
  const taken = createServer()
  const [est, admin, feed] = (await freePorts(3)).map((port) => `127.0.0.1:${port}`)
  await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve))
  const { port } = taken.address() as AddressInfo
  const flags = { 'enroll.est': est, 'enroll.admin': admin, 'enroll.feed': feed, 'broker.listen': `127.0.0.1:${port}` }
  await using stubs = new StubGateway({ ports: 'configured', config: loadConfig({ env: {}, flags }) })
  await assert.rejects(stubs.start(), (error) => {
    assert.ok(isFleetError(error, 'port_in_use'))
    assert.equal(error.message, `Port ${port} of broker.listen is in use`)
    return true
  })
  assert.deepEqual(stubs.notes, [])
  taken.close()
})

test('a port that the gateway of the same data folder holds is told as the folder in use', async () => {
  await using admin = await StubAdmin.start(() => ({
    status: 200,
    body: { version: '1', startedAt: '2026-01-01T00:00:00Z', rootFingerprint: 'ab', feedSeq: 1, brokers: [] },
  }))
  const [est, feed, mqtts] = (await freePorts(3)).map((port) => `127.0.0.1:${port}`)
  const flags = {
    'enroll.est': est,
    'enroll.admin': new URL(admin.endpoints.admin).host,
    'enroll.feed': feed,
    'broker.listen': mqtts,
  }
  const { dataDir } = admin
  await using stubs = new StubGateway({ ports: 'configured', config: loadConfig({ env: {}, flags }), dataDir })
  await assert.rejects(stubs.start(), { code: 'data_in_use', message: `${dataDir} is in use by another instance` })
  assert.deepEqual(stubs.notes, [])
})

test('an address of another machine is a fault of the configuration', async () => {
  const config = loadConfig({ env: {}, flags: { 'enroll.est': '192.0.2.1:8443' } })
  await using stubs = new StubGateway({ ports: 'configured', config })
  await assert.rejects(stubs.start(), (error) => isFleetError(error, 'config_invalid'))
  assert.deepEqual(stubs.notes, [])
})

test('a child that is killed is started again and comes back on the ports of its first start', async () => {
  await using stubs = new StubGateway()
  const gateway = await stubs.start()
  for (const name of ['enroll', 'broker'] as const) {
    const before = stubs.events.filter(({ kind }) => kind === 'ready').length
    process.kill(gateway.pids[name]!, 'SIGKILL')
    await stubs.told('ready', before + 1)
  }
  const ended = await stubs.told('ended', 2)
  assert.deepEqual(
    ended.map((event) => event.kind === 'ended' && [event.name, event.how]),
    [
      ['enroll', 'SIGKILL'],
      ['broker', 'SIGKILL'],
    ],
  )
  const again = (event: (typeof stubs.events)[number]): boolean => event.kind === 'ready' && event.again
  assert.deepEqual(stubs.events.map(again), [false, false, false, true, false, true])
  for (const key of ['est', 'admin', 'feed']) {
    assert.equal(stubs.startOf('enroll', 1)[key], stubs.startOf('enroll', 0)[key])
  }
  assert.equal(stubs.startOf('broker', 1).mqtts, stubs.startOf('broker', 0).mqtts)
  assert.deepEqual(readEndpoints(stubs.dataDir), gateway.endpoints)
})

test('a child that keeps dying is started again more and more slowly, up to a limit', async () => {
  await using stubs = new StubGateway()
  const gateway = await stubs.start()
  for (let n = 1; n <= 5; n++) {
    process.kill(gateway.pids.broker!, 'SIGKILL')
    await stubs.told('ready', 2 + n)
  }
  const delays = (await stubs.told('ended', 5)).map((event) => event.kind === 'ended' && event.restartInMs)
  assert.deepEqual(delays, [5, 10, 20, 40, 40])
})

test('the back-off begins anew after a child was up for long enough', async () => {
  await using stubs = new StubGateway({ backOff: { firstMs: 5, maxMs: 40, steadyMs: 0 } })
  const gateway = await stubs.start()
  for (let n = 1; n <= 3; n++) {
    process.kill(gateway.pids.broker!, 'SIGKILL')
    await stubs.told('ready', 2 + n)
  }
  const delays = (await stubs.told('ended', 3)).map((event) => event.kind === 'ended' && event.restartInMs)
  assert.deepEqual(delays, [5, 5, 5])
})

test('a stop drains the broker first, then enroll', async () => {
  await using stubs = new StubGateway()
  const gateway = await stubs.start()
  assert.deepEqual(await gateway.stop(), [])
  assert.deepEqual(stubs.notes.slice(-2), ['broker asked to stop', 'enroll asked to stop'])
})

test('a stop during the back-off starts nothing more', async () => {
  await using stubs = new StubGateway({ backOff: { firstMs: 60_000, maxMs: 60_000, steadyMs: 0 } })
  const gateway = await stubs.start()
  process.kill(gateway.pids.broker!, 'SIGKILL')
  await stubs.told('ended', 1)
  assert.deepEqual(await gateway.stop(), [])
  assert.equal(stubs.notes.filter((note) => note.startsWith('broker started')).length, 1)
})

test('a child that does not end in time is killed, and the stop names it', async () => {
  await using stubs = new StubGateway({ behaviour: { STUB_BROKER: 'hang' }, killAfterMs: 100 })
  const gateway = await stubs.start()
  const { broker } = gateway.pids
  assert.ok((await gateway.stop()).includes('broker'))
  assert.throws(() => process.kill(broker!, 0), { code: 'ESRCH' })
})

test('a kill ends both at once and nothing is started again', async () => {
  const kill = new AbortController()
  await using stubs = new StubGateway({ behaviour: { STUB_BROKER: 'hang' }, kill: kill.signal })
  const gateway = await stubs.start()
  kill.abort()
  assert.deepEqual(stubs.events.length, 2)
  await gateway.stop()
  for (const pid of Object.values(gateway.pids)) assert.throws(() => process.kill(pid!, 0), { code: 'ESRCH' })
  assert.equal(stubs.notes.filter((note) => note.includes(' started ')).length, 2)
})

test('a child that drains with an error is named by the stop', async () => {
  await using stubs = new StubGateway({ behaviour: { STUB_ENROLL: 'unclean' } })
  const gateway = await stubs.start()
  assert.deepEqual(await gateway.stop(), ['enroll'])
})

test('a broker that cannot start stops enroll, leaves no endpoints.json and tells its own reason', async () => {
  await using stubs = new StubGateway({ behaviour: { STUB_BROKER: 'fail' } })
  await assert.rejects(stubs.start(), (error) => {
    assert.ok(isFleetError(error, 'port_in_use'))
    assert.equal(error.message, 'port 8883 is in use')
    return true
  })
  assert.equal(stubs.notes.at(-1), 'enroll asked to stop')
  assert.equal(existsSync(join(stubs.dataDir, 'endpoints.json')), false)
})

test('an enroll that cannot start leaves nothing at all', async () => {
  await using stubs = new StubGateway({ behaviour: { STUB_ENROLL: 'fail' } })
  await assert.rejects(stubs.start(), (error) => isFleetError(error, 'port_in_use'))
  assert.equal(existsSync(stubs.dataDir), false)
  assert.equal(
    stubs.notes.some((note) => note.startsWith('broker')),
    false,
  )
})

test('a child that ends without a word is named with its exit code', async () => {
  await using stubs = new StubGateway({ behaviour: { STUB_ENROLL: 'mute' } })
  await assert.rejects(stubs.start(), /enroll ended before it was ready \(exit code 7\)/)
})

test('an interrupt before the gateway is ready stops what was started', async () => {
  await using stubs = new StubGateway({
    notify: ({ name }) => {
      if (name === 'enroll') stop.abort()
    },
  })
  const stop = new AbortController()
  await assert.rejects(stubs.start(stop.signal))
  assert.equal(existsSync(join(stubs.dataDir, 'endpoints.json')), false)
  assert.equal(readFileSync(join(stubs.folder, 'notes'), 'utf8').includes('enroll asked to stop'), true)
})
