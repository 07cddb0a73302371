import { type Command, Option } from 'commander'
import type { RevocationReceipt } from '../../contract/admin-api.ts'
import { revocationReasons } from '../../contract/ids.ts'
import { commandLine } from '../../runtime/endpoints.ts'
import { FleetError } from '../../runtime/errors.ts'
import { type AdminClient, openAdminClient } from '../admin-client.ts'
import type { Io } from '../io.ts'
import { milliseconds } from '../output.ts'
import { type Common, duration, examples, print } from './shared.ts'

const maxWaitMs = 60_000

export type Waiting = Common & { wait: boolean; timeout: number }
/** What a change answers once it is on disk, and what the brokers say of it. */
export type Receipt = Pick<
  RevocationReceipt,
  'inForce' | 'ticketsVoid' | 'crlNumber' | 'committedMs' | 'brokers' | 'sessions'
>

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
  requireInForce(options, receipt, { done, again: `ask again: ${commandLine(again, options.data)}` })
}

/** @throws FleetError `unavailable` naming the brokers that were waited for in vain */
export function requireInForce(
  options: Waiting,
  { inForce, brokers }: Receipt,
  { done, again }: { done: string; again: string },
): void {
  if (!options.wait || inForce) return
  const missing = brokers.filter(({ confirmed }) => !confirmed).map(({ broker }) => broker)
  const sentence = `${missing.join(', ') || 'a broker'} has not confirmed within ${options.timeout} ms; ${again}`
  throw new FleetError('unavailable', `${done}, but ${sentence}`)
}

/** How far it is in force, and each session that it ended. */
export const brokersOf = ({ brokers, sessions, ticketsVoid, crlNumber, committedMs }: Receipt): [string, string][] => [
  ...(committedMs === undefined
    ? []
    : ([['on disk', `${milliseconds(committedMs)} after the order`]] as [string, string][])),
  ['in force', inForceOn(brokers)],
  ...brokers.map((broker): [string, string] => [broker.broker, standingAt(broker)]),
  ...(ticketsVoid ? ([['TLS tickets', 'void']] as [string, string][]) : []),
  ...(crlNumber === undefined ? [] : ([['CRL number', String(crlNumber)]] as [string, string][])),
  ...sessions.map((session): [string, string] => [session.clientId ?? 'without a client id', endOf(session)]),
]

type Broker = Receipt['brokers'][number]

function inForceOn(brokers: readonly Broker[]): string {
  const confirmed = brokers.filter((broker) => broker.confirmed)
  const slowest = Math.max(...confirmed.flatMap(({ confirmedMs }) => confirmedMs ?? []))
  const on = `on ${confirmed.length} of ${brokers.length}`
  return slowest < 0 ? on : `${on}, ${milliseconds(slowest)} after the commit`
}

export function standingAt({
  connected,
  confirmed,
  confirmedMs,
  lastSeenAt,
  admitsUntil,
  servesUntil,
}: Broker): string {
  if (confirmed) return `in force${confirmedMs === undefined ? '' : ` ${milliseconds(confirmedMs)} after the commit`}`
  if (connected) return 'not confirmed yet'
  const gone = `not connected${lastSeenAt === undefined ? '' : ` since ${lastSeenAt}`}: if it still runs, it`
  if (admitsUntil === undefined) return `${gone} goes on with what it knew before`
  const until = (end: string | null | undefined): string => (end ? `until ${end}` : 'until it hears of this')
  return `${gone} lets in whom it knew before ${until(admitsUntil)}, and goes on with sessions ${until(servesUntil)}`
}

function endOf(session: Receipt['sessions'][number]): string {
  const { broker, listener, remoteAddress, state, lastPacket } = session
  const what = state === 'live' ? 'session' : `connection (${state})`
  const last = lastPacket && `${[lastPacket.type, lastPacket.topic].filter(Boolean).join(' ')} at ${lastPacket.at}`
  return `${what} from ${remoteAddress} closed ${closedAfter(session)} on ${broker} ${listener}; last packet: ${last ?? 'none'}`
}

function closedAfter({ closedMs, sinceCommitMs }: Receipt['sessions'][number]): string {
  const sinceOrder = `${milliseconds(closedMs)} after the order`
  return sinceCommitMs === undefined ? sinceOrder : `${milliseconds(sinceCommitMs)} after the commit (${sinceOrder})`
}
