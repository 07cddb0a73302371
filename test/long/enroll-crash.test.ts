/**
 * SIGKILL of the enrollment service, from outside and at any moment, while devices enroll in every way there is and renew.
 * test/enroll/ra/crash.test.ts ends it at each of its writes; here it is a process that is gone, and its disk what it left.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { randomInt, X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { after, before, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { type AdminClient, openAdminClient } from '../../cli/admin-client.ts'
import { EstClient, EstError, fetchTrust, type Trust } from '../../device-sim/est-client.ts'
import { certificateOf } from '../../device-sim/identity.ts'
import { createCsr, createKeyAndCsr } from '../../pki/x509.ts'
import { readEndpoints } from '../../runtime/endpoints.ts'
import { isFleetError } from '../../runtime/errors.ts'
import { type TestCertificate, TestPki } from '../harness/certificates.ts'

const kills = 6
const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
const dataDir = join(folder, 'data')
const main = fileURLToPath(new URL('../../enroll/main.ts', import.meta.url))
const ports: NodeJS.ProcessEnv = {
  FLEETGATE_ENROLL__EST: '127.0.0.1:0',
  FLEETGATE_ENROLL__ADMIN: '127.0.0.1:0',
  FLEETGATE_ENROLL__FEED: '127.0.0.1:0',
}
let service: ChildProcess
let ended: Promise<unknown[]>
let maker: TestPki
let shared: TestCertificate
let trust: Trust

/** Comes back where it was before. */
async function start(): Promise<void> {
  service = spawn(process.execPath, [main, '--config', join(folder, 'fleetgate.yaml'), '--data', dataDir], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, ...ports },
  })
  ended = once(service, 'exit')
  for await (const line of createInterface({ input: service.stderr! })) {
    const { event, ...told } = JSON.parse(line)
    if (event === 'service.failed') assert.fail(line)
    if (event !== 'service.started') continue
    for (const name of ['est', 'admin', 'feed']) {
      ports[`FLEETGATE_ENROLL__${name.toUpperCase()}`] = `127.0.0.1:${/:(\d+)$/.exec(told[name])![1]}`
    }
    service.stderr!.resume()
    return
  }
  assert.fail('it ended before it had started')
}

async function kill(): Promise<void> {
  service.kill('SIGKILL')
  assert.deepEqual(await ended, [null, 'SIGKILL'], 'it had not ended by itself')
}

before(async () => {
  maker = await TestPki.create('Maker')
  shared = await maker.factory([{ CN: ['claim'] }])
  writeFileSync(join(folder, 'maker.pem'), maker.issuing.pem)
  writeFileSync(
    join(folder, 'fleetgate.yaml'),
    `profiles: { camera: {}, gauge: { evidence: [factory] }, meter: { evidence: [claim] }, kiosk: { evidence: [approval] }, vault: { evidence: [token, approval] } }
labels:
  line: { profile: gauge, factory: { authorities: ${join(folder, 'maker.pem')} } }
  lot: { profile: meter, claim: { fingerprints: [${shared.fingerprint}] } }
  lobby: { profile: kiosk }
enroll: { attemptsPerMinute: 100000, renewalsPerHour: 100000, approvals: { retryAfterMs: 1000, maxPendingPerAddress: 1000 } }
`,
  )
  await start()
  const { est, rootFingerprint } = readEndpoints(dataDir)
  trust = await fetchTrust(est, rootFingerprint)
})
after(async () => {
  await kill()
  rmSync(folder, { recursive: true })
})

const client = (label?: string): EstClient =>
  new EstClient(`${readEndpoints(dataDir).est}/.well-known/est${label === undefined ? '' : `/${label}`}`, trust)

/** Until it is answered by somebody who lives. */
async function whenItLives<T>(ask: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await ask()
    } catch (error) {
      const answered = error instanceof EstError ? error.status !== 503 : isFleetError(error) && error.context.refused
      if (answered) throw error
      await delay(100)
    }
  }
}
const operator = <T>(ask: (admin: AdminClient) => Promise<T>): Promise<T> =>
  whenItLives(async () => {
    using admin = openAdminClient(dataDir)
    return ask(admin)
  })

/** One whose answer was lost is shown to nobody: another is made. */
const newToken = (deviceId: string, profile: string): Promise<string> =>
  operator(async (admin) => (await admin.createToken({ deviceId, profile })).token).catch((error) => {
    if (isFleetError(error, 'token_void')) return newToken(deviceId, profile)
    throw error
  })

type Given = { id: string; certificatePem: string; again?: () => Promise<string> }

/** One device each; `again` asks once more with what was spent. */
const ways: Record<string, (id: string) => Promise<Given>> = {
  token: async (id) => {
    return enroll(id, client(), { token: await newToken(id, 'camera') })
  },
  factory: async (id) => {
    await operator((admin) => admin.allowDevices({ label: 'line', entries: [{ serial: id, deviceId: id }] }))
    const { pem, key } = await maker.factory([{ '2.5.4.5': [id] }])
    const { certificatePem } = await enroll(id, client('line'), { born: { certificatePem: pem, privateKeyPem: key } })
    return { id, certificatePem } // good for more than one
  },
  claim: async (id) => {
    await operator((admin) => admin.allowDevices({ label: 'lot', entries: [{ serial: id, deviceId: id }] }))
    return enroll(id, client('lot'), { born: { certificatePem: shared.pem, privateKeyPem: shared.key } })
  },
  approval: (id) => enroll(id, client('lobby'), {}),
  vault: async (id) => {
    return enroll(id, client(), { token: await newToken(id, 'vault') })
  },
  renewal: async (id) => {
    const token = await newToken(id, 'camera')
    const { privateKeyPem, csrDer } = await createKeyAndCsr({ commonName: id })
    const ask = () => client().simpleenroll({ id, token, csr: async () => csrDer })
    const first = await whenItLives(ask)
    const renewal = await createCsr({ subject: certificateOf(first).subject.der, privateKeyPem })
    const current = { privateKeyPem, certificatePem: first, csr: async () => renewal }
    return { id, certificatePem: await whenItLives(() => client().simplereenroll(current)) }
  },
}

type Shown = { token?: string; born?: { certificatePem: string; privateKeyPem: string } }

async function enroll(id: string, est: EstClient, shown: Shown): Promise<Given> {
  const { csrDer } = await createKeyAndCsr({ commonName: id })
  const again = () => est.simpleenroll({ id, ...shown, csr: async () => csrDer })
  for (;;) {
    try {
      return { id, certificatePem: await whenItLives(again), again }
    } catch (error) {
      if (!(error instanceof EstError) || error.retryAfterMs === undefined) throw error
      await operator(async (admin) => {
        const mine = (await admin.listApprovals({ decision: 'pending' })).find(({ deviceId }) => deviceId === id)
        if (mine !== undefined) await admin.approve(mine.id, {})
      })
    }
  }
}

test('however it is killed, each request has its certificate in the end, recorded, and no credential was spent for nothing', async () => {
  const given: Given[] = []
  let running = true
  const devices = Object.entries(ways).map(async ([name, way]) => {
    for (let n = 0; running; n++) given.push(await way(`${name}-${n}`))
  })
  for (let n = 0; n < kills; n++) {
    await delay(randomInt(50, 900))
    await kill()
    await start()
  }
  running = false
  await Promise.all(devices)
  assert.ok(given.length >= Object.keys(ways).length)

  using admin = openAdminClient(dataDir)
  for (const { id, certificatePem, again } of given) {
    const serial = new X509Certificate(certificatePem).serialNumber.toLowerCase()
    const record = await admin.getCertificate(serial)
    assert.deepEqual([record.status, record.deviceId], ['issued', id])
    assert.equal(record.pem!.trim(), certificatePem.trim())
    if (again === undefined) continue
    const issued = await admin.listCertificates({ deviceId: id })
    assert.equal(issued.filter(({ status }) => status === 'issued').length, 1, `one certificate for ${id}`)
    assert.equal((await again()).trim(), certificatePem.trim(), `${id} is given its own again`)
  }
})
