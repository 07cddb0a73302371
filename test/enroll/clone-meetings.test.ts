import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import type { FromEnroll } from '../../contract/feed.ts'
import type { LiveSession } from '../../contract/live-sessions.ts'
import { CloneMeetings, type Met } from '../../enroll/clone-meetings.ts'
import { createLog } from '../../runtime/log.ts'

const key = 'ab'.repeat(32)
const sessionAt = (remoteAddress: string, clientId = 'cam-1'): LiveSession => ({
  ...{ clientId, deviceId: 'cam-1', listener: 'mqtts', remoteAddress, isResumed: false },
  ...{ connectedAt: '2026-03-01T00:00:00Z', packetsIn: 1, bytesIn: 1, packetsOut: 1, bytesOut: 1 },
})
const [home, abroad] = ['198.51.100.7', '203.0.113.9'].map((address) => sessionAt(address)) as [
  LiveSession,
  LiveSession,
]

/** Brokers that do what they are told, and who is there. */
class World {
  readonly heard: string[] = []
  readonly met: Met[] = []
  readonly there = new Map<string, LiveSession[]>()
  readonly brokers = new Map<
    string,
    ConstructorParameters<typeof CloneMeetings>[0]['brokers'] extends ReadonlyMap<string, infer B> ? B : never
  >()
  readonly meetings: CloneMeetings
  now = new Date('2026-03-01T00:00:00Z')

  constructor(maxSuspended = 2, questions = ['key']) {
    for (const id of ['one', 'two', 'three']) {
      this.brokers.set(id, {
        id,
        knows: new Set(questions),
        tell: ({ broker, sessions, isEarlier }: Extract<FromEnroll, { kind: 'elsewhere' }>) => {
          const told = sessions.map(({ from }) => from).join()
          this.heard.push(`${id} ${isEarlier ? 'before' : 'now'} ${broker} ${told}`)
        },
        ask: async (_kind: string, query: object) => {
          if ('suspend' in query && query.suspend) this.heard.push(`${id} suspend`)
          return (this.there.get(id) ?? []) as never
        },
      })
    }
    this.meetings = new CloneMeetings({
      brokers: this.brokers,
      maxSuspended,
      onMet: async (met) => void this.met.push(met),
      clock: () => this.now,
      log: createLog('enroll', 'silent'),
    })
  }

  arrive(broker: string, from: string): void {
    this.meetings.arrived(broker, { kind: 'arrived', sessions: [{ key, from }] })
  }

  beside(by: string, broker: string, session: LiveSession, isBack = false): Promise<void> {
    return this.meetings.beside(by, { kind: 'beside', key, broker, session, isBack })
  }

  /** The device is at one, somebody else comes to two, and both are heard. */
  async clone(): Promise<void> {
    this.there.set('one', [home]).set('two', [abroad])
    this.arrive('two', '203.0.113.9')
    await this.beside('one', 'two', home)
    await this.beside('two', 'one', abroad)
  }
}

test('a key that is heard at two brokers is suspended at all of them, and told of once', async () => {
  const world = new World()
  await world.clone()
  assert.deepEqual(world.heard, [
    ...['one now two 203.0.113.9', 'three now two 203.0.113.9', 'two before one 198.51.100.7'],
    ...['one suspend', 'two suspend', 'three suspend'],
  ])
  const [met] = world.met
  assert.deepEqual([world.met.length, met!.key, met!.suspended], [1, key, true])
  assert.deepEqual(met!.sides, [
    { broker: 'one', session: home },
    { broker: 'two', session: abroad },
  ])
  // What was said is used up: the same again is the beginning of another.
  await world.beside('two', 'one', abroad)
  assert.equal(world.met.length, 1)
})

test('one that is back for a client id that it yielded is told of at once, while the other is there', async () => {
  const world = new World()
  world.there.set('two', [{ ...abroad, clientId: 'cam-1:b' }])
  await world.beside('one', 'two', home, true)
  world.there.set('two', [])
  await world.beside('one', 'two', home, true)
  assert.deepEqual([world.met, world.heard], [[], []])
  world.there.set('two', [abroad])
  await assert.rejects(world.beside('one', 'two', { ...home, deviceId: 'cam-2' }, true), { code: 'request_malformed' })
  await world.beside('one', 'two', home, true)
  const [{ rule, sides }] = world.met as [Met]
  assert.deepEqual([rule, sides.map(({ broker }) => broker)], ['duel', ['two', 'one']])
  assert.deepEqual(world.heard, ['one suspend', 'two suspend', 'three suspend'])
})

suite('nothing is said of it', () => {
  const quiet = (name: string, play: (world: World) => void | Promise<void>): void => {
    test(name, async () => {
      const world = new World()
      world.there.set('one', [home]).set('two', [abroad])
      await play(world)
      assert.deepEqual(world.met, [])
      assert.ok(!world.heard.some((line) => line.endsWith('suspend')))
    })
  }

  quiet('when one of the two is not heard', (world) => world.beside('one', 'two', home))

  quiet('when the two name different devices', async (world) => {
    await world.beside('one', 'two', home)
    await assert.rejects(world.beside('two', 'one', { ...abroad, deviceId: 'cam-2' }), { code: 'request_malformed' })
  })

  quiet('when the first has gone since', async (world) => {
    await world.beside('one', 'two', home)
    world.there.set('one', [])
    await world.beside('two', 'one', abroad)
  })

  quiet('when the first has come anew since, as a device that moves does', async (world) => {
    await world.beside('one', 'two', home)
    world.arrive('one', '198.51.100.7')
    await world.beside('two', 'one', abroad)
  })

  quiet('when the first broker has lost the feed since', async (world) => {
    await world.beside('one', 'two', home)
    world.meetings.left('one')
    await world.beside('two', 'one', abroad)
  })

  quiet('of a broker that is not there, or is the same', async (world) => {
    await world.beside('one', 'four', home)
    await world.beside('one', 'one', home)
    await world.beside('one', 'one', home)
  })

  quiet('when a third answers for the second', async (world) => {
    await world.beside('one', 'two', home)
    await world.beside('three', 'one', abroad)
    await world.beside('three', 'two', abroad)
  })
})

test('of more than may be suspended for two brokers the others go on, and are alerted of; other brokers have their own', async () => {
  for (const [maxSuspended, expected] of [
    [0, [false, false]],
    [1, [true, false]],
  ] as const) {
    const world = new World(maxSuspended)
    for (const _ of expected) await world.clone()
    assert.deepEqual(
      world.met.map(({ suspended }) => suspended),
      expected,
    )
    world.there.set('three', [abroad])
    await world.beside('one', 'three', home)
    await world.beside('three', 'one', abroad)
    assert.equal(world.met.at(-1)!.suspended, maxSuspended > 0)
    world.now = new Date(world.now.getTime() + 3_600_000)
    await world.clone()
    assert.equal(world.met.at(-1)!.suspended, maxSuspended > 0)
  }
})

test('a broker of a version that does not know it is told nothing, and asked nothing', async () => {
  const world = new World(2, ['sessions', 'kick'])
  await world.clone()
  assert.deepEqual(world.heard, [])
})

test('a broker that hears many keys beside others is not cut off for saying who has come', async () => {
  const world = new World()
  for (let n = 0; n < 50; n++) await world.beside('one', 'two', home)
  await assert.rejects(world.beside('one', 'two', home), { code: 'too_many_requests' })
  world.arrive('one', '198.51.100.7')
})

test('what no broker says is refused, and what one says without end', async () => {
  const world = new World()
  const refused = (code: string, sessions: unknown): void =>
    assert.throws(() => world.meetings.arrived('one', { kind: 'arrived', sessions: sessions as never }), { code })
  for (const wrong of [
    undefined,
    [{ key: 'x', from: home.remoteAddress }],
    [{ key, from: 'x'.repeat(101) }],
    Array(501).fill({ key, from: 'x' }),
  ])
    refused('request_malformed', wrong)
  for (const wrong of [{ key: 'x' }, { session: { ...home, deviceId: 'no/device' } }, { broker: 7 }])
    await assert.rejects(
      world.meetings.beside('one', { kind: 'beside', key, broker: 'two', session: home, ...(wrong as object) }),
      {
        code: 'request_malformed',
      },
    )
  for (let n = 0; n < 50; n++) world.arrive('one', '198.51.100.7')
  refused('too_many_requests', [])
  world.arrive('two', '198.51.100.7')
  // What it says of many keys drops nothing of what another says.
  await world.beside('two', 'one', abroad)
  for (let n = 0; n < 1_100; n++) {
    world.now = new Date(world.now.getTime() + 1_000)
    const other = n.toString(16).padStart(64, '0')
    await world.meetings.beside('three', { kind: 'beside', key: other, broker: 'one', session: home })
  }
  world.there.set('two', [abroad])
  await world.beside('one', 'two', home)
  assert.equal(world.met.length, 1)
})
