/**
 * What a storm of bad requests costs a good one: renewals over a new connection each, alone and while another process sends
 * wrong tokens, garbage and wrong paths at a given rate, with connections that say nothing and requests that never end held
 * open beside. Calm and storm take turns. Wanted: p99 in the storm at most twice that of the calm.
 *
 *   npm run bench -- enroll-storm [bad requests a second] [rounds]
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { Agent, request } from 'node:https'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import { createKeyAndCsr } from '../pki/x509.ts'
import { basic, type DeviceKeys, EnrollHarness, testConfiguration } from '../test/harness/fleet.ts'
import { heading, note, percentile, row } from './figures.ts'

const perSecond = Number(process.argv[2] ?? 200)
const rounds = Number(process.argv[3] ?? 4)
const roundMs = 5_000
const goodEveryMs = 25
const silent = 100

type Started = { est: string; root: string; device: DeviceKeys; csr: string }

/** The service, as a process of its own. */
async function serve(): Promise<void> {
  const fleet = await EnrollHarness.start({ config: testConfiguration({ enroll: { renewalsPerHour: 1e9 } }) })
  const device = await fleet.enrolledDevice('cam-1')
  const csr = (await fleet.renewalCsr(device)).toString('base64')
  process.once('disconnect', () => void fleet[Symbol.asyncDispose]())
  process.send!({ est: fleet.endpoints.est, root: fleet.root, device, csr } satisfies Started)
}

/** The storm, as a process of its own: begins and ends at a message. */
async function storm({ est, root }: Started): Promise<void> {
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

async function measure(): Promise<void> {
  const service = fork(import.meta.filename, process.argv.slice(2), { env: { ...process.env, ROLE: 'service' } })
  const [started] = (await once(service, 'message')) as [Started]
  const [calm, stormy]: [number[], number[]] = [[], []]
  await renewals(started, [])
  for (let round = 0; round < rounds; round++) {
    await renewals(started, calm)
    const child: ChildProcess = fork(import.meta.filename, process.argv.slice(2), {
      env: { ...process.env, ROLE: 'storm' },
    })
    child.send(started)
    await sleep(1_000)
    await renewals(started, stormy)
    const over = once(child, 'message')
    child.send('over')
    await over
    child.disconnect()
  }
  service.disconnect()
  console.log(
    `a renewal every ${goodEveryMs} ms, ${perSecond} bad requests a second, ${silent} silent connections\n${heading}`,
  )
  console.log(row('alone', calm))
  console.log(row('in the storm', stormy))
  const ratio = (percentile(stormy, 99) / percentile(calm, 99)).toFixed(2)
  note({ what: `p99 of a renewal beside ${perSecond} bad requests a second`, measured: `${ratio}x`, wanted: '2x' })
  console.log(`\np99 in the storm is ${ratio} times that alone`)
}

const { ROLE } = process.env
if (ROLE === 'service') await serve()
else if (ROLE === 'storm') await storm((await once(process, 'message'))[0] as Started)
else await measure()
