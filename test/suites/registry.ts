/** What every registry engine must do, seen through `Registry` where callers see it too. */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { decodeBody, type FeedEvent, type FeedFact, genesis, startCursor } from '../../contract/feed.ts'
import { type AuditFact, decodeAudit, verifyAudit } from '../../enroll/registry/audit-log.ts'
import { type DeviceRecord, findDevice, getDevice, listDevices, writeDevice } from '../../enroll/registry/devices.ts'
import { type RegistryEngine, recordKey } from '../../enroll/registry/engine.ts'
import { type Commit, Registry, readAll } from '../../enroll/registry/registry.ts'
import { chainHash } from '../../runtime/chain.ts'
import { isFleetError } from '../../runtime/errors.ts'

/** One store: opened again it holds what it held. */
export type Place = { open(): Promise<RegistryEngine>; remove(): Promise<void> }

export const at = new Date('2026-03-01T09:00:00Z')
const dayMs = 86_400_000

export const device = (id: string, more: Partial<DeviceRecord> = {}): DeviceRecord => ({
  id,
  profile: 'sensor',
  groups: [],
  status: 'active',
  createdAt: at.toISOString(),
  ...more,
})

export const created = (id: string): AuditFact => ({
  action: 'device.created',
  actor: 'operator:test',
  subject: `device:${id}`,
  outcome: 'done',
  requestId: `create-${id}`,
})

export const changed = ({ id, profile, groups, status }: DeviceRecord): FeedFact => ({
  type: 'device.changed',
  data: { id, profile, groups, status },
})

/** A new device, its audit entry and its feed event. */
export const creation = (record: DeviceRecord): Commit => ({
  requestId: `create-${record.id}`,
  writes: [writeDevice(record, 0)],
  audit: [created(record.id)],
  feed: [changed(record)],
  at,
})

/** Both chains from their start to the head, read in pages. */
export async function requireWholeChains(registry: Registry): Promise<void> {
  const head = await registry.head()
  for (const [read, end] of [
    [(seq: number) => registry.feedAfter(seq, 500), head.feed],
    [(seq: number) => registry.auditAfter(seq, 500), head.audit],
  ] as const) {
    let intact = startCursor
    while (intact.seq < end.seq) {
      const page = verifyAudit(await read(intact.seq), intact)
      assert.equal(page.brokenAt, undefined)
      assert.ok(page.intact.seq > intact.seq, `nothing after ${intact.seq}, the head says ${end.seq}`)
      intact = page.intact
    }
    assert.deepEqual(intact, end)
  }
}

export function registrySuite(engine: string, createPlace: () => Promise<Place>): void {
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
  const open = async (place: Place): Promise<Registry> => new Registry(await place.open())

  check('a new registry is empty and both chains stand at their start', async (place) => {
    await using registry = await open(place)
    assert.deepEqual(await registry.head(), { feed: startCursor, audit: startCursor })
    assert.equal(await registry.feedHashAt(0), genesis)
    assert.equal(await registry.feedHashAt(1), undefined)
    assert.deepEqual(await registry.feedAfter(0, 10), [])
    assert.equal(await findDevice(registry, 'cam-1'), undefined)
  })

  check('a commit is there with its record, audit entry and feed event, also after reopening', async (place) => {
    const record = device('cam-1', { groups: ['north'] })
    {
      await using registry = await open(place)
      assert.deepEqual(await registry.commit(creation(record)), { auditSeq: 1, feedSeq: 1, replayed: false })
    }
    await using registry = await open(place)
    assert.deepEqual(await getDevice(registry, 'cam-1'), { rev: 1, doc: record })
    const [event] = await registry.feedAfter(0, 10)
    assert.deepEqual(decodeBody(event!), { at: at.toISOString(), ...changed(record) })
    assert.equal(event!.hash, chainHash(genesis, event!.body))
    assert.equal(await registry.feedHashAt(1), event!.hash)
    const [entry] = await registry.auditAfter(0, 10)
    const told = { ...created('cam-1'), after: record }
    assert.deepEqual(decodeAudit(entry!), { seq: 1, at: at.toISOString(), ...told, hash: entry!.hash })
    await requireWholeChains(registry)
  })

  check(
    'a commit that rests on a record is made while that is as it has to be, and not behind its change',
    async (place) => {
      await using registry = await open(place)
      await registry.commit(creation(device('owner')))
      const asOwner = () =>
        registry.while([
          {
            kind: 'device',
            id: 'owner',
            require: (owner) => {
              if (owner?.status !== 'active') throw new Error('the owner is out')
            },
          },
        ])
      const [first, late] = [asOwner(), asOwner()]
      assert.equal((await first.commit(creation(device('cam-1')))).auditSeq, 2)
      // In one group of writes, the first of which ends it; the record may be the one that is written.
      const { doc, rev } = await getDevice(registry, 'owner')
      const leaving = { ...doc, status: 'revoked' as const }
      const ending = asOwner().commit({ requestId: 'end', writes: [writeDevice(leaving, rev)], audit: [], at })
      const behind = late.commit(creation(device('cam-2')))
      await Promise.all([ending, assert.rejects(behind, /the owner is out/)])
      assert.equal(await findDevice(registry, 'cam-2'), undefined)
      await assert.rejects(late.commit(creation(device('cam-2'))), /the owner is out/)
      // What was begun in time comes to its end.
      assert.equal((await first.commit(creation(device('cam-3')))).replayed, false)
    },
  )

  check('all of a kind are read in id order, page by page, without what was deleted', async (place) => {
    await using registry = await open(place)
    const ids = async (): Promise<string[][]> => {
      const pages: string[][] = []
      for await (const page of registry.scan('device', 2)) pages.push(page.map(({ id }) => id))
      return pages
    }
    assert.deepEqual(await ids(), [[]])
    for (const n of [3, 1, 4, 2]) await registry.commit(creation(device(`cam-${n}`)))
    const deleted = { kind: 'device', id: 'cam-2', doc: undefined } as const
    await registry.commit({ requestId: 'delete', writes: [deleted], audit: [], at })
    assert.deepEqual(await ids(), [['cam-1'], ['cam-3', 'cam-4']])
  })

  check(
    'the beginning of the feed is forgotten for good, and what is left is whole, also after reopening',
    async (place) => {
      const from = async (registry: Registry): Promise<number[]> =>
        (await registry.feedAfter(0, 10)).map(({ seq }) => seq)
      {
        await using registry = await open(place)
        for (let n = 1; n <= 5; n++) await registry.commit(creation(device(`cam-${n}`)))
        await registry.forgetFeedBefore(4)
        await registry.forgetFeedBefore(2)
        await assert.rejects(registry.forgetFeedBefore(6))
        assert.deepEqual(await from(registry), [4, 5])
      }
      await using registry = await open(place)
      await registry.commit(creation(device('cam-6')))
      assert.deepEqual([await from(registry), (await registry.head()).feedFrom], [[4, 5, 6], 4])
      assert.equal(await registry.feedHashAt(3), undefined)
      const [base, ...rest] = await registry.feedAfter(0, 10)
      assert.deepEqual(verifyAudit(rest, base!), { intact: { ...(await registry.head()).feed } })
    },
  )

  check('the feed is read on from any place, to its end or to the limit, be it little or much', async (place) => {
    await using registry = await open(place)
    const all: number[] = []
    for (let n = 1; n <= 20; n++) {
      await registry.commit(creation(device(`cam-${n}`)))
      all.push(n)
    }
    for (const limit of [1, 3, 8, 9, 50]) {
      for (const seq of [0, 5, 11, 12, 18, 19, 20, 21]) {
        const seqs = (await registry.feedAfter(seq, limit)).map((event) => event.seq)
        assert.deepEqual(seqs, all.slice(seq, seq + limit), `${limit} after ${seq}`)
      }
    }
  })

  check(
    'of 60 concurrent commits that expect the same revision one wins, and the losers leave nothing',
    async (place) => {
      await using registry = await open(place)
      await registry.commit(creation(device('cam-1')))
      const outcomes = await Promise.allSettled(
        Array.from({ length: 60 }, (_, n) =>
          registry.commit({
            requestId: `race-${n}`,
            writes: [writeDevice(device(`by-${n}`), 0), writeDevice(device('cam-1', { currentSerial: `0${n}` }), 1)],
            audit: [created(`by-${n}`)],
            feed: [changed(device(`by-${n}`))],
            at,
          }),
        ),
      )
      const winners = outcomes.flatMap(({ status }, n) => (status === 'fulfilled' ? [n] : []))
      assert.equal(winners.length, 1)
      assert.deepEqual((await getDevice(registry, 'cam-1')).doc.currentSerial, `0${winners[0]}`)
      const present = (await listDevices(registry, { limit: 100 })).items.map(({ doc }) => doc.id)
      assert.deepEqual(present, [`by-${winners[0]}`, 'cam-1'])
      const head = await registry.head()
      assert.deepEqual([head.feed.seq, head.audit.seq], [2, 2])
      for (const outcome of outcomes) {
        if (outcome.status === 'rejected') assert.ok(isFleetError(outcome.reason, 'conflict'))
      }
      const loser = winners[0] === 7 ? 8 : 7
      const again = registry.commit({
        requestId: `race-${loser}`,
        writes: [writeDevice(device(`by-${loser}`), 0)],
        audit: [],
        at,
      })
      assert.equal((await again).replayed, false, 'a refused request id is free')
    },
  )

  check('a conflict names the write that lost', async (place) => {
    await using registry = await open(place)
    await registry.commit(creation(device('cam-1')))
    const clash = async (id: string, expect: number): Promise<Record<string, unknown>> => {
      try {
        await registry.commit({
          requestId: `clash-${id}-${expect}`,
          writes: [writeDevice(device('ok'), 0), writeDevice(device(id), expect)],
          audit: [],
          at,
        })
      } catch (error) {
        assert.ok(isFleetError(error, 'conflict'))
        return { message: error.message, ...error.context }
      }
      return assert.fail('it was committed')
    }
    const context = { kind: 'device', id: 'cam-1', actual: 1 }
    assert.deepEqual(await clash('cam-1', 0), { message: 'device cam-1 exists already', ...context, expected: 0 })
    assert.deepEqual(await clash('cam-1', 2), {
      message: 'device cam-1 was changed meanwhile',
      ...context,
      expected: 2,
    })
    assert.deepEqual(await clash('cam-2', 1), {
      message: 'device cam-2 does not exist',
      kind: 'device',
      id: 'cam-2',
      actual: 0,
      expected: 1,
    })
    assert.equal(await findDevice(registry, 'ok'), undefined)
  })

  check('a write without an expected revision takes what is there', async (place) => {
    await using registry = await open(place)
    for (const requestId of ['one', 'two']) {
      const doc = device('cam-1', { currentSerial: requestId })
      await registry.commit({ requestId, writes: [{ kind: 'device', id: 'cam-1', doc }], audit: [], at })
    }
    assert.deepEqual(await getDevice(registry, 'cam-1'), { rev: 2, doc: device('cam-1', { currentSerial: 'two' }) })
  })

  check('the same request id has one effect and one answer: at once, later, and after reopening', async (place) => {
    const commit = creation(device('cam-1'))
    {
      await using registry = await open(place)
      const receipts = await Promise.all([registry.commit(commit), registry.commit(commit), registry.commit(commit)])
      assert.deepEqual(
        receipts.map(({ replayed }) => replayed),
        [false, true, true],
      )
      await registry.commit(creation(device('cam-2')))
      assert.deepEqual(await registry.commit(commit), { auditSeq: 1, feedSeq: 1, replayed: true })
    }
    await using registry = await open(place)
    assert.deepEqual(await registry.commit(commit), { auditSeq: 1, feedSeq: 1, replayed: true })
    assert.equal((await registry.head()).feed.seq, 2)
    assert.equal((await getDevice(registry, 'cam-1')).rev, 1)
  })

  check('a commit without a request id is made as often as it is sent, and leaves no request', async (place) => {
    await using registry = await open(place)
    const commit: Commit = { writes: [], audit: [created('cam-1')], at }
    const receipts = [await registry.commit(commit), await registry.commit(commit)]
    assert.deepEqual(
      receipts.map(({ auditSeq, replayed }) => [auditSeq, replayed]),
      [
        [1, false],
        [2, false],
      ],
    )
    const { items } = await registry.list('request', { kind: 'request' }, { limit: 10 })
    assert.deepEqual(items, [])
  })

  check('a request id is forgotten after 7 days, not before', async (place) => {
    const commit: Commit = { requestId: 'old', writes: [], audit: [created('cam-1')], at }
    const tick: Commit = { requestId: 'tick', writes: [], audit: [], at: new Date(at.getTime() + 6.9 * dayMs) }
    // The clean-up runs in the background of a commit; closing waits for it.
    const commitAndClose = async (...commits: Commit[]): Promise<boolean[]> => {
      await using registry = await open(place)
      const replayed: boolean[] = []
      for (const each of commits) replayed.push((await registry.commit(each)).replayed)
      return replayed
    }
    assert.deepEqual(await commitAndClose(commit, tick), [false, false])
    assert.deepEqual(await commitAndClose(commit), [true])
    const late = { requestId: 'late', writes: [], audit: [], at: new Date(at.getTime() + 7.1 * dayMs) }
    assert.deepEqual(await commitAndClose(late), [false])
    assert.deepEqual(await commitAndClose(commit, tick), [false, true])
  })

  check('more forgotten request ids than one clean-up takes go with the commits that follow', async (place) => {
    await using registry = await open(place)
    await Promise.all(
      Array.from({ length: 250 }, (_, n) => registry.commit({ requestId: `old-${n}`, writes: [], audit: [], at })),
    )
    const now = new Date(at.getTime() + 8 * dayMs)
    const left = async (): Promise<number> =>
      (
        await registry.findMany(
          'request',
          Array.from({ length: 250 }, (_, n) => `old-${n}`),
        )
      ).length
    let before = 250
    for (let round = 0; before > 0; round++) {
      assert.ok(round < 1_000, `${before} are left`)
      await registry.commit({ requestId: `new-${round}`, writes: [], audit: [], at: now })
      const after = await left()
      assert.ok(before - after <= 200, 'a commit carries a bounded part of the work')
      before = after
    }
  })

  check(
    '2,000 concurrent commits reach a concurrent feed reader each once, in order and without a gap',
    async (place) => {
      const total = 2_000
      await using registry = await open(place)
      const seen: FeedEvent[] = []
      const { promise: complete, resolve, reject } = Promise.withResolvers<void>()
      let reading = false
      const read = async (): Promise<void> => {
        if (reading) return
        reading = true
        for (;;) {
          const events = await registry.feedAfter(seen.length, 64)
          if (events.length === 0) break
          seen.push(...events)
        }
        reading = false
        if (seen.length >= total) resolve()
      }
      const stop = registry.onWake(() => void read().catch(reject))
      const receipts = await Promise.all(
        Array.from({ length: total }, (_, n) => registry.commit(creation(device(`d-${n}`)))),
      )
      // A wake that came while reading is a lost hint.
      while (seen.length < total) {
        await read()
        await new Promise((next) => setImmediate(next))
      }
      await complete
      stop()
      assert.deepEqual(
        seen.map(({ seq }) => seq),
        Array.from({ length: total }, (_, n) => n + 1),
      )
      for (const [n, { feedSeq }] of receipts.entries()) {
        const { data } = decodeBody(seen[feedSeq - 1]!)
        assert.equal('id' in data && data.id, `d-${n}`)
      }
      await requireWholeChains(registry)
    },
  )

  check('the chains go on where they ended after reopening', async (place) => {
    for (let round = 0; round < 3; round++) {
      await using registry = await open(place)
      await Promise.all(Array.from({ length: 10 }, (_, n) => registry.commit(creation(device(`d-${round}-${n}`)))))
      await requireWholeChains(registry)
      assert.equal((await registry.head()).feed.seq, (round + 1) * 10)
    }
  })

  check(
    'an index is paged in id order, holds what stands in its records now, and nothing of a neighbour',
    async (place) => {
      await using registry = await open(place)
      // `a` is a prefix of `a-b`, and ids hold every character that a name may.
      const ids = ['0', 'A', 'Z.z', 'a', 'a-1', 'a.1', 'a_1', 'b']
      for (const id of ids) await registry.commit(creation(device(id, { groups: ['a', 'both'] })))
      for (const id of ['x', 'y']) await registry.commit(creation(device(id, { groups: ['a-b', 'both'] })))
      const pages: string[][] = []
      let after: string | undefined
      do {
        const page = await listDevices(registry, { group: 'a', after, limit: 3 })
        pages.push(page.items.map(({ doc }) => doc.id))
        after = page.next
      } while (after !== undefined)
      assert.deepEqual(pages.flat(), ids.toSorted())
      assert.deepEqual(
        pages.map(({ length }) => length),
        [3, 3, 2],
      )
      await registry.commit({
        requestId: 'move',
        writes: [writeDevice(device('x', { groups: ['a'] }), 1)],
        audit: [],
        at,
      })
      await registry.commit({
        requestId: 'drop',
        writes: [{ kind: 'device', id: 'y', expect: 1, doc: undefined }],
        audit: [],
        at,
      })
      const inGroup = async (group: string): Promise<string[]> =>
        (await readAll((paging) => listDevices(registry, { group, ...paging }))).map(({ doc }) => doc.id)
      assert.deepEqual(await inGroup('a'), [...ids, 'x'].toSorted())
      assert.deepEqual(await inGroup('a-b'), [])
      assert.deepEqual(await inGroup('both'), ids.toSorted())
      assert.deepEqual(await inGroup('no such group'), [])
      const all = await readAll((paging) => listDevices(registry, { ...paging, limit: 2 }))
      assert.deepEqual(
        all.map(({ doc }) => doc.id),
        [...ids, 'x'].toSorted(),
      )
    },
  )

  check('a page is never empty before the last one, and a made-up cursor stays within its listing', async (place) => {
    await using registry = await open(place)
    for (const id of ['a', 'b', 'c', 'd']) {
      await registry.commit(creation(device(id, { groups: ['g'], profile: id === 'd' ? 'camera' : 'sensor' })))
    }
    await registry.commit(creation(device('z', { groups: ['h'] })))
    const found = await listDevices(registry, { group: 'g', profile: 'camera', limit: 1 })
    assert.deepEqual([found.items.map(({ doc }) => doc.id), found.next], [['d'], undefined])
    for (const after of ['', '~', '\u{10ffff}', '! ', 'h z']) {
      for (const { doc } of (await listDevices(registry, { group: 'g', after, limit: 10 })).items) {
        assert.ok(doc.groups.includes('g'))
      }
    }
  })

  check('a filter that hardly anything passes ends a page with a cursor, and the pages miss nothing', async (place) => {
    await using registry = await open(place)
    const numbers = Array.from({ length: 1_200 }, (_, n) => n)
    const writes = numbers.map((n) =>
      writeDevice(device(`d-${n + 1_000}`, { profile: n === 1_150 ? 'rare' : 'camera' }), 0),
    )
    await registry.commit({ requestId: 'many', writes, audit: [], at })
    const first = await listDevices(registry, { attribute: 'a=b', limit: 10 })
    assert.deepEqual([first.items.length, typeof first.next], [0, 'string'])
    const last = await listDevices(registry, { attribute: 'a=b', after: first.next, limit: 10 })
    assert.deepEqual(last, { items: [] })
    const exact = await listDevices(registry, { after: 'd-2189', limit: 10 })
    assert.deepEqual([exact.items.length, exact.next], [10, undefined])
    const cut = await listDevices(registry, { after: 'd-2188', limit: 10 })
    assert.deepEqual([cut.items.length, cut.next], [10, 'd-2198'])
    const rare = await readAll((paging) => listDevices(registry, { ...paging, profile: 'rare' }))
    assert.deepEqual(
      rare.map(({ doc }) => doc.id),
      ['d-2150'],
    )
  })

  check('a record made again after its deletion is not taken for the former one', async (place) => {
    await using registry = await open(place)
    await registry.commit(creation(device('cam-1')))
    await registry.commit({
      requestId: 'drop',
      writes: [{ kind: 'device', id: 'cam-1', expect: 1, doc: undefined }],
      audit: [],
      at,
    })
    assert.equal(await findDevice(registry, 'cam-1'), undefined)
    assert.deepEqual((await listDevices(registry, { limit: 10 })).items, [])
    await registry.commit({ requestId: 'again', writes: [writeDevice(device('cam-1'), 0)], audit: [], at })
    const late = registry.commit({ requestId: 'late', writes: [writeDevice(device('cam-1'), 1)], audit: [], at })
    await assert.rejects(late, { code: 'conflict' })
    assert.equal((await getDevice(registry, 'cam-1')).rev, 3)
  })

  check('a refused attempt is an audit entry without a write', async (place) => {
    await using registry = await open(place)
    const fact: AuditFact = {
      ...created('cam-1'),
      outcome: 'refused',
      reason: 'token_spent',
      remoteAddress: '192.0.2.7',
    }
    assert.deepEqual(await registry.commit({ requestId: 'r', writes: [], audit: [fact], at }), {
      auditSeq: 1,
      feedSeq: 0,
      replayed: false,
    })
    const [entry] = await registry.auditAfter(0, 1)
    assert.deepEqual([decodeAudit(entry!).outcome, decodeAudit(entry!).reason], ['refused', 'token_spent'])
  })

  check('an id that no key can hold is refused where it is written and unknown where it is read', async (place) => {
    await using registry = await open(place)
    for (const id of ['', 'a b', 'a\u0000', 'ä', '\ud800', 'x'.repeat(257)]) {
      await assert.rejects(registry.commit({ requestId: 'r', writes: [writeDevice(device(id), 0)], audit: [], at }), {
        code: 'request_malformed',
      })
      await assert.rejects(registry.commit({ requestId: id, writes: [], audit: [], at }), { code: 'request_malformed' })
      const inGroup = registry.commit({ ...creation(device('ok', { groups: [id] })), requestId: 'g' })
      await assert.rejects(inGroup, { code: 'request_malformed' })
      assert.equal(await findDevice(registry, id), undefined)
      assert.deepEqual(await listDevices(registry, { group: id, limit: 10 }), { items: [] })
    }
    assert.deepEqual(await registry.head(), { feed: startCursor, audit: startCursor })
    assert.deepEqual((await listDevices(registry, { limit: 10 })).items, [])
  })

  check('a commit that writes one record twice is refused', async (place) => {
    await using registry = await open(place)
    const writes = [writeDevice(device('cam-1'), 0), writeDevice(device('cam-1'), 0)]
    await assert.rejects(registry.commit({ requestId: 'twice', writes, audit: [], at }), /once/)
  })

  check('a decision that throws leaves nothing and does not touch its neighbours in the group', async (place) => {
    await using engineOf = await place.open()
    const key = (n: number) => recordKey('device', `d-${n}`)
    const outcomes = await Promise.allSettled(
      Array.from({ length: 9 }, (_, n) =>
        engineOf.write([key(n)], () => {
          if (n % 3 === 0) throw new Error(`no ${n}`)
          const doc = n % 3 === 1 ? { n } : { n, bad: 1n } // a document that has no JSON
          return {
            answer: n,
            changes: { records: [{ key: key(n), doc }], indexed: [], audit: [`a${n}`], feed: [`f${n}`] },
          }
        }),
      ),
    )
    assert.deepEqual(
      outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : [])),
      [1, 4, 7],
    )
    const bodies = (await engineOf.feedAfter(0, 100)).map(({ body }) => body)
    assert.deepEqual(bodies, ['f1', 'f4', 'f7'])
    const there = await engineOf.getMany(Array.from({ length: 9 }, (_, n) => key(n)))
    assert.deepEqual(
      there.flatMap((record, n) => (record === undefined ? [] : [n])),
      [1, 4, 7],
    )
  })

  check('a record cannot be written that the decision did not read', async (place) => {
    await using engineOf = await place.open()
    const changes = { records: [{ key: recordKey('device', 'b'), doc: {} }], indexed: [], audit: [], feed: [] }
    await assert.rejects(
      engineOf.write([recordKey('device', 'a')], () => ({ answer: 0, changes })),
      /not read/,
    )
  })

  check('a decision that changes what it was shown changes nothing for the next', async (place) => {
    await using engineOf = await place.open()
    const key = recordKey('device', 'a')
    const put = (doc: unknown) => ({ records: [{ key, doc }], indexed: [], audit: [], feed: [] })
    await engineOf.write([key], () => ({ answer: 0, changes: put({ n: 1 }) }))
    const spoil = engineOf.write([key], ({ records }) => {
      ;(records.get(key)!.doc as { n: number }).n = 99
      return { answer: 0 }
    })
    const next = engineOf.write([key], ({ records }) => ({ answer: records.get(key)!.doc }))
    await spoil
    assert.deepEqual(await next, { n: 1 })
  })

  check('a listener is woken for feed events and no longer than it wants', async (place) => {
    await using registry = await open(place)
    let wakes = 0
    const { promise, resolve } = Promise.withResolvers<void>()
    const stop = registry.onWake(() => {
      wakes++
      resolve()
    })
    await registry.commit({ requestId: 'silent', writes: [], audit: [created('x')], at })
    assert.equal(wakes, 0)
    await registry.commit(creation(device('cam-1')))
    await promise
    assert.equal(wakes, 1)
    stop()
    await registry.commit(creation(device('cam-2')))
    assert.equal(wakes, 1)
  })

  check('closing finishes what was begun and refuses what comes after', async (place) => {
    const registry = await open(place)
    const begun = Promise.all(Array.from({ length: 20 }, (_, n) => registry.commit(creation(device(`d-${n}`)))))
    await registry[Symbol.asyncDispose]()
    assert.equal((await begun).length, 20)
    await assert.rejects(registry.commit(creation(device('late'))), { code: 'unavailable' })
    await assert.rejects(registry.head(), { code: 'unavailable' })
    await using again = await open(place)
    assert.equal((await again.head()).feed.seq, 20)
  })

  check('an event that no broker would read is refused, and the feed stays as it was', async (place) => {
    await using registry = await open(place)
    const anchors = [randomBytes(3 * 1024 * 1024).toString('base64')]
    const commit = registry.commit({
      requestId: 'big',
      writes: [],
      audit: [],
      feed: [{ type: 'trust.changed', data: { anchors } }],
      at,
    })
    await assert.rejects(commit, { code: 'body_too_large' })
    assert.deepEqual(await registry.head(), { feed: startCursor, audit: startCursor })
  })
}
