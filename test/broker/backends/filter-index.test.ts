import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { FilterIndex } from '../../../broker/backends/filter-index.ts'
import { topicMatches } from '../../../contract/topics.ts'

const level = fc.constantFrom('a', 'b', '', '+')
const filter = fc
  .tuple(fc.array(level, { minLength: 1, maxLength: 3 }), fc.boolean())
  .map(([levels, rest]) => [...levels, ...(rest ? ['#'] : [])].join('/'))
const topic = fc
  .array(fc.constantFrom('a', 'b', '', 'c'), { minLength: 1, maxLength: 4 })
  .map((levels) => levels.join('/'))

test('finds each client with a matching filter once, at its highest QoS, through any history of changes', () => {
  const change = fc.record({ filter, client: fc.constantFrom('x', 'y', 'z'), qos: fc.constantFrom(undefined, 1, 2) })
  fc.assert(
    fc.property(fc.array(change, { maxLength: 20 }), topic, (changes, name) => {
      const index = new FilterIndex()
      const model = new Map<string, number>()
      for (const { filter: one, client, qos } of changes) {
        if (qos === undefined) {
          index.delete(one, client)
          model.delete(`${client} ${one}`)
        } else {
          index.set(one, client, qos)
          model.set(`${client} ${one}`, qos)
        }
      }
      const wanted = new Map<string, number>()
      for (const [key, qos] of model) {
        const [client, one] = [key[0]!, key.slice(2)]
        if (topicMatches(one, name)) wanted.set(client, Math.max(qos, wanted.get(client) ?? 0))
      }
      assert.deepEqual([...index.match(name)].toSorted(), [...wanted].toSorted())
    }),
    { numRuns: 2_000 },
  )
})

test('topics that begin with $ match nothing', () => {
  const index = new FilterIndex()
  index.set('#', 'x', 1)
  index.set('$SYS/#', 'x', 1)
  assert.equal(index.match('$SYS/a').size, 0)
})
