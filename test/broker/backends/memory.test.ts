import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { AedesPublishPacket, Client, Subscription } from 'aedes'
import { MemoryBackend } from '../../../broker/backends/memory.ts'

const open = (more: Partial<ConstructorParameters<typeof MemoryBackend>[0]> = {}) => {
  const dropped: string[] = []
  const backend = new MemoryBackend({
    maxQueuedMessages: 5,
    maxRetainedPerDevice: 2,
    maxSessionsPerDevice: 2,
    maxStoredBytesPerDevice: 100_000,
    paceBytes: 1_000,
    isPresent: () => false,
    mayReceive: () => true,
    onDropped: (what, owner) => dropped.push(`${what} ${owner}`),
    ...more,
  })
  return { backend, dropped }
}
const link = { destroyed: false, drained: async () => {} }
const clientOf = (id: string, conn: unknown = link) => ({ id, conn, closed: false }) as unknown as Client
let counter = 0
const message = (topic: string, payload: string, qos: 0 | 1 | 2 = 1) =>
  ({
    cmd: 'publish',
    brokerId: 'b',
    brokerCounter: ++counter,
    topic,
    payload: Buffer.from(payload),
    qos,
    retain: false,
    dup: false,
  }) as AedesPublishPacket

async function subscribe(backend: MemoryBackend, id: string, topic: string, qos: 0 | 1 | 2 = 1): Promise<void> {
  const subscription: Subscription = { topic, qos }
  backend.grant(subscription)
  await backend.addSubscriptions(clientOf(id), [subscription])
}
const enqueue = async (backend: MemoryBackend, packet: AedesPublishPacket): Promise<void> =>
  backend.outgoingEnqueueCombi(await backend.subscriptionsByTopic(packet.topic), packet)
type Stored = { payload: Buffer; qos: number; cmd: string; messageId?: number; dup: boolean }
const queueOf = async (backend: MemoryBackend, id: string, conn?: unknown): Promise<Stored[]> =>
  (await backend.outgoingStream(clientOf(id, conn)).toArray()) as Stored[]
const payloads = (queue: Stored[]): string[] => queue.map(({ payload }) => String(payload))

test('only filters that were granted are stored', async () => {
  const { backend } = open()
  const [yes, no]: Subscription[] = [
    { topic: 'yes', qos: 1 },
    { topic: 'no', qos: 1 },
  ]
  backend.grant(yes!)
  await backend.addSubscriptions(clientOf('d'), [yes!, no!])
  assert.deepEqual(await backend.subscriptionsByClient({ id: 'd' }), [{ topic: 'yes', qos: 1 }])
  assert.deepEqual(await backend.subscriptionsByTopic('no'), [])
})

test('one entry for a client and message, at the lower of its QoS and the highest grant', async () => {
  const { backend } = open()
  await subscribe(backend, 'd', 'a/#', 1)
  await subscribe(backend, 'd', 'a/+', 2)
  await subscribe(backend, 'd', 'a/b', 0)
  await enqueue(backend, message('a/b', 'x', 2))
  await enqueue(backend, message('a', 'y', 2))
  assert.deepEqual(
    (await queueOf(backend, 'd')).map(({ qos }) => qos),
    [2, 1],
  )
})

test('a full queue keeps what it has and tells of what it does not take', async () => {
  const { backend, dropped } = open()
  await subscribe(backend, 'd', 'a')
  for (let i = 0; i < 7; i++) await enqueue(backend, message('a', String(i)))
  assert.deepEqual(payloads(await queueOf(backend, 'd')), ['0', '1', '2', '3', '4'])
  assert.deepEqual(dropped, ['queued d', 'queued d'])
})

test('what a present session may not receive is not kept for it', async () => {
  const { backend } = open({ mayReceive: (clientId, topic) => !(clientId === 'd' && topic === 'secret') })
  await subscribe(backend, 'd', '#')
  await enqueue(backend, message('secret', 'x'))
  await enqueue(backend, message('open', 'y'))
  assert.deepEqual(payloads(await queueOf(backend, 'd')), ['y'])
})

test('two QoS 2 messages in flight are released each by its own packet id (T32)', async () => {
  const { backend } = open()
  await subscribe(backend, 'd', 'a', 2)
  const [one, two] = [message('a', '1', 2), message('a', '2', 2)]
  for (const [packet, messageId] of [
    [one, 10],
    [two, 11],
  ] as const) {
    await enqueue(backend, packet)
    await backend.outgoingUpdate(clientOf('d'), { ...packet, messageId })
  }
  for (const messageId of [10, 11]) await backend.outgoingUpdate(clientOf('d'), { cmd: 'pubrel', messageId })
  assert.deepEqual(
    (await queueOf(backend, 'd')).map(({ cmd, messageId }) => [cmd, messageId]),
    [
      ['pubrel', 10],
      ['pubrel', 11],
    ],
  )
  for (const messageId of [10, 11]) await backend.outgoingClearMessageId(clientOf('d'), { messageId })
  assert.deepEqual(await queueOf(backend, 'd'), [])
})

test('a delivery that did not happen takes no other message out of the queue (T33)', async () => {
  const { backend } = open()
  await subscribe(backend, 'd', 'a')
  await enqueue(backend, message('a', '1'))
  assert.equal(await backend.outgoingClearMessageId(clientOf('d'), message('a', 'other')), undefined)
  assert.deepEqual(payloads(await queueOf(backend, 'd')), ['1'])
})

test('what went out before comes again as a duplicate', async () => {
  const { backend } = open()
  await subscribe(backend, 'd', 'a')
  const packet = message('a', '1')
  await enqueue(backend, packet)
  await enqueue(backend, message('a', '2'))
  await backend.outgoingUpdate(clientOf('d'), { ...packet, messageId: 7 })
  assert.deepEqual(
    (await queueOf(backend, 'd')).map(({ dup }) => dup),
    [true, false],
  )
})

test('a device that keeps too many sessions loses the one that was unused longest', async () => {
  const { backend, dropped } = open({ isPresent: (clientId) => clientId === 'd:a' })
  for (const id of ['d:a', 'd:b']) await subscribe(backend, id, 't')
  await subscribe(backend, 'e', 't')
  await subscribe(backend, 'd:c', 't')
  assert.deepEqual(dropped, ['session d:b'])
  assert.deepEqual((await backend.subscriptionsByTopic('t')).map(({ clientId }) => clientId).toSorted(), [
    'd:a',
    'd:c',
    'e',
  ])
})

test('sessions of a device are dropped together, and those of a longer name are not', async () => {
  const { backend } = open()
  for (const id of ['d', 'd:x', 'dd']) await subscribe(backend, id, 't')
  backend.dropSessionsOf('d')
  assert.deepEqual(
    (await backend.subscriptionsByTopic('t')).map(({ clientId }) => clientId),
    ['dd'],
  )
})

test('a session that cleans itself keeps nothing', async () => {
  const { backend } = open()
  await subscribe(backend, 'd', 't')
  await enqueue(backend, message('t', 'x'))
  await backend.cleanSubscriptions(clientOf('d'))
  assert.deepEqual(await queueOf(backend, 'd'), [])
  assert.deepEqual(await backend.subscriptionsByTopic('t'), [])
})

test('ids like __proto__ are ids', async () => {
  const { backend } = open()
  await subscribe(backend, '__proto__', 'constructor')
  await enqueue(backend, message('constructor', 'x'))
  assert.deepEqual(payloads(await queueOf(backend, '__proto__')), ['x'])
  await subscribe(backend, 'd', '__proto__/#')
  assert.deepEqual(
    (await backend.subscriptionsByTopic('__proto__')).map(({ clientId }) => clientId),
    ['d'],
  )
})

test('retained messages: one for a topic, a bound for each owner, an empty one takes it away', async () => {
  const { backend, dropped } = open()
  const retain = (clientId: string, topic: string, payload: string) =>
    backend.storeRetained({ ...message(topic, payload), clientId, retain: true } as AedesPublishPacket & {
      clientId: string
    })
  const find = async (...filters: string[]): Promise<string[]> => {
    backend.nextRetainedFor(link)
    return payloads((await backend.createRetainedStreamCombi(filters).toArray()) as Stored[])
  }
  await retain('d:1', 'a/1', 'one')
  await retain('d:2', 'a/2', 'two')
  await retain('d', 'a/3', 'three')
  assert.deepEqual(dropped, ['retained d'])
  assert.deepEqual(await find('a/#'), ['one', 'two'])
  assert.deepEqual(await find('a/2', 'a/+', 'a/2'), ['two', 'one'], 'once each, whatever number of filters match')
  await retain('e', 'a/1', 'taken over')
  await retain('d', 'a/3', 'room again')
  assert.deepEqual((await find('#')).toSorted(), ['room again', 'taken over', 'two'])
  await retain('e', 'a/1', '')
  assert.deepEqual(await find('a/1'), [])
})

test('a queue is handed over no faster than its reader drains, and not at all to one that is gone', async () => {
  const { backend } = open({ paceBytes: 100 })
  await subscribe(backend, 'd', 'a')
  for (let i = 0; i < 5; i++) await enqueue(backend, message('a', 'x'.repeat(60)))
  let waits = 0
  const slow = {
    destroyed: false,
    drained: async () => {
      waits++
      slow.destroyed = waits === 3
    },
  }
  assert.equal((await queueOf(backend, 'd', slow)).length, 3)
  assert.equal(waits, 3)
})

test('a client that closed before it was registered never gets past the last question (T7)', async () => {
  const { backend } = open()
  await backend.delWill({ closed: false })
  const never = backend.delWill({ closed: true }).then(() => 'went on')
  assert.equal(await Promise.race([never, new Promise((resolve) => setImmediate(() => resolve('waits')))]), 'waits')
})

test('filters, queued and retained messages of a device share one budget, and what goes gives its part back', async () => {
  const { backend, dropped } = open({
    maxStoredBytesPerDevice: 3_000,
    maxQueuedMessages: 100,
    maxRetainedPerDevice: 100,
  })
  const retain = (topic: string, bytes: number, clientId = 'dev:2') =>
    backend.storeRetained({ ...message(topic, 'x'.repeat(bytes)), clientId })
  await subscribe(backend, 'dev:1', 'd/#')
  for (let n = 0; n < 5; n++) await enqueue(backend, message('d/x', 'x'.repeat(1_000)))
  assert.deepEqual(dropped, ['queued dev:1', 'queued dev:1', 'queued dev:1'])
  await retain('d/kept', 1_000)
  assert.equal(dropped.at(-1), 'retained dev')
  await backend.cleanSubscriptions(clientOf('dev:1'))
  await retain('d/kept', 1_000)
  await retain('d/more', 1_000)
  assert.equal(dropped.length, 4)
  await retain('d/third', 1_000)
  assert.equal(dropped.length, 5)
  // In place of what is there; and another device has a budget of its own.
  await retain('d/kept', 1_001)
  await retain('e/kept', 1_000, 'other')
  assert.equal(dropped.length, 5)
})
