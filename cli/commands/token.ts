import type { Command } from 'commander'
import { type TokenView, tokenTtlMs } from '../../contract/admin-api.ts'
import { openAdminClient } from '../admin-client.ts'
import type { Io } from '../io.ts'
import { fields } from '../output.ts'
import {
  ask,
  type Common,
  deviceId,
  duration,
  durationText,
  examples,
  groupNames,
  profileName,
  withCommon,
} from './shared.ts'

type Options = Common & { device: string; ttl: number; profile?: string; group?: string[]; quiet?: boolean }

export function addToken(program: Command, io: Io): void {
  const token = program.command('token').description('one-time enrollment tokens')

  examples(
    withCommon(token.command('create')),
    'token create --device cam-1 --profile camera',
    'token create --device cam-1 --ttl 15m -o json',
    'token create --device cam-1 --quiet      # the token alone, for TOKEN=$(...)',
  )
    .description('make a token that lets one device enroll once; it is shown here and never again')
    .requiredOption('--device <id>', 'device it is for (required)', deviceId)
    .option(
      '--ttl <time>',
      `how long it may be used (default: ${durationText(tokenTtlMs.default)})`,
      duration(tokenTtlMs.min, tokenTtlMs.max),
    )
    .option('--profile <name>', 'create the device with this profile when there is none of that id', profileName)
    .option('--group <name>', 'group of a device that is created (may be repeated)', groupNames)
    .option('-q, --quiet', 'print the token alone')
    .action(async (options: Options, command: Command) => {
      if (options.quiet === true && options.output === 'json')
        command.error("error: option '-q, --quiet' cannot be used with '-o json'")
      const body = {
        deviceId: options.device,
        ttlMs: options.ttl ?? tokenTtlMs.default,
        ...(options.profile && { profile: options.profile }),
        ...(options.group && { groups: options.group }),
      }
      if (options.quiet !== true) {
        await ask(io, options, (client) => client.createToken(body), details)
        return
      }
      using client = openAdminClient(options.data)
      io.out(`${(await client.createToken(body)).token}\n`)
    })

  const details = (view: TokenView): string =>
    fields(
      [
        ['device', view.deviceId],
        ['profile', view.profile],
        ['token', view.token],
        ['expires', view.expiresAt],
      ],
      io.colour,
    )
}
