import { type Command, Option } from 'commander'
import { type TokenRecordView, tokenStatuses } from '../../contract/admin-api.ts'
import type { Io } from '../io.ts'
import { askPages, type Common, deviceId, examples, named, profileName, withCommon } from './shared.ts'

type Filter = { device?: string; status?: string; profile?: string }

export function addTokenList(token: Command, io: Io): void {
  examples(withCommon(token.command('ls'), named), 'token ls --status unspent', 'token ls --device cam-1 -o json')
    .description('list tokens, spent and expired ones too, without what is secret in them')
    .option('--device <id>', 'only those for this device', deviceId)
    .addOption(new Option('--status <status>', 'only those with this status').choices(tokenStatuses))
    .option('--profile <name>', 'only those of this profile', profileName)
    .action(({ device, status, profile, ...options }: Common & Filter) =>
      askPages(
        io,
        options,
        async function* (client) {
          // "None" would be said of a device that there is not as well.
          if (device !== undefined) await client.getDevice(device)
          yield* client.pagesOfTokens({ deviceId: device, status, profile })
        },
        columns,
      ),
    )

  const columns = {
    head: ['device', 'profile', 'status', 'expires', 'created', 'certificate'],
    row: (view: TokenRecordView) => [
      ...[view.deviceId, view.profile, view.status],
      ...[view.expiresAt, view.createdAt, view.serial],
    ],
  }
}
