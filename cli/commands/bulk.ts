import type { Command } from 'commander'
import { type BulkReceipt, bulkAtOnce, type ChangeDevices } from '../../contract/bulk-api.ts'
import { devicesAtOnce } from '../../contract/live-sessions.ts'
import type { EndedCount, SessionPage, Unheard } from '../../contract/session-api.ts'
import { FleetError } from '../../runtime/errors.ts'
import { type AdminClient, openAdminClient } from '../admin-client.ts'
import { Interrupted, type Io } from '../io.ts'
import { fields, milliseconds, table } from '../output.ts'
import { progressBar } from '../progress.ts'
import { isSelection, type Selection, selectDevices, selecting } from './selection.ts'
import { sessionTable } from './session.ts'
import { print } from './shared.ts'
import { brokersOf, requireInForce, type Waiting } from './waiting.ts'

export type ManyOptions = Waiting & Selection & { dryRun?: boolean; yes?: boolean }
type Outcome = BulkReceipt['devices'][number]
type Report = {
  verb: string
  selected: number
  done: number
  already: number
  refused: number
  ended?: EndedCount
} & BulkReceipt

export const many = (command: Command): Command =>
  selecting(command)
    .option('--dry-run', 'show which devices are meant and who of them is connected, and change nothing')
    .option('--yes', 'do not ask for the number of devices to be typed')

/** One by its id, or many by a selection: never both, and never all for want of either. */
export function isForMany(id: string | undefined, options: Selection, command: Command): boolean {
  if ((id === undefined) === isSelection(options)) return id === undefined
  return command.error('error: give one device id, or --group, --issuer, --file or --issued-between')
}

/**
 * Does it to all that are meant, a hundred in one batch. What was done stays done when it is cut short, and the same call
 * goes on where it ended.
 */
export async function changeMany(
  io: Io,
  options: ManyOptions,
  order: Pick<ChangeDevices, 'verb' | 'reason'>,
): Promise<void> {
  using client = openAdminClient(options.data)
  const ids = await selectDevices(client, options)
  if (ids.length === 0) throw new FleetError('device_unknown', 'no device is meant by that; nothing was changed')
  if (options.dryRun) return show(io, client, options, { verb: order.verb, ids })
  if (!options.yes) await confirm(io, order.verb, ids.length)
  const changed = await changeAll(io, client, { ids, order, waitMs: options.wait ? options.timeout : 0 })
  const ended = options.wait && order.verb !== 'enable' ? await endedBy(client, changed) : undefined
  const report: Report = { ...changed, ...(ended === undefined ? {} : { ended }) }
  print(io, options, report, (shown) => render(shown, io.colour))
  if (report.refused > 0) {
    const sentence = `${report.refused} of ${report.selected} devices were left as they are`
    throw new FleetError('conflict', sentence, { context: { refused: true } })
  }
  requireInForce(options, report, {
    done: `${report.done + report.already} devices are as wanted`,
    again: 'the same call asks again',
  })
}

/** Of one device that is named: what `changeMany` shows of many. */
export async function preview(io: Io, options: ManyOptions, verb: ChangeDevices['verb'], id: string): Promise<void> {
  using client = openAdminClient(options.data)
  await client.getDevice(id)
  await show(io, client, options, { verb, ids: [id] })
}

async function show(
  io: Io,
  client: AdminClient,
  options: ManyOptions,
  { verb, ids }: { verb: ChangeDevices['verb']; ids: string[] },
): Promise<void> {
  const sessions: SessionPage['items'] = []
  const unheard = new Map<string, Unheard>()
  const outcomes: Outcome[] = []
  for (const some of slices(ids)) outcomes.push(...(await client.foreseeChange(verb, some)).devices)
  for (const deviceIds of slices(withHardware(outcomes))) {
    const page = await client.listSessions({ deviceIds })
    sessions.push(...page.items)
    for (const one of page.unheard) unheard.set(one.broker, one)
  }
  const shown = { verb, selected: ids.length, devices: ids, outcomes, sessions, unheard: [...unheard.values()] }
  print(io, options, shown, () => {
    const devices = table(
      ['device', 'would be'],
      outcomes.map(({ deviceId, outcome, detail }) => [deviceId, `${foreseen[outcome]}${detail ? `: ${detail}` : ''}`]),
      io.colour,
    )
    const live = sessionTable({ items: sessions, unheard: shown.unheard }, io.colour)
    return `${devices}\n${hardwareTable(outcomes, io.colour)}${live}devices: ${ids.length}, live sessions: ${sessions.length}; nothing was changed\n`
  })
}

const foreseen = { done: 'changed', already: 'as it is', refused: 'refused' }

function* slices(ids: readonly string[]): Generator<string[]> {
  for (let at = 0; at < ids.length; at += devicesAtOnce) yield ids.slice(at, at + devicesAtOnce)
}

/** Those that were named, and those that are put on hold with them. */
const withHardware = (devices: readonly Outcome[]): string[] => [
  ...new Set(devices.flatMap(({ deviceId, sameHardware = [] }) => [deviceId, ...sameHardware])),
]

/** Of thefts; of a device that is named itself nothing more is said. */
function hardwareTable(devices: readonly Outcome[], colour: boolean): string {
  const named = new Set(devices.map(({ deviceId }) => deviceId))
  const others = (ids: readonly string[] = []): string[] => ids.filter((id) => !named.has(id))
  const rows = devices.flatMap(({ deviceId, sameHardware, sameSerialNumber }) => [
    ...others(sameHardware).map((id) => [id, `key of ${deviceId}`, 'put on hold']),
    ...others(sameSerialNumber).map((id) => [id, `serial number of ${deviceId}`, 'left as it is']),
  ])
  return rows.length === 0 ? '' : `${table(['same hardware', 'by', 'which is'], rows, colour)}\n`
}

async function confirm(io: Io, verb: string, count: number): Promise<void> {
  const typed = await io.readLine(`${verb} ${count} devices? Type ${count} to go on: `)
  if (typed.trim() === String(count)) return
  const sentence = `${count} devices were not confirmed, nothing was changed; type the number, or give --yes`
  throw new FleetError('conflict', sentence, { context: { refused: true } })
}

async function changeAll(
  io: Io,
  client: AdminClient,
  { ids, order, waitMs }: { ids: string[]; order: Pick<ChangeDevices, 'verb' | 'reason'>; waitMs: number },
): Promise<Report> {
  const stop = io.untilSignal()
  const bar = progressBar(io, order.verb, ids.length)
  const devices: Outcome[] = []
  let last: BulkReceipt | undefined
  let since: string | undefined
  try {
    for (let at = 0; at < ids.length; at += bulkAtOnce) {
      if (stop.aborted) throw new Interrupted(`after ${at} of ${ids.length} devices; the same call goes on`, stop)
      const isLast = at + bulkAtOnce >= ids.length
      // The feed is in order: who has confirmed the last batch has confirmed all.
      last = await client.changeDevices({
        ...{ ...order, ids: ids.slice(at, at + bulkAtOnce), waitMs: isLast ? waitMs : 0 },
      })
      since ??= last.at
      devices.push(...last.devices)
      bar?.update(devices.length)
    }
  } finally {
    bar?.stop()
  }
  const count = (outcome: Outcome['outcome']): number => devices.filter((one) => one.outcome === outcome).length
  const counts = { done: count('done'), already: count('already'), refused: count('refused') }
  return { verb: order.verb, selected: ids.length, ...counts, ...last!, ...(since && { at: since }), devices }
}

/** What brokers have ended for it: those that have confirmed have told of all. A gateway of before says no time to ask by. */
async function endedBy(client: AdminClient, { at, devices }: Report): Promise<EndedCount | undefined> {
  if (at === undefined) return undefined
  const ended: EndedCount = { sessions: 0 }
  for (const ids of slices(withHardware(devices))) {
    const { sessions, slowest } = await client.countEnded(ids, at)
    ended.sessions += sessions
    if (slowest !== undefined && slowest.closedMs > (ended.slowest?.closedMs ?? -1)) ended.slowest = slowest
  }
  return ended
}

function endedOf({ sessions, slowest }: EndedCount): string {
  if (slowest === undefined) return String(sessions)
  const { clientId, deviceId, broker, closedMs } = slowest
  return `${sessions}; the last closed ${milliseconds(closedMs)} after the order, ${clientId ?? deviceId} on ${broker}`
}

function render(report: Report, colour: boolean): string {
  const refused = report.devices.filter(({ outcome }) => outcome === 'refused')
  const counts = fields(
    [
      ['devices', String(report.selected)],
      ['changed', String(report.done)],
      ['as wanted before', String(report.already)],
      ['refused', String(report.refused)],
      ...(report.ended === undefined ? [] : ([['sessions ended', endedOf(report.ended)]] as [string, string][])),
      ...brokersOf(report),
    ],
    colour,
  )
  const told = counts + hardwareTable(report.devices, colour)
  if (refused.length === 0) return told
  const rows = refused.map(({ deviceId, code, detail }) => [deviceId, code, detail])
  return told + table(['refused', 'code', 'why'], rows, colour)
}
