import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { ServiceEvent } from '../../cli/child-service.ts'
import { type Gateway, type GatewayOptions, startGateway } from '../../cli/supervisor.ts'
import { loadConfig } from '../../runtime/config.ts'
import { compileCache } from './stub-io.ts'

const stub = (name: string): string => fileURLToPath(new URL(`stub-${name}.ts`, import.meta.url))

/** A supervisor over two stubs, in a folder of its own, with everything that it said and that they were told. */
export class StubGateway implements AsyncDisposable {
  readonly folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
  readonly dataDir = join(this.folder, 'data')
  readonly events: ServiceEvent[] = []
  readonly #notesFile = join(this.folder, 'notes')
  readonly #options: Partial<GatewayOptions> & { behaviour?: Record<string, string> }
  #waiting: (() => void)[] = []
  #gateway: Gateway | undefined

  constructor(options: Partial<GatewayOptions> & { behaviour?: Record<string, string> } = {}) {
    this.#options = options
  }

  async start(signal?: AbortSignal): Promise<Gateway> {
    const { behaviour = {}, ...options } = this.#options
    this.#gateway = await startGateway(
      {
        config: loadConfig({ env: {} }),
        configFile: undefined,
        dataDir: this.dataDir,
        ports: 'auto',
        env: { PATH: '', ...compileCache, STUB_NOTES: this.#notesFile, ...behaviour },
        entries: { enroll: stub('enroll'), broker: stub('broker') },
        backOff: { firstMs: 5, maxMs: 40, steadyMs: 60_000 },
        notify: (event) => {
          this.events.push(event)
          for (const look of this.#waiting) look()
        },
        ...options,
      },
      signal,
    )
    return this.#gateway
  }

  get notes(): string[] {
    return existsSync(this.#notesFile) ? readFileSync(this.#notesFile, 'utf8').trim().split('\n') : []
  }

  /** What a child was told at its n-th start. */
  startOf(name: 'enroll' | 'broker', n = 0): Record<string, string> {
    const line = this.notes.filter((note) => note.startsWith(`${name} started `))[n]!
    return JSON.parse(line.slice(`${name} started `.length))
  }

  /** Resolves when `wanted` events of a kind have been told. */
  async told(kind: ServiceEvent['kind'], wanted: number): Promise<ServiceEvent[]> {
    const found = (): ServiceEvent[] => this.events.filter((event) => event.kind === kind)
    if (found().length < wanted) {
      await new Promise<void>((resolve) => {
        const look = (): void => {
          if (found().length < wanted) return
          this.#waiting = this.#waiting.filter((other) => other !== look)
          resolve()
        }
        this.#waiting.push(look)
      })
    }
    return found()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#gateway?.stop()
    rmSync(this.folder, { recursive: true, force: true })
  }
}

/** Ports that nobody listened on a moment ago. */
export async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer()
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
      return server
    }),
  )
  const ports = servers.map((server) => (server.address() as AddressInfo).port)
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))))
  return ports
}
