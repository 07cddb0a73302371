import assert from 'node:assert/strict'
import { test } from 'node:test'
import { listSessions } from '../../broker/live-sessions.ts'
import type { Connection } from '../../broker/sessions.ts'

const now = new Date('2026-01-01T00:00:00Z')
const counters = { packetsIn: 0, bytesIn: 0, packetsOut: 0, bytesOut: 0 }
const connection = (clientId: string, more: object = {}) =>
  ({
    ...{ clientId, deviceId: clientId, state: 'live', rules: { name: 'main' }, remoteAddress: '192.0.2.1' },
    ...{ connectedAt: now, isResumed: false, link: { counters, taken: {} }, ...more },
  }) as unknown as Connection
const indexOf = (all: Connection[]) => Object.assign(all, { ofDevice: () => [] })

test('of many thousands of sessions the pages are each in order, and together all of them', () => {
  const ids = Array.from({ length: 5_000 }, (_, at) => `cam-${(at * 7_919) % 5_000}`)
  const index = indexOf(ids.map((id) => connection(id)))
  const told: string[] = []
  for (let from = ''; ; ) {
    const page = listSessions(index, { from, limit: 201 }, now).map(({ clientId }) => clientId)
    told.push(...page.slice(0, 200))
    if (page.length <= 200) break
    from = page[200]!
  }
  assert.deepEqual(told, ids.toSorted())
})

test('no session is who was not let in, is in quarantine, or is being ended', () => {
  const index = indexOf([
    connection('a', { state: 'connecting' }),
    connection('b', { state: 'quarantined' }),
    connection('c', { endReason: 'session_taken_over' }),
    connection('d'),
  ])
  assert.deepEqual(
    listSessions(index, { limit: 9 }, now).map(({ clientId }) => clientId),
    ['d'],
  )
})
