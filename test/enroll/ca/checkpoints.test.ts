import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, suite, test } from 'node:test'
import { checkpointBody } from '../../../contract/audit-api.ts'
import { Checkpoints } from '../../../enroll/ca/checkpoints.ts'
import { verifyAudit } from '../../../enroll/registry/audit-log.ts'
import { findLastCheckpoint, listCheckpoints } from '../../../enroll/registry/checkpoints.ts'
import { openDatabase } from '../../../enroll/registry/database.ts'
import { Registry } from '../../../enroll/registry/registry.ts'
import { parseCertificate, parsePem } from '../../../pki/certificate.ts'
import { writeEndpoints } from '../../../runtime/endpoints.ts'
import { isFleetError } from '../../../runtime/errors.ts'
import { createLog } from '../../../runtime/log.ts'
import { EnrollHarness, movableClock, testConfiguration } from '../../harness/fleet.ts'
import { fleetgate } from '../../harness/stub-io.ts'

suite('checkpoints of the audit log', () => {
  const clock = movableClock()
  const audit = { checkpointEntries: 5, checkpointEveryMs: 60_000 }
  let fleet: EnrollHarness
  let folder: string
  before(async () => {
    fleet = await EnrollHarness.start({ config: testConfiguration({ enroll: { audit } }), clock: clock.now })
    folder = join(fleet.dataDir, 'services', 'audit')
    await fleet.close()
  })
  after(() => fleet[Symbol.asyncDispose]())

  const openRegistry = async () => new Registry(await openDatabase(join(fleet.dataDir, 'enroll', 'registry')))
  const openCheckpoints = (registry: Registry, keepDays?: number): Promise<Checkpoints> => {
    const issuing = readFileSync(join(fleet.dataDir, 'enroll', 'ca', 'issuing.crt'), 'utf8')
    const authorities = [parseCertificate(parsePem(issuing, 'CERTIFICATE')[0]!)]
    const settings = { ...audit, keepDays }
    const options = {
      registry,
      folder,
      passphrase: undefined,
      authorities,
      settings,
      clock: clock.now,
      elapsed: () => {
        looks++
        return elapsed
      },
    }
    return Checkpoints.open({ ...options, log: createLog('enroll', 'silent'), pollMs: 2 })
  }
  let elapsed = 0
  let looks = 0
  let requests = 0
  const record = (registry: Registry) => {
    const requestId = `test-${++requests}`
    const fact = { action: 'device.seen', actor: 'system', subject: 'device:a', outcome: 'done' as const, requestId }
    return registry.commit({ requestId, writes: [], audit: [fact], at: clock.now() })
  }
  const lastOf = async (registry: Registry) =>
    checkpointBody.parse(JSON.parse((await findLastCheckpoint(registry))!.doc.body))
  const turned = () => new Promise((resolve) => setTimeout(resolve, 10))
  const passes = (ms: number): void => {
    clock.advance(ms)
    elapsed += ms
  }
  /** One that began since has ended where a second one begins. */
  const untilLooked = async (): Promise<void> => {
    for (const seen = looks; looks < seen + 2; ) await turned()
  }
  const untilSigned = async (registry: Registry, seq: number): Promise<void> => {
    while ((await lastOf(registry)).seq < seq) await turned()
  }

  test('one is signed after so many entries, after so long if there are new ones, and at the end; each says where', async () => {
    await using registry = await openRegistry()
    const first = await lastOf(registry)
    {
      await using _checkpoints = await openCheckpoints(registry)
      assert.deepEqual(await lastOf(registry), first)
      for (let n = 0; n < 4; n++) await record(registry)
      await turned()
      assert.deepEqual(await lastOf(registry), first)
      await untilSigned(registry, (await record(registry)).auditSeq)
      clock.advance(60_001)
      await turned()
      assert.equal((await lastOf(registry)).number, first.number + 1)
      await untilSigned(registry, (await record(registry)).auditSeq)
      await record(registry)
    }
    const last = await lastOf(registry)
    assert.equal(last.number, first.number + 3)
    const { seq, hash } = (await registry.head()).audit
    assert.deepEqual([last.seq, last.hash, last.at], [seq, hash, clock.now().toISOString()])
    const all = await listCheckpoints(registry, { from: 0, to: seq })
    assert.deepEqual(
      all.map(({ number }) => number),
      all.map((_, n) => n + 1),
    )
  })

  test('a clock that is set back makes no checkpoint that nobody would believe', async () => {
    clock.advance(-30 * 86_400_000)
    {
      await using registry = await openRegistry()
      await using _checkpoints = await openCheckpoints(registry)
      await record(registry)
    }
    await using registry = await openRegistry()
    await using _again = await openCheckpoints(registry)
    clock.advance(30 * 86_400_000)
  })

  test('the service does not start on a log that is not what was signed, nor on one that has lost a checkpoint', async () => {
    const lastFile = join(folder, 'last.json')
    const last = readFileSync(lastFile)
    const refused = async (how: string, registry: Registry, sentence: RegExp): Promise<void> => {
      await assert.rejects(
        openCheckpoints(registry),
        (error: Error) => isFleetError(error, 'data_damaged') && sentence.test(error.message),
        how,
      )
    }
    await using registry = await openRegistry()
    const stored = (await findLastCheckpoint(registry))!
    const id = String(stored.doc.number).padStart(12, '0')
    const put = (doc: typeof stored.doc | undefined, requestId: string) =>
      registry.commit({ requestId, writes: [{ kind: 'checkpoint', id, doc }], audit: [], at: clock.now() })

    await put(undefined, 'lose')
    await refused('lost', registry, /has lost checkpoint \d+/)
    const { body } = stored.doc
    await put({ ...stored.doc, body: body.replace(/"seq":\d+/, '"seq":1') }, 'bend')
    await refused('bent', registry, /cannot be believed: its signature does not fit/)
    const earlier = (await listCheckpoints(registry, { from: 0, to: 1_000_000 }))[0]!
    await put(earlier, 'older')
    await refused('an older one in its place', registry, /has lost checkpoint/)
    await put(stored.doc, 'right')
    writeFileSync(lastFile, 'x')
    await refused('the file', registry, /cannot be believed/)
    writeFileSync(lastFile, last)
    await using _checkpoints = await openCheckpoints(registry)
  })

  test('a log that was written anew under its last checkpoint is refused', async () => {
    await using registry = await openRegistry()
    const lying = new Proxy(registry, {
      get: (target, name) =>
        name === 'auditHashAt' ? async () => 'ab'.repeat(32) : Reflect.get(target, name, target)?.bind?.(target),
    })
    await assert.rejects(openCheckpoints(lying), /is not what checkpoint \d+ of \S+ says of entry \d+/)
  })

  test('nothing goes while the clock is ahead for a while, however far', async () => {
    const years = 10 * 365 * 86_400_000
    await using registry = await openRegistry()
    await using _checkpoints = await openCheckpoints(registry, 2)
    await untilLooked()
    for (const ahead of [years, -years]) {
      passes(3_599_000)
      clock.advance(ahead)
      await untilLooked()
      passes(2_000)
      await untilLooked()
    }
    passes(3_598_000 - 2_000)
    await untilLooked()
    assert.equal((await registry.head()).auditStart, undefined)
  })

  test('entries that are older than they are kept go up to a checkpoint, which the log begins with then', async () => {
    const fresh = await (async () => {
      await using registry = await openRegistry()
      await using _checkpoints = await openCheckpoints(registry)
      for (let n = 0; n < 12; n++) await record(registry)
      const { seq } = await lastOf(registry)
      clock.advance(3 * 86_400_000)
      return { seq, auditSeq: (await record(registry)).auditSeq }
    })()
    {
      await using registry = await openRegistry()
      assert.equal((await registry.head()).auditStart, undefined)
      await using _checkpoints = await openCheckpoints(registry, 2)
      await untilLooked()
      passes(3_600_000)
      while ((await registry.head()).auditStart === undefined) await turned()
    }
    await using registry = await openRegistry()
    const { auditStart, audit: end } = await registry.head()
    assert.ok(auditStart!.seq >= fresh.seq && auditStart!.seq < fresh.auditSeq)
    const [first] = await registry.auditAfter(0, 1)
    assert.equal(first!.seq, auditStart!.seq + 1)
    const [begins] = await listCheckpoints(registry, { from: 0, to: end.seq })
    assert.equal(begins!.seq, auditStart!.seq)
    const about = await registry.auditAbout('device:a', { limit: 1_000 })
    assert.ok(about.items.every(({ seq }) => seq > auditStart!.seq))
    assert.deepEqual(verifyAudit(await registry.auditAfter(0, 1_000), auditStart!).intact, end)
    // And the service goes on with it.
    await using _again = await openCheckpoints(registry, 2)
  })

  test('an export of a log that was pruned says with which checkpoint it begins, and holds', async () => {
    await fleet.open()
    writeEndpoints(fleet.dataDir, { ...fleet.endpoints, mqtts: 'mqtts://localhost:1' })
    const { code, out, err } = await fleetgate(['audit', 'verify', '--data', fleet.dataDir])
    assert.equal(code, 0, err)
    assert.match(out, /^starts at checkpoint +[1-9]/m)
    await fleet.close()
  })
})
