/** What an operator decides of a device, at once with all that a device and other operators do. */
import assert from 'node:assert/strict'
import { createHash, X509Certificate } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { decodeBody } from '../../contract/feed.ts'
import type { DeviceId, ProfileName } from '../../contract/ids.ts'
import { CertificateAuthority } from '../../enroll/ca/certificate-authority.ts'
import { openHierarchy } from '../../enroll/ca/hierarchy.ts'
import { holdDevice, releaseDevice } from '../../enroll/ca/hold.ts'
import { createOperator, renewOperator } from '../../enroll/ca/operators.ts'
import { reportStolen, revokeDevice } from '../../enroll/ca/revocation.ts'
import { simpleenroll, simplereenroll } from '../../enroll/est/enroll.ts'
import type { EstContext } from '../../enroll/est/routes.ts'
import { allowDevices } from '../../enroll/ra/allow-list.ts'
import { ApprovalQueue } from '../../enroll/ra/approval-queue.ts'
import { createToken } from '../../enroll/ra/enrollment-tokens.ts'
import { registerCertificate } from '../../enroll/ra/foreign-certificate.ts'
import { Profiles } from '../../enroll/ra/profiles.ts'
import { readmitDevice } from '../../enroll/ra/readmission.ts'
import { RegistrationAuthority } from '../../enroll/ra/registration-authority.ts'
import { listApprovals } from '../../enroll/registry/approvals.ts'
import { listCertificates } from '../../enroll/registry/certificates.ts'
import { openDatabase } from '../../enroll/registry/database.ts'
import { getDevice } from '../../enroll/registry/devices.ts'
import { findOperator } from '../../enroll/registry/operators.ts'
import { Registry } from '../../enroll/registry/registry.ts'
import { listTokens } from '../../enroll/registry/tokens.ts'
import { watchKeys } from '../../enroll/registry/watched-keys.ts'
import { parseCertificate, parsePem } from '../../pki/certificate.ts'
import { parseCsr } from '../../pki/csr.ts'
import { createCsr, createKeyAndCsr } from '../../pki/x509.ts'
import { isFleetError } from '../../runtime/errors.ts'
import type { EdgeRequest } from '../../runtime/https.ts'
import { AttemptLimit } from '../../runtime/limits.ts'
import { TestPki } from '../harness/certificates.ts'
import { beforeWrite, dawdling } from '../harness/engines.ts'
import { basic, certificateOf, testConfiguration } from '../harness/fleet.ts'
import { randomOf } from '../harness/random.ts'

/** @param rounds how many devices this happens to: few in `npm test`, more in `npm run long` */
export function verbRaces(rounds: number): void {
  test(`a revocation in the middle of everything leaves nothing that counts, ${rounds} times in another order`, async () => {
    const seed = Date.now() & 0xffff
    const below = randomOf(seed)
    const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
    const engine = await openDatabase(join(folder, 'registry'))
    await using registry = new Registry(engine)
    const service = await startService(folder, registry, new Registry(dawdling(engine, below)))
    try {
      for (let round = 0; round < rounds; round++) await race(service, `race-${round}`, below)
      assert.deepEqual(await followed(registry), [], `seed ${seed}`)
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
}

/** A key is certified for another device just when its own is reported stolen. */
export function watchedKeyRace(): void {
  test('a key that is reported as stolen while it is being certified under another name gets no certificate', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
    const engine = await openDatabase(join(folder, 'registry'))
    await using registry = new Registry(engine)
    let theft: (() => Promise<unknown>) | undefined
    // Reserving is the first write of an issue, and recording the second.
    const held = beforeWrite(engine, async (count) => count === 2 && theft?.())
    try {
      const { still, racing } = await startService(folder, registry, new Registry(held))
      const ask = async (id: string, own: typeof still, privateKeyPem: string) => {
        const create = { id: id as DeviceId, profile: 'camera' as ProfileName, groups: [] }
        const { token } = await createToken(registry, { deviceId: id as DeviceId, ttlMs: 60_000, create }, asked())
        const headers = { authorization: basic(id, token) }
        const csr = await createCsr({ privateKeyPem, commonName: id })
        return own.ask(simpleenroll, 'default', { headers, body: Buffer.from(csr.toString('base64')) })
      }
      const { privateKeyPem } = await createKeyAndCsr({ commonName: 'owner' })
      assert.equal((await ask('owner', still, privateKeyPem)).status, 200)
      theft = () => reportStolen(registry, { id: 'owner' as DeviceId, purged: () => [], ...asked() })
      await assert.rejects(ask('other', racing, privateKeyPem), { code: 'key_compromised' })
      const { items } = await listCertificates(registry, { deviceId: 'other', limit: 10 })
      assert.deepEqual(
        items.map(({ doc }) => doc.status),
        ['reserved'],
      )
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
}

/** The same of an operator's key, and of a key that another CA has certified. */
export function credentialKeyRace(): void {
  test('a key that is reported as stolen meanwhile is that of no operator, new or renewed, and not registered for a device', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
    const engine = await openDatabase(join(folder, 'registry'))
    await using registry = new Registry(engine)
    let stolen: string | undefined
    const theft = async (): Promise<void> => {
      if (stolen === undefined) return
      const [spkiHash, since] = [stolen, new Date().toISOString()]
      stolen = undefined
      await registry.commit({ writes: await watchKeys(registry, [spkiHash], { since }), audit: [], at: new Date() })
    }
    const racing = new Registry(beforeWrite(engine, theft))
    try {
      const { issuing } = await openHierarchy({
        ...{ folder: join(folder, 'ca'), registry, passphrase: undefined, now: new Date() },
      })
      const ada = { name: 'ada', role: 'viewer' } as const
      const csrOf = async (): Promise<Buffer> => (await createKeyAndCsr({ commonName: 'ada' })).csrDer
      const made = await createOperator({ registry, issuing }, { ...ada, csr: await csrOf() }, asked())
      const refused = async (what: Promise<unknown>): Promise<void> => {
        await assert.rejects(what, { code: 'key_compromised' })
        assert.equal(stolen, undefined)
      }

      const first = await csrOf()
      stolen = parseCsr(first).spkiHash
      await refused(createOperator({ registry: racing, issuing }, { ...ada, name: 'bob', csr: first }, asked()))
      assert.equal(await findOperator(registry, 'bob'), undefined)

      const second = await csrOf()
      stolen = parseCsr(second).spkiHash
      await refused(renewOperator({ registry: racing, issuing }, { name: 'ada', csr: second }, asked()))
      assert.deepEqual((await findOperator(registry, 'ada'))?.doc, made.operator)

      const deviceId = 'owner' as DeviceId
      await createToken(
        registry,
        { deviceId, ttlMs: 60_000, create: { id: deviceId, profile: 'camera' as ProfileName, groups: [] } },
        asked(),
      )
      const foreign = await (await TestPki.create('Foreign')).device('owner')
      stolen = parseCertificate(parsePem(foreign.pem, 'CERTIFICATE')[0]!).spkiHash
      await refused(registerCertificate(racing, { deviceId, pem: foreign.pem }, asked()))
      assert.deepEqual((await listCertificates(registry, { deviceId, limit: 10 })).items, [])
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
}

/** One piece of hardware under two names: the one is enrolled just when the other is reported stolen. */
export function hardwareRace(): void {
  test('of an enrollment and the theft of the same hardware under another name neither misses the other', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
    const engine = await openDatabase(join(folder, 'registry'))
    await using registry = new Registry(engine)
    const maker = await TestPki.create('Maker')
    const authorities = join(folder, 'maker.pem')
    writeFileSync(authorities, maker.issuing.pem)
    let before: { at: number; work: () => Promise<unknown> } | undefined
    let writes = 0
    const held = beforeWrite(engine, async () => {
      if (++writes === before?.at) await before.work()
    })
    const meanwhile = async (at: number, work: () => Promise<unknown>, what: () => Promise<unknown>) => {
      writes = 0
      before = { at, work }
      await what()
      before = undefined
    }
    try {
      const racingRegistry = new Registry(held)
      const { still, racing } = await startService(folder, registry, racingRegistry, {
        profiles: { gauge: { evidence: ['factory'] } },
        labels: { line: { profile: 'gauge', factory: { authorities } } },
      })
      const stolen = (id: string, own: Registry) =>
        reportStolen(own, { id: id as DeviceId, purged: () => [], ...asked() })
      const pair = async (n: number) => {
        const shown = await maker.factory([{ '2.5.4.5': [`SN${n}`] }])
        const again = await maker.factory([{ '2.5.4.5': [`SN${n}-b`] }], { key: shown.key })
        const entries = [
          { serial: `SN${n}`, deviceId: `first-${n}` as DeviceId },
          { serial: `SN${n}-b`, deviceId: `second-${n}` as DeviceId },
        ]
        const profile = 'gauge' as ProfileName
        await allowDevices(registry, { label: 'line', profile, groups: [], entries, otherHardware: false }, asked())
        const enroll = async (id: string, { pem }: { pem: string }, own: typeof still) => {
          const { csrDer } = await createKeyAndCsr({ commonName: id })
          const certificate = new X509Certificate(pem).raw
          return own.ask(simpleenroll, 'line', { certificate, body: Buffer.from(csrDer.toString('base64')) })
        }
        await enroll(`first-${n}`, shown, still)
        return { enrollOther: (own: typeof still) => enroll(`second-${n}`, again, own) }
      }
      const one = await pair(1)
      // Reserving is the first write of an issue, and recording the second.
      await meanwhile(
        2,
        () => stolen('first-1', registry),
        () => assert.rejects(one.enrollOther(racing), { code: 'hardware_stolen' }),
      )
      const two = await pair(2)
      await meanwhile(
        1,
        () => two.enrollOther(still),
        async () => assert.deepEqual((await stolen('first-2', racingRegistry)).sameHardware, ['second-2']),
      )
      assert.equal((await getDevice(registry, 'second-2')).doc.status, 'held')
      const { items } = await listCertificates(registry, { deviceId: 'second-2', limit: 10 })
      assert.deepEqual(
        items.map(({ doc }) => doc.status),
        ['held'],
      )
      const three = await pair(3)
      await three.enrollOther(still)
      const { find } = racingRegistry
      racingRegistry.find = async (...args) => {
        if (args[1] === 'second-3' && (await getDevice(registry, 'second-3')).doc.status === 'active')
          await revokeDevice(registry, {
            id: 'second-3' as DeviceId,
            reason: 'superseded',
            purged: () => [],
            ...asked(),
          })
        return find.apply(racingRegistry, args) as never
      }
      await stolen('first-3', racingRegistry)
      const both = await Promise.all(['first-3', 'second-3'].map((id) => getDevice(registry, id)))
      assert.deepEqual(
        both.map(({ doc }) => doc.status),
        ['revoked', 'revoked'],
      )
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
}

type Service = Awaited<ReturnType<typeof startService>>
let requests = 0
const asked = () => ({
  actor: 'operator:test',
  remoteAddress: 'local',
  requestId: `race-${requests++}`,
  now: new Date(),
})

/** @param racing the same registry, for what is to happen at once */
async function startService(folder: string, registry: Registry, racing: Registry, more: object = {}) {
  const hierarchy = await openHierarchy({
    ...{ folder: join(folder, 'ca'), registry, passphrase: undefined, now: new Date() },
  })
  const config = testConfiguration({
    profiles: { camera: {}, kiosk: { evidence: ['approval'] } },
    labels: { lobby: { profile: 'kiosk' } },
    ...more,
  })
  const profiles = new Profiles(config)
  const over = (own: Registry) => {
    const approvals = new ApprovalQueue(own, config.enroll.approvals)
    const context = {
      ...{ registry: own, profiles, clock: () => new Date(), renewals: new AttemptLimit(1_000), overlapMs: 60_000 },
      ra: new RegistrationAuthority(own, profiles, approvals),
      ca: new CertificateAuthority(own, hierarchy),
    } as unknown as EstContext
    const ask = (operation: typeof simpleenroll, label: string, shown: Partial<EdgeRequest>) => {
      const request = {
        ...{ id: `est-${requests++}`, remoteAddress: '192.0.2.1', channelBinding: () => undefined, headers: {} },
        certificateKey: () => shown.certificate && new X509Certificate(shown.certificate).publicKey,
        ...shown,
      } as unknown as EdgeRequest
      return operation(request, profiles.findLabel(label)!, context)
    }
    return { registry: own, approvals, ask }
  }
  return { still: over(registry), racing: over(racing) }
}

/** One device with all it can have, and everything that can happen to it at once. */
async function race({ still, racing }: Service, name: string, below: (limit: number) => number): Promise<void> {
  const id = name as DeviceId
  const token = async (own: Registry) => {
    const create = { id, profile: 'camera' as ProfileName, groups: [] }
    return (await createToken(own, { deviceId: id, ttlMs: 60_000, create }, asked())).token
  }
  const newRequest = async () => Buffer.from((await createKeyAndCsr({ commonName: id })).csrDer.toString('base64'))
  const { privateKeyPem, csrDer } = await createKeyAndCsr({ commonName: id })
  const headers = { authorization: basic(id, await token(still.registry)) }
  const body = Buffer.from(csrDer.toString('base64'))
  const first = certificateOf({ body: String((await still.ask(simpleenroll, 'default', { headers, body })).body) })
  const renewal = Buffer.from((await createCsr({ privateKeyPem, subject: first.subject.der })).toString('base64'))
  const spare = { headers: { authorization: basic(id, await token(still.registry)) }, body: await newRequest() }
  const order = { id, reason: 'keyCompromise' as const, purged: () => [] }

  const enroll = () => racing.ask(simpleenroll, 'default', spare)
  const renew = () => racing.ask(simplereenroll, 'default', { certificate: first.der, body: renewal })
  const verbs: (() => Promise<unknown>)[] = [
    enroll,
    renew,
    renew,
    async () => {
      const request = await newRequest()
      await racing.ask(simpleenroll, 'default', {
        headers: { authorization: basic(id, await token(racing.registry)) },
        body: request,
      })
    },
    async () => {
      const shown = { body: await newRequest() }
      await racing.ask(simpleenroll, 'lobby', shown).catch(() => undefined)
      const request = createHash('sha256').update(Buffer.from(shown.body.toString(), 'base64')).digest('hex')
      await racing.approvals.approve(request, [], asked())
      await racing.ask(simpleenroll, 'lobby', shown)
    },
    () => holdDevice(racing.registry, { id, ...asked() }),
    () => releaseDevice(racing.registry, { id, ...asked() }),
    ...(below(2) === 0 ? [() => readmitDevice(racing.registry, { id, isRecovered: true }, asked())] : []),
    below(2) === 0
      ? () => revokeDevice(racing.registry, { ...order, ...asked() })
      : () => reportStolen(racing.registry, { ...order, ...asked() }),
  ]
  const outcomes = await Promise.allSettled(
    verbs.map(async (verb) => {
      for (let left = below(40); left > 0; left--) await turn()
      await verb()
    }),
  )
  for (const outcome of outcomes) {
    if (outcome.status === 'rejected') assert.ok(isFleetError(outcome.reason), outcome.reason)
  }
  if ((await getDevice(still.registry, id)).doc.status !== 'revoked') {
    // Readmitted: what it has now it got afterwards, which the feed shows, and it loses that as well.
    await reportStolen(still.registry, { ...order, ...asked() })
  }
  await requireNothing(still, id)
}

async function requireNothing({ registry, approvals }: Service['still'], id: string): Promise<void> {
  const paging = { limit: 1_000 }
  const certificates = (await listCertificates(registry, { deviceId: id, ...paging })).items
  assert.ok(certificates.every(({ doc }) => doc.status === 'revoked' || doc.status === 'reserved'))
  const tokens = (await listTokens(registry, { deviceId: id, ...paging })).items
  assert.ok(tokens.every(({ doc }) => doc.status === 'spent' || doc.status === 'void'))
  // What a stranger asks for under its name after that waits as for any name, and cannot be approved (decision 23).
  for (const { doc } of (await listApprovals(registry, { openOf: id, ...paging })).items) {
    assert.equal(doc.decision, 'pending')
    await assert.rejects(approvals.approve(doc.id, [], asked()), { code: 'device_revoked' })
  }
}

/** @returns what a broker that follows would have seen issued to a device without standing, or left over by a revocation */
async function followed(registry: Registry): Promise<string[]> {
  const status = new Map<string, string>()
  const live = new Map<string, Set<string>>()
  const wrong: string[] = []
  for (const event of await registry.feedAfter(0, 1_000_000)) {
    const { type, data } = decodeBody(event)
    if (type === 'device.changed') {
      // What a revocation ends is told right behind it, in the same batch.
      if (status.get(data.id) === 'revoked' && live.get(data.id)?.size) wrong.push(`${event.seq}: ${data.id} kept some`)
      status.set(data.id, data.status)
    }
    if (type === 'certificate.issued') {
      const { deviceId, fingerprint } = data
      if (status.get(deviceId) !== 'active') wrong.push(`${event.seq}: ${deviceId} is ${status.get(deviceId)}`)
      live.set(deviceId, (live.get(deviceId) ?? new Set()).add(fingerprint))
    }
    if (type === 'certificate.revoked') live.get(data.deviceId)?.delete(data.fingerprint)
  }
  for (const [id, left] of live) if (left.size > 0) wrong.push(`${id} still has ${left.size}`)
  return wrong
}
