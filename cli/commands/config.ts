import { existsSync } from 'node:fs'
import type { Command } from 'commander'
import { configurationSchema } from '../../contract/configuration-schema.ts'
import { type ReloadReceipt, reloadReceipt } from '../../contract/reload-api.ts'
import { readConfig } from '../../runtime/config.ts'
import { FleetError } from '../../runtime/errors.ts'
import { openConnection } from '../admin-batches.ts'
import { type Io, settingsOf } from '../io.ts'
import { fields, json, table, yaml } from '../output.ts'
import { type Common, defaultConfig, examples, type Format, outputOption, print, withCommon } from './shared.ts'

type Setting = { path: string[]; value: unknown; from: string }
type Options = { output: Format; effective?: boolean; config?: string }

/** They read the file and the environment as `up` would, and need no gateway. */
export function addConfig(program: Command, io: Io): void {
  const config = program
    .command('config')
    .description('the configuration file: check it, see what is in force, its schema')

  examples(config.command('check').addOption(outputOption()), 'config check', 'config check fleetgate.yaml -o json')
    .description('say whether a gateway would start with it; a fault is told with its line and column, exit code 2')
    .argument('[file]', 'configuration file (default: fleetgate.yaml where there is one)')
    .action((named: string | undefined, options: Options) => {
      const { file, settings } = settingsFrom(named, io.env)
      const own = settings.filter(({ from }) => from !== 'default')
      const answer = { ok: true, file, settings: own.length, ofEnvironment: own.filter(isOfEnvironment).length }
      print(io, { ...options, data: '' }, answer, () => {
        const said = `${own.length} settings are not the default, ${answer.ofEnvironment} of them from the environment`
        return `${file ?? 'no file, and the environment'}: in order; ${said}\n`
      })
    })

  examples(
    config.command('show').addOption(outputOption()),
    'config show',
    'config show --effective',
    'config show --effective -o yaml > all.yaml',
  )
    .description('show what is set and where it comes from: file with line and column, or environment')
    .option('--effective', 'all settings, the defaults too')
    .option('--config <file>', 'configuration file (default: fleetgate.yaml where there is one)')
    .action((options: Options) => {
      const { value, settings } = settingsFrom(options.config, io.env)
      const shown = options.effective ? settings : settings.filter(({ from }) => from !== 'default')
      if (options.output === 'yaml') return io.out(yaml(options.effective ? value : treeOf(shown)))
      const answer = { items: shown.map(({ path, ...rest }) => ({ key: path.join('.'), ...rest })) }
      return print(io, { ...options, data: '' }, answer, ({ items }) =>
        table(
          ['setting', 'value', 'from'],
          items.map(({ key, value: set, from }) => [key, textOf(set), from]),
          io.colour,
        ),
      )
    })

  examples(withCommon(config.command('reload')), 'config reload')
    .description('have the running gateway read its file now; one that is not in order leaves that in force which is')
    .action(async (options: Options & Common) => {
      using connection = openConnection(options.data)
      const call = { method: 'POST', path: '/v1/configuration/reload', body: {} } as const
      const receipt = await connection.call(reloadReceipt, call)
      print(io, options, receipt, (shown) => reloadedBy(shown, io.colour))
      const failed = receipt.brokers.find(({ refused }) => refused !== undefined)
      if (failed === undefined) return
      const sentence = `${failed.broker} goes on with what it had: ${failed.refused}`
      throw new FleetError('config_invalid', sentence, { context: { refused: true } })
    })

  examples(config.command('schema'), 'config schema > fleetgate.schema.json')
    .description('print the JSON Schema of the file, for editors')
    .action(() => io.out(json(configurationSchema())))
}

function reloadedBy({ brokers, unheard, file, ...enroll }: ReloadReceipt, colour: boolean): string {
  const all = [enroll, ...brokers]
  const changed = [...new Set(all.flatMap((one) => one.changed))]
  const waiting = [...new Set(all.flatMap(({ waitsForRestart }) => waitsForRestart))]
  return fields(
    [
      ['was read', file ?? 'no file: the gateway was started without one, and looks for it at its next start'],
      ['in force now', changed.join(', ') || 'nothing is another'],
      ['needs a restart', waiting.join(', ')],
      ...unheard.map(({ broker, why }): [string, string] => ['not asked', `${broker} (${why})`]),
    ],
    colour,
  )
}

const isOfEnvironment = ({ from }: Setting): boolean => from.startsWith('FLEETGATE_')

/** There is no secret among them: keys, passphrases and tokens are in files, and these have the paths. */
function settingsFrom(named: string | undefined, env: NodeJS.ProcessEnv) {
  const file = named ?? (existsSync(defaultConfig) ? defaultConfig : undefined)
  const { value, sourceOf } = readConfig({ file, env: settingsOf(env) })
  const settings = leavesOf(value, []).map((leaf): Setting => ({ ...leaf, from: sourceOf(leaf.path) }))
  return { file, value, settings }
}

/** A list is one value. */
function leavesOf(value: unknown, path: string[]): { path: string[]; value: unknown }[] {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return [{ path, value }]
  const entries = Object.entries(value).filter(([, child]) => child !== undefined)
  return entries.length === 0 ? [{ path, value }] : entries.flatMap(([key, child]) => leavesOf(child, [...path, key]))
}

function treeOf(settings: Setting[]): object {
  const tree: Record<string, unknown> = {}
  for (const { path, value } of settings) {
    const last = path.at(-1)!
    let at = tree
    // A label may have a dot in its name, so no text is split here.
    for (const part of path.slice(0, -1)) {
      at[part] ??= {}
      at = at[part] as Record<string, unknown>
    }
    at[last] = value
  }
  return tree
}

const textOf = (value: unknown): string => (typeof value === 'object' ? JSON.stringify(value) : String(value))
