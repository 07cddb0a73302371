import { type Command, Option } from 'commander'
import type { ChangeDevice, DeviceView } from '../../contract/admin-api.ts'
import { attributePairs } from '../../contract/device-attributes.ts'
import { deviceStatuses } from '../../contract/feed.ts'
import type { Io } from '../io.ts'
import { fields, table } from '../output.ts'
import { addAllow } from './allow.ts'
import { addDeviceImport } from './device-import.ts'
import {
  type Attributes,
  ask,
  attribute,
  attributeNames,
  type Common,
  deviceId,
  examples,
  groupName,
  groupNames,
  named,
  profileName,
  withCommon,
} from './shared.ts'
import { addStanding } from './standing.ts'

const newDevice = (id: string, options: { profile: string; group?: string[]; attribute?: Attributes }) => ({
  id,
  profile: options.profile,
  groups: options.group ?? [],
  ...(options.attribute && { attributes: options.attribute }),
})

export function addDevice(program: Command, io: Io): void {
  const device = program.command('device').description('devices in the registry')

  examples(withCommon(device.command('create'), named), 'device create cam-1 --profile camera --group site-berlin')
    .description('register a device, so that it can be given an enrollment token')
    .argument('<id>', 'device id', deviceId)
    .requiredOption('--profile <name>', 'certificate profile (required)', profileName)
    .option('--group <name>', 'group it belongs to (may be repeated)', groupNames)
    .option('--attribute <name=value>', 'noted about it, for policies to look at (may be repeated)', attribute)
    .action((id: string, options: Common & { profile: string; group?: string[]; attribute?: Attributes }) =>
      ask(io, options, (client) => client.createDevice(newDevice(id, options)), details),
    )

  addAllow(device, io)
  addDeviceImport(device, io)

  examples(withCommon(device.command('set'), named), 'device set cam-1 --attribute site=berlin --unset floor')
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

  examples(withCommon(device.command('ls'), named), 'device ls', 'device ls --profile camera --status revoked -o json')
    .description('list devices')
    .option('--group <name>', 'only those of this group', groupName)
    .option('--profile <name>', 'only those of this profile', profileName)
    .addOption(new Option('--status <status>', 'only those with this status').choices(deviceStatuses))
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

  examples(withCommon(device.command('show'), named), 'device show cam-1')
    .description('show one device')
    .argument('<id>', 'device id', deviceId)
    .action((id: string, options: Common) => ask(io, options, (client) => client.getDevice(id), details))

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
        ['held', view.heldAt],
        ['revoked', view.revokedAt],
        ['reason', view.revocationReason],
        ['stolen', view.stolenAt],
      ],
      io.colour,
    )

  addStanding(device, io, details)
}
