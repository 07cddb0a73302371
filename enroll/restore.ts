/** Reads a backup, and makes a data folder of it. */
import { chmodSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { Readable } from 'node:stream'
import { type BackupLine, type BackupSummary, backupLine } from '../contract/backup.ts'
import { parseCertificate, parsePem } from '../pki/certificate.ts'
import { FleetError } from '../runtime/errors.ts'
import { makeFolder, requireFolder, syncFolder, writeFileAtomic } from '../runtime/files.ts'
import { authorityName } from './ca/distribution-points.ts'
import { openDatabase } from './registry/database.ts'
import { SnapshotCheck, writeDatabase } from './registry/database-copy.ts'
import { addFork } from './registry/feed-forks.ts'
import { Registry } from './registry/registry.ts'
import { findListRecord, writeListRecord } from './registry/revocation-lists.ts'

/** More lists than are signed between a backup and its restore. */
const listNumbersLeftOut = 2 ** 32
/** Is there while the folder is not whole. */
export const incompleteFile = 'restore.incomplete'

const registryIn = (dataDir: string): string => join(dataDir, 'enroll', 'registry')

type Files = (file: Extract<BackupLine, { kind: 'file' }>) => void
type Records = (pages: AsyncIterable<[string, string][]>) => Promise<void>

/**
 * Sees that a backup is whole and its logs unbroken, and writes nothing.
 *
 * @param text lines of JSON, unsealed and unpacked
 * @throws FleetError `backup_unreadable`
 */
export const verifyBackup = (text: Readable): Promise<BackupSummary> =>
  readBackup(
    text,
    () => {},
    async (pages) => {
      for await (const _page of pages);
    },
  )

/**
 * Makes `dataDir` of a backup, whole or not at all. Numbers of revocation lists go on far behind those of the backup, since lists were
 * signed after it. Serial numbers are random, and need no gap.
 *
 * @param dataDir new or empty
 * @throws FleetError `conflict` when there is something in it, `backup_unreadable`, `data_damaged`
 */
export async function restoreBackup(text: Readable, dataDir: string, now: Date): Promise<BackupSummary> {
  if (existsSync(dataDir) && readdirSync(dataDir).length > 0) {
    throw new FleetError(
      'conflict',
      `${dataDir} is not empty, and nothing is ever restored over what is there; name another folder`,
    )
  }
  requireFolder(dataDir)
  const marker = join(dataDir, incompleteFile)
  writeFileAtomic(marker, 'fleetgate backup restore has not come to its end here\n')
  try {
    const write: Files = ({ path, mode, data }) => {
      const file = join(dataDir, path)
      makeFolder(dirname(file))
      writeFileSync(file, Buffer.from(data, 'base64'), { mode, flag: 'wx', flush: true })
      chmodSync(file, mode)
    }
    const summary = await readBackup(text, write, (pages) => writeDatabase(registryIn(dataDir), pages))
    await noteRestore(dataDir, summary, now)
    rmSync(marker)
    syncFolder(dataDir)
    return summary
  } catch (error) {
    // It was empty before.
    for (const name of readdirSync(dataDir)) rmSync(join(dataDir, name), { recursive: true, force: true })
    throw error
  }
}

async function readBackup(text: Readable, onFile: Files, onRecords: Records): Promise<BackupSummary> {
  const lines = linesOf(text)
  const first = await lines.next()
  if (first.done || first.value.kind !== 'backup') throw unreadable('it has no beginning')
  const { kind: _, ...head } = first.value
  const check = new SnapshotCheck()
  let files = 0
  let records = 0
  let end: Extract<BackupLine, { kind: 'end' }> | undefined
  const pages = async function* (): AsyncGenerator<[string, string][]> {
    for (let next = await lines.next(); !next.done; next = await lines.next()) {
      const line = next.value
      if (end !== undefined) throw unreadable('something stands behind its end')
      if (line.kind === 'end') end = line
      else if (line.kind === 'file') {
        files++
        onFile(line)
      } else if (line.kind === 'records') {
        records += line.items.length
        check.take(line.items)
        yield line.items
      } else throw unreadable('it begins twice')
    }
    if (end?.records !== records || end.files !== files || records !== head.records)
      throw unreadable('parts of it are missing')
    // Before whoever takes the pages is done with them: a registry with a broken log is not to be made.
    check.finish()
  }
  await onRecords(pages())
  return { ...head, records, files, ...check.finish() }
}

async function* linesOf(text: Readable): AsyncGenerator<BackupLine> {
  const parse = (line: string): BackupLine => backupLine.parse(JSON.parse(line))
  try {
    let rest = ''
    text.setEncoding('utf8')
    for await (const chunk of text as AsyncIterable<string>) {
      const lines = (rest + chunk).split('\n')
      rest = lines.pop()!
      yield* lines.map(parse)
    }
    if (rest !== '') throw new RangeError('the last line has no end')
  } catch (cause) {
    throw unreadable('a line of it is not one of a backup', cause)
  }
}

/**
 * RFC 5280 5.2.3: numbers never go back, and may leave out any. Of one backup there may be several restores, one after the other:
 * nobody signs a thousand lists a second, so that none reaches the time at which the next one is made. Only what a clock has
 * numbered that was ahead is passed by another way.
 */
const numberBehind = (last: number, now: Date): number =>
  now.getTime() > last ? now.getTime() : last + listNumbersLeftOut

async function noteRestore(dataDir: string, { createdAt, records, files }: BackupSummary, now: Date): Promise<void> {
  await using registry = new Registry(await openDatabase(registryIn(dataDir)))
  const names = ['root', 'issuing'].map((name) => {
    const pem = readFileSync(join(dataDir, 'enroll', 'ca', `${name}.crt`), 'utf8')
    return authorityName(parseCertificate(parsePem(pem, 'CERTIFICATE')[0]!))
  })
  const writes = await Promise.all(
    names.map(async (name) => {
      const lists = await findListRecord(registry, name)
      if (lists === undefined) return []
      const { doc, rev } = lists
      return [writeListRecord(name, { ...doc, number: numberBehind(doc.number, now) }, rev)]
    }),
  )
  const { feed } = await registry.head()
  const requestId = `restore-${now.toISOString()}`
  await registry.commit({
    requestId,
    writes: [...writes.flat(), await addFork(registry, feed.seq)],
    audit: [
      {
        action: 'backup.restored',
        actor: 'system',
        subject: 'gateway',
        outcome: 'done',
        details: { createdAt, records, files },
        requestId,
      },
    ],
    at: now,
  })
}

const unreadable = (why: string, cause?: unknown): FleetError =>
  new FleetError('backup_unreadable', `the backup cannot be read: ${why}`, { cause })
