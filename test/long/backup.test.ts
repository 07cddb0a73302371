/** A gateway is lost with its machine, and goes on from a backup on another one. */
import assert from 'node:assert/strict'
import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { connect } from 'mqtt'
import { createKeyAndCsr } from '../../pki/x509.ts'
import { LiveGateway } from '../harness/live-gateway.ts'
import { fleetgate } from '../harness/stub-io.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
after(() => rmSync(folder, { recursive: true, force: true }))

type Device = { id: string; key: string; certificate: string }

test('a backup under write load is restored to a gateway that serves the fleet and lets in nobody who was revoked', async () => {
  const secret = { FLEETGATE_BACKUP_PASSPHRASE: 'correct horse battery' }
  const run = async (...words: string[]): Promise<string> => {
    const { code, out, err } = await fleetgate(words, { env: { ...process.env, ...secret } })
    assert.equal(code, 0, err)
    return out
  }
  const file = join(folder, 'gateway.backup')
  const old = await LiveGateway.start()
  const oldDir = dirname(old.gateway.endpoints.rootCertificate)
  const enrolled = async (id: string): Promise<Device> => {
    const token = await old.server.operator.createToken(id, 'camera')
    const { privateKeyPem: key, csrDer } = await createKeyAndCsr({ commonName: id })
    const certificate = await old.server.est.simpleenroll({ id, token, csr: async () => csrDer })
    return { id, key, certificate }
  }
  const [kept, revoked, later] = await Promise.all(['cam-kept', 'cam-revoked', 'cam-later'].map(enrolled))
  await old.admin.revokeDevice('cam-revoked', 'keyCompromise', 60_000)
  let isWriting = true
  let written = 0
  const load = Promise.all(
    [1, 2, 3, 4].map(async (worker) => {
      for (let n = 0; isWriting; n++, written++)
        await old.admin.createDevice({ id: `load-${worker}-${n}`, profile: 'camera' })
    }),
  )
  while (written < 50) await delay(10)
  await run('backup', 'create', file, '--data', oldDir)
  isWriting = false
  await load
  assert.ok(written > 50)
  await old.admin.revokeDevice('cam-later', 'keyCompromise', 60_000)
  const dataDir = join(folder, 'data')
  assert.match(await run('backup', 'verify', file), /^whole +yes\n/)
  assert.match(await run('backup', 'restore', file, '--data', dataDir), /audit verify/)
  await old.gateway.stop()
  // The broker's machine was not lost: it knows of what came after the backup.
  cpSync(join(oldDir, 'broker'), join(dataDir, 'broker'), { recursive: true })
  const { rootPem } = old
  await old[Symbol.asyncDispose]()

  await using restored = await LiveGateway.start('', dataDir)
  assert.match(await run('audit', 'verify', '--data', dataDir), /^holds +yes\n/)
  const connects = ({ id, key, certificate }: Device): Promise<boolean> =>
    new Promise((resolve) => {
      const options = { clientId: id, key, cert: certificate, ca: rootPem, reconnectPeriod: 0 }
      const client = connect(restored.gateway.endpoints.mqtts, options)
      const ended = (isIn: boolean): void => {
        client.end(true)
        resolve(isIn)
      }
      client
        .once('connect', () => ended(true))
        .once('error', () => ended(false))
        .once('close', () => ended(false))
    })
  assert.deepEqual(await Promise.all([kept!, revoked!, later!].map(connects)), [true, false, false])
  for (;;) {
    const { items } = await restored.admin.listAudit({ action: 'revocation.kept' })
    if (items.some(({ subject }) => subject === 'device:cam-later')) break
    await delay(50)
  }
  assert.equal((await restored.admin.getDevice('cam-later')).status, 'active')
  const again = await restored.admin.revokeDevice('cam-later', 'keyCompromise', 60_000)
  assert.equal(again.inForce, true)
})
