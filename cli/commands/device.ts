import { type Command, Option } from 'commander'
import type { DeviceView } from '../../contract/admin-api.ts'
import { attributePairs } from '../../contract/device-attributes.ts'
import { deviceStatuses } from '../../contract/feed.ts'
import { revocationReasons } from '../../contract/ids.ts'
import type { Io } from '../io.ts'
import { fields } from '../output.ts'
import { addAllow } from './allow.ts'
import { addDeviceImport } from './device-import.ts'
import { addDeviceSet } from './device-set.ts'
import {
  type Attributes,
  ask,
  askPages,
  attribute,
  type Common,
  deviceId,
  examples,
  groupName,
  groupNames,
  instant,
  instantForms,
  named,
  profileName,
  serialNumber,
  withCommon,
} from './shared.ts'
import { addStanding } from './standing.ts'

const newDevice = (id: string, options: { profile: string; group?: string[]; attribute?: Attributes }) => ({
  id,
  profile: options.profile,
  groups: options.group ?? [],
  ...(options.attribute && { attributes: options.attribute }),
})

type Filter = {
  group?: string
  profile?: string
  status?: string
  attribute?: Attributes
  serial?: string
  stolen?: true
  reason?: string
  createdSince?: string
  createdUntil?: string
  revokedSince?: string
  revokedUntil?: string
}

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

  examples(
    withCommon(device.command('ls'), named),
    'device ls',
    'device ls --profile camera --attribute site=berlin',
    'device ls --status revoked --reason keyCompromise --revoked-since 7d -o json',
  )
    .description('list devices')
    .option('--group <name>', 'only those of this group', groupName)
    .option('--profile <name>', 'only those of this profile', profileName)
    .addOption(new Option('--status <status>', 'only those with this status').choices(deviceStatuses))
    .option('--attribute <name=value>', 'only those that have it (may be repeated: all of them)', attribute)
    .option('--serial <serial>', 'only the one whose current certificate this is', serialNumber)
    .option('--stolen', 'only those that were reported stolen')
    .addOption(new Option('--reason <reason>', 'only those revoked for this').choices(revocationReasons))
    .option('--created-since <time>', `only those registered from then on: ${instantForms}`, instant)
    .option('--created-until <time>', 'and before then', instant)
    .option('--revoked-since <time>', 'only those revoked from then on', instant)
    .option('--revoked-until <time>', 'and before then', instant)
    .action(({ group, profile, status, serial, stolen, reason, ...options }: Common & Filter) => {
      const filter = {
        ...{ group, profile, status, serial, reason, stolen: stolen && 'true' },
        attribute: options.attribute && attributePairs(options.attribute),
        ...{ createdFrom: options.createdSince, createdTo: options.createdUntil },
        ...{ revokedFrom: options.revokedSince, revokedTo: options.revokedUntil },
      }
      return askPages(io, options, (client) => client.pagesOfDevices(filter), columns)
    })

  examples(withCommon(device.command('show'), named), 'device show cam-1')
    .description('show one device')
    .argument('<id>', 'device id', deviceId)
    .action((id: string, options: Common) => ask(io, options, (client) => client.getDevice(id), details))

  const columns = {
    head: ['id', 'profile', 'groups', 'status', 'certificate', 'created'],
    row: (view: DeviceView) => [
      ...[view.id, view.profile, view.groups.join(',')],
      ...[view.status, view.currentSerial, view.createdAt],
    ],
  }

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

  addDeviceSet(device, io, details)
  addStanding(device, io, details)
}
