import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { endsWithTest } from './ends-with-test.ts'

const main = fileURLToPath(new URL('../../cli/main.ts', import.meta.url))

/** `fleetgate up` as a process of its own. */
export class Up {
  readonly process: ChildProcess
  readonly #closed: Promise<unknown[]>
  #hasEnded = false
  out = ''
  err = ''

  constructor(dataDir: string, ...more: string[]) {
    const env = { ...process.env, FLEETGATE_NAMES: 'localhost,127.0.0.1' }
    this.process = endsWithTest(
      spawn(process.execPath, [main, 'up', '--ports', 'auto', '--data', dataDir, ...more], { env }),
    )
    this.#closed = once(this.process, 'close').finally(() => {
      this.#hasEnded = true
    })
    this.process.stdout!.on('data', (chunk) => {
      this.out += chunk
    })
    this.process.stderr!.on('data', (chunk) => {
      this.err += chunk
    })
  }

  async says(text: string): Promise<void> {
    while (!this.out.includes(text)) {
      if (this.#hasEnded) throw new Error(`up ended and never said "${text}": ${this.out}${this.err}`)
      await Promise.race([once(this.process.stdout!, 'data'), this.#closed])
    }
  }

  /** Of either service. */
  async logs(text: string): Promise<void> {
    while (!this.err.includes(text)) {
      if (this.#hasEnded) throw new Error(`up ended and never logged "${text}": ${this.out}${this.err}`)
      await Promise.race([once(this.process.stderr!, 'data'), this.#closed])
    }
  }

  ended(): Promise<unknown[]> {
    return this.#closed
  }
}
