/** What every session store must do. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type {
  Delivery,
  DeviceQuota,
  EnqueueAnswer,
  Message,
  QoS,
  Queued,
  SessionStore,
  StoredSubscription,
} from '../../broker/backends/session-store.ts'

/** One store, moved through time by its test: opened again it holds what it held. */
export type Place = {
  now: number
  quota: DeviceQuota
  open(): Promise<SessionStore>
  remove(): Promise<void>
}

export const start = Date.parse('2026-03-01T09:00:00Z')
export const roomy: DeviceQuota = {
  sessions: 100,
  subscriptions: 100,
  messages: 100_000,
  bytes: 1e9,
  retained: 100,
  retainedBytes: 1e6,
}
const limits = { messages: 100_000, bytes: 1e9 }
const forGood = { keepMs: Number.POSITIVE_INFINITY }

export const messageOf = (text: string, more: Partial<Message> = {}): Message => ({
  topic: 'devices/d/commands/x',
  payload: Buffer.from(text),
  qos: 1,
  retain: false,
  from: 'publisher',
  publishedAt: start,
  ...more,
})
export const deliveryTo = (clientId: string, message: Message, more: Partial<Delivery> = {}): Delivery => ({
  clientId,
  message,
  qos: message.qos === 2 ? 2 : 1,
  identifiers: [],
  limits,
  ...more,
})
const subscription = (filter: string, more: Partial<StoredSubscription> = {}): StoredSubscription => ({
  filter,
  qos: 1,
  noLocal: false,
  retainAsPublished: false,
  retainHandling: 0,
  ...more,
})

const enqueue = (
  store: SessionStore,
  clientId: string,
  text: string,
  more: Partial<Message> = {},
): Promise<EnqueueAnswer[]> => store.enqueue([deliveryTo(clientId, messageOf(text, more))])
const textOf = (entry: Queued): string => (entry.state === 'publish' ? entry.message.payload.toString() : 'pubrel')
const read = (store: SessionStore, clientId: string, epoch: number): Promise<Queued[]> =>
  store.readQueue(clientId, epoch, 0, 1_000)
const texts = async (store: SessionStore, clientId: string, epoch: number): Promise<string[]> =>
  (await read(store, clientId, epoch)).map(textOf)
async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const item of items) all.push(item)
  return all
}
const retained = async (store: SessionStore, ...filters: string[]): Promise<string[]> =>
  (await collect(store.retained(filters))).map(({ topic, payload }) => `${topic}=${payload}`).sort()
const fenced = { code: 'session_taken_over' }
const full = { code: 'quota_exceeded' }

export function sessionStoreSuite(engine: string, createPlace: () => Promise<Place>): void {
  const check = (behaviour: string, body: (place: Place) => Promise<void>): void => {
    test(`${engine}: ${behaviour}`, async () => {
      const place = await createPlace()
      try {
        await body(place)
      } finally {
        await place.remove()
      }
    })
  }

  // Owners

  check('a claim says whether there was a session, and its epoch is greater than any before', async (place) => {
    let last: number
    {
      await using store = await place.open()
      const first = await store.claim('d', 'b1', forGood)
      assert.deepEqual([first.present, first.formerOwner], [false, undefined])
      await store.release('d', first.epoch, Number.POSITIVE_INFINITY)
      const second = await store.claim('d', 'b1', forGood)
      assert.deepEqual([second.present, second.formerOwner], [true, undefined])
      assert.ok(second.epoch > first.epoch)
      await store.release('d', second.epoch, 'forget')
      const third = await store.claim('d', 'b1', forGood)
      assert.equal(third.present, false)
      assert.ok(third.epoch > second.epoch)
      last = third.epoch
    }
    await using store = await place.open()
    assert.ok((await store.claim('d', 'b1', forGood)).epoch > last)
  })

  check('of concurrent claims the last one has the session, and each is told who had it (S1)', async (place) => {
    await using store = await place.open()
    const claims = await Promise.all(Array.from({ length: 20 }, (_, n) => store.claim('d', `b${n}`, forGood)))
    assert.equal(new Set(claims.map(({ epoch }) => epoch)).size, 20)
    assert.deepEqual(
      claims.map(({ formerOwner }) => formerOwner),
      claims.map((_, n) => (n === 0 ? undefined : `b${n - 1}`)),
    )
    for (const { epoch } of claims.slice(0, -1)) await assert.rejects(store.ack('d', epoch, [1]), fenced)
    await store.ack('d', claims.at(-1)!.epoch, [1])
  })

  for (const end of ['taken over', 'released', 'forgotten', 'dropped'] as const) {
    check(`every call of an owner whose session is ${end} is refused, and changes nothing (S1, S5)`, async (place) => {
      await using store = await place.open()
      const { epoch } = await store.claim('d', 'b1', forGood)
      await store.changeSubscriptions('d', epoch, [subscription('a')], [])
      await enqueue(store, 'd', 'one', { qos: 2 })
      const [entry] = await read(store, 'd', epoch)
      await store.assignPacketId('d', epoch, entry!.seq, 7)
      let successor: number | undefined
      if (end === 'taken over') successor = (await store.claim('d', 'b2', forGood)).epoch
      if (end === 'released') await store.release('d', epoch, Number.POSITIVE_INFINITY)
      if (end === 'forgotten') await store.release('d', epoch, 'forget')
      if (end === 'dropped') await store.dropDevice('d')
      for (const call of [
        () => store.changeSubscriptions('d', epoch, [subscription('b')], ['a']),
        () => store.enqueue([deliveryTo('d', messageOf('two'))], { clientId: 'd', epoch, packetId: 1 }),
        () => store.readQueue('d', epoch, 0, 10),
        () => store.assignPacketId('d', epoch, entry!.seq, 8),
        () => store.markReceived('d', epoch, 7),
        () => store.ack('d', epoch, [7]),
        () => store.discard('d', epoch, [entry!.seq]),
        () => store.incoming('d', epoch, 1, 'put'),
        () => store.incoming('d', epoch, 1, 'take'),
        () => store.incoming('d', epoch, 1, 'has'),
        () => store.putWill('d', epoch, { message: messageOf('will'), delayMs: 0 }),
        () => store.release('d', epoch, start),
      ]) {
        await assert.rejects(call, fenced)
      }
      if (end !== 'released') {
        await assert.rejects(store.release('d', epoch, 'forget'), fenced)
        await assert.rejects(store.takeWill('d', epoch), fenced)
      }
      if (successor === undefined) return
      assert.deepEqual(
        (await store.subscriptions('d')).map(({ filter }) => filter),
        ['a'],
      )
      assert.deepEqual(await read(store, 'd', successor), [{ ...entry, packetId: 7, dup: true }])
      assert.deepEqual(await store.deadlines(Number.MAX_SAFE_INTEGER), { sessions: [], wills: [], retained: [] })
    })
  }

  check('a clean claim begins with nothing, queue and QoS 2 state included', async (place) => {
    await using store = await place.open()
    const { epoch } = await store.claim('d', 'b1', forGood)
    await store.changeSubscriptions('d', epoch, [subscription('a')], [])
    await store.incoming('d', epoch, 1, 'put')
    await enqueue(store, 'd', 'one')
    const clean = await store.claim('d', 'b1', { ...forGood, clean: true })
    assert.deepEqual([clean.present, clean.formerOwner], [false, 'b1'])
    assert.deepEqual(await store.subscriptions('d'), [])
    assert.deepEqual(await texts(store, 'd', clean.epoch), [])
    assert.equal(await store.incoming('d', clean.epoch, 1, 'has'), false)
    await enqueue(store, 'd', 'two')
    assert.deepEqual(await texts(store, 'd', clean.epoch), ['two'])
  })

  // Subscriptions

  check('subscriptions are kept as granted, over restarts, and tell which were there before', async (place) => {
    const special = subscription('b/+', {
      qos: 2,
      noLocal: true,
      retainAsPublished: true,
      retainHandling: 2,
      identifier: 9,
    })
    {
      await using store = await place.open()
      const { epoch } = await store.claim('d', 'b1', forGood)
      assert.deepEqual(
        (await store.changeSubscriptions('d', epoch, [subscription('a'), special], [])).existed,
        new Set(),
      )
      const { existed } = await store.changeSubscriptions('d', epoch, [subscription('a', { qos: 0 })], ['x'])
      assert.deepEqual(existed, new Set(['a']))
      await store.claim('other', 'b1', forGood)
    }
    await using store = await place.open()
    assert.deepEqual(await store.subscriptions('d'), [subscription('a', { qos: 0 }), special])
    assert.deepEqual(await collect(store.sessions()), [
      { clientId: 'd', subscriptions: [subscription('a', { qos: 0 }), special] },
      { clientId: 'other', subscriptions: [] },
    ])
    const { epoch } = await store.claim('d', 'b1', forGood)
    assert.deepEqual((await store.changeSubscriptions('d', epoch, [], ['a', 'x'])).existed, new Set(['a']))
    assert.deepEqual(await store.subscriptions('d'), [special])
    assert.deepEqual(await store.subscriptions('nobody'), [])
  })

  check(
    'a filter that overlaps another leaves it as it is (T15), and one that was not granted is not there (T8)',
    async (place) => {
      {
        await using store = await place.open()
        const { epoch } = await store.claim('d', 'b1', forGood)
        await store.changeSubscriptions('d', epoch, [subscription('d/#')], [])
        await store.changeSubscriptions('d', epoch, [subscription('d/cmd', { qos: 2 })], [])
        await store.changeSubscriptions('d', epoch, [], ['d/cmd'])
      }
      await using store = await place.open()
      assert.deepEqual(await store.subscriptions('d'), [subscription('d/#')])
    },
  )

  // Queues

  check('a queue keeps its order over restarts (S3, T16), with all that a message had', async (place) => {
    const properties = {
      contentType: 'text/plain',
      payloadFormatIndicator: true,
      correlationData: Buffer.from([0, 255]),
      userProperties: [
        ['a', '1'],
        ['a', '2'],
        ['__proto__', 'x'],
      ] satisfies [string, string][],
    }
    const more = { properties, expiresAt: start + 1e6, retain: true, from: 'p:é', topic: 'é/\u{1f600}' }
    for (let round = 0; round < 3; round++) {
      await using store = await place.open()
      if (round === 0) await store.claim('d', 'b1', forGood)
      // Not awaited one by one: the order is that of the calls.
      const answers = await Promise.all(
        Array.from({ length: 10 }, (_, n) => enqueue(store, 'd', `${round}-${n}`, more)),
      )
      assert.deepEqual(answers.flat(), Array(10).fill('queued'))
    }
    await using store = await place.open()
    const { epoch } = await store.claim('d', 'b1', forGood)
    const queue = await read(store, 'd', epoch)
    assert.deepEqual(
      queue.map(textOf),
      [0, 1, 2].flatMap((round) => Array.from({ length: 10 }, (_, n) => `${round}-${n}`)),
    )
    assert.ok(queue.every(({ seq }, at) => at === 0 || seq > queue[at - 1]!.seq))
    assert.deepEqual(queue[0], {
      seq: queue[0]!.seq,
      qos: 1,
      retain: false,
      identifiers: [],
      state: 'publish',
      message: messageOf('0-0', more),
      dup: true, // the one who claimed it did not release it
    })
  })

  check('what may have gone out before a crash is marked so, and nothing else (MQTT-3.3.1-1)', async (place) => {
    const marked = async (store: SessionStore, epoch: number) =>
      (await read(store, 'd', epoch)).map(
        (entry) => `${textOf(entry)}${entry.state === 'publish' && entry.dup ? '!' : ''}`,
      )
    {
      await using store = await place.open()
      await store.release('d', (await store.claim('d', 'b1', forGood)).epoch, Number.POSITIVE_INFINITY)
      await enqueue(store, 'd', 'absent')
    }
    {
      await using store = await place.open()
      const { epoch } = await store.claim('d', 'b1', forGood)
      assert.deepEqual(await marked(store, epoch), ['absent'])
      await enqueue(store, 'd', 'one')
      // Without a note on disk it cannot have gone out.
      await enqueue(store, 'd', 'two', { qos: 2 })
    }
    {
      await using store = await place.open()
      await enqueue(store, 'd', 'after the crash')
      const { epoch } = await store.claim('d', 'b1', forGood)
      assert.deepEqual(await marked(store, epoch), ['absent!', 'one!', 'two', 'after the crash'])
      await store.release('d', epoch, Number.POSITIVE_INFINITY)
    }
    await using store = await place.open()
    const { epoch } = await store.claim('d', 'b1', forGood)
    assert.deepEqual(await marked(store, epoch), ['absent!', 'one!', 'two', 'after the crash'])
  })

  check('a queue is read in pages, also while it grows and shrinks', async (place) => {
    {
      await using store = await place.open()
      await store.claim('d', 'b1', forGood)
      await Promise.all(Array.from({ length: 900 }, (_, n) => enqueue(store, 'd', `${n}`)))
    }
    await using store = await place.open()
    const { epoch } = await store.claim('d', 'b1', forGood)
    const seen: string[] = []
    let after = 0
    for (let more = 900; ; ) {
      // Both read the same, and neither what was acknowledged.
      const [page, again] = await Promise.all([
        store.readQueue('d', epoch, after, 70),
        store.readQueue('d', epoch, after, 70),
      ])
      assert.deepEqual(page, again)
      if (page.length === 0) break
      seen.push(...page.map(textOf))
      after = page.at(-1)!.seq
      for (const [at, { seq }] of page.entries()) await store.assignPacketId('d', epoch, seq, at + 1)
      void store.ack(
        'd',
        epoch,
        page.map((_, at) => at + 1),
      )
      if (more < 1_000) await enqueue(store, 'd', `${more++}`)
    }
    assert.deepEqual(
      seen,
      Array.from({ length: seen.length }, (_, n) => `${n}`),
    )
    assert.ok(seen.length > 900)
    assert.deepEqual(await texts(store, 'd', epoch), [])
  })

  check('one message to many is stored for each of them as they are to get it', async (place) => {
    const big = messageOf('x'.repeat(10_000), { qos: 2 })
    {
      await using store = await place.open()
      for (const id of ['a', 'b', 'c']) await store.claim(id, 'b1', forGood)
      const answers = await store.enqueue([
        deliveryTo('a', big, { qos: 1 }),
        deliveryTo('nobody', big),
        deliveryTo('b', big, { identifiers: [1, 268_435_455], retain: true }),
        deliveryTo('c', big, { limits: { messages: 0, bytes: 1e9 } }),
      ])
      assert.deepEqual(answers, ['queued', 'noSession', 'queued', 'full'])
    }
    await using store = await place.open()
    const epochs: Record<string, number> = {}
    for (const id of ['a', 'b', 'c']) epochs[id] = (await store.claim(id, 'b1', forGood)).epoch
    const [a] = await read(store, 'a', epochs.a!)
    assert.deepEqual(await texts(store, 'c', epochs.c!), [])
    await store.discard('a', epochs.a!, [a!.seq])
    const [b] = await read(store, 'b', epochs.b!)
    const inQueue = { seq: b!.seq, retain: false, identifiers: [] }
    assert.deepEqual(a, { ...inQueue, qos: 1, state: 'publish', message: big, dup: true })
    assert.deepEqual(b, { ...a, qos: 2, retain: true, identifiers: [1, 268_435_455], dup: false })
  })

  check('a client that is named twice for one message gets it once (T31)', async (place) => {
    await using store = await place.open()
    const { epoch } = await store.claim('d', 'b1', forGood)
    const message = messageOf('once', { qos: 2 })
    const narrow = { limits: { messages: 1, bytes: 1_000 } }
    const twice = [deliveryTo('d', message, narrow), deliveryTo('d', message, narrow)]
    assert.deepEqual(await store.enqueue(twice), ['queued', 'queued'])
    const [entry, ...rest] = await read(store, 'd', epoch)
    assert.deepEqual(rest, [])
    await store.assignPacketId('d', epoch, entry!.seq, 1)
    assert.equal(await store.markReceived('d', epoch, 1), true)
    await store.ack('d', epoch, [1])
    assert.deepEqual(await read(store, 'd', epoch), [])
    assert.deepEqual(await store.enqueue(twice), ['queued', 'queued'], 'nothing of it counts any more')
  })

  check('two QoS 2 messages on their way are told apart by packet id (T32), over restarts', async (place) => {
    {
      await using store = await place.open()
      const { epoch } = await store.claim('d', 'b1', forGood)
      for (const text of ['one', 'two', 'three']) await enqueue(store, 'd', text, { qos: 2 })
      const queue = await read(store, 'd', epoch)
      assert.equal(await store.assignPacketId('d', epoch, queue[0]!.seq, 11), true)
      assert.equal(await store.assignPacketId('d', epoch, queue[1]!.seq, 12), true)
      await assert.rejects(store.assignPacketId('d', epoch, queue[2]!.seq, 12), { code: 'conflict' })
      assert.equal(await store.markReceived('d', epoch, 12), true)
      assert.equal(await store.markReceived('d', epoch, 12), true, 'a PUBREC that is repeated')
    }
    await using store = await place.open()
    const { epoch } = await store.claim('d', 'b1', forGood)
    const queue = await read(store, 'd', epoch)
    assert.deepEqual(
      queue.map((entry) => [textOf(entry), entry.packetId]),
      [
        ['one', 11],
        ['pubrel', 12],
        ['three', undefined],
      ],
    )
    await store.ack('d', epoch, [12])
    assert.deepEqual(await texts(store, 'd', epoch), ['one', 'three'])
    assert.equal(await store.markReceived('d', epoch, 11), true)
    await store.ack('d', epoch, [11])
    assert.deepEqual(await texts(store, 'd', epoch), ['three'])
  })

  check('what is acknowledged, marked or discarded but not there changes nothing (T33)', async (place) => {
    await using store = await place.open()
    const { epoch } = await store.claim('d', 'b1', forGood)
    await enqueue(store, 'd', 'one')
    const [entry] = await read(store, 'd', epoch)
    await store.assignPacketId('d', epoch, entry!.seq, 5)
    await store.ack('d', epoch, [4, 0, 65_535])
    await store.discard('d', epoch, [0, entry!.seq + 1_000])
    assert.equal(await store.markReceived('d', epoch, 4), false)
    assert.equal(await store.markReceived('d', epoch, 5), false, 'PUBREC for QoS 1')
    assert.equal(await store.assignPacketId('d', epoch, entry!.seq + 1_000, 6), false)
    assert.deepEqual(await read(store, 'd', epoch), [{ ...entry, packetId: 5, dup: true }])
    await store.ack('d', epoch, [5])
    assert.equal(await store.assignPacketId('d', epoch, entry!.seq, 5), false)
  })

  check('an acknowledged message frees its packet id, before and after a restart', async (place) => {
    for (let round = 0; round < 2; round++) {
      await using store = await place.open()
      const { epoch } = await store.claim('d', 'b1', forGood)
      assert.deepEqual(await texts(store, 'd', epoch), [])
      for (const text of ['one', 'two']) {
        await enqueue(store, 'd', text)
        const [entry] = await read(store, 'd', epoch)
        assert.equal(await store.assignPacketId('d', epoch, entry!.seq, 1), true)
        await store.ack('d', epoch, [1])
      }
    }
  })

  check('an acknowledgement may come before the queue was read by the new owner', async (place) => {
    {
      await using store = await place.open()
      const { epoch } = await store.claim('d', 'b1', forGood)
      await enqueue(store, 'd', 'one')
      await enqueue(store, 'd', 'two')
      for (const [at, { seq }] of (await read(store, 'd', epoch)).entries())
        await store.assignPacketId('d', epoch, seq, at + 1)
    }
    await using store = await place.open()
    const { epoch } = await store.claim('d', 'b1', forGood)
    const [queue] = await Promise.all([texts(store, 'd', epoch), store.ack('d', epoch, [1])])
    assert.deepEqual(queue, ['two'])
  })

  check('an incoming QoS 2 packet is noted with what it brings, and brings it once', async (place) => {
    {
      await using store = await place.open()
      await store.claim('d', 'b1', forGood)
      const { epoch } = await store.claim('p', 'b1', forGood)
      const deliver = [deliveryTo('d', messageOf('once', { qos: 2 }))]
      assert.deepEqual(await store.enqueue(deliver, { clientId: 'p', epoch, packetId: 3 }), ['queued'])
      assert.deepEqual(await store.enqueue(deliver, { clientId: 'p', epoch, packetId: 3 }), ['queued'])
      assert.deepEqual(await store.enqueue([], { clientId: 'p', epoch, packetId: 4 }), [])
      assert.equal(await store.incoming('p', epoch, 5, 'put'), true)
      assert.equal(await store.incoming('p', epoch, 5, 'put'), false)
      assert.equal(await store.incoming('p', epoch, 6, 'take'), false)
    }
    await using store = await place.open()
    const { epoch } = await store.claim('p', 'b1', forGood)
    for (const packetId of [3, 4, 5]) {
      assert.equal(await store.incoming('p', epoch, packetId, 'has'), true)
      assert.equal(await store.incoming('p', epoch, packetId, 'take'), true)
      assert.equal(await store.incoming('p', epoch, packetId, 'has'), false)
    }
    assert.deepEqual(await texts(store, 'd', (await store.claim('d', 'b1', forGood)).epoch), ['once'])
  })

  check('a client may not leave any number of QoS 2 packets open', async (place) => {
    await using store = await place.open()
    const { epoch } = await store.claim('p', 'b1', forGood)
    await Promise.all(Array.from({ length: 1_000 }, (_, n) => store.incoming('p', epoch, n + 1, 'put')))
    await assert.rejects(store.incoming('p', epoch, 1_001, 'put'), full)
    await assert.rejects(store.enqueue([], { clientId: 'p', epoch, packetId: 1_001 }), full)
    assert.equal(await store.incoming('p', epoch, 1, 'put'), false)
  })

  check('an expired message is not delivered, unless its delivery had begun', async (place) => {
    {
      await using store = await place.open()
      const { epoch } = await store.claim('d', 'b1', forGood)
      for (const text of ['begun', 'late']) await enqueue(store, 'd', text, { expiresAt: start + 1_000 })
      await enqueue(store, 'd', 'later', { expiresAt: start + 2_000 })
      await enqueue(store, 'd', 'never')
      const [begun] = await read(store, 'd', epoch)
      await store.assignPacketId('d', epoch, begun!.seq, 1)
      place.now = start + 1_000
      assert.deepEqual(await texts(store, 'd', epoch), ['begun', 'later', 'never'])
    }
    place.now = start + 2_000
    await using store = await place.open()
    const { epoch } = await store.claim('d', 'b1', forGood)
    assert.deepEqual(await texts(store, 'd', epoch), ['begun', 'never'])
  })

  check('a queue is what its history makes it, whatever that is, over restarts', async (place) => {
    const step = fc.oneof(
      {
        weight: 6,
        arbitrary: fc.record({ do: fc.constant('enqueue' as const), qos: fc.constantFrom(1, 2), many: fc.nat(3) }),
      },
      { weight: 3, arbitrary: fc.record({ do: fc.constant('send' as const), at: fc.nat(3) }) },
      { weight: 2, arbitrary: fc.record({ do: fc.constantFrom('ack' as const, 'receive' as const), at: fc.nat(3) }) },
      {
        weight: 1,
        arbitrary: fc.record({ do: fc.constantFrom('discard' as const, 'expire' as const), at: fc.nat(5) }),
      },
      {
        weight: 1,
        arbitrary: fc.record({ do: fc.constantFrom('resume' as const, 'restart' as const, 'sweep' as const) }),
      },
    )
    let runs = 0
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 40 }), fc.boolean(), async (steps, isKept) => {
        const id = `run-${runs++}`
        const keeping = { keepMs: isKept ? Number.POSITIVE_INFINITY : 0 }
        let store = await place.open()
        try {
          let { epoch } = await store.claim(id, 'b1', keeping)
          let queue: {
            text: string
            qos: QoS
            seq?: number
            packetId?: number
            released?: boolean
            expiresAt?: number
          }[] = []
          let texts = 0
          let packetIds = 0
          const kept = () => queue.filter((one) => one.packetId !== undefined || !(one.expiresAt! <= place.now))
          for (const one of steps) {
            if (one.do === 'enqueue') {
              const added = Array.from({ length: one.many + 1 }, () => ({ text: `${texts++}`, qos: one.qos as QoS }))
              // Not awaited in between, and read at the same time.
              const reading = read(store, id, epoch)
              const answers = await Promise.all(added.map(({ text, qos }) => enqueue(store, id, text, { qos })))
              assert.deepEqual(
                answers.flat(),
                added.map(() => 'queued'),
              )
              const before = (await reading).map(textOf)
              const longest = [...kept(), ...added].map(({ text, released }: { text: string; released?: boolean }) =>
                released ? 'pubrel' : text,
              )
              assert.deepEqual(before, longest.slice(0, before.length))
              queue.push(...added)
            }
            if (one.do === 'expire') {
              const expiresAt = place.now + one.at
              await enqueue(store, id, `${texts}`, { expiresAt, qos: 1 })
              queue.push({ text: `${texts++}`, qos: 1, expiresAt })
              place.now += 2
            }
            queue = kept()
            if (one.do === 'send' && queue[one.at]?.packetId === undefined && queue[one.at]) {
              const seq = (await read(store, id, epoch))[one.at]!.seq
              queue[one.at]!.packetId = ++packetIds
              assert.equal(await store.assignPacketId(id, epoch, seq, packetIds), true)
            }
            if (one.do === 'receive' || one.do === 'ack') {
              const target = queue.filter(({ packetId }) => packetId !== undefined)[one.at]
              if (one.do === 'receive' && target) {
                assert.equal(await store.markReceived(id, epoch, target.packetId!), target.qos === 2)
                target.released = target.qos === 2
              } else if (target) {
                void store.ack(id, epoch, [target.packetId!])
                queue = queue.filter((other) => other !== target)
              }
            }
            if (one.do === 'discard' && queue[one.at]) {
              const { seq } = (await read(store, id, epoch))[one.at]!
              await store.discard(id, epoch, [seq])
              queue.splice(one.at, 1)
            }
            if (one.do === 'sweep') await store.deadlines(place.now)
            if (one.do === 'restart') {
              await store[Symbol.asyncDispose]()
              store = await place.open()
            }
            if (one.do === 'resume') await store.release(id, epoch, isKept ? Number.POSITIVE_INFINITY : 'forget')
            if (one.do === 'resume' || one.do === 'restart') {
              epoch = (await store.claim(id, 'b1', keeping)).epoch
              if (!isKept) queue = []
            }
            assert.deepEqual(
              (await read(store, id, epoch)).map((entry) => [textOf(entry), entry.packetId]),
              queue.map(({ text, packetId, released }) => [released ? 'pubrel' : text, packetId]),
            )
          }
          await store.release(id, epoch, 'forget')
        } finally {
          await store[Symbol.asyncDispose]()
        }
      }),
      { numRuns: 25 },
    )
  })

  // Wills

  const will = (text: string, delayMs: number) => ({ message: messageOf(text, { topic: `will/${text}` }), delayMs })
  const dueWills = async (store: SessionStore, before: number): Promise<string[]> =>
    (await store.deadlines(before)).wills.map(({ message }) => message.payload.toString())

  check('a will is due after its delay or when the session ends, over restarts, and taken once', async (place) => {
    const epochs: Record<string, number> = {}
    const left: [string, number, number | 'forget'][] = [
      ['at-once', 0, start + 60_000],
      ['delayed', 5_000, start + 60_000],
      ['session-ends', 9_000, start + 2_000],
      ['forgotten', 9_000, 'forget'],
    ]
    {
      await using store = await place.open()
      for (const [id, delayMs, keepUntil] of left) {
        epochs[id] = (await store.claim(id, 'b1', forGood)).epoch
        await store.putWill(id, epochs[id], will('replaced', 1))
        await store.putWill(id, epochs[id], will(id, delayMs))
        assert.deepEqual(
          await dueWills(store, Number.MAX_SAFE_INTEGER - 1).then((due) => due.includes(id)),
          false,
          'connected',
        )
        await store.release(id, epochs[id], keepUntil)
      }
    }
    await using store = await place.open()
    assert.deepEqual(await dueWills(store, start - 1), [])
    assert.deepEqual(await dueWills(store, start), ['at-once', 'forgotten'])
    assert.deepEqual(await dueWills(store, start + 2_000), ['at-once', 'session-ends', 'forgotten'])
    assert.deepEqual(await dueWills(store, start + 5_000), ['at-once', 'delayed', 'session-ends', 'forgotten'])
    const takes = await Promise.allSettled([1, 2, 3].map(() => store.takeWill('delayed', epochs.delayed!)))
    const taken = takes.flatMap((take) => (take.status === 'fulfilled' && take.value ? [take.value] : []))
    assert.deepEqual(taken, [will('delayed', 5_000)])
    await assert.rejects(store.takeWill('at-once', epochs.delayed!), fenced)
    assert.deepEqual(await dueWills(store, start + 5_000), ['at-once', 'session-ends', 'forgotten'])
  })

  check(
    'the wills of connections that were there when the broker died are due, each after its delay',
    async (place) => {
      {
        await using store = await place.open()
        for (const [id, delayMs, keepMs] of [
          ['now', 0, 1e6],
          ['delayed', 3_000, 1e6],
          ['brief', 3_000, 0],
        ] as const) {
          const { epoch } = await store.claim(id, 'b1', { keepMs })
          await store.putWill(id, epoch, will(id, delayMs))
        }
      }
      place.now = start + 10_000
      for (let round = 0; round < 2; round++) {
        await using store = await place.open()
        assert.deepEqual(await dueWills(store, start + 10_000), ['now', 'brief'])
        assert.deepEqual(await dueWills(store, start + 13_000), ['now', 'delayed', 'brief'])
        place.now += 1_000 // a second restart does not begin the delay again
      }
    },
  )

  check(
    'a will that is still delayed is not published when its session goes on (MQTT-3.1.3-9), but one without delay is',
    async (place) => {
      await using store = await place.open()
      for (const id of ['delayed', 'none', 'clean', 'late']) {
        const { epoch } = await store.claim(id, 'b1', forGood)
        await store.putWill(id, epoch, will(id, id === 'none' ? 0 : id === 'late' ? 1 : 60_000))
        if (id !== 'none') await store.release(id, epoch, Number.POSITIVE_INFINITY)
      }
      place.now = start + 1_000
      for (const id of ['delayed', 'none', 'late'])
        assert.equal((await store.claim(id, 'b2', forGood)).isWillLeft, true)
      const { epoch, isWillLeft } = await store.claim('clean', 'b2', { ...forGood, clean: true })
      assert.equal(isWillLeft, true)
      assert.equal((await store.claim('new', 'b2', forGood)).isWillLeft, false)
      await store.putWill('clean', epoch, will('new', 0))
      assert.deepEqual(await dueWills(store, place.now), ['none', 'clean', 'late'])
    },
  )

  check('a will is kept with the certificate that it was left under, or without one', async (place) => {
    const certificate = Buffer.from([0x30, 0, 0xff])
    const epochs: number[] = []
    {
      await using store = await place.open()
      for (const [id, more] of [
        ['with', { certificate }],
        ['without', {}],
      ] as const) {
        const { epoch } = await store.claim(id, 'b1', forGood)
        await store.putWill(id, epoch, { ...will('earlier', 0), certificate: Buffer.from('earlier') })
        await store.putWill(id, epoch, { ...will(id, 0), ...more })
        epochs.push(epoch)
      }
    }
    await using store = await place.open()
    assert.deepEqual((await store.deadlines(start)).wills, [
      { clientId: 'with', epoch: epochs[0], ...will('with', 0), certificate },
      { clientId: 'without', epoch: epochs[1], ...will('without', 0) },
    ])
    assert.deepEqual(await store.takeWill('with', epochs[0]!), { ...will('with', 0), certificate })
  })

  check('a will that the release drops is not published, whether the session is kept or not', async (place) => {
    for (const keepUntil of [Number.POSITIVE_INFINITY, 'forget'] as const) {
      await using store = await place.open()
      const { epoch } = await store.claim('d', 'b1', forGood)
      await store.putWill('d', epoch, will('w', 0))
      await store.release('d', epoch, keepUntil, { dropsWill: true })
      assert.deepEqual(await dueWills(store, Number.MAX_SAFE_INTEGER), [])
      assert.equal(await store.takeWill('d', epoch).catch(() => undefined), undefined)
    }
  })

  check('a will that was taken before the release is not published', async (place) => {
    await using store = await place.open()
    const { epoch } = await store.claim('d', 'b1', forGood)
    await store.putWill('d', epoch, will('w', 0))
    assert.deepEqual(await store.takeWill('d', epoch), will('w', 0))
    assert.equal(await store.takeWill('d', epoch), undefined)
    await store.release('d', epoch, 'forget')
    assert.deepEqual(await dueWills(store, Number.MAX_SAFE_INTEGER), [])
  })

  // Ends of sessions

  check('a session is kept until its end, over restarts, and then neither resumed nor filled', async (place) => {
    {
      await using store = await place.open()
      for (const id of ['brief', 'long', 'for-good']) {
        const { epoch } = await store.claim(id, 'b1', forGood)
        await store.changeSubscriptions(id, epoch, [subscription('a')], [])
        await enqueue(store, id, 'one')
        await store.release(
          id,
          epoch,
          id === 'brief' ? start + 1_000 : id === 'long' ? start + 5_000 : Number.POSITIVE_INFINITY,
        )
      }
    }
    place.now = start + 1_000
    await using store = await place.open()
    assert.deepEqual(await enqueue(store, 'brief', 'two'), ['noSession'])
    assert.deepEqual(await enqueue(store, 'long', 'two'), ['queued'])
    assert.deepEqual(await store.subscriptions('brief'), [])
    assert.deepEqual(
      (await collect(store.sessions())).map(({ clientId }) => clientId),
      ['long', 'for-good'],
    )
    const { sessions } = await store.deadlines(place.now)
    assert.deepEqual(
      sessions.map(({ clientId }) => clientId),
      ['brief'],
    )
    const again = await store.claim('brief', 'b1', forGood)
    assert.equal(again.present, false)
    assert.deepEqual(await texts(store, 'brief', again.epoch), [])
    await assert.rejects(store.release('brief', sessions[0]!.epoch, 'forget'), fenced, 'it lives again')
    const [late] = (await store.deadlines(start + 5_000)).sessions
    assert.equal(late!.clientId, 'long')
    await store.release('long', late!.epoch, 'forget')
    assert.deepEqual((await store.deadlines(Number.MAX_SAFE_INTEGER)).sessions, [])
  })

  check('a session whose broker died is kept for as long as its claim said', async (place) => {
    {
      await using store = await place.open()
      await store.claim('brief', 'b1', { keepMs: 1_000 })
      await store.claim('clean', 'b1', { keepMs: 0 })
      await store.claim('for-good', 'b1', forGood)
    }
    place.now = start + 10_000
    for (let round = 0; round < 2; round++) {
      await using store = await place.open()
      const due = async (before: number) => (await store.deadlines(before)).sessions.map(({ clientId }) => clientId)
      // One that was to end with its connection has ended, with nothing left to forget.
      assert.deepEqual(await due(start + 10_000), [])
      assert.deepEqual(await due(start + 11_000), ['brief'])
      place.now += 500
    }
  })

  check(
    'a dropped device has no sessions, queues and wills left, after a restart neither; others have theirs',
    async (place) => {
      {
        await using store = await place.open()
        for (const id of ['d', 'd:2', 'dd']) {
          const { epoch } = await store.claim(id, 'b1', forGood)
          await store.putWill(id, epoch, will(id, 0))
          await store.changeSubscriptions(id, epoch, [subscription('a')], [])
          await enqueue(store, id, 'one')
        }
        await store.retain('t', messageOf('stays', { topic: 't', from: 'd', retain: true }))
        assert.deepEqual((await store.dropDevice('d')).sort(), ['d', 'd:2'])
        assert.deepEqual(await store.dropDevice('nobody'), [])
        await store.retain('u', messageOf('of another', { topic: 'u', from: 'dd', retain: true }))
        assert.deepEqual(await store.retainedBy('d'), ['t'])
        assert.deepEqual(await store.retainedBy('nobody'), [])
        assert.deepEqual(await enqueue(store, 'd', 'two'), ['noSession'])
      }
      await using store = await place.open()
      assert.deepEqual(
        (await collect(store.sessions())).map(({ clientId }) => clientId),
        ['dd'],
      )
      assert.deepEqual(await dueWills(store, Number.MAX_SAFE_INTEGER), ['dd'])
      assert.deepEqual(await retained(store, '#'), ['t=stays', 'u=of another'])
      assert.deepEqual(await store.retainedBy('d'), ['t'])
      const back = await store.claim('d', 'b1', forGood)
      assert.equal(back.present, false)
      assert.deepEqual(await texts(store, 'd', back.epoch), [])
    },
  )

  // Retained messages

  check('retained messages are found by name and by wildcard, each once, over restarts', async (place) => {
    {
      await using store = await place.open()
      for (const topic of ['a', 'a/b', 'a/b/c', 'ab', 'a/é', '$SYS/x', 'b']) {
        assert.equal(
          await store.retain(topic, messageOf(topic, { topic, retain: true, qos: topic === 'b' ? 0 : 1 })),
          'stored',
        )
      }
      await store.retain('a/b', messageOf('new', { topic: 'a/b', retain: true }))
      await store.retain('b', null)
      await store.retain('unknown', null)
    }
    await using store = await place.open()
    for (const [filters, wanted] of [
      [['a'], ['a=a']],
      [['nothing'], []],
      [['a/#'], ['a/b/c=a/b/c', 'a/b=new', 'a/é=a/é', 'a=a']],
      [['+/b'], ['a/b=new']],
      [['a/+'], ['a/b=new', 'a/é=a/é']],
      [['+'], ['a=a', 'ab=ab']],
      [['#'], ['a/b/c=a/b/c', 'a/b=new', 'a/é=a/é', 'a=a', 'ab=ab']],
      [['$SYS/#'], ['$SYS/x=$SYS/x']],
      [
        ['a/#', 'a', '+/b'],
        ['a/b/c=a/b/c', 'a/b=new', 'a/é=a/é', 'a=a'],
      ],
      [
        ['a', 'a', '+'],
        ['a=a', 'ab=ab'],
      ],
    ] satisfies [string[], string[]][]) {
      assert.deepEqual(await retained(store, ...filters), wanted, filters.join(' '))
    }
  })

  check('what the gateway retains has no quota, and is found over restarts, by name and by wildcard', async (place) => {
    place.quota = { ...roomy, retained: 0 }
    const topicOf = (id: string): string => `$fleetgate/devices/${id}/presence`
    {
      await using store = await place.open()
      const topics = ['a', 'b', 'c'].map(topicOf)
      for (const topic of topics) {
        assert.equal(await store.retain(topic, messageOf(topic, { topic, retain: true, from: '$fleetgate' })), 'stored')
      }
      await store.retain(topicOf('b'), null)
      await store.retain(topicOf('unknown'), null)
    }
    await using store = await place.open()
    const [a, c] = ['a', 'c'].map((id) => `${topicOf(id)}=${topicOf(id)}`)
    assert.deepEqual(await retained(store, topicOf('+'), topicOf('a')), [a, c])
    assert.deepEqual(await retained(store, topicOf('c')), [c])
    assert.deepEqual(await retained(store, topicOf('b'), '#'), [])
  })

  check('a reader that takes its time gets what is retained by then, never what has been replaced', async (place) => {
    await using store = await place.open()
    for (let n = 0; n < 80; n++)
      await store.retain(`t/${n + 10}`, messageOf('old', { topic: `t/${n + 10}`, retain: true }))
    const seen = new Map<string, string>()
    for await (const { topic, payload } of store.retained(['t/+'])) {
      if (seen.size === 0) {
        await store.retain('t/20', messageOf('new', { topic: 't/20', retain: true }))
        await store.retain('t/88', messageOf('new', { topic: 't/88', retain: true }))
        await store.retain('t/21', null)
      }
      seen.set(topic, payload.toString())
    }
    assert.equal(seen.size, 79)
    assert.deepEqual(
      [seen.get('t/20'), seen.get('t/21'), seen.get('t/88'), seen.get('t/30')],
      ['new', undefined, 'new', 'old'],
    )
  })

  check('an expired retained message is not found, and its place is free once it is swept', async (place) => {
    place.quota = { ...roomy, retained: 1 }
    await using store = await place.open()
    await store.retain('a', messageOf('x', { topic: 'a', retain: true, expiresAt: start + 1_000 }))
    assert.deepEqual(await retained(store, '#', 'a'), ['a=x'])
    place.now = start + 1_000
    assert.deepEqual(await retained(store, '#', 'a'), [])
    assert.equal(await store.retain('b', messageOf('y', { topic: 'b', retain: true })), 'full')
    assert.deepEqual((await store.deadlines(place.now)).retained, ['a'])
    assert.deepEqual((await store.deadlines(place.now)).retained, [])
    assert.equal(await store.retain('b', messageOf('y', { topic: 'b', retain: true })), 'stored')
  })

  // Quotas

  check('a queue takes what its limits allow, and what it holds counts over restarts', async (place) => {
    const narrow = { messages: 2, bytes: 1e9 }
    const small = { messages: 100, bytes: 1_000 }
    const send = async (store: SessionStore, id: string, text: string, bounds: Delivery['limits']) =>
      (await store.enqueue([deliveryTo(id, messageOf(text), { limits: bounds })]))[0]
    {
      await using store = await place.open()
      await store.claim('d', 'b1', forGood)
      await store.claim('e', 'b1', forGood)
      assert.equal(await send(store, 'd', '1', narrow), 'queued')
      assert.equal(await send(store, 'd', '2', narrow), 'queued')
      assert.equal(await send(store, 'e', 'x'.repeat(700), small), 'queued')
    }
    await using store = await place.open()
    const { epoch } = await store.claim('d', 'b1', forGood)
    assert.equal(await send(store, 'd', '3', narrow), 'full')
    assert.equal(await send(store, 'e', 'x'.repeat(400), small), 'full')
    assert.equal(await send(store, 'e', 'x', small), 'queued')
    const [first] = await read(store, 'd', epoch)
    await store.discard('d', epoch, [first!.seq])
    assert.equal(await send(store, 'd', '3', narrow), 'queued')
    assert.deepEqual(await texts(store, 'd', epoch), ['2', '3'])
  })

  check('a device has one quota for all its sessions, and gets it back with them', async (place) => {
    place.quota = { ...roomy, messages: 3, bytes: 2_000, subscriptions: 2 }
    {
      await using store = await place.open()
      const a = await store.claim('d:a', 'b1', forGood)
      const b = await store.claim('d:b', 'b1', forGood)
      assert.deepEqual(await enqueue(store, 'd:a', 'x'.repeat(1_000)), ['queued'])
      assert.deepEqual(await enqueue(store, 'd:b', 'x'.repeat(1_000)), ['full'])
      assert.deepEqual(await enqueue(store, 'd:b', '1'), ['queued'])
      assert.deepEqual(await enqueue(store, 'd:b', '2'), ['queued'])
      await store.changeSubscriptions('d:a', a.epoch, [subscription('a')], [])
      await store.changeSubscriptions('d:b', b.epoch, [subscription('a')], [])
    }
    await using store = await place.open()
    assert.deepEqual(await enqueue(store, 'd:b', '3'), ['full'])
    const b = await store.claim('d:b', 'b1', forGood)
    await assert.rejects(store.changeSubscriptions('d:b', b.epoch, [subscription('b'), subscription('c')], ['a']), full)
    assert.deepEqual(await store.subscriptions('d:b'), [subscription('a')], 'nothing of it')
    await store.changeSubscriptions('d:b', b.epoch, [subscription('b')], ['a'])
    const a = await store.claim('d:a', 'b1', forGood)
    await store.release('d:a', a.epoch, 'forget')
    assert.deepEqual(await enqueue(store, 'd:b', 'x'.repeat(1_000)), ['queued'])
    await store.changeSubscriptions('d:b', b.epoch, [subscription('c')], [])
  })

  check('filters count among the octets of a device, over restarts, and are given back', async (place) => {
    place.quota = { ...roomy, bytes: 1_000 }
    const long = (first: string): string => `${first}/`.padEnd(500, 'é').slice(0, 251)
    {
      await using store = await place.open()
      const { epoch } = await store.claim('d', 'b1', forGood)
      await store.changeSubscriptions('d', epoch, [subscription(long('a'))], [])
      await store.changeSubscriptions('d', epoch, [subscription(long('a'), { qos: 2 })], [])
      assert.deepEqual(await enqueue(store, 'd', 'x'.repeat(501)), ['full'])
    }
    await using store = await place.open()
    const { epoch } = await store.claim('d', 'b1', forGood)
    await assert.rejects(store.changeSubscriptions('d', epoch, [subscription(long('b')), subscription('c')], []), full)
    assert.deepEqual(await store.subscriptions('d'), [subscription(long('a'), { qos: 2 })], 'nothing of it')
    await store.changeSubscriptions('d', epoch, [subscription(long('b'))], [long('a')])
    await store.changeSubscriptions('d', epoch, [], [long('b')])
    assert.deepEqual(await enqueue(store, 'd', 'x'.repeat(900)), ['queued'])
    await assert.rejects(store.changeSubscriptions('d', epoch, [subscription(long('b'))], []), full)
    await store.release('d', epoch, 'forget')
    await store.claim('d:2', 'b1', forGood)
    assert.deepEqual(await enqueue(store, 'd:2', 'x'.repeat(900)), ['queued'])
  })

  check('a full queue is freed of what has expired by a sweep', async (place) => {
    place.quota = { ...roomy, messages: 600 }
    {
      await using store = await place.open()
      const { epoch } = await store.claim('d', 'b1', forGood)
      const all = Array.from({ length: 600 }, (_, n) =>
        enqueue(store, 'd', `${n}`, n === 0 ? {} : { expiresAt: start + n }),
      )
      assert.ok((await Promise.all(all)).every(([answer]) => answer === 'queued'))
      await store.release('d', epoch, Number.POSITIVE_INFINITY)
    }
    await using store = await place.open()
    assert.deepEqual(await enqueue(store, 'd', 'too much'), ['full'])
    place.now = start + 590
    await store.deadlines(place.now)
    for (let n = 0; n < 590; n++) assert.deepEqual(await enqueue(store, 'd', `new ${n}`), ['queued'])
    assert.deepEqual(await enqueue(store, 'd', 'too much'), ['full'])
    const { epoch } = await store.claim('d', 'b1', forGood)
    assert.deepEqual((await texts(store, 'd', epoch)).slice(0, 11), [
      '0',
      ...Array.from({ length: 9 }, (_, n) => `${591 + n}`),
      'new 0',
    ])
  })

  check(
    'a device with too many sessions loses its oldest absent one, and is refused when there is none',
    async (place) => {
      place.quota = { ...roomy, sessions: 2 }
      await using store = await place.open()
      const a = await store.claim('d:a', 'b1', forGood)
      const b = await store.claim('d:b', 'b1', forGood)
      await assert.rejects(store.claim('d:c', 'b1', forGood), full)
      assert.equal((await store.claim('d:b', 'b1', forGood)).present, true, 'its own is not one more')
      await store.release('d:a', a.epoch, Number.POSITIVE_INFINITY)
      const c = await store.claim('d:c', 'b1', forGood)
      assert.deepEqual([c.present, c.displaced], [false, 'd:a'])
      await store.claim('other', 'b1', forGood)
      await assert.rejects(store.ack('d:b', b.epoch, [1]), fenced)
      assert.deepEqual(
        (await collect(store.sessions())).map(({ clientId }) => clientId),
        ['d:b', 'd:c', 'other'],
      )
    },
  )

  check('what a device may have retained is bounded by number and size, and counts over restarts', async (place) => {
    place.quota = { ...roomy, retained: 2, retainedBytes: 500 }
    const retain = (store: SessionStore, topic: string, bytes: number, from = 'd') =>
      store.retain(topic, messageOf('x'.repeat(bytes), { topic, from, retain: true }))
    {
      await using store = await place.open()
      assert.equal(await retain(store, 'a', 300), 'stored')
      assert.equal(await retain(store, 'b', 300), 'full')
      assert.equal(await retain(store, 'a', 350), 'stored', 'in place of its own')
      assert.equal(await retain(store, 'b', 10, 'd:2'), 'stored')
    }
    await using store = await place.open()
    assert.equal(await retain(store, 'c', 10), 'full')
    assert.equal(await retain(store, 'c', 10, 'e'), 'stored')
    assert.equal(await retain(store, 'a', 10, 'e'), 'stored', 'another owner from now on')
    assert.equal(await retain(store, 'd', 300), 'stored')
    await store.retain('b', null)
    assert.equal(await retain(store, 'e', 10), 'stored')
    assert.equal(await retain(store, 'a', 10), 'full')
    assert.deepEqual(
      (await retained(store, '#')).map((line) => line.split('=')[0]),
      ['a', 'c', 'd', 'e'],
    )
  })

  check('a closed store refuses by name (S5)', async (place) => {
    const store = await place.open()
    const { epoch } = await store.claim('d', 'b1', forGood)
    await store[Symbol.asyncDispose]()
    for (const call of [
      () => enqueue(store, 'd', 'x'),
      () => store.claim('d', 'b1', forGood),
      () => store.readQueue('d', epoch, 0, 1),
      () => collect(store.retained(['#'])),
      () => collect(store.sessions()),
    ]) {
      await assert.rejects(call, { code: 'unavailable' })
    }
  })
}
