import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { Message, QoS } from '../../broker/backends/session-store.ts'
import { type RetainedDelivery, RetainedMessages, type RetainedReceiver } from '../../broker/retained.ts'
import type { Subscription } from '../../broker/wire/route-index.ts'
import { topicMatches } from '../../contract/topics.ts'
import { FleetError } from '../../runtime/errors.ts'

const start = 1_700_000_000_000

/** What the session store promises of retained messages, in memory. Reads are counted, and writes can be made to fail. */
class MemoryStore {
  readonly messages = new Map<string, Message>()
  readonly asked: string[] = []
  answer: () => 'stored' | 'full' | Promise<'stored' | 'full'> = () => 'stored'

  async retain(topic: string, message: Message | null): Promise<'stored' | 'full'> {
    const before = this.messages.get(topic)
    if (message === null) this.messages.delete(topic)
    else this.messages.set(topic, message)
    try {
      const answer = await this.answer()
      if (answer === 'stored') return answer
    } catch (error) {
      this.#restore(topic, before)
      throw error
    }
    this.#restore(topic, before)
    return 'full'
  }

  async *retained(filters: readonly string[]): AsyncGenerator<Message> {
    this.asked.push(...filters)
    for (const filter of filters) {
      for (const message of /[+#]/.test(filter) ? [...this.messages.values()] : [this.messages.get(filter)]) {
        if (message !== undefined && topicMatches(filter, message.topic)) yield message
      }
    }
  }

  async retainedBy(deviceId: string): Promise<string[]> {
    return [...this.messages.values()].filter(({ from }) => from === deviceId).map(({ topic }) => topic)
  }

  #restore(topic: string, before: Message | undefined): void {
    if (before === undefined) this.messages.delete(topic)
    else this.messages.set(topic, before)
  }
}

type Bench = { retained: RetainedMessages; store: MemoryStore; clock: { now: number }; voided: Set<string> }
async function open(store = new MemoryStore()): Promise<Bench> {
  const clock = { now: start }
  const voided = new Set<string>()
  return {
    retained: await RetainedMessages.open(store, { now: () => clock.now, isVoid: ({ from }) => voided.has(from) }),
    store,
    clock,
    voided,
  }
}

const message = (topic: string, options: Partial<Message> = {}): Message => ({
  topic,
  payload: Buffer.from(topic),
  qos: 1,
  retain: true,
  from: 'cam-1',
  publishedAt: start,
  ...options,
})
const subscription = (filter: string, options: Partial<Subscription> = {}): Subscription => ({
  clientId: 'reader',
  filter,
  granted: 2,
  noLocal: false,
  retainAsPublished: false,
  retainHandling: 0,
  ...options,
})

class Receiver implements RetainedReceiver {
  readonly got: RetainedDelivery[] = []
  mostBytes = 1e9
  /** How many came at a time. */
  readonly sizes: number[] = []
  allowed: (topic: string) => boolean = () => true
  free: () => boolean | Promise<boolean> = () => true

  get topics(): string[] {
    return this.got.map(({ message: { topic } }) => topic).toSorted()
  }
  mayReceive(topic: string): boolean {
    return this.allowed(topic)
  }
  room(): boolean | Promise<boolean> {
    return this.free()
  }
  send(deliveries: readonly RetainedDelivery[]): void {
    this.got.push(...deliveries)
    this.sizes.push(deliveries.length)
  }
}

async function read(retained: RetainedMessages, wanted: Subscription | string, isNew = true): Promise<Receiver> {
  const receiver = new Receiver()
  const sent = await retained.deliver(typeof wanted === 'string' ? subscription(wanted) : wanted, isNew, receiver)
  assert.equal(sent, receiver.got.length)
  return receiver
}

const nothing = { messages: 0, nodes: 0 }

for (const [retainHandling, isNew, sent] of [
  [0, true, 1],
  [0, false, 1],
  [1, true, 1],
  [1, false, 0],
  [2, true, 0],
  [2, false, 0],
] as const) {
  const kind = isNew ? 'a new subscription' : 'a subscription that is repeated'
  const what = sent === 1 ? 'is sent what is retained' : 'is sent nothing'
  test(`with retain handling ${retainHandling} ${kind} ${what} [MQTT-3.3.1-${9 + retainHandling}]`, async () => {
    const { retained } = await open()
    await retained.retain(message('a'))
    assert.equal((await read(retained, subscription('a', { retainHandling }), isNew)).got.length, sent)
  })
}

test('the QoS is the lower of what was published and what was granted [MQTT-3.8.4-8], the flag is set', async () => {
  const { retained } = await open()
  for (const qos of [0, 1, 2] as QoS[]) await retained.retain(message(`q/${qos}`, { qos }))
  for (const granted of [0, 1, 2] as QoS[]) {
    const { got } = await read(retained, subscription('q/+', { granted }))
    assert.deepEqual(
      got.toSorted((a, b) => a.message.qos - b.message.qos).map(({ qos, retain }) => [qos, retain]),
      [0, 1, 2].map((published) => [Math.min(published, granted), true]),
    )
  }
})

test('a delivery has the identifier of its subscription, and none when there is none [MQTT-3.3.4-3]', async () => {
  const { retained } = await open()
  await retained.retain(message('a'))
  assert.deepEqual((await read(retained, subscription('#', { identifier: 17 }))).got[0]?.identifiers, [17])
  assert.deepEqual((await read(retained, '#')).got[0]?.identifiers, [])
})

test('a shared subscription is sent nothing that is retained (MQTT 5, 4.8.2)', async () => {
  const { retained } = await open()
  await retained.retain(message('a'))
  assert.deepEqual((await read(retained, '$share/g/a')).got, [])
  assert.deepEqual((await read(retained, 'not/#/valid')).got, [])
})

test('a no-local subscription is not sent what the client retained itself [MQTT-3.8.3-3]', async () => {
  const { retained } = await open()
  await retained.retain(message('a', { from: 'reader' }))
  await retained.retain(message('b', { from: 'other' }))
  assert.deepEqual((await read(retained, subscription('+', { noLocal: true }))).topics, ['b'])
  assert.deepEqual((await read(retained, '+')).topics, ['a', 'b'])
})

test('a message that expires is sent with the seconds that are left, rounded up, and not once they are over', async () => {
  const { retained, clock } = await open()
  await retained.retain(message('a', { expiresAt: start + 5_000 }))
  await retained.retain(message('b'))
  clock.now = start + 1_001
  assert.deepEqual(
    (await read(retained, '+')).got.map(({ expiryInterval }) => expiryInterval),
    [4, undefined],
  )
  clock.now = start + 4_999
  assert.equal((await read(retained, 'a')).got[0]?.expiryInterval, 1)
  clock.now = start + 5_000
  assert.deepEqual((await read(retained, '+')).topics, ['b'])
})

test('what the store says that it has swept is not looked at any more, but for what was retained since', async () => {
  const { retained, clock } = await open()
  for (const topic of ['a', 'b', 'c/d']) await retained.retain(message(topic, { expiresAt: start + 5_000 }))
  clock.now = start + 5_000
  await retained.retain(message('b', { expiresAt: start + 6_000 }))
  retained.swept(['a', 'b', 'c/d', 'never/there'])
  assert.deepEqual(retained.counts, { messages: 1, nodes: 1 })
  assert.deepEqual((await read(retained, '#')).topics, ['b'])
})

test('a message that expires while there is no room is not sent', async () => {
  const { retained, clock } = await open()
  await retained.retain(message('a', { expiresAt: start + 5_000 }))
  const receiver = new Receiver()
  receiver.free = async () => {
    clock.now = start + 6_000
    return true
  }
  assert.equal(await retained.deliver(subscription('a'), true, receiver), 0)
})

test('a payload of no bytes removes what is retained and is not retained itself [MQTT-3.3.1-6] [MQTT-3.3.1-7]', async () => {
  const { retained, store } = await open()
  assert.equal(await retained.retain(message('a/b', { payload: Buffer.alloc(0) })), 'stored')
  await retained.retain(message('a/b'))
  assert.equal(await retained.retain(message('a/b', { payload: Buffer.alloc(0), from: 'other' })), 'stored')
  assert.deepEqual([(await read(retained, '#')).got, store.messages.size, retained.counts], [[], 0, nothing])
})

test('a message takes the place of the one before it, whoever published that [MQTT-3.3.1-5]', async () => {
  const { retained } = await open()
  await retained.retain(message('a', { payload: Buffer.alloc(100) }))
  await retained.retain(message('a', { from: 'cam-2:app', payload: Buffer.from('new') }))
  assert.equal((await read(retained, 'a')).got[0]?.message.payload.toString(), 'new')
  assert.deepEqual(retained.counts, { messages: 1, nodes: 1 })
})

test('of topics, only those that the policy lets the client receive are read and sent', async () => {
  const { retained, store } = await open()
  for (const topic of ['a/open', 'a/secret']) await retained.retain(message(topic))
  store.asked.length = 0
  const receiver = new Receiver()
  receiver.allowed = (topic) => topic !== 'a/secret'
  await retained.deliver(subscription('a/#'), true, receiver)
  assert.deepEqual([receiver.topics, store.asked], [['a/open'], ['a/open']])
})

test('what the policy forbids while there is no room is not sent', async () => {
  const { retained } = await open()
  await retained.retain(message('a'))
  const receiver = new Receiver()
  receiver.free = async () => {
    receiver.allowed = () => false
    return true
  }
  assert.equal(await retained.deliver(subscription('a'), true, receiver), 0)
})

test('of QoS 1 and 2 a page is sent at once, for the store to take it in one write, and QoS 0 one by one', async () => {
  const { retained } = await open()
  for (let i = 0; i < 100; i++) await retained.retain(message(`stored/${i}`, { qos: i % 2 === 0 ? 1 : 2 }))
  for (let i = 0; i < 3; i++) await retained.retain(message(`live/${i}`, { qos: 0 }))
  assert.deepEqual((await read(retained, 'stored/#')).sizes, [64, 36])
  assert.deepEqual((await read(retained, 'live/#')).sizes, [1, 1, 1])
  assert.deepEqual((await read(retained, '#')).sizes, [64, 36, 1, 1, 1])
  assert.equal((await read(retained, subscription('stored/#', { granted: 0 }))).sizes.length, 100)
})

test('a large set waits for room before each message, and ends where no more is wanted', async () => {
  const { retained, store } = await open()
  for (let i = 0; i < 1_000; i++) await retained.retain(message(`a/${i}`, { qos: 0 }))
  store.asked.length = 0
  const receiver = new Receiver()
  let window = 0
  const waiting: (() => void)[] = []
  receiver.free = () => {
    if (receiver.got.length === 200) return false
    if (window-- > 0) return true
    return new Promise((resolve) => waiting.push(() => resolve(true)))
  }
  const delivered = retained.deliver(subscription('a/#'), true, receiver)
  for (let acknowledged = 0; acknowledged < 200; acknowledged += 10) {
    while (waiting.length === 0) await new Promise((resolve) => setImmediate(resolve))
    assert.equal(receiver.got.length, acknowledged)
    window = 9
    waiting.shift()!()
  }
  assert.equal(await delivered, 200)
  assert.ok(store.asked.length <= 256, `${store.asked.length} were read for 200`)
})

test('what is retained, replaced or removed after the subscription is not sent with the old ones', async () => {
  const { retained } = await open()
  for (const topic of ['a', 'b', 'c']) await retained.retain(message(topic))
  const receiver = new Receiver()
  let asked = 0
  receiver.free = async () => {
    if (++asked > 1) return true
    await retained.retain(message('b', { payload: Buffer.from('newer, routed to the subscriber as it was published') }))
    await retained.retain(message('c', { payload: Buffer.alloc(0) }))
    await retained.retain(message('d'))
    return true
  }
  await retained.deliver(subscription('#'), true, receiver)
  assert.deepEqual(receiver.topics, ['a'])
  assert.deepEqual((await read(retained, '#')).topics, ['a', 'b', 'd'])
})

test('a topic that is retained while others are being sent is not sent with them', async () => {
  const { retained } = await open()
  for (let i = 0; i < 200; i++) await retained.retain(message(`a/${i}`))
  const receiver = new Receiver()
  receiver.free = async () => {
    if (receiver.got.length < 200) await retained.retain(message(`a/new-${receiver.got.length}`))
    return true
  }
  assert.equal(await retained.deliver(subscription('a/+'), true, receiver), 200)
  assert.deepEqual(receiver.sizes, [64, 64, 64, 8])
})

const presenceOf = (id: string, text = id): Message =>
  message(`$fleetgate/devices/${id}/presence`, { from: '$fleetgate', payload: Buffer.from(text) })
const presenceFilter = '$fleetgate/devices/+/presence'

test('what the gateway retains is found by who asks below its places, and by nobody else', async () => {
  const { retained, store } = await open()
  for (const id of ['cam-1', 'cam-2']) await retained.retain(presenceOf(id))
  await retained.retain(message('a'))
  const both = ['cam-1', 'cam-2'].map((id) => presenceOf(id).topic)
  for (const again of [retained, (await open(store)).retained]) {
    assert.deepEqual((await read(again, presenceFilter)).topics, both)
    assert.deepEqual((await read(again, '$fleetgate/devices/#')).topics, both)
    assert.deepEqual((await read(again, presenceOf('cam-2').topic)).topics, [presenceOf('cam-2').topic])
    assert.deepEqual((await read(again, '#')).topics, ['a'])
    assert.deepEqual(again.counts, { messages: 1, nodes: 1 })
  }
  await retained.retain(presenceOf('cam-1', ''))
  assert.deepEqual((await read(retained, presenceFilter)).topics, [presenceOf('cam-2').topic])
})

test('of what the gateway retains, what changes while it is being sent is not sent with it, unless the store fails', async () => {
  const { retained, store } = await open()
  for (const id of ['a', 'b', 'c', 'd']) await retained.retain(presenceOf(id))
  await retained.retain(presenceOf('a', 'newer, before anybody asks'))
  const receiver = new Receiver()
  let asked = 0
  receiver.free = async () => {
    if (++asked > 1) return true
    await retained.retain(presenceOf('b', 'newer, routed to the subscriber as it was published'))
    store.answer = () => Promise.reject(new Error('no disk'))
    await assert.rejects(retained.retain(presenceOf('b', 'never routed')), /no disk/)
    await assert.rejects(retained.retain(presenceOf('c', 'never routed')), /no disk/)
    store.answer = () => 'stored'
    return true
  }
  await retained.deliver(subscription(presenceFilter), true, receiver)
  assert.deepEqual(
    receiver.got.map(({ message: { payload } }) => payload.toString()),
    ['newer, before anybody asks', 'c', 'd'],
  )
  assert.equal((await read(retained, presenceFilter)).got.length, 4)
})

test('what was retained is there, and counts, after a restart', async () => {
  const { retained, store } = await open()
  for (const topic of ['a/b', 'a', 'c']) await retained.retain(message(topic))
  const again = await open(store)
  assert.deepEqual(again.retained.counts, retained.counts)
  assert.deepEqual((await read(again.retained, 'a/#')).topics, ['a', 'a/b'])
})

test('a refusal or failure of the store leaves the topic and the counts as they were', async () => {
  const { retained, store } = await open()
  await retained.retain(message('a', { payload: Buffer.from('old') }))
  const { counts } = retained
  store.answer = () => 'full'
  assert.equal(await retained.retain(message('a', { from: 'cam-2' })), 'full')
  assert.equal(await retained.retain(message('b')), 'full')
  store.answer = () => Promise.reject(new Error('no disk'))
  await assert.rejects(retained.retain(message('b')), /no disk/)
  await assert.rejects(retained.retain(message('a', { payload: Buffer.alloc(0) })), /no disk/)
  assert.deepEqual(retained.counts, counts)
  store.answer = () => 'stored'
  assert.equal((await read(retained, '#')).got[0]?.message.payload.toString(), 'old')
})

test('a message of which nobody knows whether it was stored is sent if it was', async () => {
  const { retained, store } = await open()
  const unknown = new FleetError('outcome_unknown', 'no answer in time')
  store.answer = () => Promise.reject(unknown)
  for (const topic of ['a', 'b']) await assert.rejects(retained.retain(message(topic)), unknown)
  store.messages.set('b', message('b'))
  assert.deepEqual((await read(retained, '#')).topics, ['b'])
  assert.equal(retained.counts.messages, 1)
})

test('a write that fails late does not take the place of one that came after it', async () => {
  const { retained, store } = await open()
  let fail = (): void => {}
  store.answer = () => new Promise((_, reject) => (fail = () => reject(new Error('no disk'))))
  const first = retained.retain(message('a', { from: 'cam-1' }))
  await Promise.resolve()
  store.answer = () => 'stored'
  const second = retained.retain(message('a', { from: 'cam-2' }))
  fail()
  await assert.rejects(first, /no disk/)
  assert.equal(await second, 'stored')
  assert.equal(retained.counts.messages, 1)
})

test('what the store has swept on its own is not counted for ever', async () => {
  const { retained, store } = await open()
  for (const topic of ['a', 'b']) await retained.retain(message(topic))
  store.messages.delete('a')
  assert.deepEqual((await read(retained, '#')).topics, ['b'])
  assert.equal(retained.counts.messages, 1)
})

test('a wildcard finds what a look at every topic finds, after any history', async () => {
  const level = fc.constantFrom('a', 'b', '', '$x')
  const topic = fc
    .array(level, { minLength: 1, maxLength: 4 })
    .map((levels) => levels.join('/'))
    .filter((text) => text !== '')
  const filter = fc
    .tuple(fc.array(fc.oneof(level, fc.constant('+')), { maxLength: 4 }), fc.boolean())
    .map(([levels, rest]) => [...levels, ...(rest ? ['#'] : [])].join('/'))
    .filter((text) => text !== '')
  const change = fc.record({ topic, isRemoval: fc.boolean() })
  await fc.assert(
    fc.asyncProperty(
      fc.array(change, { maxLength: 30 }),
      fc.array(filter, { maxLength: 6 }),
      async (changes, filters) => {
        const { retained, store } = await open()
        for (const { topic: name, isRemoval } of changes) {
          await retained.retain(message(name, isRemoval ? { payload: Buffer.alloc(0) } : {}))
        }
        const kept = [...store.messages.keys()]
        for (const text of filters) {
          const wanted = kept.filter((name) => topicMatches(text, name)).toSorted()
          assert.deepEqual((await read(retained, text)).topics, wanted)
        }
        for (const name of kept) await retained.retain(message(name, { payload: Buffer.alloc(0) }))
        assert.deepEqual(retained.counts, nothing)
      },
    ),
    { numRuns: 500 },
  )
})

test('what is void is not delivered, and removed once others were told; what somebody else retains meanwhile stays', async () => {
  const { retained, store, voided } = await open()
  for (const topic of ['a', 'b', 'c']) await retained.retain(message(topic))
  await retained.retain(message('d', { from: 'cam-2' }))
  assert.equal(await retained.purge('cam-1', async () => {}), 0, 'nothing is void')
  voided.add('cam-1')
  assert.deepEqual((await read(retained, '#')).topics, ['d'])
  const told: string[] = []
  const purged = await retained.purge('cam-1', async ({ topic }) => {
    assert.ok(store.messages.has(topic), 'told before it is gone: a crash between tells it again')
    told.push(topic)
    if (topic === 'a') await retained.retain(message('b', { from: 'cam-2' }))
  })
  assert.deepEqual([told, purged], [['a', 'c'], 2])
  assert.deepEqual([...store.messages.keys()].toSorted(), ['b', 'd'])
})

/** @returns how many turns of the event loop others had during the work */
async function turnsDuring(work: () => Promise<unknown>): Promise<number> {
  let turns = 0
  const turn = (): void => {
    turns++
    pending = setImmediate(turn)
  }
  let pending = setImmediate(turn)
  await work()
  clearImmediate(pending)
  return turns
}

test('a wildcard looks at what it can match and not at all that is retained (trap T23); a long look gives way', async () => {
  const store = new MemoryStore()
  for (let i = 0; i < 20_000; i++) {
    const one = message(`devices/d${i}/state`, { from: `d${i}` })
    store.messages.set(one.topic, one)
  }
  const { retained } = await open(store)
  store.asked.length = 0
  // Every thousand places that were looked at, others have their turn.
  const direct = async (): Promise<void> => assert.equal((await read(retained, 'devices/d7/#')).got.length, 1)
  assert.equal(await turnsDuring(direct), 0)
  const rare = async (): Promise<void> => assert.equal((await read(retained, 'devices/+/rare')).got.length, 0)
  assert.ok((await turnsDuring(rare)) >= 10)
  assert.deepEqual(store.asked, ['devices/d7/state'])
})

test('what is stored for its receiver comes in parts of so many octets, and one that is larger alone', async () => {
  const { retained } = await open()
  for (const [topic, bytes] of Object.entries({ a: 40, b: 60, c: 1, d: 500, e: 100, f: 1 }))
    await retained.retain(message(topic, { payload: Buffer.alloc(bytes, 'x') }))
  const receiver = new Receiver()
  receiver.mostBytes = 100
  await retained.deliver(subscription('#'), true, receiver)
  assert.deepEqual(receiver.sizes, [2, 1, 1, 1, 1])
})
