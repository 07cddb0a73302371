import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { endsWithTest } from './ends-with-test.ts'

const main = fileURLToPath(new URL('../../cli/main.ts', import.meta.url))

/** `fleetgate demo --once` as a process of its own, with a folder for temporary files that nobody else uses. */
export class DemoProcess implements Disposable {
  readonly temporary = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
  readonly process: ChildProcess
  err = ''

  constructor() {
    const env = { ...process.env, TMPDIR: this.temporary }
    this.process = endsWithTest(spawn(process.execPath, [main, 'demo', '--once', '--devices', '4'], { env }))
    this.process.stderr!.on('data', (chunk) => {
      this.err += chunk
    })
  }

  async ended(): Promise<unknown> {
    const [code] = await once(this.process, 'close')
    return code
  }

  /** Resolves when a step was told, or when there will be none. */
  async told(): Promise<void> {
    await Promise.race([once(this.process.stdout!, 'data'), once(this.process, 'close')])
  }

  [Symbol.dispose](): void {
    rmSync(this.temporary, { recursive: true, force: true })
  }
}

/** What it says on stderr then, and nothing else. */
export const interruptedBy = (signal: string): RegExp =>
  new RegExp(`^error: interrupted by ${signal} (while|before): [^;]+; \\d+ of 11 steps were observed\n$`)
