import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type BrokerRecord, findBroker, listBrokers, writeBroker } from '../../../enroll/registry/brokers.ts'
import { at } from '../../suites/registry.ts'
import { put, withRegistry } from './with-registry.ts'

const broker = (id: string): BrokerRecord => ({
  id,
  firstSeenAt: at.toISOString(),
  lastSeenAt: at.toISOString(),
  appliedSeq: 0,
})

test('a broker is found with the place it reported last, and all are listed in id order', () =>
  withRegistry(async (registry) => {
    await put(registry, writeBroker(broker('b'), 0), writeBroker(broker('a'), 0))
    await put(registry, writeBroker({ ...broker('b'), appliedSeq: 7 }, 1))
    assert.deepEqual(await findBroker(registry, 'b'), { rev: 2, doc: { ...broker('b'), appliedSeq: 7 } })
    assert.equal(await findBroker(registry, 'c'), undefined)
    const { items } = await listBrokers(registry, { limit: 10 })
    assert.deepEqual(
      items.map(({ doc }) => doc.id),
      ['a', 'b'],
    )
  }))
