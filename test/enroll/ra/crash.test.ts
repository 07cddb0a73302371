/** The service ends at each write between the credential and the answer, before it or right after it, and comes back. */
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, suite, test } from 'node:test'
import type { DeviceId, ProfileName } from '../../../contract/ids.ts'
import { CertificateAuthority } from '../../../enroll/ca/certificate-authority.ts'
import { type Hierarchy, openHierarchy } from '../../../enroll/ca/hierarchy.ts'
import { simpleenroll } from '../../../enroll/est/enroll.ts'
import type { EstContext } from '../../../enroll/est/routes.ts'
import { allowDevices } from '../../../enroll/ra/allow-list.ts'
import { ApprovalQueue } from '../../../enroll/ra/approval-queue.ts'
import { createToken } from '../../../enroll/ra/enrollment-tokens.ts'
import { Profiles } from '../../../enroll/ra/profiles.ts'
import { RegistrationAuthority } from '../../../enroll/ra/registration-authority.ts'
import { findApproval } from '../../../enroll/registry/approvals.ts'
import { listCertificates } from '../../../enroll/registry/certificates.ts'
import { openDatabase } from '../../../enroll/registry/database.ts'
import { findDevice } from '../../../enroll/registry/devices.ts'
import type { RegistryEngine } from '../../../enroll/registry/engine.ts'
import { Registry } from '../../../enroll/registry/registry.ts'
import { parsePem } from '../../../pki/certificate.ts'
import { createKeyAndCsr } from '../../../pki/x509.ts'
import type { EdgeAnswer, EdgeRequest } from '../../../runtime/https.ts'
import { AttemptLimit } from '../../../runtime/limits.ts'
import { TestPki } from '../../harness/certificates.ts'
import { type Death, mortal } from '../../harness/engines.ts'
import { basic, certificateOf, testConfiguration } from '../../harness/fleet.ts'

const now = new Date()
const asked = () => ({ actor: 'operator:test', remoteAddress: 'local', requestId: randomBytes(8).toString('hex'), now })

suite('the service ends between credential and answer', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
  let engine: RegistryEngine
  let registry: Registry
  let hierarchy: Hierarchy
  let config: ReturnType<typeof testConfiguration>
  let shared: Buffer
  let maker: TestPki
  before(async () => {
    maker = await TestPki.create('Maker')
    writeFileSync(join(folder, 'maker.pem'), maker.issuing.pem)
    const claim = await TestPki.selfSigned('claim')
    shared = parsePem(claim.pem, 'CERTIFICATE')[0]!
    config = testConfiguration({
      profiles: {
        camera: {},
        gauge: { evidence: ['factory'] },
        meter: { evidence: ['claim'] },
        kiosk: { evidence: ['approval'] },
        vault: { evidence: ['token', 'approval'] },
      },
      labels: {
        line: { profile: 'gauge', factory: { authorities: join(folder, 'maker.pem') } },
        lot: { profile: 'meter', claim: { fingerprints: [claim.fingerprint] } },
        lobby: { profile: 'kiosk' },
      },
    })
    engine = await openDatabase(join(folder, 'registry'))
    registry = new Registry(engine)
    hierarchy = await openHierarchy({ folder: join(folder, 'ca'), registry, passphrase: undefined, now })
  })
  after(async () => {
    await registry[Symbol.asyncDispose]()
    rmSync(folder, { recursive: true })
  })

  /** A service that has just started, and may come to its end. */
  function start(death?: Death) {
    const own = new Registry(mortal(engine, death))
    const profiles = new Profiles(config)
    const approvals = new ApprovalQueue(own, config.enroll.approvals)
    const context = {
      registry: own,
      profiles,
      ra: new RegistrationAuthority(own, profiles, approvals),
      ca: new CertificateAuthority(own, hierarchy),
      clock: () => now,
      renewals: new AttemptLimit(1_000),
    } as unknown as EstContext
    const enroll = ({ label, ...shown }: Shown): Promise<EdgeAnswer> => {
      const request = {
        id: randomBytes(8).toString('hex'),
        remoteAddress: '192.0.2.1',
        channelBinding: () => undefined,
        headers: {},
        ...shown,
      } as unknown as EdgeRequest
      return simpleenroll(request, profiles.findLabel(label)!, context)
    }
    return { enroll, approvals }
  }
  type Shown = { label: string; headers?: object; certificate?: Buffer; body: Buffer }

  const bodyFor = async (id: string): Promise<Buffer> =>
    Buffer.from((await createKeyAndCsr({ commonName: id })).csrDer.toString('base64'))
  const approvalId = (body: Buffer): string =>
    createHash('sha256').update(Buffer.from(body.toString(), 'base64')).digest('hex')
  const token = async (id: string, profile: string) => {
    const create = { id: id as DeviceId, profile: profile as ProfileName, groups: [] }
    const { token: secret } = await createToken(registry, { deviceId: create.id, ttlMs: 60_000, create }, asked())
    return { authorization: basic(id, secret) }
  }
  const allow = (label: string, profile: string, id: string) =>
    allowDevices(
      registry,
      {
        label,
        profile: profile as ProfileName,
        groups: [],
        entries: [{ serial: id, deviceId: id as DeviceId }],
        otherHardware: false,
      },
      asked(),
    )
  const approved = async (shown: Shown): Promise<Shown> => {
    assert.equal((await start().enroll(shown)).status, 202)
    await start().approvals.approve(approvalId(shown.body), [], asked())
    return shown
  }
  const issuedTo = async (deviceId: string) => {
    const { items } = await listCertificates(registry, { deviceId, limit: 100 })
    return items.filter(({ doc }) => doc.status === 'issued').map(({ doc }) => doc)
  }

  const ways: { name: string; code: string | undefined; show(id: string): Promise<Shown> }[] = [
    {
      name: 'a token',
      code: 'token_spent',
      show: async (id) => ({ label: 'default', headers: await token(id, 'camera'), body: await bodyFor(id) }),
    },
    {
      name: 'a claim certificate',
      code: 'claim_refused',
      show: async (id) => {
        await allow('lot', 'meter', id)
        return { label: 'lot', certificate: shared, body: await bodyFor(id) }
      },
    },
    {
      name: 'an approval',
      code: undefined,
      show: async (id) => approved({ label: 'lobby', body: await bodyFor(id) }),
    },
    {
      name: 'a token and an approval',
      code: 'token_spent',
      show: async (id) => approved({ label: 'default', headers: await token(id, 'vault'), body: await bodyFor(id) }),
    },
    {
      name: 'a factory certificate',
      code: undefined,
      show: async (id) => {
        await allow('line', 'gauge', id)
        const { pem } = await maker.factory([{ '2.5.4.5': [id] }])
        return { label: 'line', certificate: parsePem(pem, 'CERTIFICATE')[0]!, body: await bodyFor(id) }
      },
    },
  ]

  for (const [at, { name, code, show }] of ways.entries()) {
    test(`with ${name}: the same request has its certificate afterwards, one and recorded, and another key has none`, async () => {
      let deaths = 0
      for (let atWrite = 1; ; atWrite++) {
        let isOver = false
        for (const when of ['before', 'after'] as const) {
          const id = `way-${at}-${atWrite}-${when}`
          const shown = await show(id)
          const ended = await start({ atWrite, when })
            .enroll(shown)
            .catch((error: Error) => error)
          isOver = !(ended instanceof Error)
          if (ended instanceof Error) {
            assert.equal(ended.message, 'killed')
            deaths++
          }
          const answer = await start().enroll(shown)
          assert.equal(answer.status, 200)
          const { serial } = certificateOf({ body: String(answer.body) })
          const issued = await issuedTo(id)
          assert.ok(issued.some((record) => record.serial === serial))
          // A factory certificate is good for more than one, each of them recorded.
          if (name !== 'a factory certificate') assert.equal(issued.length, 1)
          if (code !== undefined) {
            const other = start().enroll({ ...shown, body: await bodyFor(id) })
            await assert.rejects(other, { code })
          }
        }
        if (isOver) break
      }
      assert.equal(deaths, 4, 'two writes: the reservation, and the certificate with all that it changes')
    })
  }

  test('with a request that is filed, or being approved: it waits, or is approved, and the device is there', async () => {
    for (const when of ['before', 'after'] as const) {
      const shown = { label: 'lobby', body: await bodyFor(`filed-${when}`) }
      await assert.rejects(start({ atWrite: 1, when }).enroll(shown), /killed/)
      assert.equal((await start().enroll(shown)).status, 202)
      const id = approvalId(shown.body)
      const same = asked()
      await assert.rejects(start({ atWrite: 1, when }).approvals.approve(id, [], same), /killed/)
      const [record, device] = [await findApproval(registry, id), await findDevice(registry, `filed-${when}`)]
      assert.deepEqual(
        [record!.doc.decision, device !== undefined],
        [when === 'after' ? 'approved' : 'pending', when === 'after'],
      )
      assert.equal((await start().approvals.approve(id, [], same)).decision, 'approved')
      assert.equal((await start().enroll(shown)).status, 200)
    }
  })

  test('four at once with one approval or one token give one certificate', async () => {
    for (const [at, way] of ways.slice(0, 4).entries()) {
      const id = `race-${at}`
      const shown = await way.show(id)
      const { enroll } = start()
      const answers = await Promise.all(Array.from({ length: 4 }, () => enroll(shown)))
      const serials = answers.map(({ body }) => certificateOf({ body: String(body) }).serial)
      assert.equal(new Set(serials).size, 1, way.name)
      assert.equal((await issuedTo(id)).length, 1)
    }
  })
})
