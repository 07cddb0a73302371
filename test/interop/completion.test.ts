/** The scripts of `fleetgate completion` in the shells that they are for. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { after, test } from 'node:test'
import { fleetgate } from '../harness/stub-io.ts'
import { needs } from './gateway.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-interop-'))
after(() => rmSync(folder, { recursive: true, force: true }))
const script = join(folder, 'completion')
// What the scripts call for ids of devices.
writeFileSync(join(folder, 'fleetgate'), '#!/bin/sh\n[ "$*" = "device ls -o name" ] && printf "cam-1\\ncam-2\\n"\n')
chmodSync(join(folder, 'fleetgate'), 0o755)
const env = { ...process.env, HOME: folder, PATH: `${folder}${delimiter}${process.env.PATH}` }
const run = (shell: string, ...args: string[]): string =>
  execFileSync(shell, args, { env, encoding: 'utf8', timeout: 30_000 })

test(
  'in fish commands, options, choices and ids of devices are offered, behind an option too',
  needs('fish'),
  async () => {
    writeFileSync(script, (await fleetgate(['completion', 'fish'])).out)
    const rows: [line: string, offers: string[]][] = [
      ['device re', ['readmit', 'revoke']],
      ['device revoke --rea', ['--reason']],
      ['device revoke cam-1 --reason key', ['keyCompromise']],
      ['device show ca', ['cam-1', 'cam-2']],
      ['device ls -o ', ['json', 'name', 'table', 'yaml']],
      ['device allow r', ['rm']],
    ]
    for (const [line, offers] of rows) {
      const out = run('fish', '--no-config', '-c', `source ${script}; complete -C 'fleetgate ${line}'`)
      assert.deepEqual(
        out
          .split('\n')
          .filter((one) => one !== '')
          .sort(),
        offers,
        line,
      )
    }
  },
)

test('in zsh what is begun is completed at a tab: command, option and choice', needs('zsh'), async () => {
  writeFileSync(script, (await fleetgate(['completion', 'zsh'])).out)
  const lines = [
    'zmodload zsh/zpty; zpty z zsh -f -i',
    `zpty -w z "PS1=''; autoload -U compinit; compinit -u -D; source ${script}; echo REA''DY"`,
    "zpty -r z out '*READY*'",
    "zpty -w -n z $'fleetgate device rev\\t --rea\\t key\\t'",
    "zpty -r z out '*revoke*--reason*keyCompromise*' && echo completed",
  ]
  assert.match(run('zsh', '-f', '-c', lines.join('\n')), /completed\n$/)
})
