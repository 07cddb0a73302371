/** mqtt-packet as a second opinion on good packets. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import mqttPacket, { type Packet as OraclePacket } from 'mqtt-packet'
import { encode } from '../../../broker/wire/codec.ts'
import type { Packet, Version } from '../../../broker/wire/packet.ts'
import type { Properties } from '../../../broker/wire/properties.ts'
import { connackCode } from '../../../broker/wire/reason.ts'
import { decodeOne, older, packetArbitrary, plain, withoutEmpty } from './packets.ts'

const versions = [3, 4, 5] as const

/** mqtt-packet forgets an empty user property when its name comes again. */
const hasForgettable = ({ userProperties: pairs = [] }: Properties = {}): boolean =>
  pairs.some(([name, value], i) => value === '' && pairs.some(([other], j) => other === name && i !== j))
const isComparable = (packet: Packet): boolean =>
  !('properties' in packet && hasForgettable(packet.properties)) &&
  !(packet.type === 'connect' && hasForgettable(packet.will?.properties))

/** A packet of ours in mqtt-packet's words. */
function oracleOf(packet: Packet, version: Version): OraclePacket {
  const { type, ...rest } = plain(packet) as Record<string, unknown> & { type: string }
  const words = (of: unknown): unknown => {
    const { userProperties: pairs, subscriptionIdentifiers, maximumQos, ...same } = (of ?? {}) as Properties
    const names: Record<string, unknown> = { ...same }
    if (pairs) {
      const grouped: Record<string, string[]> = Object.create(null)
      for (const [name, value] of pairs) grouped[name] = [...(grouped[name] ?? []), value]
      names.userProperties = Object.fromEntries(Object.entries(grouped).map(([k, v]) => [k, v.length === 1 ? v[0] : v]))
    }
    if (subscriptionIdentifiers) names.subscriptionIdentifier = subscriptionIdentifiers[0]
    if (maximumQos !== undefined) names.maximumQoS = maximumQos
    return names
  }
  const has5 = version === 5 && rest.properties !== undefined
  const base: Record<string, unknown> = { cmd: type, ...(has5 ? { properties: words(rest.properties) } : {}) }
  switch (packet.type) {
    case 'connect': {
      const { clean, keepAlive: keepalive, clientId, username, password, will } = packet
      const protocolId = version === 3 ? 'MQIsdp' : 'MQTT'
      Object.assign(base, { protocolId, protocolVersion: version, clean, keepalive, clientId, username, password })
      if (will) {
        const { topic, payload, qos, retain } = will
        base.will = { topic, payload, qos, retain, ...(version === 5 ? { properties: words(will.properties) } : {}) }
      }
      break
    }
    case 'connack':
      Object.assign(base, {
        sessionPresent: packet.sessionPresent,
        [version === 5 ? 'reasonCode' : 'returnCode']: version === 5 ? packet.reason : connackCode(packet.reason),
      })
      break
    case 'publish': {
      const { topic, payload, qos, retain, dup, packetId } = packet
      Object.assign(base, { topic, payload, qos, retain, dup, ...(qos > 0 ? { messageId: packetId } : {}) })
      break
    }
    case 'subscribe':
      Object.assign(base, {
        messageId: packet.packetId,
        subscriptions: packet.subscriptions.map(({ filter: topic, qos, noLocal, retainAsPublished, retainHandling }) =>
          version === 5 ? { topic, qos, nl: noLocal, rap: retainAsPublished, rh: retainHandling } : { topic, qos },
        ),
      })
      break
    case 'unsubscribe':
      Object.assign(base, { messageId: packet.packetId, unsubscriptions: packet.filters })
      break
    case 'suback':
      Object.assign(base, { messageId: packet.packetId, granted: packet.reasons })
      break
    case 'unsuback':
      Object.assign(base, { messageId: packet.packetId, ...(version === 5 ? { granted: packet.reasons } : {}) })
      break
    case 'pingreq':
    case 'pingresp':
      break
    default: {
      const isAck = 'packetId' in packet
      Object.assign(
        base,
        isAck ? { messageId: packet.packetId } : {},
        version === 5 ? { reasonCode: packet.reason } : {},
      )
    }
  }
  return base as unknown as OraclePacket
}

const inKeyOrder = (value: unknown): unknown =>
  value === null || typeof value !== 'object' || Buffer.isBuffer(value)
    ? value
    : Array.isArray(value)
      ? value.map(inKeyOrder)
      : Object.fromEntries(
          Object.entries(value)
            .filter(([, of]) => of !== undefined && of !== null)
            .sort(([a], [b]) => (a < b ? -1 : 1))
            .map(([key, of]) => [key, inKeyOrder(of)]),
        )

function oracleDecode(bytes: Buffer, version: Version): OraclePacket {
  const parser = mqttPacket.parser({ protocolVersion: version })
  const packets: OraclePacket[] = []
  parser.on('packet', (packet) => packets.push(packet))
  parser.on('error', (error) => assert.fail(`mqtt-packet: ${error.message}`))
  parser.parse(bytes)
  assert.equal(packets.length, 1)
  return packets[0]!
}

/** The fields that both know, in the same form. */
function comparable(packet: OraclePacket): unknown {
  const { length: _, bridgeMode: __, ...rest } = packet as unknown as Record<string, unknown>
  const of = rest as Record<string, unknown> & { qos?: number; dup?: boolean; retain?: boolean }
  // mqtt-packet notes the fixed header's flags on every packet.
  if (of.cmd !== 'publish') for (const key of ['qos', 'dup', 'retain', 'topic', 'payload']) delete of[key]
  if (Buffer.isBuffer(of.granted)) of.granted = [...of.granted]
  if (of.cmd === 'unsuback' && Array.isArray(of.granted) && of.granted.length === 0) delete of.granted
  if (of.properties && Object.keys(of.properties).length === 0) delete of.properties
  const will = of.will as { properties?: object } | undefined
  if (will?.properties && Object.keys(will.properties).length === 0) delete will.properties
  return inKeyOrder(of)
}

for (const version of versions) {
  test(`mqtt-packet reads what is encoded in version ${version} as what was meant`, () => {
    fc.assert(
      fc.property(packetArbitrary, (sent) => {
        const expected = version === 5 ? sent[1] : older(sent, version)
        if (expected === undefined || !isComparable(expected)) return
        const oracle = oracleOf(withoutEmpty(expected), version)
        assert.deepEqual(comparable(oracleDecode(encode(sent[1], version), version)), comparable(oracle))
      }),
      { numRuns: 600 },
    )
  })

  test(`what mqtt-packet writes in version ${version} decodes to what was meant`, () => {
    fc.assert(
      fc.property(packetArbitrary, (sent) => {
        const expected = version === 5 ? sent[1] : older(sent, version)
        if (expected === undefined || !isComparable(expected)) return
        const oracle = oracleOf(withoutEmpty(expected), version)
        const bytes = mqttPacket.generate(oracle, { protocolVersion: version })
        const back = decodeOne(bytes, expected.type === 'connect' ? undefined : version, sent[0])
        assert.deepEqual(comparable(oracleOf(back, version)), comparable(oracle))
      }),
      { numRuns: 600 },
    )
  })
}
