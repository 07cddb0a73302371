/** One key at two brokers, and what only looks like it: 127.0.0.1 and 127.0.0.2 are two places. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { cpSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, suite, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { connect as connectTls, type TLSSocket } from 'node:tls'
import { connect, type MqttClient } from 'mqtt'
import { type BrokerService, createBrokerService } from '../../broker/service.ts'
import { closeOf, connectPacket, TestLog } from '../harness/broker.ts'
import { type DeviceKeys, EnrollHarness, testConfiguration } from '../harness/fleet.ts'
import { openPath, type Path } from '../harness/path.ts'

const here = '127.0.0.1'
const there = '127.0.0.2'
const overlapMs = 1_000
const pingreq = Buffer.from([0xc0, 0])

type From = { localAddress: string; clientId?: string }
type Broker = { service: BrokerService; log: TestLog; port: number }

/** Two brokers of one gateway, each with a certificate of its own. */
class TwoBrokers implements AsyncDisposable {
  readonly fleet: EnrollHarness
  readonly brokers: Broker[] = []
  readonly #clients: MqttClient[] = []

  private constructor(fleet: EnrollHarness) {
    this.fleet = fleet
  }

  static async start(): Promise<TwoBrokers> {
    const clones = { overlapMs, suspendMs: 1_000 }
    const fleet = await EnrollHarness.start({ config: testConfiguration({ broker: { clones } }) })
    const two = new TwoBrokers(fleet)
    const services = join(fleet.dataDir, 'services')
    const ids = ['broker-1', 'broker-2']
    // Enroll makes a certificate of the broker that its configuration names.
    for (const id of ids) {
      await fleet.close()
      rmSync(join(services, 'broker'), { recursive: true, force: true })
      fleet.config.broker.id = id
      await fleet.open()
      cpSync(join(services, 'broker'), join(fleet.dataDir, id, 'credential'), { recursive: true })
    }
    for (const id of ids) {
      const log = new TestLog()
      const service = await createBrokerService({
        config: testConfiguration({ broker: { id, feed: fleet.endpoints.feed, clones } }),
        dataDir: join(fleet.dataDir, id, 'data'),
        credentialDir: join(fleet.dataDir, id, 'credential'),
        log: log.log,
      })
      await service.feed.untilLive()
      two.brokers.push({ service, log, port: Number(new URL(service.endpoints.mqtts).port) })
    }
    return two
  }

  /** Comes back whenever it is put out, and is heard all the time that it is there. */
  chatter(device: DeviceKeys, { port }: Broker, { localAddress, clientId = device.id }: From): MqttClient {
    const client = connect(`mqtts://127.0.0.1:${port}`, {
      ...{ clientId, key: device.key, cert: device.certificate, ca: this.fleet.root },
      ...{ reconnectPeriod: 50, reconnectOnConnackError: true, localAddress },
    } as object)
    client.on('error', () => {})
    const timer = setInterval(() => client.connected && client.publish(`devices/${device.id}/x`, 'x'), 100)
    client.once('end', () => clearInterval(timer))
    this.#clients.push(client)
    return client
  }

  /** A session over a path, heard a few times. */
  async session(device: DeviceKeys, { port }: Broker, address: string): Promise<{ path: Path; socket: TLSSocket }> {
    const path = await openPath(port, address)
    const tls = { key: device.key, cert: device.certificate, ca: this.fleet.root }
    const socket = connectTls({ host: '127.0.0.1', port: path.port, ...tls })
    socket.on('error', () => {})
    await once(socket, 'secureConnect')
    socket.write(connectPacket(device.id))
    assert.deepEqual((await once(socket, 'data'))[0], Buffer.from([0x20, 2, 0, 0]))
    for (let n = 0; n < 3; n++) {
      socket.write(pingreq)
      await once(socket, 'data')
    }
    return { path, socket }
  }

  /** As its incident has them. */
  async alerts(deviceId: string): Promise<Record<string, unknown>[]> {
    const { items } = (await this.fleet.admin('GET', `/incidents?deviceId=${deviceId}`)).body
    return items.flatMap(({ evidence }: { evidence: { details: Record<string, unknown> }[] }) =>
      evidence.map(({ details }) => details),
    )
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#clients.map((client) => client.endAsync(true)))
    for (const { service } of this.brokers) await service[Symbol.asyncDispose]()
    await this.fleet[Symbol.asyncDispose]()
  }
}

suite('one key at two brokers', () => {
  let two: TwoBrokers
  before(async () => {
    two = await TwoBrokers.start()
  })
  after(() => two[Symbol.asyncDispose]())

  test('two that want one client id are both ended as soon as the first is back for it, with one alert', async () => {
    const device = await two.fleet.enrolledDevice('same-1')
    const [one, other] = two.brokers as [Broker, Broker]
    const first = two.chatter(device, one, { localAddress: here })
    await new Promise<void>((resolve) => first.once('connect', () => resolve()))
    // Who has just come may have come after one that is told of.
    await delay(1_000)
    const second = two.chatter(device, other, { localAddress: there })
    while ((await two.alerts('same-1')).length === 0) await delay(5)
    const [{ rule, suspended, places }] = (await two.alerts('same-1')) as [Record<string, unknown>]
    assert.deepEqual([rule, suspended], ['duel', true])
    assert.match((places as string[]).toSorted().join(), /127\.0\.0\.1 .* at broker-1,.* 127\.0\.0\.2 .* at broker-2/)
    for (const { log } of two.brokers) {
      await log.until('connection.refused', { deviceId: 'same-1', reason: 'key_suspended' })
      const ends = log.lines.filter(({ event, deviceId }) => event === 'session.closed' && deviceId === 'same-1')
      assert.ok(ends.filter(({ reason }) => reason === 'session_elsewhere').length <= 1, 'at most two takeovers')
    }
    await Promise.all([first, second].map((client) => client.endAsync(true)))
    assert.equal((await two.alerts('same-1')).length, 1)
  })

  test('both are ended, with one alert that names them, and are kept away for longer when they come back', async () => {
    const device = await two.fleet.enrolledDevice('side-1')
    const [one, other] = two.brokers as [Broker, Broker]
    const clients = [
      two.chatter(device, one, { localAddress: here, clientId: 'side-1:a' }),
      two.chatter(device, other, { localAddress: there, clientId: 'side-1:b' }),
    ]
    await Promise.all(clients.map((client) => new Promise<void>((resolve) => client.once('connect', () => resolve()))))
    const bothSince = performance.now()
    await Promise.all(clients.map(closeOf))
    assert.ok(performance.now() - bothSince >= overlapMs)
    while ((await two.alerts('side-1')).length === 0) await delay(20)
    const [alert] = await two.alerts('side-1')
    const { kind, rule, suspended, places } = alert!
    assert.deepEqual([kind, rule, suspended], ['clone', 'overlap', true])
    assert.match((places as string[]).toSorted().join(), /127\.0\.0\.1 .* at broker-1,.* 127\.0\.0\.2 .* at broker-2/)
    const refusals = ({ log }: Broker): string[] =>
      log.lines.flatMap(({ event, deviceId, detail }) =>
        event === 'connection.refused' && deviceId === 'side-1'
          ? [/used again at (.*)$/.exec(String(detail))?.[1] ?? '']
          : [],
      )
    for (const broker of two.brokers) {
      while (new Set(refusals(broker)).size < 2) await delay(20)
      const [first, second] = [...new Set(refusals(broker))].map((time) => Date.parse(time))
      assert.ok(second! - first! > 2_000, 'the second time is longer')
    }
    await Promise.all(clients.map((client) => client.endAsync(true)))
    assert.equal((await two.alerts('side-1')).length, 1)
  })

  test('roaming: a device goes from one to the other and back, ending what it leaves, or leaving it half open', async () => {
    const device = await two.fleet.enrolledDevice('roam-1')
    await using paths = new AsyncDisposableStack()
    for (let n = 0; n < 4; n++) {
      const { path, socket } = await two.session(device, two.brokers[n % 2]!, n % 2 ? there : here)
      paths.use(path)
      for (let heard = 0; heard < 3; heard++) {
        await delay(overlapMs / 2)
        socket.write(pingreq)
        await once(socket, 'data')
      }
      if (n % 3 === 0) {
        socket.end(Buffer.from([0xe0, 0]))
        await once(socket, 'close')
      }
      path.leave()
    }
    assert.deepEqual(await two.alerts('roam-1'), [])
  })

  test('NAT rebinding: again and again another address, at one broker or the other', async () => {
    const device = await two.fleet.enrolledDevice('nat-1')
    await using paths = new AsyncDisposableStack()
    for (let n = 0; n < 20; n++) {
      const { path, socket } = await two.session(device, two.brokers[n % 2]!, n % 4 < 2 ? here : there)
      paths.use(path)
      path.leave()
      if (n % 3 === 0) socket.destroy()
      await delay(overlapMs / 5)
    }
    await delay(2 * overlapMs)
    assert.deepEqual(await two.alerts('nat-1'), [])
  })

  test('fast reconnects: many devices that are sent from one broker to the other, over two ways', async () => {
    const devices = await Promise.all(Array.from({ length: 5 }, (_, n) => two.fleet.enrolledDevice(`storm-${n}`)))
    await using paths = new AsyncDisposableStack()
    for (let n = 0; n < 8; n++) {
      await Promise.all(
        devices.map(async (device, at) => {
          const { path, socket } = await two.session(device, two.brokers[(n + at) % 2]!, n % 2 ? there : here)
          paths.use(path)
          if (n % 2 === 0) socket.destroy()
          else path.leave()
        }),
      )
    }
    await delay(2 * overlapMs)
    for (const { id } of devices) assert.deepEqual(await two.alerts(id), [])
  })
})
