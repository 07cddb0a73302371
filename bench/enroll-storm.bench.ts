/**
 * What a storm of bad requests costs a good one: renewals over a new connection each, while another process sends wrong
 * tokens, garbage and wrong paths at a given rate, with connections that say nothing and requests that never end held open
 * beside. The storm takes processor time of the machine wherever it goes, so the same one also goes against a bare node:https
 * server, a process of its own, while the renewals go on at the service. What the service itself does to a good request is the
 * difference: p99 beside a storm here over p99 beside one there, wanted at most 2. p99 alone stands beside. The three take turns.
 *
 *   npm run bench -- enroll-storm [bad requests a second] [rounds]
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { Agent, createServer, request } from 'node:https'
import { type AddressInfo, connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import { createKeyAndCsr } from '../pki/x509.ts'
import { type EdgeCredential, tlsOptions } from '../runtime/https.ts'
import { basic, type DeviceKeys, EnrollHarness, testConfiguration } from '../test/harness/fleet.ts'
import { heading, note, percentile, row } from './figures.ts'

const perSecond = Number(process.argv[2] ?? 200)
const rounds = Number(process.argv[3] ?? 6)
const roundMs = 4_000
const goodEveryMs = 25
const silent = 100

type Started = { est: string; root: string; device: DeviceKeys; csr: string; credential: EdgeCredential }
type Target = Pick<Started, 'est' | 'root'>

/** The service, as a process of its own. */
async function serve(): Promise<void> {
  const fleet = await EnrollHarness.start({ config: testConfiguration({ enroll: { renewalsPerHour: 1e9 } }) })
  const device = await fleet.enrolledDevice('cam-1')
  const csr = (await fleet.renewalCsr(device)).toString('base64')
  process.once('disconnect', () => void fleet[Symbol.asyncDispose]())
  const own = (name: string): string => readFileSync(join(fleet.dataDir, 'services', 'enroll', name), 'utf8')
  const credential = { key: own('tls.key'), cert: own('tls.crt') }
  process.send!({ est: fleet.endpoints.est, root: fleet.root, device, csr, credential } satisfies Started)
}

/** Somebody else for the storm to go to: reads a request and refuses it. */
async function serveBare({ credential, root }: Started): Promise<void> {
  const server = createServer(tlsOptions(credential, [root]), (message, response) => {
    message.resume().on('end', () => response.writeHead(401, { 'Content-Length': 0 }).end())
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  process.once('disconnect', () => process.exit())
  process.send!(`https://localhost:${(server.address() as AddressInfo).port}`)
}

/** The storm, as a process of its own: begins and ends at a message. */
async function storm({ est, root }: Target): Promise<void> {
  const { hostname, port } = new URL(est)
  const hold = Array.from({ length: silent }, (_, at) => {
    const socket =
      at % 2 === 0
        ? connect(Number(port), hostname)
        : connectTls({ host: hostname, port: Number(port), ca: root }, () => socket.write('POST / HTTP/1.1\r\nX: '))
    return socket.on('error', () => undefined)
  })
  const agent = new Agent({ keepAlive: true, maxSockets: 32 })
  const { csrDer } = await createKeyAndCsr({ commonName: 'cam-1' })
  const bodies = ['!', csrDer.toString('base64'), 'A'.repeat(60_000)]
  let isOn = true
  process.once('message', () => {
    isOn = false
  })
  process.once('disconnect', () => process.exit())
  for (let n = 0; isOn; n++) {
    const sent = request(`${est}/.well-known/est/${n % 5 === 0 ? 'nothing' : 'simpleenroll'}`, {
      agent,
      ca: root,
      method: 'POST',
      headers: { 'Content-Type': 'application/pkcs10', Authorization: basic(`cam-${n % 7}`, `guess-${n}`) },
    })
    sent.on('response', (response) => response.resume()).on('error', () => undefined)
    sent.end(bodies[n % bodies.length])
    await sleep(1_000 / perSecond)
  }
  for (const socket of hold) socket.destroy()
  agent.destroy()
  process.send!('over')
}

function renew({ est, root, device, csr }: Started): Promise<void> {
  return new Promise((resolve, reject) => {
    const options = { agent: false, ca: root, key: device.key, cert: device.certificate, method: 'POST' }
    const headers = { 'Content-Type': 'application/pkcs10' }
    const sent = request(`${est}/.well-known/est/simplereenroll`, { ...options, headers }, (response) => {
      response.resume().on('end', resolve)
      if (response.statusCode !== 200) reject(new Error(`a good renewal was answered ${response.statusCode}`))
    })
    sent.on('error', reject)
    sent.end(csr)
  })
}

async function renewals(started: Started, latencies: number[]): Promise<void> {
  const until = performance.now() + roundMs
  for (let next = performance.now(); next < until; next += goodEveryMs) {
    await sleep(Math.max(0, next - performance.now()))
    const at = performance.now()
    await renew(started)
    latencies.push(performance.now() - at)
  }
}

const start = (role: string): ChildProcess =>
  fork(import.meta.filename, process.argv.slice(2), { env: { ...process.env, ROLE: role } })

async function besideStorm(target: Target, measured: () => Promise<void>): Promise<void> {
  const child = start('storm')
  child.send(target)
  await sleep(1_000)
  await measured()
  const over = once(child, 'message')
  child.send('over')
  await over
  child.disconnect()
}

async function measure(): Promise<void> {
  const service = start('service')
  const [started] = (await once(service, 'message')) as [Started]
  const bare = start('bare')
  bare.send(started)
  const [est] = (await once(bare, 'message')) as [string]
  const [alone, here, there]: [number[], number[], number[]] = [[], [], []]
  const turns = [
    () => renewals(started, alone),
    () => besideStorm(started, () => renewals(started, here)),
    () => besideStorm({ est, root: started.root }, () => renewals(started, there)),
  ]
  // JavaScript that is not compiled yet would be measured with the first.
  await renewals(started, [])
  for (let round = 0; round < rounds; round++) {
    const first = round % turns.length
    for (const turn of [...turns.slice(first), ...turns.slice(0, first)]) await turn()
  }
  service.disconnect()
  bare.disconnect()
  console.log(
    `a renewal every ${goodEveryMs} ms, ${perSecond} bad requests a second, ${silent} silent connections\n${heading}`,
  )
  console.log(row('alone', alone))
  console.log(row('beside the storm against another server', there))
  console.log(row('in the storm', here))
  const beside = (other: number[]): string => (percentile(here, 99) / percentile(other, 99)).toFixed(2)
  note({
    what: `p99 of a renewal in a storm of ${perSecond} bad requests a second`,
    measured: `${beside(there)}x`,
    wanted: '2x',
    remark: `of that beside the same storm against another server; ${beside(alone)}x of that alone`,
  })
  console.log(
    `\np99 in the storm is ${beside(there)} times that beside the storm against another server, and ${beside(alone)} times that alone; ${here.length} renewals each`,
  )
}

const { ROLE } = process.env
const told = async (): Promise<Started> => (await once(process, 'message'))[0] as Started
if (ROLE === 'service') await serve()
else if (ROLE === 'bare') await serveBare(await told())
else if (ROLE === 'storm') await storm(await told())
else await measure()
