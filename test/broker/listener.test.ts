import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { after, before, describe, test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import { Listener } from '../../broker/listener.ts'
import { BrokerHarness, closeOf, eventually } from '../harness/broker.ts'

// Long enough for the handshakes of a busy machine, which have to be in time here too.
const handshakeTimeoutMs = 2_000
let harness: BrokerHarness
before(async () => {
  harness = await BrokerHarness.start({ broker: { handshakeTimeoutMs, maxConnections: 30 } })
})
after(() => harness[Symbol.asyncDispose]())

async function dial(): Promise<Socket> {
  const socket = connect(harness.port, '127.0.0.1')
  socket.on('error', () => {})
  socket.resume()
  await once(socket, 'connect')
  return socket
}

describe('a handshake that does not come', { concurrency: true }, () => {
  const late = { reason: 'handshake_failed', detail: `no TLS within ${handshakeTimeoutMs} ms` }

  test('a peer that sends nothing is closed when the handshake should be over (T29)', async () => {
    await closeOf(await dial())
    await harness.testLog.until('connection.refused', late)
  })

  test('a ClientHello that trickles in does not buy time', async () => {
    const socket = await dial()
    socket.write(Buffer.from([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]))
    const timer = setInterval(() => socket.writable && socket.write(Buffer.from([0])), 50)
    await closeOf(socket)
    clearInterval(timer)
    await harness.testLog.until('connection.refused', late)
  })
})

test('bytes that are not TLS end the connection and harm nobody', async () => {
  const client = await harness.connect(await harness.device('sensor-1'))
  const socket = await dial()
  socket.write('GET / HTTP/1.1\r\n\r\n')
  await closeOf(socket)
  assert.ok(client.connected)
})

test('TLS 1.1 is not spoken', async () => {
  const device = await harness.device('sensor-2')
  await assert.rejects(
    harness.socket(device, { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' }),
  )
})

test('connections over the limit are closed before they cost a handshake, and there is room again when others go', async () => {
  const sockets = await Promise.all(Array.from({ length: 30 }, () => dial()))
  await closeOf(await dial())
  await harness.testLog.until('connection.refused', { reason: 'too_many_connections' })
  for (const socket of sockets) socket.destroy()
  const device = await harness.device('sensor-3')
  let code: number | string = 'closed'
  while (code !== 0) code = await harness.refusal(device)
})

test('many who connect at once and say nothing hold nobody up who does', async () => {
  const sockets = await Promise.all(Array.from({ length: 20 }, () => dial()))
  const device = await harness.device('sensor-4')
  const clients = await Promise.all(
    ['a', 'b', 'c'].map((suffix) => harness.connect(device, { clientId: `sensor-4:${suffix}` })),
  )
  assert.ok(clients.every(({ connected }) => connected))
  for (const socket of sockets) socket.destroy()
  for (const client of clients) client.end(true)
})

for (const [whom, proxies] of [
  ['whom a proxy names', ['127.0.0.1/32']],
  ['who begin to speak', []],
] as const) {
  test(`of all ${whom} at once each turn of the event loop begins with one`, async () => {
    await using stack = new AsyncDisposableStack()
    const { key, chain } = await harness.pki.service('broker')
    let turn = 0
    const begun: { turn: number; who: string }[] = []
    const listener = await Listener.open({
      listen: '127.0.0.1:0',
      context: { credential: { key, cert: chain }, anchors: harness.pki.anchors },
      names: [],
      proxies,
      handshakeTimeoutMs: 10_000,
      maxConnections: 100,
      onPeer: () => {},
      // As soon as TLS is given what it says, which is no TLS.
      onRefused: (_reason, _message, who) => begun.push({ turn, who }),
    })
    stack.defer(() => listener.stop())
    const isProxied = proxies.length > 0
    const peers = Array.from({ length: 20 }, (_, n) => (isProxied ? `192.0.2.${n + 1}` : '127.0.0.1'))
    const sockets = await Promise.all(
      peers.map(async () => {
        const socket = connect(listener.address.port, '127.0.0.1')
        stack.defer(() => void socket.destroy())
        socket.on('error', () => {})
        await once(socket, 'connect')
        return socket
      }),
    )
    // The system deals them out one in a turn; after these the listener has them all.
    for (let n = 0; n < 100; n++) await setImmediate()
    for (const [n, socket] of sockets.entries())
      socket.write(Buffer.concat([isProxied ? headerOf(n + 1) : Buffer.of(), Buffer.from('GET /')]))
    for (; begun.length < peers.length; turn++) await setImmediate()
    assert.equal(new Set(begun.map((one) => one.turn)).size, peers.length, JSON.stringify(begun))
    assert.deepEqual(
      begun.map(({ who }) => who),
      peers,
    )
  })
}

test('of all whose answers come at once each turn of the event loop lets one in', async () => {
  await using stack = new AsyncDisposableStack()
  const { key, chain } = await harness.pki.service('broker')
  const device = await harness.device('sensor-5')
  const welcomed: { turn: number; authorized: boolean }[] = []
  let turn = 0
  const listener = await Listener.open({
    listen: '127.0.0.1:0',
    context: { credential: { key, cert: chain }, anchors: harness.pki.anchors },
    names: [],
    proxies: [],
    handshakeTimeoutMs: 60_000,
    maxConnections: 100,
    onPeer: (socket, { authorized }) => {
      welcomed.push({ turn, authorized })
      stack.defer(() => void socket.destroy())
    },
    onRefused: () => {},
  })
  stack.defer(() => listener.stop())
  // Between the two: passes the ClientHello on, and what a client says behind it when all have said something.
  const held: (() => void)[] = []
  const relay = createServer((near) => {
    const far = connect(listener.address.port, '127.0.0.1').on('error', () => {})
    near.on('error', () => {})
    far.pipe(near)
    near.once('data', (hello) => {
      far.write(hello)
      near.once('data', (answer) => held.push(() => far.write(answer)))
    })
    stack.defer(() => void far.destroy())
  }).listen(0, '127.0.0.1')
  await once(relay, 'listening')
  stack.defer(() => void relay.close())
  for (let n = 0; n < 12; n++) {
    const client = connectTls((relay.address() as AddressInfo).port, '127.0.0.1', {
      cert: device.chain,
      key: device.key,
      rejectUnauthorized: false,
    })
    client.on('error', () => {})
    stack.defer(() => void client.destroy())
  }
  await eventually(() => held.length === 12)
  for (const passOn of held) passOn()
  for (; welcomed.length < 12; turn++) await setImmediate()
  assert.equal(new Set(welcomed.map((one) => one.turn)).size, 12, JSON.stringify(welcomed))
  assert.ok(welcomed.every(({ authorized }) => authorized))
})

/** PROXY protocol, version 2: TCP over IPv4 from 192.0.2.n. */
const headerOf = (n: number): Buffer =>
  Buffer.from(`0d0a0d0a000d0a515549540a2111000cc00002${n.toString(16).padStart(2, '0')}c000026403e822b3`, 'hex')

test('a port in use is one sentence', async () => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  await harness.stopBroker()
  const { settings } = harness
  settings.broker = { ...settings.broker, listen: `127.0.0.1:${port}` }
  await assert.rejects(harness.startBroker(), {
    code: 'port_in_use',
    message: new RegExp(`127\\.0\\.0\\.1:${port} is in use`),
  })
  settings.broker = { ...settings.broker, listen: '127.0.0.1:0' }
  await new Promise((resolve) => server.close(resolve))
  await harness.startBroker() // the failed start has let go of the folder
})

test('a peer that resets its connection inside the handshake is told of by its address', async () => {
  const socket = await dial()
  socket.write('GET / HTTP/1.1\r\n\r\n')
  socket.resetAndDestroy()
  const told = await harness.testLog.until('connection.refused', { detail: 'the connection ended before TLS' })
  assert.equal(told.remoteAddress, '127.0.0.1')
})

test('stopping does not wait for peers that never finish their handshake', async () => {
  const socket = await dial()
  const closed = closeOf(socket)
  await eventually(() => socket.readyState === 'open')
  await harness.stopBroker()
  await closed
  await harness.startBroker()
})
