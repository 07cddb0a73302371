import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { parseFilter, type Qos } from '../../../broker/wire/packet.ts'
import { type Delivery, type Group, RouteIndex, type Subscription } from '../../../broker/wire/route-index.ts'
import { topicMatches } from '../../../contract/topics.ts'

const subscription = (clientId: string, filter: string, options: Partial<Subscription> = {}): Subscription => ({
  clientId,
  filter,
  granted: 1,
  noLocal: false,
  retainAsPublished: false,
  retainHandling: 0,
  ...options,
})
const createIndex = (...subscriptions: Subscription[]): RouteIndex => {
  const index = new RouteIndex({ seed: 7, cachedTopics: 8 })
  for (const one of subscriptions) index.add(one)
  return index
}
const clientsOf = (deliveries: readonly Delivery[]): string[] => deliveries.map(({ clientId }) => clientId).toSorted()
const nothing = { clients: 0, subscriptions: 0, groups: 0, nodes: 1, cachedTopics: 0 }

// A model that reads like the specification: every subscription is looked at for every message.
type Model = Map<string, Subscription>
const keyOf = (clientId: string, filter: string): string => `${clientId} ${filter}`

function expected(model: Model, topic: string, publisher: string | undefined) {
  const deliveries = new Map<string, { granted: number; retainAsPublished: boolean; identifiers: number[] }>()
  const groups = new Map<string, { group: string; filter: string; members: string[] }>()
  for (const one of model.values()) {
    const { group, filter } = parseFilter(one.filter)!
    if (!topicMatches(filter, topic)) continue
    if (group !== undefined) {
      const key = one.filter
      const shared = groups.get(key) ?? { group, filter, members: [] }
      shared.members.push(one.clientId)
      groups.set(key, shared)
      continue
    }
    if (one.noLocal && one.clientId === publisher) continue
    const merged = deliveries.get(one.clientId) ?? { granted: 0, retainAsPublished: false, identifiers: [] }
    merged.granted = Math.max(merged.granted, one.granted)
    merged.retainAsPublished ||= one.retainAsPublished
    if (one.identifier !== undefined) merged.identifiers.push(one.identifier)
    merged.identifiers.sort((a, b) => a - b)
    deliveries.set(one.clientId, merged)
  }
  return {
    deliveries: [...deliveries].map(([clientId, rest]) => ({ clientId, ...rest })).toSorted(byText),
    groups: [...groups.values()].map((one) => ({ ...one, members: one.members.toSorted() })).toSorted(byText),
  }
}

const byText = (a: unknown, b: unknown): number => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1)
function found(index: RouteIndex, topic: string, publisher: string | undefined) {
  const { deliveries, groups } = index.match(topic, publisher)
  return {
    deliveries: deliveries
      .map(({ clientId, granted, retainAsPublished, identifiers }) => ({
        clientId,
        granted,
        retainAsPublished,
        identifiers: [...identifiers],
      }))
      .toSorted(byText),
    groups: groups
      .map(({ group, filter, members }) => ({ group, filter, members: clientsOf(members) }))
      .toSorted(byText),
  }
}

const level = fc.constantFrom('a', 'b', '', '+', '$x')
const plainFilter = fc
  .tuple(fc.array(level, { minLength: 0, maxLength: 4 }), fc.boolean())
  .map(([levels, rest]) => [...levels, ...(rest ? ['#'] : [])].join('/'))
  .filter((text) => text !== '')
const filter = fc
  .tuple(fc.constantFrom('', '', '', '$share/g/', '$share/h/'), plainFilter)
  .map(([share, text]) => share + text)
const client = fc.constantFrom('x', 'y', 'z', 'x:1')
const topic = fc
  .array(fc.constantFrom('a', 'b', '', 'c', '$x'), { minLength: 1, maxLength: 5 })
  .map((levels) => levels.join('/'))
  .filter((text) => text !== '')
const step = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('add' as const),
      clientId: client,
      filter,
      granted: fc.constantFrom<Qos>(0, 1, 2),
      noLocal: fc.boolean(),
      retainAsPublished: fc.boolean(),
      identifier: fc.option(fc.integer({ min: 1, max: 3 }), { nil: undefined }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('remove' as const), clientId: client, filter }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('leave' as const), clientId: client }) },
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('match' as const),
      topic,
      publisher: fc.option(client, { nil: undefined }),
    }),
  },
)

test('finds what a look at every subscription finds, at any moment of any history, and is empty when all have left', () => {
  fc.assert(
    fc.property(
      fc.array(step, { maxLength: 60 }),
      fc.array(topic, { maxLength: 8 }),
      fc.integer(),
      (steps, topics, seed) => {
        const index = new RouteIndex({ seed, cachedTopics: 4 })
        const model: Model = new Map()
        for (const one of steps) {
          if (one.do === 'add') {
            const { do: _, ...rest } = one
            const added = { ...rest, retainHandling: 0 as const }
            const key = keyOf(one.clientId, one.filter)
            assert.equal(index.add(added), !model.has(key))
            model.set(key, added)
          } else if (one.do === 'remove') {
            assert.equal(index.remove(one.clientId, one.filter), model.delete(keyOf(one.clientId, one.filter)))
          } else if (one.do === 'leave') {
            const keys = [...model.keys()].filter((key) => key.startsWith(`${one.clientId} `))
            assert.equal(index.removeClient(one.clientId), keys.length)
            for (const key of keys) model.delete(key)
          } else {
            // Twice over, as what comes again is cached.
            for (const publisher of [one.publisher, undefined, one.publisher]) {
              assert.deepEqual(found(index, one.topic, publisher), expected(model, one.topic, publisher))
            }
          }
          assert.equal(index.counts.subscriptions, model.size)
        }
        for (const name of topics) {
          for (const publisher of [undefined, 'x', 'y']) {
            assert.deepEqual(found(index, name, publisher), expected(model, name, publisher))
          }
        }
        for (const { clientId, filter: written } of [...model.values()]) index.remove(clientId, written)
        assert.deepEqual(index.counts, nothing)
      },
    ),
    { numRuns: 3_000 },
  )
})

test('those who share a filter leave in any order without taking another along', () => {
  const ids = Array.from({ length: 12 }, (_, i) => `c${i}`)
  fc.assert(
    fc.property(fc.shuffledSubarray(ids), (leaving) => {
      const index = createIndex(...ids.map((id) => subscription(id, 'a/+')))
      const staying = new Set(ids)
      for (const id of leaving) {
        index.remove(id, 'a/+')
        staying.delete(id)
        assert.deepEqual(clientsOf(index.match('a/b').deliveries), [...staying].toSorted())
      }
    }),
    { numRuns: 200 },
  )
})

test('levels whose hashes are equal are told apart, and can be removed in any order', () => {
  const [one, other] = collision()
  const filters = [`a/${one}/b`, `a/${other}/b`, 'a/third/b']
  fc.assert(
    fc.property(
      fc.shuffledSubarray(filters, { minLength: 3 }),
      fc.shuffledSubarray(filters, { minLength: 3 }),
      (come, go) => {
        const index = new RouteIndex({ seed: 0 })
        for (const text of come) index.add(subscription(text, text))
        assert.deepEqual(index.match('a/neither/b').deliveries, [])
        for (const [at, gone] of go.entries()) {
          for (const text of filters) {
            assert.deepEqual(clientsOf(index.match(text).deliveries), go.indexOf(text) < at ? [] : [text])
          }
          index.removeClient(gone)
        }
        assert.deepEqual(index.counts, nothing)
      },
    ),
  )
})

/** Two levels that hash alike with seed 0, by the birthday paradox: some 100,000 tries. */
function collision(): [string, string] {
  const seen = new Map<number, string>()
  for (let i = 0; ; i++) {
    const text = i.toString(36)
    let hash = 0
    for (let at = 0; at < text.length; at++) hash = Math.imul(hash ^ text.charCodeAt(at), 0x0100_0193)
    const before = seen.get(hash)
    if (before !== undefined) return [before, text]
    seen.set(hash, text)
  }
}

test('overlapping subscriptions make one delivery with the highest QoS and all identifiers (traps T25, T30)', () => {
  const index = createIndex(
    subscription('x', 'o/#', { granted: 0, identifier: 9 }),
    subscription('x', 'o/a', { granted: 1, identifier: 3, retainAsPublished: true }),
    subscription('x', 'o/+', { granted: 2, identifier: 9 }),
  )
  const wanted = { clientId: 'x', granted: 2, retainAsPublished: true, identifiers: [3, 9, 9] }
  assert.deepEqual(index.match('o/a').deliveries, [wanted])
  assert.deepEqual(index.match('o').deliveries, [
    { clientId: 'x', granted: 0, retainAsPublished: false, identifiers: [9] },
  ])
})

test('no-local holds back only from the publisher, and only the subscription that asked for it [MQTT-3.8.3-3]', () => {
  const index = createIndex(
    subscription('x', 'a/#', { granted: 2, noLocal: true, identifier: 1 }),
    subscription('y', 'a/#', { noLocal: true }),
    subscription('x', 'a/+', { granted: 0, identifier: 2 }),
  )
  assert.deepEqual(clientsOf(index.match('a/b', 'z').deliveries), ['x', 'y'])
  assert.deepEqual(clientsOf(index.match('a/b').deliveries), ['x', 'y'])
  assert.deepEqual(clientsOf(index.match('a/b', 'y').deliveries), ['x'])
  const mine = index.match('a/b', 'x').deliveries.find(({ clientId }) => clientId === 'x')
  assert.deepEqual(mine, { clientId: 'x', granted: 0, retainAsPublished: false, identifiers: [2] })
  assert.deepEqual(clientsOf(index.match('a/b/c', 'x').deliveries), ['y'])
})

test('no wildcard at the beginning matches a topic that begins with $ [MQTT-4.7.2-1]', () => {
  const index = createIndex(
    ...['#', '+/a', '+/#', '$share/g/#', '$SYS/#', '$SYS/+'].map((text, i) => subscription(`c${i}`, text)),
  )
  const { deliveries, groups } = index.match('$SYS/a')
  assert.deepEqual([clientsOf(deliveries), groups], [['c4', 'c5'], []])
})

test('a filter that is not well formed is refused and leaves nothing behind', () => {
  const index = createIndex()
  for (const bad of [
    '',
    'a/#/b',
    'a+',
    '#a',
    '$share/g',
    '$share//a',
    '$share/+/a',
    '$share/g/',
    'a\u0000',
    'a/'.repeat(200),
  ]) {
    assert.throws(() => index.add(subscription('x', bad)), { code: 'protocol_violation' }, bad)
  }
  assert.deepEqual(index.counts, nothing)
})

test('an equal filter replaces, and one that says nothing new leaves the epoch as it was', () => {
  const index = createIndex()
  assert.equal(index.add(subscription('x', 'a/+', { identifier: 1 })), true)
  assert.equal(index.match('a/b').deliveries[0]?.granted, 1)
  const { epoch } = index
  assert.equal(index.add(subscription('x', 'a/+', { identifier: 1 })), false)
  assert.equal(index.epoch, epoch)
  assert.equal(index.add(subscription('x', 'a/+', { identifier: 1, granted: 2 })), false)
  assert.ok(index.epoch > epoch)
  assert.deepEqual(index.match('a/b').deliveries, [
    { clientId: 'x', granted: 2, retainAsPublished: false, identifiers: [1] },
  ])
  assert.equal(index.counts.subscriptions, 1)
})

test('the epoch grows with every change, and with nothing else', () => {
  const index = createIndex()
  const epochs = [index.epoch]
  for (const change of [
    () => index.add(subscription('x', 'a')),
    () => index.add(subscription('x', '$share/g/a')),
    () => index.remove('x', 'a'),
    () => index.removeClient('x'),
  ]) {
    change()
    epochs.push(index.epoch)
  }
  assert.deepEqual(
    epochs,
    [...new Set(epochs)].toSorted((a, b) => a - b),
  )
  index.remove('x', 'a')
  index.removeClient('x')
  index.match('a')
  assert.equal(index.epoch, epochs.at(-1))
})

test('a topic that comes again is cached, in a bounded number of places, but not if it is very long or nobody wants it', () => {
  const index = createIndex(subscription('x', 'a/+'), subscription('y', 'b'))
  const matchTwice = (name: string): void => void [index.match(name), index.match(name)]
  for (let i = 0; i < 100; i++) index.match(`a/${i}`)
  assert.equal(index.counts.cachedTopics, 0)
  for (let i = 0; i < 100; i++) matchTwice(`a/${i}`)
  const { cachedTopics } = index.counts
  assert.ok(cachedTopics > 1 && cachedTopics <= 8, String(cachedTopics))
  matchTwice('b')
  index.add(subscription('z', 'b'))
  assert.deepEqual(clientsOf(index.match('b').deliveries), ['y', 'z'])
  index.add(subscription('z', 'c/#'))
  assert.equal(index.counts.cachedTopics, 0)
  matchTwice('nobody')
  matchTwice(`a/${'b'.repeat(1_000)}`)
  assert.equal(index.counts.cachedTopics, 0)
})

test('merged routes of many clients are cached for as long as there is room for their deliveries', () => {
  const index = new RouteIndex({ seed: 1, cachedTopics: 64 })
  for (let i = 0; i < 20_000; i++) index.add(subscription(`c${i}`, 'a/+'))
  index.add(subscription('c0', 'a/#'))
  for (let i = 0; i < 64; i++) assert.equal(index.match(`a/${i >> 1}`).deliveries.length, 20_000)
  const { cachedTopics } = index.counts
  assert.ok(cachedTopics >= 1 && cachedTopics <= 13, `${cachedTopics} of 262,144 / 20,001`)
})

const present = () => true
const absent = () => false
const only =
  (...ids: string[]) =>
  (clientId: string) =>
    ids.includes(clientId)
const groupOf = (index: RouteIndex, topicName: string): Group => index.match(topicName).groups[0]!

test('members of a group take turns, each as often as another', () => {
  const index = createIndex(...['x', 'y', 'z'].map((id) => subscription(id, '$share/g/a/#', { identifier: 5 })))
  const turns = Array.from({ length: 9 }, (_, i) => index.pick(groupOf(index, `a/${i}`), present)!)
  assert.deepEqual(
    turns.map(({ clientId }) => clientId),
    ['x', 'y', 'z', 'x', 'y', 'z', 'x', 'y', 'z'],
  )
  assert.deepEqual(turns[0], { clientId: 'x', granted: 1, retainAsPublished: false, identifiers: [5] })
})

test('a member that is present goes before one that is not, whoever has the turn', () => {
  const index = createIndex(...['x', 'y', 'z'].map((id) => subscription(id, '$share/g/a')))
  const turns = Array.from({ length: 4 }, () => index.pick(groupOf(index, 'a'), only('y', 'z'))!.clientId)
  assert.deepEqual(turns, ['y', 'z', 'y', 'z'])
})

test('when no member is present those take turns whose session can keep the message', () => {
  const index = createIndex(
    subscription('x', '$share/g/a', { granted: 0 }),
    subscription('y', '$share/g/a'),
    subscription('z', '$share/g/a', { granted: 2 }),
  )
  const turns = Array.from({ length: 4 }, () => index.pick(groupOf(index, 'a'), absent)!.clientId)
  assert.deepEqual(turns, ['y', 'z', 'y', 'z'])
})

test('a member that is refused the message is passed over, and without another one nobody gets it', () => {
  const index = createIndex(subscription('x', '$share/g/a'), subscription('y', '$share/g/a'))
  const group = groupOf(index, 'a')
  assert.equal(index.pick(group, present, only('y'))?.clientId, 'y')
  assert.equal(index.pick(group, present, only('y'))?.clientId, 'y')
  assert.equal(index.pick(group, only('x'), only('y'))?.clientId, 'y')
  assert.equal(index.pick(group, present, absent), undefined)
})

test('the turn stays where it was when members leave, come and change their options', () => {
  const index = createIndex(...['w', 'x', 'y', 'z'].map((id) => subscription(id, '$share/g/a')))
  const turn = (): string => index.pick(groupOf(index, 'a'), present)!.clientId
  assert.deepEqual([turn(), turn()], ['w', 'x'])
  index.remove('w', '$share/g/a')
  assert.equal(turn(), 'y')
  index.add(subscription('v', '$share/g/a'))
  index.add(subscription('z', '$share/g/a', { granted: 2 }))
  assert.deepEqual([turn(), turn(), turn(), turn(), turn()], ['z', 'v', 'x', 'y', 'z'])
  index.removeClient('v')
  assert.equal(turn(), 'x')
  for (const id of ['x', 'y', 'z']) index.removeClient(id)
  assert.deepEqual([index.match('a').groups, index.counts], [[], nothing])
})

test('over any coming and going no member that stays is ever more than one turn behind another that stays', () => {
  const ids = ['a', 'b', 'c', 'd', 'e', 'f']
  const event = fc.oneof(
    fc.record({ join: fc.constantFrom('e', 'f') }),
    fc.record({ leave: fc.constantFrom('e', 'f') }),
    fc.constant({ publish: true }),
  )
  fc.assert(
    fc.property(fc.array(event, { maxLength: 80 }), (events) => {
      const index = createIndex(...ids.slice(0, 4).map((id) => subscription(id, '$share/g/t')))
      const got = new Map(ids.map((id) => [id, 0]))
      for (const one of events) {
        if ('join' in one) index.add(subscription(one.join, '$share/g/t'))
        else if ('leave' in one) index.remove(one.leave, '$share/g/t')
        else {
          const { clientId } = index.pick(groupOf(index, 't'), present)!
          got.set(clientId, got.get(clientId)! + 1)
        }
        const staying = ids.slice(0, 4).map((id) => got.get(id)!)
        assert.ok(Math.max(...staying) - Math.min(...staying) <= 1, staying.join())
      }
    }),
    { numRuns: 500 },
  )
})

test('a client gets a copy for its own subscription beside its turn in a group (MQTT 5, 4.8.2)', () => {
  const index = createIndex(
    subscription('x', 'a'),
    subscription('x', '$share/g/a'),
    subscription('x', '$share/g/+'),
    subscription('x', '$share/h/a'),
  )
  const { deliveries, groups } = index.match('a', 'x')
  assert.deepEqual(clientsOf(deliveries), ['x'])
  assert.deepEqual(groups.map(({ group, filter: text }) => `${group} ${text}`).toSorted(), ['g +', 'g a', 'h a'])
})

test('revalidate takes out what a new policy does not allow, and tells it', () => {
  const index = createIndex(
    subscription('x', 'a/#'),
    subscription('x', 'b', { identifier: 4 }),
    subscription('x', '$share/g/b'),
    subscription('y', 'b'),
  )
  const asked: string[] = []
  const gone = index.revalidate('x', (text) => asked.push(text) > 0 && text !== 'b')
  assert.deepEqual(asked, ['a/#', 'b', 'b'])
  assert.deepEqual(gone, [subscription('x', 'b', { identifier: 4 }), subscription('x', '$share/g/b')])
  assert.deepEqual(index.filtersOf('x'), [subscription('x', 'a/#')])
  assert.deepEqual(clientsOf(index.match('b').deliveries), ['y'])
  assert.deepEqual(index.revalidate('nobody', absent), [])
})

test('an answer that was given stays as it was while the index changes', () => {
  const index = createIndex(subscription('x', 'a'), subscription('y', 'a'))
  const { deliveries } = index.match('a')
  index.removeClient('x')
  index.add(subscription('z', 'a'))
  assert.deepEqual(clientsOf(deliveries), ['x', 'y'])
  assert.deepEqual(clientsOf(index.match('a').deliveries), ['y', 'z'])
})
