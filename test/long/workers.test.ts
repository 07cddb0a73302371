/** A broker whose TLS is done by two processes: everything is as with one, and what ends with a worker comes back. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { after, before, test } from 'node:test'
import { connect as connectTls } from 'node:tls'
import { BrokerHarness, closeOf, connectPacket, eventually, Inbox, packet, textField } from '../harness/broker.ts'
import { startBrokerProcess } from '../harness/broker-process.ts'

const root = dirname(dirname(import.meta.dirname))
const workers = 2
let harness: BrokerHarness
before(async () => {
  harness = await BrokerHarness.start({
    broker: { workers, listeners: [{ name: 'wss', transport: 'wss', listen: '127.0.0.1:0' }] },
  })
})
after(() => harness[Symbol.asyncDispose]())

const pidOf = (name: string): number =>
  harness.testLog.lines.findLast(({ event, worker }) => event === 'worker.started' && worker === name)!
    .workerPid as number
const openSockets = (pid: number): number =>
  readdirSync(`/proc/${pid}/fd`).filter((name) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${name}`).startsWith('socket:')
    } catch {
      return false // closed meanwhile
    }
  }).length
const isRunning = (pid: number): boolean => {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}

test('devices of every worker are one fleet, and each is who its certificate says', async () => {
  const service = await harness.connect(await harness.device('dashboard', { profile: 'service' }))
  await service.subscribeAsync('devices/+/telemetry/#', { qos: 1 })
  const inbox = new Inbox(service)
  const names = Array.from({ length: 6 }, (_, at) => `sensor-${at}`)
  for (const name of names) {
    const client = await harness.connect(await harness.device(name))
    await client.publishAsync(`devices/${name}/telemetry/temp`, name, { qos: 1 })
  }
  await eventually(() => inbox.messages.length === names.length)
  assert.deepEqual(inbox.messages.map(({ payload }) => payload).sort(), names)
  assert.equal(await harness.refusal({ ...(await harness.device('sensor-x')), id: 'sensor-0' }), 2)
})

test('large messages come through whole, both ways, and over WebSocket', async () => {
  const sender = await harness.connect(await harness.device('camera-1'))
  const service = await harness.device('archive', { profile: 'service' })
  const { wss } = harness.broker.endpoints
  const reader = harness.dialUrl(wss!, service, { clientId: service.id })
  await new Promise<void>((resolve) => reader.once('connect', () => resolve()))
  await reader.subscribeAsync('devices/camera-1/telemetry/#', { qos: 1 })
  const inbox = new Inbox(reader)
  const picture = (at: number): string => String.fromCharCode(97 + at).repeat(200_000)
  await Promise.all(
    Array.from({ length: 20 }, (_, at) =>
      sender.publishAsync('devices/camera-1/telemetry/picture', picture(at), { qos: 1 }),
    ),
  )
  await eventually(() => inbox.messages.length === 20)
  assert.ok(inbox.messages.every(({ payload }, at) => payload === picture(at)))
})

test('who does not read is closed, and holds nobody up', async () => {
  const service = await harness.device('sleepy', { profile: 'service' })
  const socket = await harness.socket(service)
  socket.write(connectPacket('sleepy'))
  await once(socket, 'data')
  const subscription = Buffer.concat([Buffer.from([0, 1]), textField('devices/flood-1/telemetry/#'), Buffer.from([0])])
  socket.write(packet(0x82, subscription))
  await once(socket, 'data')
  socket.pause()
  const sender = await harness.connect(await harness.device('flood-1'))
  let sent = 0
  while (harness.testLog.find('message.dropped') === undefined && sent < 2_000) {
    await sender.publishAsync('devices/flood-1/telemetry/x', Buffer.alloc(100_000), { qos: 1 })
    sent++
  }
  assert.ok(harness.testLog.find('message.dropped') !== undefined, `${sent} messages of 100,000 octets were kept`)
  socket.destroy()
})

test('a saved ticket resumes at whichever worker, and not after a revocation', async () => {
  const device = await harness.device('sensor-r')
  const first = await harness.socket(device, { servername: 'localhost' })
  first.write(connectPacket(device.id))
  const [session] = (await once(first, 'session')) as [Buffer]
  first.destroy()
  const resume = async (): Promise<Awaited<ReturnType<BrokerHarness['socket']>>> =>
    harness.socket(device, { servername: 'localhost', session })
  for (let at = 0; at < 6; at++) {
    const socket = await resume()
    assert.ok(socket.isSessionReused(), `attempt ${at}`)
    socket.destroy()
  }
  await harness.revokeDevice(device)
  for (let at = 0; at < 6; at++) {
    const late = await resume()
    late.write(connectPacket(device.id))
    const [answer] = (await once(late, 'data')) as [Buffer]
    assert.deepEqual([...answer], [0x20, 2, 0, 5], `attempt ${at}`)
  }
})

test('a revocation closes every socket at every worker, those before their CONNECT too', async () => {
  const socketsAt = (): number[] => ['worker-1', 'worker-2'].map((name) => openSockets(pidOf(name)))
  const device = await harness.device('sensor-s')
  const before = socketsAt()
  const clients = await Promise.all(
    ['sensor-s', 'sensor-s:a', 'sensor-s:b'].map((clientId) => harness.connect(device, { clientId })),
  )
  const idle = await Promise.all(Array.from({ length: 9 }, () => harness.socket(device)))
  for (const socket of idle) socket.resume()
  // Who comes after it is told in its CONNACK, and may take its time to ask.
  await eventually(() => harness.broker.sessions.ofDevice(device.id).length === 12)
  assert.ok(
    socketsAt().every((count, at) => count > before[at]!),
    `each worker has some: ${before} -> ${socketsAt()}`,
  )
  const closed = Promise.all([...clients, ...idle].map(closeOf))
  await harness.revokeDevice(device)
  await closed
  await eventually(() => socketsAt().every((count, at) => count <= before[at]!))
})

test('strangers are closed after the handshake, and bytes that are not TLS before it', async () => {
  const stranger = connectTls({ host: '127.0.0.1', port: harness.port, ca: harness.pki.root.pem })
  stranger.on('error', () => {})
  stranger.resume()
  await closeOf(stranger)
  await harness.testLog.until('connection.refused', { reason: 'certificate_missing' })
})

test('one of a fleet that comes back at once is revoked: it is cut and kept out at every worker, and all others are let in', async () => {
  const stolen = await harness.device('fleet-0')
  const others: (typeof stolen)[] = []
  while (others.length < 200) others.push(await harness.device(`fleet-${others.length + 1}`))
  const join = async (device: typeof stolen, session?: Buffer) => {
    const socket = await harness.socket(device, { servername: 'localhost', session })
    const isResumed = socket.isSessionReused()
    socket.write(connectPacket(device.id))
    const ticket = isResumed ? undefined : once(socket, 'session')
    const [answer] = (await once(socket, 'data')) as [Buffer]
    return { socket, isResumed, code: answer[3], ticket: ticket && ((await ticket)[0] as Buffer) }
  }
  const { socket, code, ticket } = await join(stolen)
  assert.equal(code, 0)
  const arriving = others.map((device) => join(device))
  await Promise.race(arriving)
  const closed = closeOf(socket)
  await harness.revokeDevice(stolen)
  await closed
  const attempts = Array.from({ length: 12 }, () => join(stolen, ticket))
  for (const { isResumed, code } of await Promise.all(attempts)) assert.deepEqual([isResumed, code], [true, 5])
  const arrived = await Promise.all(arriving)
  assert.deepEqual(new Set(arrived.map((one) => one.code)), new Set([0]))
  assert.ok(arrived.every((one) => !one.socket.destroyed))
  assert.equal(others.filter(({ id }) => harness.broker.sessions.findLive(id) === undefined).length, 0)
  for (const one of arrived) one.socket.destroy()
})

test('an address that another gateway serves is told, though the system would share it', async () => {
  const listen = `127.0.0.1:${harness.port}`
  await assert.rejects(BrokerHarness.start({ broker: { workers, listen } }), { code: 'port_in_use' })
})

test('a worker that is killed takes its own connections along, and another takes its place', async () => {
  const count = 10
  let closed = 0
  for (let at = 0; at < count; at++) {
    const client = await harness.connect(await harness.device(`sensor-k${at}`))
    client.once('close', () => closed++)
  }
  const before = pidOf('worker-1')
  process.kill(before, 'SIGKILL')
  const { connections } = await harness.testLog.until('worker.ended', { worker: 'worker-1' })
  assert.ok(Number(connections) > 0)
  // Others of this file are among them, and theirs are not counted here.
  await eventually(() => closed > 0 && closed <= Number(connections))
  assert.ok(closed < count)
  await harness.testLog.until('worker.listening', { worker: 'worker-1' })
  assert.notEqual(pidOf('worker-1'), before)
  for (let at = 0; at < 4; at++) (await harness.connect(await harness.device(`sensor-l${at}`))).end()
})

test('workers end with their broker, when it stops and when it is killed', async () => {
  const pids = ['worker-1', 'worker-2'].map(pidOf)
  await harness.stopBroker()
  assert.deepEqual(pids.filter(isRunning), [])
  const { child } = await startBrokerProcess(harness, { broker: { workers } })
  const children = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').trim().split(' ').map(Number)
  assert.equal(children.length, workers)
  child.kill('SIGKILL')
  await eventually(() => !children.some(isRunning))
  await harness.startBroker()
})

test('a worker that cannot be started for want of descriptors is started when there are some again', () => {
  const script = `import { closeSync, openSync } from 'node:fs'
import { Worker } from ${JSON.stringify(join(root, 'broker/workers/worker.ts'))}
const taken = []
try {
  for (;;) taken.push(openSync('/dev/null', 'r'))
} catch {}
const note = ({ event }) => {
  said.push(event)
  if (event === 'worker.ended') taken.splice(0).forEach(closeSync)
  if (event === 'worker.listening') worker.stop().then(() => console.log(said.join(' ')))
}
const said = []
const worker = new Worker(0, [], { info: note, error: note })`
  const { stdout, stderr } = spawnSync(
    '/bin/sh',
    ['-c', 'ulimit -n 100; exec "$0" --input-type=module-typescript -e "$1"', process.execPath, script],
    { encoding: 'utf8', timeout: 30_000 },
  )
  assert.equal(stdout, 'worker.started worker.failed worker.ended worker.started worker.listening\n', stderr)
})
