import type { Command } from 'commander'
import type { AdminClient } from '../admin-client.ts'
import type { Io } from '../io.ts'
import { fields, table } from '../output.ts'
import { readSerials, type Serial } from './serials.ts'
import { ask, type Common, deviceId, examples, groupNames, named, withCommon } from './shared.ts'

const atOnce = 500
const labelText = 'EST label that the hardware enrolls under (required)'

type AllowOptions = Common & { file?: Serial[]; label?: string; group?: string[]; otherHardware?: boolean }

/** `device allow` puts onto the list, what is below it shows the list and takes off. */
export function addAllow(device: Command, io: Io): void {
  const allow = withCommon(device.command('allow'))
    .enablePositionalOptions()
    .description('let hardware enroll by the serial number in its factory certificate, and register it')
    .option('--file <csv>', 'a line each: serial number, or serial number,device id (required)', readSerials)
    .option('--label <name>', labelText)
    .option('--group <name>', 'group of devices that are registered (may be repeated)', groupNames)
    .option('--other-hardware', 'serial numbers of stolen devices are those of another factory in this file')
    .action((given: AllowOptions, command: Command) => {
      const { file: entries, label, group: groups = [], otherHardware = false, ...options } = given
      // Not by commander: it would ask for them below `allow` too.
      if (entries === undefined) return command.error("error: required option '--file' is not given")
      if (label === undefined) return command.error("error: required option '--label' is not given")
      const send = async (client: AdminClient) => {
        const added = await inParts(entries, async (part) => {
          return (await client.allowDevices({ label, groups, entries: part, otherHardware })).added
        })
        return { added, known: entries.length - added }
      }
      return ask(io, options, send, counts)
    })
  examples(
    allow,
    'device allow --file serials.csv --label line-1 --group site-berlin',
    'device allow ls --label line-1',
    'device allow rm --label line-1 SN0815',
  )

  examples(withCommon(allow.command('ls'), named), 'device allow ls', 'device allow ls --label line-1 -o json')
    .description('list which serial numbers may enroll, and as which devices')
    .option('--label <name>', 'only those of this label')
    .option('--device <id>', 'only those of this device', deviceId)
    .action(({ label, device: id, ...options }: Common & { label?: string; device?: string }) => {
      const query = { ...(label && { label }), ...(id && { deviceId: id }) }
      return ask(
        io,
        options,
        async (client) => ({ items: await client.listAllowances(query) }),
        ({ items }) =>
          table(
            ['label', 'serial number', 'device', 'allowed'],
            items.map((view) => [view.label, view.serial, view.deviceId, view.createdAt]),
            io.colour,
          ),
      )
    })

  examples(
    withCommon(allow.command('rm')),
    'device allow rm --label line-1 SN0815 SN0816',
    'device allow rm --label line-1 --file serials.csv',
  )
    .description('take serial numbers off the list; certificates that they have stay good until the device is revoked')
    .argument('[serial...]', 'serial number')
    .requiredOption('--label <name>', labelText)
    .option('--file <csv>', 'the same file as for `device allow`', readSerials)
    .action((named: string[], options: Common & { file?: Serial[]; label: string }, command: Command) => {
      const { file = [], label } = options
      const serials = [...new Set([...named, ...file.map(({ serial }) => serial)])]
      if (serials.length === 0) return command.error('error: nothing to take off; give serial numbers or --file')
      const send = async (client: AdminClient) => {
        const removed = await inParts(serials, async (part) => {
          return (await client.disallowDevices({ label, serials: part })).removed
        })
        return { removed, unknown: serials.length - removed }
      }
      return ask(io, options, send, counts)
    })

  const counts = (answer: Record<string, number>): string =>
    fields(
      Object.entries(answer).map(([name, count]) => [name, String(count)]),
      io.colour,
    )
}

/** @returns the sum of what each part gave */
async function inParts<T>(items: T[], send: (part: T[]) => Promise<number>): Promise<number> {
  let sum = 0
  for (let at = 0; at < items.length; at += atOnce) sum += await send(items.slice(at, at + atOnce))
  return sum
}
