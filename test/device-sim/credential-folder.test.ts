import assert from 'node:assert/strict'
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { CredentialFolder } from '../../device-sim/credential-folder.ts'

const request = async () => Buffer.from('request')

test('a first key is made where an attempt with a key in a token has left its request, and the other way round', async (t) => {
  const path = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
  t.after(() => rmSync(path, { recursive: true }))
  const folder = new CredentialFolder(path)
  await folder.pendingRequest('pkcs11:object=gone', request)
  const made = { privateKeyPem: 'own', csrDer: Buffer.from('of the own key') }
  const fail = () => assert.fail('there is one')
  assert.deepEqual([await folder.pending(async () => made), await folder.pending(fail)], [made, made])
  assert.deepEqual(await folder.pendingRequest('pkcs11:object=back', request), Buffer.from('request'))
})

test('a key that waits for its renewal is asked for again, but for one that a crash has left behind its certificate', (t) => {
  const path = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
  t.after(() => rmSync(path, { recursive: true }))
  mkdirSync(join(path, 'current'))
  writeFileSync(join(path, 'current', 'key.pem'), 'first', { mode: 0o600 })
  const folder = new CredentialFolder(path)
  const keys = [folder.pendingKey(() => 'second'), folder.pendingKey(() => 'third')]
  assert.deepEqual(keys, ['second', 'second'])
  cpSync(join(path, 'pending', 'key.pem'), join(path, 'current', 'key.pem'))
  assert.equal(
    folder.pendingKey(() => 'third'),
    'third',
  )
})
