import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { endpointsFile, readEndpoints } from '../../runtime/endpoints.ts'
import { fleetgate } from '../harness/stub-io.ts'
import { Up } from '../harness/up-process.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
after(() => rmSync(folder, { recursive: true, force: true }))

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

  gateway.process.kill('SIGTERM')
  assert.deepEqual(await gateway.ended(), [0, null])
  assert.match(gateway.out, /stopping \.\.\.\nstopped\n$/)
  assert.equal(existsSync(endpointsFile(dataDir)), false)
})

test('npm start that is ended by a signal ends the gateway too', async () => {
  const dataDir = join(folder, 'by-npm')
  const root = dirname(dirname(import.meta.dirname))
  const words = ['start', '--', '--ports', 'auto', '--data', dataDir]
  // A group of its own: were the gateway left behind, nothing else would find it.
  const npm = spawn('npm', words, { cwd: root, detached: true, stdio: ['ignore', 'pipe', 'ignore'] })
  const ended = once(npm.stdout, 'end')
  let out = ''
  try {
    for await (const chunk of npm.stdout.iterator({ destroyOnReturn: false })) {
      out += chunk
      if (out.includes('Ctrl-C stops the gateway.')) break
    }
    npm.stdout.on('data', (chunk) => {
      out += chunk
    })
    npm.kill('SIGTERM')
    await ended
    assert.match(out, /stopping \.\.\.\nstopped\n$/)
    assert.equal(existsSync(endpointsFile(dataDir)), false)
  } finally {
    try {
      process.kill(-npm.pid!, 'SIGKILL')
    } catch {
      // All of it has ended.
    }
  }
})

test('up reads its configuration again at SIGHUP, in both services, and goes on with a file that is not in order', async () => {
  const dataDir = join(folder, 'hung-up')
  const file = join(folder, 'fleetgate.yaml')
  const write = (text: string): void => writeFileSync(file, text)
  const before = 'broker: { maxConnectionsPerDevice: 3, listeners: [{ name: mqtts, mode: enforce }] }\n'
  write(before)
  const gateway = new Up(dataDir, '--config', file)
  await gateway.says('Ctrl-C stops the gateway.')
  const endpoints = readEndpoints(dataDir)
  write(
    'broker: { maxConnectionsPerDevice: 4, listeners: [{ name: mqtts, mode: permissive }] }\nlog: { level: debug }\n',
  )
  gateway.process.kill('SIGHUP')
  await gateway.says('reading the configuration again')
  const changed = ['log.level', 'broker.maxConnectionsPerDevice', 'broker.listeners.mqtts.mode']
  await gateway.logs(`"changed":${JSON.stringify(changed)}`)
  await gateway.logs('"changed":["log.level"]')
  write('broker: { maxConnectionsPerDevice: many }\n')
  gateway.process.kill('SIGHUP')
  await gateway.logs('"service":"broker","event":"configuration.notRead"')
  await gateway.logs('"service":"enroll","event":"configuration.refused"')
  write(`${before}names: [localhost, 127.0.0.1, gateway.example]\n`)
  const { code, out } = await fleetgate(['config', 'reload', '--data', dataDir])
  // Each service also looks at the file itself, time and again: what one of them has by now is not told any more.
  const told = changed.filter((name) => out.includes(name)).join(', ') || 'nothing is another'
  assert.deepEqual(
    [code, out],
    [0, `was read      ${file}\nin force now  ${told}\n`],
    'names are of the environment here',
  )
  assert.deepEqual(readEndpoints(dataDir), endpoints)
  const { out: audit } = await fleetgate(['audit', 'tail', '-n', '20', '-o', 'json', '--data', dataDir])
  const entries = audit.split('\n').flatMap((line) => (line === '' ? [] : [JSON.parse(line)]))
  const reloads = entries.filter(
    ({ action, outcome, details }) =>
      action === 'configuration.changed' && !(outcome === 'refused' && details.by === 'file'),
  )
  assert.deepEqual(
    reloads.map(({ outcome, details }) => [outcome, details.changed]),
    [
      ['done', ['log.level']],
      ['refused', undefined],
      ['done', ['log.level']],
    ],
  )
  const [first, second, third] = reloads.map(({ actor, details }) => `${actor} ${details.by}`)
  assert.ok(first === 'system signal' || first === 'system file', first)
  assert.equal(second, 'system signal')
  // The request may have found the log's level in the broker alone: enroll had looked at the file by then.
  assert.ok(third === 'system file' || (third === 'operator:operator request' && told.startsWith('log.level')), third)
  gateway.process.kill('SIGTERM')
  assert.deepEqual(await gateway.ended(), [0, null])
})

test('up stops when a reader closes its output', async () => {
  const dataDir = join(folder, 'unread')
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

function listens(url: string): Promise<boolean> {
  const { hostname, port } = new URL(url)
  return new Promise((resolve) => {
    const socket = connect(Number(port), hostname)
    socket.once('connect', () => resolve(true))
    socket.once('error', () => resolve(false))
    socket.once('connect', () => socket.destroy())
  })
}
