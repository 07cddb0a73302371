/** The devices of one run, from their first connection to the end of their sessions. */
import { type Cell, type Device, sleep } from './device.ts'
import { Collector, Dipper, RuledSubscriber, SlowReader, Witness, Worker } from './listeners.ts'
import { Gallows, Vandal } from './outlaws.ts'
import { Meter, Pump, RuledPublisher, Visitor, WillBook } from './publishers.ts'
import type { SharedReceipts, Stream } from './receipts.ts'
import type { World } from './world.ts'

export const cellSize = 25
const floodedEvery = 10
const atATime = 25
const ruleMs = 6_000
const calmMs = 1_000
const stuckMs = 30_000

function castOf(world: World, phase: string, at: number): Device[] {
  const cell: Cell = { name: `c${at}`, phase, world, streams: new Map() }
  const isFlooded = at % floodedEvery === 0
  const wills = new WillBook()
  const shared = new Map<Stream, SharedReceipts>()
  const some = (count: number, name: string, make: (name: string, at: number) => Device): Device[] =>
    Array.from({ length: count }, (_, number) => make(`${name}-${number}`, number))
  return [
    ...some(7, 'meter', (name) => new Meter(cell, name)),
    ...some(3, 'collector', (name, number) => new Collector(cell, name, number === 0 ? wills : undefined)),
    ...some(2, 'dipper', (name) => new Dipper(cell, name)),
    ...some(2, 'worker', (name) => new Worker(cell, name, shared)),
    ...some(3, 'visitor', (name) => new Visitor(cell, name, wills)),
    new Witness(cell, 'witness'),
    new Pump(cell, 'pump', isFlooded),
    ...some(2, 'slow', (name) => new SlowReader(cell, name, isFlooded)),
    new RuledPublisher(cell, 'ruled-pub'),
    new RuledSubscriber(cell, 'ruled-sub'),
    new Gallows(cell, 'doomed'),
    new Vandal(cell, 'vandal'),
  ]
}

export class Fleet {
  readonly #world: World
  readonly #devices: Device[]

  /** @param cells of `cellSize` devices each */
  constructor(world: World, phase: string, cells: number) {
    this.#world = world
    this.#devices = Array.from({ length: cells }, (_, at) => castOf(world, phase, at)).flat()
  }

  get connected(): number {
    return this.#devices.filter(({ client }) => client?.isConnected).length
  }

  async enter(onEntered: () => void): Promise<void> {
    await this.#each(async (device) => {
      await device.enter()
      onEntered()
    })
  }

  /** Resolves some time after `stop`, when all devices are connected and nothing is under way from them. */
  async play(stop: AbortSignal): Promise<void> {
    await Promise.all([...this.#devices.map((device) => device.play(stop)), this.#rule(stop)])
  }

  /** Waits until everything has arrived, as long as anything arrives at all. */
  async drain(stop: AbortSignal): Promise<void> {
    const { checks, counts } = this.#world
    const isUnderWay = (): boolean => this.#devices.some(({ client }) => client.underWay > 0)
    let heard = counts.heard
    let since = performance.now()
    while (!stop.aborted) {
      await sleep(200, stop)
      if (counts.heard !== heard) {
        heard = counts.heard
        since = performance.now()
      }
      const isDone = !isUnderWay() && this.#missing().length === 0
      if (performance.now() - since > (isDone ? calmMs : stuckMs)) break
    }
    if (stop.aborted) return
    for (const device of this.#devices) {
      const { underWay } = device.client
      const unanswered = underWay > 0 ? [`${device.id}: ${underWay} publishes were not answered`] : []
      const faults = [...device.missing(), ...unanswered]
      checks.look('everything has arrived at the end', faults.length > 0 ? faults.join('; ') : undefined)
      if (!(device instanceof SlowReader) || device.lost === 0) continue
      const isLogged = this.#world.broker.droppedFor.has(device.id)
      const fault = isLogged ? undefined : `${device.id} lost ${device.lost} messages, and the log is silent`
      checks.look('slow readers: lost only what the log says', fault)
    }
    const slow = new Set(this.#devices.flatMap((device) => (device instanceof SlowReader ? [device.id] : [])))
    for (const id of this.#world.broker.droppedFor)
      if (!slow.has(id)) checks.look('everything has arrived at the end', `the broker dropped messages for ${id}`)
  }

  get lostBySlowReaders(): number {
    return this.#devices.reduce((sum, device) => sum + (device instanceof SlowReader ? device.lost : 0), 0)
  }

  async leave(): Promise<void> {
    await this.#each((device) => device.leave())
  }

  async drop(): Promise<void> {
    await Promise.all(this.#devices.map(({ client }) => client?.drop()))
  }

  #missing(): string[] {
    return this.#devices.flatMap((device) => device.missing())
  }

  /** The policy that denies the ruled ones comes and goes. */
  async #rule(stop: AbortSignal): Promise<void> {
    const publishers = this.#devices.filter((device) => device instanceof RuledPublisher)
    const subscribers = this.#devices.filter((device) => device instanceof RuledSubscriber)
    while (!stop.aborted) {
      await sleep(ruleMs, stop)
      if (stop.aborted) return
      for (const device of publishers) device.rule(undefined)
      for (const device of subscribers) device.beforeDenied()
      await this.#world.rule(true)
      for (const device of publishers) device.rule(true)
      await Promise.all(subscribers.map((device) => device.whenDenied()))
      await sleep(ruleMs / 2, stop)
      for (const device of publishers) device.rule(undefined)
      for (const device of subscribers) device.beforeAllowed()
      await this.#world.rule(false)
      for (const device of publishers) device.rule(false)
      await Promise.all(subscribers.map((device) => device.whenAllowed()))
    }
  }

  async #each(work: (device: Device) => Promise<void>): Promise<void> {
    const waiting = this.#devices.values()
    const worker = async (): Promise<void> => {
      for (const device of waiting) await work(device)
    }
    await Promise.all(Array.from({ length: atATime }, worker))
  }
}
