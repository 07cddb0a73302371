import type { Command } from 'commander'
import { type DeviceView, deviceView } from '../../contract/admin-api.ts'
import { attributePairs } from '../../contract/device-attributes.ts'
import type { ChangeDevice } from '../../contract/device-change-api.ts'
import type { DeviceId } from '../../contract/ids.ts'
import { openConnection } from '../admin-batches.ts'
import type { AdminConnection } from '../admin-connection.ts'
import type { Io } from '../io.ts'
import { table } from '../output.ts'
import {
  type Attributes,
  attribute,
  attributeNames,
  type Common,
  deviceId,
  examples,
  groupNames,
  named,
  print,
  profileName,
  withCommon,
} from './shared.ts'

type Options = Common & {
  profile?: string
  group?: string[]
  ungroup?: string[]
  attribute?: Attributes
  unset?: string[]
  dryRun?: true
}

export function addDeviceSet(device: Command, io: Io, details: (view: DeviceView) => string): void {
  examples(
    withCommon(device.command('set'), named),
    'device set cam-1 --attribute site=berlin --unset floor',
    'device set cam-1 --group site-paris --ungroup site-berlin',
    'device set cam-1 --profile sensor --dry-run',
  )
    .description('change profile, groups or attributes of a device; policies see it at once, also on open sessions')
    .argument('<id>', 'device id', deviceId)
    .option(
      '--profile <name>',
      'certificate profile; the certificate that it has stays, the next is of this',
      profileName,
    )
    .option('--group <name>', 'put it into this group (may be repeated)', groupNames)
    .option('--ungroup <name>', 'take it out of this group (may be repeated)', groupNames)
    .option('--attribute <name=value>', 'set this one (may be repeated)', attribute)
    .option('--unset <name>', 'take this one away (may be repeated)', attributeNames)
    .option('--dry-run', 'show what would be another, and change nothing')
    .action(async (id: DeviceId, options: Options, command: Command) => {
      const { profile, group, ungroup, attribute: set, unset } = options
      if ([profile, group, ungroup, set, unset].every((one) => one === undefined))
        command.error('error: nothing to set; give --profile, --group, --ungroup, --attribute or --unset')
      using connection = openConnection(options.data)
      const path = `/v1/devices/${encodeURIComponent(id)}`
      if (options.dryRun) return foresee(io, connection, path, options)
      return print(io, options, await change(connection, path, options), details)
    })
}

async function change(connection: AdminConnection, path: string, options: Options): Promise<DeviceView> {
  if ((options.group ?? options.ungroup) === undefined)
    return connection.call(deviceView, { method: 'PATCH', path, body: changesOf(options, []) })
  // Groups are told whole: what somebody else has put it into meanwhile must not get lost.
  const { answer, tag } = await connection.tagged(deviceView, { method: 'GET', path })
  return connection.call(deviceView, { method: 'PATCH', path, body: changesOf(options, answer.groups), ifMatch: tag })
}

async function foresee(io: Io, connection: AdminConnection, path: string, options: Options): Promise<void> {
  const { answer: before, tag } = await connection.tagged(deviceView, { method: 'GET', path })
  const body = { ...changesOf(options, before.groups), dryRun: true }
  const after = await connection.call(deviceView, { method: 'PATCH', path, body, ifMatch: tag })
  print(io, options, { id: before.id, before, after }, () => {
    const was = rowsOf(before)
    const rows = rowsOf(after).flatMap(([name, now], at) => (now === was[at]![1] ? [] : [[name, was[at]![1], now]]))
    const changes = rows.length === 0 ? 'it is like that already\n' : table(['what', 'is', 'would be'], rows, io.colour)
    return `${changes}nothing was changed\n`
  })
}

const rowsOf = ({ profile, groups, attributes = {} }: DeviceView): [name: string, value: string][] => [
  ['profile', profile],
  ['groups', groups.join(', ')],
  ['attributes', attributePairs(attributes).toSorted().join(', ')],
]

function changesOf({ profile, group, ungroup = [], attribute: set, unset = [] }: Options, before: string[]) {
  const changes: ChangeDevice = {}
  if (profile !== undefined) changes.profile = profile
  if (group !== undefined || ungroup.length > 0)
    changes.groups = [...new Set([...before, ...(group ?? [])])].filter(
      (name) => !ungroup.some((gone) => gone === name),
    )
  if (set !== undefined || unset.length > 0)
    changes.attributes = { ...set, ...Object.fromEntries(unset.map((name) => [name, null])) }
  return changes
}
