import { X509Certificate } from 'node:crypto'
import { z } from 'zod'
import { deviceAttributes } from '../../contract/device-attributes.ts'
import { type Cursor, type DeviceStatus, deviceStatuses, type FeedEvent, startCursor } from '../../contract/feed.ts'
import { isDeviceId, isFingerprint, isGroupName, isProfileName, isSerialNumber } from '../../contract/ids.ts'
import { policyDocument } from '../../contract/policy-document.ts'
import { chainHash } from '../../runtime/chain.ts'
import { FleetError } from '../../runtime/errors.ts'
import type {
  BrokerStore,
  CertificateState,
  DeviceState,
  PolicyState,
  SnapshotState,
  SnapshotUpdate,
} from '../store.ts'

/** What came into force: whom to look at again. */
export type SnapshotChange = {
  devices: string[]
  certificates: string[]
  policy: boolean
  anchors: boolean
  /** The whole snapshot was exchanged: anybody may be affected. */
  replaced: boolean
  /** Of the facts that were not known before; none where the snapshot was exchanged. */
  news: readonly RegistryNews[]
}

/** What applications may want to hear of. */
export type RegistryNews =
  | { kind: 'issued'; deviceId: string; fingerprint: string; serial: string; notAfter: string; isRenewal: boolean }
  | { kind: 'certificateRevoked'; deviceId: string; fingerprint: string; serial: string; reason: string }
  | { kind: 'deviceStatus'; deviceId: string; status: DeviceStatus }

const deviceId = z.string().refine(isDeviceId)
const fingerprint = z.string().refine(isFingerprint)
const serial = z.string().refine(isSerialNumber)
const at = z.string()
const instant = z.iso.datetime({ offset: true })
// One that OpenSSL cannot read would stop the listener, at every start again.
const anchor = z.string().refine((pem) => {
  try {
    return new X509Certificate(pem).ca
  } catch {
    return false
  }
}, 'PEM of a CA certificate')
const fact = z.discriminatedUnion('type', [
  z.object({ type: z.literal('trust.changed'), at, data: z.object({ anchors: z.array(anchor) }) }),
  z.object({ type: z.literal('policy.changed'), at, data: z.object({ version: z.int(), document: policyDocument }) }),
  z.object({
    type: z.literal('device.changed'),
    at,
    data: z.object({
      id: deviceId,
      profile: z.string().refine(isProfileName),
      groups: z.array(z.string().refine(isGroupName)),
      attributes: deviceAttributes.optional(),
      status: z.enum(deviceStatuses),
      purge: z.object({ retained: instant.exactOptional(), queued: instant.exactOptional() }).optional(),
    }),
  }),
  z.object({
    type: z.literal('certificate.issued'),
    at,
    data: z.object({ serial, fingerprint, deviceId, notAfter: instant, via: z.string().optional() }),
  }),
  z.object({
    type: z.literal('certificate.revoked'),
    at,
    data: z.object({ serial, fingerprint, deviceId, reason: z.string() }),
  }),
])
type Fact = z.output<typeof fact>

const emptyState = (): SnapshotState => ({
  cursor: startCursor,
  anchors: [],
  policy: { version: 0, document: { policies: [] } },
  devices: new Map(),
  certificates: new Map(),
})

/**
 * What this broker believes. Facts are in force as soon as they are applied, because a thief is not to profit from a slow
 * disk; what enroll is told was applied is on disk too. After `startOver` events build a fresh snapshot aside; the old one stays in force until `reachedHead` exchanges them.
 */
export class Snapshot {
  readonly #store: BrokerStore
  #state: SnapshotState
  #draft: SnapshotState | undefined
  /** In force and not on disk: kept over a write that failed, so that the stored cursor never gets ahead of its facts. */
  #unsaved: SnapshotUpdate | undefined
  #epoch = 0

  private constructor(store: BrokerStore, state: SnapshotState) {
    this.#store = store
    this.#state = state
  }

  static async load(store: BrokerStore): Promise<Snapshot> {
    return new Snapshot(store, (await store.read()) ?? emptyState())
  }

  /** Where the feed is to be continued. */
  get cursor(): Cursor {
    return (this.#draft ?? this.#state).cursor
  }

  get anchors(): readonly string[] {
    return this.#state.anchors
  }

  get policy(): PolicyState {
    return this.#state.policy
  }

  /** Whether events go into a snapshot that is not in force yet. */
  get building(): boolean {
    return this.#draft !== undefined
  }

  /** Grows whenever a compiled policy of any principal may have become wrong. */
  get epoch(): number {
    return this.#epoch
  }

  findDevice(id: string): DeviceState | undefined {
    return this.#state.devices.get(id)
  }

  findCertificate(fingerprint: string): CertificateState | undefined {
    return this.#state.certificates.get(fingerprint)
  }

  /** Devices of which retained messages are void. */
  *purged(): Iterable<string> {
    for (const [id, { purge }] of this.#state.devices) if (purge?.retained !== undefined) yield id
  }

  startOver(): void {
    this.#draft = emptyState()
  }

  /** Forgets a half-built snapshot; `cursor` is that of the one in force again. */
  abandonDraft(): void {
    this.#draft = undefined
  }

  /**
   * Puts events in force, or into the draft.
   *
   * @param events the next ones of the feed, in order
   * @throws FleetError `data_damaged` when they do not continue the chain or cannot be read; then nothing was applied
   */
  apply(events: readonly FeedEvent[]): SnapshotChange {
    const state = this.#draft ?? this.#state
    const { update, news } = readEvents(state, events)
    const change = { ...merge(state, update), news }
    if (state !== this.#state) return unchanged()
    this.#unsaved = this.#unsaved === undefined ? update : joined(this.#unsaved, update)
    if (change.policy) this.#epoch++
    return change
  }

  /** What is in force is on disk when this resolves. */
  async save(): Promise<void> {
    const update = this.#unsaved
    if (update === undefined) return
    await this.#store.write(update)
    if (this.#unsaved === update) this.#unsaved = undefined
  }

  /** The feed's head was reached: a snapshot that was built aside comes into force. */
  async reachedHead(): Promise<SnapshotChange> {
    const draft = this.#draft
    if (draft === undefined) return unchanged()
    await this.#store.replace(draft)
    this.#state = draft
    this.#draft = undefined
    this.#unsaved = undefined
    this.#epoch++
    return { devices: [], certificates: [], policy: true, anchors: true, replaced: true, news: [] }
  }
}

const unchanged = (): SnapshotChange => ({
  devices: [],
  certificates: [],
  policy: false,
  anchors: false,
  replaced: false,
  news: [],
})

const joined = (first: SnapshotUpdate, then: SnapshotUpdate): SnapshotUpdate => ({
  ...first,
  ...then,
  devices: new Map([...first.devices, ...then.devices]),
  certificates: new Map([...first.certificates, ...then.certificates]),
})

function readEvents(
  state: SnapshotState,
  events: readonly FeedEvent[],
): { update: SnapshotUpdate; news: RegistryNews[] } {
  const news: RegistryNews[] = []
  const update: SnapshotUpdate = { cursor: state.cursor, devices: new Map(), certificates: new Map() }
  for (const event of events) {
    const { seq, hash } = update.cursor
    if (event.seq !== seq + 1 || event.hash !== chainHash(hash, event.body)) {
      throw new FleetError('data_damaged', `feed event ${event.seq} does not follow event ${seq}`)
    }
    update.cursor = { seq: event.seq, hash: event.hash }
    const read = parseFact(event)
    news.push(...newsOf(state, update, read))
    note(state, update, read)
  }
  return { update, news }
}

function parseFact(event: FeedEvent): Fact {
  try {
    return fact.parse(JSON.parse(event.body))
  } catch (cause) {
    // To step over what cannot be read could be to step over a revocation.
    throw new FleetError('data_damaged', `feed event ${event.seq} cannot be read`, { cause })
  }
}

function note(state: SnapshotState, update: SnapshotUpdate, { type, data }: Fact): void {
  switch (type) {
    case 'trust.changed':
      update.anchors = data.anchors
      return
    case 'policy.changed':
      update.policy = data
      return
    case 'device.changed': {
      const { id, profile, groups, attributes, status, purge } = data
      update.devices.set(id, {
        profile,
        groups,
        status,
        ...(attributes === undefined ? {} : { attributes }),
        ...(purge === undefined ? {} : { purge }),
      })
      return
    }
    case 'certificate.issued': {
      const { serial, deviceId, notAfter } = data
      update.certificates.set(data.fingerprint, { serial, deviceId, notAfter, status: 'issued' })
      return
    }
    case 'certificate.revoked': {
      const known = update.certificates.get(data.fingerprint) ?? state.certificates.get(data.fingerprint)
      const { serial, deviceId, reason } = data
      update.certificates.set(data.fingerprint, { ...known, serial, deviceId, status: 'revoked', reason })
      return
    }
  }
}

/** @param update what came before the fact in the same run */
function newsOf(state: SnapshotState, update: SnapshotUpdate, { type, data }: Fact): RegistryNews[] {
  if (type === 'device.changed') {
    const { id, status } = data
    const before = update.devices.get(id) ?? state.devices.get(id)
    return before === undefined || before.status === status ? [] : [{ kind: 'deviceStatus', deviceId: id, status }]
  }
  if (type !== 'certificate.issued' && type !== 'certificate.revoked') return []
  const { deviceId, fingerprint, serial } = data
  const known = update.certificates.get(fingerprint) ?? state.certificates.get(fingerprint)
  if (type === 'certificate.issued') {
    if (known !== undefined) return []
    const { notAfter, via } = data
    return [{ kind: 'issued', deviceId, fingerprint, serial, notAfter, isRenewal: via === 'reenroll' }]
  }
  if (known?.status === 'revoked') return []
  return [{ kind: 'certificateRevoked', deviceId, fingerprint, serial, reason: data.reason }]
}

function merge(state: SnapshotState, update: SnapshotUpdate): Omit<SnapshotChange, 'news'> {
  state.cursor = update.cursor
  if (update.anchors !== undefined) state.anchors = update.anchors
  if (update.policy !== undefined) state.policy = update.policy
  for (const [id, device] of update.devices) state.devices.set(id, device)
  for (const [id, certificate] of update.certificates) state.certificates.set(id, certificate)
  return {
    devices: [...update.devices.keys()],
    certificates: [...update.certificates].filter(([, { status }]) => status === 'revoked').map(([id]) => id),
    policy: update.policy !== undefined,
    anchors: update.anchors !== undefined,
    replaced: false,
  }
}
