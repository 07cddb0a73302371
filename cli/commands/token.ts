import { type Command, InvalidArgumentError, Option } from 'commander'
import { type TokenView, tokenTtlMs } from '../../contract/admin-api.ts'
import { formatEnrollmentCode } from '../../contract/enrollment-code.ts'
import { type DeviceId, isDeviceId, nameRule } from '../../contract/ids.ts'
import { readEndpoints } from '../../runtime/endpoints.ts'
import { openAdminClient } from '../admin-client.ts'
import { type Row, readTokenRows, type TokenRow } from '../device-file.ts'
import type { Io } from '../io.ts'
import { csv, fields, visible } from '../output.ts'
import { qrCode } from '../qr.ts'
import {
  ask,
  type Common,
  deviceId,
  duration,
  durationText,
  estUrl,
  examples,
  groupNames,
  profileName,
  wholeNumber,
  withCommon,
} from './shared.ts'
import { createMany, tokenColumns } from './token-batch.ts'
import { addTokenList } from './token-ls.ts'

type Options = Common & {
  device?: DeviceId
  count?: number
  prefix?: string
  from: number
  file?: Row<TokenRow>[]
  ttl?: number
  profile?: string
  group?: string[]
  quiet?: boolean
  qr?: boolean
  url?: string
}

const mostAtOnce = 100_000

export function addToken(program: Command, io: Io): void {
  const token = program.command('token').description('one-time enrollment tokens')
  addTokenList(token, io)

  examples(
    withCommon(token.command('create'), ['table', 'json', 'yaml', 'csv']),
    'token create --device cam-1 --profile camera',
    'token create --device cam-1 --ttl 15m -o json',
    'token create --device cam-1 --quiet      # the token alone, for TOKEN=$(...)',
    'token create --device cam-1 --qr --url https://gateway.example:8443',
    'token create --count 500 --prefix cam- --profile camera -o csv > tokens.csv',
    'token create --file devices.csv -o csv > tokens.csv',
  )
    .description('make a token that lets one device enroll once, or many of them; they are shown here and never again')
    .option('--device <id>', 'device it is for', deviceId)
    .addOption(
      new Option('--count <n>', 'so many, for devices that are called by their number')
        .argParser(wholeNumber(1, mostAtOnce))
        .conflicts('device'),
    )
    .option('--prefix <text>', 'what stands before the number, as cam- for cam-0001', prefix)
    .addOption(new Option('--from <n>', 'first number').argParser(wholeNumber(0, 999_999_999)).default(1))
    .addOption(
      new Option(
        '--file <file>',
        'one for each device of a file, as `device import` takes it; one with attributes has to be there already',
      )
        .argParser(readTokenRows)
        .conflicts(['device', 'count']),
    )
    .option(
      '--ttl <time>',
      `how long it may be used (default: ${durationText(tokenTtlMs.default)})`,
      duration(tokenTtlMs.min, tokenTtlMs.max),
    )
    .option('--profile <name>', 'create the device with this profile when there is none of that id', profileName)
    .option('--group <name>', 'group of a device that is created (may be repeated)', groupNames)
    .addOption(new Option('-q, --quiet', 'print the token alone').conflicts('qr'))
    .addOption(
      new Option('--qr', 'print a QR code with all that the device needs, for its camera: enroll --code').conflicts([
        'count',
        'file',
      ]),
    )
    .option('--url <url>', 'with --qr: where devices reach EST (default: as this machine does)', estUrl)
    .action(async (options: Options, command: Command) => {
      const { device, quiet = false, qr = false, output } = options
      const named = quiet ? '-q, --quiet' : '--qr'
      if ((quiet || qr) && output !== 'table')
        command.error(`error: option '${named}' cannot be used with '-o ${output}'`)
      if (!qr && options.url !== undefined) command.error("error: option '--url' belongs to '--qr'")
      const ttlMs = options.ttl ?? tokenTtlMs.default
      const given = {
        ...(options.profile && { profile: options.profile }),
        ...(options.group && { groups: options.group }),
      }
      if (device === undefined) {
        const rows = options.file ?? numbered(options, command)
        if (quiet) command.error("error: '-q, --quiet' is for one device; give -o csv")
        return createMany(io, options, { rows, given, ttlMs })
      }
      const body = { deviceId: device, ttlMs, ...given }
      if (qr)
        return ask(
          io,
          options,
          (client) => client.createToken(body),
          (view) => details(view) + code(view, options),
        )
      if (!quiet) return ask(io, options, (client) => client.createToken(body), output === 'csv' ? record : details)
      using client = openAdminClient(options.data)
      io.out(`${(await client.createToken(body)).token}\n`)
    })

  const code = ({ deviceId, token }: TokenView, { data, url }: Options): string => {
    const { est, rootFingerprint } = readEndpoints(data)
    const text = formatEnrollmentCode({
      url: url ?? est,
      caFingerprint: rootFingerprint,
      id: deviceId as DeviceId,
      token,
    })
    return `\n${qrCode(text, io.colour)}\n${visible(text)}\n`
  }
  const record = (view: TokenView): string => csv(tokenColumns, [view])
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

function prefix(text: string): string {
  if (isDeviceId(`${text}0000`)) return text
  throw new InvalidArgumentError(`With a number behind it, it is a device id: ${nameRule}.`)
}

/** All of one width, so that lists of them are in the order of their numbers. */
function numbered({ count, prefix: text, from }: Options, command: Command): Row<TokenRow>[] {
  if (count === undefined || text === undefined) {
    return command.error("error: required option '--device <id>', '--count <n> --prefix <text>' or '--file <file>'")
  }
  const width = Math.max(4, String(from + count - 1).length)
  return Array.from({ length: count }, (_, at) => {
    const id = `${text}${String(from + at).padStart(width, '0')}`
    return { line: at + 1, id, value: { id } }
  })
}
