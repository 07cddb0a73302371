import { type CredentialReceipt, credentialKinds } from '../../contract/credential-api.ts'
import type { RevocationReason } from '../../contract/ids.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import { openAdminClient } from '../admin-client.ts'
import type { Io } from '../io.ts'
import { fields } from '../output.ts'
import { type Common, print } from './shared.ts'
import { standingAt, type Waiting } from './waiting.ts'

export type CredentialOptions = Waiting & { reason: RevocationReason; yes?: boolean }

/** Whether it is of an operator or a broker. */
export async function isCredential({ data }: Common, serial: string): Promise<boolean> {
  using client = openAdminClient(data)
  const { kind } = await client.getCertificate(serial)
  return credentialKinds.some((one) => one === kind)
}

export async function revokeCredential(io: Io, serial: string, options: CredentialOptions): Promise<void> {
  const { data, reason, wait, timeout, yes = false } = options
  using client = openAdminClient(data)
  const call = (lastOperator: boolean) =>
    client.revokeCredential(serial, { reason, waitMs: wait ? timeout : 0, lastOperator })
  const receipt = await call(yes).catch(async (error: unknown) => {
    if (!isFleetError(error, 'last_operator')) throw error
    await confirm(io, serial, error)
    return call(true)
  })
  print(io, options, receipt, (shown) => render(shown, io.colour))
}

async function confirm(io: Io, serial: string, why: FleetError): Promise<void> {
  const typed = await io.readLine(`${why.message}\nType ${serial} to go on: `)
  if (typed.trim() === serial) return
  throw new FleetError('last_operator', `nothing was changed, and ${serial} counts: ${why.message}`, {
    context: { refused: true },
  })
}

function render(receipt: CredentialReceipt, colour: boolean): string {
  const { serial, kind, name, isCurrent, revokedAt, alreadyRevoked, certificates, remaining, broker } = receipt
  return fields(
    [
      ['certificate', `${serial}${isCurrent ? ' (the current one)' : ''}`],
      [kind, name],
      ['revoked', `${revokedAt}${alreadyRevoked ? ' (by an earlier call)' : ''}`],
      ['reason', receipt.reason],
      ['for the same key', certificates.filter((one) => one !== serial).join(', ')],
      ['still has', remaining.join(', ') || 'no other certificate'],
      ['keys watched', String(receipt.keysWatched)],
      ['connections ended', String(receipt.connectionsEnded)],
      ...(broker === undefined ? [] : ([['broker', standingAt(broker)]] as [string, string][])),
      ...(receipt.crlNumber === undefined ? [] : ([['CRL number', String(receipt.crlNumber)]] as [string, string][])),
    ],
    colour,
  )
}
