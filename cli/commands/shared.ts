import { existsSync, readFileSync } from 'node:fs'
import { type Command, InvalidArgumentError, Option } from 'commander'
import {
  attributeNameRule,
  attributeValueRule,
  isAttributeName,
  isAttributeValue,
} from '../../contract/device-attributes.ts'
import {
  type DeviceId,
  type GroupName,
  isDeviceId,
  isGroupName,
  isProfileName,
  isSerialNumber,
  nameRule,
  type ProfileName,
  type SerialNumber,
} from '../../contract/ids.ts'
import { loadConfig } from '../../runtime/config.ts'
import { systemFault } from '../../runtime/errors.ts'
import { type AdminClient, openAdminClient } from '../admin-client.ts'
import type { Io } from '../io.ts'
import { printPages } from '../listing.ts'
import { json, visible, yaml } from '../output.ts'

export type Format = 'table' | 'json' | 'yaml' | 'name' | 'csv'
/** Of what is shown as a whole. */
const shown = ['table', 'json', 'yaml'] as const
/** Of a list, and of a thing that others name. */
export const named = [...shown, 'name'] as const
/** Of what comes line by line, and of what has a form of its own. */
export const plain = ['table', 'json'] as const
/** The options that every command has. */
export type Common = { data: string; output: Format }

/** `run` puts the folder that is meant into `data` before the command's action. */
export const withCommon = (command: Command, formats: readonly Format[] = shown): Command =>
  command
    .option(
      '--data <dir>',
      'data folder of the gateway (default: FLEETGATE_DATA, else data: of the configuration, else ./data)',
      folderName,
    )
    .option('--config <file>', 'configuration file (default: fleetgate.yaml where there is one)')
    .addOption(outputOption(formats))

export const defaultConfig = './fleetgate.yaml'

/** The data folder that `up` would use too. */
export function dataDirOf({ data, config }: { data?: string; config?: string }, env: NodeJS.ProcessEnv): string {
  if (data !== undefined) return data
  const { FLEETGATE_DATA } = env
  return loadConfig({
    file: config ?? (existsSync(defaultConfig) ? defaultConfig : undefined),
    env: FLEETGATE_DATA === undefined ? {} : { FLEETGATE_DATA },
  }).data
}

/** Names of the certificate profiles that the configuration has. */
export function profilesOf({ config }: { config?: string }): string[] {
  const file = config ?? (existsSync(defaultConfig) ? defaultConfig : undefined)
  return Object.keys(loadConfig({ file, env: {} }).profiles)
}

export function folderName(text: string): string {
  if (text === '') throw new InvalidArgumentError('Name a folder.')
  return text
}

export function estUrl(text: string): string {
  if (URL.parse(text)?.protocol === 'https:') return text
  throw new InvalidArgumentError('Give a URL such as https://gateway.example:8443.')
}

export const outputOption = (formats: readonly Format[] = shown): Option =>
  new Option('-o, --output <format>', 'form of the answer').choices(formats).default('table')

const shownWith = new WeakMap<Command, string[]>()

/** What stands behind `fleetgate` in each example of a command. */
export const examplesOf = (command: Command): readonly string[] => shownWith.get(command) ?? []

export function examples(command: Command, ...lines: string[]): Command {
  shownWith.set(command, lines)
  return command.addHelpText('after', `\nExamples:\n${lines.map((line) => `  $ fleetgate ${line}`).join('\n')}\n`)
}

/** Asks the running gateway and prints its answer. */
export async function ask<T>(
  io: Io,
  options: Common,
  call: (client: AdminClient) => Promise<T>,
  render: (answer: T) => string,
): Promise<void> {
  using client = openAdminClient(options.data)
  print(io, options, await call(client), render)
}

/** Likewise a list that may be as long as the fleet. */
export async function askPages<T>(
  io: Io,
  { data, output }: Common,
  pages: (client: AdminClient) => AsyncIterable<T[]>,
  columns: { head: string[]; row(item: T): (string | undefined)[] },
): Promise<void> {
  using client = openAdminClient(data)
  await printPages(io, output, pages(client), { columns, names: (items) => namesOf({ items }) })
}

/** As it is for `json` and `yaml`, its names for `name`, as `render` shows it otherwise. */
export function print<T>(io: Io, { output }: Common, answer: T, render: (answer: T) => string): void {
  io.out(formOf(output, answer, render))
}

export const structured = (output: Format, answer: unknown): string => (output === 'yaml' ? yaml(answer) : json(answer))

/** Of what comes one by one: an object a line, or a YAML document each. */
export function entryForm<T>(output: Format, entry: T, render: (entry: T) => string): string {
  if (output === 'json') return json(entry).replaceAll(/\n\s*/g, '').concat('\n')
  return output === 'yaml' ? `---\n${yaml(entry)}` : render(entry)
}

function formOf<T>(output: Format, answer: T, render: (answer: T) => string): string {
  if (output === 'json' || output === 'yaml') return structured(output, answer)
  if (output === 'name') return namesOf(answer)
  return render(answer)
}

/** What other commands take for it: one a line, in a list. */
function namesOf(answer: unknown): string {
  const { items = [answer] } = answer as { items?: unknown[] }
  const lines = items.map((item) => {
    const { id, clientId, name, serial } = item as Record<string, unknown>
    return `${visible(String(id ?? clientId ?? name ?? serial))}\n`
  })
  return lines.join('')
}

export function deviceId(text: string): DeviceId {
  if (!isDeviceId(text)) throw new InvalidArgumentError(`A device id is ${nameRule}.`)
  return text
}

export function groupName(text: string): GroupName {
  if (!isGroupName(text)) throw new InvalidArgumentError(`A group is ${nameRule}.`)
  return text
}

/** For an option that may be given several times. */
export const groupNames = (text: string, before: GroupName[] | undefined): GroupName[] => [
  ...(before ?? []),
  groupName(text),
]

export function serialNumber(text: string): SerialNumber {
  const serial = text.replaceAll(':', '').toLowerCase()
  if (!isSerialNumber(serial))
    throw new InvalidArgumentError('A serial number is hex, two digits an octet, 20 octets at most.')
  return serial
}

/** A SHA-256, with or without colons. */
export function fingerprint(text: string): string {
  const hex = text.replaceAll(':', '').toLowerCase()
  if (!/^[0-9a-f]{64}$/.test(hex)) throw new InvalidArgumentError('A SHA-256 is 64 hex digits.')
  return hex
}

export type Attributes = Record<string, string>

/** `NAME=VALUE`, for an option that may be given several times. */
export function attribute(text: string, before: Attributes | undefined): Attributes {
  const [, name = '', value = ''] = /^([^=]*)=(.*)$/su.exec(text) ?? []
  if (!isAttributeValue(value)) throw new InvalidArgumentError(`Give NAME=VALUE; a value is ${attributeValueRule}.`)
  return { ...before, [attributeName(name)]: value }
}

function attributeName(text: string): string {
  if (!isAttributeName(text)) throw new InvalidArgumentError(`The name of an attribute is ${attributeNameRule}.`)
  return text
}

/** For an option that may be given several times. */
export const attributeNames = (text: string, before: string[] | undefined): string[] => [
  ...(before ?? []),
  attributeName(text),
]

export function profileName(text: string): ProfileName {
  if (!isProfileName(text)) throw new InvalidArgumentError('A profile is lower-case letters, digits and -, 32 at most.')
  return text
}

const units: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }

/** `90s`, `15m`, `24h`, `7d` to milliseconds within a range. */
export const duration =
  (minMs: number, maxMs: number) =>
  (text: string): number => {
    const [, count, unit] = /^(\d{1,9})(ms|s|m|h|d)$/.exec(text) ?? []
    const ms = Number(count) * (units[unit ?? ''] ?? Number.NaN)
    if (!(ms >= minMs && ms <= maxMs)) {
      throw new InvalidArgumentError(
        `Give a time from ${durationText(minMs)} to ${durationText(maxMs)}, such as 90s, 15m, 24h or 7d.`,
      )
    }
    return ms
  }

export const instantForms = 'a day, an instant, or so long ago as in 24h'

/** A day (UTC), an instant, or so long ago, as an instant. */
export function instant(text: string): string {
  const ago = /^\d{1,9}(ms|s|m|h|d)$/.test(text) ? duration(1, 36_500 * 86_400_000)(text) : undefined
  const at =
    ago === undefined ? new Date(/^\d{4}-\d{2}-\d{2}/.test(text) ? text : Number.NaN) : new Date(Date.now() - ago)
  if (Number.isNaN(at.getTime())) {
    throw new InvalidArgumentError(
      'Give a day or an instant, as 2026-03-01 or 2026-03-01T09:00Z, or so long ago, as 24h.',
    )
  }
  return at.toISOString()
}

export function durationText(ms: number): string {
  const unit = ['d', 'h', 'm', 's'].find((name) => ms > 0 && ms % units[name]! === 0)
  return unit === undefined ? `${ms}ms` : `${ms / units[unit]!}${unit}`
}

export const wholeNumber =
  (min: number, max: number) =>
  (text: string): number => {
    const value = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN
    if (!(value >= min && value <= max)) throw new InvalidArgumentError(`Give a whole number from ${min} to ${max}.`)
    return value
  }

/**
 * The lines of a file that an option names; a mark at its beginning, as spreadsheets write it, is none of them.
 *
 * @throws InvalidArgumentError
 */
export function readLines(path: string): string[] {
  try {
    return readFileSync(path, 'utf8')
      .replace(/^\ufeff/, '')
      .split(/\r?\n/)
  } catch (error) {
    throw new InvalidArgumentError(`It cannot be read: ${systemFault(error)}.`)
  }
}
