/**
 * SIGKILL in the middle of everything, again and again: publishers and subscribers of versions 4 and 5, sessions that are
 * there and sessions that are not, QoS 2 half-way in both directions, wills, retained messages, and a clock that jumps.
 *
 *   npm run crash -- [--rounds N] [--seed N]
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect as connectTls } from 'node:tls'
import { parseArgs } from 'node:util'
import type { Will } from '../../broker/wire/packet.ts'
import { reason } from '../../broker/wire/reason.ts'
import { BrokerHarness, parsePolicy, type TestDevice } from '../harness/broker.ts'
import { startBrokerProcess } from '../harness/broker-process.ts'
import { randomOf } from '../harness/random.ts'
import { connectPacket, RawClient } from '../harness/raw-mqtt.ts'
import { Publisher, propertiesOf, type Seen, Subscriber, type World } from './clients.ts'

/** A will may be published only for the name in its certificate, also by a broker that never saw the connection. */
export const policy = parsePolicy(`
policies:
  - { name: all, match: { profile: service }, allow: { publish: ["#"], subscribe: ["#"] } }
  - { name: wills, match: { profile: sensor }, allow: { publish: ["wills/\${subject.OU}/#"] } }
`)
const willDelayMs = 100_000
const roomy = { maxConnectionsPerDevice: 1_000, maxStoredBytesPerDevice: 1_000_000_000, maxQueuedMessages: 1_000_000 }

type Report = { rounds: number; published: number; delivered: number; met: Map<string, number> }

/** @param harness its own broker is stopped, and started again at the end */
export async function killAgainAndAgain(
  harness: BrokerHarness,
  options: { rounds: number; seed: number },
): Promise<Report> {
  const { rounds, seed } = options
  const below = randomOf(seed)
  const service = await harness.device('service', { profile: 'service' })
  const mortal = await harness.device('mortal', { organizationalUnits: ['plant'] })
  await harness.stopBroker()

  let skewMs = 0
  let port = 0
  let ticksLeft = Number.POSITIVE_INFINITY
  let toJoin = 0
  let kill = (): void => {}
  const met = new Map<string, number>()
  const now = (): number => Date.now() + skewMs
  const dialAs = async (device: TestDevice, version: 4 | 5): Promise<RawClient> => {
    const socket = connectTls({ ...harness.tlsOptions(device), port })
    socket.on('error', () => {})
    await once(socket, 'secureConnect')
    return RawClient.over(socket, version)
  }
  const world: World = {
    dial: (_clientId, version) => dialAs(service, version as 4 | 5),
    now,
    joined: () => {
      toJoin--
    },
    // Killed while one of them still waits for its CONNACK, the broker would have shown nothing of that session.
    tick: () => {
      if (toJoin <= 0 && --ticksLeft === 0) kill()
    },
    below,
    count: (what) => met.set(what, (met.get(what) ?? 0) + 1),
  }

  const publishers = [
    new Publisher('service:p4', 4, world),
    new Publisher('service:p5', 5, world),
    new Publisher('service:p5-2', 5, world),
  ]
  const rest = [
    ['retained/#', 2],
    ['wills/#', 2],
  ] satisfies [string, 2][]
  const present = [
    new Subscriber('service:live-4', 4, [['t/#', 2], ...rest], world),
    new Subscriber('service:live-5', 5, [['t/#', 2, 7], ['t/+/a', 1, 8], ...rest], world),
    new Subscriber('service:live-1', 5, [['t/#', 1, 9], ...rest], world),
  ]
  const absent = [
    new Subscriber('service:absent-4', 4, [['t/#', 2], ...rest], world),
    new Subscriber('service:absent-5', 5, [['t/#', 2, 7], ['t/+/a', 1, 8], ...rest], world),
  ]
  /** When each delayed will was left. */
  const wills = new Map<string, number>()

  for (let round = 0; round < rounds; round++) {
    const broker = await startBrokerProcess(harness, { broker: roomy, skewMs })
    port = broker.port
    const exited = once(broker.child, 'exit')
    if (round === 0) for (const one of [...present, ...absent]) await one.begin()
    await checkRetained(await dialAs(service, 5), publishers)
    for (const version of [4, 5] as const) await leaveWill(await dialAs(mortal, version), version, round)
    wills.set(`delayed-${round}`, Number.POSITIVE_INFINITY)
    // A crash ends a connection when the broker is back: one round later the shorter of two intervals is over.
    if (round % 2 === 0) {
      const seconds = round % 4 === 0 ? 50 : 1_000_000
      const isPresent = await openSession(await dialAs(service, 5), 'service:comes-and-goes', seconds)
      assert.equal(isPresent, round > 0 && round % 4 === 0, 'a session lasts as long as its client said')
    }
    kill = () => broker.child.kill('SIGKILL')
    ticksLeft = 200 + below(600)
    const there = round % 3 === 2 ? [...present, ...absent] : present
    toJoin = publishers.length + there.length
    await Promise.all([...publishers, ...there].map((one) => one.run()))
    await exited
    wills.set(`delayed-${round}`, now() + willDelayMs)
    skewMs += 60_000
  }

  // The delay of the last wills begins when the broker is back; that it goes down again does not begin it anew.
  const brief = await startBrokerProcess(harness, { broker: roomy, skewMs })
  brief.child.kill('SIGKILL')
  await once(brief.child, 'exit')
  ticksLeft = Number.POSITIVE_INFINITY
  skewMs += 2 * willDelayMs
  const broker = await startBrokerProcess(harness, { broker: roomy, skewMs })
  port = broker.port
  const everybody = [...present, ...absent]
  const reading = Promise.all(everybody.map((one) => one.run(true)))
  for (const publisher of publishers) await publisher.finish()
  const last = await lastWord(await dialAs(service, 5))
  for (const one of everybody) {
    await one.until(() => one.messages.some(({ told }) => told.from === last))
    for (let round = 0; round < rounds; round++) {
      await one.until(() => one.messages.some(({ packet }) => packet.topic === `wills/plant/delayed-${round}`))
      await one.until(() => one.messages.some(({ packet }) => packet.topic === `wills/plant/at-once-${round}`))
    }
  }
  await checkRetained(await dialAs(service, 5), publishers)
  for (const one of everybody) one.leave()
  await reading
  const exited = once(broker.child, 'exit')
  broker.child.kill('SIGTERM')
  await exited
  await harness.startBroker()

  for (const one of everybody) {
    checkComplete(one, publishers)
    checkOrder(one)
    for (const seen of one.messages) checkMessage(one, seen, wills)
  }
  const delivered = everybody.reduce((sum, { messages }) => sum + messages.length, 0)
  return { rounds, published: publishers.reduce((sum, { seq }) => sum + seq, 0), delivered, met }
}

async function leaveWill(client: RawClient, version: 4 | 5, round: number): Promise<void> {
  const name = version === 4 ? `at-once-${round}` : `delayed-${round}`
  const will: Will = {
    topic: `wills/plant/${name}`,
    payload: Buffer.from(JSON.stringify({ from: name, seq: round, attempt: 0, qos: 1 })),
    qos: 1,
    retain: false,
    ...(version === 4
      ? {}
      : {
          properties: {
            ...propertiesOf(name, round),
            willDelayInterval: willDelayMs / 1_000,
            messageExpiryInterval: 1_000_000,
          },
        }),
  }
  const session = version === 4 ? {} : { properties: { sessionExpiryInterval: 1_000_000 } }
  client.send(connectPacket(version, { clientId: `mortal:${name}`, will, ...session }))
  await client.expect('connack', { reason: reason.success })
}

/** @returns whether there was a session to go on with */
async function openSession(client: RawClient, clientId: string, seconds: number): Promise<boolean> {
  client.send(connectPacket(5, { clientId, clean: false, properties: { sessionExpiryInterval: seconds } }))
  return (await client.expect('connack', { reason: reason.success })).sessionPresent
}

/** @returns who it is from */
async function lastWord(client: RawClient): Promise<string> {
  const from = 'the last one'
  client.send(connectPacket(5, { clientId: 'service:last' }))
  await client.expect('connack', { reason: reason.success })
  const payload = Buffer.from(JSON.stringify({ from, seq: 0, attempt: 0, qos: 1 }))
  client.send({ type: 'publish', topic: 't/last/b', payload, qos: 1, retain: false, dup: false, packetId: 1 })
  await client.expect('puback', { reason: reason.success })
  client.socket.destroy()
  return from
}

/** What was acknowledged is retained, or something newer. */
async function checkRetained(client: RawClient, publishers: readonly Publisher[]): Promise<void> {
  client.send(connectPacket(5, { clientId: 'service:observer' }))
  await client.expect('connack', { reason: reason.success })
  const wanted = new Map(publishers.flatMap(({ retained }) => [...retained]))
  const subscription = {
    filter: 'retained/#',
    qos: 2,
    noLocal: false,
    retainAsPublished: true,
    retainHandling: 0,
  } as const
  const properties = { subscriptionIdentifiers: [5] }
  client.send({ type: 'subscribe', packetId: 1, subscriptions: [subscription], properties })
  await client.expect('suback', { reasons: [2] })
  while (wanted.size > 0) {
    const packet = await client.next()
    assert.ok(packet, 'the broker lives while what is retained is read')
    if (packet.type !== 'publish') continue
    const { topic, payload, retain, packetId, qos } = packet
    const { from, seq } = JSON.parse(payload.toString())
    assert.ok(retain && seq >= (wanted.get(topic) ?? 0), `${topic} has ${seq}, ${wanted.get(topic)} was acknowledged`)
    checkProperties(packet.properties, from.endsWith('p4') ? undefined : propertiesOf(from, seq), [5])
    wanted.delete(topic)
    client.send({ type: qos === 1 ? 'puback' : 'pubrec', packetId, reason: reason.success })
  }
  client.socket.destroy()
}

/** Every message of every publisher was acknowledged by the end, so everybody has each; those that expired perhaps. */
function checkComplete(subscriber: Subscriber, publishers: readonly Publisher[]): void {
  const has = new Set(subscriber.messages.map(({ told }) => `${told.from} ${told.seq}`))
  for (const { id, seq } of publishers) {
    for (let n = 0; n < seq; n++) {
      const mayExpire = id !== 'service:p4' && n % 8 === 1
      assert.ok(mayExpire || has.has(`${id} ${n}`), `${subscriber.id} never got ${id} ${n}`)
    }
  }
}

/** [MQTT-4.6.0-6]: by topic and publisher, the first of each message comes in the order of publishing. */
function checkOrder({ id, messages }: Subscriber): void {
  const newest = new Map<string, number>()
  const known = new Set<string>()
  for (const { packet, told } of messages) {
    const name = `${told.from} ${told.seq}`
    // What is published again is in its old place only where the first one did not expire.
    if (known.has(name) || (told.attempt > 0 && told.deadline !== undefined)) continue
    known.add(name)
    const line = `${packet.topic} ${told.from}`
    assert.ok(told.seq >= (newest.get(line) ?? -1), `${id}: ${name} came behind ${newest.get(line)}`)
    newest.set(line, told.seq)
  }
}

function checkMessage({ id, version }: Subscriber, { packet, told, at }: Seen, wills: Map<string, number>): void {
  const { topic, properties, dup } = packet
  const name = `${id}: ${told.from} ${told.seq}`
  const dueAt = wills.get(told.from)
  if (dueAt !== undefined) assert.ok(at >= dueAt - 1_000, `${name} came ${dueAt - at} ms before its delay was over`)
  if (told.from === 'the last one') assert.equal(dup, false, 'what never went out before is not marked so')
  if (version < 5) return
  const isBare = told.from === 'service:p4' || told.from.startsWith('at-once') || told.from === 'the last one'
  const isOverlap = id.endsWith('-5') && topic.startsWith('t/') && topic.endsWith('/a')
  const identifiers = topic.startsWith('t/') ? (id.endsWith('live-1') ? [9] : isOverlap ? [7, 8] : [7]) : undefined
  checkProperties(properties, isBare ? undefined : propertiesOf(told.from, told.seq), identifiers)
  const secondsLeft = properties?.messageExpiryInterval
  if (dueAt !== undefined) assert.ok(secondsLeft! <= 1_000_000, `${name} has ${secondsLeft} s left`)
  if (told.deadline === undefined) return
  const wanted = (told.deadline - at) / 1_000
  // One whose delivery had begun before it expired is delivered to its end [MQTT-3.3.2-5].
  if (wanted < -2) assert.ok(dup, `${name} came ${-wanted} s after it had expired`)
  else assert.ok(Math.abs(secondsLeft! - wanted) < 3, `${name} has ${secondsLeft} s left, not ${wanted}`)
}

function checkProperties(
  seen: object | undefined,
  wanted: object | undefined,
  identifiers: number[] | undefined,
): void {
  const {
    messageExpiryInterval: _,
    subscriptionIdentifiers,
    ...rest
  } = { subscriptionIdentifiers: undefined, ...seen } as {
    messageExpiryInterval?: number
    subscriptionIdentifiers?: number[] | undefined
  }
  assert.deepEqual(rest, wanted ?? {})
  assert.deepEqual(subscriptionIdentifiers, identifiers)
}

if (process.argv[1] === import.meta.filename) {
  const { values } = parseArgs({ options: { rounds: { type: 'string' }, seed: { type: 'string' } } })
  const rounds = Number(values.rounds ?? 20)
  const seed = Number(values.seed ?? 1)
  const started = performance.now()
  await using harness = await BrokerHarness.start({ policy })
  const { published, delivered, met } = await killAgainAndAgain(harness, { rounds, seed })
  const seconds = (performance.now() - started) / 1_000
  console.log(
    `${rounds} times SIGKILL, seed ${seed}, ${seconds.toFixed(0)} s: ${published} published, ${delivered} delivered`,
  )
  for (const [what, count] of [...met].sort()) console.log(`  ${what}  ${count}`)
}
