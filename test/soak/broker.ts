/** The broker as `fleetgate up` runs it, in a process of its own, with a feed of ours and a probe inside. */
import { type ChildProcess, fork } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { createWriteStream, globSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface, type Interface } from 'node:readline'
import type { Failed, Ready } from '../../runtime/lifecycle.ts'
import type { TestPki } from '../harness/certificates.ts'
import type { FakeFeed } from '../harness/feed.ts'
import type { Figures } from './probe.ts'

type LogLine = { level: number; event?: string; owner?: string; suppressed?: number; msg?: string }

const errorLevel = 50
/** How fast this machine is today is not the question: a busy one may take long to let a device in. */
const patient = { handshakeTimeoutMs: 30_000, connectTimeoutMs: 30_000 }
const root = join(import.meta.dirname, '..', '..')

export class BrokerProcess extends EventEmitter<{ fault: [string] }> implements AsyncDisposable {
  readonly port: number
  readonly #child: ChildProcess
  readonly #folder: string
  readonly #ended: Promise<unknown>
  /** Log lines by event, those included that were told in summary. */
  readonly events = new Map<string, number>()
  /** Sessions that messages were dropped for. */
  readonly droppedFor = new Set<string>()
  #isStopping = false

  private constructor(child: ChildProcess, log: Interface, folder: string, port: number) {
    super()
    this.#child = child
    this.#folder = folder
    this.port = port
    this.#ended = once(child, 'exit').then(([code, signal]) => {
      if (!this.#isStopping) this.emit('fault', `the broker ended by itself with ${signal ?? `code ${code}`}`)
    })
    log.on('line', (line) => this.#read(line))
  }

  /** @param logFile keeps every line of its log */
  static async start(pki: TestPki, feed: FakeFeed, logFile: string | undefined): Promise<BrokerProcess> {
    const folder = mkdtempSync(join(tmpdir(), 'fleetgate-soak-'))
    const credential = await pki.service('broker')
    const services = join(folder, 'services', 'broker')
    mkdirSync(services, { recursive: true })
    writeFileSync(join(services, 'tls.key'), credential.key, { mode: 0o600 })
    writeFileSync(join(services, 'tls.crt'), credential.chain)
    writeFileSync(join(services, 'root.crt'), pki.root.pem)
    const config = join(folder, 'config.yaml')
    const broker = { listen: '127.0.0.1:0', feed: feed.address, ...patient }
    writeFileSync(config, JSON.stringify({ broker }))
    const child = fork(join(root, 'broker', 'main.ts'), ['--config', config, '--data', folder], {
      execArgv: ['--expose-gc', '--import', join(import.meta.dirname, 'probe.ts')],
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    })
    if (logFile !== undefined) child.stderr!.pipe(createWriteStream(logFile))
    const log = createInterface({ input: child.stderr! })
    const said: string[] = []
    const hear = (line: string): unknown => said.push(line)
    log.on('line', hear)
    const failed = once(log, 'close').then(() => [])
    const [ready] = (await Promise.race([once(child, 'message'), failed])) as [(Ready | Failed)?]
    log.off('line', hear)
    if (ready?.kind === 'ready')
      return new BrokerProcess(child, log, folder, Number(new URL(ready.endpoints.mqtts!).port))
    rmSync(folder, { recursive: true, force: true })
    throw new Error(`the broker does not start: ${ready?.message ?? said.join('\n')}`)
  }

  get hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null
  }

  /** @param collect garbage before it answers, which stops the broker for a moment */
  async figures(collect: boolean): Promise<Figures> {
    const answer = once(this.#child, 'message')
    this.#child.send({ kind: 'figures?', collect })
    const [figures] = (await Promise.race([answer, this.#ended.then(() => [])])) as [Figures?]
    if (figures === undefined) throw new Error('the broker has ended')
    return figures
  }

  /** What its folder takes on disk. */
  storeBytes(): number {
    const sizes = globSync('broker/*', { cwd: this.#folder }).map(
      (file) => statSync(join(this.#folder, file), { throwIfNoEntry: false })?.size ?? 0,
    )
    return sizes.reduce((sum, size) => sum + size, 0)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isStopping = true
    if (!this.hasEnded) this.#child.kill('SIGTERM')
    await this.#ended
    rmSync(this.#folder, { recursive: true, force: true })
  }

  #read(written: string): void {
    const line = parseLine(written)
    if (line === undefined || line.level >= errorLevel) {
      this.emit('fault', written.slice(0, 1_000))
      return
    }
    const { event = 'none', suppressed = 0, owner } = line
    this.events.set(event, (this.events.get(event) ?? 0) + 1 + suppressed)
    if (event === 'message.dropped' && owner !== undefined) this.droppedFor.add(owner)
  }
}

/** What is no log line is Node's own: an unhandled rejection, a warning of too many listeners. */
function parseLine(text: string): LogLine | undefined {
  try {
    return JSON.parse(text) as LogLine
  } catch {
    return undefined
  }
}
