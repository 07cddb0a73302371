import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { welcome } from '../../../cli/commands/up.ts'
import { endpointsFile, readEndpoints } from '../../../runtime/endpoints.ts'
import { fleetgate } from '../../harness/stub-io.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
after(() => rmSync(folder, { recursive: true, force: true }))
const main = fileURLToPath(new URL('../../../cli/main.ts', import.meta.url))

/** `fleetgate up` as a process of its own. */
class Up {
  readonly process: ChildProcess
  out = ''
  err = ''

  constructor(dataDir: string) {
    this.process = spawn(process.execPath, [main, 'up', '--ports', 'auto', '--data', dataDir], {
      env: { ...process.env, FLEETGATE_NAMES: 'localhost,127.0.0.1' },
    })
    this.process.stdout!.on('data', (chunk) => {
      this.out += chunk
    })
    this.process.stderr!.on('data', (chunk) => {
      this.err += chunk
    })
  }

  async says(text: string): Promise<void> {
    while (!this.out.includes(text)) await once(this.process.stdout!, 'data')
  }

  async ended(): Promise<unknown[]> {
    return this.process.exitCode === null ? once(this.process, 'close') : [this.process.exitCode, null]
  }
}

test('up runs a gateway, keeps a second one from its data, and stops cleanly at SIGTERM', async () => {
  const dataDir = join(folder, 'first')
  const gateway = new Up(dataDir)
  await gateway.says('Ctrl-C stops the gateway.')
  const { rootFingerprint } = readEndpoints(dataDir)
  assert.match(gateway.out, /✔ enroll is ready after .*EST https:.*\n✔ broker is ready after .*MQTT mqtts:/)
  assert.ok(gateway.out.includes(`root SHA-256      ${rootFingerprint}`))

  const status = await fleetgate(['status', '-o', 'json', '--data', dataDir])
  assert.equal(status.code, 0)
  assert.equal(JSON.parse(status.out).rootFingerprint, rootFingerprint)

  const doctor = await fleetgate(['doctor', '-o', 'json', '--data', dataDir])
  assert.deepEqual([doctor.code, doctor.err], [0, ''], doctor.out)
  const { findings } = JSON.parse(doctor.out) as { findings: { check: string; state: string; what: string }[] }
  const said = (check: string) => findings.filter((one) => one.check === check).map(({ what }) => what)
  assert.match(said('TLS of mqtts')[0]!, /speaks TLSv1\.3 with TLS_AES_\d+_GCM_SHA\d+; its chain ends at the root/)
  assert.match(said('TLS of est')[1]!, /is valid until .* days left/)
  assert.match(said('brokers')[0]!, /^broker-1 is connected, and has all/)
  assert.match(said('clock')[0]!, /agree/)
  assert.match(said('keys')[0]!, /are readable by their owner alone/)

  const second = new Up(dataDir)
  assert.deepEqual(await second.ended(), [2, null])
  assert.match(second.err, /error: .* is in use by another instance \(data_in_use\); .*--data\n$/)
  assert.ok(existsSync(endpointsFile(dataDir)))

  const startedAt = performance.now()
  gateway.process.kill('SIGTERM')
  assert.deepEqual(await gateway.ended(), [0, null])
  assert.ok(performance.now() - startedAt < 10_000)
  assert.match(gateway.out, /stopping \.\.\.\nstopped\n$/)
  assert.equal(existsSync(endpointsFile(dataDir)), false)
})

test('up treats a SIGHUP as a stop, and so a reader who closes its output', async () => {
  const dataDir = join(folder, 'hung-up')
  const gateway = new Up(dataDir)
  await gateway.says('Ctrl-C stops the gateway.')
  gateway.process.kill('SIGHUP')
  assert.deepEqual(await gateway.ended(), [0, null])
  assert.equal(existsSync(endpointsFile(dataDir)), false)

  const unread = new Up(dataDir)
  await unread.says('enroll is ready')
  unread.process.stdout!.destroy()
  assert.deepEqual(await unread.ended(), [0, null])
  assert.equal(existsSync(endpointsFile(dataDir)), false)
})

test('the services end with a supervisor that is killed, and the command line says that nothing answers', async () => {
  const dataDir = join(folder, 'second')
  const gateway = new Up(dataDir)
  await gateway.says('Ctrl-C stops the gateway.')
  const { est, mqtts } = readEndpoints(dataDir)
  gateway.process.kill('SIGKILL')
  for (const url of [est, mqtts]) while (await listens(url)) await delay(20)
  const { code, err } = await fleetgate(['status', '--data', dataDir])
  assert.equal(code, 1)
  assert.match(err, /refuses connections \(unavailable\); is it running\? start it: npx fleetgate up --data/)
})

test('the lines to paste name the ports and paths of this gateway, quoted where a shell needs it', () => {
  const endpoints = {
    est: 'https://localhost:8443',
    mqtts: 'mqtts://localhost:8883',
    admin: 'https://127.0.0.1:9443',
    rootFingerprint: 'ab',
    rootCertificate: '/srv/my data/root.crt',
    operatorCertificate: '/x',
    operatorKey: '/y',
  }
  const text = welcome(endpoints, '/srv/my data', false)
  assert.match(
    text,
    /TOKEN=\$\(npx fleetgate token create --device cam-1 --profile camera --quiet --data '\/srv\/my data'\)\n/,
  )
  assert.match(
    text,
    /--cacert '\/srv\/my data\/root.crt' .* https:\/\/localhost:8443\/\.well-known\/est\/simpleenroll\n/,
  )
  assert.match(text, /-h localhost -p 8883 -i cam-1/)
  assert.doesNotMatch(welcome(endpoints, './data', false), /--data /)
})

function listens(url: string): Promise<boolean> {
  const { hostname, port } = new URL(url)
  return new Promise((resolve) => {
    const socket = connect(Number(port), hostname)
    socket.once('connect', () => resolve(true))
    socket.once('error', () => resolve(false))
    socket.once('connect', () => socket.destroy())
  })
}
