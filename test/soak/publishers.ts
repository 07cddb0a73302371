/** Devices that tell something. */
import { type Cell, Device, sleep, topicOf } from './device.ts'
import type { Stream } from './receipts.ts'

/** Publishes at every QoS, and work for the shared subscription; its session is kept through all of its comings and goings. */
export class Meter extends Device {
  constructor(cell: Cell, name: string) {
    super(cell, name, { keeps: true })
  }

  override async play(stop: AbortSignal): Promise<void> {
    await Promise.all([
      this.publishing(stop, this.stream('q0', 'at most once'), { everyMs: 1_000 }),
      this.publishing(stop, this.stream('q1', 'at least once'), { everyMs: 1_000 }),
      this.publishing(stop, this.stream('q2', 'exactly once'), { everyMs: 3_000 }),
      this.publishing(stop, this.stream('job', 'at least once'), { everyMs: 4_000 }),
      this.churn(stop, 20_000),
    ])
  }
}

/** Publishes more than a slow reader reads. */
export class Pump extends Device {
  readonly #isFlood: boolean

  constructor(cell: Cell, name: string, isFlood: boolean) {
    super(cell, name, { keeps: true })
    this.#isFlood = isFlood
  }

  override async play(stop: AbortSignal): Promise<void> {
    const pace = this.#isFlood ? { everyMs: 25, bytes: 16_384 } : { everyMs: 500, bytes: 4_096 }
    await Promise.all([this.publishing(stop, this.stream('bulk', 'at least once'), pace), this.stay(stop)])
  }
}

/** Publishes what the policy forbids at times. What was refused gets its number again: if it came all the same, it shows. */
export class RuledPublisher extends Device {
  /** Whether the policy in force denies it; undefined while that changes. */
  isDenied: boolean | undefined = false
  #changes = 0

  constructor(cell: Cell, name: string) {
    super(cell, name, { keeps: true, version: 5 })
  }

  rule(isDenied: boolean | undefined): void {
    this.isDenied = isDenied
    this.#changes++
  }

  override async play(stop: AbortSignal): Promise<void> {
    await Promise.all([this.#publishAll(stop), this.stay(stop)])
  }

  async #publishAll(stop: AbortSignal): Promise<void> {
    const stream = this.stream('ruled', 'at least once')
    await this.often(stop, 500, async () => {
      const { isDenied } = this
      const changes = this.#changes
      stream.sent = stream.acknowledged + 1
      const { code } = await this.publish(stream, stream.sent)
      if (code === 0) stream.acknowledged = stream.sent
      if (isDenied === undefined || changes !== this.#changes) return
      const isRight = code === (isDenied ? 0x87 : 0)
      const fault = `${this.id}: 0x${code.toString(16)} while the policy ${isDenied ? 'denies' : 'allows'} it`
      this.world.checks.look('policy: in force once applied', isRight ? undefined : fault)
    })
  }
}

/** Wills that are to be heard, by what they say, and how many of each device have been. */
export class WillBook {
  readonly #awaited = new Set<string>()
  readonly #heard = new Map<string, number>()

  expect(id: string, connection: number): void {
    this.#awaited.add(`${id} ${connection}`)
  }

  /** @returns what is wrong with it */
  hear(text: string, dup: boolean): string | undefined {
    const [id, connection] = text.split(' ') as [string, string]
    if (this.#awaited.delete(text)) {
      this.#heard.set(id, Number(connection))
      return undefined
    }
    const isRepeated = dup && (this.#heard.get(id) ?? 0) >= Number(connection)
    return isRepeated ? undefined : `will of ${id}, connection ${connection}, is nobody's to hear`
  }

  get missing(): string[] {
    return [...this.#awaited].map((text) => `will of ${text}`)
  }
}

const withWill = 0x04

/** Comes, tells its state, goes, and leaves a will: a clean session each time. */
export class Visitor extends Device {
  readonly #wills: WillBook
  #state!: Stream

  constructor(cell: Cell, name: string, wills: WillBook) {
    super(cell, name, { keeps: false, will: (connection) => willOf(cell, `${cell.name}-${name}`, connection) })
    this.#wills = wills
  }

  override async enter(): Promise<void> {
    await super.enter()
    this.#state = this.stream('state', 'at least once')
  }

  override async play(stop: AbortSignal): Promise<void> {
    const { client, random } = this
    const tell = (): void => {
      const seq = ++this.#state.sent
      void this.publish(this.#state, seq, { retain: true }).then(({ code }) => {
        // 0x10: nobody listens just now, and it is retained all the same.
        this.acknowledge(this.#state, { seq, code: code === 0x10 ? 0 : code })
      })
    }
    await this.often(stop, 3_000, async () => {
      for (let left = 1 + random(3); left > 0; left--) tell()
      await sleep(random(1_500))
      const way = random(4)
      if (way < 3 && client.isConnected && (way > 0 || client.version === 5))
        this.#wills.expect(this.id, client.connections)
      if (way === 0) await client.disconnect({ reasonCode: withWill })
      if (way === 1) await client.drop()
      if (way === 3) await client.disconnect()
      if (way !== 2) await sleep(random(1_000))
      await this.connect()
    })
  }

  /** Takes its retained message back. */
  override async leave(): Promise<void> {
    if (!this.client.isConnected) await this.connect()
    await this.client.publish({ topic: this.#state.topic, payload: '', qos: 1, retain: true })
    await super.leave()
  }
}

export const willOf = (cell: Cell, id: string, connection: number) => ({
  topic: topicOf(cell, id, 'will'),
  payload: `${id} ${connection}`,
  qos: 1 as const,
})
