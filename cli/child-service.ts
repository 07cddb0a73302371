import { type ChildProcess, fork } from 'node:child_process'
import { setTimeout as delay } from 'node:timers/promises'
import { type ProblemCode, problems } from '../contract/problems.ts'
import { FleetError } from '../runtime/errors.ts'
import type { Failed, Ready } from '../runtime/lifecycle.ts'

export type BackOff = { firstMs: number; maxMs: number; steadyMs: number }
export type ServiceEvent =
  | { kind: 'ready'; name: string; endpoints: Record<string, string>; ms: number; again: boolean }
  | { kind: 'ended'; name: string; how: string; restartInMs: number }

type Options = {
  name: string
  /** File that Node runs. */
  entry: string
  args: string[]
  /** Asked at every start, so that a restarted child can be told the ports that the first one was given. */
  environment: () => NodeJS.ProcessEnv
  /** File descriptor for what the child writes. */
  output: number
  backOff: BackOff
  notify: (event: ServiceEvent) => void
}

const startTimeoutMs = 60_000

/** One child process: its first start is waited for, later ones happen by themselves whenever it ends unasked. */
export class ChildService {
  readonly #options: Options
  readonly #stopping = new AbortController()
  #child: ChildProcess | undefined
  #restarts: Promise<void> = Promise.resolve()
  #nextDelayMs: number
  #readyAt = 0
  #ranUntilStop = false

  constructor(options: Options) {
    this.#options = options
    this.#nextDelayMs = options.backOff.firstMs
  }

  get pid(): number | undefined {
    return this.#child?.pid
  }

  /** @throws FleetError what the child said, or `internal` when it ended without a word */
  async start(): Promise<Record<string, string>> {
    const endpoints = await this.#launch(false)
    this.#restarts = this.#keepRunning()
    return endpoints
  }

  /** From now on the child's end is wanted, whoever brings it about. */
  expectEnd(): void {
    if (this.#stopping.signal.aborted) return
    this.#stopping.abort()
    this.#ranUntilStop = this.#child !== undefined && !hasEnded(this.#child)
  }

  /** Asks the child to drain. @returns whether it ended with exit code 0, if it was running at all */
  async stop(): Promise<boolean> {
    this.expectEnd()
    const child = this.#child
    if (child !== undefined && !hasEnded(child)) {
      child.kill('SIGTERM')
      await ended(child)
    }
    await this.#restarts
    return !this.#ranUntilStop || child?.exitCode === 0
  }

  /** Has it read its configuration once more; one that is just being started does so anyway. */
  reload(): void {
    if (this.#readyAt !== 0) this.#child?.kill('SIGHUP')
  }

  kill(): void {
    this.#child?.kill('SIGKILL')
  }

  async #keepRunning(): Promise<void> {
    while (!this.#stopping.signal.aborted) {
      const child = this.#child!
      await ended(child)
      if (this.#stopping.signal.aborted) return
      const { firstMs, maxMs, steadyMs } = this.#options.backOff
      if (this.#readyAt !== 0 && Date.now() - this.#readyAt >= steadyMs) this.#nextDelayMs = firstMs
      this.#readyAt = 0
      const restartInMs = this.#nextDelayMs
      this.#nextDelayMs = Math.min(restartInMs * 2, maxMs)
      const how = child.signalCode === null ? `exit code ${child.exitCode}` : child.signalCode
      this.#options.notify({ kind: 'ended', name: this.#options.name, how, restartInMs })
      await delay(restartInMs, undefined, { signal: this.#stopping.signal }).catch(() => undefined)
      if (this.#stopping.signal.aborted) return
      // A start that fails has ended its child, which the next turn sees and waits longer for.
      await this.#launch(true).catch(() => undefined)
    }
  }

  async #launch(again: boolean): Promise<Record<string, string>> {
    const { name, entry, args, environment, output, notify } = this.#options
    const startedAt = Date.now()
    const child = fork(entry, args, { env: environment(), execArgv: [], stdio: ['ignore', output, output, 'ipc'] })
    this.#child = child
    try {
      const endpoints = await readiness(child, name)
      this.#readyAt = Date.now()
      notify({ kind: 'ready', name, endpoints, ms: this.#readyAt - startedAt, again })
      return endpoints
    } catch (error) {
      child.kill('SIGKILL')
      await ended(child)
      throw error
    }
  }
}

function readiness(child: ChildProcess, name: string): Promise<Record<string, string>> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      reject(new FleetError('unavailable', `${name} was not ready within ${startTimeoutMs / 1000} s; look at its log`))
    }, startTimeoutMs)
    let failure: Failed | undefined
    const settle = (act: () => void): void => {
      clearTimeout(timer)
      act()
    }
    child.on('message', (message: Ready | Failed) => {
      if (message.kind === 'ready') settle(() => resolve(message.endpoints))
      else failure = message
    })
    child.once('error', (cause) => {
      settle(() => reject(new FleetError('internal', `${name} cannot be started: ${cause.message}`, { cause })))
    })
    // 'close' comes after the last message, 'exit' may come before it.
    child.once('close', (code, signal) => settle(() => reject(failureOf(failure, name, signal ?? `exit code ${code}`))))
  })
}

function failureOf(failure: Failed | undefined, name: string, how: string): FleetError {
  if (failure === undefined) {
    return new FleetError('internal', `${name} ended before it was ready (${how}); look at its log`)
  }
  return new FleetError(
    Object.hasOwn(problems, failure.code) ? (failure.code as ProblemCode) : 'internal',
    failure.message,
  )
}

const hasEnded = (child: ChildProcess): boolean =>
  child.pid === undefined || child.exitCode !== null || child.signalCode !== null

function ended(child: ChildProcess): Promise<void> {
  return hasEnded(child) ? Promise.resolve() : new Promise((resolve) => child.once('exit', () => resolve()))
}
