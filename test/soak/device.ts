/** What the devices of a soak have in common: a client, its stream of numbers, ways to come and go, ears. */
import { setTimeout as delay } from 'node:timers/promises'
import type { IConnectPacket, IPublishPacket } from 'mqtt-packet'
import type { CheckName } from './checks.ts'
import { Client, unanswered } from './client.ts'
import { type Fault, type Guarantee, Receipts, Stream } from './receipts.ts'
import type { Identity, Version } from './wire.ts'
import type { Random, World } from './world.ts'

/** Devices that only have to do with each other, and what they tell each other. */
export type Cell = {
  readonly name: string
  /** Of the soak: in each the devices make choices of their own. */
  readonly phase: string
  readonly world: World
  readonly streams: Map<string, Stream>
}

export const topicOf = (cell: Cell, id: string, kind: string): string => `cells/${cell.name}/${id}/${kind}`

/** Resolves early when it is to stop. */
export async function sleep(ms: number, stop?: AbortSignal): Promise<void> {
  await delay(ms, undefined, stop === undefined ? {} : { signal: stop }).catch(() => {})
}

const qosOf = { 'at most once': 0, 'at least once': 1, 'exactly once': 2 } as const
const checkOf: Record<Guarantee, CheckName> = {
  'at most once': 'QoS 0: at most once, in order',
  'at least once': 'QoS 1: nothing lost, in order, repeated only with cause',
  'exactly once': 'QoS 2: exactly once, in order',
}
export const seqOf = ({ payload }: IPublishPacket): number =>
  Number.parseInt((payload as Buffer).toString('latin1', 0, 12), 10)
export const payloadOf = (seq: number, bytes: number): string => `${seq} `.padEnd(bytes, '.')

type DeviceOptions = {
  keeps: boolean
  version?: Version
  will?: (connection: number) => NonNullable<IConnectPacket['will']>
}
type Publishing = { everyMs: number; bytes?: number; window?: number; retain?: boolean }

export abstract class Device {
  readonly id: string
  readonly cell: Cell
  readonly world: World
  readonly random: Random
  readonly #options: DeviceOptions
  client!: Client
  identity!: Identity

  constructor(cell: Cell, name: string, options: DeviceOptions) {
    this.id = `${cell.name}-${name}`
    this.cell = cell
    this.world = cell.world
    this.random = cell.world.randomFor(`${this.id} ${cell.phase}`)
    this.#options = { version: ([3, 4, 4, 4, 5, 5, 5, 5] as const)[this.random(8)]!, ...options }
  }

  /** Connects for the first time and subscribes. */
  async enter(): Promise<void> {
    const { world, cell, id } = this
    const { keeps, version, will } = this.#options
    this.identity = await world.identity(id, cell.name)
    this.client = new Client({
      identity: this.identity,
      server: world.server,
      version: version!,
      keeps,
      ...(will === undefined ? {} : { will }),
      onMessage: (message) => {
        world.counts.heard++
        this.hear(message)
      },
      onPong: (ms) => world.pings.record(Math.max(1, Math.round(ms * 1_000))),
      onFault: (fault) => this.amiss(fault),
    })
    await this.connect()
  }

  /** Does what it is there for until it is to stop; it is connected then. */
  abstract play(stop: AbortSignal): Promise<void>

  /** What has not come that should have. */
  missing(): string[] {
    return []
  }

  async leave(): Promise<void> {
    await this.client.leave()
  }

  hear(message: IPublishPacket): void {
    this.amiss(`${this.id} was sent ${message.topic}, which it has not subscribed to`)
  }

  amiss(fault: string): void {
    this.world.checks.look('connections and sessions last', fault)
  }

  async connect(): Promise<void> {
    const { checks, counts } = this.world
    if (this.client.isConnected) counts.takeovers++
    counts.connections++
    await this.client.connect().then(
      () => checks.look('connections and sessions last', undefined),
      (error: Error) => checks.look('connections and sessions last', `${this.id}: ${error.message}`),
    )
  }

  /** Again and again, at random intervals around `everyMs`. */
  async often(stop: AbortSignal, everyMs: number, work: () => Promise<unknown> | unknown): Promise<void> {
    for (;;) {
      await sleep(everyMs / 2 + this.random(everyMs), stop)
      if (stop.aborted) return
      await work()
    }
  }

  /** Comes and goes in every way, and is connected in the end. */
  async churn(stop: AbortSignal, everyMs: number): Promise<void> {
    await this.often(stop, everyMs, async () => {
      const way = this.random(3)
      if (way === 0) await this.client.drop()
      if (way === 1) await this.client.disconnect()
      if (way < 2) await sleep(this.random(2_000))
      await this.connect()
    })
    if (!this.client.isConnected) await this.connect()
  }

  /** Comes back where it should not have been sent away: one fault is not to be told as many. */
  async stay(stop: AbortSignal): Promise<void> {
    await this.often(stop, 2_000, async () => {
      if (!this.client.isConnected) await this.connect()
    })
    if (!this.client.isConnected) await this.connect()
  }

  stream(kind: string, guarantee: Guarantee): Stream {
    const stream = new Stream(topicOf(this.cell, this.id, kind), guarantee, this.client.version === 5)
    this.cell.streams.set(stream.topic, stream)
    return stream
  }

  async publishing(stop: AbortSignal, stream: Stream, { everyMs, window = 10, ...more }: Publishing): Promise<void> {
    await this.often(stop, everyMs, () => {
      const { client } = this
      const hasRoom = stream.guarantee === 'at most once' ? client.isConnected : client.underWay < window
      if (hasRoom) void this.publish(stream, ++stream.sent, more).then((code) => this.acknowledge(stream, code))
    })
  }

  /** Tells number `seq` of a stream. @returns the seq with the reason that it was acknowledged with */
  async publish(
    stream: Stream,
    seq: number,
    { bytes = 64, retain = false }: { bytes?: number; retain?: boolean } = {},
  ): Promise<{ seq: number; code: number }> {
    this.world.counts.published++
    const properties = stream.hasProperties
      ? { properties: { correlationData: Buffer.from(`${seq}`), userProperties: { of: this.id } } }
      : {}
    const { topic, guarantee } = stream
    const packet = { topic, payload: payloadOf(seq, bytes), qos: qosOf[guarantee], retain, ...properties }
    const code = await this.client.publish(packet, () => {
      stream.repeatedUpTo = Math.max(stream.repeatedUpTo, seq)
    })
    return { seq, code }
  }

  acknowledge(stream: Stream, { seq, code }: { seq: number; code: number }): void {
    if (code === 0) stream.acknowledged = Math.max(stream.acknowledged, seq)
    else if (code !== unanswered) this.amiss(`${stream.topic} #${seq} was answered with 0x${code.toString(16)}`)
  }
}

export const kindOf = (topic: string): string => topic.slice(topic.lastIndexOf('/') + 1)

/** One that keeps receipts of the streams that it has subscribed to. */
export abstract class Listener extends Device {
  abstract readonly kinds: readonly string[]
  readonly receipts = new Map<Stream, Receipts>()
  /** From before a subscription ends until it has begun again: the same for streams that are new. */
  #isSuspended = false
  isLossy = false

  receiptsOf(stream: Stream): Receipts {
    let receipts = this.receipts.get(stream)
    if (receipts === undefined) {
      receipts = new Receipts(stream, this.isLossy)
      this.receipts.set(stream, receipts)
      if (this.#isSuspended) receipts.suspend()
    }
    return receipts
  }

  /** Messages may be missing from now on. */
  suspend(): void {
    this.#isSuspended = true
    for (const receipts of this.all()) receipts.suspend()
  }

  /** None may come from now on. */
  bar(): void {
    for (const receipts of this.all()) receipts.bar()
  }

  unbar(): void {
    for (const receipts of this.all()) receipts.unbar()
  }

  /** None may be missing any more. */
  resume(): void {
    this.#isSuspended = false
    for (const receipts of this.all()) receipts.resume()
  }

  /** What it has of every stream that it is there for. */
  all(): Receipts[] {
    const streams = [...this.cell.streams.values()]
    return streams.filter(({ topic }) => this.kinds.includes(kindOf(topic))).map((stream) => this.receiptsOf(stream))
  }

  override hear(message: IPublishPacket): void {
    const stream = this.cell.streams.get(message.topic)
    if (stream === undefined) {
      super.hear(message)
      return
    }
    const { checks } = this.world
    const seq = seqOf(message)
    this.judge(stream, this.receiptsOf(stream).take(seq, message.dup))
    if (this.client.version < 5 || !stream.hasProperties) return
    const { correlationData, userProperties } = message.properties ?? {}
    const isWhole = String(correlationData) === `${seq}` && stream.topic.includes(`/${userProperties?.of}/`)
    checks.look(
      'properties and identifiers arrive',
      isWhole ? undefined : `${this.id}: ${stream.topic} #${seq} came without its properties`,
    )
  }

  judge(stream: Stream, fault: Fault | undefined): void {
    const { checks } = this.world
    const text = fault && `${this.id}: ${fault.text}`
    if (stream.endsAt < Number.POSITIVE_INFINITY)
      checks.look('nothing to or from a revoked device', fault?.of === 'publisher revoked' ? text : undefined)
    if (fault?.of === 'subscription ended') checks.look(this.barredBy, text)
    if (fault?.of !== 'publisher revoked' && fault?.of !== 'subscription ended')
      checks.look(checkOf[stream.guarantee], text)
  }

  /** What says that it must not get any more. */
  get barredBy(): CheckName {
    return 'nothing after UNSUBSCRIBE'
  }

  override missing(): string[] {
    this.all()
    return [...this.receipts].flatMap(([{ topic, acknowledged }, { last, missing }]) =>
      missing === 0 ? [] : [`${this.id}: ${missing} of ${topic}, the last that came is #${last} of ${acknowledged}`],
    )
  }
}
