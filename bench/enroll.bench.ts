/**
 * Certificates a second: the CA's work alone, over the EST edge with connections that stay, and with a full handshake for
 * each; in turns with a node:https server that reads a request, writes an answer of the same size and does nothing else, and
 * beside the ECDSA P-256 of the same machine. Servers are processes of their own, and their processor time is what counts:
 * the client makes half of the load. The service logs as an operator has it.
 *
 * Each device renews a few times and then comes no more: one that took certificate after certificate and showed none would have
 * the service end the oldest each time, which is the work of two.
 *
 *   npm run bench -- enroll [devices a round] [connections under way]
 */
import { type ChildProcess, execFile, fork } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { Agent, createServer, request } from 'node:https'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { issue, newSerialNumber, parseCertificate, prepare } from '../pki/certificate.ts'
import { certsOnly } from '../pki/cms.ts'
import { parseCsr } from '../pki/csr.ts'
import { buildName } from '../pki/names.ts'
import { createKeyAndCsr } from '../pki/x509.ts'
import { type EdgeCredential, tlsOptions } from '../runtime/https.ts'
import { type DeviceKeys, EnrollHarness, testConfiguration } from '../test/harness/fleet.ts'
import { issuingIssuer, sensorProfile } from '../test/pki/hierarchy.ts'
import { ms, note, percentile } from './figures.ts'

const devices = Number(process.argv[2] ?? 200)
const connections = Number(process.argv[3] ?? 16)
const rounds = 5
/** What a device may have and never show, but for the one that it enrolled with. */
const renewals = 4
/**
 * Compiled code is what an operator has; a service that has just started spends most of its time without, and V8 compiles on for
 * thousands of requests. Of these each renews as often as the others; a short run is content with fewer.
 */
const warmUp = devices < 200 ? 400 : 2_000
const caWorkMs = 1_000
const path = '/.well-known/est/simplereenroll'

type Client = { device: DeviceKeys; csr: string }
type Started = { url: string; root: string; clients: Client[]; credential: EdgeCredential }

/** A service, as the child process: answers every message with the processor time it has used, in microseconds. */
function answerProcessorTime(): void {
  process.on('message', () => {
    const { user, system } = process.cpuUsage()
    process.send!(user + system)
  })
}

async function serve(): Promise<void> {
  const enroll = { renewalsPerHour: 1e9, maxConnections: 10_000, maxConnectionsPerAddress: 10_000 }
  const fleet = await EnrollHarness.start({ config: testConfiguration({ enroll }) })
  const names = Array.from({ length: warmUp + 2 * rounds * devices }, (_, at) => `cam-${at}`)
  const clients: Client[] = []
  await inTurns(names, async (name) => {
    const device = await fleet.enrolledDevice(name)
    clients.push({ device, csr: (await fleet.renewalCsr(device)).toString('base64') })
  })
  answerProcessorTime()
  process.once('disconnect', () => void fleet[Symbol.asyncDispose]())
  const own = (name: string): string => readFileSync(join(fleet.dataDir, 'services', 'enroll', name), 'utf8')
  const credential = { key: own('tls.key'), cert: own('tls.crt') }
  process.send!({ url: fleet.endpoints.est + path, root: fleet.root, clients, credential } satisfies Started)
}

/** What HTTPS takes without us: the same handshakes, a request read, an answer of the size of a certificate written. */
async function serveBare({ credential, root }: Started): Promise<void> {
  const answer = 'A'.repeat(1_000)
  const server = createServer(tlsOptions(credential, [root]), (message, response) => {
    message.resume().on('end', () => response.writeHead(200, { 'Content-Length': answer.length }).end(answer))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  answerProcessorTime()
  process.once('disconnect', () => process.exit())
  process.send!(`https://localhost:${(server.address() as AddressInfo).port}${path}`)
}

function start(role: string): ChildProcess {
  // Lines are written and thrown away. With BENCH_NODE_FLAGS, to profile it.
  const execArgv = process.env.BENCH_NODE_FLAGS?.split(' ') ?? []
  const env = { ...process.env, ROLE: role, FLEETGATE_TEST_LOG: 'info' }
  const child = fork(import.meta.filename, process.argv.slice(2), {
    execArgv,
    env,
    stdio: ['ignore', 'inherit', 'ignore', 'ipc'],
  })
  child.once('exit', (code) => {
    if (code !== 0) throw new Error(`the ${role} ended`)
  })
  return child
}

async function measure(): Promise<void> {
  const service = start('service')
  const [started] = (await once(service, 'message')) as [Started]
  const bare = start('bare')
  bare.send(started)
  const [url] = (await once(bare, 'message')) as [string]
  console.log(`${rounds} rounds of ${devices} devices, ${connections} requests under way; Node ${process.version}\n`)
  console.log(`${'openssl speed ecdsap256, one core'.padEnd(44)}${await opensslSpeed()}`)
  const work = new Figures('CA work: request in, certificate out')
  const { clients } = started
  const some = (count: number): Client[] => clients.splice(0, count)
  const edges = [true, false].flatMap((stay) => {
    const how = stay ? 'connections stay' : 'a full handshake each'
    return [
      new Edge(service, started, stay, new Figures(`renewals, ${how}`)),
      new Edge(bare, { ...started, url }, stay, new Figures(`bare node:https, ${how}`)),
    ]
  })
  const first = some(warmUp)
  for (const edge of edges.slice(0, 2)) await edge.run(first)
  console.log(`${edges[0]!.figures.line}, the first ${warmUp * renewals}`)
  for (const edge of edges) edge.figures.clear()
  for (let round = 0; round < rounds; round++) {
    await caWork(work)
    const [staying, leaving] = [some(devices), some(devices)]
    for (const edge of edges) await edge.run(edge.stay ? staying : leaving)
  }
  for (const { line } of [work, ...edges.map(({ figures }) => figures)]) console.log(line)
  note({
    what: 'CA work',
    measured: `${Math.round(1e6 / work.microseconds)} certificates a CPU-second`,
    wanted: '1500',
  })
  const [renewal, idle] = edges.map(({ figures }) => figures.microseconds)
  note({ what: 'renewals', measured: `${Math.round(1e6 / renewal!)} a CPU-second`, wanted: '800' })
  const rest = renewal! - idle! - work.microseconds
  console.log(
    `\na renewal over a connection that stays takes ${renewal!.toFixed(0)} us: ${work.microseconds.toFixed(0)} of CA work, ${idle!.toFixed(0)} of HTTPS, ${rest.toFixed(0)} of checks, store and log`,
  )
  service.disconnect()
  bare.disconnect()
}

/** What was done in how much processor time, over all rounds. */
class Figures {
  readonly #name: string
  readonly #latencies: number[] = []
  #count = 0
  #cpuUs = 0
  #ms = 0

  constructor(name: string) {
    this.#name = name
  }

  add(count: number, cpuUs: number, ms: number, latencies: readonly number[] = []): void {
    this.#count += count
    this.#cpuUs += cpuUs
    this.#ms += ms
    this.#latencies.push(...latencies)
  }

  clear(): void {
    this.#count = this.#cpuUs = this.#ms = 0
    this.#latencies.length = 0
  }

  /** of processor time for one */
  get microseconds(): number {
    return this.#cpuUs / this.#count
  }

  get line(): string {
    const line = `${this.#name.padEnd(44)}${perSecond(1e6 / this.microseconds)} per CPU-second`
    if (this.#latencies.length === 0) return line
    const [p50, p99] = [50, 99].map((p) => ms(percentile(this.#latencies, p)))
    return `${line}, ${perSecond((this.#count * 1_000) / this.#ms)} by the clock, p50 ${p50}, p99 ${p99}`
  }
}

const perSecond = (rate: number): string => `${Math.round(rate)}/s`.padStart(9)

async function opensslSpeed(): Promise<string> {
  const { stdout } = await promisify(execFile)('openssl', ['speed', '-seconds', '2', 'ecdsap256']).catch(() => ({
    stdout: '',
  }))
  const found = /nistp256\)?\s+\S+\s+\S+\s+(\S+)\s+(\S+)/.exec(stdout)
  return found
    ? `${perSecond(Number(found[1]))} signed, ${perSecond(Number(found[2]))} verified`
    : 'openssl is not installed'
}

/** Parsing with proof of possession, building, lint, signing and wrapping: what a certificate costs without store and wire. */
async function caWork(figures: Figures): Promise<void> {
  const { csrDer } = await createKeyAndCsr({ commonName: 'cam-1' })
  const notBefore = parseCertificate(issuingIssuer.certificate.der).notBefore
  const one = async (): Promise<void> => {
    const { publicKeySpki } = parseCsr(csrDer)
    const prepared = prepare({
      profile: sensorProfile,
      issuer: issuingIssuer,
      serial: newSerialNumber(randomBytes),
      subject: buildName({ commonName: 'cam-1', organizationalUnits: ['roof'] }),
      subjectAltName: { uris: ['urn:fleetgate:device:cam-1'] },
      publicKeySpki,
      notBefore,
      notAfter: new Date(notBefore.getTime() + sensorProfile.validityMs),
    })
    certsOnly([(await issue(prepared)).der])
  }
  for (let i = 0; i < 200; i++) await one()
  const [before, startedAt] = [process.cpuUsage(), performance.now()]
  let count = 0
  for (; performance.now() < startedAt + caWorkMs; count++) await one()
  const { user, system } = process.cpuUsage(before)
  figures.add(count, user + system, performance.now() - startedAt)
}

/** A server under requests of some clients at a time, each of which sends its next one when it has an answer. */
class Edge {
  readonly figures: Figures
  readonly stay: boolean
  readonly #child: ChildProcess
  readonly #target: Started

  constructor(child: ChildProcess, target: Started, stay: boolean, figures: Figures) {
    this.#child = child
    this.#target = target
    this.stay = stay
    this.figures = figures
  }

  /** @param clients that have not renewed yet, or of a server that does not care */
  async run(clients: readonly Client[]): Promise<void> {
    const latencies: number[] = []
    const agents = new Map(
      clients.map((client) => [client, new Agent({ keepAlive: this.stay, maxSockets: 1, maxCachedSessions: 0 })]),
    )
    const renew = (client: Client): Promise<void> => this.#renew(client, agents.get(client)!)
    // The handshakes of connections that stay are none of theirs.
    if (this.stay) await inTurns(clients, renew)
    const [cpuBefore, startedAt] = [await this.#cpuUs(), performance.now()]
    await inTurns(clients, async (client) => {
      for (let count = this.stay ? 1 : 0; count < renewals; count++) {
        const sentAt = performance.now()
        await renew(client)
        latencies.push(performance.now() - sentAt)
      }
    })
    this.figures.add(latencies.length, (await this.#cpuUs()) - cpuBefore, performance.now() - startedAt, latencies)
    for (const agent of agents.values()) agent.destroy()
  }

  async #cpuUs(): Promise<number> {
    this.#child.send('cpu')
    return (await once(this.#child, 'message'))[0] as number
  }

  #renew({ device, csr }: Client, agent: Agent): Promise<void> {
    return new Promise((resolve, reject) => {
      const { url, root } = this.#target
      const headers = { 'Content-Type': 'application/pkcs10', 'Content-Length': csr.length }
      const tls = { agent, ca: root, key: device.key, cert: device.certificate }
      const sent = request(url, { method: 'POST', headers, ...tls }, (answer) => {
        if (answer.statusCode !== 200) reject(new Error(`a renewal was answered with ${answer.statusCode}`))
        answer.resume().on('end', resolve)
      })
      sent.on('error', reject)
      sent.end(csr)
    })
  }
}

/** As many at a time as there are to be under way. */
async function inTurns<T>(all: readonly T[], work: (one: T) => Promise<void>): Promise<void> {
  const left = all.values()
  await Promise.all(
    Array.from({ length: connections }, async () => {
      for (const one of left) await work(one)
    }),
  )
}

const { ROLE } = process.env
if (ROLE === 'service') await serve()
else if (ROLE === 'bare') await serveBare((await once(process, 'message'))[0] as Started)
else await measure()
