import { sleep } from './device.ts'
import { cellSize, Fleet } from './fleet.ts'
import type { Figures } from './probe.ts'
import { progressOf } from './progress.ts'
import { World } from './world.ts'

export type SoakOptions = { seconds: number; devices: number; seed: number; log: string | undefined; stop: AbortSignal }
/** What the broker holds when nobody is there, and takes on disk. */
export type Idle = Figures & { storeBytes: number }
export type SoakResult = { world: World; warm?: Idle; after?: Idle; lostBySlowReaders: number }

const heapTolerance = 0.1
const storeBytesAtMost = 128 * 1024 * 1024
const quietMs = 60_000
/** To arrive, to drain and to leave, on a busy machine too. */
const settlingMs = 300_000

/**
 * A fleet that does everything a broker has to bear, twice: to warm it up, and for as long as wanted. Both times
 * everybody leaves in the end and every session ends, so that the broker has to hold the same.
 */
export class Soak {
  readonly #world: World
  readonly #cells: number
  #lostBySlowReaders = 0

  private constructor(options: SoakOptions, world: World) {
    this.#world = world
    this.#cells = cellsOf(options.devices)
  }

  static async run(options: SoakOptions): Promise<SoakResult> {
    const world = await World.start(options)
    const soak = new Soak(options, world)
    const ended = new AbortController()
    world.broker.on('fault', () => {
      if (world.broker.hasEnded) ended.abort()
    })
    const stop = AbortSignal.any([options.stop, ended.signal])
    stop.addEventListener('abort', () => world.checks.close(), { once: true })
    const warm = await soak.#play('warm-up', warmUpOf(options.seconds), stop)
    const after = warm && (await soak.#play('load', options.seconds, stop))
    if (warm !== undefined && after !== undefined) soak.#compare(warm, after)
    return {
      world,
      ...(warm === undefined ? {} : { warm }),
      ...(after === undefined ? {} : { after }),
      lostBySlowReaders: soak.#lostBySlowReaders,
    }
  }

  /** @returns undefined when it was stopped */
  async #play(title: string, seconds: number, stop: AbortSignal): Promise<Idle | undefined> {
    const fleet = new Fleet(this.#world, title, this.#cells)
    const whole = this.#playWhole(fleet, title, seconds, stop)
    // What waits for an answer that will not come ends with the process.
    const stopped = new Promise<undefined>((resolve) => {
      if (stop.aborted) resolve(undefined)
      stop.addEventListener('abort', () => resolve(undefined), { once: true })
    })
    const late = new AbortController()
    const never = sleep(seconds * 1_000 + settlingMs, late.signal).then(() => {
      const fault = `the ${title} has not come to its end ${settlingMs / 1_000} s after its time`
      if (!late.signal.aborted) this.#world.checks.look('everything has arrived at the end', fault)
      return undefined
    })
    const idle = await Promise.race([whole, stopped, never])
    late.abort()
    return idle
  }

  async #playWhole(fleet: Fleet, title: string, seconds: number, stop: AbortSignal): Promise<Idle> {
    const arriving = progressOf('arriving', this.#cells * cellSize)
    let entered = 0
    await fleet.enter(() => arriving.show(++entered, `${entered} devices`))
    arriving.end()
    const progress = progressOf(title, seconds)
    const began = performance.now()
    const telling = setInterval(() => {
      const elapsed = (performance.now() - began) / 1_000
      progress.show(elapsed, `${elapsed.toFixed(0)} s, ${this.#status(fleet)}`)
    }, 500)
    const over = new AbortController()
    const playing = fleet.play(over.signal)
    await sleep(seconds * 1_000, stop)
    over.abort()
    await playing
    await fleet.drain(stop)
    clearInterval(telling)
    progress.end()
    this.#lostBySlowReaders += fleet.lostBySlowReaders
    await fleet.leave()
    return await this.#quiet()
  }

  #status(fleet: Fleet): string {
    const { published, heard, connections } = this.#world.counts
    const { faults } = this.#world.checks
    return `${fleet.connected} connected, ${published} published, ${heard} heard, ${connections} connections, ${faults} faults`
  }

  /** What the broker holds once it has noticed that all are gone. */
  async #quiet(): Promise<Idle> {
    const { broker } = this.#world
    for (let left = quietMs; ; left -= 250) {
      const { resources } = await broker.figures(false)
      // The one that stays is that of the feed.
      if ((resources.TCPSocketWrap ?? 0) <= 1 || left <= 0) break
      await sleep(250)
    }
    await sleep(2_000) // for what the store does after the last session
    return { ...(await broker.figures(true)), storeBytes: broker.storeBytes() }
  }

  #compare(warm: Idle, after: Idle): void {
    const { checks } = this.#world
    checks.look('broker: no error, no restart', undefined)
    const allowed = warm.heapBytes * (1 + heapTolerance)
    const grown = `${mib(warm.heapBytes)} before the load, ${mib(after.heapBytes)} after it`
    checks.look('broker: heap is back', after.heapBytes > allowed ? grown : undefined)
    const more = Object.entries(after.resources).filter(([name, count]) => count > (warm.resources[name] ?? 0))
    const left = more.map(([name, count]) => `${count} ${name}, ${warm.resources[name] ?? 0} before the load`)
    checks.look('broker: sockets and timers are back', left.length > 0 ? left.join('; ') : undefined)
    const isLarge = after.storeBytes > storeBytesAtMost
    checks.look('broker: store is bounded', isLarge ? `${mib(after.storeBytes)} on disk` : undefined)
  }
}

export const cellsOf = (devices: number): number => Math.max(1, Math.round(devices / cellSize))
export const warmUpOf = (seconds: number): number => Math.min(60, Math.max(20, seconds / 4))
export const mib = (bytes: number): string => `${(bytes / 1_048_576).toFixed(1)} MiB`
