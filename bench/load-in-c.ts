/** Compiles bench/load.c where a compiler and libssl are there, and speaks to it. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { encode } from '../broker/wire/codec.ts'
import type { Packet } from '../broker/wire/packet.ts'
import {
  connectOf,
  everybody,
  type Identity,
  type Opening,
  type Outcome,
  publishOf,
  type Run,
  subscriptionOf,
} from './load.ts'

/** @returns the program; undefined where it cannot be compiled */
export function compile(folder: string, name: 'load' | 'handshakes' = 'load'): string | undefined {
  const program = join(folder, name)
  const source = join(import.meta.dirname, `${name}.c`)
  const { status } = spawnSync('cc', ['-O2', '-o', program, source, '-lssl', '-lcrypto'])
  return status === 0 ? program : undefined
}

export class FleetInC {
  readonly #opening: Opening
  readonly #folder = mkdtempSync(join(tmpdir(), 'fleetgate-load-'))
  readonly #child: ChildProcess
  readonly #lines: AsyncIterator<string>

  constructor(opening: Opening, program: string) {
    this.#opening = opening
    const ca = this.#write('ca', opening.ca)
    this.#child = spawn(program, [String(opening.port), ca], { stdio: ['pipe', 'pipe', 'inherit'] })
    this.#lines = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]()
  }

  async open(): Promise<void> {
    const { publishers, subscribers, version, isKept } = this.#opening
    const attach = (kind: 'p' | 's', { id, chain, key }: Identity): Promise<string> => {
      const files = [this.#write(`${id}.crt`, chain), this.#write(`${id}.key`, key)]
      return this.#ask(`${kind} ${files.join(' ')} ${this.#hex(connectOf(id, version, kind === 's' && isKept))}`)
    }
    for (const identity of publishers) await attach('p', identity)
    for (const identity of subscribers) await attach('s', identity)
  }

  async run({ qos, granted, payloadBytes, underWay, messages, ms }: Run): Promise<Outcome> {
    const { publishers, version } = this.#opening
    const payload = Buffer.alloc(payloadBytes, 'x')
    for (const [at, { id }] of publishers.entries()) {
      await this.#ask(`f ${at} ${this.#hex(publishOf(id, qos, payload))}`)
    }
    const outgoing = Math.min(qos, granted) as 0 | 1
    const idAt = (of: 0 | 1): number => {
      const bytes = encode(publishOf(publishers[0]!.id, of, payload), version).length
      return of === 0 ? 0 : bytes - payloadBytes - (version === 5 ? 1 : 0) - 2
    }
    const bytes = encode(publishOf(publishers[0]!.id, outgoing, payload), version).length
    await this.#ask(`t ${this.#hex(subscriptionOf(granted))}`)
    const answer = await this.#ask(`r ${qos} ${idAt(qos)} ${bytes} ${idAt(outgoing)} ${underWay} ${messages} ${ms}`)
    await this.#ask(`t ${this.#hex({ type: 'unsubscribe', packetId: 2, filters: [everybody] })}`)
    const [received, sent, tookMs, cpuMs] = answer.split(' ').map(Number) as [number, number, number, number]
    const wanted = sent * this.#opening.subscribers.length
    return { received, lost: wanted - received, ms: tookMs, cpuMs, latencies: [] }
  }

  close(): void {
    this.#child.kill()
    rmSync(this.#folder, { recursive: true, force: true })
  }

  #hex(packet: Packet): string {
    return encode(packet, this.#opening.version).toString('hex')
  }

  #write(name: string, text: string): string {
    const path = join(this.#folder, name)
    writeFileSync(path, text, { mode: 0o600 })
    return path
  }

  async #ask(line: string): Promise<string> {
    this.#child.stdin!.write(`${line}\n`)
    const { value, done } = await this.#lines.next()
    if (done) throw new Error(`the load generator ended at ${line.slice(0, 40)}`)
    return value
  }
}
