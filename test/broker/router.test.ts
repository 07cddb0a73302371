import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Quotas } from '../../broker/quotas.ts'
import { RetainedMessages } from '../../broker/retained.ts'
import { type Carried, Router } from '../../broker/router.ts'
import type { Sessions } from '../../broker/sessions.ts'
import type { Bus } from '../../broker/wire/aedes-port.ts'
import { RouteIndex, type Subscription } from '../../broker/wire/route-index.ts'
import { roomy } from '../suites/session-store.ts'
import { forGood, limits, message, openStore } from './with-store.ts'

type Live = { got: string[]; woken: number; mayReceive: boolean }

/** A router over the real store and index; who is connected is said by the test. */
async function open(options: { quota?: typeof roomy; absent?: typeof limits } = {}) {
  const owned = await openStore({ now: Date.now() }, options.quota)
  const { store } = owned
  const index = new RouteIndex({ seed: 1, cachedTopics: 64 })
  const live = new Map<string, Live>()
  const onBus: string[] = []
  const dropped: string[] = []
  const bus = {
    publish: (topic: string, { entries }: Carried) => onBus.push(`${topic}: ${[...entries.keys()].sort()}`),
  } as unknown as Bus<Carried>
  const findLive = (clientId: string) => {
    const one = live.get(clientId)
    return (
      one && {
        receiver: {
          wake: () => one.woken++,
          deliver: ({ payload }: { payload: Buffer }) => one.got.push(`${payload}`),
        },
      }
    )
  }
  const router = new Router({
    index,
    bus,
    store,
    retained: await RetainedMessages.open(store, { now: Date.now, isVoid: () => false }),
    quotas: new Quotas(options.quota ?? roomy),
    sessions: { findLive } as unknown as Sessions,
    mayReceive: (clientId) => live.get(clientId)?.mayReceive === true,
    limits: { absent: options.absent ?? limits, live: limits },
    onDropped: (what, owner, topic) => dropped.push(`${what} ${owner} ${topic}`),
  })
  const epochs = new Map<string, number>()
  const subscribe = async (clientId: string, filter: string, more: Partial<Subscription> = {}): Promise<void> => {
    if (!epochs.has(clientId)) epochs.set(clientId, (await store.claim(clientId, 'b', forGood)).epoch)
    const options = { noLocal: false, retainAsPublished: false, retainHandling: 0 as const }
    index.add({ clientId, filter, granted: 2, ...options, ...more })
  }
  const connect = (clientId: string, mayReceive = true): Live => {
    const one = { got: [], woken: 0, mayReceive }
    live.set(clientId, one)
    return one
  }
  const queued = async (clientId: string) =>
    (await store.readQueue(clientId, epochs.get(clientId)!, 0, 100)).map((one) =>
      one.state === 'publish'
        ? `${one.message.payload} q${one.qos}${one.retain ? ' retain' : ''} ${one.identifiers}`.trim()
        : '',
    )
  return Object.assign(owned, { router, subscribe, connect, queued, onBus, dropped, epochs })
}

test('a message goes to the bus for who gets it at QoS 0, and to the queues of the others at the lower QoS', async () => {
  await using all = await open()
  for (const [id, granted] of [
    ['zero', 0],
    ['one', 1],
    ['two', 2],
    ['gone', 0],
  ] as const) {
    await all.subscribe(id, 'a/#', { granted, identifier: granted + 1 })
  }
  all.connect('zero')
  const one = all.connect('one')
  assert.equal(await all.router.route(message('a/b', 'm')), true)
  assert.deepEqual(all.onBus, ['a/b: zero'])
  assert.deepEqual([await all.queued('one'), await all.queued('two')], [['m q1 2'], ['m q2 3']])
  assert.deepEqual([await all.queued('gone'), one.woken], [[], 1])
  await all.router.route(message('a/b', 'n', { qos: 0 }))
  assert.deepEqual([all.onBus[1], await all.queued('two')], ['a/b: one,zero', ['m q2 3']])
  assert.equal(await all.router.route(message('b', 'm')), false, 'nobody wants it')
  assert.equal(all.onBus.length, 2)
})

test('RETAIN goes out as it came only where that was asked for [MQTT-3.3.1-12] [MQTT-3.3.1-13]', async () => {
  await using all = await open()
  await all.subscribe('as-is', 'a', { retainAsPublished: true })
  await all.subscribe('plain', 'a')
  await all.router.route(message('a', 'm', { retain: true }))
  assert.deepEqual([await all.queued('as-is'), await all.queued('plain')], [['m q2 retain'], ['m q2']])
})

test('who is connected and may not receive a message gets none of it, and who is not is asked at the delivery', async () => {
  await using all = await open()
  for (const id of ['forbidden', 'absent']) await all.subscribe(id, 'a')
  all.connect('forbidden', false)
  await all.router.route(message('a', 'm'))
  assert.deepEqual([await all.queued('forbidden'), await all.queued('absent')], [[], ['m q2']])
})

test('a shared subscription gives each message to one member, whoever is there and may have it first', async () => {
  await using all = await open()
  for (const id of ['a', 'b', 'c']) await all.subscribe(id, '$share/g/t')
  const a = all.connect('a')
  all.connect('b', false)
  await all.router.route(message('t', '1'))
  await all.router.route(message('t', '2', { qos: 0 }))
  assert.deepEqual([await all.queued('a'), a.got], [['1 q2'], ['2']])
  assert.deepEqual([await all.queued('b'), await all.queued('c'), all.onBus], [[], [], []])
})

test('a member of a group who has a subscription beside gets the message twice (MQTT 5, 4.8.2)', async () => {
  await using all = await open()
  await all.subscribe('a', '$share/g/t', { granted: 1 })
  await all.subscribe('a', 't')
  await all.router.route(message('t', 'm'))
  assert.deepEqual((await all.queued('a')).sort(), ['m q1', 'm q2'])
})

test('a QoS 2 packet is noted with its message, also where nobody gets it, and is not routed again', async () => {
  await using all = await open()
  await all.subscribe('a', 't')
  await all.subscribe('publisher', 'none')
  const incoming = { clientId: 'publisher', epoch: all.epochs.get('publisher')!, packetId: 7 }
  assert.equal(await all.router.route(message('nobody', 'm'), incoming), false)
  assert.equal(await all.store.incoming('publisher', incoming.epoch, 7, 'has'), true)
  for (let round = 0; round < 2; round++) await all.router.route(message('t', 'm'), { ...incoming, packetId: 8 })
  assert.deepEqual(await all.queued('a'), ['m q2'])
})

test('a full queue and too much that is retained are told of, and the sender hears nothing of it', async () => {
  await using all = await open({ absent: { messages: 1, bytes: 1e9 }, quota: { ...roomy, retained: 1 } })
  await all.subscribe('a', 't')
  assert.equal(await all.router.route(message('t', '1')), true)
  assert.equal(await all.router.route(message('t', '2')), true)
  for (const topic of ['r/1', 'r/2'])
    await all.router.retain(message(topic, 'm', { retain: true, from: 'cam:app' }), {})
  assert.deepEqual(all.dropped, ['queued a t', 'retained cam r/2'])
  all.connect('a')
  assert.equal(await all.router.route(message('t', '3')), true)
  assert.deepEqual(await all.queued('a'), ['1 q2', '3 q2'], 'who is there has more room')
})

test('retained messages for one client are queued in their order, in one write', async () => {
  await using all = await open()
  await all.subscribe('a', 't/#')
  const a = all.connect('a')
  const deliveries = ['1', '2', '3'].map((text) => ({
    clientId: 'a',
    message: message(`t/${text}`, text),
    qos: 1 as const,
    retain: true,
    identifiers: [],
  }))
  await all.router.enqueueRetained(deliveries)
  assert.deepEqual(await all.queued('a'), ['1 q1 retain', '2 q1 retain', '3 q1 retain'])
  assert.ok(a.woken > 0)
})

test('what the store does not take is no answer', async () => {
  await using all = await open()
  await all.subscribe('a', 't')
  await all.store[Symbol.asyncDispose]()
  await assert.rejects(all.router.route(message('t', 'm')), { code: 'unavailable' })
  await assert.rejects(all.router.retain(message('t', 'm', { retain: true }), {}), { code: 'unavailable' })
})
