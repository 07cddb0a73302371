import assert from 'node:assert/strict'
import { test } from 'node:test'
import { getIncident, noteEvidence } from '../../../enroll/ca/incidents.ts'
import { put, withRegistry } from '../registry/with-registry.ts'

test('of evidence that does not end the first and the last are kept, and how much is between', () =>
  withRegistry(async (registry) => {
    const now = new Date()
    let incident: string | undefined
    for (let at = 0; at < 203; at++) {
      const evidence = { at: now.toISOString(), what: 'alert.raised', by: 'broker-1', details: { at } }
      const noted = await noteEvidence(registry, { kind: 'clone', deviceId: 'cam-1', evidence, opens: true, now })
      await put(registry, ...noted.writes)
      incident = noted.incident
    }
    const { doc } = await getIncident(registry, incident!)
    const kept = doc.evidence.map(({ details }) => details?.at)
    assert.deepEqual([kept[0], kept[99], kept[100], kept.at(-1)], [0, 99, 103, 202])
    assert.deepEqual([kept.length, doc.leftOut], [200, 3])
  }))
