import { type ChildProcess, fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { FleetError } from '../../runtime/errors.ts'
import type { Order, Plan, Told } from './worker.ts'

/** A process with devices, which does one thing after the other. */
export class Crew implements Disposable {
  readonly size: number
  readonly #plan: Plan
  readonly #process: ChildProcess
  #settle: { resolve: () => void; reject: (error: Error) => void } | undefined
  rssBytes = 0
  cpuMs = 0

  constructor(plan: Plan, hear: (told: Told) => void) {
    this.size = plan.participants.length
    this.#plan = plan
    this.#process = fork(fileURLToPath(new URL('worker.ts', import.meta.url)), {
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    })
    this.#process.on('message', (told: Told) => {
      hear(told)
      if (told.kind === 'broken') this.#fail(`failed: ${told.message}`)
      if (told.kind !== 'done') return
      this.rssBytes = told.rssBytes
      this.cpuMs = told.cpuMs
      this.#settle?.resolve()
    })
    this.#process.on('exit', (code, signal) => this.#fail(`ended (${signal ?? code})`))
    this.#process.on('error', ({ message }) => this.#fail(message))
  }

  prepare(): Promise<void> {
    return this.order({ kind: 'prepare', plan: this.#plan })
  }

  /** @throws FleetError `internal` where the process fails or ends */
  order(order: Exclude<Order, { kind: 'stop' }>): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#settle = { resolve, reject }
      this.#process.send(order)
    })
  }

  /** What it is at ends soon, and what it is asked for after that at once. */
  stop(): void {
    if (this.#process.connected) this.#process.send({ kind: 'stop' } satisfies Order)
  }

  [Symbol.dispose](): void {
    if (this.#process.connected) this.#process.disconnect()
  }

  #fail(how: string): void {
    this.#settle?.reject(new FleetError('internal', `a process with devices ${how}`))
  }
}
