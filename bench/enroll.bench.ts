/**
 * Certificates a second: the CA's work alone, over the EST edge with connections that stay, and with a full handshake for
 * each; beside the ECDSA P-256 of the same machine in the same run. The service is a process of its own, and its processor
 * time is what counts: the client makes half of the load.
 *
 *   npm run bench -- enroll [seconds] [connections]
 */
import { type ChildProcess, execFile, fork } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { Agent, request } from 'node:https'
import { promisify } from 'node:util'
import { issue, newSerialNumber, parseCertificate, prepare } from '../pki/certificate.ts'
import { certsOnly } from '../pki/cms.ts'
import { parseCsr } from '../pki/csr.ts'
import { buildName } from '../pki/names.ts'
import { createKeyAndCsr } from '../pki/x509.ts'
import { type DeviceKeys, EnrollHarness, testConfiguration } from '../test/harness/fleet.ts'
import { issuingIssuer, sensorProfile } from '../test/pki/hierarchy.ts'
import { percentile } from './figures.ts'

const seconds = Number(process.argv[2] ?? 5)
const connections = Number(process.argv[3] ?? 16)

type Client = { device: DeviceKeys; csr: string }
type Started = { est: string; root: string; clients: Client[] }

/** The service, as the child process: answers every message with the processor time it has used, in microseconds. */
async function serve(): Promise<void> {
  const enroll = { renewalsPerHour: 1e9, maxConnections: 10_000, maxConnectionsPerAddress: 10_000 }
  const fleet = await EnrollHarness.start({ config: testConfiguration({ enroll }) })
  const clients = await Promise.all(
    Array.from({ length: connections }, async (_, at): Promise<Client> => {
      const device = await fleet.enrolledDevice(`cam-${at}`)
      return { device, csr: (await fleet.renewalCsr(device)).toString('base64') }
    }),
  )
  process.on('message', () => {
    const { user, system } = process.cpuUsage()
    process.send!(user + system)
  })
  process.once('disconnect', () => void fleet[Symbol.asyncDispose]())
  const started: Started = { est: fleet.endpoints.est, root: fleet.root, clients }
  process.send!(started)
}

async function measure(): Promise<void> {
  const child = fork(import.meta.filename, process.argv.slice(2))
  const [started] = (await once(child, 'message')) as [Started]
  console.log(`${seconds} s each, ${connections} connections; Node ${process.version}\n`)
  console.log(`${'openssl speed ecdsap256, one core'.padEnd(44)}${await opensslSpeed()}`)
  const work = await caWork()
  console.log(`${'CA work: request in, certificate out'.padEnd(44)}${perSecond(work)} per CPU-second`)
  await overTheEdge('renewals, connections stay', child, started, true)
  await overTheEdge('renewals, a full handshake each', child, started, false)
  child.disconnect()
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
async function caWork(): Promise<number> {
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
  const before = process.cpuUsage()
  const until = performance.now() + seconds * 1_000
  let count = 0
  for (; performance.now() < until; count++) await one()
  const { user, system } = process.cpuUsage(before)
  return count / ((user + system) / 1e6)
}

async function overTheEdge(name: string, child: ChildProcess, started: Started, keepAlive: boolean): Promise<void> {
  const cpuUs = async (): Promise<number> => {
    child.send('cpu')
    return (await once(child, 'message'))[0] as number
  }
  const latencies: number[] = []
  const run = (ms: number): Promise<unknown> => {
    const until = performance.now() + ms
    return Promise.all(started.clients.map((client) => renewUntil(until, started, client, keepAlive, latencies)))
  }
  await run(1_000)
  latencies.length = 0
  const [cpuBefore, startedAt] = [await cpuUs(), performance.now()]
  await run(seconds * 1_000)
  const wall = (performance.now() - startedAt) / 1_000
  const cpu = ((await cpuUs()) - cpuBefore) / 1e6
  const [p50, p99] = [percentile(latencies, 50), percentile(latencies, 99)].map((value) => `${value.toFixed(1)} ms`)
  console.log(
    `${name.padEnd(44)}${perSecond(latencies.length / wall)} by the clock, ${perSecond(latencies.length / cpu)} per CPU-second of the service, p50 ${p50}, p99 ${p99}`,
  )
}

async function renewUntil(
  until: number,
  { est, root }: Started,
  client: Client,
  keepAlive: boolean,
  latencies: number[],
) {
  const { device, csr } = client
  const agent = new Agent({ keepAlive, maxSockets: 1, maxCachedSessions: 0 })
  while (performance.now() < until) {
    const startedAt = performance.now()
    const status = await new Promise<number>((resolve, reject) => {
      const url = `${est}/.well-known/est/simplereenroll`
      const headers = { 'Content-Type': 'application/pkcs10', 'Content-Length': csr.length }
      const tls = { agent, ca: root, key: device.key, cert: device.certificate }
      const sent = request(url, { method: 'POST', headers, ...tls }, (answer) => {
        answer.resume().on('end', () => resolve(answer.statusCode!))
      })
      sent.on('error', reject)
      sent.end(csr)
    })
    if (status !== 200) throw new Error(`a renewal was answered with ${status}`)
    latencies.push(performance.now() - startedAt)
  }
  agent.destroy()
}

if (process.send === undefined) await measure()
else await serve()
