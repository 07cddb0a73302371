import { existsSync, readFileSync } from 'node:fs'
import { type FileHandle, open, rename, rm } from 'node:fs/promises'
import { resolve } from 'node:path'
import type { Readable } from 'node:stream'
import { type Command, InvalidArgumentError } from 'commander'
import type { BackupSummary } from '../../contract/backup.ts'
import { commandLine } from '../../runtime/endpoints.ts'
import { FleetError, systemFault } from '../../runtime/errors.ts'
import { openStream } from '../../runtime/sealed-stream.ts'
import { openAdminClient } from '../admin-client.ts'
import { type KeyParameters, keyOf, newParameters, openBackup } from '../backup-file.ts'
import { backupPassphraseName, Interrupted, type Io } from '../io.ts'
import { fields } from '../output.ts'
import { progressBar } from '../progress.ts'
import { readBackup } from '../restore-process.ts'
import { type Common, examples, folderName, outputOption, print, withCommon } from './shared.ts'

/** Characters. */
const shortest = 12

type Passphrase = { passphraseFile?: string }

export function addBackup(program: Command, io: Io): void {
  const backup = program.command('backup').description('everything that another machine needs to go on as this gateway')

  examples(
    withPassphrase(withCommon(backup.command('create'))),
    'backup create fleetgate-2026-03-01.backup',
    'backup create /mnt/backup/fleetgate.backup --passphrase-file /etc/fleetgate/backup.pass',
  )
    .description(
      'write registry, audit log, CA keys, policy and configuration to an encrypted file; the gateway goes on meanwhile',
    )
    .argument('<file>', 'a file that there is not yet')
    .action((file: string, options: Common & Passphrase) => create(io, file, options))

  examples(withPassphrase(backup.command('verify').addOption(outputOption())), 'backup verify fleetgate.backup')
    .description('see whether a backup can be read and is whole, without a gateway')
    .argument('<file>', 'what backup create has written')
    .action(async (file: string, options: { output: Common['output'] } & Passphrase) => {
      const summary = await read(io, file, { ...options, what: 'verifying', words: ['verify'] })
      print(io, { ...options, data: '' }, summary, () => render(summary, io.colour))
    })

  examples(
    withPassphrase(backup.command('restore').addOption(outputOption())),
    'backup restore fleetgate.backup --data /var/lib/fleetgate',
  )
    .description('make a data folder of a backup; start the gateway on it afterwards, and nowhere else')
    .argument('<file>', 'what backup create has written')
    .requiredOption('--data <dir>', 'folder that is new or empty', folderName)
    .action(async (file: string, { data, ...options }: { data: string; output: Common['output'] } & Passphrase) => {
      const words = ['restore', resolve(data)]
      const summary = await read(io, file, { ...options, what: 'restoring', words })
      print(io, { ...options, data }, summary, () => render(summary, io.colour) + advice(summary, data))
    })
}

const withPassphrase = (command: Command): Command =>
  command.option(
    '--passphrase-file <file>',
    `file with the passphrase (else ${backupPassphraseName}, else it is asked for)`,
    existing,
  )

function existing(path: string): string {
  if (!existsSync(path)) throw new InvalidArgumentError('There is no such file.')
  return path
}

async function create(io: Io, path: string, { data, output, ...options }: Common & Passphrase): Promise<void> {
  using client = openAdminClient(data)
  const parameters = newParameters()
  const key = await keyOf(await passphraseOf(io, options, { isNew: true }), parameters)
  const draft = `${path}.part`
  const stop = io.untilSignal()
  // Nothing is written over, and two backups do not take turns in writing.
  await (await newFile(path)).close()
  try {
    await using file = await newFile(draft)
    const records = await writeBackup(io, { file, parameters, key, answer: await client.createBackup(key), stop })
    await file.sync()
    await rename(draft, path)
    print(io, { data, output }, { file: path, records }, () => `${records} records are in ${path}\n`)
  } catch (error) {
    await Promise.all([draft, path].map((name) => rm(name, { force: true })))
    throw error
  }
}

type Writing = { file: FileHandle; parameters: KeyParameters; key: Buffer; answer: Readable; stop: AbortSignal }

/** Opens at once what it writes: what is in the file then is known to be whole. */
async function writeBackup(io: Io, { file, parameters, key, answer, stop }: Writing): Promise<number> {
  const octets = answer[Symbol.asyncIterator]() as AsyncIterator<Buffer>
  let start = Buffer.alloc(0)
  while (start.length < 4) {
    const next = await octets.next()
    if (next.done) throw new FleetError('unavailable', 'the gateway broke off the backup; look at its log')
    start = Buffer.concat([start, next.value])
  }
  const records = start.readUInt32BE(0)
  await file.write(`${JSON.stringify({ ...parameters, records })}\n`)
  const bar = progressBar(io, 'records', records)
  const written = async function* (): AsyncGenerator<Buffer> {
    for (let next: IteratorResult<Buffer> = { value: start.subarray(4) }; !next.done; next = await octets.next()) {
      if (stop.aborted) throw new Interrupted('while the backup was written; the file is not kept', stop)
      await file.write(next.value)
      yield next.value
    }
  }
  try {
    for await (const _plain of openStream(written(), key, (mark) => bar?.update(mark)));
  } finally {
    bar?.stop()
    answer.destroy()
  }
  return records
}

async function newFile(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'wx', 0o600)
  } catch (cause) {
    throw new FleetError('conflict', `${path} cannot be made: ${systemFault(cause)}; name another file`, { cause })
  }
}

async function read(
  io: Io,
  path: string,
  { what, words, ...options }: { what: string; words: string[] } & Passphrase,
): Promise<BackupSummary> {
  const { head, sealed } = await openBackup(path)
  const key = await keyOf(await passphraseOf(io, options, { isNew: false }), head)
  const bar = progressBar(io, what, head.records)
  try {
    return await readBackup(
      words,
      openStream(sealed, key, (mark) => bar?.update(mark)),
    )
  } finally {
    bar?.stop()
  }
}

async function passphraseOf(io: Io, { passphraseFile }: Passphrase, { isNew }: { isNew: boolean }): Promise<string> {
  const given = passphraseFile === undefined ? io.env[backupPassphraseName] : firstLineOf(passphraseFile)
  const passphrase = given ?? (await io.readSecret('passphrase of the backup: '))
  if (isNew && passphrase.length < shortest) {
    throw new FleetError(
      'key_passphrase',
      `the passphrase has ${passphrase.length} characters, and ${shortest} is the least: it protects the keys of the CA; type a longer one, or give --passphrase-file or ${backupPassphraseName}`,
    )
  }
  if (isNew && given === undefined && (await io.readSecret('again: ')) !== passphrase) {
    throw new FleetError('key_passphrase', 'the two passphrases differ; nothing was written')
  }
  return passphrase
}

const firstLineOf = (path: string): string => readFileSync(path, 'utf8').split(/\r?\n/, 1)[0]!

const render = (summary: BackupSummary, colour: boolean): string =>
  fields(
    [
      ['whole', 'yes'],
      ['made', summary.createdAt],
      ['version', summary.version],
      ['root SHA-256', summary.rootFingerprint],
      ['records', String(summary.records)],
      ['files', String(summary.files)],
      ['audit entries', String(summary.auditEntries)],
    ],
    colour,
  )

const advice = ({ createdAt }: BackupSummary, data: string): string => `
What happened since ${createdAt} is not in it: who was revoked, enrolled or renewed. Brokers that know
of a revocation from then keep it, and tell of it. Before devices are let in, read "A restore" in docs/operations.md; then
  ${commandLine(['up'], data)}
  ${commandLine(['audit', 'verify'], data)}
`
