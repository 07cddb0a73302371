import type { Command } from 'commander'
import type { DeviceId } from '../../contract/ids.ts'
import { type LateRenewalView, lateRenewalTtlMs } from '../../contract/late-renewal-api.ts'
import type { Io } from '../io.ts'
import { fields, table, visible } from '../output.ts'
import { ask, type Common, deviceId, duration, durationText, examples, withCommon } from './shared.ts'

type Options = Common & { ttl?: number; list?: boolean; withdraw?: boolean }

export function addLateRenewals(enroll: Command, io: Io): void {
  const { min, max, default: usual } = lateRenewalTtlMs
  const allow = withCommon(enroll.command('allow-late'))
    .description('let a device whose certificate has expired renew with it, once')
    .argument('[id]', 'device id', deviceId)
    .option('--ttl <time>', `how long it may do so (default: ${durationText(usual)})`, duration(min, max))
    .option('--list', 'list who may, and who has')
    .option('--withdraw', 'take the permission back')
    .action((id: DeviceId | undefined, options: Options) => {
      const modes = [options.list && '--list', options.withdraw && '--withdraw', options.ttl && '--ttl'].filter(Boolean)
      if (modes.length > 1) allow.error(`error: '${modes[0]}' and '${modes[1]}' do not go together`)
      if (options.list === true && id === undefined) {
        return ask(io, options, async (client) => ({ items: await client.listLateRenewals() }), list)
      }
      if (options.list === true || id === undefined) return allow.error('error: give a device id, or --list')
      if (options.withdraw === true) return ask(io, options, (client) => client.withdrawLateRenewal(id), withdrawn)
      return ask(io, options, (client) => client.allowLateRenewal(id, { ttlMs: options.ttl ?? usual }), details)
    })
  examples(allow, 'enroll allow-late cam-7 --ttl 24h', 'enroll allow-late --list', 'enroll allow-late cam-7 --withdraw')

  const list = ({ items }: { items: LateRenewalView[] }): string =>
    table(
      ['device', 'status', 'allowed', 'by', 'until', 'certificate'],
      items.map((view) => [view.deviceId, view.status, view.allowedAt, view.allowedBy, view.expiresAt, view.serial]),
      io.colour,
    )

  const withdrawn = ({ deviceId, status }: LateRenewalView): string =>
    `${visible(deviceId)} ${status === 'spent' ? 'had renewed late already' : 'may not renew late any more'}\n`

  const details = (view: LateRenewalView): string =>
    fields(
      [
        ['device', view.deviceId],
        ['status', view.status],
        ['allowed', `${view.allowedAt} by ${view.allowedBy}`],
        ['until', view.expiresAt],
        ['certificate', view.serial],
      ],
      io.colour,
    )
}
