import type { CreateTokens, TokenReceipt } from '../../contract/batch-api.ts'
import { FleetError } from '../../runtime/errors.ts'
import { createTokens, openConnection, partsOf } from '../admin-batches.ts'
import type { Row, TokenRow } from '../device-file.ts'
import { Interrupted, type Io } from '../io.ts'
import { csv, table } from '../output.ts'
import { progressBar } from '../progress.ts'
import { type Common, print } from './shared.ts'

export const tokenColumns = ['deviceId', 'profile', 'token', 'expiresAt'] as const

/** For a person: a wrong profile refuses all of them alike. */
const shownRefusals = 20

type Order = { rows: Row<TokenRow>[]; given: { profile?: string; groups?: string[] }; ttlMs: number }
type Outcome = TokenReceipt['tokens'][number]

/** Prints those that were made also when others were refused or it is cut short: they are shown once. */
export async function createMany(io: Io, options: Common, { rows, given, ttlMs }: Order): Promise<void> {
  const wanted = rows.flatMap((row) => ('value' in row ? [orderOf(row.value, given)] : []))
  const faults = rows.flatMap(({ id, ...row }): Outcome[] =>
    'fault' in row
      ? [{ deviceId: id, outcome: 'refused', code: 'request_malformed', detail: `line ${row.line}: ${row.fault}` }]
      : [],
  )
  using connection = openConnection(options.data)
  const stop = io.untilSignal()
  const bar = progressBar(io, 'tokens', wanted.length)
  const tokens: Outcome[] = [...faults]
  let done = 0
  let stopped: unknown
  try {
    for (const part of partsOf(wanted)) {
      if (stop.aborted) throw new Interrupted(`after ${done} of ${wanted.length} devices`, stop)
      tokens.push(...(await createTokens(connection, { ttlMs, tokens: part })).tokens)
      done += part.length
      bar?.update(done)
    }
  } catch (error) {
    stopped = error
  } finally {
    bar?.stop()
  }
  const made = tokens.filter(({ outcome }) => outcome === 'created')
  const refused = tokens.filter(({ outcome }) => outcome === 'refused')
  print(io, options, { tokens }, () =>
    options.output === 'csv'
      ? csv(tokenColumns, made)
      : table(
          ['device', 'profile', 'token', 'expires'],
          made.map(({ deviceId, profile, token, expiresAt }) => [deviceId, profile, token, expiresAt]),
          io.colour,
        ),
  )
  if (refused.length > 0 && (options.output === 'csv' || options.output === 'table')) {
    const cells = refused.slice(0, shownRefusals).map(({ deviceId, code, detail }) => [deviceId, code, detail])
    const more = refused.length - cells.length
    io.err(
      table(['refused', 'code', 'why'], cells, false) + (more > 0 ? `and ${more} more; -o json has them all\n` : ''),
    )
  }
  if (stopped !== undefined) throw stopped
  if (refused.length === 0) return
  const sentence =
    made.length === 0
      ? `no token was made for any of ${rows.length} devices`
      : `${refused.length} of ${rows.length} devices were given no token; the others were`
  throw new FleetError('conflict', sentence, { context: { refused: true } })
}

/** A token creates no device with attributes: one that is to have some has to be there already. */
function orderOf({ id, attributes, ...row }: TokenRow, given: Order['given']): CreateTokens['tokens'][number] {
  return { deviceId: id, ...(attributes === undefined ? { ...given, ...row } : {}) }
}
