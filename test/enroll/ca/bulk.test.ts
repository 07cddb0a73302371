import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import type { DeviceId } from '../../../contract/ids.ts'
import { changeDevices } from '../../../enroll/ca/bulk.ts'
import { reportStolen } from '../../../enroll/ca/revocation.ts'
import { type ApprovalRecord, listApprovals, writeApproval } from '../../../enroll/registry/approvals.ts'
import { listCertificates, writeCertificate } from '../../../enroll/registry/certificates.ts'
import { openDatabase } from '../../../enroll/registry/database.ts'
import { getDevice, writeDevice } from '../../../enroll/registry/devices.ts'
import type { RegistryEngine } from '../../../enroll/registry/engine.ts'
import { findIncident, listIncidents } from '../../../enroll/registry/incidents.ts'
import { Registry, type Write } from '../../../enroll/registry/registry.ts'
import { listTokens, writeToken } from '../../../enroll/registry/tokens.ts'
import { findWatchedKey } from '../../../enroll/registry/watched-keys.ts'
import { type Death, mortal } from '../../harness/engines.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-bulk-'))
const now = new Date('2026-03-01T00:00:00.000Z')
const at = now.toISOString()
let engine: RegistryEngine
let registry: Registry
before(async () => {
  engine = await openDatabase(folder)
  registry = new Registry(engine)
})
after(async () => {
  await registry[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true })
})

let requests = 0
const asked = () => ({ actor: 'operator:test', remoteAddress: 'local', requestId: `bulk-${requests++}`, now })
const hex = (text: string): string => Buffer.from(text).toString('hex')

/** A device with all that a theft has to end. @param key what its key is called */
async function makeDevice(id: string, key = id): Promise<DeviceId> {
  const certificate = { kind: 'device', deviceId: id, profile: 'camera', reservedAt: at, via: 'token' } as const
  const writes: Write[] = [
    writeDevice({ id, profile: 'camera', groups: [], status: 'active', createdAt: at }, 0),
    writeCertificate(
      { ...certificate, serial: hex(`1${id}`), status: 'issued', fingerprint: hex(`f${id}`), spkiHash: hex(key) },
      0,
    ),
    writeCertificate({ ...certificate, serial: hex(`2${id}`), status: 'reserved', spkiHash: hex(`new ${key}`) }, 0),
    writeToken(
      { digest: hex(`t${id}`), deviceId: id, profile: 'camera', createdAt: at, expiresAt: at, status: 'redeeming' },
      0,
    ),
    writeApproval({ ...approval, id: hex(`a${id}`), deviceId: id }, 0),
  ]
  await registry.commit({ requestId: `make-${id}`, writes, audit: [], at: now })
  return id as DeviceId
}
const approval: Omit<ApprovalRecord, 'id' | 'deviceId'> = {
  ...{ profile: 'camera', label: 'lobby', keyType: 'P-256', spkiHash: hex('approved'), proved: [] },
  ...{ remoteAddress: '192.0.2.1', network: '192.0.2.1', requestedAt: at, expiresAt: at },
  ...{ decision: 'approved', status: 'unspent' },
}

/** What of a theft is there: all of it, or nothing. */
async function standingOf(id: string): Promise<'stolen' | 'untouched'> {
  const limit = 100
  const { doc } = await getDevice(registry, id)
  const certificates = (await listCertificates(registry, { deviceId: id, limit })).items.map((one) => one.doc.status)
  const incidents = await listIncidents(registry, { deviceId: id, limit })
  const seen = {
    status: doc.status,
    stolenAt: doc.stolenAt,
    certificates: certificates.toSorted(),
    tokens: (await listTokens(registry, { deviceId: id, limit })).items.map((one) => one.doc.status),
    approvals: (await listApprovals(registry, { openOf: id, limit })).items.length,
    watched: [await findWatchedKey(registry, hex(id)), await findWatchedKey(registry, hex(`new ${id}`))].filter(Boolean)
      .length,
    incidents: incidents.items.length,
  }
  const isStolen = doc.stolenAt !== undefined
  assert.deepEqual(
    seen,
    isStolen
      ? {
          ...{ status: 'revoked', stolenAt: at, certificates: ['reserved', 'revoked'], tokens: ['void'], approvals: 0 },
          ...{ watched: 2, incidents: 1 },
        }
      : {
          ...{ status: 'active', stolenAt: undefined, certificates: ['issued', 'reserved'], tokens: ['redeeming'] },
          ...{ approvals: 1, watched: 0, incidents: 0 },
        },
  )
  return isStolen ? 'stolen' : 'untouched'
}

const purged = () => []
const deaths = (atWrite: number): Death[] => [
  { atWrite, when: 'before' },
  { atWrite, when: 'after' },
]

test('the service ends at the write of a theft: all of it is there or nothing, and doing it again finishes', async () => {
  for (const death of deaths(1)) {
    const id = await makeDevice(`theft-${death.when}`)
    const dying = new Registry(mortal(engine, death))
    await assert.rejects(reportStolen(dying, { id, purged, ...asked() }), /killed/)
    assert.equal(await standingOf(id), death.when === 'after' ? 'stolen' : 'untouched')
    const { alreadyStolen, incident } = await reportStolen(registry, { id, purged, ...asked() })
    assert.deepEqual([alreadyStolen, await standingOf(id)], [death.when === 'after', 'stolen'])
    const { doc } = (await findIncident(registry, incident))!
    assert.deepEqual([doc.kind, doc.deviceId, doc.openedBy, doc.closedAt], ['stolen', id, 'operator:test', undefined])
  }
})

test('the service ends between the batches of many: each is whole, and the same call finishes', async () => {
  for (const death of [...deaths(1), ...deaths(2), ...deaths(3)]) {
    const names = Array.from({ length: 6 }, (_, n) => `many-${death.atWrite}-${death.when}-${n}`)
    const ids = await Promise.all(names.map((name) => makeDevice(name)))
    const batches = [ids.slice(0, 2), ids.slice(2, 4), ids.slice(4)]
    const run = async (own: Registry) => {
      const order = { verb: 'stolen', reason: 'keyCompromise', purged } as const
      const outcomes: string[] = []
      for (const batch of batches) {
        const { devices } = await changeDevices(own, { ...order, ids: batch, ...asked() })
        outcomes.push(...devices.map(({ outcome }) => outcome))
      }
      return outcomes
    }
    await assert.rejects(run(new Registry(mortal(engine, death))), /killed/)
    const done = 2 * (death.atWrite - (death.when === 'before' ? 1 : 0))
    const standing = await Promise.all(ids.map(standingOf))
    assert.deepEqual(
      standing,
      ids.map((_, n) => (n < done ? 'stolen' : 'untouched')),
    )
    assert.deepEqual(
      await run(registry),
      ids.map((_, n) => (n < done ? 'already' : 'done')),
    )
    assert.deepEqual(new Set(await Promise.all(ids.map(standingOf))), new Set(['stolen']))
  }
})

test('two devices with one key are stolen in one batch, and the key is watched once', async () => {
  const ids = [await makeDevice('twin-1', 'twin'), await makeDevice('twin-2', 'twin')]
  const order = { verb: 'stolen', reason: 'keyCompromise', purged, ids } as const
  const { devices } = await changeDevices(registry, { ...order, ...asked() })
  assert.deepEqual(
    devices.map(({ outcome }) => outcome),
    ['done', 'done'],
  )
  assert.equal((await findWatchedKey(registry, hex('twin')))?.rev, 1)
})
