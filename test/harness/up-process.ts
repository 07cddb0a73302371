import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { endsWithTest } from './ends-with-test.ts'

const main = fileURLToPath(new URL('../../cli/main.ts', import.meta.url))

/** `fleetgate up` as a process of its own. */
export class Up {
  readonly process: ChildProcess
  out = ''
  err = ''

  constructor(dataDir: string) {
    const env = { ...process.env, FLEETGATE_NAMES: 'localhost,127.0.0.1' }
    this.process = endsWithTest(spawn(process.execPath, [main, 'up', '--ports', 'auto', '--data', dataDir], { env }))
    this.process.stdout!.on('data', (chunk) => {
      this.out += chunk
    })
    this.process.stderr!.on('data', (chunk) => {
      this.err += chunk
    })
  }

  async says(text: string): Promise<void> {
    while (!this.out.includes(text)) await once(this.process.stdout!, 'data')
  }

  async ended(): Promise<unknown[]> {
    return this.process.exitCode === null ? once(this.process, 'close') : [this.process.exitCode, null]
  }
}
