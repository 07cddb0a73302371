import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  connackCode,
  isRefusal,
  Malformed,
  mayCarry,
  type ReasonCarrier,
  reason,
  reasonName,
  reasonOfConnackCode,
  subackCode,
} from '../../../broker/wire/reason.ts'

const everyCode = Array.from({ length: 256 }, (_, code) => code)
const carried = (carrier: ReasonCarrier): number[] => everyCode.filter((code) => mayCarry(carrier, code))

test('every reason has a code of its own', () => {
  assert.equal(new Set(Object.values(reason)).size, Object.keys(reason).length)
  for (const [name, code] of Object.entries(reason)) assert.equal(reasonName(code), name)
  assert.equal(reasonName(0x03), undefined)
})

test('a packet carries the codes of its table and no other', () => {
  assert.deepEqual(
    carried('connack'),
    [
      0, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97, 0x99, 0x9a, 0x9b,
      0x9c, 0x9d, 0x9f,
    ],
  ) // table 3-1
  assert.deepEqual(carried('puback'), [0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]) // table 3-4
  assert.deepEqual(carried('pubrec'), carried('puback')) // table 3-5
  assert.deepEqual(carried('pubrel'), [0, 0x92]) // table 3-6
  assert.deepEqual(carried('pubcomp'), [0, 0x92]) // table 3-7
  assert.deepEqual(carried('suback'), [0, 1, 2, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2]) // table 3-8
  assert.deepEqual(carried('unsuback'), [0, 0x11, 0x80, 0x83, 0x87, 0x8f, 0x91]) // table 3-9
  assert.deepEqual(
    carried('clientDisconnect'),
    [0, 4, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99],
  ) // table 3-10
  assert.deepEqual(
    carried('serverDisconnect'),
    [
      0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a,
      0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2,
    ],
  )
  assert.deepEqual(carried('clientAuth'), [0x18, 0x19]) // table 3-11
  assert.deepEqual(carried('serverAuth'), [0, 0x18])
})

test('an older version hears a refusal in its own code, or the connection is closed', () => {
  const told = everyCode.flatMap((code) => (connackCode(code) === undefined ? [] : [[code, connackCode(code)]]))
  assert.deepEqual(told, [
    [0x00, 0],
    [0x80, 3],
    [0x83, 3],
    [0x84, 1],
    [0x85, 2],
    [0x86, 4],
    [0x87, 5],
    [0x88, 3],
    [0x89, 3],
    [0x8a, 5],
    [0x97, 3],
    [0x9a, 5],
    [0x9b, 5],
    [0x9c, 3],
    [0x9d, 3],
    [0x9f, 3],
  ])
  // [MQTT-3.1.4-1] of 3.1.1: what is not a CONNECT is closed without a CONNACK.
  assert.equal(connackCode(reason.malformedPacket), undefined)
  assert.equal(connackCode(reason.protocolError), undefined)
})

test('each return code of an older version means a reason that maps back to it', () => {
  for (const code of [0, 1, 2, 3, 4, 5]) assert.equal(connackCode(reasonOfConnackCode(code)!), code)
  assert.equal(reasonOfConnackCode(6), undefined)
})

test('an older SUBACK grants a QoS or says 0x80', () => {
  assert.deepEqual([0, 1, 2, reason.notAuthorized, reason.topicFilterInvalid].map(subackCode), [0, 1, 2, 0x80, 0x80])
})

test('codes from 0x80 on are refusals', () => {
  assert.equal(isRefusal(reason.noSubscriptionExisted), false)
  assert.equal(isRefusal(reason.unspecifiedError), true)
})

test('Malformed is a problem of the registry: too large, over what was announced, or a broken protocol', () => {
  assert.equal(new Malformed(reason.packetTooLarge, 'x').code, 'packet_too_large')
  assert.equal(new Malformed(reason.qosNotSupported, 'x').code, 'qos_denied')
  assert.equal(new Malformed(reason.retainNotSupported, 'x').code, 'retain_denied')
  assert.equal(new Malformed(reason.topicNameInvalid, 'x').code, 'protocol_violation')
  assert.equal(new Malformed(reason.protocolError, 'x').version, undefined)
})
