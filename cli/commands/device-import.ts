import type { Command } from 'commander'
import type { ImportReceipt } from '../../contract/batch-api.ts'
import { FleetError } from '../../runtime/errors.ts'
import { importDevices, inOneRequest, openConnection, partsOf } from '../admin-batches.ts'
import type { AdminConnection } from '../admin-connection.ts'
import { type ImportRow, type Row, readImportRows } from '../device-file.ts'
import { Interrupted, type Io } from '../io.ts'
import { fields, table } from '../output.ts'
import { progressBar } from '../progress.ts'
import { type Common, examples, print, withCommon } from './shared.ts'

type Options = Common & { file: Row<ImportRow>[]; dryRun?: boolean; atomic?: boolean }
type Line = { line: number } & ImportReceipt['devices'][number]
type Report = { read: number; created: number; already: number; refused: number; applied: boolean; lines: Line[] }

export function addDeviceImport(device: Command, io: Io): void {
  examples(
    withCommon(device.command('import')),
    'device import --file devices.csv',
    'device import --file devices.csv --dry-run',
    'device import --file devices.json --atomic -o json',
  )
    .description('register the devices of a file; those that are there already, and are like that, stay as they are')
    .requiredOption(
      '--file <file>',
      'CSV with the columns id,profile,groups,attributes (several parted by ;), or .json with a list of such objects',
      readImportRows,
    )
    .option('--dry-run', 'say what would become of each line, and register none')
    .option('--atomic', `register all or, where one is refused, none; ${inOneRequest} devices at most`)
    .action((options: Options) => importFile(io, options))
}

async function importFile(io: Io, options: Options): Promise<void> {
  const { file: rows, dryRun = false, atomic = false } = options
  if (atomic && rows.length > inOneRequest) {
    const sentence = `--atomic takes ${inOneRequest} devices at most, and the file has ${rows.length}; part it, or leave --atomic away`
    throw new FleetError('body_too_large', sentence, { context: { refused: true } })
  }
  const isBroken = atomic && rows.some((row) => 'fault' in row)
  using connection = openConnection(options.data)
  const { receipts, stopped } = await send(io, connection, rows, { dryRun: dryRun || isBroken, atomic })
  const report = reportOf(rows, receipts)
  print(io, options, report, (shown) => render(shown, io.colour))
  if (stopped !== undefined) throw stopped
  if (report.refused === 0) return
  const left = report.applied ? 'the others are registered' : 'nothing was registered'
  const sentence = `${report.refused} of ${report.read} lines were refused, ${left}; correct those and call this again`
  throw new FleetError('conflict', sentence, { context: { refused: true } })
}

type Sent = { receipts: ImportReceipt[]; stopped: unknown }

/** What was registered before it was cut short is told too. */
async function send(
  io: Io,
  connection: AdminConnection,
  rows: Row<ImportRow>[],
  how: { dryRun: boolean; atomic: boolean },
): Promise<Sent> {
  const devices = rows.flatMap((row) => ('value' in row ? [row.value] : []))
  const stop = io.untilSignal()
  const bar = progressBar(io, how.dryRun ? 'check' : 'import', devices.length)
  const receipts: ImportReceipt[] = []
  let done = 0
  try {
    for (const part of how.atomic ? (devices.length === 0 ? [] : [devices]) : partsOf(devices)) {
      if (stop.aborted) throw new Interrupted(`after ${done} of ${devices.length} devices; the same call goes on`, stop)
      receipts.push(await importDevices(connection, { devices: part, ...how }))
      done += part.length
      bar?.update(done)
    }
    return { receipts, stopped: undefined }
  } catch (stopped) {
    return { receipts, stopped }
  } finally {
    bar?.stop()
  }
}

function reportOf(rows: Row<ImportRow>[], receipts: ImportReceipt[]): Report {
  const outcomes = receipts.flatMap(({ devices }) => devices)
  let at = 0
  const lines = rows.flatMap((row): Line[] => {
    const { line, id } = row
    if ('fault' in row)
      return [{ line, deviceId: id, outcome: 'refused', code: 'request_malformed', detail: row.fault }]
    const answered = outcomes[at++]
    if (answered === undefined) return []
    return [{ line, ...answered }]
  })
  const count = (outcome: Line['outcome']): number => lines.filter((one) => one.outcome === outcome).length
  return {
    read: rows.length,
    ...{ created: count('created'), already: count('already'), refused: count('refused') },
    applied: receipts.length > 0 && receipts.every(({ applied }) => applied),
    lines,
  }
}

function render(report: Report, colour: boolean): string {
  const refused = report.lines.filter(({ outcome }) => outcome === 'refused')
  const counts = fields(
    [
      ['devices', String(report.read)],
      [report.applied ? 'registered' : 'would be registered', String(report.created)],
      ['there already', String(report.already)],
      ['refused', String(report.refused)],
    ],
    colour,
  )
  if (refused.length === 0) return counts
  const rows = refused.map(({ line, deviceId, code, detail }) => [String(line), deviceId, code, detail])
  return counts + table(['line', 'device', 'code', 'why'], rows, colour)
}
