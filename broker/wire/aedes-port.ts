/** The seam to aedes: the bus for messages of QoS 0, and the registry of who listens on it. Nobody else knows aedes. */
import { once } from 'node:events'
import { createRequire } from 'node:module'
import { Duplex } from 'node:stream'
import { Aedes, type AedesPublishPacket, type Client } from 'aedes'

/** What aedes keeps from its types and we rely on; a test fails when one of these names goes. */
type Core = Client & {
  _nextBatch(): void
  _parser: { emit(event: 'packet', packet: object): void }
}
type PacketWriter = { writeToStream(packet: object, stream: object, options?: object): boolean }

/** The copy of mqtt-packet that aedes resolves. */
const mqttPacket: PacketWriter = createRequire(import.meta.resolve('aedes'))('mqtt-packet')
const { writeToStream } = mqttPacket
mqttPacket.writeToStream = (packet, stream, options) => {
  if (!(stream instanceof Port)) return writeToStream(packet, stream, options)
  stream.hear(packet as { cmd: string; properties?: unknown })
  return true // a slow reader holds nobody else up (trap T19)
}

/** Who listens on the bus. `carried` is what was given to `publish`, as it is. */
export type Listener<T> = {
  clientId: string
  /** Asked before each delivery, once for each message, whatever number of filters match. */
  wants(carried: T): boolean
  take(carried: T): void
  /** The bus let go of the listener on its own account. */
  lost(): void
}

/** One connection as aedes sees it: a stream that carries no bytes. */
class Port extends Duplex {
  readonly listener: Listener<unknown>

  constructor(listener: Listener<unknown>) {
    super({ read() {}, write: (_chunk, _encoding, done) => done() })
    this.listener = listener
  }

  hear(packet: { cmd: string; properties?: unknown }): void {
    if (packet.cmd === 'publish') this.listener.take(packet.properties)
    else if (packet.cmd === 'connack') this.emit('connack')
  }
}

/** One listener's place on the bus, taken with its first filter: most devices only publish. */
export class BusClient {
  readonly #letIn: (listener: Listener<unknown>) => Promise<Core>
  readonly #listener: Listener<unknown>
  /** As of the last call, whatever aedes is still busy with. */
  #wanted: Set<string> | undefined
  #attached: Promise<Core> | undefined
  #removing: Promise<void> | undefined
  #isClosed = false

  constructor(letIn: (listener: Listener<unknown>) => Promise<Core>, listener: Listener<unknown>) {
    this.#letIn = letIn
    this.#listener = listener
  }

  /**
   * In force when it resolves; never on a listener that is closed.
   *
   * @param filters without groups of shared subscriptions
   * @throws Error when aedes does not let it in
   */
  async subscribe(filters: readonly string[]): Promise<void> {
    if (filters.length === 0 || this.#isClosed) return
    this.#wanted ??= new Set()
    const wanted = this.#wanted
    for (const filter of filters) wanted.add(filter)
    this.#attached ??= this.#letIn(this.#listener)
    const client = await this.#attached
    // aedes would take a filter that it is about to remove for one that it has.
    while (this.#removing !== undefined) await this.#removing
    const subscriptions = filters.filter((filter) => wanted.has(filter)).map((topic) => ({ topic, qos: 0 as const }))
    if (subscriptions.length === 0 || client.closed) return
    await new Promise<void>((resolve, reject) => {
      client.subscribe(subscriptions, (error) => (error ? reject(error) : resolve()))
    })
  }

  unsubscribe(filters: readonly string[]): void {
    for (const filter of filters) this.#wanted?.delete(filter)
    const attached = this.#attached
    if (filters.length === 0 || attached === undefined || this.#isClosed) return
    const before = this.#removing ?? Promise.resolve()
    const removing = before
      .then(() => attached)
      .then(
        (client) =>
          new Promise<void>((resolve) => {
            client.unsubscribe({ cmd: 'unsubscribe', unsubscriptions: [...filters] }, () => resolve())
          }),
        () => {}, // it was not let in: who subscribes hears of that
      )
    this.#removing = removing
    void removing.then(() => {
      if (this.#removing === removing) this.#removing = undefined
    })
  }

  async close(): Promise<void> {
    this.#isClosed = true
    const client = await this.#attached?.catch(() => undefined)
    if (client !== undefined) await new Promise<void>((resolve) => client.close(() => resolve()))
  }
}

/**
 * aedes sees clean sessions and QoS 0 alone: what it does with more is ours to do (traps T25, T30-T33). A message goes
 * through it by reference.
 */
export class Bus<T> implements AsyncDisposable {
  readonly #broker: Aedes

  private constructor(id: string) {
    this.#broker = new Aedes({
      id,
      concurrency: 0, // no message waits for the ones before it: no listener is slow
      maxClientsIdLength: 65_535,
      authorizeForward: (client, packet) => {
        const { listener } = client.conn as unknown as Port
        return listener.wants(carriedBy(packet)) ? packet : null
      },
    })
  }

  /** @param onError without a listener an error of aedes would end the process (trap T28) */
  static async start<T>(id: string, onError: (error: unknown) => void): Promise<Bus<T>> {
    const bus = new Bus<T>(id)
    bus.#broker.on('error' as never, onError)
    await bus.#broker.listen()
    return bus
  }

  /** Nobody else may listen under the same client id. */
  attach(listener: Listener<T>): BusClient {
    return new BusClient(this.#letIn, listener)
  }

  /** Delivers a message to all who listen on its topic and want it, in a later turn. @param done nobody is left who has not got it */
  publish(topic: string, carried: T, done: () => void): void {
    const packet = { cmd: 'publish' as const, topic, payload: nothing, qos: 0 as const, retain: false, dup: false }
    this.#broker.publish({ ...packet, properties: carried as never } as never, () => done())
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await new Promise<void>((resolve) => this.#broker.close(resolve))
  }

  readonly #letIn = async (listener: Listener<unknown>): Promise<Core> => {
    const port = new Port(listener)
    const client = this.#broker.handle(port as never, undefined as never) as Core
    const isIn = Promise.race([
      once(port, 'connack'),
      once(port, 'close').then(() => {
        throw new Error('the bus did not let a client in')
      }),
    ])
    client._nextBatch()
    client._parser.emit('packet', {
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: 4,
      clean: true,
      keepalive: 0,
      clientId: listener.clientId,
    })
    await isIn
    port.once('close', () => listener.lost())
    return client
  }
}

const nothing = Buffer.alloc(0)

/** aedes copies `properties` by reference from packet to packet. */
const carriedBy = (packet: AedesPublishPacket): unknown => (packet as { properties?: unknown }).properties
