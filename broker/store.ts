import { Level } from 'level'
import type { DeviceAttributes } from '../contract/device-attributes.ts'
import type { Cursor, DeviceStatus, Purge } from '../contract/feed.ts'
import type { PolicyDocument } from '../contract/policy-document.ts'
import { FleetError } from '../runtime/errors.ts'

export type DeviceState = {
  profile: string
  groups: string[]
  /** Missing where the device has none, or was last heard of before there were any. */
  attributes?: DeviceAttributes
  status: DeviceStatus
  purge?: Purge
}
export type CertificateState = {
  serial: string
  deviceId: string
  /** ISO time; missing when the revocation is all that was ever heard of this certificate. */
  notAfter?: string
  status: 'issued' | 'revoked'
  reason?: string
}
export type PolicyState = { version: number; document: PolicyDocument }

/** What a broker believes, as of `cursor`. */
export type SnapshotState = {
  cursor: Cursor
  anchors: string[]
  policy: PolicyState
  devices: Map<string, DeviceState>
  certificates: Map<string, CertificateState>
}
/** What a run of feed events changes in it. */
export type SnapshotUpdate = {
  cursor: Cursor
  anchors?: string[]
  policy?: PolicyState
  devices: Map<string, DeviceState>
  certificates: Map<string, CertificateState>
}

export type Operation = { type: 'put'; key: string; value: Buffer } | { type: 'del'; key: string }

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

type Put = { type: 'put'; key: string; value: unknown }
const deviceKey = 'device!'
const certificateKey = 'certificate!'
const liveKey = 'live'
/** Begins every key of the sessions' area, and sorts behind all keys of the snapshot. */
const sessionsKey = '~'
/** Of what was refused; behind the sessions' area. */
const denialsKey = '\u007fd'
/** Of what enroll is still to be told, and of certificates that it was told of. */
const reportsKey = '\u007fr'
const binary = { keyEncoding: 'utf8', valueEncoding: 'buffer' } as const

/** This broker's own folder. One process opens it; every write of the snapshot is one synced batch. */
export class BrokerStore implements AsyncDisposable {
  readonly #folder: string
  readonly #level: Level<string, unknown>
  /** For MQTT sessions and retained messages. */
  readonly sessions: Area
  readonly denials: Area
  readonly reports: Area

  private constructor(folder: string) {
    this.#folder = folder
    this.#level = new Level(folder, { valueEncoding: 'json' })
    this.sessions = this.#area(sessionsKey)
    this.denials = this.#area(denialsKey)
    this.reports = this.#area(reportsKey)
  }

  /** @throws FleetError `data_in_use`, `data_damaged` */
  static async open(folder: string): Promise<BrokerStore> {
    const store = new BrokerStore(folder)
    await store.#open()
    return store
  }

  /** @returns undefined before the first write */
  async read(): Promise<SnapshotState | undefined> {
    const cursor = (await this.#level.get('cursor')) as Cursor | undefined
    if (cursor === undefined) return undefined
    const devices = new Map<string, DeviceState>()
    const certificates = new Map<string, CertificateState>()
    for await (const [key, value] of this.#level.iterator({ lt: sessionsKey })) {
      if (key.startsWith(deviceKey)) devices.set(key.slice(deviceKey.length), value as DeviceState)
      if (key.startsWith(certificateKey)) certificates.set(key.slice(certificateKey.length), value as CertificateState)
    }
    const anchors = ((await this.#level.get('anchors')) as string[] | undefined) ?? []
    const policy = ((await this.#level.get('policy')) as PolicyState | undefined) ?? {
      version: 0,
      document: { policies: [] },
    }
    return { cursor, anchors, policy, devices, certificates }
  }

  /** The facts and the cursor behind them, whole or not at all, on disk when this resolves. */
  async write(update: SnapshotUpdate): Promise<void> {
    await this.#level.batch(putsOf(update), { sync: true })
  }

  /** Another snapshot in place of the one stored. */
  async replace(state: SnapshotState): Promise<void> {
    const puts = putsOf(state)
    const kept = new Set([liveKey, ...puts.map(({ key }) => key)])
    const old = (await this.#level.keys({ lt: sessionsKey }).all()).filter((key) => !kept.has(key))
    await this.#level.batch([...old.map((key) => ({ type: 'del' as const, key })), ...puts], { sync: true })
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

function putsOf(update: SnapshotUpdate): Put[] {
  const puts: Put[] = [{ type: 'put', key: 'cursor', value: update.cursor }]
  if (update.anchors !== undefined) puts.push({ type: 'put', key: 'anchors', value: update.anchors })
  if (update.policy !== undefined) puts.push({ type: 'put', key: 'policy', value: update.policy })
  for (const [id, value] of update.devices) puts.push({ type: 'put', key: deviceKey + id, value })
  for (const [id, value] of update.certificates) puts.push({ type: 'put', key: certificateKey + id, value })
  return puts
}
