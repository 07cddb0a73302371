/** The real session store in a folder of its own, for the parts of the broker that live on it. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { LevelSessions } from '../../broker/backends/level-sessions.ts'
import type { Message, StoredSubscription } from '../../broker/backends/session-store.ts'
import { BrokerStore } from '../../broker/store.ts'
import { messageOf, roomy } from '../suites/session-store.ts'

export type Clock = { now: number }

export async function openStore(clock: Clock, quota = roomy) {
  const stack = new AsyncDisposableStack()
  const folder = mkdtempSync(join(tmpdir(), 'fleetgate-broker-'))
  stack.defer(() => rmSync(folder, { recursive: true }))
  const broker = stack.use(await BrokerStore.open(folder))
  const options = { area: broker.sessions, clock: () => new Date(clock.now), quotaOf: () => quota }
  const store = stack.use(await LevelSessions.open(options))
  return Object.assign(stack, { store })
}

export const forGood = { keepMs: Number.POSITIVE_INFINITY }
export const limits = { messages: 1_000, bytes: 1e9 }
export const stored = (filter: string, qos: 0 | 1 | 2 = 2): StoredSubscription => ({
  filter,
  qos,
  noLocal: false,
  retainAsPublished: false,
  retainHandling: 0,
})
export const message = (topic: string, text: string, more: Partial<Message> = {}): Message =>
  messageOf(text, { topic, qos: 2, from: 'publisher', ...more })
