import { existsSync } from 'node:fs'
import type { Command } from 'commander'
import { loadConfig } from '../../runtime/config.ts'
import type { AdminClient } from '../admin-client.ts'
import { authoritiesNamed, readTrusted, type ShownAuthority } from '../authority-files.ts'
import { type Io, settingsOf } from '../io.ts'
import { fields, table } from '../output.ts'
import { ask, type Common, defaultConfig, examples, named, withCommon } from './shared.ts'

type Options = Common & { config?: string }

export function addCa(program: Command, io: Io): void {
  const ca = program
    .command('ca')
    .description('the CAs that count here: those of this gateway, and those that it trusts')

  examples(withCommon(ca.command('ls'), named), 'ca ls', 'ca ls --config /etc/fleetgate/fleetgate.yaml -o json')
    .description('list them; those of others are read from the files that the configuration of this machine names')
    .action((options: Options) =>
      ask(
        io,
        options,
        async (client) => ({ items: await listAuthorities(io, client, options) }),
        ({ items }) => list(items),
      ),
    )

  examples(withCommon(ca.command('show'), named), 'ca show issuing', 'ca show partner')
    .description('show one with its PEM; of a file with several, each')
    .argument('<name>', 'as ca ls has it')
    .action((name: string, options: Options) =>
      ask(
        io,
        options,
        async (client) => ({ items: authoritiesNamed(await listAuthorities(io, client, options), name) }),
        ({ items }) => items.map(details).join('\n'),
      ),
    )

  const list = (items: ShownAuthority[]): string =>
    table(
      ['ca', 'for', 'ends', 'list until', 'subject'],
      items.map((one) => [one.name, one.use, one.notAfter, one.crl?.nextUpdate ?? one.crl?.fault, one.subject]),
      io.colour,
    )

  const details = ({ crl, ...one }: ShownAuthority): string =>
    fields(
      [
        ['CA', one.name],
        ['for', one.use],
        ['subject', one.subject],
        ['serial', one.serial],
        ['SHA-256', one.fingerprint],
        ['valid', `${one.notBefore} to ${one.notAfter}`],
        ['file', one.file],
        ['list', crl && `${crl.file}, ${crl.fault ?? `of ${crl.thisUpdate}, until ${crl.nextUpdate}`}`],
      ],
      io.colour,
    ).concat(one.pem.trimEnd(), '\n')
}

const uses = { root: 'the issuing CA', issuing: 'devices, operators, brokers' }

async function listAuthorities(io: Io, client: AdminClient, { config }: Options): Promise<ShownAuthority[]> {
  const own = await client.listAuthorities()
  const file = config ?? (existsSync(defaultConfig) ? defaultConfig : undefined)
  const trusted = readTrusted(loadConfig({ file, env: settingsOf(io.env) }))
  return [...own.map((one) => ({ ...one, use: uses[one.name] })), ...trusted]
}
