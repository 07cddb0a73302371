import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { openDatabase } from '../../enroll/registry/database.ts'
import { Registry } from '../../enroll/registry/registry.ts'
import { createEnrollService } from '../../enroll/service.ts'
import { createLog } from '../../runtime/log.ts'
import { testConfiguration } from '../harness/fleet.ts'

const dataDir = mkdtempSync(join(tmpdir(), 'fleetgate-upgrade-'))
after(() => rmSync(dataDir, { recursive: true, force: true }))

test('a data folder that a gateway of registry layout 1 has left serves after a start of this version', async () => {
  // Of commit 169b6d9: two cameras enrolled with curl, the second one revoked, then `fleetgate up` stopped.
  execFileSync('tar', ['-xzf', join(import.meta.dirname, '../vectors/data-folder/layout-1.tar.gz'), '-C', dataDir])
  const before = readFileSync(join(dataDir, 'enroll/ca/issuing.crt'), 'utf8')
  const clock = () => new Date('2026-11-23T09:00:00Z')
  const config = testConfiguration()
  // It checks the chain of the audit log and its signatures before it serves.
  const service = await createEnrollService({ config, dataDir, clock, log: createLog('enroll', 'silent') })
  await service[Symbol.asyncDispose]()

  await using registry = new Registry(await openDatabase(join(dataDir, 'enroll/registry')))
  const devices = await registry.list('device', { kind: 'device' }, { limit: 9 })
  const statuses = devices.items.map(({ doc }) => [doc.id, doc.status])
  assert.deepEqual(statuses, [
    ['cam-1', 'active'],
    ['cam-2', 'revoked'],
  ])
  const value = 'f2babad4a81fd04867b4e2262bd03e6d3bd284807c0bbccb3196561ded6770b8'
  const found = await registry.list('certificate', { index: 'certificate.fingerprint', value }, { limit: 9 })
  assert.deepEqual(
    found.items.map(({ doc }) => doc.deviceId),
    ['cam-1'],
  )
  const { items } = await registry.auditAbout('device:cam-2', { limit: 50 })
  assert.ok(items.some(({ body }) => JSON.parse(body).action === 'device.revoked'))
  assert.equal(readFileSync(join(dataDir, 'enroll/ca/issuing.crt'), 'utf8'), before)
})
