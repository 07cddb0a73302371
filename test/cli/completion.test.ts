import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { after, test } from 'node:test'
import { fleetgate } from '../harness/stub-io.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
after(() => rmSync(folder, { recursive: true, force: true }))

test('in bash commands, options, choices and ids of devices are offered, of the place where one is', async () => {
  const { code, out } = await fleetgate(['completion', 'bash'])
  assert.equal(code, 0)
  const script = join(folder, 'completion')
  const lines: [line: string, offers: string[], not: string[]][] = [
    ['de', ['device', 'demo', 'denial'], ['cert']],
    ['device re', ['revoke', 'readmit'], ['create']],
    ['device revoke --rea', ['--reason'], ['--profile']],
    ['device revoke cam-1 --reason key', ['keyCompromise'], ['superseded']],
    ['device show ca', ['cam-1', 'cam-2'], ['show']],
    ['device show --data /d ca', ['of-data'], ['cam-1']],
    ['device ls -o ', ['table', 'json', 'yaml', 'name'], ['csv']],
    ['device allow r', ['rm'], ['revoke']],
    [`config check --config ${folder}/co`, [], []],
    [`up --config ${folder}/co`, [script], ['--data']],
  ]
  // What the script calls for ids of devices.
  writeFileSync(
    join(folder, 'fleetgate'),
    '#!/bin/sh\n[ "$*" = "device ls -o name" ] && printf "cam-1\\ncam-2\\n"\n[ "$*" = "device ls -o name --data /d" ] && echo ca-of-data\n',
  )
  chmodSync(join(folder, 'fleetgate'), 0o755)
  const ask = ([line]: (typeof lines)[number]): string => {
    const words = ['fleetgate', ...line.split(' ')].map((word) => `'${word}'`)
    return `COMP_WORDS=(${words.join(' ')}); COMP_CWORD=${words.length - 1}; _fleetgate; echo "\${COMPREPLY[*]}"`
  }
  writeFileSync(script, `${out}${lines.map(ask).join('\n')}\n`)
  const env = { ...process.env, PATH: `${folder}${delimiter}${process.env.PATH}` }
  const answers = execFileSync('bash', ['--norc', script], { env, encoding: 'utf8' }).split('\n')
  for (const [at, [line, offers, not]] of lines.entries()) {
    const offered = answers[at]!.split(' ')
    for (const one of offers) assert.ok(offered.includes(one.replace('of-data', 'ca-of-data')), `${line}: ${offered}`)
    for (const one of not) assert.ok(!offered.includes(one), `${line}: ${offered}`)
  }
})

test('zsh and fish have the same commands, and no other shell is known', async () => {
  const zsh = await fleetgate(['completion', 'zsh'])
  assert.match(zsh.out, /^#compdef fleetgate\n/)
  const fish = await fleetgate(['completion', 'fish'])
  assert.match(fish.out, /^complete -c fleetgate -n '__fleetgate_at device revoke' -l reason -x -a 'unspecified key/m)
  const other = await fleetgate(['completion', 'tcsh'])
  assert.deepEqual([other.code, /Allowed choices are bash, zsh, fish/.test(other.err)], [2, true])
})
