import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { after, before, suite, test } from 'node:test'
import { gunzipSync } from 'node:zlib'
import { AdminClient } from '../../cli/admin-client.ts'
import { findLastCheckpoint } from '../../enroll/registry/checkpoints.ts'
import { openDatabase } from '../../enroll/registry/database.ts'
import { Registry } from '../../enroll/registry/registry.ts'
import { restoreBackup, verifyBackup } from '../../enroll/restore.ts'
import { createEnrollService } from '../../enroll/service.ts'
import { isFleetError } from '../../runtime/errors.ts'
import { createLog } from '../../runtime/log.ts'
import { openStream } from '../../runtime/sealed-stream.ts'
import { type DeviceKeys, EnrollHarness, testConfiguration } from '../harness/fleet.ts'
import { followFeed } from '../harness/follower.ts'
import { changed, device, requireWholeChains } from '../suites/registry.ts'

const now = new Date()

suite('a backup', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
  const place = (name: string): string => join(folder, name)
  const config = testConfiguration({ enroll: { status: { listen: '127.0.0.1:0', url: 'http://localhost:1' } } })
  let fleet: EnrollHarness
  let kept: DeviceKeys
  let revoked: DeviceKeys
  let lines: string[]
  before(async () => {
    fleet = await EnrollHarness.start({ config })
    kept = await fleet.enrolledDevice('cam-kept')
    revoked = await fleet.enrolledDevice('cam-revoked')
    await fleet.admin('POST', '/devices/cam-revoked/revoke', { reason: 'keyCompromise', waitMs: 60_000 })
    lines = await linesOf(fleet)
  })
  after(async () => {
    rmSync(folder, { recursive: true })
    await fleet[Symbol.asyncDispose]()
  })

  /** What a program with an API token gets, unsealed and unpacked, while other changes go on. */
  async function linesOf({ endpoints, admin }: EnrollHarness, token = 'nightly'): Promise<string[]> {
    const { body } = await admin.call(fleet, 'POST', '/api-tokens', { name: token, role: 'admin' })
    writeFileSync(place('api-token'), body.token, { mode: 0o600 })
    const { operatorCertificate: _certificate, operatorKey: _key, ...gateway } = endpoints
    const access = { ...gateway, mqtts: 'mqtts://localhost:1', apiTokenFile: place('api-token') }
    using client = new AdminClient(access, folder)
    const key = randomBytes(32)
    const writing = Array.from({ length: 8 }, (_, n) =>
      admin.call(fleet, 'POST', '/devices', { id: `w-${n}`, profile: 'camera' }),
    )
    const octets = Buffer.concat(await (await client.createBackup(key)).toArray())
    await Promise.all(writing)
    const packed: Buffer[] = []
    for await (const piece of openStream(Readable.from([octets.subarray(4)]), key)) packed.push(piece)
    return gunzipSync(Buffer.concat(packed)).toString().trimEnd().split('\n')
  }
  const textOf = (some: string[]): Readable => Readable.from([Buffer.from(some.map((line) => `${line}\n`).join(''))])
  const bent = (kind: string, change: (line: Record<string, never>) => object): string[] => {
    const at = lines.findIndex((line) => JSON.parse(line).kind === kind)
    return lines.with(at, JSON.stringify(change(JSON.parse(lines[at]!))))
  }
  const isUnreadable = (error: unknown): boolean => isFleetError(error, 'backup_unreadable')

  test('it has every file that the gateway needs, with its mode, and no broker store', async () => {
    const files = lines.map((line) => JSON.parse(line)).filter(({ kind }) => kind === 'file')
    const paths = files.map(({ path }) => path)
    for (const name of [
      'enroll/ca/root.key',
      'enroll/ca/issuing.key',
      'services/audit/last.json',
      'operator/operator.key',
      'policy.yaml',
      'root.crt',
    ])
      assert.ok(paths.includes(name), name)
    assert.ok(!paths.some((path) => /registry|endpoints|sessions/.test(path)))
    assert.equal(files.find(({ path }) => path === 'enroll/ca/issuing.key').mode, 0o600)
    const summary = await verifyBackup(textOf(lines))
    assert.equal(summary.rootFingerprint, fleet.endpoints.rootFingerprint)
    assert.equal(summary.files, files.length)
  })

  test('a second restore of one backup gives lists greater numbers than the first one came to, also of a gateway that was restored', async () => {
    const numbersOf = async (some: string[], at: Date): Promise<number[]> => {
      const dataDir = place(`restored-${randomBytes(4).toString('hex')}`)
      await restoreBackup(textOf(some), dataDir, at)
      await using registry = new Registry(await openDatabase(join(dataDir, 'enroll', 'registry')))
      const numbers: number[] = []
      for await (const page of registry.scan('revocationList', 10)) numbers.push(...page.map(({ number }) => number))
      return numbers
    }
    const later = new Date(now.getTime() + 60_000)
    const atLast = new Date(later.getTime() + 60_000)
    const first = await numbersOf(lines, now)
    const second = await numbersOf(lines, later)
    assert.equal(second.length, 2)
    for (const [at, number] of second.entries()) assert.ok(number > first[at]! + 1_000)
    const restored = lines.map((line) =>
      line.replaceAll(/("r revocationList .*?\\"number\\":)\d+/g, `$1${now.getTime()}`),
    )
    const third = await numbersOf(restored, later)
    const fourth = await numbersOf(restored, atLast)
    for (const [at, number] of fourth.entries()) {
      assert.ok(third[at]! > now.getTime(), 'numbers never go back')
      assert.ok(number > third[at]! + 1_000)
    }
    const ahead = await numbersOf(restored, new Date(now.getTime() - 60_000))
    for (const number of ahead) assert.ok(number > now.getTime(), 'a clock that was set back takes none back')
  })

  test('it restores to a gateway that goes on: chains whole, who was revoked is, list numbers far ahead', async () => {
    const dataDir = place('restored')
    let restoredAt = 0
    const summary = await restoreBackup(textOf(lines), dataDir, now)
    assert.equal(statSync(join(dataDir, 'enroll', 'ca', 'issuing.key')).mode & 0o777, 0o600)
    assert.ok(!existsSync(join(dataDir, 'restore.incomplete')))
    {
      await using registry = new Registry(await openDatabase(join(dataDir, 'enroll', 'registry')))
      await requireWholeChains(registry)
      const { audit } = await registry.head()
      const [last] = await registry.auditAfter(audit.seq - 1, 1)
      assert.match(last!.body, /"backup.restored"/)
      assert.ok(audit.seq > summary.auditEntries)
      assert.ok((await findLastCheckpoint(registry)) !== undefined)
      assert.equal((await registry.find('device', 'cam-revoked'))!.doc.status, 'revoked')
      const { seq } = (await registry.head()).feed
      restoredAt = seq
      // Since then so much has happened that the feed has forgotten what was said right after the restore.
      const more = Array.from({ length: 3 }, (_, n) => changed(device(`since-${n}`)))
      await registry.commit({ requestId: 'since', writes: [], audit: [], feed: more, at: now })
      await registry.forgetFeedBefore(seq + 3)
    }
    await fleet.close()
    const log = createLog('enroll', 'silent')
    await using service = await createEnrollService({ config, dataDir, log })
    const ask = (device: DeviceKeys) =>
      fleet.renewalCsr(device).then((csr) =>
        fleet.ask(`${service.endpoints.est}/.well-known/est/simplereenroll`, {
          method: 'POST',
          headers: { 'Content-Type': 'application/pkcs10' },
          body: csr.toString('base64'),
          key: device.key,
          cert: device.certificate,
        }),
      )
    assert.equal((await ask(kept)).status, 200)
    assert.match((await ask(revoked)).body, /revoked/)
    const operator = {
      key: readFileSync(join(dataDir, 'operator', 'operator.key')),
      cert: readFileSync(join(dataDir, 'operator', 'operator.crt')),
    }
    const numbered = async (): Promise<number> => {
      const answer = await fleet.ask(`${service.endpoints.admin}/v1/status`, {
        ...operator,
        agent: fleet.kept,
      } as never)
      return JSON.parse(answer.body).revocationLists.number
    }
    for (;;) if ((await numbered()) > 2 ** 32) break
    const restored = { dataDir, endpoints: service.endpoints, root: fleet.root }
    const hello = async (seq: number) => {
      const broker = await followFeed(restored, { seq, hash: 'ab'.repeat(32) }, undefined, { snapshots: true })
      const live = await broker.see(({ kind }) => kind === 'live')
      return { broker, live, reset: broker.messages[0] }
    }
    const before = await hello(restoredAt)
    assert.deepEqual(before.reset, { kind: 'reset' }, 'what it knows is of both')
    const behind = await hello(restoredAt + 1)
    assert.deepEqual(behind.reset, { kind: 'reset', isOther: true })
    const again = await hello(restoredAt + 1)
    assert.deepEqual(again.reset, { kind: 'reset', isOther: true }, 'as long as it has not said that it is past that')
    again.broker.send({ kind: 'applied', seq: again.live?.kind === 'live' ? again.live.seq : 0 })
    again.broker.send({ kind: 'ping', id: 1 })
    await again.broker.see(({ kind }) => kind === 'pong')
    const since = await hello(restoredAt + 1)
    assert.deepEqual(since.reset, { kind: 'reset' }, 'it was away for long, and has followed this feed')
    for (const { broker } of [before, behind, again, since]) await broker[Symbol.asyncDispose]()
    await fleet.open()
  })

  test('nothing is restored over what is there', async () => {
    const dataDir = place('taken')
    mkdirSync(dataDir)
    writeFileSync(join(dataDir, 'mine'), 'x')
    await assert.rejects(restoreBackup(textOf(lines), dataDir, now), (error) => isFleetError(error, 'conflict'))
    assert.deepEqual(readdirSync(dataDir), ['mine'])
  })

  test('what is not whole is refused, and leaves an empty folder', async () => {
    const dataDir = place('empty')
    const records = lines.findLastIndex((line) => JSON.parse(line).kind === 'records')
    const broken: [string, string[]][] = [
      ['cut off', lines.slice(0, -1)],
      ['without its beginning', lines.slice(1)],
      ['two beginnings', [lines[0]!, ...lines]],
      ['without some records', lines.toSpliced(records, 1)],
      ['with something behind its end', [...lines, lines.at(-1)!]],
      [
        'a changed entry of a log',
        bent('records', (line) => ({ ...line, items: [['a 0000000000000001', `${'0'.repeat(64)} {}`]] })),
      ],
      ['a file somewhere else', bent('file', (line) => ({ ...line, path: '../../etc/passwd' }))],
      ['another count of files', bent('end', (line) => ({ ...line, files: 1 }))],
      ['no backup', ['{}']],
      ['nothing', []],
    ]
    for (const [how, some] of broken) {
      await assert.rejects(verifyBackup(textOf(some)), isUnreadable, how)
      await assert.rejects(restoreBackup(textOf(some), dataDir, now), isUnreadable, how)
      assert.deepEqual(readdirSync(dataDir), [], how)
    }
  })

  test('a restore that was killed leaves a folder on which no gateway starts', async () => {
    const dataDir = place('killed')
    mkdirSync(dataDir)
    writeFileSync(join(dataDir, 'restore.incomplete'), '')
    const started = createEnrollService({ config, dataDir, log: createLog('enroll', 'silent') })
    await assert.rejects(
      started,
      (error: Error) => isFleetError(error, 'data_damaged') && /has not come to its end/.test(error.message),
    )
  })

  test('that it was made is in the audit log, before and after', async () => {
    const { body } = await fleet.admin('GET', '/audit?action=backup.created')
    assert.deepEqual(
      body.items.map(({ actor, outcome }: Record<string, string>) => [actor, outcome]),
      [
        ['api-token:nightly', 'intended'],
        ['api-token:nightly', 'done'],
      ],
    )
  })

  test('what is linked into the data folder is in it, and a link that leads to nothing is named, not left out', async () => {
    const at = join(fleet.dataDir, 'enroll', 'ca', 'issuing.key')
    const elsewhere = place('issuing.key')
    renameSync(at, elsewhere)
    symlinkSync(elsewhere, at)
    const files = (await linesOf(fleet, 'linked')).map((line) => JSON.parse(line)).filter(({ kind }) => kind === 'file')
    const { data, mode } = files.find(({ path }) => path === 'enroll/ca/issuing.key')
    assert.deepEqual([Buffer.from(data, 'base64'), mode], [readFileSync(elsewhere), 0o600])

    const key = randomBytes(32).toString('base64')
    const nowhere = join(fleet.dataDir, 'services', 'elsewhere')
    symlinkSync(place('nowhere'), nowhere)
    const { status, body } = await fleet.admin('POST', '/backups', { key })
    assert.equal(status, 503)
    assert.ok(body.detail.includes(`${nowhere} is a link`), body.detail)
    rmSync(nowhere)
  })

  test('a key of another length is refused', async () => {
    assert.equal((await fleet.admin('POST', '/backups', { key: 'AAAA' })).status, 400)
  })
})
