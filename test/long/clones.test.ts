/** One key in two places, and what only looks like it, over real sockets: 127.0.0.1 and 127.0.0.2 are two places. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { after, before, suite, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import type { IClientOptions, MqttClient } from 'mqtt'
import { BrokerHarness, closeOf, connectPacket, type TestDevice } from '../harness/broker.ts'
import { openPath } from '../harness/path.ts'

const here = '127.0.0.1'
const there = '127.0.0.2'
const pingreq = Buffer.from([0xc0, 0])

const from = (harness: BrokerHarness, device: TestDevice, localAddress: string, options: IClientOptions): MqttClient =>
  harness.dial(device, {
    reconnectPeriod: 50,
    reconnectOnConnackError: true,
    ...options,
    localAddress,
  } as IClientOptions)

/** Connected, and heard all the time. */
async function chatter(client: MqttClient, topic: string): Promise<NodeJS.Timeout> {
  if (!client.connected) await new Promise((resolve) => client.once('connect', resolve))
  const timer = setInterval(() => client.publish(topic, 'x'), 100)
  client.once('close', () => clearInterval(timer))
  return timer
}

suite('one key in two places', () => {
  let harness: BrokerHarness
  before(async () => {
    harness = await BrokerHarness.start({
      broker: { clones: { overlapMs: 1_000, suspendMs: 1_000 } },
    })
  })
  after(() => harness[Symbol.asyncDispose]())

  test('two who stay, each under a client id of its own, are both ended, come back, and are kept away for longer', async () => {
    const device = await harness.device('side-1')
    const clients = [
      from(harness, device, here, { clientId: 'side-1:a' }),
      from(harness, device, there, { clientId: 'side-1:b' }),
    ]
    const closed = clients.map(closeOf)
    for (const client of clients) await chatter(client, 'devices/side-1/x')
    const { rule, suspendedUntil, places } = await harness.testLog.until('clone.seen', { deviceId: 'side-1' })
    assert.equal(rule, 'overlap')
    assert.equal((places as string[]).length, 2)
    await Promise.all(closed)
    for (const client of clients) await chatter(client, 'devices/side-1/x')
    assert.ok(Date.now() >= Date.parse(String(suspendedUntil)))
    await Promise.all(clients.map(closeOf))
    const refusals = (): string[] =>
      harness.testLog.lines.flatMap(({ event, detail }) =>
        event === 'connection.refused' ? [/used again at (.*)$/.exec(String(detail))?.[1] ?? ''] : [],
      )
    while (new Set(refusals()).size < 2) await delay(20)
    const [first, second] = [...new Set(refusals())].map((time) => Date.parse(time))
    assert.ok(second! - first! > 2_000, 'the second time is longer')
    await Promise.all(clients.map((client) => client.endAsync(true)))
  })

  test('of more than may be suspended the others go on, and that is an error in the log', async () => {
    // Nobody's time is up before the last one is seen, however long that takes.
    await using other = await BrokerHarness.start({ broker: { clones: { suspendMs: 600_000, maxSuspended: 2 } } })
    for (const id of ['many-1', 'many-2', 'many-3']) {
      const device = await other.device(id)
      const fight = [here, there].map((address) => from(other, device, address, { clientId: id }))
      await other.testLog.until('clone.seen', { deviceId: id })
      await Promise.all(fight.map((client) => client.endAsync(true)))
    }
    const { deviceId } = await other.testLog.until('clone.notSuspended')
    assert.equal(deviceId, 'many-3')
  })
})

suite('0 false alerts', () => {
  let harness: BrokerHarness
  before(async () => {
    harness = await BrokerHarness.start({ broker: { clones: { overlapMs: 1_000 } } })
  })
  after(() => harness[Symbol.asyncDispose]())

  const noAlert = (deviceId: string): void => assert.equal(harness.testLog.find('clone.seen', { deviceId }), undefined)
  /** A session over a path, heard a few times. */
  async function session(device: TestDevice, address: string, clientId: string) {
    const path = await openPath(harness.port, address)
    const socket = await harness.socket(device, { port: path.port })
    socket.write(connectPacket(clientId))
    assert.deepEqual((await once(socket, 'data'))[0], Buffer.from([0x20, 2, 0, 0]))
    for (let n = 0; n < 3; n++) {
      socket.write(pingreq)
      await once(socket, 'data')
    }
    return { path, socket }
  }

  test('NAT rebinding: 30 times another address, the old connection silent, or dead', async () => {
    const device = await harness.device('nat-1')
    await using paths = new AsyncDisposableStack()
    for (let n = 0; n < 30; n++) {
      const { path, socket } = await session(device, n % 2 ? there : here, 'nat-1')
      paths.use(path)
      path.leave()
      if (n % 3 === 0) socket.destroy()
      await delay(50)
    }
    noAlert('nat-1')
  })

  test('roaming: several programs of a device move between two networks, some ending what they leave', async () => {
    const device = await harness.device('roam-1')
    await using paths = new AsyncDisposableStack()
    for (let n = 0; n < 8; n++) {
      const address = n % 2 ? there : here
      const sessions = [await session(device, address, 'roam-1:a'), await session(device, address, 'roam-1:b')]
      await delay(1_200)
      for (const { path, socket } of sessions) {
        paths.use(path)
        if (n % 4 < 2) {
          socket.end(Buffer.from([0xe0, 0]))
          await once(socket, 'close')
        }
        path.leave()
      }
    }
    noAlert('roam-1')
  })

  test('fast reconnects: a crash loop, and a device with three programs that starts again and again', async () => {
    const device = await harness.device('loop-1')
    for (let n = 0; n < 40; n++) {
      const clients = await Promise.all(
        ['loop-1', 'loop-1:a', 'loop-1:b'].map((clientId) => harness.connect(device, { clientId })),
      )
      // Some have closed what they had before they come again, some have not, and are taken over.
      for (const client of n % 3 ? clients : []) client.stream.destroy()
    }
    noAlert('loop-1')
  })
})
