import { type ChildProcess, spawn } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { Duplex } from 'node:stream'
import { fileURLToPath } from 'node:url'
import type { ProblemCode } from '../../contract/problems.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { Log } from '../../runtime/log.ts'
import type { Door, ListenerOptions } from '../listener.ts'
import type { HandshakeRefusal } from '../peer.ts'
import { decodeCount, decodeJson, type Frame, type FrameKind, FrameReader, FrameWriter } from './frames.ts'
import { type ListenOrder, type Opened, pipeDescriptor, type TlsContextOrder } from './orders.ts'
import { WorkerStream } from './worker-stream.ts'

const entry = fileURLToPath(new URL('main.ts', import.meta.url))
const firstRestartMs = 200
const maxRestartMs = 10_000
/** So many pings in a row without an answer, and a worker is taken for dead. */
const maxUnanswered = 3

/** A listener of the broker that all workers serve. */
export type SharedDoor = {
  options: ListenerOptions
  context: TlsContextOrder
  streams: Set<WorkerStream>
  /** Once it takes nobody any more. */
  emptied: PromiseWithResolvers<void> | undefined
}
type Address = Door['address']
type Place = { stream: WorkerStream; door: SharedDoor }

/** One process that does TLS, and those that follow it when it ends unasked. */
export class Worker {
  readonly #name: string
  readonly #doors: readonly SharedDoor[]
  readonly #log: Log
  readonly #places = new Map<number, Place>()
  readonly #starting = new Map<number, PromiseWithResolvers<Address>>()
  #child!: ChildProcess
  #pipe!: Duplex
  #frames!: FrameWriter
  #unanswered = 0
  #restartMs = firstRestartMs
  #restart: NodeJS.Timeout | undefined
  #isStopping = false

  constructor(at: number, doors: readonly SharedDoor[], log: Log) {
    this.#name = `worker-${at + 1}`
    this.#doors = doors
    this.#log = log
    this.#start()
  }

  /** @throws FleetError `port_in_use`, `internal` when the process has ended */
  listen(id: number): Promise<Address> {
    const { options, context } = this.#doors[id]!
    const { listen, names, proxies, handshakeTimeoutMs, maxConnections } = options
    const order: ListenOrder = { listen, names, proxies, handshakeTimeoutMs, maxConnections, context }
    const answer = Promise.withResolvers<Address>()
    this.#starting.set(id, answer)
    this.tell('listen', id, order)
    return answer.promise
  }

  tell(kind: FrameKind, id: number, value: unknown): void {
    this.#frames.tell(kind, id, value)
  }

  ping(): void {
    if (this.#unanswered++ < maxUnanswered) this.#frames.send('ping', 0)
    else this.#child.kill('SIGKILL')
  }

  /** Ends it with whatever connections it still has. */
  async stop(): Promise<void> {
    this.#isStopping = true
    clearTimeout(this.#restart)
    this.#pipe.end()
    if (this.#child.pid !== undefined && this.#child.exitCode === null && this.#child.signalCode === null)
      await once(this.#child, 'exit')
  }

  #start(): void {
    const stdio = ['ignore', 'inherit', 'inherit'] as ('ignore' | 'inherit' | 'pipe')[]
    stdio[pipeDescriptor] = 'pipe'
    const child = spawn(process.execPath, [entry], { stdio })
    // Where this process has no descriptor left there are no pipes, whatever the types say; its end is told all the same.
    const pipe = ((child.stdio as typeof child.stdio | undefined)?.[pipeDescriptor] ?? nowhere()) as Duplex
    const reader = new FrameReader()
    this.#child = child
    this.#pipe = pipe
    this.#frames = new FrameWriter(pipe)
    this.#unanswered = 0
    this.#log.info({ event: 'worker.started', worker: this.#name, workerPid: child.pid }, 'worker started')
    pipe.on('data', (chunk: Buffer) => {
      try {
        for (const frame of reader.read(chunk)) this.#hear(frame)
      } catch (err) {
        this.#log.error({ event: 'worker.failed', worker: this.#name, err }, 'a worker is not understood')
        child.kill('SIGKILL')
      }
    })
    pipe.on('error', () => child.kill('SIGKILL'))
    child.on('error', (err) => this.#log.error({ event: 'worker.failed', worker: this.#name, err }, 'no worker'))
    child.once('close', () => this.#ended(child))
  }

  #ended({ exitCode, signalCode }: ChildProcess): void {
    const why = new FleetError('internal', `${this.#name} has ended (${signalCode ?? `exit code ${exitCode}`})`)
    for (const answer of this.#starting.values()) answer.reject(why)
    this.#starting.clear()
    const places = [...this.#places.values()]
    for (const id of [...this.#places.keys()]) this.#close(id)
    if (this.#isStopping) return
    const fields = { worker: this.#name, connections: places.length, restartInMs: this.#restartMs }
    this.#log.error({ event: 'worker.ended', ...fields, err: why }, 'a worker has ended; its connections with it')
    this.#restart = setTimeout(() => void this.#startAgain(), this.#restartMs)
    this.#restartMs = Math.min(2 * this.#restartMs, maxRestartMs)
  }

  async #startAgain(): Promise<void> {
    this.#start()
    try {
      const open = [...this.#doors.entries()].filter(([, { emptied }]) => emptied === undefined)
      await Promise.all(open.map(([id]) => this.listen(id)))
      this.#log.info({ event: 'worker.listening', worker: this.#name }, 'a worker listens again')
    } catch {
      // Its end is what is logged, and comes back here after a longer wait.
      this.#child.kill('SIGKILL')
    }
  }

  #hear({ kind, id, body }: Frame): void {
    switch (kind) {
      case 'data':
        this.#places.get(id)?.stream.received(body)
        break
      case 'ended':
        this.#places.get(id)?.stream.ended()
        break
      case 'taken':
        this.#places.get(id)?.stream.taken(decodeCount(body))
        break
      case 'closed':
        this.#close(id)
        break
      case 'opened':
        this.#open(id, decodeJson<Opened>(body))
        break
      case 'refused': {
        const said = decodeJson<{ reason: HandshakeRefusal; message: string; remoteAddress: string }>(body)
        this.#doors[id]!.options.onRefused(said.reason, said.message, said.remoteAddress)
        break
      }
      case 'listening':
        this.#restartMs = firstRestartMs
        this.#answer(id)?.resolve(decodeJson<Address>(body))
        break
      case 'failed': {
        const { code, message } = decodeJson<{ code: ProblemCode; message: string }>(body)
        this.#answer(id)?.reject(new FleetError(code, message))
        break
      }
      case 'pong':
        this.#unanswered = 0
        break
      default:
        throw new RangeError(`a worker says ${kind}`)
    }
  }

  #answer(id: number): PromiseWithResolvers<Address> | undefined {
    const answer = this.#starting.get(id)
    this.#starting.delete(id)
    return answer
  }

  #open(id: number, { listener, certificate, tls, ...facts }: Opened): void {
    const door = this.#doors[listener]!
    const { maxConnections, onPeer, onRefused } = door.options
    const stream = new WorkerStream(id, tls, this.#frames)
    this.#places.set(id, { stream, door })
    door.streams.add(stream)
    stream.on('error', () => stream.destroy())
    if (door.emptied !== undefined) {
      stream.destroy()
    } else if (door.streams.size > maxConnections) {
      stream.destroy()
      onRefused('too_many_connections', `${maxConnections} connections are open`, facts.remoteAddress)
    } else {
      const leaf = certificate === undefined ? undefined : new X509Certificate(Buffer.from(certificate, 'base64'))
      onPeer(stream, { ...facts, certificate: leaf })
    }
  }

  #close(id: number): void {
    const place = this.#places.get(id)
    if (place === undefined) return
    const { stream, door } = place
    this.#places.delete(id)
    door.streams.delete(stream)
    stream.gone()
    if (door.streams.size === 0) door.emptied?.resolve()
  }
}

const nowhere = (): Duplex => new Duplex({ read() {}, write: (_chunk, _encoding, done) => done() })
