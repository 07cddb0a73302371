/**
 * Load from raw TLS sockets: frames encoded beforehand, and received octets that are counted rather than decoded. Where
 * messages are to come as fast as a broker takes them, bench/load.c does the same with less CPU.
 *
 * A publisher writes one message at a time, each a TLS record and a segment of its own, as devices do. So many messages are
 * under way as the run asks for, and no more: a broker is neither left idle nor driven into dropping.
 */
import { once } from 'node:events'
import { connect, type TLSSocket } from 'node:tls'
import { decode, encode } from '../broker/wire/codec.ts'
import { FrameReader } from '../broker/wire/frames.ts'
import type { Packet, Version } from '../broker/wire/packet.ts'

export type Identity = { id: string; key: string; chain: string }
export type Opening = {
  name: string
  port: number
  ca: string
  version: Version
  publishers: Identity[]
  subscribers: Identity[]
  /** for runs with `perSecond`, and for round trips */
  isPaced: boolean
  /** The sessions of subscribers outlive their connections. */
  isKept: boolean
}
/** Ends after `messages` to all subscribers together, or after `ms`. @property perSecond 0: as many as the broker takes */
export type Run = {
  name: string
  qos: 0 | 1
  /** that the subscribers ask for */
  granted: 0 | 1
  payloadBytes: number
  underWay: number
  perSecond: number
  messages: number
  ms: number
  /** One message of each publisher under way; what is measured is how long its PUBACK takes. */
  areRoundTrips?: boolean
}
/** @property lost sent and not received within two seconds @property cpuMs of the generator */
export type Outcome = { received: number; lost: number; ms: number; cpuMs: number; latencies: number[] }
export type Request = { open: Opening } | { run: Run } | { close: string }
export type Answer = { done: Outcome | undefined } | { failed: string }

const telemetry = (id: string): string => `devices/${id}/telemetry/value`
export const everybody = 'devices/+/telemetry/#'

export const connectOf = (id: string, version: Version, isKept = false): Packet => ({
  type: 'connect',
  version,
  clean: !isKept,
  keepAlive: 0,
  clientId: `${id}:${version}`,
  ...(isKept && version === 5 ? { properties: { sessionExpiryInterval: 3_600 } } : {}),
})

/** At QoS 1 with packet identifier 1. */
export const publishOf = (id: string, qos: 0 | 1, payload: Buffer): Packet => ({
  type: 'publish',
  topic: telemetry(id),
  payload,
  qos,
  retain: false,
  dup: false,
  packetId: qos,
})

export const subscriptionOf = (qos: 0 | 1): Packet => ({
  type: 'subscribe',
  packetId: 1,
  subscriptions: [{ filter: everybody, qos, noLocal: false, retainAsPublished: false, retainHandling: 0 }],
})

/** Packet identifiers that a publisher uses in turn, and so the messages that it has under way at most. */
const ids = 32
const lostMs = 2_000

async function attach(
  opening: Opening,
  { id, key, chain }: Identity,
  isKept = false,
): Promise<{ socket: TLSSocket; read: FrameReader }> {
  const { port, ca, version } = opening
  const socket = connect({ host: '127.0.0.1', port, ca, key, cert: chain, servername: 'localhost' })
  socket.setNoDelay(true)
  await once(socket, 'secureConnect')
  const read = new FrameReader(65_536)
  socket.write(encode(connectOf(id, version, isKept), version))
  await answer(socket, read, version, 'connack')
  return { socket, read }
}

async function answer(socket: TLSSocket, read: FrameReader, version: Version, type: Packet['type']): Promise<void> {
  const [chunk] = (await once(socket, 'data')) as [Buffer]
  for (const { header, body } of read.push(chunk)) {
    const packet = decode(header, body, version, 'server')
    const isRefused = 'reason' in packet && packet.reason !== 0
    if (packet.type !== type || isRefused) throw new Error(`${JSON.stringify(packet)} where ${type} was to come`)
  }
}

class Publisher {
  readonly socket: TLSSocket
  #frames: Buffer[] = []
  #next = 0
  #rest: Buffer = Buffer.alloc(0)
  #unacknowledged = 0
  #wroteAt = 0
  acknowledged: () => void = () => undefined
  /** Of its PUBACKs, where it has one message under way. */
  roundTrips: number[] | undefined

  constructor(socket: TLSSocket) {
    this.socket = socket
    socket.on('data', (chunk: Buffer) => this.#hear(chunk))
  }

  prepare(id: string, version: Version, qos: 0 | 1, payload: Buffer): void {
    const publish = publishOf(id, qos, payload)
    this.#frames = Array.from({ length: ids }, (_, at) =>
      encode({ ...publish, packetId: qos * (at + 1) } as Packet, version),
    )
  }

  get isReady(): boolean {
    // What is written before the last write is done would be put together with others into one record.
    const atMost = this.roundTrips === undefined ? ids : 1
    return this.#unacknowledged < atMost && this.socket.writableLength === 0
  }

  write(qos: 0 | 1, stamp: number | undefined): void {
    let frame = this.#frames[this.#next++ % ids]!
    if (stamp !== undefined) {
      frame = Buffer.from(frame)
      frame.writeDoubleBE(stamp, frame.length - 8)
    }
    this.#unacknowledged += qos
    this.#wroteAt = performance.now()
    this.socket.write(frame)
  }

  /** PUBACKs, whose length fits into one octet. */
  #hear(chunk: Buffer): void {
    const octets = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk])
    let at = 0
    while (at + 1 < octets.length && at + 2 + octets[at + 1]! <= octets.length) {
      at += 2 + octets[at + 1]!
      this.#unacknowledged--
      this.roundTrips?.push(performance.now() - this.#wroteAt)
    }
    this.#rest = octets.subarray(at)
    this.acknowledged()
  }
}

/** All messages to a subscriber are of one length, once their topics are. */
class Subscriber {
  readonly #socket: TLSSocket
  readonly #read: FrameReader
  readonly #version: Version
  #frameBytes = 0
  #idAt = 0
  #acknowledgement: Buffer | undefined
  #rest: Buffer = Buffer.alloc(0)
  #received: (count: number) => void = () => undefined
  #latencies: number[] | undefined

  constructor(socket: TLSSocket, read: FrameReader, version: Version) {
    this.#socket = socket
    this.#read = read
    this.#version = version
  }

  async subscribe(granted: 0 | 1): Promise<void> {
    const options = { qos: granted, noLocal: false, retainAsPublished: false, retainHandling: 2 } as const
    const handling = this.#version === 5 ? options.retainHandling : 0
    const subscriptions = [{ ...options, filter: everybody, retainHandling: handling }] as const
    this.#socket.removeAllListeners('data')
    this.#socket.write(encode({ type: 'subscribe', packetId: 1, subscriptions: [...subscriptions] }, this.#version))
    await answer(this.#socket, this.#read, this.#version, 'suback')
  }

  async unsubscribe(): Promise<void> {
    this.#socket.removeAllListeners('data')
    this.#socket.write(encode({ type: 'unsubscribe', packetId: 2, filters: [everybody] }, this.#version))
    await answer(this.#socket, this.#read, this.#version, 'unsuback')
  }

  prepare(id: string, qos: 0 | 1, payload: Buffer, received: (count: number) => void, latencies?: number[]): void {
    this.#frameBytes = encode(publishOf(id, qos, payload), this.#version).length
    this.#idAt = this.#frameBytes - payload.length - (this.#version === 5 ? 1 : 0) - 2
    this.#acknowledgement = qos === 0 ? undefined : encode({ type: 'puback', packetId: 1, reason: 0 }, this.#version)
    this.#received = received
    this.#latencies = latencies
    this.#socket.on('data', (chunk: Buffer) => this.#hear(chunk))
  }

  #hear(chunk: Buffer): void {
    const octets = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk])
    const bytes = this.#frameBytes
    const count = Math.floor(octets.length / bytes)
    for (let at = 0; at < count * bytes; at += bytes) {
      if (octets[at]! >> 4 !== 3) throw new Error(`octet ${octets[at]} where a PUBLISH was to begin`)
      if (this.#latencies !== undefined) this.#latencies.push(performance.now() - octets.readDoubleBE(at + bytes - 8))
    }
    if (this.#acknowledgement !== undefined && count > 0) this.#acknowledge(octets, count)
    this.#rest = octets.subarray(count * bytes)
    if (count > 0) this.#received(count)
  }

  #acknowledge(octets: Buffer, count: number): void {
    const acknowledgements = Buffer.allocUnsafe(4 * count)
    for (let i = 0; i < count; i++) {
      this.#acknowledgement!.copy(acknowledgements, 4 * i)
      octets.copy(acknowledgements, 4 * i + 2, i * this.#frameBytes + this.#idAt, i * this.#frameBytes + this.#idAt + 2)
    }
    this.#socket.write(acknowledgements)
  }
}

export class Fleet {
  readonly #opening: Opening
  readonly #onLost: (error: string) => void
  readonly #publishers: Publisher[] = []
  readonly #subscribers: Subscriber[] = []
  readonly #sockets: TLSSocket[] = []

  /** @param onLost a broker has ended a connection */
  constructor(opening: Opening, onLost: (error: string) => void) {
    this.#opening = opening
    this.#onLost = onLost
  }

  async open(): Promise<void> {
    const { publishers, subscribers, version } = this.#opening
    for (const identity of publishers) this.#publishers.push(new Publisher((await this.#attach(identity)).socket))
    for (const identity of subscribers) {
      const { socket, read } = await this.#attach(identity, this.#opening.isKept)
      this.#subscribers.push(new Subscriber(socket, read, version))
    }
  }

  async #attach(identity: Identity, isKept = false): Promise<{ socket: TLSSocket; read: FrameReader }> {
    const attached = await attach(this.#opening, identity, isKept)
    attached.socket.on('close', () => this.#onLost(`${this.#opening.name} disconnected ${identity.id}`))
    this.#sockets.push(attached.socket)
    return attached
  }

  close(): void {
    for (const socket of this.#sockets) socket.removeAllListeners('close').destroy()
  }

  async run({ qos, granted, payloadBytes, underWay, perSecond, messages, ms, areRoundTrips }: Run): Promise<Outcome> {
    const { publishers: identities, version } = this.#opening
    const publishers = this.#publishers
    const payload = Buffer.alloc(payloadBytes, 'x')
    const latencies: number[] = []
    const isPaced = perSecond > 0
    let sent = 0
    let received = 0
    let progress = performance.now()
    let turn = 0
    let isOver = false
    let drained: () => void = () => undefined
    const copies = this.#subscribers.length
    for (const subscriber of this.#subscribers) await subscriber.subscribe(granted)
    for (const [at, publisher] of publishers.entries()) publisher.prepare(identities[at]!.id, version, qos, payload)
    const started = performance.now()
    const cpu = process.cpuUsage()
    const pump = (): void => {
      const now = performance.now()
      isOver ||= now - started >= ms || sent * copies >= messages
      let idle = 0
      while (!isOver && idle < publishers.length && sent * copies < messages) {
        const isDue = isPaced
          ? sent < ((now - started) * perSecond) / 1_000
          : sent * copies - received < underWay * copies
        if (!isDue) break
        const publisher = publishers[turn++ % publishers.length]!
        if (!publisher.isReady) idle++
        else {
          idle = 0
          publisher.write(qos, isPaced ? performance.now() : undefined)
          sent++
        }
      }
      if (isOver && received >= sent * copies) drained()
    }
    const onReceived = (count: number): void => {
      received += count
      progress = performance.now()
      if (!isPaced || isOver) pump()
    }
    for (const publisher of publishers) {
      publisher.acknowledged = isPaced ? () => undefined : pump
      publisher.roundTrips = areRoundTrips ? latencies : undefined
    }
    const outgoing = Math.min(qos, granted) as 0 | 1
    for (const subscriber of this.#subscribers) {
      subscriber.prepare(identities[0]!.id, outgoing, payload, onReceived, isPaced ? latencies : undefined)
    }
    const done = new Promise<void>((resolve) => {
      drained = resolve
    })
    const watch = setInterval(() => {
      pump()
      if (performance.now() - progress > lostMs) drained()
    }, 1)
    pump()
    await done
    clearInterval(watch)
    const { user, system } = process.cpuUsage(cpu)
    const cpuMs = (user + system) / 1_000
    const tookMs = performance.now() - started
    for (const subscriber of this.#subscribers) await subscriber.unsubscribe()
    return { received, lost: sent * copies - received, ms: tookMs, cpuMs, latencies }
  }
}
