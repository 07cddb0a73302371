import { type Command, Option } from 'commander'
import type { DeviceView, HoldReceipt, RevocationReceipt, TheftReceipt } from '../../contract/admin-api.ts'
import { type RevocationReason, revocationReasons } from '../../contract/ids.ts'
import { commandLine } from '../../runtime/endpoints.ts'
import { FleetError } from '../../runtime/errors.ts'
import { type AdminClient, openAdminClient } from '../admin-client.ts'
import type { Io } from '../io.ts'
import { fields, milliseconds } from '../output.ts'
import { ask, type Common, deviceId, duration, examples, print, withCommon } from './shared.ts'

const maxWaitMs = 60_000

export type Waiting = Common & { wait: boolean; timeout: number }
/** What a change answers once it is on disk, and what the brokers say of it. */
type Receipt = Pick<RevocationReceipt, 'inForce' | 'ticketsVoid' | 'brokers' | 'sessions'>

/** The commands that decide whether a device counts. */
export function addStanding(device: Command, io: Io, details: (view: DeviceView) => string): void {
  const colour = io.colour

  waiting(withCommon(device.command('disable')), 'device disable cam-1')
    .description('put a device on hold: nothing it has counts until it is enabled again')
    .argument('<id>', 'device id', deviceId)
    .action((id: string, options: Waiting) =>
      change(io, options, (client, waitMs) => client.disableDevice(id, waitMs), {
        render: held,
        done: `${id} is on hold`,
        again: ['device', 'disable', id],
      }),
    )

  waiting(withCommon(device.command('enable')), 'device enable cam-1')
    .description('take a hold back; a revoked device has to be readmitted and to enroll anew')
    .argument('<id>', 'device id', deviceId)
    .action((id: string, options: Waiting) =>
      change(io, options, (client, waitMs) => client.enableDevice(id, waitMs), {
        render: held,
        done: `${id} is enabled`,
        again: ['device', 'enable', id],
      }),
    )

  waiting(
    withCommon(device.command('revoke')),
    'device revoke cam-1 --reason keyCompromise',
    'device revoke cam-1 --reason cessationOfOperation --no-wait',
  )
    .description('end a device: its certificates, tokens and live sessions; it stays out until it is readmitted')
    .argument('<id>', 'device id', deviceId)
    .addOption(reasonOption())
    .action((id: string, options: Waiting & { reason: RevocationReason }) =>
      change(io, options, (client, waitMs) => client.revokeDevice(id, options.reason, waitMs), {
        render: revoked,
        done: `${id} is revoked`,
        again: ['device', 'revoke', id, '--reason', options.reason],
      }),
    )

  waiting(withCommon(device.command('stolen')), 'device stolen cam-1')
    .description('end a device that a thief may have, watch for its keys, and open an incident')
    .argument('<id>', 'device id', deviceId)
    .action((id: string, options: Waiting) =>
      change(io, options, (client, waitMs) => client.reportStolen(id, waitMs), {
        render: stolen,
        done: `${id} is revoked`,
        again: ['device', 'stolen', id],
      }),
    )

  examples(withCommon(device.command('readmit')), 'device readmit cam-1', 'device readmit cam-1 --stolen-recovered')
    .description('let a revoked device enroll anew; its certificates and tokens of before stay revoked')
    .argument('<id>', 'device id', deviceId)
    .option('--stolen-recovered', 'of one that was stolen: you have it in hand again')
    .action((id: string, { stolenRecovered = false, ...options }: Common & { stolenRecovered?: boolean }) =>
      ask(io, options, (client) => client.readmitDevice(id, { stolenRecovered }), details),
    )

  const held = (receipt: HoldReceipt): string =>
    fields(
      [
        ['device', receipt.deviceId],
        ['status', `${receipt.status}${receipt.alreadySo ? ' (it was so before)' : ''}`],
        ['held', receipt.heldAt],
        ['certificates', receipt.certificates.join(', ')],
        ...brokersOf(receipt),
      ],
      colour,
    )

  const revoked = (receipt: RevocationReceipt): string =>
    fields([...revocationOf(receipt), ...brokersOf(receipt)], colour)

  const stolen = (receipt: TheftReceipt): string =>
    fields(
      [
        ...revocationOf(receipt),
        ['stolen', `${receipt.stolenAt}${receipt.alreadyStolen ? ' (by an earlier call)' : ''}`],
        ['incident', receipt.incident],
        ['still open', sharedKey(receipt)],
        ...brokersOf(receipt),
      ],
      colour,
    )
}

const revocationOf = (receipt: RevocationReceipt): [string, string][] => [
  ['device', receipt.deviceId],
  ['revoked', `${receipt.revokedAt}${receipt.alreadyRevoked ? ' (by an earlier call)' : ''}`],
  ['reason', receipt.reason],
  ['certificates', receipt.certificates.join(', ')],
  ['tokens voided', String(receipt.tokensVoided)],
  ['approvals deleted', String(receipt.approvalsDeleted)],
  ['keys watched', String(receipt.keysWatched)],
]

const sharedKey = ({ claimCertificate }: TheftReceipt): string | undefined =>
  claimCertificate &&
  `it enrolled with the claim certificate ${claimCertificate}, which can claim other devices that never enrolled`

export const reasonOption = (): Option =>
  new Option('--reason <reason>', 'RFC 5280 reason (required)').choices(revocationReasons).makeOptionMandatory()

export function waiting(command: Command, ...lines: string[]): Command {
  return examples(command, ...lines)
    .option('--wait', 'return when every broker has confirmed', true)
    .option('--no-wait', 'return when it is on disk')
    .addOption(
      new Option('--timeout <time>', 'how long to wait for brokers')
        .argParser(duration(1, maxWaitMs))
        .default(10_000, '10s'),
    )
}

export async function change<T extends Receipt>(
  io: Io,
  options: Waiting,
  call: (client: AdminClient, waitMs: number) => Promise<T>,
  { render, done, again }: { render: (receipt: T) => string; done: string; again: string[] },
): Promise<void> {
  const waitMs = options.wait ? options.timeout : 0
  using client = openAdminClient(options.data)
  const receipt = await call(client, waitMs)
  print(io, options, receipt, render)
  if (!options.wait || receipt.inForce) return
  const missing = receipt.brokers.filter(({ confirmed }) => !confirmed).map(({ broker }) => broker)
  throw new FleetError(
    'unavailable',
    `${done}, but ${missing.join(', ') || 'a broker'} has not confirmed within ${waitMs} ms; ask again: ${commandLine(again, options.data)}`,
  )
}

/** How far it is in force, and each session that it ended. */
export const brokersOf = ({ brokers, sessions, ticketsVoid }: Receipt): [string, string][] => [
  ['in force', inForceOn(brokers)],
  ...brokers.map((broker): [string, string] => [broker.broker, standingAt(broker)]),
  ...(ticketsVoid ? ([['TLS tickets', 'void']] as [string, string][]) : []),
  ...sessions.map((session): [string, string] => [session.clientId ?? 'without a client id', endOf(session)]),
]

type Broker = Receipt['brokers'][number]

function inForceOn(brokers: readonly Broker[]): string {
  const confirmed = brokers.filter((broker) => broker.confirmed)
  const slowest = Math.max(...confirmed.map(({ confirmedMs = 0 }) => confirmedMs))
  const on = `on ${confirmed.length} of ${brokers.length}`
  return confirmed.length === 0 ? on : `${on}, ${milliseconds(slowest)}`
}

const standingAt = ({ connected, confirmed, confirmedMs, lastSeenAt }: Broker): string =>
  confirmed
    ? `in force${confirmedMs === undefined ? '' : ` after ${milliseconds(confirmedMs)}`}`
    : connected
      ? 'not confirmed yet'
      : `not connected${lastSeenAt === undefined ? '' : ` since ${lastSeenAt}`}: if it still runs, it goes on with what it knew before`

function endOf(session: Receipt['sessions'][number]): string {
  const { broker, listener, remoteAddress, state, closedMs, lastPacket } = session
  const what = state === 'live' ? 'session' : `connection (${state})`
  const last = lastPacket && `${[lastPacket.type, lastPacket.topic].filter(Boolean).join(' ')} at ${lastPacket.at}`
  return `${what} from ${remoteAddress} closed after ${milliseconds(closedMs)} on ${broker} ${listener}; last packet: ${last ?? 'none'}`
}
