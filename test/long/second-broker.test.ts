/** Two brokers, one of them made by `fleetgate broker create` and started as it says, with nothing but that folder. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { after, before, test } from 'node:test'
import { connect } from 'node:tls'
import { connectAsync, type MqttClient } from 'mqtt'
import { createBrokerService } from '../../broker/service.ts'
import { configuration } from '../../contract/configuration.ts'
import { splitAddress } from '../../runtime/config.ts'
import { writeEndpoints } from '../../runtime/endpoints.ts'
import { createLog } from '../../runtime/log.ts'
import { endsWithTest } from '../harness/ends-with-test.ts'
import { type DeviceKeys, EnrollHarness, movableClock } from '../harness/fleet.ts'
import { fleetgate } from '../harness/stub-io.ts'

const day = 86_400_000
// What is made at first is due for renewal by the clock of everybody else.
const clock = movableClock(new Date(Date.now() - 250 * day))
let fleet: EnrollHarness
let first: Awaited<ReturnType<typeof createBrokerService>>
before(async () => {
  fleet = await EnrollHarness.start({ clock: clock.now })
  writeEndpoints(fleet.dataDir, { ...fleet.endpoints, mqtts: 'mqtts://localhost:1' })
  first = await createBrokerService({
    config: configuration.parse({ broker: { listen: '127.0.0.1:0', feed: fleet.endpoints.feed } }),
    dataDir: join(fleet.dataDir, 'broker'),
    credentialDir: join(fleet.dataDir, 'services', 'broker'),
    log: createLog('broker', 'silent'),
  })
})
after(async () => {
  await first[Symbol.asyncDispose]()
  await fleet[Symbol.asyncDispose]()
})

type LogLine = { event?: string; mqtts?: string }

/** As `broker create` says; each line of its log is looked at once. */
async function startAsTold(told: string) {
  const [, command = ''] = /^start it.*: npx fleetgate (.*)$/m.exec(told) ?? []
  const child = endsWithTest(
    spawn('sh', ['-c', `exec "$0" cli/main.ts ${command}`, process.execPath], {
      cwd: join(import.meta.dirname, '..', '..'),
      env: { ...process.env, FLEETGATE_BROKER__LISTEN: '127.0.0.1:0' },
      stdio: ['ignore', 'ignore', 'pipe'],
    }),
  )
  const lines: LogLine[] = []
  const read = createInterface(child.stderr).on('line', (line) => lines.push(JSON.parse(line)))
  const until = async (event: string): Promise<LogLine> => {
    for (;;) {
      const found = lines.find((line) => line.event === event)
      if (found !== undefined) return found
      await once(read, 'line')
    }
  }
  return { child, until }
}

async function dial(url: string, { id, key, certificate }: DeviceKeys): Promise<MqttClient> {
  const client = await connectAsync(url, { clientId: id, key, cert: certificate, ca: fleet.root, reconnectPeriod: 0 })
  client.on('error', () => {})
  return client
}

async function shownAt(url: string): Promise<string> {
  const socket = connect({ ...splitAddress(new URL(url).host), ca: fleet.root }).on('error', () => {})
  await once(socket, 'secureConnect')
  const pem = socket.getPeerX509Certificate()!.toString()
  socket.destroy()
  return pem
}

test('a second broker serves the fleet beside the first, renews what it shows by itself, and a revocation is in force on 2 of 2', async () => {
  const out = join(fleet.dataDir, 'broker-2')
  const names = ['--name', 'localhost', '--name', '127.0.0.1']
  const wanted = ['broker-2', ...names, '--feed', fleet.endpoints.feed, '--out', out]
  const made = await fleetgate(['broker', 'create', ...wanted, '--data', fleet.dataDir])
  assert.equal(made.code, 0, made.err)
  const file = join(out, 'services', 'broker', 'tls.crt')
  const former = readFileSync(file, 'utf8')
  clock.advance(250 * day)

  const second = await startAsTold(made.out)
  const { mqtts = '' } = await second.until('service.started')
  await second.until('credential.renewed')
  assert.notEqual(readFileSync(file, 'utf8'), former)
  assert.ok(readFileSync(file, 'utf8').startsWith(await shownAt(mqtts)))

  await first.feed.untilLive()
  const device = await fleet.enrolledDevice('cam-1')
  const clients = await Promise.all([dial(first.endpoints.mqtts, device), dial(mqtts, device)])
  const closed = Promise.all(clients.map((client) => new Promise<void>((resolve) => client.once('close', resolve))))
  const { body } = await fleet.admin('POST', '/devices/cam-1/revoke', { reason: 'keyCompromise', waitMs: 20_000 })
  assert.deepEqual([body.inForce, body.brokers.length, body.sessions.length], [true, 2, 2])
  await closed
  for (const url of [first.endpoints.mqtts, mqtts]) await assert.rejects(dial(url, device))

  const exited = once(second.child, 'exit')
  second.child.kill('SIGTERM')
  assert.deepEqual(await exited, [0, null])
})

test('a folder without a credential starts no broker, and says what is missing', async () => {
  const { code, err } = await fleetgate(['broker', 'run', '--data', join(fleet.dataDir, 'nothing')])
  assert.deepEqual([code, /tls\.key cannot be read.*\(data_damaged\)/.test(err)], [2, true], err)
})
