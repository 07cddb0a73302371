/**
 * PUBLISH packets a second through the codec, and beside it in the same run and in turns through mqtt-packet, which checks
 * less: no UTF-8, no control characters, no topic levels. Decoding goes from chunks of 64 KiB as a socket gives them.
 *
 *   npm run bench -- codec [rounds]
 */
import mqttPacket from 'mqtt-packet'
import { decode, encode } from '../broker/wire/codec.ts'
import { FrameReader } from '../broker/wire/frames.ts'
import type { Publish, Version } from '../broker/wire/packet.ts'
import { note, percentile } from './figures.ts'

const rounds = Number(process.argv[2] ?? 30)
const packets = 20_000
const chunkBytes = 65_536

type Case = { name: string; version: Version; packet: Publish }
const topic = 'devices/sensor-42/telemetry/temperature'
const payload = Buffer.from('{"celsius":21.5,"at":"2026-01-01T00:00:00Z"}')
const qos0: Publish = { type: 'publish', topic, payload, qos: 0, retain: false, dup: false, packetId: 0 }
const cases: Case[] = [
  { name: 'QoS 0, version 4', version: 4, packet: qos0 },
  { name: 'QoS 0, version 5', version: 5, packet: qos0 },
  {
    name: 'QoS 0, version 5, 3 properties',
    version: 5,
    packet: {
      ...qos0,
      properties: {
        messageExpiryInterval: 60,
        contentType: 'application/json',
        userProperties: [['trace', '4bf92f3577b34da6']],
      },
    },
  },
  { name: 'QoS 1, version 4', version: 4, packet: { ...qos0, qos: 1, packetId: 7 } },
]

/** @returns packets a second */
function rate(work: () => number): number {
  const started = performance.now()
  const done = work()
  return (done * 1_000) / (performance.now() - started)
}

function chunksOf(frame: Buffer): Buffer[] {
  const stream = Buffer.concat(Array.from({ length: packets }, () => frame))
  const chunks: Buffer[] = []
  for (let at = 0; at < stream.length; at += chunkBytes) chunks.push(stream.subarray(at, at + chunkBytes))
  return chunks
}

function decodeOurs(chunks: readonly Buffer[], version: Version): number {
  const reader = new FrameReader(chunkBytes)
  let octets = 0
  let count = 0
  for (const chunk of chunks) {
    for (const { header, body } of reader.push(chunk)) {
      const packet = decode(header, body, version)
      if (packet.type === 'publish') octets += packet.topic.length + packet.payload.length
      count++
    }
  }
  return octets > 0 ? count : 0
}

function decodeTheirs(chunks: readonly Buffer[], version: Version): number {
  const parser = mqttPacket.parser({ protocolVersion: version })
  let octets = 0
  let count = 0
  parser.on('packet', (packet) => {
    if (packet.cmd === 'publish') octets += packet.topic.length + packet.payload.length
    count++
  })
  for (const chunk of chunks) parser.parse(chunk)
  return octets > 0 ? count : 0
}

function encodeOurs(packet: Publish, version: Version): number {
  let octets = 0
  for (let i = 0; i < packets; i++) octets += encode(packet, version).length
  return octets > 0 ? packets : 0
}

function encodeTheirs({ packet, version }: Case): number {
  const { userProperties, ...rest } = packet.properties ?? {}
  const properties = packet.properties && { ...rest, userProperties: Object.fromEntries(userProperties ?? []) }
  const theirs = { cmd: 'publish' as const, ...packet, messageId: packet.packetId, ...(properties && { properties }) }
  const options = { protocolVersion: version }
  let octets = 0
  for (let i = 0; i < packets; i++) octets += mqttPacket.generate(theirs as never, options).length
  return octets > 0 ? packets : 0
}

const thousands = (perSecond: number): string => `${Math.round(perSecond / 1_000)}k/s`.padStart(12)
const heading = ['ours p50', 'mqtt-packet', 'ratio'].map((name) => name.padStart(12)).join('')
console.log(
  `${packets} packets a round, ${rounds} rounds in turns, topic of ${topic.length}, payload of ${payload.length}\n`,
)
console.log(`${''.padEnd(44)}${heading}`)
for (const each of cases) {
  const { name, version, packet } = each
  const chunks = chunksOf(encode(packet, version))
  const figures: [string, () => number, () => number][] = [
    ['decode', () => decodeOurs(chunks, version), () => decodeTheirs(chunks, version)],
    ['encode', () => encodeOurs(packet, version), () => encodeTheirs(each)],
  ]
  for (const [verb, ours, theirs] of figures) {
    const samples: [number[], number[]] = [[], []]
    for (let round = -3; round < rounds; round++) {
      const [mine, other] = [rate(ours), rate(theirs)]
      if (round < 0) continue
      samples[0].push(mine)
      samples[1].push(other)
    }
    const [mine, other] = [percentile(samples[0], 50), percentile(samples[1], 50)]
    note({ what: `${verb} PUBLISH ${name}`, measured: `${(mine / other).toFixed(2)}x mqtt-packet` })
    console.log(
      `${`${verb} PUBLISH ${name}`.padEnd(44)}${thousands(mine)}${thousands(other)}${`${(mine / other).toFixed(2)}x`.padStart(12)}`,
    )
  }
}
