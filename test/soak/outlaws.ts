/** Devices that come to no good. */
import { connect as connectTcp } from 'node:net'
import type { IPublishPacket, Packet } from 'mqtt-packet'
import type { CheckName } from './checks.ts'
import { type Cell, Device, Listener, sleep } from './device.ts'
import { willOf } from './publishers.ts'
import type { Stream } from './receipts.ts'
import { Wire } from './wire.ts'

const cutMs = 40_000

/** Has a certificate of its own, listens and publishes, and is revoked in the middle of it. */
class Doomed extends Listener {
  override readonly kinds = ['q1']
  #isRevoked = false
  #own!: Stream

  constructor(cell: Cell, name: string) {
    super(cell, name, {
      keeps: true,
      version: ([4, 5] as const)[cell.world.randomFor(name)(2)]!,
      will: (connection) => willOf(cell, `${cell.name}-${name}`, connection),
    })
  }

  override async enter(): Promise<void> {
    await super.enter()
    this.#own = this.stream('q1', 'at least once')
    this.suspend()
    await this.client.subscribe([{ topic: `cells/${this.cell.name}/+/q1`, qos: 1 }])
    this.resume()
  }

  override async play(stop: AbortSignal): Promise<void> {
    const { world, cell, identity, random } = this
    const gone = new AbortController()
    const publishing = this.publishing(gone.signal, this.#own, { everyMs: 100 })
    await sleep(3_000 + random(5_000), stop)
    this.suspend()
    await world.revoke(identity, cell.name)
    this.#isRevoked = true
    this.#own.endsAt = this.#own.sent
    this.bar()
    for (let left = cutMs; this.client.isConnected && left > 0; left -= 50) await sleep(50)
    gone.abort()
    await publishing
    const name: CheckName = 'nothing to or from a revoked device'
    world.checks.look(name, this.client.isConnected ? `${this.id} is still connected` : undefined)
    const isIn = await this.client.connect().then(
      () => true,
      () => false,
    )
    world.checks.look(name, isIn ? `${this.id} was let in again` : undefined)
    await this.client.drop()
  }

  override hear(message: IPublishPacket): void {
    const stream = this.cell.streams.get(message.topic)
    if (this.#isRevoked && stream !== undefined && !this.receipts.has(stream))
      this.world.checks.look('nothing to or from a revoked device', `${this.id} was sent ${message.topic}`)
    super.hear(message)
  }

  override get barredBy(): CheckName {
    return 'nothing to or from a revoked device'
  }

  /** Being closed is what it is there for. */
  override amiss(fault: string): void {
    if (!fault.endsWith('closed the connection') && !fault.includes('DISCONNECT')) super.amiss(fault)
  }
}

/** A place for one doomed device after the other. */
export class Gallows extends Device {
  readonly #name: string

  constructor(cell: Cell, name: string) {
    super(cell, name, { keeps: false })
    this.#name = name
  }

  override async play(stop: AbortSignal): Promise<void> {
    await this.often(stop, 4_000, async () => {
      const doomed = new Doomed(this.cell, `${this.#name}-${this.world.counts.revoked}`)
      await doomed.enter()
      await doomed.play(stop)
    })
  }
}

const text = (value: string): number[] => [value.length >> 8, value.length & 255, ...Buffer.from(value)]
const frame = (header: number, ...body: number[]): Buffer => Buffer.from([header, body.length, ...body])
const noProperties = (version: number): number[] => (version === 5 ? [0] : [])

/** Each has to end the connection, whatever version it is in. */
const defects: Record<string, (version: number) => Buffer> = {
  'QoS 3': (version) => frame(0x36, ...text('a'), 0, 1, ...noProperties(version)),
  'packet identifier 0': (version) => frame(0x32, ...text('a'), 0, 0, ...noProperties(version)),
  'a wildcard in a topic': (version) => frame(0x30, ...text('a/#'), ...noProperties(version)),
  'a topic that is not UTF-8': (version) => frame(0x30, 0, 2, 0xc3, 0x28, ...noProperties(version)),
  'U+0000 in a topic': (version) => frame(0x30, 0, 2, 0x61, 0x00, ...noProperties(version)),
  'a topic longer than its packet': () => frame(0x30, 0, 200, 0x61),
  'SUBSCRIBE with wrong flags': (version) => frame(0x80, 0, 1, ...noProperties(version), ...text('a'), 0),
  'SUBSCRIBE without a filter': (version) => frame(0x82, 0, 1, ...noProperties(version)),
  'a bad filter': (version) => frame(0x82, 0, 1, ...noProperties(version), ...text('a#'), 0),
  'packet type 0': () => frame(0x00),
  'a server’s packet': () => frame(0xd0),
  'PINGREQ with a body': () => frame(0xc0, 1),
  'a length without end': () => Buffer.from([0x30, 0xff, 0xff, 0xff, 0xff, 0xff]),
  'more than the broker takes': () => Buffer.from([0x30, 0xff, 0xff, 0xff, 0x7f, 0, 1, 0x61]),
  'an alias that is too high': (version) =>
    version === 5 ? frame(0x30, ...text('a'), 3, 0x23, 0xff, 0xff) : frame(0x36, 0, 0),
  noise: () => Buffer.from(Array.from({ length: 64 }, (_, at) => 0xf3 ^ at)),
}

/** Sends what is no MQTT, and what is no TLS; leaves in the middle of everything. */
export class Vandal extends Device {
  #next: number

  constructor(cell: Cell, name: string) {
    super(cell, name, { keeps: false })
    this.#next = this.random(Object.keys(defects).length)
  }

  override async play(stop: AbortSignal): Promise<void> {
    await this.often(stop, 2_500, async () => {
      const { world, random } = this
      world.counts.malformed++
      const ways = [this.#defect, this.#defect, this.#defect, this.#noTls, this.#noMqtt, this.#halfConnect]
      await ways[random(ways.length)]!.call(this)
    })
  }

  async #defect(): Promise<void> {
    const names = Object.keys(defects)
    const name = names[this.#next++ % names.length]!
    const { version } = this.client
    const wire = await this.#dial()
    const { promise: opened, resolve: open } = Promise.withResolvers<void>()
    let last: Packet | undefined
    wire.onPacket = (packet) => {
      last = packet
      open()
    }
    wire.send(this.#connectPacket())
    await Promise.race([opened, wire.closed])
    wire.send(defects[name]!(version))
    await this.#expectClosed(wire, name)
    const isTold = version < 5 || (last?.cmd === 'disconnect' && last.reasonCode! >= 0x80)
    const fault = isTold ? undefined : `${this.id}: no DISCONNECT after ${name}, but ${last?.cmd}`
    this.world.checks.look('malformed packets close', fault)
  }

  async #noMqtt(): Promise<void> {
    const wire = await this.#dial()
    wire.send(Buffer.from('GET / HTTP/1.1\r\n\r\n'))
    await this.#expectClosed(wire, 'HTTP')
  }

  async #halfConnect(): Promise<void> {
    const wire = await this.#dial()
    wire.send(Buffer.from([0x10, 0x40, 0, 4]))
    await sleep(this.random(200))
    wire.socket.destroy()
  }

  async #noTls(): Promise<void> {
    const socket = connectTcp({ host: '127.0.0.1', port: this.world.server.port })
    socket.on('error', () => {})
    const closed = new Promise((resolve) => socket.once('close', resolve))
    if (this.random(2) === 0) socket.write('CONNECT')
    await sleep(this.random(500))
    socket.destroy()
    await closed
  }

  #dial(): Promise<Wire> {
    return Wire.dial(this.identity, this.world.server, this.client.version)
  }

  /** A session beside that of its client. */
  #connectPacket(): Packet {
    const { version } = this.client
    return {
      cmd: 'connect',
      clientId: `${this.id}:x`,
      protocolVersion: version,
      protocolId: version === 3 ? 'MQIsdp' : 'MQTT',
      clean: true,
      keepalive: 60,
    }
  }

  async #expectClosed(wire: Wire, defect: string): Promise<void> {
    const isClosed = await wire.closedWithin(cutMs)
    const fault = isClosed ? undefined : `${this.id}: still open after ${defect} in version ${this.client.version}`
    this.world.checks.look('malformed packets close', fault)
    wire.socket.destroy()
  }
}
