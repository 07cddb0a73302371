import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  clientIdBelongsTo,
  type DeviceId,
  isDeviceId,
  isFingerprint,
  isGroupName,
  isProfileName,
  isSerialNumber,
  revocationReasons,
} from '../../contract/ids.ts'

const hostile = [
  '',
  '.',
  '..',
  '.hidden',
  '-option',
  '_x',
  '__proto__',
  'a b',
  'a/b',
  'a+',
  'a#',
  '$SYS',
  'a:b',
  'a\u0000',
  'a\n',
  '\na',
  'ä',
  'a\u200b',
  '\ud800',
  'a'.repeat(65),
]

test('a device id and a group name are letters, digits and . _ -, the first a letter or digit, 64 at most', () => {
  for (const accepted of ['a', '0', 'cam-1', 'A.b_c-9', '00-1a-2b-3c-4d-5e', 'a'.repeat(64)]) {
    assert.ok(isDeviceId(accepted) && isGroupName(accepted), accepted)
  }
  for (const refused of hostile) assert.ok(!isDeviceId(refused) && !isGroupName(refused), JSON.stringify(refused))
})

test('a profile name is lower case, begins with a letter and has 32 characters at most', () => {
  for (const accepted of ['a', 'camera', 'edge-2', 'a'.repeat(32)]) assert.ok(isProfileName(accepted), accepted)
  for (const refused of [...hostile, 'Camera', '2camera', 'cam_era', 'a'.repeat(33)])
    assert.ok(!isProfileName(refused), refused)
})

test('a serial number is 1 to 20 octets of lower-case hex without a leading zero octet (RFC 5280 4.1.2.2)', () => {
  for (const accepted of ['01', '7f', '80', '0100', 'ab'.repeat(20)]) assert.ok(isSerialNumber(accepted), accepted)
  for (const refused of ['', '0', '1', '00', '0001', 'AB', 'abc', '0x01', 'ab'.repeat(21), '01\n']) {
    assert.ok(!isSerialNumber(refused), JSON.stringify(refused))
  }
})

test('a fingerprint is 64 lower-case hex digits', () => {
  assert.ok(isFingerprint('a0'.repeat(32)))
  for (const refused of ['a0'.repeat(31), 'A0'.repeat(32), `${'a0'.repeat(32)}\n`, `a0:${'a0'.repeat(31)}`]) {
    assert.ok(!isFingerprint(refused), JSON.stringify(refused))
  }
})

test('a client id is the device id, or the device id, a colon and up to 64 characters more', () => {
  const device = 'cam-1' as DeviceId
  for (const own of ['cam-1', 'cam-1:', 'cam-1:a', 'cam-1:a:b', `cam-1:${'x'.repeat(64)}`])
    assert.ok(clientIdBelongsTo(own, device), own)
  for (const foreign of [
    '',
    'cam',
    'cam-',
    'cam-10',
    'cam-1x',
    'cam-1.a',
    'CAM-1',
    ' cam-1',
    'cam-2:cam-1',
    `cam-1:${'x'.repeat(65)}`,
  ]) {
    assert.ok(!clientIdBelongsTo(foreign, device), foreign)
  }
})

test('a suffix of control characters is nobody\u2019s', () => {
  for (const text of ['\u0000', '\n', '\u202e', '\u009b'])
    assert.equal(clientIdBelongsTo(`cam-1:a${text}`, 'cam-1' as DeviceId), false)
})

test('no client id belongs to two devices', () => {
  const devices = ['a', 'a-1', 'a.b', 'ab', 'b'] as DeviceId[]
  for (const id of devices.flatMap((device) => [device, `${device}:`, `${device}:b`, `${device}:a-1`])) {
    assert.equal(devices.filter((device) => clientIdBelongsTo(id, device)).length, 1, id)
  }
})

test('only reasons that end a certificate for good can be given (RFC 5280 5.3.1)', () => {
  assert.equal(revocationReasons.length, 8)
  assert.ok(!revocationReasons.some((reason) => ['certificateHold', 'removeFromCRL'].includes(reason)))
})
