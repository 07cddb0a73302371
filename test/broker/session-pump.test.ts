import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { SessionStore } from '../../broker/backends/session-store.ts'
import { SessionPump } from '../../broker/session-pump.ts'
import type { Link } from '../../broker/wire/link.ts'
import type { Delivered, Delivery } from '../../broker/wire/link-events.ts'
import { FleetError } from '../../runtime/errors.ts'
import { forGood, limits, message, openStore } from './with-store.ts'

/** What a link is to a pump. */
class Wire {
  readonly sent: string[] = []
  readonly #looks = new Set<() => void>()
  answer: (text: string) => Delivered = () => 'sent'

  deliver({ payload }: { payload: Buffer }, { qos, packetId, dup }: Delivery): Delivered {
    const answer = this.answer(`${payload}`)
    if (answer === 'sent') this.#note(`${payload} q${qos} #${packetId}${dup ? ' dup' : ''}`)
    return answer
  }

  send({ type, packetId }: { type: string; packetId: number }): void {
    this.#note(`${type} #${packetId}`)
  }

  async until(count: number): Promise<void> {
    while (this.sent.length < count) await new Promise<void>((resolve) => this.#looks.add(resolve))
  }

  #note(what: string): void {
    this.sent.push(what)
    for (const look of this.#looks) look()
    this.#looks.clear()
  }
}

type Options = { window?: number; mayReceive?: (topic: string) => boolean; isGone?: () => boolean }

/** A session of `d` with its pump. */
async function open({ keepMs } = forGood) {
  const clock = { now: Date.now() }
  const owned = await openStore(clock)
  const { store } = owned
  let { epoch } = await store.claim('d', 'b', { keepMs })
  const failures: unknown[] = []
  const start = (
    { window = 10, mayReceive = () => true, isGone = () => false }: Options = {},
    over: SessionStore = store,
  ) => {
    const wire = new Wire()
    const link = wire as unknown as Link
    const pump = new SessionPump({
      store: over,
      link,
      clientId: 'd',
      epoch,
      window,
      mayDeliver: ({ topic }) => mayReceive(topic),
      isGone,
      onFailed: (error) => failures.push(error),
    })
    return { wire, pump }
  }
  const enqueue = async (qos: 1 | 2, ...texts: string[]): Promise<void> => {
    for (const text of texts) {
      await store.enqueue([{ clientId: 'd', message: message('t', text), qos, identifiers: [], limits }])
    }
  }
  const again = async (): Promise<void> => {
    epoch = (await store.claim('d', 'b', forGood)).epoch
  }
  const left = async (): Promise<string[]> =>
    (await store.readQueue('d', epoch, 0, 100)).map((one) =>
      one.state === 'publish' ? `${one.message.payload}` : one.state,
    )
  return Object.assign(owned, { start, enqueue, again, left, failures, clock })
}

test('a queue goes out in order, as far as the window lets it, and on with each acknowledgement', async () => {
  await using all = await open()
  await all.enqueue(1, 'a', 'b')
  await all.enqueue(2, 'c')
  const { pump, wire } = all.start({ window: 2 })
  pump.wake()
  await pump.untilIdle()
  assert.deepEqual(wire.sent, ['a q1 #1', 'b q1 #2'])
  pump.acknowledged(1)
  await pump.untilIdle()
  pump.acknowledged(2)
  await wire.until(3)
  assert.deepEqual(wire.sent.slice(2), ['c q2 #3'])
  pump.received(3)
  await wire.until(4)
  assert.deepEqual(wire.sent.slice(3), ['pubrel #3'])
  assert.deepEqual(await all.left(), ['pubrel'])
  pump.acknowledged(3)
  await pump.untilIdle()
  assert.deepEqual([await all.left(), all.failures], [[], []])
})

for (const keepMs of [0, 1e9]) {
  test(`who has more to send waits for the acknowledgement of what fills the window, in a session that is kept ${keepMs} ms`, async () => {
    await using all = await open({ keepMs })
    await all.enqueue(1, 'a', 'b', 'c')
    const { pump, wire } = all.start({ window: 2 })
    pump.wake()
    await pump.untilIdle()
    let hasRoom = false
    const room = pump.untilRoom(1e9).then(() => {
      hasRoom = true
    })
    pump.acknowledged(1)
    await wire.until(3)
    await pump.untilIdle()
    assert.deepEqual([wire.sent.length, hasRoom], [3, false], 'all has gone out, and the window is full')
    pump.acknowledged(2)
    await room
    let isLight = false
    const light = pump.untilRoom(1).then(() => {
      isLight = true
    })
    await all.enqueue(1, 'd')
    pump.wake()
    await wire.until(4)
    await pump.untilIdle()
    assert.equal(isLight, false, 'there is a place in the window, and too much is not acknowledged')
    const stopped = pump.untilRoom(1e9)
    pump.stop()
    await Promise.all([stopped, light])
    assert.deepEqual([await all.left(), all.failures], [['c', 'd'], []])
  })
}

test('on the next connection what was under way goes out first, with its packet identifiers and DUP', async () => {
  await using all = await open()
  await all.enqueue(2, 'a', 'b')
  await all.enqueue(1, 'c')
  const first = all.start()
  first.pump.wake()
  await first.wire.until(3)
  first.pump.received(1)
  await first.wire.until(4)
  first.pump.stop()
  await all.again()
  await all.enqueue(1, 'd')
  const { pump, wire } = all.start()
  pump.wake()
  await wire.until(4)
  assert.deepEqual(wire.sent, ['pubrel #1', 'b q2 #2 dup', 'c q1 #3 dup', 'd q1 #4'])
})

test('the queue of a session in memory goes out without a wait, in order, and as far as the window lets it', async () => {
  await using all = await open({ keepMs: 0 })
  await all.enqueue(1, 'a', 'b', 'too large', 'c', 'd', 'e')
  const { pump, wire } = all.start({ window: 2 })
  wire.answer = (text) => (text === 'too large' ? 'dropped' : 'sent')
  const turn = (): Promise<void> => Promise.resolve()
  pump.wake()
  await turn()
  assert.deepEqual(wire.sent, ['a q1 #1', 'b q1 #2'])
  pump.acknowledged(1)
  pump.acknowledged(2)
  await turn()
  assert.deepEqual(wire.sent.slice(2), ['c q1 #4', 'd q1 #5'])
  wire.answer = () => 'waiting'
  pump.acknowledged(4)
  await all.enqueue(1, 'f')
  wire.answer = () => 'sent'
  pump.room()
  await pump.untilIdle()
  assert.deepEqual(wire.sent.slice(4), ['e q1 #7'])
  pump.acknowledged(5)
  await turn()
  assert.deepEqual([wire.sent.slice(5), await all.left()], [['f q1 #8'], ['e', 'f']])
  pump.stop()
  pump.wake()
  await pump.untilIdle()
  assert.deepEqual(all.failures, [])
})

test('a session in memory that is written down goes on where it was', async () => {
  await using all = await open({ keepMs: 0 })
  await all.enqueue(1, 'a', 'b')
  const { pump, wire } = all.start({ window: 3 })
  pump.wake()
  await pump.untilIdle()
  await all.enqueue(2, 'c')
  await all.enqueue(1, 'd')
  pump.wake()
  await wire.until(3)
  pump.acknowledged(1)
  await wire.until(4)
  assert.deepEqual(wire.sent, ['a q1 #1', 'b q1 #2', 'c q2 #3', 'd q1 #4'])
  assert.deepEqual([await all.left(), all.failures], [['b', 'c', 'd'], []])
})

test('a packet identifier that is under way is passed over', async () => {
  await using all = await open()
  await all.enqueue(1, 'a', 'b')
  const first = all.start()
  first.pump.wake()
  await first.wire.until(2)
  first.pump.acknowledged(1)
  await first.pump.untilIdle()
  first.pump.stop()
  await all.again()
  await all.enqueue(1, 'c', 'd')
  const { pump, wire } = all.start()
  pump.wake()
  await wire.until(3)
  assert.deepEqual(wire.sent, ['b q1 #2 dup', 'c q1 #1', 'd q1 #3'])
})

test('what the policy forbids, or is too large for the client, is taken off the queue and holds nothing up', async () => {
  await using all = await open()
  await all.enqueue(1, 'too large', 'fine')
  await all.enqueue(2, 'too large')
  const { pump, wire } = all.start()
  wire.answer = (text) => (text === 'too large' ? 'dropped' : 'sent')
  pump.wake()
  await pump.untilIdle()
  assert.deepEqual([wire.sent, await all.left()], [['fine q1 #2'], ['fine']])
  pump.stop()
  await all.again()
  const second = all.start({ mayReceive: () => false })
  second.pump.wake()
  await second.pump.untilIdle()
  assert.deepEqual([second.wire.sent, await all.left(), all.failures], [[], [], []])
})

test('what nobody may receive since the connection was ended a moment ago stays for the next one', async () => {
  await using all = await open()
  await all.enqueue(1, 'a', 'b')
  const { pump, wire } = all.start({ mayReceive: () => false, isGone: () => true })
  pump.wake()
  await pump.untilIdle()
  assert.deepEqual([wire.sent, await all.left()], [[], ['a', 'b']])
})

test('a message that may not be received any more once there is room is not sent', async () => {
  await using all = await open()
  await all.enqueue(1, 'a')
  let isAllowed = true
  const { pump, wire } = all.start({ mayReceive: () => isAllowed })
  const waiting = Promise.withResolvers<void>()
  wire.answer = () => {
    waiting.resolve()
    return 'waiting'
  }
  pump.wake()
  await waiting.promise
  isAllowed = false
  wire.answer = () => 'sent'
  pump.room()
  await pump.untilIdle()
  assert.deepEqual([wire.sent, await all.left()], [[], []])
})

test('a client that does not read is waited for, and a pump that is stopped meanwhile leaves the queue as it is', async () => {
  await using all = await open()
  await all.enqueue(1, 'a', 'b')
  const { pump, wire } = all.start()
  let asked = 0
  wire.answer = () => (++asked < 3 ? 'waiting' : 'sent')
  pump.wake()
  while (asked < 1) await new Promise((resolve) => setImmediate(resolve))
  pump.room()
  while (asked < 2) await new Promise((resolve) => setImmediate(resolve))
  let isIdle = false
  const idle = pump.untilIdle().then(() => {
    isIdle = true
  })
  assert.equal(isIdle, false)
  pump.stop()
  await idle
  assert.deepEqual([wire.sent, await all.left(), all.failures], [[], ['a', 'b'], []])
  await pump.untilIdle()
})

test('QoS 2 goes out only once its packet identifier is stored, QoS 1 without waiting', async () => {
  await using all = await open()
  await all.enqueue(1, 'one')
  await all.enqueue(2, 'two')
  const noted = Promise.withResolvers<void>()
  const asked: number[] = []
  const slow = Object.assign(Object.create(all.store), {
    findQueueInMemory: () => undefined,
    readQueue: all.store.readQueue.bind(all.store),
    discard: all.store.discard.bind(all.store),
    assignPacketId: async (clientId: string, epoch: number, seq: number, packetId: number) => {
      asked.push(packetId)
      if (packetId === 2) await noted.promise
      return all.store.assignPacketId(clientId, epoch, seq, packetId)
    },
  }) as SessionStore
  const { pump, wire } = all.start({}, slow)
  pump.wake()
  while (asked.length < 2) await new Promise((resolve) => setImmediate(resolve))
  assert.ok(!wire.sent.includes('two q2 #2'))
  noted.resolve()
  await pump.untilIdle()
  assert.deepEqual(wire.sent, ['one q1 #1', 'two q2 #2'])
})

for (const call of ['readQueue', 'assignPacketId', 'ack', 'markReceived', 'discard'] as const) {
  test(`when the store fails at ${call} the connection is told, and nothing more once the pump has stopped`, async () => {
    await using all = await open()
    await all.enqueue(2, 'dropped', 'a')
    const failure = new FleetError('unavailable', 'no disk')
    const failing = new Proxy(all.store, {
      get(target, name) {
        if (name === call) return () => Promise.reject(failure)
        const value = Reflect.get(target, name)
        return typeof value === 'function' ? value.bind(target) : value
      },
    })
    for (const isStopped of [false, true]) {
      all.failures.length = 0
      const { pump, wire } = all.start({}, failing)
      wire.answer = (text) => (text === 'dropped' ? 'dropped' : 'sent')
      if (call === 'ack' || call === 'markReceived') {
        if (isStopped) pump.stop()
        if (call === 'ack') pump.acknowledged(1)
        else pump.received(1)
      } else {
        pump.wake()
        if (isStopped) pump.stop()
      }
      await pump.untilIdle()
      await new Promise((resolve) => setImmediate(resolve))
      assert.ok(!wire.sent.some((what) => what.startsWith('pubrel')), 'PUBREL promises that the message is forgotten')
      assert.deepEqual(all.failures.slice(0, 1), isStopped ? [] : [failure])
    }
  })
}
