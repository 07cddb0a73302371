import { fork } from 'node:child_process'
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Command } from 'commander'
import { type SealedKeys, sealedKeys } from '../../contract/set-up.ts'
import { loadConfig } from '../../runtime/config.ts'
import { answerOf, requireAnswer } from '../answering-process.ts'
import { type Io, settingsOf } from '../io.ts'
import { fields } from '../output.ts'
import { type Common, defaultConfig, examples, folderName, print, withCommon } from './shared.ts'

type Options = Common & { config?: string; oldFile?: string; newFile?: string; remove?: boolean }

export function addKeys(program: Command, io: Io): void {
  const keys = program.command('keys').description('private keys in the data folder')

  examples(
    withCommon(keys.command('passphrase')),
    'keys passphrase --new-file /etc/fleetgate/keys.pass',
    'keys passphrase --config fleetgate.yaml --remove',
  )
    .description('encrypt the keys of a gateway that is stopped, with another passphrase, or with none any more')
    .option('--old-file <file>', 'what they are encrypted with now (default: keys.passphraseFile)', folderName)
    .option('--new-file <file>', 'the new passphrase, in a file that its owner alone can read', folderName)
    .option('--remove', 'leave them in the clear')
    .action(async (options: Options, command: Command) => {
      const { newFile, remove = false } = options
      if ((newFile === undefined) !== remove) command.error('error: give either --new-file or --remove')
      print(io, options, await seal(io, options), (view) => render(view, newFile))
    })

  const render = ({ sealed, kept }: SealedKeys, newFile: string | undefined): string => {
    const rows = (title: string, files: string[]) =>
      files.map((path, at): [string, string] => [at === 0 ? title : '', path])
    const next =
      newFile === undefined
        ? 'Take keys.passphraseFile out of the configuration, then start the gateway.\n'
        : `In the configuration, then start the gateway: keys: { passphraseFile: ${JSON.stringify(resolve(newFile))} }\n`
    return `${fields([...rows(newFile === undefined ? 'in the clear' : 'encrypted', sealed), ...rows('so already', kept)], io.colour)}\n${next}`
  }
}

const here = fileURLToPath(import.meta.url)

/** In a process of its own, which alone knows the registry: while a gateway has that open nothing is changed. */
async function seal(io: Io, { data, config: given, oldFile, newFile }: Options): Promise<SealedKeys> {
  const file = given ?? (existsSync(defaultConfig) ? defaultConfig : undefined)
  const env = settingsOf(io.env)
  const from = oldFile ?? loadConfig({ file, env }).keys.passphraseFile
  const words = ['--data', resolve(data)]
  if (from !== undefined) words.push('--from', resolve(from))
  if (newFile !== undefined) words.push('--to', resolve(newFile))
  const entry = here.replace(/cli\/commands\/keys(\.[jt]s)$/, 'enroll/keys-main$1')
  const child = fork(entry, words, { stdio: ['ignore', 2, 2, 'ipc'], execArgv: [], env })
  return sealedKeys.parse(requireAnswer(await answerOf(child), 'change of the passphrase'))
}
