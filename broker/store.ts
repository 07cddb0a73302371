import { Level } from 'level'
import type { Cursor, DeviceStatus } from '../contract/feed.ts'
import type { PolicyDocument } from '../contract/policy-document.ts'
import { FleetError } from '../runtime/errors.ts'

export type DeviceState = { profile: string; groups: string[]; status: DeviceStatus }
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

type Put = { type: 'put'; key: string; value: unknown }
const deviceKey = 'device!'
const certificateKey = 'certificate!'

/** This broker's own folder. One process opens it; every write is one synced batch. */
export class BrokerStore implements AsyncDisposable {
  readonly #level: Level<string, unknown>

  private constructor(level: Level<string, unknown>) {
    this.#level = level
  }

  /** @throws FleetError `data_in_use`, `data_damaged` */
  static async open(folder: string): Promise<BrokerStore> {
    const level = new Level<string, unknown>(folder, { valueEncoding: 'json' })
    try {
      await level.open()
    } catch (cause) {
      if ((cause as { cause?: { code?: string } }).cause?.code === 'LEVEL_LOCKED') {
        throw new FleetError('data_in_use', `${folder} is in use by another instance`, { cause })
      }
      throw new FleetError('data_damaged', `${folder} cannot be opened: ${(cause as Error).message}`, { cause })
    }
    return new BrokerStore(level)
  }

  /** @returns undefined before the first write */
  async read(): Promise<SnapshotState | undefined> {
    const cursor = (await this.#level.get('cursor')) as Cursor | undefined
    if (cursor === undefined) return undefined
    const devices = new Map<string, DeviceState>()
    const certificates = new Map<string, CertificateState>()
    for await (const [key, value] of this.#level.iterator()) {
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
    const kept = new Set(puts.map(({ key }) => key))
    const old = (await this.#level.keys().all()).filter((key) => !kept.has(key))
    await this.#level.batch([...old.map((key) => ({ type: 'del' as const, key })), ...puts], { sync: true })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#level.close()
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
