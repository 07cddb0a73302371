import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Configuration } from '../contract/configuration.ts'
import { joinAddress, splitAddress } from '../runtime/config.ts'
import { type Endpoints, removeEndpoints, writeEndpoints } from '../runtime/endpoints.ts'
import { FleetError, isFleetError } from '../runtime/errors.ts'
import { openAdminClient } from './admin-client.ts'
import { type BackOff, ChildService, type ServiceEvent } from './child-service.ts'
import { addressesOf, checkPorts } from './ports.ts'

export type GatewayOptions = {
  config: Configuration
  /** The file that `config` was read from; the children read it again. */
  configFile: string | undefined
  dataDir: string
  /** `auto` takes free ports whatever the configuration says, but for what stands in `broker.listeners` and `enroll.status`. */
  ports: 'configured' | 'auto'
  /** What the children inherit; settings of the supervisor's own go over it. */
  env: NodeJS.ProcessEnv
  /** File descriptor for the children's logs; 2 when absent. */
  output?: number
  notify: (event: ServiceEvent) => void
  entries?: { enroll: string; broker: string }
  backOff?: BackOff
  killAfterMs?: number
  /** Ends both processes without a drain, whether they run already or still start. */
  kill?: AbortSignal
}

export const backOff: BackOff = { firstMs: 200, maxMs: 10_000, steadyMs: 30_000 }
// An operator's Ctrl-C is answered within 10 s; the last second is for what has to be killed.
const killAfterMs = 9_000

/** The two processes of a gateway, kept running; `endpoints.json` exists while they are. */
export class Gateway {
  readonly endpoints: Endpoints
  readonly #children: Children
  readonly #dataDir: string
  readonly #killAfterMs: number
  #stopped: Promise<string[]> | undefined

  constructor(endpoints: Endpoints, children: Children, options: GatewayOptions) {
    this.endpoints = endpoints
    this.#children = children
    this.#dataDir = options.dataDir
    this.#killAfterMs = options.killAfterMs ?? killAfterMs
  }

  get pids(): { enroll: number | undefined; broker: number | undefined } {
    return { enroll: this.#children.enroll.pid, broker: this.#children.broker.pid }
  }

  /** Both read their configuration once more; their log says what became of it. */
  reload(): void {
    for (const child of [this.#children.enroll, this.#children.broker]) child.reload()
  }

  /** Drains the broker, then enroll. @returns the names of those that did not end by themselves with exit code 0 */
  stop(): Promise<string[]> {
    this.#stopped ??= stopAll(this.#children, this.#killAfterMs).then((unclean) => {
      removeEndpoints(this.#dataDir)
      return unclean
    })
    return this.#stopped
  }
}

type Children = { enroll: ChildService; broker: ChildService }

/**
 * Sees that the ports are free, starts enroll, then the broker with the trust feed that enroll serves, then writes `endpoints.json`.
 *
 * @throws FleetError the reason of the child that did not start; by then no child runs and this left nothing behind
 */
export async function startGateway(options: GatewayOptions, signal?: AbortSignal): Promise<Gateway> {
  const { config, env, notify } = options
  if (options.ports === 'configured') {
    await checkPorts(addressesOf(config)).catch(async (error: unknown) => {
      // The gateway of this very folder holds them: no other port would help.
      if (isFleetError(error, 'port_in_use') && (await isServed(options.dataDir))) {
        throw new FleetError('data_in_use', `${options.dataDir} is in use by another instance`, { cause: error })
      }
      throw error
    })
  }
  const entries = options.entries ?? { enroll: entryOf('enroll'), broker: entryOf('broker') }
  const dataDir = resolve(options.dataDir)
  const args = [
    '--data',
    dataDir,
    ...(options.configFile === undefined ? [] : ['--config', resolve(options.configFile)]),
  ]
  // A child that is started again comes back on the ports that its first start was given.
  let ports: Ports = options.ports === 'auto' ? { est: 0, admin: 0, feed: 0, mqtts: 0 } : {}
  let feed = config.broker.feed
  const at = (address: string, port: number | undefined): string =>
    port === undefined ? address : joinAddress(splitAddress(address).host, port)
  const common = { args, output: options.output ?? 2, backOff: options.backOff ?? backOff, notify }
  const enroll = new ChildService({
    ...common,
    name: 'enroll',
    entry: entries.enroll,
    environment: () => ({
      ...env,
      FLEETGATE_ENROLL__EST: at(config.enroll.est, ports.est),
      FLEETGATE_ENROLL__ADMIN: at(config.enroll.admin, ports.admin),
      FLEETGATE_ENROLL__FEED: at(config.enroll.feed, ports.feed),
    }),
  })
  const broker = new ChildService({
    ...common,
    name: 'broker',
    entry: entries.broker,
    environment: () => ({
      ...env,
      FLEETGATE_BROKER__LISTEN: at(config.broker.listen, ports.mqtts),
      FLEETGATE_BROKER__FEED: feed,
    }),
  })
  const children: Children = { enroll, broker }
  options.kill?.addEventListener('abort', () => killAll(children), { once: true })
  const interrupted = (): void => {
    void stopAll(children, options.killAfterMs ?? killAfterMs)
  }
  signal?.addEventListener('abort', interrupted, { once: true })
  try {
    signal?.throwIfAborted()
    const ofEnroll = await enroll.start()
    feed = addressOf(told(ofEnroll, 'enroll', 'feed'))
    ports = {
      ...ports,
      est: portOf(told(ofEnroll, 'enroll', 'est')),
      admin: portOf(told(ofEnroll, 'enroll', 'admin')),
      feed: portOf(feed),
    }
    signal?.throwIfAborted()
    const ofBroker = await broker.start()
    const mqtts = told(ofBroker, 'broker', 'mqtts')
    ports = { ...ports, mqtts: portOf(mqtts) }
    signal?.throwIfAborted()
    const passphraseFile = config.keys.passphraseFile
    const endpoints: Endpoints = {
      est: told(ofEnroll, 'enroll', 'est'),
      mqtts,
      listeners: ofBroker,
      admin: told(ofEnroll, 'enroll', 'admin'),
      ...(config.enroll.status.url === undefined ? {} : { status: told(ofEnroll, 'enroll', 'status') }),
      rootFingerprint: told(ofEnroll, 'enroll', 'rootFingerprint'),
      rootCertificate: resolve(told(ofEnroll, 'enroll', 'rootCertificate')),
      operatorCertificate: resolve(told(ofEnroll, 'enroll', 'operatorCertificate')),
      operatorKey: resolve(told(ofEnroll, 'enroll', 'operatorKey')),
      ...(passphraseFile === undefined ? {} : { operatorKeyPassphraseFile: resolve(passphraseFile) }),
    }
    writeEndpoints(dataDir, endpoints)
    return new Gateway(endpoints, children, { ...options, dataDir })
  } catch (error) {
    await stopAll(children, options.killAfterMs ?? killAfterMs)
    throw error
  } finally {
    signal?.removeEventListener('abort', interrupted)
  }
}

/** Whether a gateway that proves to be of this folder's root answers its operator. */
async function isServed(dataDir: string): Promise<boolean> {
  try {
    using client = openAdminClient(dataDir)
    await client.status()
    return true
  } catch {
    return false
  }
}

async function stopAll({ broker, enroll }: Children, limitMs: number): Promise<string[]> {
  const limit = setTimeout(() => killAll({ broker, enroll }), limitMs)
  // A service manager's SIGTERM reaches every process at once; no part is started again while the other drains.
  for (const child of [broker, enroll]) child.expectEnd()
  const unclean: string[] = []
  if (!(await broker.stop())) unclean.push('broker')
  if (!(await enroll.stop())) unclean.push('enroll')
  clearTimeout(limit)
  return unclean
}

function killAll({ broker, enroll }: Children): void {
  for (const child of [broker, enroll]) {
    child.expectEnd()
    child.kill()
  }
}

type Ports = { est?: number; admin?: number; feed?: number; mqtts?: number }

const here = fileURLToPath(import.meta.url)

export function entryOf(service: 'enroll' | 'broker'): string {
  const suffix = here.endsWith('.ts') ? '.ts' : '.js'
  const entry = join(here, '..', '..', service, `main${suffix}`)
  if (!existsSync(entry)) throw new FleetError('internal', `${entry} is missing; install Fleetgate again`)
  return entry
}

function told(endpoints: Record<string, string>, service: string, name: string): string {
  const value = endpoints[name]
  if (value === undefined)
    throw new FleetError('internal', `${service} did not tell its ${name}; install Fleetgate again`)
  return value
}

/** `host:port` of a URL or of a bare address. */
const addressOf = (endpoint: string): string => {
  if (!endpoint.includes('://')) return endpoint
  const { hostname, port } = new URL(endpoint)
  return `${hostname}:${port}`
}

const portOf = (endpoint: string): number => {
  // URL drops a port that is its scheme's default.
  const port = splitAddress(addressOf(endpoint)).port
  return port === 0 ? 443 : port
}
