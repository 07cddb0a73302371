/** Devices that listen. */
import type { IPublishPacket } from 'mqtt-packet'
import type { CheckName } from './checks.ts'
import type { Filter } from './client.ts'
import { type Cell, Device, kindOf, Listener, seqOf, sleep } from './device.ts'
import type { WillBook } from './publishers.ts'
import { SharedReceipts, type Stream } from './receipts.ts'

/** Has to get everything, whenever it is away. One of its filters overlaps another: a message comes once all the same. */
export class Collector extends Listener {
  override readonly kinds = ['q0', 'q1', 'q2', 'ruled']
  readonly #wills: WillBook | undefined
  readonly #twice: string

  /** @param wills of its cell, where it is the one that hears them */
  constructor(cell: Cell, name: string, wills: WillBook | undefined) {
    super(cell, name, { keeps: true })
    this.#wills = wills
    this.#twice = `cells/${cell.name}/${cell.name}-meter-0/q1`
  }

  override async enter(): Promise<void> {
    await super.enter()
    const { name } = this.cell
    const filters: Filter[] = [
      { topic: `cells/${name}/+/q0`, qos: 0 },
      { topic: `cells/${name}/+/q1`, qos: 1 },
      { topic: `cells/${name}/+/q2`, qos: 2 },
      { topic: `cells/${name}/+/ruled`, qos: 1 },
    ]
    if (this.#wills !== undefined) filters.push({ topic: `cells/${name}/+/will`, qos: 1 })
    await this.client.subscribe(filters, 1)
    await this.client.subscribe([{ topic: this.#twice, qos: 0 }], 2)
  }

  override async play(stop: AbortSignal): Promise<void> {
    await this.churn(stop, 15_000)
  }

  override hear(message: IPublishPacket): void {
    if (this.#wills !== undefined && message.topic.endsWith('/will')) {
      const fault = this.#wills.hear(String(message.payload), message.dup)
      this.world.checks.look('wills: of those who were cut off, and no others', fault)
      return
    }
    super.hear(message)
    if (this.client.version < 5) return
    const wanted = message.topic === this.#twice ? '1,2' : '1'
    const found = [message.properties?.subscriptionIdentifier ?? []].flat().sort().join()
    this.world.checks.look(
      'properties and identifiers arrive',
      found === wanted ? undefined : `${this.id}: ${message.topic} came with identifiers ${found}, not ${wanted}`,
    )
  }

  override missing(): string[] {
    return [...super.missing(), ...(this.#wills?.missing ?? [])]
  }
}

/** Subscribes and unsubscribes. */
export class Dipper extends Listener {
  override readonly kinds = ['q1']
  readonly #filter: string

  constructor(cell: Cell, name: string) {
    super(cell, name, { keeps: false })
    this.#filter = `cells/${cell.name}/+/q1`
  }

  override async enter(): Promise<void> {
    await super.enter()
    await this.#subscribe()
  }

  override async play(stop: AbortSignal): Promise<void> {
    await this.often(stop, 4_000, async () => {
      this.suspend()
      await this.client.unsubscribe([this.#filter])
      this.bar()
      this.world.checks.look('nothing after UNSUBSCRIBE', undefined)
      await sleep(this.random(2_000))
      if (this.random(3) === 0) await this.client.drop()
      if (!this.client.isConnected) await this.connect()
      await this.#subscribe()
    })
  }

  async #subscribe(): Promise<void> {
    this.suspend()
    this.unbar()
    await this.client.subscribe([{ topic: this.#filter, qos: 1 }])
    this.resume()
  }
}

/** Stops reading. What is lost for that is in the broker's log. */
export class SlowReader extends Listener {
  override readonly kinds = ['bulk']
  readonly #pauseMs: number

  constructor(cell: Cell, name: string, isFlooded: boolean) {
    super(cell, name, { keeps: true })
    this.isLossy = true
    this.#pauseMs = isFlooded ? 40_000 : 10_000
  }

  override async enter(): Promise<void> {
    await super.enter()
    await this.client.subscribe([{ topic: `cells/${this.cell.name}/+/bulk`, qos: 1 }])
  }

  override async play(stop: AbortSignal): Promise<void> {
    await this.often(stop, 3_000, async () => {
      this.client.isPaused = true
      await sleep(this.#pauseMs / 2 + this.random(this.#pauseMs / 2), stop)
      this.client.isPaused = false
      if (!this.client.isConnected) await this.connect()
    })
    if (!this.client.isConnected) await this.connect()
  }

  /** One that does not read may be closed. */
  override amiss(fault: string): void {
    if (!fault.endsWith('closed the connection') && !fault.includes('DISCONNECT')) super.amiss(fault)
  }

  override hear(message: IPublishPacket): void {
    super.hear(message)
    this.world.checks.look('slow readers: lost only what the log says', undefined)
  }

  get lost(): number {
    return [...this.receipts.values()].reduce((sum, { lost }) => sum + lost, 0)
  }
}

/** One of a group that shares the work of its cell. */
export class Worker extends Device {
  readonly #receipts: Map<Stream, SharedReceipts>

  /** @param receipts of the whole group */
  constructor(cell: Cell, name: string, receipts: Map<Stream, SharedReceipts>) {
    super(cell, name, { keeps: true })
    this.#receipts = receipts
  }

  override async enter(): Promise<void> {
    await super.enter()
    await this.client.subscribe([{ topic: `$share/crew/cells/${this.cell.name}/+/job`, qos: 1 }])
  }

  override async play(stop: AbortSignal): Promise<void> {
    await this.churn(stop, 15_000)
  }

  override hear(message: IPublishPacket): void {
    const stream = this.cell.streams.get(message.topic)
    if (stream === undefined) {
      super.hear(message)
      return
    }
    const fault = this.#receiptsOf(stream).take(seqOf(message), message.dup)
    this.world.checks.look('shared subscriptions: nothing lost', fault && `${this.id}: ${fault.text}`)
  }

  override missing(): string[] {
    const jobs = [...this.cell.streams.values()].filter(({ topic }) => kindOf(topic) === 'job')
    return jobs.flatMap((stream) => {
      const { missing } = this.#receiptsOf(stream)
      return missing === 0 ? [] : [`group of ${this.cell.name}: ${missing} of ${stream.topic}`]
    })
  }

  #receiptsOf(stream: Stream): SharedReceipts {
    const receipts = this.#receipts.get(stream) ?? new SharedReceipts(stream)
    this.#receipts.set(stream, receipts)
    return receipts
  }
}

const retainedMs = 30_000

/** Asks now and then for the state of all visitors, and has to get the last that was acknowledged, or a later one. */
export class Witness extends Device {
  readonly #newest = new Map<string, number>()
  /** Topic -> the number that the retained message has to have at least. */
  #wanted = new Map<string, number>()
  #satisfied: (() => void) | undefined

  constructor(cell: Cell, name: string) {
    super(cell, name, { keeps: false })
  }

  override async play(stop: AbortSignal): Promise<void> {
    const filter = `cells/${this.cell.name}/+/state`
    await this.often(stop, 4_000, async () => {
      if (!this.client.isConnected) await this.connect()
      const states = [...this.cell.streams.values()].filter(({ topic }) => kindOf(topic) === 'state')
      this.#newest.clear()
      this.#wanted = new Map(
        states.flatMap(({ topic, acknowledged }) => (acknowledged === 0 ? [] : [[topic, acknowledged]])),
      )
      const satisfied = new Promise<void>((resolve) => {
        this.#satisfied = resolve
      })
      await this.client.subscribe([{ topic: filter, qos: 1 }])
      this.#look()
      const late = new AbortController()
      await Promise.race([satisfied, sleep(retainedMs, late.signal)])
      late.abort()
      const wanting = [...this.#wanted].map(([topic, seq]) => `${topic}: #${this.#newest.get(topic)}, not #${seq}`)
      this.world.checks.look(
        'retained messages are the last acknowledged',
        wanting.length === 0 ? undefined : `${this.id}: ${wanting.join('; ')}`,
      )
      await this.client.unsubscribe([filter])
    })
  }

  override hear(message: IPublishPacket): void {
    if (kindOf(message.topic) !== 'state') {
      super.hear(message)
      return
    }
    const seq = seqOf(message)
    this.#newest.set(message.topic, seq)
    if (seq >= (this.#wanted.get(message.topic) ?? 0)) this.#wanted.delete(message.topic)
    this.#look()
  }

  #look(): void {
    if (this.#wanted.size === 0) this.#satisfied?.()
  }
}

/** Has a subscription that the policy forbids at times. */
export class RuledSubscriber extends Listener {
  override readonly kinds = ['q1']
  readonly #filter: Filter

  constructor(cell: Cell, name: string) {
    super(cell, name, { keeps: true })
    this.#filter = { topic: `cells/${cell.name}/+/q1`, qos: 1 }
  }

  override async enter(): Promise<void> {
    await super.enter()
    await this.client.subscribe([this.#filter])
  }

  override async play(stop: AbortSignal): Promise<void> {
    await this.churn(stop, 15_000)
  }

  override get barredBy(): CheckName {
    return 'policy: in force once applied'
  }

  /** It is about to be denied. */
  beforeDenied(): void {
    this.suspend()
  }

  async whenDenied(): Promise<void> {
    this.bar()
    const [code] = await this.client.subscribe([this.#filter])
    if (code === undefined) return // not connected
    const fault = code < 0x80 ? `${this.id}: ${this.#filter.topic} was granted while it is denied` : undefined
    this.world.checks.look('policy: in force once applied', fault)
  }

  /** It is about to be allowed again. */
  beforeAllowed(): void {
    this.unbar()
  }

  async whenAllowed(): Promise<void> {
    let [code] = await this.client.subscribe([this.#filter])
    while (code === undefined) {
      await sleep(100)
      ;[code] = await this.client.subscribe([this.#filter])
    }
    this.resume()
    const fault = code === 1 ? undefined : `${this.id}: ${this.#filter.topic} was refused with ${code}`
    this.world.checks.look('policy: in force once applied', fault)
  }
}
