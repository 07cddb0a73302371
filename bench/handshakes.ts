/** Compiles bench/handshakes.c, and has devices connect to a broker and go. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { encode } from '../broker/wire/codec.ts'
import { type Device, has, Program, type Target } from './harness.ts'
import { connectOf } from './load.ts'
import { compile } from './load-in-c.ts'

/** @property cpuMs of the devices @property isBusy the broker was, and not the devices */
export type Storm = {
  connected: number
  resumed: number
  failed: number
  ms: number
  cpuMs: number
  brokerCpuMs: number
  isBusy: boolean
}

export class Handshakes implements AsyncDisposable {
  readonly #folder = mkdtempSync(join(tmpdir(), 'fleetgate-handshakes-'))
  readonly #target: Target
  readonly #program: Program
  readonly #lines: AsyncIterator<string>

  private constructor(target: Target, isBackground: boolean) {
    this.#target = target
    const program = compile(this.#folder, 'handshakes')
    if (program === undefined)
      throw new Error('a C compiler with libssl is needed: JavaScript is slower than the brokers')
    // Of SCHED_IDLE (sched(7)): whoever else wants the core has it at once, and not in the next slice.
    const behind = has('chrt', '-V') ? ['chrt', '--idle', '0'] : ['nice', '-n', '19']
    const command = [...(isBackground ? behind : []), program, String(target.port)]
    this.#program = new Program('1', command, { stdio: ['pipe', 'pipe', 'inherit'] })
    this.#lines = createInterface({ input: this.#program.child.stdout! })[Symbol.asyncIterator]()
  }

  /** @param isBackground below others on its core, whose latency is what is measured */
  static async of(
    target: Target,
    devices: readonly Device[],
    { isBackground = false }: { isBackground?: boolean } = {},
  ): Promise<Handshakes> {
    const handshakes = new Handshakes(target, isBackground)
    for (const { id, chain, key } of devices) {
      const files = { crt: chain, key }
      const paths = Object.entries(files).map(([ending, text]) => {
        const path = join(handshakes.#folder, `${id}.${ending}`)
        writeFileSync(path, text, { mode: 0o600 })
        return path
      })
      await handshakes.#ask(`d ${paths.join(' ')} ${encode(connectOf(id, 4), 4).toString('hex')}`)
    }
    return handshakes
  }

  /**
   * Connects until there were `count`, or for `ms`.
   *
   * @param farMs after which a device answers what it hears
   */
  async run({
    isResumed,
    atOnce,
    count,
    ms,
    farMs = 0,
  }: {
    isResumed: boolean
    atOnce: number
    count: number
    ms: number
    farMs?: number
  }): Promise<Storm> {
    const before = this.#target.program.cpuMs
    const answer = await this.#ask(`r ${Number(isResumed)} ${atOnce} ${count} ${ms} ${farMs}`)
    const brokerCpuMs = this.#target.program.cpuMs - before
    const [connected, resumed, failed, took, cpuMs] = answer.split(' ').map(Number) as [
      number,
      number,
      number,
      number,
      number,
    ]
    const isBusy = brokerCpuMs > cpuMs || brokerCpuMs > 0.9 * took
    return { connected, resumed, failed, ms: took, cpuMs, brokerCpuMs, isBusy }
  }

  async #ask(line: string): Promise<string> {
    this.#program.child.stdin!.write(`${line}\n`)
    const { value, done } = await this.#lines.next()
    if (done) throw new Error(`the devices ended at ${line.slice(0, 40)}`)
    return value
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#program.stop()
    rmSync(this.#folder, { recursive: true, force: true })
  }
}
