import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { BrokerStore } from '../../../broker/store.ts'
import { Snapshot } from '../../../broker/trust/snapshot.ts'
import { type FeedEvent, type FeedFact, startCursor } from '../../../contract/feed.ts'
import { chainHash } from '../../../runtime/chain.ts'

function eventsOf(facts: FeedFact[]): FeedEvent[] {
  let cursor = startCursor
  return facts.map((fact) => {
    const body = JSON.stringify({ at: '2026-01-01T00:00:00.000Z', ...fact })
    cursor = { seq: cursor.seq + 1, hash: chainHash(cursor.hash, body) }
    return { ...cursor, body }
  })
}
const device = (id: string, status: 'active' | 'revoked'): FeedFact => ({
  type: 'device.changed',
  data: { id, profile: 'camera', groups: [], status },
})

test('a device keeps its attributes over a restart, and may have none, as before there were any', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fleetgate-snapshot-'))
  try {
    await using store = await BrokerStore.open(join(folder, 'store'))
    const snapshot = await Snapshot.load(store)
    const { type, data } = device('cam-2', 'active')
    const noted = { type, data: { ...data, attributes: { site: 'berlin' } } } as FeedFact
    snapshot.apply(eventsOf([device('cam-1', 'active'), noted]))
    await snapshot.save()
    const again = await Snapshot.load(store)
    assert.deepEqual(again.findDevice('cam-1'), { profile: 'camera', groups: [], status: 'active' })
    assert.deepEqual(again.findDevice('cam-2')?.attributes, { site: 'berlin' })
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test('a revocation is in force although the disk fails, and the stored cursor does not get ahead of its facts', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fleetgate-snapshot-'))
  try {
    const store = await BrokerStore.open(join(folder, 'store'))
    let broken = false
    // The real store, with a disk that can be made to fail.
    const disk = new Proxy(store, {
      get: (target, name) =>
        name === 'write' && broken
          ? () => Promise.reject(new Error('no space left'))
          : // biome-ignore lint/suspicious/noExplicitAny: any member of the store
            (target as any)[name].bind(target),
    })
    const snapshot = await Snapshot.load(disk)
    const [active, other, revoked, later] = eventsOf([
      device('cam-1', 'active'),
      device('cam-2', 'active'),
      device('cam-1', 'revoked'),
      device('cam-3', 'active'),
    ])
    snapshot.apply([active!, other!])
    await snapshot.save()
    broken = true
    assert.deepEqual(snapshot.apply([revoked!]).devices, ['cam-1'])
    assert.equal(snapshot.findDevice('cam-1')?.status, 'revoked')
    await assert.rejects(snapshot.save(), /no space left/)
    assert.deepEqual((await store.read())!.cursor, { seq: 2, hash: other!.hash })

    broken = false
    snapshot.apply([later!])
    await snapshot.save()
    const stored = (await store.read())!
    assert.equal(stored.cursor.seq, 4)
    assert.deepEqual(
      ['cam-1', 'cam-2', 'cam-3'].map((id) => stored.devices.get(id)?.status),
      ['revoked', 'active', 'active'],
    )
    await store[Symbol.asyncDispose]()
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})
