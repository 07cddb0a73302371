/** The audit log as evidence: taken out to a file, and held against its signatures. */
import { createReadStream, createWriteStream } from 'node:fs'
import { open, rename, rm } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { pipeline } from 'node:stream/promises'
import type { Command } from 'commander'
import { type AuditLine, type AuditSeal, auditLine, checkpointBody, sealBody } from '../../contract/audit-api.ts'
import { readEndpoints } from '../../runtime/endpoints.ts'
import { FleetError, systemFault } from '../../runtime/errors.ts'
import { type AdminClient, openAdminClient } from '../admin-client.ts'
import { type AuditFindings, AuditVerification, broken } from '../audit-verification.ts'
import { Interrupted, type Io } from '../io.ts'
import { fields } from '../output.ts'
import { progressBar } from '../progress.ts'
import { type Common, examples, fingerprint, instant, instantForms, print, withCommon } from './shared.ts'

type Range = { since?: string; until?: string }
type Verify = { data: string; output: Common['output']; root?: string; continues?: string }

/** An entry of some 20 texts of 300 characters, each up to six in JSON, and again as the text of a line. */
const maxLine = 4 * 1_048_576

export function addEvidence(audit: Command, io: Io): void {
  examples(
    withCommon(audit.command('export')),
    'audit export --out audit.jsonl',
    'audit export --since 2026-03-01 --until 2026-04-01 --out march.jsonl',
  )
    .description('write the log with its checkpoints to a file, or to standard output; the gateway goes on meanwhile')
    .option('--out <file>', 'a file that there is not yet')
    .option('--since <time>', `from then on: ${instantForms}`, instant)
    .option('--until <time>', 'and before then', instant)
    .action(({ out, since, until, ...options }: Common & Range & { out?: string }) =>
      exportLog(io, options, { out, since, until }),
    )

  examples(
    withCommon(audit.command('verify')),
    'audit verify',
    'audit verify audit.jsonl --root 5f2c…',
    'audit verify june.jsonl --continues may.jsonl',
  )
    .description(
      'see whether the log is as it was written: that of the running gateway, or an export, for which no gateway is needed',
    )
    .argument('[file]', 'what audit export has written')
    .option('--root <sha256>', 'fingerprint of the root certificate that has to vouch for it', fingerprint)
    .option('--continues <file>', 'an earlier export that it has to have the end of, as it was')
    .action((file: string | undefined, options: Verify) => verify(io, file, options))
}

async function exportLog(
  io: Io,
  { data }: Common,
  { out, since, until }: { out: string | undefined; since: string | undefined; until: string | undefined },
): Promise<void> {
  using client = openAdminClient(data)
  // Without a file there is nothing to clear away: a signal ends it at once, and a reader who has enough.
  const stop = out === undefined ? undefined : io.untilSignal()
  const seal = await client.sealAudit({ ...(since && { since }), ...(until && { until }) })
  const bar = progressBar(io, 'entries', seal.to.seq - seal.log.from.seq)
  const lines = async function* (): AsyncGenerator<string> {
    for await (const line of linesOf(client, seal)) {
      if (stop?.aborted) throw new Interrupted('while the log was written; the file is not kept', stop)
      if (line.kind === 'entry') bar?.update(line.seq - seal.log.from.seq)
      yield `${JSON.stringify(line)}\n`
    }
  }
  try {
    if (out === undefined) for await (const text of lines()) io.out(text)
    else await writeNew(out, lines())
  } finally {
    bar?.stop()
  }
  if (out !== undefined) io.out(`${seal.to.seq - seal.log.from.seq} entries are in ${out}\n`)
}

/** Under its name once it is whole, and never over another file. */
async function writeNew(path: string, lines: AsyncIterable<string>): Promise<void> {
  const draft = `${path}.part`
  try {
    // So that two exports do not take turns in writing.
    await (await open(path, 'wx', 0o600)).close()
  } catch (cause) {
    throw new FleetError('conflict', `${path} cannot be made: ${systemFault(cause)}; name another file`, { cause })
  }
  try {
    await pipeline(lines, createWriteStream(draft, { mode: 0o600, flush: true }))
    await rename(draft, path)
  } catch (error) {
    await Promise.all([draft, path].map((name) => rm(name, { force: true })))
    throw error
  }
}

async function verify(io: Io, file: string | undefined, { data, root, continues, output }: Verify): Promise<void> {
  const earlier = continues === undefined ? undefined : await verifyFile(continues, { root })
  const expected = { root, continues: earlier?.end }
  const found = file === undefined ? await verifyGateway(io, data, expected) : await verifyFile(file, expected)
  const { end, ...shown } = found
  print(io, { data, output }, { ...shown, hash: end.hash }, () => render(found, io.colour))
}

type Expected = ConstructorParameters<typeof AuditVerification>[0]

async function verifyFile(path: string, expected: Expected): Promise<AuditFindings> {
  const verification = new AuditVerification(expected)
  for await (const line of readExport(path)) verification.take(line)
  return verification.finish()
}

async function verifyGateway(io: Io, data: string, { root, continues }: Expected): Promise<AuditFindings> {
  const { rootFingerprint } = readEndpoints(data)
  using client = openAdminClient(data)
  const seal = await client.sealAudit({})
  const verification = new AuditVerification({ root: root ?? rootFingerprint, continues })
  const bar = progressBar(io, 'entries', seal.to.seq - seal.log.from.seq)
  try {
    for await (const line of linesOf(client, seal)) {
      verification.take(line)
      bar?.update(verification.entries)
    }
  } finally {
    bar?.stop()
  }
  return verification.finish()
}

/** What is written meanwhile stands behind what the seal names, and is left out. */
async function* linesOf(client: AdminClient, { log, to, seal }: AuditSeal): AsyncGenerator<AuditLine> {
  yield log
  const { last } = sealBody.parse(JSON.parse(seal.body))
  let at = log.from.seq
  // A log that begins with a checkpoint has it before any entry.
  for (let isFirst = true; at < to.seq || isFirst; isFirst = false) {
    const before = at
    const { items, next } = await client.readAuditChain(before)
    for (const item of items) {
      if (item.kind === 'entry' && item.seq > to.seq) break
      if (item.kind === 'entry') at = item.seq
      // One that was signed since may be about an entry from before.
      else if (checkpointBody.parse(JSON.parse(item.body)).number > last) continue
      yield item
    }
    // An entry that is missing is for the verification to find.
    if (at === before || next >= to.seq) break
  }
  yield seal
}

async function* readExport(path: string): AsyncGenerator<AuditLine> {
  const input = createReadStream(path, { encoding: 'utf8' })
  let number = 0
  try {
    for await (const text of createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY })) {
      number++
      if (text.length > maxLine) throw new RangeError('it is too long')
      yield auditLine.parse(JSON.parse(text))
    }
  } catch (cause) {
    if (cause instanceof FleetError) throw cause
    const { code } = cause as NodeJS.ErrnoException
    if (code !== undefined)
      throw new FleetError('config_invalid', `${path} cannot be read: ${systemFault(cause)}`, { cause })
    throw broken(`line ${number} of ${path} is not of an export`, cause)
  } finally {
    input.destroy()
  }
}

const render = (found: AuditFindings, colour: boolean): string =>
  fields(
    [
      ['holds', 'yes'],
      ['entries', String(found.entries)],
      ['from', found.first === undefined ? undefined : String(found.first)],
      ['to', found.last === undefined ? undefined : String(found.last)],
      ['starts at checkpoint', found.startsAt === undefined ? undefined : String(found.startsAt)],
      ['checkpoints', String(found.checkpoints)],
      ['sealed', found.sealedAt],
      ['root SHA-256', found.rootFingerprint],
    ],
    colour,
  )
