import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { mock, test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { Level } from 'level'
import { decodeBody, startCursor } from '../../../contract/feed.ts'
import { listBySerial, writeAllowance } from '../../../enroll/registry/allowances.ts'
import { verifyAudit } from '../../../enroll/registry/audit-log.ts'
import { writeCertificate } from '../../../enroll/registry/certificates.ts'
import { openDatabase } from '../../../enroll/registry/database.ts'
import { findDevice, listDevices } from '../../../enroll/registry/devices.ts'
import { type Receipt, Registry, readAll } from '../../../enroll/registry/registry.ts'
import { hear } from '../../harness/hear.ts'
import { at, created, creation, device, type Place, registrySuite, requireWholeChains } from '../../suites/registry.ts'

const newFolder = (): string => join(mkdtempSync(join(tmpdir(), 'fleetgate-registry-')), 'registry')

async function createPlace(): Promise<Place> {
  const folder = newFolder()
  return {
    open: () => openDatabase(folder),
    remove: async () => rmSync(join(folder, '..'), { recursive: true }),
  }
}

registrySuite('level', createPlace)

async function withFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = newFolder()
  try {
    await body(folder)
  } finally {
    rmSync(join(folder, '..'), { recursive: true })
  }
}

const open = async (folder: string): Promise<Registry> => new Registry(await openDatabase(folder))

/** Changes the stored texts behind the registry's back. */
async function tamper(folder: string, change: (level: Level<string, string>) => Promise<void>): Promise<void> {
  const level = new Level<string, string>(folder)
  await level.open()
  await change(level)
  await level.close()
}

test('of a feed of which the beginning was forgotten a loss is noticed as of a whole one', () =>
  withFolder(async (folder) => {
    {
      await using registry = await open(folder)
      for (let n = 1; n <= 5; n++) await registry.commit(creation(device(`cam-${n}`)))
      await registry.forgetFeedBefore(3)
    }
    await tamper(folder, (level) => level.del(`f ${'3'.padStart(16, '0')}`))
    await assert.rejects(open(folder), { code: 'data_damaged' })
  }))

const script = join(import.meta.dirname, 'committing-process.ts')

test('what was acknowledged survives SIGKILL in the midst of commits, whole and in order', () =>
  withFolder(async (folder) => {
    const acknowledged = new Map<string, number>()
    for (let round = 0; round < 4; round++) {
      const child = spawn(process.execPath, [script, folder, `r${round}`], { stdio: ['ignore', 'pipe', 'inherit'] })
      const exited = once(child, 'exit')
      const enough = 40 + round * 35
      let seen = 0
      for await (const line of createInterface(child.stdout)) {
        const [id, feedSeq] = line.split(' ')
        acknowledged.set(id!, Number(feedSeq))
        if (++seen === enough) child.kill('SIGKILL')
      }
      assert.deepEqual(await exited, [null, 'SIGKILL'])

      await using registry = await open(folder)
      await requireWholeChains(registry)
      const events = await registry.feedAfter(0, 1_000_000)
      const present = await readAll((paging) => listDevices(registry, { group: 'g', ...paging }))
      assert.equal(present.length, events.length, 'a commit is there whole or not at all')
      for (const [id, feedSeq] of acknowledged) {
        const { data } = decodeBody(events[feedSeq - 1]!)
        assert.equal('id' in data && data.id, id)
        assert.ok(await findDevice(registry, id))
      }
      const [id, feedSeq] = [...acknowledged].at(-1)!
      assert.deepEqual(await registry.commit(creation(device(id))), { auditSeq: feedSeq, feedSeq, replayed: true })
    }
  }))

test('a folder that another process has open is refused as in use, and its owner goes on', () =>
  withFolder(async (folder) => {
    const child = spawn(process.execPath, [script, folder, 'owner'], { stdio: ['ignore', 'pipe', 'inherit'] })
    const exited = once(child, 'exit')
    try {
      await hear(child)
      await assert.rejects(openDatabase(folder), {
        code: 'data_in_use',
        message: `${folder} is in use by another instance`,
      })
      await hear(child)
    } finally {
      child.kill('SIGKILL')
      await exited
    }
    await using registry = await open(folder)
    await requireWholeChains(registry)
  }))

test('a folder that this process has open is refused as in use', () =>
  withFolder(async (folder) => {
    await using _registry = await open(folder)
    await assert.rejects(openDatabase(folder), { code: 'data_in_use' })
  }))

test(
  'the folder is made so that others cannot look into it',
  { skip: process.platform === 'win32' && 'no modes' },
  () =>
    withFolder(async (folder) => {
      await using _registry = await open(folder)
      assert.equal(statSync(folder).mode & 0o777, 0o700)
    }),
)

test('an audit entry that was changed afterwards is found, and so is one that was cut out', () =>
  withFolder(async (folder) => {
    {
      await using registry = await open(folder)
      for (let n = 0; n < 20; n++) await registry.commit(creation(device(`d-${n}`)))
    }
    const engine = await openDatabase(folder)
    const entries = await engine.auditAfter(0, 100)
    const end = await engine.head()
    await engine[Symbol.asyncDispose]()
    assert.deepEqual(verifyAudit(entries, startCursor), { intact: end.audit })

    const key = `a ${'12'.padStart(16, '0')}`
    await tamper(folder, async (level) => level.put(key, (await level.get(key)).replace('d-11', 'd-99')))
    // So few entries are all looked at when the registry is opened; a longer log is read with verifyAudit.
    await assert.rejects(openDatabase(folder), { code: 'data_damaged', message: /audit log is broken at number 12/ })
    const changed = entries.map((entry) =>
      entry.seq === 12 ? { ...entry, body: entry.body.replace('d-11', 'd-99') } : entry,
    )
    assert.deepEqual(verifyAudit(changed, startCursor), { intact: { seq: 11, hash: entries[10]!.hash }, brokenAt: 12 })
    assert.equal(verifyAudit(entries.toSpliced(4, 1), startCursor).brokenAt, 5)
  }))

test('a registry whose head and logs do not agree is refused as damaged', async (t) => {
  const faults: Record<string, (level: Level<string, string>) => Promise<void>> = {
    'the last event is gone': (level) => level.del(`f ${'3'.padStart(16, '0')}`),
    'an event in the middle is gone': (level) => level.del(`f ${'2'.padStart(16, '0')}`),
    'an event beyond the head': (level) => level.put(`f ${'4'.padStart(16, '0')}`, `${'0'.repeat(64)} {}`),
    'the head is gone': (level) => level.del('head'),
    'the head cannot be read': (level) => level.put('head', '{'),
    'the schema version is gone': (level) => level.del('schema'),
  }
  for (const [name, fault] of Object.entries(faults)) {
    await t.test(name, () =>
      withFolder(async (folder) => {
        {
          await using registry = await open(folder)
          for (let n = 0; n < 3; n++) await registry.commit(creation(device(`d-${n}`)))
        }
        await tamper(folder, fault)
        await assert.rejects(openDatabase(folder), { code: 'data_damaged' })
      }),
    )
  }
})

test('a layout of a newer version is refused and left as it is', () =>
  withFolder(async (folder) => {
    await (await open(folder))[Symbol.asyncDispose]()
    await tamper(folder, (level) => level.put('schema', '3'))
    await assert.rejects(openDatabase(folder), {
      code: 'data_damaged',
      message: /layout 3, this version of Fleetgate knows 2/,
    })
    await tamper(folder, async (level) => assert.equal(await level.get('schema'), '3'))
  }))

test('a layout of version 1 gets the indexes that it had not, whatever was cut short of them', () =>
  withFolder(async (folder) => {
    const fingerprint = 'ab'.repeat(32)
    const certificate = {
      ...{ serial: '0a', kind: 'device' as const, deviceId: 'cam-1', profile: 'camera', status: 'issued' as const },
      ...{ spkiHash: '', reservedAt: at.toISOString(), fingerprint, via: 'token' },
    }
    const allowance = { label: 'line', serial: 'SN 1', deviceId: 'cam-1', createdAt: '' }
    const found = async (): Promise<[string[], string[], string[]]> => {
      await using registry = new Registry(await openDatabase(folder))
      const { items } = await registry.auditAbout('device:cam-1', { limit: 10 })
      const range = { index: 'certificate.fingerprint', value: fingerprint }
      const certificates = (await registry.list('certificate', range, { limit: 10 })).items
      const allowances = (await listBySerial(registry, 'SN 1', { limit: 10 })).items
      return [
        items.map(({ body }) => JSON.parse(body).requestId),
        certificates.map(({ doc }) => doc.serial),
        allowances.map(({ doc }) => doc.label),
      ]
    }
    {
      await using registry = new Registry(await openDatabase(folder))
      await registry.commit(creation(device('cam-1')))
      await registry.commit({
        requestId: 'issue',
        writes: [writeCertificate(certificate, 0), writeAllowance(allowance, 0)],
        audit: [{ ...created('cam-1'), subject: 'certificate:0a', details: { device: 'cam-1' }, requestId: 'issue' }],
        at,
      })
    }
    const indexed = await found()
    assert.deepEqual(indexed, [['create-cam-1', 'issue'], ['0a'], ['line']])
    await tamper(folder, async (level) => {
      await level.clear({ gt: 'i audit.about ', lt: 'i audit.about!' })
      await level.clear({ gt: 'i certificate.fingerprint ', lt: 'i certificate.fingerprint!' })
      await level.clear({ gt: 'i allowance.serial ', lt: 'i allowance.serial!' })
      await level.put('schema', '1')
    })
    assert.deepEqual(await found(), indexed)
    await tamper(folder, async (level) => assert.equal(await level.get('schema'), '2'))
  }))

test('a damaged octet in the midst of the log is not passed over', () =>
  withFolder(async (folder) => {
    {
      await using registry = await open(folder)
      for (let n = 0; n < 200; n++) await registry.commit(creation(device(`d-${n}`)))
    }
    const log = join(folder, readdirSync(folder).find((name) => name.endsWith('.log'))!)
    const octets = readFileSync(log)
    octets[octets.length >> 1]! ^= 0x40
    writeFileSync(log, octets)
    await assert.rejects(openDatabase(folder), { code: 'data_damaged', message: /is broken at number/ })
  }))

test('a folder that lost the file that names its state is refused, not begun anew', () =>
  withFolder(async (folder) => {
    {
      await using registry = await open(folder)
      await registry.commit(creation(device('cam-1')))
    }
    rmSync(join(folder, 'CURRENT'))
    await assert.rejects(openDatabase(folder), { code: 'data_damaged', message: /lost files/ })
  }))

test('a first start that was killed before the store was made can be repeated', () =>
  withFolder(async (folder) => {
    mkdirSync(folder)
    for (const name of ['LOCK', 'LOG', 'MANIFEST-000001']) writeFileSync(join(folder, name), '')
    await using registry = await open(folder)
    assert.equal((await registry.head()).audit.seq, 0)
  }))

test('a folder that cannot be one is refused with its path', () =>
  withFolder(async (folder) => {
    writeFileSync(folder, 'a file')
    await assert.rejects(openDatabase(folder), (error: Error & { code?: string }) => {
      assert.equal(error.code, 'data_damaged')
      return error.message.includes(folder)
    })
  }))

type Operations = { write(options: object): Promise<void> }

/** Has writes go by `instead`, which is given what each would have done. */
function intercept(instead: (write: () => Promise<void>) => Promise<void>) {
  const batch = Level.prototype.batch as () => Operations
  return mock.method(Level.prototype, 'batch', function (this: unknown) {
    const operations = batch.call(this)
    const write = operations.write.bind(operations)
    operations.write = (options) => instead(() => write(options))
    return operations
  })
}

for (const written of [true, false]) {
  test(`a failed write whose batch ${written ? 'is' : 'is not'} on disk answers outcome_unknown, and asked again tells the truth`, () =>
    withFolder(async (folder) => {
      await using registry = await open(folder)
      await registry.commit(creation(device('before')))
      let second: Promise<Receipt> | undefined
      const failing = intercept(async (write) => {
        failing.mock.restore()
        // Queued behind the failing group: decided anew from what the disk holds.
        second = registry.commit(creation(device('second')))
        if (written) await write()
        throw new Error('I/O error')
      })
      await assert.rejects(registry.commit(creation(device('first'))), { code: 'outcome_unknown' })
      assert.equal((await findDevice(registry, 'first')) !== undefined, written, 'who looks sees what is on disk')
      assert.equal((await second)?.feedSeq, written ? 3 : 2)
      assert.deepEqual(await registry.commit(creation(device('first'))), {
        auditSeq: written ? 2 : 3,
        feedSeq: written ? 2 : 3,
        replayed: written,
      })
      assert.equal((await registry.head()).feed.seq, 3)
      await requireWholeChains(registry)
    }))
}

test('what a failed write left on disk wakes who follows the feed', () =>
  withFolder(async (folder) => {
    await using registry = await open(folder)
    const { promise, resolve } = Promise.withResolvers<void>()
    registry.onWake(resolve)
    const failing = intercept(async (write) => {
      failing.mock.restore()
      await write()
      throw new Error('I/O error')
    })
    await assert.rejects(registry.commit(creation(device('cam-1'))), { code: 'outcome_unknown' })
    await promise
    assert.equal((await registry.feedAfter(0, 10)).length, 1)
  }))

test('a store that cannot be opened again refuses by name until it can', () =>
  withFolder(async (folder) => {
    await using registry = await open(folder)
    const failing = intercept(async () => {
      throw new Error('I/O error')
    })
    const closed = mock.method(Level.prototype, 'open', async () => {
      throw new Error('no such disk')
    })
    await assert.rejects(registry.commit(creation(device('cam-1'))), { code: 'outcome_unknown' })
    await assert.rejects(registry.commit(creation(device('cam-1'))), { code: 'data_damaged', message: /no such disk/ })
    await assert.rejects(findDevice(registry, 'cam-1'), { code: 'unavailable' })
    failing.mock.restore()
    closed.mock.restore()
    assert.equal((await registry.commit(creation(device('cam-1')))).replayed, false)
    await requireWholeChains(registry)
  }))

test('a store that cannot be opened again is opened once it can be, also where everybody reads before writing', async (t) => {
  await withFolder(async (folder) => {
    await using registry = await open(folder)
    t.mock.timers.enable({ apis: ['setTimeout'] })
    const failing = intercept(async () => {
      throw new Error('I/O error')
    })
    const opened = mock.method(Level.prototype, 'open', async () => {
      throw new Error('no such disk')
    })
    await assert.rejects(registry.commit(creation(device('cam-1'))), { code: 'outcome_unknown' })
    const tried = opened.mock.callCount()
    t.mock.timers.tick(1_000)
    while (opened.mock.callCount() === tried) await setImmediate()
    await assert.rejects(findDevice(registry, 'cam-1'), { code: 'unavailable' })
    failing.mock.restore()
    opened.mock.restore()
    let isOpen = false
    registry.onWake(() => {
      isOpen = true
    })
    while (!isOpen) {
      t.mock.timers.tick(1_000)
      await setImmediate()
    }
    assert.equal(await findDevice(registry, 'cam-1'), undefined)
  })
})

test('when a group fails, refusals and repeated answers that rest on it are unknown too', () =>
  withFolder(async (folder) => {
    await using registry = await open(folder)
    const failing = intercept(async () => {
      failing.mock.restore()
      throw new Error('I/O error')
    })
    // What is asked for in one turn of the event loop is one group.
    const outcomes = await Promise.allSettled([
      registry.commit(creation(device('cam-1'))),
      registry.commit(creation(device('cam-1'))),
      registry.commit({ ...creation(device('cam-1')), requestId: 'other' }),
    ])
    assert.deepEqual(
      outcomes.map((outcome) => (outcome.status === 'rejected' ? outcome.reason.code : outcome.status)),
      ['outcome_unknown', 'outcome_unknown', 'outcome_unknown'],
    )
    assert.equal(await findDevice(registry, 'cam-1'), undefined)
    assert.equal((await registry.commit({ ...creation(device('cam-1')), requestId: 'other' })).replayed, false)
    await requireWholeChains(registry)
  }))
