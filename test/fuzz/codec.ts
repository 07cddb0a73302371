/**
 * Mutated MQTT frames against the codec: whatever the octets, only `Malformed` is thrown, what decodes encodes to a stable
 * form, cutting the stream into other chunks changes nothing, and memory stays flat.
 *
 *   node test/fuzz/codec.ts [--frames 1000000] [--seed 1]
 */
import assert from 'node:assert/strict'
import { parseArgs } from 'node:util'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { decode, encode } from '../../broker/wire/codec.ts'
import { FrameReader } from '../../broker/wire/frames.ts'
import type { Packet, Sender, Version } from '../../broker/wire/packet.ts'
import { Malformed } from '../../broker/wire/reason.ts'
import { randomOf } from '../harness/random.ts'
import { type MqttVector, mqttVectors } from '../vectors/mqtt/load.ts'

export type FuzzResult = { decoded: number; refused: Map<number, number>; heapGrowthBytes: number }

const maxBytes = 8_192
const interesting = [0x00, 0x01, 0x02, 0x03, 0x04, 0x7f, 0x80, 0xc0, 0xed, 0xff, 0x23, 0x2b, 0x2f]

function heapBytes(): number {
  setFlagsFromString('--expose-gc')
  runInNewContext('gc')()
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

/** @returns how much memory was gained between the first and the last tenth of the run, after garbage collection */
export function fuzzCodec({ frames, seed }: { frames: number; seed: number }): FuzzResult {
  const random = randomOf(seed)
  const seeds = [...mqttVectors().values()].flat().filter(({ bytes }) => bytes.length <= 400)
  const good = seeds.filter(({ packet }) => packet !== undefined)
  const refused = new Map<number, number>()
  let decoded = 0
  let heapBefore = 0
  for (let i = 0; i < frames; i++) {
    if (i === Math.floor(frames / 10)) heapBefore = heapBytes()
    // Most begin as good packets: a defect upon a defect seldom reaches the code behind the first.
    const vector = random(4) === 0 ? seeds[random(seeds.length)]! : good[random(good.length)]!
    const bytes = mutate(vector, seeds, random)
    const whole = readAll(bytes, vector, () => bytes.length)
    const parts = readAll(bytes, vector, () => 1 + random(1 + random(bytes.length)))
    try {
      assert.equal(whole.fault?.message, parts.fault?.message)
      assert.deepEqual(whole.again, parts.again)
    } catch (cause) {
      throw new Error(`${vector.name}: ${bytes.toString('hex')}`, { cause })
    }
    decoded += whole.again.length
    const { fault } = whole
    if (fault !== undefined) refused.set(fault.reason, (refused.get(fault.reason) ?? 0) + 1)
  }
  return { decoded, refused, heapGrowthBytes: heapBytes() - heapBefore }
}

/** Reads the stream to its end or first fault. @returns each packet encoded again */
function readAll(bytes: Buffer, vector: MqttVector, chunk: () => number): { again: Buffer[]; fault?: Malformed } {
  const again: Buffer[] = []
  const reader = new FrameReader(maxBytes)
  let version = vector.state === 'fresh' ? undefined : vector.version
  reader.limit(maxBytes, version === 5)
  try {
    for (let at = 0; at < bytes.length; ) {
      const end = Math.min(bytes.length, at + chunk())
      for (const { header, body } of reader.push(bytes.subarray(at, end))) {
        const packet = decode(header, body, version, vector.from)
        if (packet.type === 'connect') version = packet.version
        again.push(encodedTwice(packet, version!, vector.from))
      }
      at = end
    }
    return { again }
  } catch (fault) {
    if (!(fault instanceof Malformed)) throw new Error(`${vector.name}: ${bytes.toString('hex')}`, { cause: fault })
    return { again, fault }
  }
}

/** What was decoded can be encoded, decodes to itself and encodes to the same octets. */
function encodedTwice(packet: Packet, version: Version, from: Sender): Buffer {
  const once = encode(packet, version)
  const [frame] = new FrameReader(Number.POSITIVE_INFINITY).push(once)
  const back = decode(frame!.header, frame!.body, packet.type === 'connect' ? undefined : version, from)
  assert.deepEqual(back, packet)
  assert.ok(encode(back, version).equals(once))
  return once
}

function mutate(vector: MqttVector, seeds: readonly MqttVector[], random: (below: number) => number): Buffer {
  let bytes = Buffer.from(vector.bytes)
  for (let rounds = random(1 + random(4)); rounds >= 0; rounds--) {
    const at = random(bytes.length + 1)
    const rest = bytes.subarray(at)
    switch (random(8)) {
      case 0:
        if (at < bytes.length) bytes[at]! ^= 1 << random(8)
        break
      case 1:
        if (at < bytes.length) bytes[at] = interesting[random(interesting.length)]!
        break
      case 2:
        bytes = Buffer.concat([bytes.subarray(0, at), Buffer.from([interesting[random(interesting.length)]!]), rest])
        break
      case 3:
        bytes = Buffer.concat([bytes.subarray(0, at), rest.subarray(1 + random(4))])
        break
      case 4:
        bytes = Buffer.concat([bytes.subarray(0, at), rest.subarray(0, random(16)), rest])
        break
      case 5: {
        const other = seeds[random(seeds.length)]!.bytes
        bytes = Buffer.concat([bytes.subarray(0, at), other.subarray(random(other.length))])
        break
      }
      case 6:
        bytes = Buffer.from(bytes.subarray(0, Math.max(1, at)))
        break
      default:
        bytes = Buffer.concat([bytes, seeds[random(seeds.length)]!.bytes])
    }
  }
  // Mutations shift octets; half of the frames get their length put right, so that the body is judged and not the length.
  return random(2) === 0 ? bytes : withLength(bytes)
}

function withLength(bytes: Buffer): Buffer {
  let end = 1
  while (end < bytes.length && bytes[end]! >= 0x80) end++
  const body = bytes.subarray(end + 1)
  const length = body.length < 0x80 ? [body.length] : [(body.length & 0x7f) | 0x80, body.length >> 7]
  return Buffer.concat([bytes.subarray(0, 1), Buffer.from(length), body])
}

if (process.argv[1] === import.meta.filename) {
  const { values } = parseArgs({ options: { frames: { type: 'string' }, seed: { type: 'string' } } })
  const frames = Number(values.frames ?? 1_000_000)
  const seed = Number(values.seed ?? 1)
  const started = performance.now()
  const { decoded, refused, heapGrowthBytes } = fuzzCodec({ frames, seed })
  const seconds = (performance.now() - started) / 1_000
  console.log(`${frames} mutated inputs, seed ${seed}, ${seconds.toFixed(0)} s: ${decoded} packets decoded`)
  for (const [code, count] of [...refused].sort(([a], [b]) => a - b)) console.log(`  0x${code.toString(16)}  ${count}`)
  console.log(
    `memory after garbage collection: ${(heapGrowthBytes / 1_048_576).toFixed(1)} MiB more than after a tenth`,
  )
}
