/**
 * The services of docker-compose.yml without containers: their commands, health checks and order as they stand. A path of a container
 * is one of a folder for it, volumes are links in there, ports are free ones of loopback.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { type ComposeService, mountsOf, readCompose, root } from '../harness/compose.ts'

const linux = { skip: process.platform === 'win32' && 'the containers are of Linux' }
const main = join(root, 'bin', 'fleetgate.js')

class Project {
  readonly folder = mkdtempSync(join(tmpdir(), 'fleetgate-compose-'))
  readonly #ports = new Map<string, string>()
  readonly #running = new Map<string, ChildProcess>()
  readonly ended = new Map<string, number | null>()
  readonly said = new Map<string, string>()
  env: Record<string, string> = {}

  get #services(): Record<string, ComposeService> {
    return readCompose(this.env).services
  }

  /** A free port for each that stands in the file. */
  async open(): Promise<void> {
    const text = readFileSync(join(root, 'docker-compose.yml'), 'utf8')
    const servers = await Promise.all(
      [...new Set(text.match(/\b(?:8443|8883|94\d\d)\b/g))].map(async (port) => {
        const server = createServer().listen(0, '127.0.0.1')
        await once(server, 'listening')
        this.#ports.set(port, String((server.address() as AddressInfo).port))
        return server
      }),
    )
    for (const server of servers) server.close()
  }

  volume = (name: string): string => join(this.folder, 'volumes', name)

  /** What stands for `/` in a container. */
  #rootOf(name: string): string {
    return join(this.folder, 'containers', name)
  }

  #mapped(name: string, text: string): string {
    return text
      .replaceAll(/(^|['"])\/(data|device|run)\b/g, `$1${this.#rootOf(name)}/$2`)
      .replaceAll(/\b(?:0\.0\.0\.0|enroll|broker)(?=:\d)/g, '127.0.0.1')
      .replaceAll(/(?<=:\s?)\d{4}\b/g, (port) => this.#ports.get(port) ?? port)
  }

  #environmentOf(name: string): Record<string, string> {
    const { environment, ports } = this.#services[name]!
    // What the image listens on by default, on every address of a container.
    const listens: Record<string, string> = { '8443': 'FLEETGATE_ENROLL__EST', '8883': 'FLEETGATE_BROKER__LISTEN' }
    const all = { ...environment }
    for (const port of ports) {
      const inside = port.split(':').at(-1)!
      const listen = listens[inside]
      if (listen !== undefined) all[listen] = `0.0.0.0:${inside}`
    }
    return Object.fromEntries(Object.entries(all).map(([key, value]) => [key, this.#mapped(name, value)]))
  }

  #run(name: string, command: string[]): ChildProcess {
    const words = command.map((word) => this.#mapped(name, word))
    return spawn(process.execPath, words, {
      cwd: root,
      env: this.#environmentOf(name),
      stdio: ['ignore', 'pipe', 'pipe'],
    })
  }

  #mount(name: string): void {
    const mounts = mountsOf(this.#services[name]!).sort((a, b) => a.to.length - b.to.length)
    for (const { from, to } of mounts) {
      const at = join(this.#rootOf(name), to)
      mkdirSync(dirname(at), { recursive: true })
      mkdirSync(this.volume(from), { recursive: true, mode: 0o700 })
      if (!existsSync(at)) symlinkSync(this.volume(from), at)
    }
    const secrets = join(this.#rootOf(name), 'run', 'secrets')
    mkdirSync(secrets, { recursive: true })
    for (const secret of this.#services[name]!.secrets ?? []) {
      const file = join(this.folder, readCompose().secrets[secret]!.file)
      rmSync(join(secrets, secret), { force: true })
      symlinkSync(file, join(secrets, secret))
    }
  }

  /** As `docker compose up -d NAME`: what it depends on comes first, and as far as it asks for. */
  async up(name: string): Promise<void> {
    if (this.#running.has(name)) return
    const { depends_on, command } = this.#services[name]!
    for (const [other, { condition }] of Object.entries(depends_on)) {
      await this.up(other)
      if (condition === 'service_completed_successfully') assert.equal(await this.end(other), 0, this.said.get(other))
      if (condition === 'service_healthy') await this.healthy(other)
    }
    this.#mount(name)
    const child = this.#run(name, command)
    this.#running.set(name, child)
    this.ended.delete(name)
    for (const stream of [child.stdout!, child.stderr!])
      stream.on('data', (chunk) => this.said.set(name, `${this.said.get(name) ?? ''}${chunk}`))
    child.once('close', (code) => {
      this.ended.set(name, code)
      this.#running.delete(name)
    })
  }

  /** @returns its exit code, once it has ended */
  async end(name: string): Promise<number | null> {
    const child = this.#running.get(name)
    if (child !== undefined) await once(child, 'close')
    return this.ended.get(name)!
  }

  /** Asks as often as compose would, and sooner. */
  async healthy(name: string): Promise<void> {
    const { healthcheck } = this.#services[name]!
    assert.ok('test' in healthcheck)
    const [, node, ...command] = healthcheck.test
    assert.equal(node, 'node')
    for (let left = healthcheck.retries; ; left--) {
      const asked = this.#run(name, command)
      let out = ''
      for (const stream of [asked.stdout!, asked.stderr!])
        stream.on('data', (chunk) => {
          out += chunk
        })
      const [code] = await once(asked, 'close')
      if (code === 0) return
      assert.ok(this.#running.has(name), `${name} ended: ${this.said.get(name)}`)
      assert.ok(left > 0, `${name} is not healthy: ${out}${this.said.get(name)}`)
      await delay(1_000)
    }
  }

  /** As `docker compose exec enroll node ...`. */
  async exec(...command: string[]): Promise<string> {
    const child = this.#run('enroll', command)
    let out = ''
    child.stdout!.on('data', (chunk) => {
      out += chunk
    })
    const [code] = await once(child, 'close')
    assert.equal(code, 0, out)
    return out.trim()
  }

  async says(name: string, text: string): Promise<void> {
    while (!this.said.get(name)?.includes(text)) {
      const child = this.#running.get(name)
      assert.ok(child, `${name} ended: ${this.said.get(name)}`)
      await Promise.race([once(child.stdout!, 'data'), once(child.stderr!, 'data'), once(child, 'close')])
    }
  }

  /** As `docker compose stop`: in the reverse order. @returns exit codes */
  async stop(): Promise<Record<string, number | null>> {
    const codes: Record<string, number | null> = {}
    for (const [name, child] of [...this.#running].reverse()) {
      child.kill('SIGTERM')
      codes[name] = await this.end(name)
    }
    return codes
  }

  async dispose(): Promise<void> {
    for (const child of this.#running.values()) child.kill('SIGKILL')
    await Promise.all([...this.#running.keys()].map((name) => this.end(name)))
    rmSync(this.folder, { recursive: true, force: true })
  }
}

/** The commands of the file's own head, as an operator types them. */
async function addDevice(project: Project): Promise<void> {
  const token = await project.exec(
    main,
    'token',
    'create',
    '--device',
    'sim-1',
    '--profile',
    'sensor',
    '--quiet',
    '--data',
    '/data',
  )
  writeFileSync(join(project.folder, 'device.token'), `${token}\n`)
  const print = "JSON.parse(fs.readFileSync('/data/endpoints.json')).rootFingerprint"
  project.env = { ROOT_FINGERPRINT: await project.exec('-p', print) }
}

test('the compose file brings up a gateway, whose demo device enrolls and publishes', linux, async (t) => {
  const project = new Project()
  t.after(() => project.dispose())
  await project.open()
  await project.up('broker')
  assert.match(project.said.get('init')!, /^root SHA-256 +[0-9a-f]{64}$/m)
  await project.healthy('broker')
  await addDevice(project)
  await project.up('device-sim')
  await project.says('device-sim', 'device.connected')

  // Of the link that is the volume, too.
  const keysIn = (name: string): string[] =>
    readdirSync(join(project.folder, 'containers', name), { recursive: true, encoding: 'utf8' }).filter((file) =>
      /\.(?:key|pem)$/.test(file),
    )
  assert.deepEqual(keysIn('broker'), ['data/services/broker/tls.key'])
  assert.deepEqual(keysIn('device-sim'), ['device/sim-1.pem'])

  // A second `up` of a project that runs starts what has ended once more.
  await project.up('init')
  assert.equal(await project.end('init'), 0)
  assert.match(project.said.get('init')!, /A gateway runs on it; nothing was changed\./)
  assert.deepEqual(await project.stop(), { 'device-sim': 0, broker: 0, enroll: 0 })
})
