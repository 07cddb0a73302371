import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { joinAddress, loadConfig, splitAddress } from '../../runtime/config.ts'
import { isFleetError } from '../../runtime/errors.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-config-'))
after(() => rmSync(folder, { recursive: true }))

function file(text: string): string {
  const path = join(folder, `${Math.random()}.yaml`)
  writeFileSync(path, text)
  return path
}

const fault = (input: Parameters<typeof loadConfig>[0]): string => {
  try {
    loadConfig({ env: {}, ...input })
  } catch (error) {
    assert.ok(isFleetError(error, 'config_invalid'), String(error))
    return error.message
  }
  return 'accepted'
}

test('without anything the defaults stand', () => {
  assert.equal(loadConfig({ env: {} }).broker.listen, '0.0.0.0:8883')
})

test('the environment goes over the file, and a flag over both', () => {
  const path = file('data: /file\nbroker: { listen: "127.0.0.1:1", id: from-file }\nlog: { level: warn }\n')
  const env = { FLEETGATE_DATA: '/env', FLEETGATE_BROKER__LISTEN: '127.0.0.1:2' }
  const config = loadConfig({ file: path, env, flags: { data: '/flag', 'log.level': undefined } })
  assert.deepEqual(
    [config.data, config.broker.listen, config.broker.id, config.log.level],
    ['/flag', '127.0.0.1:2', 'from-file', 'warn'],
  )
})

test('a name in the environment is the key in capitals, with or without _ between its words', () => {
  assert.equal(loadConfig({ env: { FLEETGATE_ENROLL__MAX_BODY_BYTES: '2048' } }).enroll.maxBodyBytes, 2048)
  assert.equal(loadConfig({ env: { FLEETGATE_ENROLL__MAXBODYBYTES: '2048' } }).enroll.maxBodyBytes, 2048)
  assert.equal(
    loadConfig({ env: { FLEETGATE_KEYS__PASSPHRASE_FILE: '/run/secret' } }).keys.passphraseFile,
    '/run/secret',
  )
})

test('a list in the environment is parted by commas', () => {
  assert.deepEqual(loadConfig({ env: { FLEETGATE_NAMES: 'a.example, 192.0.2.1' } }).names, ['a.example', '192.0.2.1'])
})

test('a switch in the environment is true or false', () => {
  const set = (value: string) => ({ env: { FLEETGATE_BROKER__EVENTS__ENABLED: value } })
  assert.equal(loadConfig(set('false')).broker.events.enabled, false)
  assert.equal(loadConfig(set('true')).broker.events.enabled, true)
  assert.match(fault(set('no')), /^broker\.events\.enabled: .*expected boolean/)
})

test('text that looks like a number stays text where text is wanted', () => {
  assert.equal(loadConfig({ env: { FLEETGATE_DATA: '12' } }).data, '12')
})

test('other variables are not looked at', () => {
  assert.equal(loadConfig({ env: { FLEETGATED: '1', fleetgate_data: '/x', HOME: '/root' } }).data, './data')
})

test('a fault in the file is told with line, column and key', () => {
  const path = file('data: ./x\nbroker:\n  listen: nowhere\n  id: b\nenrol: {}\n')
  const lines = fault({ file: path }).split('\n')
  assert.equal(lines.length, 2)
  assert.ok(lines.includes(`${path}:3:3: broker.listen: host:port is wanted, for example 0.0.0.0:8883`), lines.join())
  assert.ok(
    lines.includes(
      `${path}:5:1: Unrecognized key: "enrol"; known here: data, names, keys, log, profiles, labels, enroll, broker`,
    ),
    lines.join(),
  )
})

test('a file that is not YAML, holds a key twice, is missing, or is a list is refused by name', () => {
  assert.match(fault({ file: file('a: [') }), /\.yaml:1:\d+: /)
  assert.match(fault({ file: file('data: a\ndata: b\n') }), /\.yaml:2:1: Map keys must be unique/)
  assert.match(fault({ file: join(folder, 'absent.yaml') }), /absent\.yaml cannot be read: there is no such file/)
  assert.match(fault({ file: file('- a\n') }), /expected object/)
})

test('an empty file is the defaults', () => {
  assert.equal(loadConfig({ file: file('# nothing yet\n'), env: {} }).data, './data')
})

test('an unknown variable is refused with the names that exist there', () => {
  assert.match(
    fault({ env: { FLEETGATE_BROKR__LISTEN: 'x' } }),
    /^FLEETGATE_BROKR__LISTEN: no such setting; known here: data, names/,
  )
  assert.match(fault({ env: { FLEETGATE_BROKER__PORT: '1' } }), /known here: id, listen, feed/)
  assert.match(fault({ env: { FLEETGATE_PROFILES__SENSOR: '1' } }), /profiles is set as a whole, in the file/)
  assert.match(fault({ env: { FLEETGATE_DATA__X: '1' } }), /data is set as a whole/)
  assert.match(fault({ env: { FLEETGATE___PROTO__: '1' } }), /no such setting/)
})

test('a wrong value in the environment or a flag is told with its key and what is wanted', () => {
  assert.match(fault({ env: { FLEETGATE_ENROLL__MAX_BODY_BYTES: 'many' } }), /^enroll\.maxBodyBytes: .*expected number/)
  assert.match(fault({ env: { FLEETGATE_ENROLL__MAX_BODY_BYTES: '1' } }), /^enroll\.maxBodyBytes: .*>=1024/)
  assert.match(fault({ env: { FLEETGATE_BROKER__LISTEN: 'x:99999' } }), /^broker\.listen: a port is/)
  assert.match(fault({ flags: { 'log.level': 'loud' } }), /^log\.level: /)
})

test('__proto__ in the file is an unknown key like any other', () => {
  assert.match(fault({ file: file('__proto__: { data: /x }\n') }), /Unrecognized key|accepted/)
  assert.equal(loadConfig({ env: {} }).data, './data')
})

test('an address is split and joined, IPv6 in brackets', () => {
  for (const [text, host, port] of [
    ['0.0.0.0:8883', '0.0.0.0', 8883],
    ['[::1]:0', '::1', 0],
    ['a.example:1', 'a.example', 1],
  ] as const) {
    assert.deepEqual(splitAddress(text), { host, port })
    assert.equal(joinAddress(host, port), text)
  }
})
