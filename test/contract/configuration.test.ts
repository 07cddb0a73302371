import assert from 'node:assert/strict'
import { test } from 'node:test'
import { configuration, estOperations } from '../../contract/configuration.ts'
import { listenersOf } from '../../contract/listeners.ts'

const refuses = (change: object, fault: RegExp): void =>
  assert.match(
    configuration
      .safeParse(change)
      .error?.issues.map((issue) => issue.message)
      .join('\n') ?? 'accepted',
    fault,
  )

test('an empty configuration is complete: only devices are served beyond this machine', () => {
  const { enroll, broker, profiles } = configuration.parse({})
  assert.deepEqual(
    [enroll.est, broker.listen, enroll.admin, enroll.feed],
    ['0.0.0.0:8443', '0.0.0.0:8883', '127.0.0.1:9443', '127.0.0.1:9444'],
  )
  assert.equal(broker.feed, enroll.feed)
  assert.deepEqual(Object.keys(profiles), ['sensor', 'camera', 'service'])
})

test('an address is a host and a port', () => {
  for (const est of ['0.0.0.0:0', '[::]:8443', '[fe80::1]:1', 'gateway.example:65535']) {
    assert.equal(configuration.parse({ enroll: { est } }).enroll.est, est)
  }
  for (const est of ['', '8443', ':8443', 'host:', 'host:x', '::1:8443', 'a b:1', 'host:123456'])
    refuses({ enroll: { est } }, /host:port/)
  refuses({ enroll: { est: 'host:65536' } }, /0 to 65535/)
})

test('an unknown key and a value out of range are refused', () => {
  refuses({ brokr: {} }, /Unrecognized key: "brokr"/)
  refuses({ enroll: { maxBodyBytes: 1 } }, />=1024/)
  refuses({ enroll: { maxBodyBytes: 1e9 } }, /<=1048576/)
  refuses({ profiles: { Sensor: {} } }, /Invalid key/)
  refuses({ profiles: { sensor: { validityDays: 4000 } } }, /<=3650/)
  refuses({ profiles: { sensor: { keyTypes: [] } } }, />=1/)
  const never = { channelBinding: 'required', evidence: ['token', 'approval'] }
  refuses({ profiles: { sensor: never } }, /none that was approved can come again/)
  refuses({ profiles: { sensor: { keyTypes: ['P-521'] } } }, /"P-256"\|"P-384"/)
  refuses({ log: { level: 'loud' } }, /"debug"\|"info"/)
  refuses({ broker: { id: '../x' } }, /./)
  refuses({ broker: { stale: { afterMs: 5_000 } } }, /silenceMs, 10000/)
})

const faultsOf = (broker: object): string[] =>
  configuration.safeParse({ broker }).error?.issues.map(({ path, message }) => `${path.join('.')}: ${message}`) ?? []

test('without listeners there is one, mqtts at broker.listen; others stand beside it, and an entry of its name is it', () => {
  const addresses = (broker: object): string[] =>
    listenersOf(configuration.parse({ broker }).broker).map((row) => `${row.name} ${row.transport} ${row.listen}`)
  assert.deepEqual(addresses({ listen: '0.0.0.0:1' }), ['mqtts mqtts 0.0.0.0:1'])
  const web = { name: 'web', transport: 'wss', listen: '0.0.0.0:2' }
  assert.deepEqual(addresses({ listen: '0.0.0.0:1', listeners: [web, { name: 'mqtts' }] }), [
    'mqtts mqtts 0.0.0.0:1',
    'web wss 0.0.0.0:2',
  ])
})

test('a listener needs a name of its own and an address', () => {
  assert.deepEqual(faultsOf({ listeners: [{ name: 'web' }] }), [
    'broker.listeners.0.listen: host:port is wanted, for example 0.0.0.0:8884',
  ])
  assert.deepEqual(faultsOf({ listeners: [{ name: 'mqtts', listen: '0.0.0.0:1', transport: 'wss' }] }), [
    'broker.listeners.0.listen: the listener mqtts is at broker.listen',
    'broker.listeners.0.transport: the listener mqtts speaks MQTT over TLS',
  ])
  const web = { name: 'web', listen: '0.0.0.0:2' }
  assert.deepEqual(faultsOf({ listeners: [web, web] }), ['broker.listeners.1.name: web stands twice'])
})

test('a label has a name that no EST operation has, and a profile that there is', () => {
  const { labels } = configuration.parse({ labels: { cameras: { profile: 'camera' }, 'Plant.7': {} } })
  assert.deepEqual(labels, { cameras: { profile: 'camera' }, 'Plant.7': {} })
  for (const name of estOperations) refuses({ labels: { [name]: {} } }, /an EST operation has this name/)
  for (const name of ['', 'a/b', '..', '-a', 'a b', 'a'.repeat(65)]) refuses({ labels: { [name]: {} } }, /Invalid key/)
  refuses({ labels: { cameras: { profile: 'cam' } } }, /no profile "cam"; known: sensor, camera, service/)
  refuses({ labels: { cameras: { profile: 'toString' } } }, /no profile "toString"/)
})

test('a handling table names states and actions that go together, or says why not', () => {
  const of = (handling: object): string[] => faultsOf({ listeners: [{ name: 'mqtts', handling }] })
  assert.deepEqual(of({ expired: 'grace(7d)', none: 'quarantine', wrong_eku: 'log-only', revoked: 'reject' }), [])
  const at = 'broker.listeners.0.handling'
  assert.deepEqual(of({ revoked: 'log-only' }), [
    `${at}.revoked: revoked can be rejected or quarantined, never log-only`,
  ])
  assert.deepEqual(of({ bad_signature: 'grace(1h)' }), [
    `${at}.bad_signature: bad_signature can be rejected or quarantined, never grace`,
  ])
  assert.deepEqual(of({ none: 'log-only' }), [
    `${at}.none: none does not say which device it is: reject or quarantine it`,
  ])
  assert.match(of({ expired: 'grace' })[0]!, /grace\(DURATION\) is wanted/)
  assert.match(of({ expird: 'reject' })[0]!, /Unrecognized key: "expird"/)
})

test('the CAs that a listener names are there, with labels of their own', () => {
  const row = { label: 'partner', file: 'partner.pem', deviceId: 'subject.CN' }
  const trusting = { name: 'mqtts', trust: ['fleetgate', 'partner'] }
  assert.deepEqual(faultsOf({ trust: [row], listeners: [trusting] }), [])
  assert.deepEqual(faultsOf({ listeners: [trusting] }), ['broker.listeners.0.trust.1: no CA partner; known: fleetgate'])
  assert.deepEqual(faultsOf({ trust: [row, row] }), ['broker.trust.1.label: partner is taken'])
  assert.deepEqual(faultsOf({ trust: [{ ...row, label: 'fleetgate' }] }), ['broker.trust.0.label: fleetgate is taken'])
})

test('what a first enrollment needs is asked for once, and a factory has to be known where it is asked for', () => {
  const gauge = { evidence: ['factory'] }
  const factory = { authorities: 'maker.pem' }
  const { labels } = configuration.parse({ profiles: { gauge }, labels: { line: { profile: 'gauge', factory } } })
  assert.deepEqual(labels.line, { profile: 'gauge', factory: { authorities: 'maker.pem', serialFrom: 'serialNumber' } })
  refuses({ profiles: { gauge }, labels: { line: { profile: 'gauge' } } }, /say under factory which are trusted/)
  refuses({ profiles: { gauge }, labels: { line: { factory } } }, /names the profile/)
  refuses(
    { profiles: { gauge: { evidence: ['claim'] } }, labels: { line: { profile: 'gauge', factory } } },
    /wants a claim/,
  )
  refuses({ profiles: { gauge: { evidence: ['factory', 'claim'] } } }, /shows one certificate/)
  refuses({ labels: { line: { profile: 'sensor', claim: { fingerprints: ['AB'] } } } }, /64 lower-case hex digits/)
  refuses({ profiles: { gauge: { evidence: [] } } }, /expected array/)
  refuses({ profiles: { gauge: { evidence: ['token', 'token'] } } }, /each may stand once/)
  refuses({ profiles: { gauge: { evidence: ['password'] } } }, /Invalid option/)
})
