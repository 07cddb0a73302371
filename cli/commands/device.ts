import { type Command, Option } from 'commander'
import type { ChangeDevice, DeviceView, RevocationReceipt } from '../../contract/admin-api.ts'
import { attributePairs } from '../../contract/device-attributes.ts'
import { type RevocationReason, revocationReasons } from '../../contract/ids.ts'
import { commandLine } from '../../runtime/endpoints.ts'
import { FleetError } from '../../runtime/errors.ts'
import { openAdminClient } from '../admin-client.ts'
import type { Io } from '../io.ts'
import { fields, milliseconds, table } from '../output.ts'
import { addAllow } from './allow.ts'
import {
  type Attributes,
  ask,
  attribute,
  attributeNames,
  type Common,
  deviceId,
  duration,
  examples,
  groupName,
  groupNames,
  print,
  profileName,
  withCommon,
} from './shared.ts'

const maxWaitMs = 60_000

const newDevice = (id: string, options: { profile: string; group?: string[]; attribute?: Attributes }) => ({
  id,
  profile: options.profile,
  groups: options.group ?? [],
  ...(options.attribute && { attributes: options.attribute }),
})

export function addDevice(program: Command, io: Io): void {
  const device = program.command('device').description('devices in the registry')

  examples(withCommon(device.command('create')), 'device create cam-1 --profile camera --group site-berlin')
    .description('register a device, so that it can be given an enrollment token')
    .argument('<id>', 'device id', deviceId)
    .requiredOption('--profile <name>', 'certificate profile (required)', profileName)
    .option('--group <name>', 'group it belongs to (may be repeated)', groupNames)
    .option('--attribute <name=value>', 'noted about it, for policies to look at (may be repeated)', attribute)
    .action((id: string, options: Common & { profile: string; group?: string[]; attribute?: Attributes }) =>
      ask(io, options, (client) => client.createDevice(newDevice(id, options)), details),
    )

  addAllow(device, io)

  examples(withCommon(device.command('set')), 'device set cam-1 --attribute site=berlin --unset floor')
    .description('change what is noted about a device; policies see it at once, also on open sessions')
    .argument('<id>', 'device id', deviceId)
    .option('--attribute <name=value>', 'set this one (may be repeated)', attribute)
    .option('--unset <name>', 'take this one away (may be repeated)', attributeNames)
    .action((id: string, options: Common & { attribute?: Attributes; unset?: string[] }, command: Command) => {
      const { attribute: set, unset = [] } = options
      if (set === undefined && unset.length === 0) command.error('error: nothing to set; give --attribute or --unset')
      const attributes: ChangeDevice['attributes'] = {
        ...set,
        ...Object.fromEntries(unset.map((name) => [name, null])),
      }
      return ask(io, options, (client) => client.changeDevice(id, { attributes }), details)
    })

  examples(withCommon(device.command('ls')), 'device ls', 'device ls --profile camera --status revoked -o json')
    .description('list devices')
    .option('--group <name>', 'only those of this group', groupName)
    .option('--profile <name>', 'only those of this profile', profileName)
    .addOption(new Option('--status <status>', 'only those with this status').choices(['active', 'revoked']))
    .action((options: Common & { group?: string; profile?: string; status?: string }) => {
      const { group, profile, status } = options
      const query = { ...(group && { group }), ...(profile && { profile }), ...(status && { status }) }
      return ask(
        io,
        options,
        async (client) => ({ items: await client.listDevices(query) }),
        ({ items }) => list(items),
      )
    })

  examples(withCommon(device.command('show')), 'device show cam-1')
    .description('show one device')
    .argument('<id>', 'device id', deviceId)
    .action((id: string, options: Common) => ask(io, options, (client) => client.getDevice(id), details))

  examples(
    withCommon(device.command('revoke')),
    'device revoke cam-1 --reason keyCompromise',
    'device revoke cam-1 --reason cessationOfOperation --no-wait',
  )
    .description('end a device: its certificates, tokens and live sessions; it stays out until it is readmitted')
    .argument('<id>', 'device id', deviceId)
    .addOption(
      new Option('--reason <reason>', 'RFC 5280 reason (required)').choices(revocationReasons).makeOptionMandatory(),
    )
    .option('--wait', 'return when every broker has confirmed', true)
    .option('--no-wait', 'return when the revocation is on disk')
    .addOption(
      new Option('--timeout <time>', 'how long to wait for brokers')
        .argParser(duration(1, maxWaitMs))
        .default(10_000, '10s'),
    )
    .action(async (id: string, options: Common & { reason: RevocationReason; wait: boolean; timeout: number }) => {
      const waitMs = options.wait ? options.timeout : 0
      using client = openAdminClient(options.data)
      const receipt = await client.revokeDevice(id, options.reason, waitMs)
      print(io, options, receipt, outcome)
      if (options.wait && !receipt.inForce) {
        const missing = receipt.brokers.filter(({ confirmed }) => !confirmed).map(({ broker }) => broker)
        const again = commandLine(['device', 'revoke', id, '--reason', options.reason], options.data)
        throw new FleetError(
          'unavailable',
          `${id} is revoked, but ${missing.join(', ') || 'a broker'} has not confirmed within ${waitMs} ms; ask again: ${again}`,
        )
      }
    })

  examples(withCommon(device.command('readmit')), 'device readmit cam-1')
    .description('let a revoked device enroll anew; its certificates and tokens of before stay revoked')
    .argument('<id>', 'device id', deviceId)
    .action((id: string, options: Common) => ask(io, options, (client) => client.readmitDevice(id), details))

  const list = (devices: DeviceView[]): string =>
    table(
      ['id', 'profile', 'groups', 'status', 'certificate', 'created'],
      devices.map((view) => [
        view.id,
        view.profile,
        view.groups.join(','),
        view.status,
        view.currentSerial,
        view.createdAt,
      ]),
      io.colour,
    )

  const details = (view: DeviceView): string =>
    fields(
      [
        ['id', view.id],
        ['profile', view.profile],
        ['groups', view.groups.join(', ')],
        ['attributes', attributePairs(view.attributes ?? {}).join(', ')],
        ['status', view.status],
        ['created', view.createdAt],
        ['certificate', view.currentSerial],
        ['revoked', view.revokedAt],
        ['reason', view.revocationReason],
      ],
      io.colour,
    )

  const outcome = (receipt: RevocationReceipt): string =>
    fields(
      [
        ['device', receipt.deviceId],
        ['revoked', `${receipt.revokedAt}${receipt.alreadyRevoked ? ' (by an earlier call)' : ''}`],
        ['reason', receipt.reason],
        ['certificates', receipt.certificates.join(', ')],
        ['tokens voided', String(receipt.tokensVoided)],
        ...receipt.brokers.map(({ broker, connected, confirmed, confirmedMs }): [string, string] => [
          broker,
          confirmed
            ? `in force${confirmedMs === undefined ? '' : ` after ${milliseconds(confirmedMs)}`}`
            : connected
              ? 'not confirmed yet'
              : 'not connected: if it still runs, it may go on admitting this device',
        ]),
      ],
      io.colour,
    )
}
