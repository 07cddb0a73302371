import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Due, SessionStore, Will } from '../../broker/backends/session-store.ts'
import { Wills } from '../../broker/wills.ts'
import { RouteIndex } from '../../broker/wire/route-index.ts'
import { policyDocument } from '../../contract/policy-document.ts'
import { compilePolicy } from '../../contract/policy-matcher.ts'
import { createLog } from '../../runtime/log.ts'

const anything = policyDocument.parse({ policies: [{ name: 'all', allow: { publish: ['#'] } }] })

type DueWill = Due & Will & { dueAt: number }

const willOf = (n: number, dueAt: number): DueWill => ({
  clientId: `cam-${n}`,
  epoch: n,
  delayMs: 0,
  dueAt,
  message: {
    topic: `devices/cam-${n}/will`,
    payload: Buffer.from('gone'),
    qos: 1,
    retain: false,
    from: `cam-${n}`,
    publishedAt: 0,
  },
})

/** Wills over a store that has these, and a router that the test answers for. */
function createWills(stored: Map<number, DueWill>, clock: () => Date, route: () => Promise<boolean>): Wills {
  const store: Partial<SessionStore> = {
    async deadlines(before) {
      return { sessions: [], wills: [...stored.values()].filter(({ dueAt }) => dueAt <= before), retained: [] }
    },
    async takeWill(_clientId, epoch) {
      const will = stored.get(epoch)
      stored.delete(epoch)
      return will
    },
  }
  return new Wills({
    store: store as SessionStore,
    router: { retain: async () => {}, route },
    retained: { swept: () => {} },
    index: new RouteIndex({ seed: 1 }),
    gate: {
      isLive: true,
      isRevoked: () => false,
      matcherOfClient: () => compilePolicy(anything, {}),
    },
    sessions: { isHeld: () => false },
    clock,
    log: createLog('test', 'silent'),
    onDenied: () => {},
  })
}

test('wills that are due together do not wait for each other to be stored', async () => {
  const stored = new Map([1, 2, 3].map((n) => [n, willOf(n, 0)]))
  const all = Promise.withResolvers<boolean>()
  let routed = 0
  using wills = createWills(
    stored,
    () => new Date(1),
    () => {
      if (++routed === 3) all.resolve(true)
      return all.promise
    },
  )
  await wills.publishDue()
  assert.deepEqual([routed, stored.size], [3, 0])
})

test('who waits for a will does not wait for those that become due meanwhile', async () => {
  const stored = new Map([[1, willOf(1, 1)]])
  let now = 1
  let last = 1
  using wills = createWills(
    stored,
    () => new Date(now),
    async () => {
      // Somebody leaves while each will is published.
      now++
      if (last < 50) stored.set(++last, willOf(last, now))
      return true
    },
  )
  await wills.publishDue()
  assert.deepEqual([...stored.keys()], [2])
})
