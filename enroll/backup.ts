/** Everything that another machine needs to go on as this gateway, while this one goes on. */
import { lstatSync, readdirSync, readFileSync, type Stats, statSync } from 'node:fs'
import { join } from 'node:path'
import { pipeline, Readable } from 'node:stream'
import { createGzip } from 'node:zlib'
import type { BackupLine } from '../contract/backup.ts'
import { FleetError } from '../runtime/errors.ts'
import { sealStream } from '../runtime/sealed-stream.ts'
import type { Asked } from './registry/asked.ts'
import type { AuditFact } from './registry/audit-log.ts'
import type { Commit, Registry } from './registry/registry.ts'

export type BackupSource = {
  registry: Registry
  dataDir: string
  configFile: string | undefined
  version: string
  rootFingerprint: string
  clock: () => Date
}

/** What one line holds; small enough that other requests are served in between. */
const recordsInLine = 200

/**
 * A backup as octets, sealed with `key`. It holds the registry as it is when this resolves, whatever is written meanwhile.
 * That it was begun is in the audit log before the first octet, since private keys leave with it; that it came to its end, after the last.
 */
export async function createBackup(source: BackupSource, key: Buffer, asked: Asked): Promise<Readable> {
  const { registry } = source
  await registry.commit(auditing(asked, 'intended', {}))
  // Before the registry: a file is then no newer than what the registry knows of it.
  const files = filesOf(source)
  const snapshot = await registry.snapshot()
  let records = 0
  const lines = async function* (): AsyncGenerator<string> {
    await using _closed = snapshot
    const { version, rootFingerprint } = source
    const createdAt = asked.now.toISOString()
    yield encode({ kind: 'backup', createdAt, version, rootFingerprint, records: snapshot.count })
    for (const file of files) yield encode({ kind: 'file', ...file })
    for await (const items of snapshot.pages(recordsInLine)) {
      records += items.length
      yield encode({ kind: 'records', items })
    }
    yield encode({ kind: 'end', records, files: files.length })
  }
  // 1: what is read from the disk is read faster than a better compression is. What fails comes out at its end.
  const packed = pipeline(Readable.from(lines()), createGzip({ level: 1 }), () => {})
  const sealed = async function* (): AsyncGenerator<Buffer> {
    yield countOf(snapshot.count)
    yield* sealStream(packed, key, () => records)
    await registry.commit(auditing({ ...asked, now: source.clock() }, 'done', { records, files: files.length }))
  }
  return Readable.from(sealed())
}

const encode = (line: BackupLine): string => `${JSON.stringify(line)}\n`

/** For a progress bar; what is sealed says it again. */
function countOf(records: number): Buffer {
  const octets = Buffer.alloc(4)
  octets.writeUInt32BE(Math.min(records, 0xffff_ffff))
  return octets
}

/** Keys, certificates, policy and configuration, by their path in the data folder. */
function filesOf({ dataDir, configFile }: BackupSource) {
  const names = (folder: string, wanted: 'isFile' | 'isDirectory'): string[] =>
    readdirSync(join(dataDir, folder))
      .filter((name) => !name.startsWith('.') && findAt(join(dataDir, folder, name))?.[wanted]())
      .map((name) => `${folder}/${name}`)
  const folders = ['enroll/ca', ...names('services', 'isDirectory'), 'operator']
  const paths = [...folders.flatMap((folder) => names(folder, 'isFile')), 'root.crt', 'policy.yaml']
  const file = (path: string, from = join(dataDir, path)) => ({
    path,
    mode: statSync(from).mode & 0o777,
    data: readFileSync(from).toString('base64'),
  })
  return [
    ...paths.filter((path) => findAt(join(dataDir, path))).map((path) => file(path)),
    ...(configFile === undefined ? [] : [file('configuration/fleetgate.yaml', configFile)]),
  ]
}

/**
 * Links are followed, as they are where the gateway reads its keys.
 *
 * @throws FleetError `unavailable` for one that leads to nothing: a backup without what is behind it would pass for a whole one
 */
function findAt(path: string): Stats | undefined {
  const found = lstatSync(path, { throwIfNoEntry: false })
  if (!found?.isSymbolicLink()) return found
  try {
    return statSync(path)
  } catch (cause) {
    const sentence = `${path} is a link, and what it leads to cannot be read; put that back, or remove the link`
    throw new FleetError('unavailable', sentence, { cause })
  }
}

const auditing = (
  { actor, remoteAddress, requestId, now }: Asked,
  outcome: 'intended' | 'done',
  details: NonNullable<AuditFact['details']>,
): Commit => ({
  requestId: `${requestId}-backup:${outcome}`,
  writes: [],
  audit: [{ action: 'backup.created', actor, subject: 'gateway', outcome, details, remoteAddress, requestId }],
  at: now,
})
