import type { Command } from 'commander'
import type { DeviceView, HoldReceipt, RevocationReceipt, TheftReceipt } from '../../contract/admin-api.ts'
import type { ChangeDevices } from '../../contract/bulk-api.ts'
import type { DeviceId, RevocationReason } from '../../contract/ids.ts'
import type { Io } from '../io.ts'
import { fields } from '../output.ts'
import { changeMany, isForMany, type ManyOptions, many, preview } from './bulk.ts'
import { ask, type Common, deviceId, examples, withCommon } from './shared.ts'
import { brokersOf, change, type Receipt, reasonOption, waiting } from './waiting.ts'

/** The commands that decide whether a device counts. */
export function addStanding(device: Command, io: Io, details: (view: DeviceView) => string): void {
  const colour = io.colour
  const one = <T extends Receipt>(
    { verb, id, options }: { verb: ChangeDevices['verb']; id: DeviceId; options: ManyOptions },
    call: Parameters<typeof change<T>>[2],
    shown: Parameters<typeof change<T>>[3],
  ): Promise<void> => (options.dryRun ? preview(io, options, verb, id) : change(io, options, call, shown))

  many(
    waiting(
      withCommon(device.command('disable')),
      'device disable cam-1',
      'device disable --group site-berlin --dry-run',
    ),
  )
    .description('put a device on hold: nothing it has counts until it is enabled again')
    .argument('[id]', 'device id', deviceId)
    .action((id: DeviceId | undefined, options: ManyOptions, command: Command) =>
      isForMany(id, options, command)
        ? changeMany(io, options, { verb: 'disable' })
        : one({ verb: 'disable', id: id!, options }, (client, waitMs) => client.disableDevice(id!, waitMs), {
            render: held,
            done: `${id} is on hold`,
            again: ['device', 'disable', id!],
          }),
    )

  many(waiting(withCommon(device.command('enable')), 'device enable cam-1', 'device enable --group site-berlin'))
    .description('take a hold back; a revoked device has to be readmitted and to enroll anew')
    .argument('[id]', 'device id', deviceId)
    .action((id: DeviceId | undefined, options: ManyOptions, command: Command) =>
      isForMany(id, options, command)
        ? changeMany(io, options, { verb: 'enable' })
        : one({ verb: 'enable', id: id!, options }, (client, waitMs) => client.enableDevice(id!, waitMs), {
            render: held,
            done: `${id} is enabled`,
            again: ['device', 'enable', id!],
          }),
    )

  many(
    waiting(
      withCommon(device.command('revoke')),
      'device revoke cam-1 --reason keyCompromise',
      'device revoke cam-1 --reason cessationOfOperation --no-wait',
      'device revoke --issued-between 2026-03-01..2026-03-08 --reason keyCompromise --dry-run',
    ),
  )
    .description('end a device: its certificates, tokens and live sessions; it stays out until it is readmitted')
    .argument('[id]', 'device id', deviceId)
    .addOption(reasonOption())
    .action((id: DeviceId | undefined, options: ManyOptions & { reason: RevocationReason }, command: Command) =>
      isForMany(id, options, command)
        ? changeMany(io, options, { verb: 'revoke', reason: options.reason })
        : one(
            { verb: 'revoke', id: id!, options },
            (client, waitMs) => client.revokeDevice(id!, options.reason, waitMs),
            {
              render: revoked,
              done: `${id} is revoked`,
              again: ['device', 'revoke', id!, '--reason', options.reason],
            },
          ),
    )

  many(waiting(withCommon(device.command('stolen')), 'device stolen cam-1', 'device stolen --file van.txt'))
    .description('end a device that a thief may have, watch for its keys, and open an incident')
    .argument('[id]', 'device id', deviceId)
    .action((id: DeviceId | undefined, options: ManyOptions, command: Command) =>
      isForMany(id, options, command)
        ? changeMany(io, options, { verb: 'stolen' })
        : one({ verb: 'stolen', id: id!, options }, (client, waitMs) => client.reportStolen(id!, waitMs), {
            render: stolen,
            done: `${id} is revoked`,
            again: ['device', 'stolen', id!],
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
        ['same hardware', onHold(receipt)],
        ['same serial', sameSerial(receipt)],
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

const onHold = ({ sameHardware }: TheftReceipt): string | undefined =>
  sameHardware &&
  `${sameHardware.join(', ')}: on hold, by the key of the factory certificate; enable it, or report it stolen too`

const sameSerial = ({ sameSerialNumber }: TheftReceipt): string | undefined =>
  sameSerialNumber &&
  `${sameSerialNumber.join(', ')}: left as it is; is it the same hardware? Then report it stolen too`

const sharedKey = ({ claimCertificate }: TheftReceipt): string | undefined =>
  claimCertificate &&
  `it enrolled with the claim certificate ${claimCertificate}, which can claim other devices that never enrolled`
