import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { type Command, InvalidArgumentError } from 'commander'
import {
  type ApiTokenView,
  apiTokenNameRule,
  apiTokenTtlMs,
  isApiTokenName,
  type NewApiToken,
  type Role,
} from '../../contract/operator-api.ts'
import { readEndpoints } from '../../runtime/endpoints.ts'
import { FleetError } from '../../runtime/errors.ts'
import { writeFileAtomic } from '../../runtime/files.ts'
import { accessUrl, howToUse, roleOption, writeAccess } from '../access-folder.ts'
import { openAdminClient } from '../admin-client.ts'
import type { Io } from '../io.ts'
import { fields, table } from '../output.ts'
import { ask, type Common, duration, durationText, examples, folderName, named, print, withCommon } from './shared.ts'

type Create = Common & { name: string; role: Role; ttl?: number; out?: string; url?: string }

export function addApiToken(program: Command, io: Io): void {
  const token = program.command('api-token').description('what lets programs use the admin API without a certificate')

  examples(
    withCommon(token.command('create')),
    'api-token create --name ci --role enroller --ttl 30d',
    'api-token create --name ci --role enroller --out ci      # then: fleetgate device ls --data ci',
  )
    .description('make one; it is shown here and never again, or put into a folder')
    .requiredOption('--name <name>', 'as the audit log will name it (required)', tokenName)
    .addOption(roleOption())
    .option(
      '--ttl <time>',
      `how long it may be used (default: ${durationText(apiTokenTtlMs.default)})`,
      duration(apiTokenTtlMs.min, apiTokenTtlMs.max),
    )
    .option('--out <dir>', 'folder for it, which is then what --data names on any machine', folderName)
    .option('--url <url>', 'with --out: where the admin API is reached (default: as this machine does)', accessUrl)
    .action(async (options: Create) => {
      const made = await create(options)
      const { token: secret, ...view } = made
      if (options.out === undefined)
        print(io, options, made, () => details(view) + fields([['token', secret]], io.colour))
      else print(io, options, view, () => details(view) + howToUse(options.out!))
    })

  examples(withCommon(token.command('ls'), named), 'api-token ls')
    .description('list them, with when each was used last')
    .action((options: Common) =>
      ask(
        io,
        options,
        async (client) => ({ items: await client.listApiTokens() }),
        ({ items }) => list(items),
      ),
    )

  examples(withCommon(token.command('rm')), 'api-token rm ci')
    .description('remove one; its next request is refused')
    .argument('<name>', 'API token', tokenName)
    .action((name: string, options: Common) => ask(io, options, (client) => client.removeApiToken(name), details))

  const list = (views: ApiTokenView[]): string =>
    table(
      ['name', 'role', 'expires', 'last used', 'from', 'created', 'by'],
      views.map((view) => [
        ...[view.name, view.role, view.expiresAt, view.lastUsedAt],
        ...[view.lastUsedFrom, view.createdAt, view.createdBy],
      ]),
      io.colour,
    )

  const details = (view: ApiTokenView): string =>
    fields(
      [
        ['name', view.name],
        ['role', view.role],
        ['expires', view.expiresAt],
        ['last used', view.lastUsedAt],
        ['created', view.createdAt],
        ['by', view.createdBy],
      ],
      io.colour,
    )
}

async function create({ data, name, role, ttl, out, url }: Create): Promise<NewApiToken> {
  const file = out === undefined ? undefined : join(out, 'api-token')
  if (file !== undefined && existsSync(file)) {
    throw new FleetError('conflict', `${file} is there already; name another folder`)
  }
  using client = openAdminClient(data)
  const made = await client.createApiToken({ name, role, ttlMs: ttl ?? apiTokenTtlMs.default })
  if (file !== undefined) {
    writeFileAtomic(file, `${made.token}\n`, 0o600)
    writeAccess(out!, readEndpoints(data), { url, apiTokenFile: 'api-token' })
  }
  return made
}

function tokenName(text: string): string {
  if (isApiTokenName(text)) return text
  throw new InvalidArgumentError(`The name of an API token is ${apiTokenNameRule}.`)
}
