import { fork } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Command } from 'commander'
import { configuration } from '../../contract/configuration.ts'
import { setUpSummary } from '../../contract/set-up.ts'
import { loadConfig } from '../../runtime/config.ts'
import { commandLine } from '../../runtime/endpoints.ts'
import { FleetError, systemFault } from '../../runtime/errors.ts'
import { answerOf, requireAnswer } from '../answering-process.ts'
import { type Io, settingsOf } from '../io.ts'
import { fields } from '../output.ts'
import { type Common, defaultConfig, examples, print, withCommon } from './shared.ts'

type Options = Common & { config?: string; name?: string[] }

export function addInit(program: Command, io: Io): void {
  examples(
    withCommon(program.command('init')),
    'init',
    'init --data /var/lib/fleetgate --config /etc/fleetgate/fleetgate.yaml --name gateway.example',
  )
    .description(
      'make the CA, the credentials of the services and an operator, without serving; what is there already is kept',
    )
    .option(
      '--name <name>',
      'DNS name or IP address that devices reach the gateway by, again for each; written to the configuration file, which there is not yet',
      (name: string, before: string[] | undefined) => [...(before ?? []), name],
    )
    .action((options: Options) => init(io, options))
}

async function init(io: Io, { config: given, data, output, name }: Options): Promise<void> {
  const file = given ?? (name !== undefined || existsSync(defaultConfig) ? defaultConfig : undefined)
  const toBeMade = file !== undefined && name !== undefined && !existsSync(file) ? file : undefined
  const configFile = toBeMade === undefined ? file : undefined
  const settings = settingsOf(io.env)
  const names = [...new Set([...(name ?? []), ...configuration.parse({}).names])]
  const env = toBeMade === undefined ? settings : { ...settings, FLEETGATE_NAMES: names.join(',') }
  requireNames(name ?? [], loadConfig({ file: configFile, env }).names)

  const dataDir = resolve(data)
  const summary = setUpSummary.parse(await setUp(['--data', dataDir, ...withFile(configFile)], env))
  if (toBeMade !== undefined) writeConfiguration(toBeMade, { data: dataDir, names })
  print(
    io,
    { data, output },
    { ...summary, configuration: toBeMade },
    ({ rootFingerprint, running, made, renewed }) => {
      const rows = (title: string, files: string[]) =>
        files.map((path, at): [string, string] => [at === 0 ? title : '', path])
      const isIdle = !running && made.length === 0 && renewed.length === 0
      return (
        fields(
          [
            ['root SHA-256', rootFingerprint],
            ['data folder', dataDir],
            ['configuration', toBeMade],
            ...rows('made', made),
            ...rows('renewed', renewed),
          ],
          io.colour,
        ) +
        (running ? '\nA gateway runs on it; nothing was changed.\n' : '') +
        (isIdle ? '\nAll of it was there; nothing was changed.\n' : '') +
        (running ? '' : `\nStart it: ${commandLine(['up', ...withFile(given)], data)}\n`)
      )
    },
  )
}

const withFile = (file: string | undefined): string[] => (file === undefined ? [] : ['--config', file])

function requireNames(wanted: string[], known: string[]): void {
  const missing = wanted.filter((name) => !known.includes(name))
  if (missing.length === 0) return
  throw new FleetError(
    'conflict',
    `names of the configuration is ${known.join(', ')} and has no ${missing.join(', ')}; add it there, and the certificates get it at the next start`,
  )
}

const here = fileURLToPath(import.meta.url)

/** In a process of its own, which alone knows the registry. */
async function setUp(words: string[], env: NodeJS.ProcessEnv): Promise<unknown> {
  const entry = here.replace(/cli\/commands\/init(\.[jt]s)$/, 'enroll/init-main$1')
  return requireAnswer(
    await answerOf(fork(entry, words, { stdio: ['ignore', 2, 2, 'ipc'], execArgv: [], env })),
    'set-up',
  )
}

function writeConfiguration(path: string, { data, names }: { data: string; names: string[] }): void {
  const text = `# Settings of this gateway; docs/configuration.md has all of them.
data: ${JSON.stringify(data)}
names: ${JSON.stringify(names)}
`
  try {
    writeFileSync(path, text, { flag: 'wx' })
  } catch (cause) {
    throw new FleetError('data_damaged', `${path} cannot be written: ${systemFault(cause)}`, { cause })
  }
}
