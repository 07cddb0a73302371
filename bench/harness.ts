/**
 * Brokers beside each other, each a process of its own behind mutual TLS with the same certificates, and the CPU time that
 * each one takes: ours with all of its checks (certificate, revocation, registry, policy) as an operator runs it, bare
 * aedes, and mosquitto where it is on the PATH, both of which check the certificate's chain and nothing else; on request a second
 * mosquitto that is told to check what it can.
 */
import { type ChildProcess, type SpawnOptions, spawn, spawnSync } from 'node:child_process'
import { createPrivateKey, hash } from 'node:crypto'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, connect, createServer } from 'node:net'
import { availableParallelism, tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import type { Version } from '../broker/wire/packet.ts'
import { policyDocument, starterPolicy } from '../contract/policy-document.ts'
import { parseCertificate, toPem } from '../pki/certificate.ts'
import { encodeEntry, signList } from '../pki/crl.ts'
import { signerOf } from '../pki/keystore.ts'
import { parseYaml } from '../runtime/yaml.ts'
import { type TestAuthority, type TestCertificate, TestPki } from '../test/harness/certificates.ts'
import { FakeFeed } from '../test/harness/feed.ts'
import type { Answer, Identity, Opening, Outcome, Request, Run } from './load.ts'

/** `on disk`: with persistence, saving after each change. `checking`: with a revocation list, an ACL, names from certificates and a log. */
export type Peer = 'fleetgate' | 'aedes' | 'mosquitto' | 'mosquitto on disk' | 'mosquitto checking'
export type Device = Identity & TestCertificate

const root = join(import.meta.dirname, '..')
export const has = (program: string, ...args: string[]): boolean => spawnSync(program, args).error === undefined
/** Brokers beside ours, in BENCH_PEERS with commas; all without. */
const isBeside = (peer: Peer): boolean => process.env.BENCH_PEERS?.split(',').includes(peer) ?? true
const ticksPerSecond = 100 // USER_HZ, which Linux has fixed at 100 for what it tells programs

/** A process; brokers and the load generator are kept off each other's core where there are two. */
export class Program {
  readonly child: ChildProcess
  readonly #cores: string
  readonly #end = (): void => void this.child.kill()

  /** @param cores numbers with commas */
  constructor(cores: string, command: string[], options: SpawnOptions) {
    this.#cores = cores
    const isPinned = availableParallelism() > 1 && has('taskset', '-V')
    const [file, ...args] = isPinned ? ['taskset', '-c', this.#cores, ...command] : command
    this.child = spawn(file!, args, options)
    process.once('exit', this.#end)
  }

  /** milliseconds of CPU that all of its threads have taken so far */
  get cpuMs(): number {
    const stat = readFileSync(`/proc/${this.child.pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ') // proc(5): from the third field on
    return ((Number(fields[11]) + Number(fields[12])) * 1_000) / ticksPerSecond
  }

  /** KiB in memory */
  get residentKiB(): number {
    return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${this.child.pid}/status`, 'utf8'))![1])
  }

  async stop(): Promise<void> {
    process.off('exit', this.#end)
    if (this.child.exitCode !== null || this.child.signalCode !== null) return
    this.child.kill('SIGTERM')
    await once(this.child, 'exit')
  }
}

/** One broker that listens. */
export type Target = { name: Peer; port: number; program: Program }
export type Sample = Outcome & { perCpuSecond: number; brokerCpuMs: number; isBusy: boolean }

export class Bench implements AsyncDisposable {
  readonly #folder = mkdtempSync(join(tmpdir(), 'fleetgate-bench-'))
  readonly #pki: TestPki
  readonly #service: TestCertificate
  readonly #feed: FakeFeed
  readonly #generator: Program
  readonly #stack = new AsyncDisposableStack()
  readonly targets: Target[] = []
  /** Where some are revoked: one that was, and that nobody who checks may let in. */
  revokedDevice: Device | undefined

  private constructor(pki: TestPki, service: TestCertificate, feed: FakeFeed) {
    this.#pki = pki
    this.#service = service
    this.#feed = feed
    const stdio = ['ignore', 'inherit', 'inherit', 'ipc'] as const
    this.#generator = new Program('1', [process.execPath, join(root, 'bench', 'generator.ts')], { stdio: [...stdio] })
    this.#stack.defer(() => rmSync(this.#folder, { recursive: true, force: true }))
    this.#stack.use(feed)
    this.#stack.defer(() => this.#generator.stop())
  }

  /**
   * @param broker  settings of ours
   * @param revoked so many certificates are revoked, of which ours and a mosquitto that checks are told; undefined: there is none
   *   that checks
   */
  static async start({
    hasMosquittoOnDisk = false,
    revoked,
    broker = {},
  }: {
    hasMosquittoOnDisk?: boolean
    revoked?: number
    broker?: Record<string, unknown>
  } = {}): Promise<Bench> {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1))
    const pki = await TestPki.create()
    const bench = new Bench(pki, await pki.service('broker'), await FakeFeed.start(pki))
    bench.#feed.append(
      { type: 'trust.changed', data: { anchors: pki.anchors } },
      {
        type: 'policy.changed',
        data: { version: 1, document: parseYaml(starterPolicy, policyDocument, 'starter', 'policy_invalid') },
      },
    )
    const listed = revoked === undefined ? undefined : await bench.#revoke(revoked)
    await bench.#startOurs(broker)
    if (isBeside('aedes')) bench.targets.push(await bench.startAedes())
    if (!has('mosquitto', '-h')) console.log('mosquitto is not on the PATH: the others alone are measured\n')
    else {
      if (isBeside('mosquitto')) await bench.#startMosquitto('mosquitto', {})
      if (hasMosquittoOnDisk && isBeside('mosquitto on disk')) await bench.#startMosquittoOnDisk()
      if (listed !== undefined && isBeside('mosquitto checking')) await bench.#startMosquittoChecking(listed)
    }
    return bench
  }

  /** Devices that every broker lets in; a `service` may read all telemetry. */
  async devices(count: number, profile: 'sensor' | 'service', prefix: string): Promise<Device[]> {
    const devices: Device[] = []
    for (let i = 0; i < count; i++) {
      const id = `${prefix}-${String(i).padStart(4, '0')}`
      const device = { id, ...(await this.#pki.device(id)) }
      const { serial, fingerprint, notAfter } = device
      this.#feed.append(
        { type: 'device.changed', data: { id, profile, groups: [], status: 'active' } },
        {
          type: 'certificate.issued',
          data: { serial, fingerprint, deviceId: id, notAfter: notAfter.toISOString() },
        },
      )
      devices.push(device)
    }
    await this.#feed.untilApplied()
    return devices
  }

  /**
   * Revokes certificates of a device that is one of ours, and others that nobody has.
   *
   * @returns all of their serials
   */
  async #revoke(count: number): Promise<string[]> {
    const id = 'revoked-0000'
    this.revokedDevice = { id, ...(await this.#pki.device(id)) }
    const { serial, fingerprint } = this.revokedDevice
    const notAfter = this.revokedDevice.notAfter.toISOString()
    this.#feed.append({ type: 'device.changed', data: { id, profile: 'sensor', groups: [], status: 'active' } })
    const others = Array.from({ length: count - 1 }, (_, n) => {
      const name = hash('sha256', `revoked ${n}`)
      return { serial: `01${name.slice(0, 30)}`, fingerprint: name }
    })
    const all = [{ serial, fingerprint }, ...others]
    for (const one of all) {
      this.#feed.append(
        { type: 'certificate.issued', data: { ...one, deviceId: id, notAfter } },
        { type: 'certificate.revoked', data: { ...one, deviceId: id, reason: 'superseded' } },
      )
    }
    return all.map((one) => one.serial)
  }

  /** Connects a fleet, which stays connected under the name. */
  async open(
    name: string,
    target: Target,
    version: Version,
    publishers: Device[],
    subscribers: Device[],
    { isPaced = false, isKept = false }: Partial<Pick<Opening, 'isPaced' | 'isKept'>> = {},
  ): Promise<void> {
    const opening: Opening = {
      name,
      port: target.port,
      ca: this.#pki.root.pem,
      version,
      publishers,
      subscribers,
      isPaced,
      isKept,
    }
    await this.#ask({ open: opening })
  }

  async close(name: string): Promise<void> {
    await this.#ask({ close: name })
  }

  /** @returns also messages received for each second of CPU that the broker took from the first to the last of them */
  async measure(target: Target, run: Run): Promise<Sample> {
    const before = target.program.cpuMs
    const outcome = await this.#ask({ run })
    const brokerCpuMs = target.program.cpuMs - before
    // A generator that is out of CPU first leaves the broker waiting.
    const isBusy = brokerCpuMs > outcome!.cpuMs || brokerCpuMs > 0.9 * outcome!.ms
    return { ...outcome!, brokerCpuMs, isBusy, perCpuSecond: (outcome!.received * 1_000) / brokerCpuMs }
  }

  async #ask(request: Request): Promise<Outcome | undefined> {
    this.#generator.child.send(request)
    const [answer] = (await once(this.#generator.child, 'message')) as [Answer]
    if ('failed' in answer) throw new Error(answer.failed)
    return answer.done
  }

  /** As `fleetgate up` starts it; with BENCH_NODE_FLAGS, to profile it. */
  async #startOurs(broker: Record<string, unknown>): Promise<void> {
    const data = join(this.#folder, 'data')
    const credential = join(data, 'services', 'broker')
    mkdirSync(credential, { recursive: true })
    writeFileSync(join(credential, 'tls.key'), this.#service.key, { mode: 0o600 })
    writeFileSync(join(credential, 'tls.crt'), this.#service.chain)
    writeFileSync(join(credential, 'root.crt'), this.#pki.root.pem)
    const config = join(this.#folder, 'fleetgate.yaml')
    const settings = { data, broker: { listen: '127.0.0.1:0', feed: this.#feed.address, ...broker } }
    writeFileSync(config, JSON.stringify(settings)) // JSON is YAML
    const flags = process.env.BENCH_NODE_FLAGS?.split(' ') ?? []
    const command = [process.execPath, ...flags, join(root, 'broker', 'main.ts'), '--config', config]
    // Its workers run wherever there is room, as an operator's do.
    const program = this.#run(command, true, Number(broker.workers ?? 0) > 0 ? '0,1' : '0')
    const [answer] = (await once(program.child, 'message')) as [{ endpoints?: { mqtts: string }; message?: string }]
    if (answer.endpoints === undefined) throw new Error(answer.message)
    this.targets.push({ name: 'fleetgate', port: Number(new URL(answer.endpoints.mqtts).port), program })
    await this.#feed.untilApplied()
  }

  /** One more of them, which is measured only where it is put among the targets. */
  async startAedes(): Promise<Target> {
    const program = this.#run([process.execPath, join(root, 'bench', 'bare-aedes.ts')], true)
    program.child.send({ ...this.#service, anchors: this.#pki.anchors })
    const [{ port }] = (await once(program.child, 'message')) as [{ port: number }]
    return { name: 'aedes', port, program }
  }

  async #startMosquittoOnDisk(): Promise<void> {
    const folder = join(this.#folder, 'mosquitto.db')
    mkdirSync(folder)
    const settings = { persistence_location: `${folder}/`, autosave_interval: 1, autosave_on_changes: true }
    await this.#startMosquitto('mosquitto on disk', { persistence: true, ...settings })
  }

  /**
   * What an operator of mosquitto can have of our promises: revoked certificates are refused, a client is called what its certificate
   * says and has the topics of the starter policy, and who comes and goes is in a log.
   */
  async #startMosquittoChecking(revoked: readonly string[]): Promise<void> {
    const { root, issuing } = this.#pki
    const files = {
      crl: (await listOf(issuing, revoked)) + (await listOf(root, [])),
      acl: [
        'pattern write devices/%u/#',
        'pattern read devices/%u/commands/#',
        'user sub-0000', // reads all, as a device of the profile `service`
        'topic read devices/+/telemetry/#',
        '',
      ].join('\n'),
    }
    for (const [name, text] of Object.entries(files)) writeFileSync(join(this.#folder, `checking.${name}`), text)
    await this.#startMosquitto('mosquitto checking', {
      crlfile: join(this.#folder, 'checking.crl'),
      acl_file: join(this.#folder, 'checking.acl'),
      allow_anonymous: false,
      use_identity_as_username: true,
      use_username_as_clientid: true,
      log_dest: `file ${join(this.#folder, 'checking.log')}`,
    })
  }

  async #startMosquitto(name: Peer, more: Record<string, unknown>): Promise<void> {
    const port = await freePort()
    const files = { key: this.#service.key, crt: this.#service.chain, ca: this.#pki.anchors.join('') }
    for (const [name, text] of Object.entries(files)) writeFileSync(join(this.#folder, `mosquitto.${name}`), text)
    const settings = {
      user: userInfo().username,
      listener: `${port} 127.0.0.1`,
      keyfile: join(this.#folder, 'mosquitto.key'),
      certfile: join(this.#folder, 'mosquitto.crt'),
      cafile: join(this.#folder, 'mosquitto.ca'),
      require_certificate: true,
      allow_anonymous: true,
      set_tcp_nodelay: true,
      persistence: false,
      log_dest: 'none',
      max_inflight_messages: 100, // as ours
      max_queued_messages: 0, // nothing is dropped
      ...more,
    }
    const config = join(this.#folder, `${name}.conf`)
    writeFileSync(
      config,
      Object.entries(settings)
        .map((setting) => `${setting.join(' ')}\n`)
        .join(''),
    )
    const program = this.#run(['mosquitto', '-c', config], false)
    await listening(port)
    this.targets.push({ name, port, program })
  }

  #run(command: string[], hasChannel: boolean, cores = '0'): Program {
    // Logs are written, to a file as an operator would have it.
    const log = openSync(join(this.#folder, 'log'), 'a')
    const program = new Program(cores, command, {
      stdio: ['ignore', 'ignore', log, ...(hasChannel ? ['ipc' as const] : [])],
    })
    this.#stack.defer(() => program.stop())
    return program
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#stack.disposeAsync()
  }
}

/** What a CA of ours would publish, in PEM. */
async function listOf({ certificate, key }: TestAuthority, serials: readonly string[]): Promise<string> {
  const now = Date.now()
  const { parts } = await signList({
    issuer: {
      certificate: parseCertificate(Buffer.from(certificate.rawData)),
      signer: signerOf(createPrivateKey(key)),
    },
    number: 1,
    thisUpdate: new Date(now - 3_600_000),
    nextUpdate: new Date(now + 86_400_000),
    entries: serials.map((serial) => encodeEntry({ serial, revokedAt: new Date(now), reason: 'superseded' })),
  })
  return toPem(Buffer.concat(parts), 'X509 CRL')
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

async function listening(port: number): Promise<void> {
  for (let attempts = 0; ; attempts++) {
    const socket = connect(port, '127.0.0.1')
    try {
      await once(socket, 'connect')
      return
    } catch (error) {
      if (attempts === 100) throw error
      await new Promise((resolve) => setTimeout(resolve, 50))
    } finally {
      socket.destroy()
    }
  }
}
