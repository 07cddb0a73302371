import { Level } from 'level'
import { FleetError } from '../runtime/errors.ts'

/** @property isNew nothing was ever written under the key */
export type Operation = { type: 'put'; key: string; value: Buffer; isNew?: boolean } | { type: 'del'; key: string }

/** A part of the folder for keys and octets of somebody else, who knows what they mean. */
export type Area = {
  getMany(keys: string[]): Promise<(Buffer | undefined)[]>
  /** In the order of the keys' UTF-8 octets: keys that begin with `prefix` and come behind the key `after`. */
  page(prefix: string, after: string, limit: number): Promise<[key: string, value: Buffer][]>
  /** All or none. Writes reach the log in the order of the calls, so a synced one takes all before it to the disk. */
  write(operations: readonly Operation[], options: { sync: boolean }): Promise<void>
  /**
   * Closes and opens the whole folder. LevelDB refuses every write after a failed one, as its log may or may not hold that
   * batch; opening it again reads the log and so decides what happened.
   */
  reopen(): Promise<void>
}

const liveKey = 'live'
/** Each begins every key of an area. */
const snapshotKey = 'snapshot!'
const sessionsKey = '~'
const denialsKey = '\u007fd'
/** Of what enroll is still to be told, and of certificates that it was told of. */
const reportsKey = '\u007fr'
const binary = { keyEncoding: 'utf8', valueEncoding: 'buffer' } as const

/** This broker's own folder. One process opens it. */
export class BrokerStore implements AsyncDisposable {
  readonly #folder: string
  readonly #level: Level<string, unknown>
  /** For what is believed of the feed. */
  readonly snapshot: Area
  /** For MQTT sessions and retained messages. */
  readonly sessions: Area
  readonly denials: Area
  readonly reports: Area

  private constructor(folder: string) {
    this.#folder = folder
    this.#level = new Level(folder, { valueEncoding: 'json' })
    this.snapshot = this.#area(snapshotKey)
    this.sessions = this.#area(sessionsKey)
    this.denials = this.#area(denialsKey)
    this.reports = this.#area(reportsKey)
  }

  /** @throws FleetError `data_in_use`, `data_damaged` */
  static async open(folder: string): Promise<BrokerStore> {
    const store = new BrokerStore(folder)
    await store.#open()
    // Facts of the feed as version 0.1.0 kept them, each under a key of its own: the feed tells them again.
    await store.#level.clear({ gte: 'anchors', lt: 'e' })
    await store.#level.del('policy')
    return store
  }

  /** Whether it takes writes: LevelDB takes none after one that failed. */
  async probe(): Promise<void> {
    await this.#level.put('probe', '')
  }

  /** When the feed was last known to be followed. */
  async readLastLive(): Promise<Date | undefined> {
    const at = (await this.#level.get(liveKey)) as string | undefined
    return at === undefined ? undefined : new Date(at)
  }

  async writeLastLive(at: Date): Promise<void> {
    await this.#level.put(liveKey, at.toISOString())
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#level.close()
  }

  async #open(): Promise<void> {
    try {
      await this.#level.open()
    } catch (cause) {
      if ((cause as { cause?: { code?: string } }).cause?.code === 'LEVEL_LOCKED') {
        throw new FleetError('data_in_use', `${this.#folder} is in use by another instance`, { cause })
      }
      throw new FleetError('data_damaged', `${this.#folder} cannot be opened: ${(cause as Error).message}`, { cause })
    }
  }

  #area(area: string): Area {
    const level = this.#level
    return {
      getMany: (keys) =>
        level.getMany<string, Buffer>(
          keys.map((key) => area + key),
          binary,
        ),
      async page(prefix, after, limit) {
        const start = Buffer.from(area + prefix)
        const behind = Buffer.from(area + after)
        // No octet of UTF-8 is 0xff, so this is behind every key with the prefix.
        const range = { gte: start, lt: Buffer.concat([start, Buffer.of(0xff)]), limit }
        const from = Buffer.compare(behind, start) < 0 ? range : { gt: behind, lt: range.lt, limit }
        const entries = await level
          .iterator<Buffer, Buffer>({ ...from, keyEncoding: 'buffer', valueEncoding: 'buffer' })
          .all()
        return entries.map(([key, value]) => [key.toString('utf8', area.length), value])
      },
      async write(operations, { sync }) {
        const batch = level.batch()
        for (const operation of operations) {
          const key = area + operation.key
          if (operation.type === 'put') batch.put<string, Buffer>(key, operation.value, binary)
          else batch.del<string>(key, binary)
        }
        await batch.write({ sync })
      },
      reopen: async () => {
        await level.close()
        await this.#open()
      },
    }
  }
}
