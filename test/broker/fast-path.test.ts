/**
 * The fast path against the general one: the same scripts on two brokers, and every client has to get the same. What one
 * client publishes on one topic keeps its order at each QoS; the rest may arrive in any (MQTT 5, 4.6).
 */
import assert from 'node:assert/strict'
import { after, before, mock, test } from 'node:test'
import type { TLSSocket } from 'node:tls'
import fc from 'fast-check'
import { LevelSessions } from '../../broker/backends/level-sessions.ts'
import { Bus } from '../../broker/wire/aedes-port.ts'
import { decode, encode } from '../../broker/wire/codec.ts'
import { FrameReader } from '../../broker/wire/frames.ts'
import type { Packet, Publish, Qos, Subscribe, Unsubscribe, Version } from '../../broker/wire/packet.ts'
import { BrokerHarness, parsePolicy, type TestDevice } from '../harness/broker.ts'
import { connectPacket, publishPacket } from '../harness/raw-mqtt.ts'

const policies = [
  'policies: [{ name: all, allow: { publish: ["#"], subscribe: ["#"] } }]',
  `policies:
  - { name: all, allow: { publish: ["#"], subscribe: ["#"] } }
  - { name: not-b, deny: { publish: ["+/b"] } }
  - { name: cameras, match: { profile: camera }, deny: { subscribe: ["+/a/#"] } }`,
  'policies: [{ name: few, allow: { publish: ["+/a/#", "+/é", "+/end"], subscribe: ["#"] } }]',
].map(parsePolicy)
const topics = ['a', 'b', 'c', 'a/x', 'é']
const filters = ['a', 'b', '+', '#', 'a/#', 'é']

let skewMs = 0
const harnesses: BrokerHarness[] = []
before(async () => {
  const clock = (): Date => new Date(Date.now() + skewMs)
  for (const isFast of [true, false]) {
    harnesses.push(await BrokerHarness.start({ policy: policies[0]!, clock, isFast }))
  }
})
after(async () => {
  for (const harness of harnesses) await harness[Symbol.asyncDispose]()
})

type Got = Pick<Publish, 'topic' | 'qos' | 'retain' | 'properties'> & { payload: string }
type Connecting = { version: Version; kept: boolean; aliases: number }

/** Wakes all who wait, at every packet and every end of a connection. */
let hears = Promise.withResolvers<void>()
function heard(): void {
  hears.resolve()
  hears = Promise.withResolvers()
}

/** A device that acknowledges what it gets. */
class Client {
  readonly device: TestDevice
  /** Over all of its connections. */
  readonly got: Got[] = []
  readonly #topics = new Map<number, string>()
  readonly #aliases = new Map<string, number>()
  #answers: Packet[] = []
  #packetId = 0
  socket: TLSSocket | undefined
  version: Version = 5

  constructor(device: TestDevice) {
    this.device = device
  }

  get isOpen(): boolean {
    return this.socket !== undefined && !this.socket.destroyed
  }

  async connect(harness: BrokerHarness, { version, kept, aliases }: Connecting): Promise<void> {
    const socket = await harness.socket(this.device)
    const reader = new FrameReader(65_536)
    this.#topics.clear()
    this.#aliases.clear()
    this.#answers = []
    this.socket = socket
    this.version = version
    socket.on('data', (chunk: Buffer) => {
      for (const { header, body } of reader.push(chunk)) {
        if (this.socket === socket) this.#hear(decode(header, Buffer.from(body), version, 'server'))
      }
      heard()
    })
    socket.on('close', heard)
    const properties = { sessionExpiryInterval: kept ? 3_600 : 0, topicAliasMaximum: aliases }
    this.send([
      connectPacket(version, { clientId: this.device.id, clean: !kept, ...(version === 5 ? { properties } : {}) }),
    ])
    await this.answer('connack')
  }

  send(packets: readonly Packet[]): void {
    if (this.isOpen) this.socket!.write(Buffer.concat(packets.map((packet) => encode(packet, this.version))))
  }

  nextId(): number {
    this.#packetId = (this.#packetId % 1_000) + 1
    return this.#packetId
  }

  /** What its connection calls a topic, once it was told. */
  aliased(topic: string): Partial<Publish> {
    const known = this.#aliases.get(topic)
    const topicAlias = known ?? this.#aliases.size + 1
    this.#aliases.set(topic, topicAlias)
    return { topic: known === undefined ? topic : '', properties: { topicAlias } }
  }

  /** The next packet of a kind; undefined when the connection has ended without one. */
  async answer(type: Packet['type']): Promise<Packet | undefined> {
    for (;;) {
      const at = this.#answers.findIndex((packet) => packet.type === type)
      if (at >= 0) return this.#answers.splice(at, 1)[0]
      if (!this.isOpen) return undefined
      await hears.promise
    }
  }

  async ended(): Promise<void> {
    while (this.isOpen) await hears.promise
  }

  #hear(packet: Packet): void {
    switch (packet.type) {
      case 'publish':
        this.#take(packet)
        break
      case 'pubrel':
        this.send([{ type: 'pubcomp', packetId: packet.packetId, reason: 0 }])
        break
      case 'pubrec':
        // One that refuses ends it.
        if (packet.reason >= 0x80) this.#answers.push({ ...packet, type: 'pubcomp' })
        else this.send([{ type: 'pubrel', packetId: packet.packetId, reason: 0 }])
        break
      default:
        this.#answers.push(packet)
    }
  }

  #take({ topic: written, qos, retain, packetId, payload, properties }: Publish): void {
    const { topicAlias, messageExpiryInterval, ...kept } = properties ?? {}
    if (topicAlias !== undefined && written !== '') this.#topics.set(topicAlias, written)
    const topic = written === '' ? this.#topics.get(topicAlias!)! : written
    // Seconds that are left: they may pass on one broker and not on the other.
    const expires = messageExpiryInterval === undefined ? {} : { messageExpiryInterval: 1 }
    this.got.push({ topic, qos, retain, payload: String(payload), properties: { ...kept, ...expires } })
    if (qos > 0) this.send([{ type: qos === 1 ? 'puback' : 'pubrec', packetId, reason: 0 }])
  }
}

type Message = { topic: number; qos: Qos; retain: boolean; dress: 'plain' | 'dressed' | 'aliased' | 'expiring' }
type Step =
  | { do: 'connect'; client: number; how: Connecting }
  | { do: 'leave'; client: number; clean: boolean }
  | { do: 'subscribe'; client: number; filter: number; qos: Qos; flags: number; identifier: number; shared: boolean }
  | { do: 'unsubscribe'; client: number; filter: number; shared: boolean }
  | { do: 'publish'; client: number; messages: Message[]; stalled: number }
  | { do: 'publish together'; clients: [number, number]; count: number }
  | { do: 'policy'; which: number }
  | { do: 'revoke'; client: number }
  | { do: 'wait' }

const clients = 4
const client = fc.nat(clients - 1)
const qos = fc.constantFrom<Qos>(0, 0, 1, 2)
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('connect'),
      client,
      how: fc.record({ version: fc.constantFrom<Version>(3, 4, 5, 5), kept: fc.boolean(), aliases: fc.nat(2) }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('leave'), client, clean: fc.boolean() }) },
  {
    weight: 7,
    arbitrary: fc.record({
      do: fc.constant('subscribe'),
      client,
      filter: fc.nat(filters.length - 1),
      qos,
      flags: fc.constantFrom(0, 0, 1, 2, 3),
      identifier: fc.constantFrom(0, 0, 7),
      shared: fc.constantFrom(false, false, false, true),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('unsubscribe'),
      client,
      filter: fc.nat(filters.length - 1),
      shared: fc.boolean(),
    }),
  },
  {
    weight: 12,
    arbitrary: fc.record({
      do: fc.constant('publish'),
      client,
      messages: fc.array(
        fc.record({
          topic: fc.nat(topics.length - 1),
          qos,
          retain: fc.constantFrom(false, false, false, false, true),
          dress: fc.constantFrom('plain', 'plain', 'plain', 'dressed', 'aliased', 'expiring'),
        }),
        { minLength: 1, maxLength: 15 },
      ),
      stalled: client,
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('publish together'),
      clients: fc.tuple(client, client),
      count: fc.integer({ min: 1, max: 20 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('policy'), which: fc.nat(policies.length - 1) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('revoke'), client }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('wait') }) },
) as fc.Arbitrary<Step>

/** One broker and its clients, in one script. Every message has a number that tells who sent it and when. */
class Side {
  readonly harness: BrokerHarness
  readonly clients: Client[]
  readonly #root: string
  readonly #sharing = new Set<Client>()
  readonly #revoked = new Set<Client>()
  #hasRetained = false
  #number = 0

  constructor(harness: BrokerHarness, root: string, devices: Client[]) {
    this.harness = harness
    this.#root = root
    this.clients = devices
  }

  /** @returns what both sides must agree on */
  async play(step: Step): Promise<unknown> {
    if (step.do === 'policy') return void (await this.#policy(step.which))
    if (step.do === 'wait') return undefined
    if (step.do === 'publish together') return this.#publishTogether(step)
    const client = this.clients[step.client]!
    if (step.do === 'connect') {
      if (this.#revoked.has(client)) return undefined
      const before = client.socket
      await client.connect(this.harness, step.how)
      return before?.destroyed
    }
    if (!client.isOpen) return 'not connected'
    switch (step.do) {
      case 'leave':
        if (step.clean) client.send([{ type: 'disconnect', reason: 0 }])
        else client.socket!.destroy()
        return client.ended()
      case 'revoke':
        this.#revoked.add(client)
        await this.harness.revokeDevice(client.device)
        return client.ended()
      case 'publish':
        return this.#publish(client, step)
      default:
        return this.#change(client, step)
    }
  }

  async #policy(which: number): Promise<void> {
    this.harness.setPolicy(policies[which]!)
    await this.harness.feed.untilApplied()
  }

  async #change(client: Client, step: Step & { do: 'subscribe' | 'unsubscribe' }): Promise<unknown> {
    const plain = `${this.#root}/${filters[step.filter]}`
    const filter = step.shared ? `$share/some/${plain}` : plain
    const packetId = client.nextId()
    if (step.do === 'unsubscribe') {
      client.send([{ type: 'unsubscribe', packetId, filters: [filter] } satisfies Unsubscribe])
      return client.answer('unsuback')
    }
    const is5 = client.version === 5
    // Earlier versions cannot be kept from getting what is retained, which comes in its own time.
    if (this.#hasRetained && !is5) return undefined
    if (step.shared) this.#sharing.add(client)
    const options = {
      qos: step.qos,
      noLocal: is5 && !step.shared && (step.flags & 1) === 1,
      retainAsPublished: is5 && (step.flags & 2) === 2,
      retainHandling: is5 ? (2 as const) : (0 as const),
    }
    const properties = is5 && step.identifier > 0 ? { subscriptionIdentifiers: [step.identifier] } : undefined
    client.send([
      { type: 'subscribe', packetId, subscriptions: [{ filter, ...options }], properties } satisfies Subscribe,
    ])
    // A refusal is known by another id on each side.
    return { ...(await client.answer('suback')), properties: undefined }
  }

  /** In one write; another client does not read meanwhile. */
  async #publish(client: Client, { messages, stalled }: Step & { do: 'publish' }): Promise<unknown> {
    const reader = this.clients[stalled]!
    if (reader !== client) reader.socket?.pause()
    const packets = messages.map((message) => this.#packet(client, message))
    // What is retained has no answer at QoS 0; this comes after it.
    packets.push(this.#packet(client, { topic: -1, qos: 1, retain: false, dress: 'plain' }))
    client.send(packets)
    const answers = await this.#answers(client, packets)
    reader.socket?.resume()
    return answers
  }

  async #publishTogether({ clients: both, count }: Step & { do: 'publish together' }): Promise<unknown> {
    const answers: unknown[] = []
    const sent = [...new Set(both)].map((at) => {
      const client = this.clients[at]!
      const packets = Array.from({ length: count }, (_, i) =>
        this.#packet(client, { topic: i % topics.length, qos: (i % 2) as Qos, retain: false, dress: 'plain' }),
      )
      client.send(packets)
      return { client, packets }
    })
    for (const { client, packets } of sent) answers.push(await this.#answers(client, packets))
    return answers
  }

  #packet(client: Client, { topic: at, qos, retain, dress }: Message): Publish {
    const topic = `${this.#root}/${topics[at] ?? 'end'}`
    this.#hasRetained ||= retain
    const more: Partial<Publish> = { qos, retain, packetId: qos === 0 ? 0 : client.nextId() }
    const packet = publishPacket(topic, `${client.device.id} ${++this.#number}`, more)
    if (client.version < 5 || dress === 'plain' || at < 0) return packet
    if (dress === 'aliased') return { ...packet, ...client.aliased(topic) }
    return {
      ...packet,
      properties:
        dress === 'expiring' ? { messageExpiryInterval: 20 } : { contentType: 'text', userProperties: [['a', 'b']] },
    }
  }

  async #answers(client: Client, packets: Publish[]): Promise<number[]> {
    const reasons: number[] = []
    for (const { qos } of packets) {
      if (qos === 0) continue
      const answer = await client.answer(qos === 1 ? 'puback' : 'pubcomp')
      reasons.push(answer === undefined ? -1 : (answer as { reason: number }).reason)
    }
    return reasons.sort()
  }

  /** What the bus and the queues hold has gone out, and clients and broker have read what they said to each other. */
  async settle(): Promise<void> {
    for (let turn = 0; turn < busTurns; turn++) await new Promise((resolve) => setImmediate(resolve))
    for (const { device } of this.clients) await this.harness.broker.sessions.findLive(device.id)?.receiver?.drained()
    for (const client of this.clients) {
      client.send([{ type: 'pingreq' }])
      await client.answer('pingresp')
    }
  }

  get summary(): unknown {
    return this.clients.map(({ device, got, isOpen }) => [
      device.id,
      isOpen,
      got.map((one) => JSON.stringify(one)).sort(),
    ])
  }

  get count(): number {
    return this.clients.reduce((sum, { got }) => sum + got.length, 0)
  }

  /** Whoever has a shared subscription beside gets a message by two ways. */
  requireOrder(): void {
    for (const client of this.clients) {
      if (this.#sharing.has(client)) continue
      const last = new Map<string, number>()
      for (const { topic, qos, retain, payload } of client.got) {
        if (retain) continue // of the past
        const [from, number] = payload.split(' ') as [string, string]
        const key = `${from} ${topic} ${qos}`
        assert.ok((last.get(key) ?? 0) < Number(number), `${client.device.id} got ${payload} on ${topic} too late`)
        last.set(key, Number(number))
      }
    }
  }
}

const patienceMs = 60_000
/** Of the event loop, which a message needs at most to be through aedes. */
const busTurns = 20

/** Waits until both sides have got the same, and fails with the difference when they do not. */
async function agree(sides: Side[], step: Step): Promise<void> {
  const [fast, general] = sides as [Side, Side]
  let isLate = false
  const timer = setTimeout(() => {
    isLate = true
    heard()
  }, patienceMs)
  // What was acknowledged by the first round may bring about more.
  for (let round = 0; round < 2; round++) await Promise.all(sides.map((side) => side.settle()))
  while (fast.count !== general.count && !isLate) await hears.promise
  clearTimeout(timer)
  assert.deepEqual(fast.summary, general.summary, JSON.stringify(step))
}

/** Of its own for each run; what a broker keeps of others is not looked at. */
async function play(root: string, steps: Step[], retains: boolean): Promise<number> {
  const sides: Side[] = []
  for (const harness of harnesses) {
    const own: Client[] = []
    for (let at = 0; at < clients; at++) {
      own.push(new Client(await harness.device(`${root}-${at}`, { profile: at === 0 ? 'camera' : 'sensor' })))
    }
    sides.push(new Side(harness, root, own))
  }
  const begin: Step[] = [{ do: 'policy', which: 0 }]
  for (let at = 0; at < clients; at++) {
    begin.push({ do: 'connect', client: at, how: { version: at === 1 ? 4 : 5, kept: at === 2, aliases: 0 } })
    begin.push({ do: 'subscribe', client: at, filter: 3, qos: 0, flags: 0, identifier: 0, shared: false })
  }
  try {
    for (const step of [...begin, ...steps]) {
      if (step.do === 'wait') skewMs += 30_000
      if (step.do === 'publish' && !retains) for (const message of step.messages) message.retain = false
      const [fast, general] = await Promise.all(sides.map((side) => side.play(step)))
      assert.deepEqual(fast, general, JSON.stringify(step))
      await agree(sides, step)
    }
    for (const side of sides) side.requireOrder()
    return sides[0]!.count
  } finally {
    for (const { clients } of sides) for (const { socket } of clients) socket?.destroy()
  }
}

const seed = Math.floor(Math.random() * 2 ** 31)
const numRuns = 5
test(`whatever happens, every client gets the same by the fast path as by the general one (seed ${seed})`, async () => {
  const scripts = fc.sample(fc.array(step, { minLength: 20, maxLength: 40 }), { seed, numRuns })
  let messages = 0
  for (const [run, steps] of scripts.entries()) messages += await play(`run-${run}`, steps, run % 2 === 0)
  assert.ok(messages > 20 * numRuns, `${messages} messages reached somebody`)
})

/** Two devices on the broker with the fast path: one has published to the other already. */
async function pair(name: string, options: { filter?: string; noLocal?: boolean } = {}) {
  const { filter = '#', noLocal = false } = options
  const [harness] = harnesses as [BrokerHarness]
  harness.setPolicy(policies[0]!)
  const [from, to] = [new Client(await harness.device(`${name}-from`)), new Client(await harness.device(`${name}-to`))]
  for (const client of [from, to]) await client.connect(harness, { version: 5, kept: client === to, aliases: 0 })
  const subscription = {
    filter: `${name}/${filter}`,
    qos: 0 as Qos,
    noLocal,
    retainAsPublished: false,
    retainHandling: 0 as const,
  }
  const side = new Side(harness, name, [from, to])
  const subscribe = async (client: Client): Promise<void> => {
    client.send([{ type: 'subscribe', packetId: client.nextId(), subscriptions: [subscription] }])
    await client.answer('suback')
  }
  await subscribe(to)
  const publish = async (topic: string, ...payloads: string[]): Promise<void> => {
    from.send(payloads.map((payload) => publishPacket(`${name}/${topic}`, payload)))
    await side.settle()
  }
  await publish('a', 'first')
  assert.deepEqual(payloadsOf(to), ['first'])
  return { harness, from, to, side, publish, subscribe }
}

const payloadsOf = ({ got }: Client): string[] => got.map(({ payload }) => payload)

test('messages of QoS 0, and of QoS 1 to who subscribes at QoS 0, do not go over the bus; others do', async () => {
  const { from, to, side, publish } = await pair('bus')
  const spy = mock.method(Bus.prototype, 'publish')
  await publish('a', 'second', 'third')
  await publish('b', 'fourth')
  from.send([publishPacket('bus/a', 'fifth', { qos: 1, packetId: 1 })])
  assert.partialDeepStrictEqual(await from.answer('puback'), { packetId: 1, reason: 0 })
  await side.settle()
  assert.deepEqual(payloadsOf(to), ['first', 'second', 'third', 'fourth', 'fifth'])
  assert.equal(spy.mock.callCount(), 0)
  from.send([publishPacket('bus/a', 'sixth', { qos: 2, packetId: 2 })])
  await from.answer('pubcomp')
  assert.equal(spy.mock.callCount(), 1)
  spy.mock.restore()
})

test('messages of QoS 1 to a session that ends with its connection wait for nothing; beside one that is kept they are stored', async () => {
  const [harness] = harnesses as [BrokerHarness]
  harness.setPolicy(policies[0]!)
  const devices = await Promise.all(['at-once-from', 'at-once-to', 'at-once-kept'].map((id) => harness.device(id)))
  const [from, to, kept] = devices.map((device) => new Client(device)) as [Client, Client, Client]
  for (const client of [from, to, kept])
    await client.connect(harness, { version: client === from ? 5 : 4, kept: client === kept, aliases: 0 })
  const subscribe = async (client: Client): Promise<void> => {
    const options = { noLocal: false, retainAsPublished: false, retainHandling: 0 as const }
    const subscriptions = [{ filter: 'at-once/#', qos: 1 as Qos, ...options }]
    client.send([{ type: 'subscribe', packetId: client.nextId(), subscriptions }])
    await client.answer('suback')
  }
  const side = new Side(harness, 'at-once', [from, to, kept])
  const publish = async (from_: number, count: number): Promise<void> => {
    const texts = Array.from({ length: count }, (_, at) => `${from_ + at}`)
    from.send(texts.map((text, at) => publishPacket('at-once/a', text, { qos: 1, packetId: 1 + at })))
    for (const _ of texts) assert.partialDeepStrictEqual(await from.answer('puback'), { reason: 0 })
    await side.settle()
  }
  const spy = mock.method(LevelSessions.prototype, 'enqueue')
  await subscribe(to)
  await publish(0, 100)
  await publish(100, 100)
  assert.equal(spy.mock.callCount(), 0)
  await subscribe(kept)
  await publish(200, 3)
  assert.equal(spy.mock.callCount(), 3)
  spy.mock.restore()
  assert.deepEqual(
    payloadsOf(to),
    Array.from({ length: 203 }, (_, at) => `${at}`),
  )
  assert.deepEqual(payloadsOf(kept), ['200', '201', '202'])
})

test('a message of QoS 1 that nobody wants is acknowledged as such', async () => {
  const { from } = await pair('nobody', { filter: 'a' })
  for (const packetId of [1, 2, 3]) from.send([publishPacket('nobody/else', 'x', { qos: 1, packetId })])
  for (const packetId of [1, 2, 3])
    assert.partialDeepStrictEqual(await from.answer('puback'), { packetId, reason: 0x10 })
})

test('a session that comes back gets what is published next, though no subscription has changed', async () => {
  const { harness, to, publish } = await pair('back')
  to.send([{ type: 'disconnect', reason: 0 }])
  await to.ended()
  await publish('a', 'away')
  await to.connect(harness, { version: 4, kept: true, aliases: 0 })
  await publish('a', 'back')
  assert.deepEqual(payloadsOf(to), ['first', 'back'])
})

test('who asked for no-local does not get what it publishes itself, and others do', async () => {
  const { from, to, publish, subscribe } = await pair('local', { noLocal: true })
  await subscribe(from)
  await publish('a', 'second', 'third')
  assert.deepEqual([payloadsOf(to), payloadsOf(from)], [['first', 'second', 'third'], []])
})

test('a policy is in force at the next message, for who sends it as for who is to get it', async () => {
  const { harness, to, publish } = await pair('rule')
  harness.setPolicy(parsePolicy('policies: [{ name: b, allow: { publish: ["+/b"], subscribe: ["#"] } }]'))
  await harness.feed.untilApplied()
  await publish('a', 'not sent')
  await publish('b', 'sent')
  harness.setPolicy(parsePolicy('policies: [{ name: b, allow: { publish: ["#"], subscribe: ["+/c"] } }]'))
  await harness.feed.untilApplied()
  await publish('b', 'not delivered')
  await publish('c', 'delivered')
  assert.deepEqual(payloadsOf(to), ['first', 'sent', 'delivered'])
})

test('nothing that a revoked device has sent is delivered after the cut (T14)', async () => {
  const { harness, from, to, side } = await pair('cut')
  from.socket!.on('error', () => undefined)
  const more = Array.from({ length: 200 }, (_, at) => publishPacket('cut/a', `more ${at}`))
  let isCut = false
  const flood = (): void => {
    from.send(more)
    if (from.isOpen && !isCut) setImmediate(flood)
  }
  flood()
  while (to.got.length < 1_000) await hears.promise
  const cut = harness.testLog.until('session.kicked', { deviceId: from.device.id })
  await harness.revokeDevice(from.device)
  await cut
  isCut = true
  await side.settle()
  const { length } = to.got
  await from.ended()
  await side.settle()
  assert.equal(to.got.length, length)
})

test('who does not read loses messages, is held to its bound, and holds nobody up', async () => {
  const { harness, from, to, side, subscribe } = await pair('slow')
  await subscribe(from)
  from.got.length = 0
  to.socket!.pause()
  const { link } = harness.broker.sessions.findLive(to.device.id)!
  const payload = 'x'.repeat(4_000)
  for (let round = 0; round < 20; round++) {
    from.send(Array.from({ length: 100 }, () => publishPacket('slow/a', payload)))
    while (from.got.length < 100 * (round + 1)) await hears.promise
    assert.ok(link.pendingBytes <= 1_048_576, `${link.pendingBytes} octets wait`)
  }
  assert.ok(link.counters.dropped.slow > 0)
  to.socket!.resume()
  await side.settle()
  assert.equal(to.got.length - 1 + link.counters.dropped.slow, from.got.length)
})
