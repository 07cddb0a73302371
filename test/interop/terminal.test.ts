import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { endpointsFile } from '../../runtime/endpoints.ts'
import { endsWithTest } from '../harness/ends-with-test.ts'
import { needs, root } from './gateway.ts'

test(
  'up at a terminal reads its configuration again at SIGHUP, and stops in order once the terminal is gone',
  needs('script'),
  async () => {
    const folder = mkdtempSync(join(tmpdir(), 'fleetgate-interop-'))
    using _ = { [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true }) }
    const data = join(folder, 'data')
    const up = `${process.execPath} ${join(root, 'cli/main.ts')} up --ports auto --data ${data}`
    const terminal = endsWithTest(
      spawn('script', ['-qfec', `echo pid $$; exec ${up}`, '/dev/null'], { stdio: ['pipe', 'pipe', 'inherit'] }),
    )
    let text = ''
    const says = async (words: string): Promise<void> => {
      while (!text.includes(words)) text += String((await once(terminal.stdout!, 'data'))[0])
    }
    await says('Ctrl-C stops the gateway.')
    const pid = Number(/pid (\d+)/.exec(text)![1])
    process.kill(pid, 'SIGHUP')
    await says('reading the configuration again')
    assert.ok(existsSync(endpointsFile(data)))
    terminal.kill('SIGKILL')
    while (isThere(pid)) await delay(20)
    assert.equal(existsSync(endpointsFile(data)), false)
  },
)

function isThere(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}
