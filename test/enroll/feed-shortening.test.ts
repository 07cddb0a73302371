import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { shortenFeed } from '../../enroll/feed-shortening.ts'
import { openDatabase } from '../../enroll/registry/database.ts'
import { Registry } from '../../enroll/registry/registry.ts'
import { at, changed, creation, device } from '../suites/registry.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-feed-'))
const hour = 3_600_000
let registry: Registry
before(async () => {
  registry = new Registry(await openDatabase(folder))
  const facts = Array.from({ length: 1_200 }, (_, n) => changed(device(`cam-${n}`)))
  await registry.commit({ ...creation(device('old')), feed: facts })
  await registry.commit({ ...creation(device('new')), feed: facts, at: new Date(at.getTime() + hour) })
})
after(async () => {
  await registry[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true })
})

test('events go once every reader is past them, or when they are older than anybody is waited for, and the last stay', async () => {
  const now = new Date(at.getTime() + hour + 1)
  const shorten = (pastAll: number, keepMs: number, keep: number): Promise<number> =>
    shortenFeed(registry, { pastAll, keepMs, now, keep })
  const oldest = async (): Promise<number> => (await registry.feedAfter(0, 1))[0]!.seq
  assert.deepEqual([await shorten(0, 2 * hour, 10), await oldest()], [0, 1])
  assert.deepEqual([await shorten(700, 2 * hour, 10), await oldest()], [700, 701])
  assert.deepEqual([await shorten(0, hour, 10), await oldest()], [500, 1_201])
  assert.deepEqual([await shorten(0, hour, 10), await oldest()], [0, 1_201])
  assert.deepEqual([await shorten(Number.POSITIVE_INFINITY, hour, 10), await oldest()], [1_190, 2_391])
  assert.deepEqual([await shorten(Number.POSITIVE_INFINITY, 0, 0), await oldest()], [9, 2_400])
})
