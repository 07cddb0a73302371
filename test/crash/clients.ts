/** MQTT clients that keep their session state as the specification asks, say what they saw, and leave much undone. */
import assert from 'node:assert/strict'
import type { Connect, Publish, Subscription, Version } from '../../broker/wire/packet.ts'
import type { Properties } from '../../broker/wire/properties.ts'
import { reason } from '../../broker/wire/reason.ts'
import { connectPacket, publishPacket, type RawClient } from '../harness/raw-mqtt.ts'

export type World = {
  dial(clientId: string, version: Version): Promise<RawClient>
  /** Milliseconds of the broker's clock. */
  now(): number
  /** A connection has its CONNACK. */
  joined(): void
  /** Something happened: the broker may be killed for it. */
  tick(): void
  /** A whole number from 0 on. */
  below(limit: number): number
  /** How often each state was met that a crash has to leave as it is. */
  count(what: string): void
}

/** Sessions outlive whatever the clock does. */
const kept = (version: Version): Partial<Connect> => ({
  clean: false,
  ...(version === 5 ? { properties: { sessionExpiryInterval: 0xffff_ffff } } : {}),
})

async function connect(world: World, clientId: string, version: Version, isNew: boolean): Promise<RawClient> {
  const client = await world.dial(clientId, version)
  client.send(connectPacket(version, { clientId, ...kept(version) }))
  await client.expect('connack', { reason: reason.success, sessionPresent: !isNew })
  world.joined()
  return client
}

/** What a message says of itself. `attempt` tells one PUBLISH of it from the next. */
export type Told = { from: string; seq: number; attempt: number; qos: number; deadline?: number }
type Pending = {
  told: Told
  topic: string
  retain: boolean
  properties: Properties | undefined
  state: 'sent' | 'released'
}

const maxUnderWay = 40

export const propertiesOf = (from: string, seq: number): Properties => ({
  contentType: 'text/plain',
  responseTopic: `answers/${from}`,
  correlationData: Buffer.from([seq & 0xff, 0, 0xff]),
  userProperties: [
    ['seq', String(seq)],
    ['seq', from],
  ],
})

/** Publishes numbered messages to two topics, QoS 1 and 2 in turn, and again whatever was not acknowledged. */
export class Publisher {
  readonly id: string
  readonly #version: Version
  readonly #world: World
  readonly #pending = new Map<number, Pending>()
  #client: RawClient | undefined
  #isNew = true
  #lastId = 0
  seq = 0
  /** By topic: the newest that was acknowledged. */
  readonly retained = new Map<string, number>()

  constructor(id: string, version: Version, world: World) {
    this.id = id
    this.#version = version
    this.#world = world
  }

  /** Publishes until the connection is gone. */
  async run(): Promise<void> {
    const client = await this.#connect()
    while (this.#pending.size < maxUnderWay) this.#publishNext()
    for (let packet = await client.next(); packet !== undefined; packet = await client.next()) {
      this.#hear(packet as { type: string; packetId: number })
      this.#world.tick()
      while (this.#pending.size < maxUnderWay) this.#publishNext()
    }
  }

  /** Gets all that is under way acknowledged. */
  async finish(): Promise<void> {
    const client = await this.#connect()
    while (this.#pending.size > 0) this.#hear((await client.next()) as { type: string; packetId: number }, true)
    client.socket.destroy()
  }

  async #connect(): Promise<RawClient> {
    const client = await connect(this.#world, this.id, this.#version, this.#isNew)
    this.#client = client
    this.#isNew = false
    // [MQTT-4.4.0-1], in the order in which they were first sent [MQTT-4.6.0-1].
    for (const [packetId, pending] of this.#pending) {
      if (pending.state === 'released') client.send({ type: 'pubrel', packetId, reason: reason.success })
      else this.#send(packetId, pending, true)
    }
    return client
  }

  #publishNext(): void {
    do this.#lastId = (this.#lastId % 0xffff) + 1
    while (this.#pending.has(this.#lastId))
    const seq = this.seq++
    const isRetained = seq % 16 === 12 || seq % 16 === 15 // one of each QoS
    const expires = this.#version === 5 && seq % 4 === 1 ? (seq % 8 === 1 ? 100 : 86_400) : undefined
    const pending: Pending = {
      told: {
        from: this.id,
        seq,
        attempt: 0,
        qos: seq % 4 < 2 ? 1 : 2,
        ...(expires === undefined ? {} : { deadline: this.#world.now() + expires * 1_000 }),
      },
      topic: isRetained ? `retained/${this.id}/${seq % 5}` : `t/${this.id}/${seq % 2 === 0 ? 'a' : 'b'}`,
      retain: isRetained,
      properties:
        this.#version < 5
          ? undefined
          : { ...propertiesOf(this.id, seq), ...(expires === undefined ? {} : { messageExpiryInterval: expires }) },
      state: 'sent',
    }
    this.#pending.set(this.#lastId, pending)
    this.#send(this.#lastId, pending, false)
  }

  #send(packetId: number, pending: Pending, dup: boolean): void {
    const { told, topic, retain, properties } = pending
    if (dup) {
      told.attempt++
      // The interval begins with each PUBLISH anew.
      const { deadline } = told
      if (deadline !== undefined) told.deadline = this.#world.now() + (properties!.messageExpiryInterval ?? 0) * 1_000
      this.#world.count(`published again at QoS ${told.qos}`)
    }
    const packet: Partial<Publish> = { packetId, qos: told.qos as 1 | 2, retain, dup, properties }
    this.#client!.send(publishPacket(topic, JSON.stringify(told), packet))
  }

  #hear({ type, packetId }: { type: string; packetId: number }, isThorough = false): void {
    const pending = this.#pending.get(packetId)
    assert.ok(pending, `${type} for ${packetId}, which is not under way`)
    if (type === 'pubrec') {
      pending.state = 'released'
      // Half-way: the broker has the message, and waits for the PUBREL.
      if (isThorough || this.#world.below(10) < 8) {
        this.#client!.send({ type: 'pubrel', packetId, reason: reason.success })
      } else this.#world.count('inbound QoS 2 half-way')
      return
    }
    assert.equal(type, pending.told.qos === 1 ? 'puback' : 'pubcomp')
    if (pending.retain)
      this.retained.set(pending.topic, Math.max(pending.told.seq, this.retained.get(pending.topic) ?? 0))
    this.#pending.delete(packetId)
  }
}

export type Seen = { packet: Publish; told: Told; at: number }

/** Takes what it is sent, and holds it to the rules of a session as it comes. */
export class Subscriber {
  readonly id: string
  readonly version: Version
  readonly #world: World
  readonly #subscriptions: { subscription: Subscription; identifier: number | undefined }[]
  /** QoS 2 messages that it has, whose PUBREL has not come. */
  readonly #held = new Set<number>()
  readonly #seen = new Map<string, number>()
  /** Of the broker, as many as the connections to it. */
  #lives = 0
  /** In which of them each will came last. */
  readonly #willsIn = new Map<string, number>()
  readonly #looks = new Set<() => void>()
  #client: RawClient | undefined
  readonly messages: Seen[] = []

  constructor(
    id: string,
    version: Version,
    filters: [filter: string, qos: 1 | 2, identifier?: number][],
    world: World,
  ) {
    this.id = id
    this.version = version
    this.#world = world
    const rest = { noLocal: false, retainAsPublished: false, retainHandling: 2 as const }
    this.#subscriptions = filters.map(([filter, qos, identifier]) => ({
      subscription: { filter, qos, ...rest },
      identifier: version === 5 ? identifier : undefined,
    }))
  }

  /** Makes the session, and leaves it. */
  async begin(): Promise<void> {
    const client = await connect(this.#world, this.id, this.version, true)
    await this.#subscribe(client)
    client.socket.destroy()
  }

  /** @param isThorough nothing is left without an answer */
  async run(isThorough = false): Promise<void> {
    const client = await connect(this.#world, this.id, this.version, false)
    this.#client = client
    this.#lives++
    for (let packet = await client.next(); packet !== undefined; packet = await client.next()) {
      if (packet.type === 'publish') this.#take(client, packet, isThorough)
      else {
        assert.equal(packet.type, 'pubrel')
        this.#release(client, (packet as { packetId: number }).packetId, isThorough)
      }
      this.#world.tick()
    }
  }

  leave(): void {
    this.#client?.socket.destroy()
  }

  /** Resolves when messages for which this holds have been seen. */
  async until(holds: () => boolean): Promise<void> {
    while (!holds()) await new Promise<void>((resolve) => this.#looks.add(resolve))
  }

  async #subscribe(client: RawClient): Promise<void> {
    for (const [at, { subscription, identifier }] of this.#subscriptions.entries()) {
      const properties = identifier === undefined ? undefined : { subscriptionIdentifiers: [identifier] }
      client.send({ type: 'subscribe', packetId: at + 1, subscriptions: [subscription], properties })
      await client.expect('suback', { reasons: [subscription.qos] })
    }
  }

  #take(client: RawClient, packet: Publish, isThorough: boolean): void {
    const { qos, packetId, dup } = packet
    if (qos === 2 && this.#held.has(packetId)) {
      assert.ok(dup, `${this.id}: QoS 2 message ${packet.payload} comes again without DUP`)
      this.#world.count('outbound QoS 2 sent again before its PUBREC')
    } else this.#deliver(packet)
    if (qos === 2) this.#held.add(packetId)
    if (!isThorough && this.#world.below(7) === 0) {
      this.#world.count(`outbound QoS ${qos} without an answer`)
      return
    }
    client.send({ type: qos === 1 ? 'puback' : 'pubrec', packetId, reason: reason.success })
  }

  #release(client: RawClient, packetId: number, isThorough: boolean): void {
    if (!this.#held.delete(packetId)) this.#world.count('PUBREL sent again')
    if (!isThorough && this.#world.below(7) === 0) {
      this.#world.count('outbound QoS 2 without its PUBCOMP')
      return
    }
    client.send({ type: 'pubcomp', packetId, reason: reason.success })
  }

  #deliver(packet: Publish): void {
    const told: Told = JSON.parse(packet.payload.toString())
    const name = `${told.from} ${told.seq}`
    const whole = `${name} ${told.attempt}`
    const times = this.#seen.get(whole) ?? 0
    const { qos, dup, topic } = packet
    if (times > 0) {
      assert.equal(qos, 1, `${this.id}: ${whole} came twice at QoS 2`)
      // Of a will the broker is the publisher: where a crash took the note that it was published, it is published once more.
      const isAnew = !dup && topic.startsWith('wills/') && this.#willsIn.get(whole)! < this.#lives
      assert.ok(dup || isAnew, `${this.id}: ${whole} comes again without DUP`)
      this.#world.count(isAnew ? 'will published again' : 'outbound QoS 1 sent again')
    }
    if (told.qos === 2 && times === 0 && this.#seen.has(name)) {
      // At QoS 1 it goes out while it is being stored; what the crash took is sent again by its publisher.
      assert.equal(qos, 1, `${this.id}: ${name} came twice, as two messages`)
      this.#world.count('outbound QoS 1 before it was stored, and lost there')
    }
    if (topic.startsWith('wills/')) this.#willsIn.set(whole, this.#lives)
    this.#seen.set(whole, times + 1)
    this.#seen.set(name, 1)
    this.messages.push({ packet, told, at: this.#world.now() })
    for (const resolve of this.#looks) resolve()
    this.#looks.clear()
  }
}
