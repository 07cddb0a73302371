import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { describe, test } from 'node:test'
import { setImmediate as turnOver } from 'node:timers/promises'
import { LevelSessions, type LevelSessionsOptions } from '../../../broker/backends/level-sessions.ts'
import type { Delivery, Message, QueueInMemory, SessionStore } from '../../../broker/backends/session-store.ts'
import { type Area, BrokerStore } from '../../../broker/store.ts'
import { deliveryTo, messageOf, type Place, roomy, sessionStoreSuite, start } from '../../suites/session-store.ts'

const newFolder = (): string => mkdtempSync(join(tmpdir(), 'fleetgate-sessions-'))

const createPlace =
  (bounds: Pick<LevelSessionsOptions, 'windowEntries' | 'cacheBytes'>) => async (): Promise<Place> => {
    const folder = newFolder()
    const place: Place = {
      now: start,
      quota: roomy,
      open: async () => {
        const broker = await BrokerStore.open(folder)
        const clock = (): Date => new Date(place.now)
        const store = await LevelSessions.open({ area: broker.sessions, clock, quotaOf: () => place.quota, ...bounds })
        const close = store[Symbol.asyncDispose].bind(store)
        return Object.assign(store, {
          [Symbol.asyncDispose]: async () => {
            await close()
            await broker[Symbol.asyncDispose]()
          },
        })
      },
      remove: async () => rmSync(folder, { recursive: true }),
    }
    return place
  }

sessionStoreSuite('level', createPlace({}))
// So little memory that nearly all is read from disk.
sessionStoreSuite('level with next to no memory', createPlace({ windowEntries: 1, cacheBytes: 100 }))

const forGood = { keepMs: Number.POSITIVE_INFINITY }
const enqueue = (store: SessionStore, message: Message, ...clientIds: string[]) =>
  store.enqueue(clientIds.map((clientId) => deliveryTo(clientId, message)))
const texts = async (store: SessionStore, clientId: string, epoch: number): Promise<string[]> =>
  (await store.readQueue(clientId, epoch, 0, 100_000)).map((one) =>
    one.state === 'publish' ? `${one.message.payload}` : one.state,
  )

/** One store in a folder of its own, with what lies under it. */
async function withStore(
  options: Partial<LevelSessionsOptions> & { wrap?: (area: Area) => Area },
  body: (store: LevelSessions, area: Area, broker: BrokerStore) => Promise<void>,
): Promise<void> {
  const folder = newFolder()
  try {
    await using broker = await BrokerStore.open(folder)
    const area = options.wrap?.(broker.sessions) ?? broker.sessions
    const clock = (): Date => new Date(start)
    await using store = await LevelSessions.open({ area, clock, quotaOf: () => roomy, ...options })
    await body(store, area, broker)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

const keysOf = async (area: Area, prefix: string): Promise<string[]> =>
  (await area.page(prefix, '', 100_000)).map(([key]) => key)

/** Resolves when a condition holds that nobody announces. */
async function until(holds: () => Promise<boolean>): Promise<void> {
  while (!(await holds())) await new Promise((resolve) => setImmediate(resolve))
}

const aFilter = {
  filter: 'a',
  qos: 1,
  noLocal: false,
  retainAsPublished: false,
  retainHandling: 0,
} as const
const never = new Promise<never>(() => {})
const succeeds = (call: Promise<unknown>): Promise<boolean> =>
  call.then(
    () => true,
    () => false,
  )

const script = join(import.meta.dirname, 'enqueuing-process.ts')

test('what was confirmed survives SIGKILL: every message in order, none twice, none again after its acknowledgement', async () => {
  const folder = newFolder()
  try {
    const queued = new Set<string>()
    const heard = new Map<string, number>()
    const done = new Set<string>()
    for (let round = 0; round < 3; round++) {
      const child = spawn(process.execPath, [script, folder, `${round}`], { stdio: ['ignore', 'pipe', 'inherit'] })
      const exited = once(child, 'exit')
      let seen = 0
      for await (const line of createInterface(child.stdout)) {
        const [what, text] = [line.slice(0, line.indexOf(' ')), line.slice(line.indexOf(' ') + 1)]
        if (what === 'queued') queued.add(text)
        if (what === 'heard') heard.set(text, (heard.get(text) ?? 0) + 1)
        if (what === 'done') done.add(text)
        if (++seen === 300 + round * 300) child.kill('SIGKILL')
      }
      assert.deepEqual(await exited, [null, 'SIGKILL'])

      await using broker = await BrokerStore.open(folder)
      await using store = await LevelSessions.open({
        area: broker.sessions,
        clock: () => new Date(),
        quotaOf: () => roomy,
      })
      const own = await texts(store, 'own', (await store.claim('own', 'b', forGood)).epoch)
      const shared = await texts(store, 'shared', (await store.claim('shared', 'b', forGood)).epoch)
      const waiting = new Set(own)
      const everything = new Set(shared)
      for (const text of queued) {
        assert.ok(everything.has(text), `${text} was confirmed and is lost`)
        assert.ok(waiting.has(text) || heard.has(text), `${text} was confirmed and is neither waiting nor delivered`)
      }
      for (const text of done) assert.ok(!waiting.has(text), `${text} was acknowledged and is back`)
      for (const queue of [own.filter((text) => text !== 'pubrel'), shared]) {
        assert.equal(new Set(queue).size, queue.length, 'no message twice in one queue')
        const last = new Map<string, number>()
        for (const [sender, n] of queue.map((text) => text.split(' ') as [string, string])) {
          const expected = (last.get(sender) ?? (queue === shared ? -1 : Number(n) - 1)) + 1
          assert.equal(Number(n), expected, `of ${sender}, in order and without a gap`)
          last.set(sender, Number(n))
        }
      }
      // To all receivers or to none: what one of them was delivered or waits for, the other has.
      for (const text of [...own, ...heard.keys()]) assert.ok(text === 'pubrel' || everything.has(text), text)
    }
    // One receiver hears one message at a time, so a kill can repeat no more than one, and QoS 2 none once it is received.
    const repeated = [...heard.values()].reduce((sum, times) => sum + times - 1, 0)
    assert.ok(repeated <= 3, `${repeated} messages were delivered again`)
    assert.ok(queued.size > 500 && done.size > 50, `${queued.size} queued, ${done.size} delivered`)
  } finally {
    rmSync(folder, { recursive: true })
  }
})

for (const written of [false, true]) {
  const what = written ? 'was written after all' : 'was not written'
  test(`a group that failed and ${what} is unknown to its callers; then the disk says what there is, for all receivers`, async () => {
    let failing = false
    const wrap = (area: Area): Area => ({
      ...area,
      write: async (...args) => {
        if (!failing) return area.write(...args)
        failing = false
        if (written) await area.write(...args)
        throw new Error('I/O error')
      },
    })
    await withStore({ wrap }, async (store) => {
      const a = await store.claim('a', 'b1', forGood)
      const b = await store.claim('b', 'b1', forGood)
      const before = messageOf('before')
      await enqueue(store, before, 'a', 'b')
      failing = true
      const first = enqueue(store, messageOf('first'), 'a', 'b')
      // Nothing to write, but decided upon what is unknown now.
      const second = store.incoming('a', a.epoch, 1, 'has')
      const third = enqueue(store, messageOf('third'), 'b')
      await assert.rejects(first, { code: 'outcome_unknown' })
      await assert.rejects(third, { code: 'outcome_unknown' })
      await assert.rejects(second, { code: 'outcome_unknown' })
      await assert.rejects(enqueue(store, messageOf('meanwhile'), 'a'), { code: 'unavailable' })
      await until(() => succeeds(store.subscriptions('a')))
      const all = written ? ['before', 'first', 'third'] : ['before']
      assert.deepEqual(
        await texts(store, 'a', a.epoch),
        all.filter((text) => text !== 'third'),
        'the owner is the same',
      )
      assert.deepEqual(await texts(store, 'b', b.epoch), all)
      assert.deepEqual(await enqueue(store, messageOf('after'), 'a'), ['queued'])
      assert.equal((await texts(store, 'a', a.epoch)).at(-1), 'after')
    })
  })
}

test('a store that cannot be opened again refuses by name until it can', async () => {
  let broken = false
  const wrap = (area: Area): Area => ({
    ...area,
    write: (...args) => (broken ? Promise.reject(new Error('I/O error')) : area.write(...args)),
    reopen: () => (broken ? Promise.reject(new Error('no such disk')) : area.reopen()),
  })
  await withStore({ wrap }, async (store) => {
    const { epoch } = await store.claim('d', 'b1', forGood)
    broken = true
    await assert.rejects(enqueue(store, messageOf('x'), 'd'), { code: 'outcome_unknown' })
    for (let n = 0; n < 3; n++) await assert.rejects(store.readQueue('d', epoch, 0, 1), { code: 'unavailable' })
    broken = false
    await until(() => succeeds(store.ack('d', epoch, [])))
    assert.deepEqual(await texts(store, 'd', epoch), [])
  })
})

// Nothing of what happens before the disk hangs may take as long.
const deadlineMs = 2_000

describe('a disk that hangs', { concurrency: true }, () => {
  test('no call outlives its deadline, and what queues up behind a disk that hangs is bounded (S6)', async () => {
    const hanging = Promise.withResolvers<void>()
    let hangs = false
    const wrap = (area: Area): Area => ({
      ...area,
      write: async (...args) => {
        if (hangs) await hanging.promise
        return area.write(...args)
      },
    })
    await withStore({ wrap, deadlineMs }, async (store, area) => {
      const { epoch } = await store.claim('d', 'b1', forGood)
      await store.putWill('d', epoch, { message: messageOf('will'), delayMs: 0 })
      hangs = true
      const payload = Buffer.alloc(1024 * 1024)
      const enqueued = await Promise.allSettled(
        Array.from({ length: 80 }, () => enqueue(store, messageOf('', { payload }), 'd')),
      )
      const codes = enqueued.map((one) => (one.status === 'rejected' ? one.reason.code : 'done'))
      assert.deepEqual(codes, [...Array(64).fill('outcome_unknown'), ...Array(16).fill('unavailable')])
      // What is refused like this is refused before anything is decided.
      await assert.rejects(store.ack('d', epoch, []), { code: 'unavailable' })
      hanging.resolve()
      await until(() => succeeds(store.ack('d', epoch, [])))
      assert.equal((await store.readQueue('d', epoch, 0, 1)).length, 1)
      assert.equal((await keysOf(area, 'm')).length, 64)
    })
  })

  test('no read outlives its deadline, and who waits for a turn is told at the same time', async () => {
    let silent = false
    const deaf = (area: Area): Area => ({ ...area, getMany: (keys) => (silent ? never : area.getMany(keys)) })
    await withStore({ wrap: deaf, deadlineMs }, async (store) => {
      const { epoch } = await store.claim('d', 'b1', forGood)
      await store.putWill('d', epoch, { message: messageOf('will'), delayMs: 0 })
      silent = true
      // More than are read at a time.
      const takes = Array.from({ length: 100 }, () => store.takeWill('d', epoch))
      for (const take of await Promise.allSettled(takes)) {
        assert.equal(take.status === 'rejected' && take.reason.code, 'unavailable')
      }
      silent = false
      assert.ok(await store.takeWill('d', epoch), 'it was not taken')
    })
  })
})

test('what QoS 1 and 2 promise is flushed, and an acknowledgement of QoS 1 is not', async () => {
  const flushed: boolean[] = []
  const wrap = (area: Area): Area => ({
    ...area,
    write: (operations, options) => {
      flushed.push(options.sync)
      return area.write(operations, options)
    },
  })
  await withStore({ wrap }, async (store) => {
    const { epoch } = await store.claim('d', 'b1', forGood)
    const isFlushed = async (call: () => Promise<unknown>): Promise<boolean> => {
      flushed.length = 0
      await call()
      assert.equal(flushed.length, 1)
      return flushed[0]!
    }
    assert.equal(await isFlushed(() => store.claim('x', 'b1', forGood)), false)
    for (const qos of [1, 2] as const) {
      assert.equal(await isFlushed(() => enqueue(store, messageOf('x', { qos }), 'd')), true)
      const [entry] = await store.readQueue('d', epoch, 0, 1)
      assert.equal(await isFlushed(() => store.assignPacketId('d', epoch, entry!.seq, 1)), qos === 2)
      if (qos === 2) assert.equal(await isFlushed(() => store.markReceived('d', epoch, 1)), true)
      assert.equal(await isFlushed(() => store.ack('d', epoch, [1])), false)
    }
    assert.equal(await isFlushed(() => store.incoming('d', epoch, 1, 'put')), true)
    assert.equal(await isFlushed(() => store.incoming('d', epoch, 1, 'take')), true)
    assert.equal(await isFlushed(() => store.changeSubscriptions('d', epoch, [aFilter], [])), true)
    assert.equal(await isFlushed(() => store.retain('t', messageOf('x'))), true)
    assert.equal(await isFlushed(() => store.retain('t', messageOf('x', { qos: 0 }))), false)
    const both = () => Promise.all([enqueue(store, messageOf('x'), 'd'), store.claim('y', 'b1', forGood)])
    assert.equal(await isFlushed(both), true, 'in company')
  })
})

test('of what is said of one thing before the next write begins, the last is written', async () => {
  const written: string[] = []
  const wrap = (area: Area): Area => ({
    ...area,
    write: (operations, options) => {
      written.push(operations.map(({ type, key }) => `${type} ${key[0]}`).join(', '))
      return area.write(operations, options)
    },
  })
  await withStore({ wrap }, async (store, area) => {
    const { epoch } = await store.claim('d', 'b1', forGood)
    written.length = 0
    const enqueued = enqueue(store, messageOf('x'), 'd')
    const [entry] = await store.readQueue('d', epoch, 0, 1)
    await enqueued
    await Promise.all([store.assignPacketId('d', epoch, entry!.seq, 1), store.ack('d', epoch, [1])])
    assert.deepEqual(written, ['put m, put q', 'del q, del m'])
    assert.deepEqual(await Promise.all([keysOf(area, 'q'), keysOf(area, 'm')]), [[], []])
  })
})

test('a client that has fallen behind is caught up with by few readings, each of which waits for what is being written', async () => {
  let readings = 0
  const wrap = (area: Area): Area => ({
    ...area,
    page: (...args) => {
      readings++
      return area.page(...args)
    },
    getMany: (keys) => {
      readings++
      return area.getMany(keys)
    },
  })
  await withStore({ wrap, windowEntries: 100 }, async (store) => {
    const { epoch } = await store.claim('d', 'b1', forGood)
    const sent = Array.from({ length: 1_000 }, (_, n) => `${n}`)
    await Promise.all(sent.map((text) => enqueue(store, messageOf(text), 'd')))
    readings = 0
    const heard: string[] = []
    for (let packetId = 1; heard.length < sent.length; packetId++) {
      const [one] = await store.readQueue('d', epoch, 0, 1)
      assert.ok(one?.state === 'publish')
      heard.push(`${one.message.payload}`)
      await store.assignPacketId('d', epoch, one.seq, packetId)
      await store.ack('d', epoch, [packetId])
    }
    assert.deepEqual(heard, sent)
    assert.ok(readings <= 10, `${readings} readings`)
  })
})

const briefly = { keepMs: 0 }

test('a session that ends with its connection is not written, nor what waits for it, and others have their own', async () => {
  let writes = 0
  const wrap = (area: Area): Area => ({
    ...area,
    write: (operations, options) => {
      writes++
      return area.write(operations, options)
    },
  })
  await withStore({ wrap }, async (store, area) => {
    const kept = await store.claim('kept', 'b1', forGood)
    const brief = await store.claim('brief', 'b1', briefly)
    const other = await store.claim('other', 'b1', briefly)
    writes = 0
    await store.changeSubscriptions('brief', brief.epoch, [aFilter], [])
    const sent = messageOf('x', { properties: { correlationData: Buffer.from('y') } })
    assert.deepEqual(await enqueue(store, sent, 'brief', 'other'), ['queued', 'queued'])
    sent.payload.fill('-')
    sent.properties!.correlationData!.fill('-')
    const [entry] = await store.readQueue('brief', brief.epoch, 0, 1)
    assert.equal(
      entry?.state === 'publish' && `${entry.message.payload} ${entry.message.properties?.correlationData}`,
      'x y',
    )
    assert.equal(await store.assignPacketId('brief', brief.epoch, entry!.seq, 1), true)
    await store.ack('brief', brief.epoch, [1])
    assert.deepEqual(await texts(store, 'other', other.epoch), ['x'])
    assert.equal(writes, 0)

    await enqueue(store, messageOf('to all'), 'kept', 'brief', 'other')
    const [own] = await store.readQueue('kept', kept.epoch, 0, 1)
    await store.discard('kept', kept.epoch, [own!.seq])
    assert.deepEqual(await keysOf(area, 'm'), [], 'who was promised it is done with it')
    assert.deepEqual(await texts(store, 'brief', brief.epoch), ['to all'])
    await store.release('brief', brief.epoch, 'forget')
    assert.deepEqual(await texts(store, 'other', other.epoch), ['x', 'to all'])
    assert.equal((await keysOf(area, 's')).length, 1)
  })
})

test('a message that came and was acknowledged while the disk was busy is not written any more, and those beside it are', async () => {
  const written: string[] = []
  const busy = Promise.withResolvers<void>()
  let held: Promise<void> | undefined
  const wrap = (area: Area): Area => ({
    ...area,
    write: async (operations, options) => {
      await held
      written.push(...operations.map(({ type, key }) => `${type} ${key[0]}`))
      await area.write(operations, options)
    },
  })
  await withStore({ wrap }, async (store, area) => {
    const { epoch } = await store.claim('kept', 'b1', forGood)
    held = busy.promise
    const first = enqueue(store, messageOf('first'), 'kept')
    await turnOver()
    written.length = 0
    const others = [enqueue(store, messageOf('gone'), 'kept'), enqueue(store, messageOf('stays'), 'kept')]
    const entries = await store.readQueue('kept', epoch, 0, 3)
    const gone = entries.map(({ seq }, at) => store.assignPacketId('kept', epoch, seq, at + 1))
    const acknowledged = store.ack('kept', epoch, [1, 2])
    busy.resolve()
    await Promise.all([first, ...others, ...gone, acknowledged])
    assert.deepEqual(written.toSorted(), ['del m', 'del q', 'put m', 'put m', 'put q', 'put q'])
    assert.deepEqual(await texts(store, 'kept', epoch), ['stays'])
    assert.deepEqual([(await keysOf(area, 'q')).length, (await keysOf(area, 'm')).length], [1, 1])
  })
})

test('what is for sessions in memory alone is queued, read and acknowledged in the turn of the call, and nothing else is', async () => {
  await withStore({ cacheBytes: 1_000 }, async (store, area) => {
    const { epoch } = await store.claim('brief', 'b1', briefly)
    const kept = await store.claim('kept', 'b1', forGood)
    const deliveryOf = (clientId: string, message: Message, qos: 1 | 2 = 1): Delivery => ({
      ...{ clientId, message, qos, identifiers: [] },
      limits: { messages: 3, bytes: 1e9 },
    })
    const queue = (): QueueInMemory => store.findQueueInMemory('brief', epoch)!
    const atHand = (after = 0): string[] =>
      queue()
        .read(after, 10)
        .map((one) => (one.state === 'publish' ? `${one.message.payload} ${one.packetId ?? ''}` : one.state))
    for (const text of ['a', 'b', 'c'])
      assert.deepEqual(store.enqueueAtOnce([deliveryOf('brief', messageOf(text))]), ['queued'])
    assert.deepEqual(store.enqueueAtOnce([deliveryOf('brief', messageOf('d'))]), ['full'])
    const [a, b] = queue().read(0, 2)
    queue().sent(a!.seq, 9)
    assert.deepEqual(
      [atHand(), atHand(a!.seq)],
      [
        ['a 9', 'b ', 'c '],
        ['b ', 'c '],
      ],
    )
    queue().ack(9)
    queue().ack(9)
    queue().discard(b!.seq)
    assert.deepEqual([atHand(), store.counts.messages], [['c '], 1])
    assert.deepEqual(await keysOf(area, 'q'), [])

    assert.equal(store.findQueueInMemory('kept', kept.epoch), undefined)
    assert.equal(store.findQueueInMemory('brief', epoch - 1), undefined)
    const [brief, keptOne, nobody] = ['brief', 'kept', 'nobody'].map((id) => ({ clientId: id }))
    assert.equal(store.mayEnqueueAtOnce([brief!], 10), true)
    assert.equal(store.mayEnqueueAtOnce([brief!], 1_000), false)
    assert.equal(store.mayEnqueueAtOnce([brief!, keptOne!], 10), false)
    assert.equal(store.mayEnqueueAtOnce([nobody!], 10), false)
    assert.deepEqual([atHand(), store.counts.messages], [['c '], 1])
    await store.release('brief', epoch, 'forget')
    assert.equal(store.findQueueInMemory('brief', epoch), undefined)
  })
})

for (const { what, qos, cacheBytes } of [
  { what: 'more waits for it than memory is for', qos: 1, cacheBytes: 1_000 },
  { what: 'a message of QoS 2 is for it', qos: 2, cacheBytes: 1_000_000 },
] as const) {
  test(`a session that ends with its connection is written down once ${what}, and leaves nothing`, async () => {
    await withStore({ cacheBytes }, async (store, area) => {
      const { epoch } = await store.claim('brief', 'b1', briefly)
      await store.changeSubscriptions('brief', epoch, [aFilter], [])
      await enqueue(store, messageOf('first'), 'brief')
      await enqueue(store, messageOf('second'), 'brief')
      const [first] = await store.readQueue('brief', epoch, 0, 1)
      await store.assignPacketId('brief', epoch, first!.seq, 7)
      assert.deepEqual(await keysOf(area, 'q'), [])
      await enqueue(store, messageOf('z'.repeat(500), { qos }), 'brief')
      const found = await Promise.all(['s', 'f', 'q', 'm'].map(async (kind) => (await keysOf(area, kind)).length))
      assert.deepEqual(found, [1, 1, 3, 3])
      const queue = await store.readQueue('brief', epoch, 0, 10)
      assert.deepEqual(
        queue.map((one) => one.state === 'publish' && [one.message.payload.length, one.packetId]),
        [
          [5, 7],
          [6, undefined],
          [500, undefined],
        ],
      )
      await store.ack('brief', epoch, [7])
      await store.release('brief', epoch, 'forget')
      await until(async () => (await keysOf(area, '')).length === 2)
      assert.deepEqual(await keysOf(area, ''), ['n', 'v'])
    })
  })
}

test('short messages to many sessions that end with their connections take room for each of them', async () => {
  await withStore({ cacheBytes: 20_000 }, async (store, area) => {
    const clientIds = Array.from({ length: 20 }, (_, n) => `brief:${n}`)
    for (const clientId of clientIds) await store.claim(clientId, 'b1', briefly)
    for (let n = 0; n < 3; n++) await enqueue(store, messageOf('x'), ...clientIds)
    assert.equal((await keysOf(area, 's')).length, 0)
    for (let n = 0; n < 2; n++) await enqueue(store, messageOf('x'), ...clientIds)
    assert.notEqual((await keysOf(area, 's')).length, 0)
  })
})

for (const dropsWill of [false, true]) {
  test(`the will of a session that ended while nothing could be written is ${dropsWill ? 'dropped' : 'due'} once it can`, async () => {
    let failing = false
    const wrap = (area: Area): Area => ({
      ...area,
      write: (...args) => (failing ? Promise.reject(new Error('I/O error')) : area.write(...args)),
    })
    await withStore({ wrap }, async (store, area) => {
      const { epoch } = await store.claim('brief', 'b1', briefly)
      await store.putWill('brief', epoch, { message: messageOf('will'), delayMs: 9_000 })
      failing = true
      await assert.rejects(store.release('brief', epoch, 'forget', { dropsWill }), { code: 'outcome_unknown' })
      failing = false
      await until(() => succeeds(store.subscriptions('brief')))
      await store.release('brief', epoch, 'forget', { dropsWill })
      assert.equal((await store.deadlines(start)).wills.length, dropsWill ? 0 : 1)
      assert.equal((await keysOf(area, 'w')).length, dropsWill ? 0 : 1)
    })
  })
}

test('a session that ends with its connection goes on where the store fails and opens again', async () => {
  let failing = false
  const wrap = (area: Area): Area => ({
    ...area,
    write: (...args) => (failing ? Promise.reject(new Error('I/O error')) : area.write(...args)),
  })
  await withStore({ wrap }, async (store, area) => {
    await store.claim('kept', 'b1', forGood)
    await store.claim('again', 'b1', forGood)
    const { epoch } = await store.claim('brief', 'b1', briefly)
    await store.changeSubscriptions('brief', epoch, [aFilter], [])
    await enqueue(store, messageOf('before'), 'brief')
    failing = true
    const lost = [enqueue(store, messageOf('x'), 'kept'), store.claim('again', 'b1', { ...briefly, clean: true })]
    for (const one of await Promise.allSettled(lost)) assert.equal(one.status, 'rejected')
    failing = false
    await until(() => succeeds(store.subscriptions('brief')))
    assert.deepEqual(await store.subscriptions('brief'), [aFilter])
    assert.deepEqual(await texts(store, 'brief', epoch), ['before'])
    assert.deepEqual(store.counts, { sessions: 3, messages: 1, bytes: store.counts.bytes })
    assert.deepEqual(await enqueue(store, messageOf('after'), 'brief'), ['queued'])
    assert.deepEqual(await texts(store, 'brief', epoch), ['before', 'after'])
    assert.equal((await keysOf(area, 's')).length, 1, 'the one that was begun anew has no older one')
  })
})

for (const isWritten of [false, true]) {
  test(`a session in memory keeps what waits for it where writing it down ${isWritten ? 'is not confirmed' : 'fails'}`, async () => {
    let failing = false
    const wrap = (area: Area): Area => ({
      ...area,
      write: async (...args) => {
        if (!failing || isWritten) await area.write(...args)
        if (failing) throw new Error('I/O error')
      },
    })
    await withStore({ wrap }, async (store, area) => {
      const { epoch } = await store.claim('brief', 'b1', briefly)
      await store.changeSubscriptions('brief', epoch, [aFilter], [])
      for (const text of ['done', 'first', 'second']) await enqueue(store, messageOf(text), 'brief')
      const [done, first] = await store.readQueue('brief', epoch, 0, 2)
      await store.assignPacketId('brief', epoch, first!.seq, 7)
      failing = true
      const lost = enqueue(store, messageOf('x', { qos: 2 }), 'brief')
      const discarded = store.discard('brief', epoch, [done!.seq])
      for (const one of await Promise.allSettled([lost, discarded])) assert.equal(one.status, 'rejected')
      failing = false
      await until(() => succeeds(store.subscriptions('brief')))
      assert.deepEqual(await store.subscriptions('brief'), [aFilter])
      const kept = isWritten ? ['first', 'second', 'x'] : ['first', 'second']
      assert.deepEqual(await texts(store, 'brief', epoch), kept)
      assert.equal(store.counts.messages, kept.length)
      await store.ack('brief', epoch, [7])
      await enqueue(store, messageOf('y', { qos: 2 }), 'brief')
      assert.deepEqual(await texts(store, 'brief', epoch), [...kept.slice(1), 'y'])
      await store.release('brief', epoch, 'forget')
      await until(async () => (await keysOf(area, '')).length === 2)
      assert.deepEqual(store.counts, { sessions: 0, messages: 0, bytes: 0 })
    })
  })
}

test('what is acknowledged while the queue is read from disk is not in what was read', async () => {
  const folder = newFolder()
  try {
    await using broker = await BrokerStore.open(folder)
    let beforeAnswer = async (): Promise<void> => {}
    const page: Area['page'] = async (...args) => {
      const entries = await broker.sessions.page(...args)
      if (args[0].startsWith('q')) await beforeAnswer()
      return entries
    }
    const options = { area: { ...broker.sessions, page }, clock: () => new Date(start), quotaOf: () => roomy }
    {
      await using store = await LevelSessions.open(options)
      const { epoch } = await store.claim('d', 'b1', forGood)
      for (const text of ['one', 'two']) await enqueue(store, messageOf(text), 'd')
      const [one] = await store.readQueue('d', epoch, 0, 1)
      await store.assignPacketId('d', epoch, one!.seq, 1)
    }
    await using store = await LevelSessions.open(options)
    const { epoch } = await store.claim('d', 'b1', forGood)
    beforeAnswer = () => store.ack('d', epoch, [1])
    assert.deepEqual(await texts(store, 'd', epoch), ['two'])
    await enqueue(store, messageOf('three'), 'd')
    assert.deepEqual(await texts(store, 'd', epoch), ['two', 'three'])
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test('a queue that was being read when its owner went is whole for the next one', async () => {
  let gate: Promise<void> = Promise.resolve()
  const asked = new EventEmitter()
  const wrap = (area: Area): Area => ({
    ...area,
    async page(...place) {
      const page = await area.page(...place)
      asked.emit('page')
      await gate
      return page
    },
  })
  await withStore({ wrap, windowEntries: 2 }, async (store) => {
    const first = await store.claim('d', 'b1', forGood)
    const sent = Array.from({ length: 10 }, (_, n) => `${n}`)
    for (const text of sent) await enqueue(store, messageOf(text), 'd')
    const [last] = (await store.readQueue('d', first.epoch, 0, 4)).slice(-1)
    const open = Promise.withResolvers<void>()
    gate = open.promise
    const isRead = once(asked, 'page')
    const late = succeeds(store.readQueue('d', first.epoch, last!.seq, 4))
    await isRead
    await store.release('d', first.epoch, Number.POSITIVE_INFINITY)
    const second = await store.claim('d', 'b1', forGood)
    open.resolve()
    assert.equal(await late, false)
    assert.deepEqual(await texts(store, 'd', second.epoch), sent)
  })
})

test('many callers share one write', async () => {
  let writes = 0
  const wrap = (area: Area): Area => ({
    ...area,
    write: (...args) => {
      writes++
      return area.write(...args)
    },
  })
  await withStore({ wrap }, async (store) => {
    await store.claim('d', 'b1', forGood)
    writes = 0
    await Promise.all(Array.from({ length: 500 }, () => enqueue(store, messageOf('x'), 'd')))
    assert.ok(writes <= 2, `${writes} writes`)
  })
})

test('a shared message goes with its last receiver, and a forgotten session leaves nothing behind', () =>
  withStore({}, async (store, area) => {
    const epochs = new Map<string, number>()
    for (const id of ['a', 'b', 'c']) epochs.set(id, (await store.claim(id, 'b1', forGood)).epoch)
    await Promise.all(Array.from({ length: 1_200 }, (_, n) => enqueue(store, messageOf(`${n}`), 'a', 'b')))
    await enqueue(store, messageOf('alone'), 'c')
    await store.changeSubscriptions('a', epochs.get('a')!, [], [])
    await store.incoming('a', epochs.get('a')!, 1, 'put')
    assert.equal((await keysOf(area, 'm')).length, 1_201)
    await store.release('a', epochs.get('a')!, 'forget')
    await until(async () => (await keysOf(area, 'q')).length === 1_201)
    assert.equal((await keysOf(area, 'm')).length, 1_201)
    assert.deepEqual(await keysOf(area, 'i'), [])
    const queue = await store.readQueue('b', epochs.get('b')!, 0, 2_000)
    assert.equal(queue.length, 1_200)
    await store.discard(
      'b',
      epochs.get('b')!,
      queue.slice(1).map(({ seq }) => seq),
    )
    assert.equal((await keysOf(area, 'm')).length, 2)
    await store.assignPacketId('b', epochs.get('b')!, queue[0]!.seq, 1)
    await store.ack('b', epochs.get('b')!, [1])
    assert.equal((await keysOf(area, 'm')).length, 1)
    await store.release('c', epochs.get('c')!, 'forget')
    await store.release('b', epochs.get('b')!, 'forget')
    await until(async () => (await keysOf(area, 'q')).length === 0)
    assert.deepEqual(await keysOf(area, ''), ['n', 'v'])
  }))

test('the queue of a session that was forgotten right before a crash is removed after it', async () => {
  const folder = newFolder()
  try {
    await using broker = await BrokerStore.open(folder)
    const area = broker.sessions
    const options = { area, clock: () => new Date(start), quotaOf: () => roomy }
    {
      await using store = await LevelSessions.open(options)
      for (const id of ['a', 'b']) await store.claim(id, 'b1', forGood)
      for (let n = 0; n < 10; n++) await enqueue(store, messageOf(`${n}`), 'a', 'b')
      await enqueue(store, messageOf('alone'), 'a')
    }
    const [gone] = await keysOf(area, 's')
    await area.write([{ type: 'del', key: gone! }], { sync: true })
    await using store = await LevelSessions.open(options)
    await until(async () => (await keysOf(area, 'q')).length === 10)
    assert.equal((await keysOf(area, 'm')).length, 10)
    const { epoch } = await store.claim('b', 'b1', forGood)
    assert.equal((await texts(store, 'b', epoch)).length, 10)
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test('sessions and snapshot share a folder and leave each other alone', () =>
  withStore({}, async (store, _area, broker) => {
    const { epoch } = await store.claim('d', 'b1', forGood)
    await enqueue(store, messageOf('kept'), 'd')
    await store.retain('t', messageOf('kept', { topic: 't' }))
    const put = { type: 'put', key: 'record', value: Buffer.from('of the snapshot') } as const
    await broker.snapshot.write([put], { sync: true })
    assert.deepEqual(await broker.snapshot.page('', '', 10), [[put.key, put.value]])
    assert.deepEqual(await texts(store, 'd', epoch), ['kept'])
    const again = await store.claim('d', 'b1', forGood)
    assert.deepEqual(await texts(store, 'd', again.epoch), ['kept'])
  }))

for (const [what, key, value] of [
  ['of another layout', 'v', '2'],
  ['with a session that cannot be read', 's00000000001', '{'],
  ['with a queue entry that cannot be read', 'q0000000000100000000002', '\x01'],
  ['with a queue entry of no QoS', 'q0000000000100000000002', '\x00\x00\x00\x00\x00\x00\x00'],
  ['with a retained message that cannot be read', 'rt', '\x01\x00\x00\x00\x00\x00\x00\xff\xff'],
  ['with a retained message of QoS 3', 'rt', '\x03\x00\x00\x00\x00\x00\x00\x00\x01t\x00\x01d'],
] as const) {
  test(`a store ${what} is not opened`, async () => {
    const folder = newFolder()
    try {
      await using broker = await BrokerStore.open(folder)
      const options = { area: broker.sessions, clock: () => new Date(start), quotaOf: () => roomy }
      await (await LevelSessions.open(options))[Symbol.asyncDispose]()
      await broker.sessions.write([{ type: 'put', key, value: Buffer.from(value, 'latin1') }], { sync: true })
      await assert.rejects(LevelSessions.open(options), { code: 'data_damaged' })
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
}
