import { setImmediate } from 'node:timers/promises'
import type { Cursor, DeviceStatus, FeedData, FeedEvent, Purge } from '../../contract/feed.ts'
import { chainHash } from '../../runtime/chain.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import type { Log } from '../../runtime/log.ts'
import type { Area } from '../store.ts'
import { type DeviceState, voidUntil } from './device-table.ts'
import { type Fact, fact, facts, parseAs, place } from './facts.ts'
import { type Kept, keepStricter } from './kept.ts'
import { SnapshotLog } from './snapshot-log.ts'
import {
  type CertificateState,
  type PolicyState,
  SnapshotState,
  type SnapshotUpdate,
  type Unsaved,
} from './snapshot-state.ts'

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
  /** Of a snapshot that was exchanged: what the feed had forgotten, and is in force all the same. */
  kept?: readonly Kept[]
}

/** What applications may want to hear of. */
export type RegistryNews =
  | { kind: 'issued'; deviceId: string; fingerprint: string; serial: string; notAfter: string; isRenewal: boolean }
  | { kind: 'certificateRevoked'; deviceId: string; fingerprint: string; serial: string; reason: string }
  | { kind: 'expiring'; deviceId: string; fingerprint: string; serial: string; notAfter: string }
  | ({ kind: 'alert'; at: Date; alert: string } & Omit<FeedData['alert.raised'], 'kind'>)
  | { kind: 'deviceStatus'; deviceId: string; status: DeviceStatus }

const nothing = (): Unsaved => ({ anchors: false, policy: false, devices: new Set(), certificates: new Set() })

/**
 * What this broker believes. Facts are in force as soon as they are applied, because a thief is not to profit from a slow
 * disk; what enroll is told was applied is on disk too. After `startOver` events build a fresh snapshot aside; the old one stays in force until `reachedHead` exchanges them.
 */
export class Snapshot implements AsyncDisposable {
  readonly #records: SnapshotLog
  readonly #log: Log
  #state: SnapshotState
  #draft: SnapshotState | undefined
  /** Devices of which the draft says something that was written after all that is in force. */
  readonly #younger = new Set<string>()
  #isOther = false
  /** In force and not on disk: kept over a write that failed, so that the stored cursor never gets ahead of its facts. */
  #unsaved = nothing()
  #epoch = 0
  /** The end of what was last begun on the disk: one thing at a time. */
  #disk: Promise<void> = Promise.resolve()

  private constructor(records: SnapshotLog, state: SnapshotState, log: Log) {
    this.#records = records
    this.#state = state
    this.#log = log
  }

  /** What is stored, or nothing where that is damaged: nobody is admitted before the feed has been read, from wherever it is. */
  static async load(area: Area, log: Log): Promise<Snapshot> {
    const records = await SnapshotLog.open(area)
    const state = new SnapshotState()
    try {
      await records.read((record) => state.read(record))
      return new Snapshot(records, state, log)
    } catch (err) {
      if (!isFleetError(err)) throw err
      log.error({ event: 'snapshot.damaged', err }, 'what was stored of the feed is damaged; reading it anew')
      await records.replace([])
      return new Snapshot(records, new SnapshotState(), log)
    }
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
    return this.#state.devices.find(id)
  }

  findCertificate(fingerprint: string): CertificateState | undefined {
    return this.#state.findCertificate(fingerprint)
  }

  /** Devices of which retained messages are void. */
  purged(): string[] {
    return this.#state.devices.idsWith(({ purge }) => purge?.retained !== undefined)
  }

  /** Devices of which keys are watched. */
  withWatchedKeys(): string[] {
    return this.#state.devices.idsWith(({ watchedKeys }) => watchedKeys !== undefined)
  }

  /** @param isOther the feed is not the one that all this is from: what it has forgotten stays in force */
  startOver(isOther = false): void {
    this.#draft = new SnapshotState()
    this.#isOther = isOther
    this.#younger.clear()
  }

  /** Forgets a half-built snapshot; `cursor` is that of the one in force again. */
  abandonDraft(): void {
    this.#draft = undefined
  }

  /**
   * Puts events in force, or into the draft.
   *
   * @param events  the next ones of the feed, in order
   * @param heardAt by our own clock
   * @throws FleetError `data_damaged` when they do not continue the chain or cannot be read; then nothing was applied
   */
  apply(events: readonly FeedEvent[], heardAt?: Date): SnapshotChange {
    const state = this.#draft ?? this.#state
    // What builds a draft is not news: it may have been said long ago.
    const newsAt = state === this.#state ? heardAt?.getTime() : undefined
    const { update, news, younger } = readEvents(state, events, { knownUntil: this.#state.writtenAt, newsAt })
    if (state !== this.#state) {
      state.merge(update, nothing())
      for (const id of younger) this.#younger.add(id)
      return unchanged()
    }
    state.merge(update, this.#unsaved)
    if (update.policy !== undefined) this.#epoch++
    return { ...changeOf(update), news }
  }

  /**
   * Puts facts into the draft of which the place in the feed is not told.
   *
   * @throws FleetError `data_damaged` when there is no draft, or they cannot be read
   */
  applyFacts(said: unknown): void {
    const draft = this.#requireDraft()
    const update = nothingNew(draft.cursor)
    for (const read of parseAs(facts, () => said, 'what the feed has said')) {
      update.writtenAt = read.at
      note(draft, update, read)
    }
    draft.merge(update, nothing())
  }

  /** The draft has all that the feed says up to there. @throws FleetError `data_damaged` */
  continueFrom(said: unknown): void {
    this.#requireDraft().cursor = parseAs(place, () => said, 'the place where the feed goes on')
  }

  /** What is in force is on disk when this resolves. */
  save(): Promise<void> {
    const saved = this.#inTurn(() => this.#save())
    void saved.then(() => this.#inTurn(() => this.#shorten())).catch(() => {})
    return saved
  }

  /** The feed's head was reached: a snapshot that was built aside comes into force. */
  async reachedHead(): Promise<SnapshotChange> {
    const draft = this.#draft
    if (draft === undefined) return unchanged()
    const before = this.#state
    const kept = this.#isOther ? await keepStricter(before, draft, this.#younger) : []
    if (this.#isOther) {
      const policy = `${before.policy.version} -> ${draft.policy.version}`
      this.#log.error(
        { event: 'feed.wentBack', kept: kept.length, policy, known: before.writtenAt },
        'the feed has forgotten what was known here; revocations stay in force, and are reported',
      )
    }
    for (const id of before.devices.idsWith(({ purgeHeardAt }) => purgeHeardAt !== undefined)) {
      const [was, is] = [before.devices.find(id)!, draft.devices.find(id)]
      if (is !== undefined && isSamePurge(was.purge, is.purge))
        draft.devices.set(id, { ...is, purgeHeardAt: was.purgeHeardAt! })
    }
    await this.#inTurn(async () => {
      await this.#records.replace(draft.records())
      this.#state = draft
      this.#draft = undefined
      this.#unsaved = nothing()
      this.#epoch++
    })
    return { devices: [], certificates: [], policy: true, anchors: true, replaced: true, news: [], kept }
  }

  /**
   * Forgets certificates that ended so long ago, piece by piece. On disk they go when that is written anew. Enroll has to agree
   * that it is so late: nothing brings back what was forgotten while our clock was ahead.
   *
   * @returns how many
   */
  async forgetEnded(now: Date, agoMs: number): Promise<number> {
    const { writtenAt, certificates } = this.#state
    const before = Math.min(now.getTime(), writtenAt === undefined ? 0 : Date.parse(writtenAt)) - agoMs
    let forgotten = 0
    for (const some of certificates.dropExpired(before / 1_000)) {
      forgotten += some
      if (some > 0) await setImmediate()
    }
    return forgotten
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#disk
  }

  #requireDraft(): SnapshotState {
    if (this.#draft === undefined) throw new FleetError('data_damaged', 'what counts is told without a beginning')
    return this.#draft
  }

  async #save(): Promise<void> {
    const unsaved = this.#unsaved
    const { anchors, policy, devices, certificates } = unsaved
    if (!anchors && !policy && devices.size === 0 && certificates.size === 0) return
    this.#unsaved = nothing()
    try {
      await this.#records.append(this.#state.recordOf(unsaved))
    } catch (error) {
      this.#unsaved = joined(unsaved, this.#unsaved)
      throw error
    }
  }

  async #shorten(): Promise<void> {
    if (!this.#records.isLong) return
    try {
      await this.#records.replace(this.#state.records())
    } catch (err) {
      this.#log.error({ event: 'broker.failed', err }, 'the stored snapshot was not written anew')
    }
  }

  /** Runs one thing after the other, whatever comes of those before it. */
  #inTurn(work: () => Promise<void>): Promise<void> {
    const done = this.#disk.then(work)
    this.#disk = done.catch(() => {})
    return done
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

const nothingNew = (cursor: Cursor): SnapshotUpdate => ({ cursor, devices: new Map(), certificates: new Map() })

const joined = (first: Unsaved, then: Unsaved): Unsaved => ({
  anchors: first.anchors || then.anchors,
  policy: first.policy || then.policy,
  devices: new Set([...first.devices, ...then.devices]),
  certificates: new Set([...first.certificates, ...then.certificates]),
})

function readEvents(
  state: SnapshotState,
  events: readonly FeedEvent[],
  { knownUntil = '', newsAt }: { knownUntil?: string | undefined; newsAt?: number | undefined },
): { update: SnapshotUpdate; news: RegistryNews[]; younger: string[] } {
  const news: RegistryNews[] = []
  const younger: string[] = []
  const update = nothingNew(state.cursor)
  for (const event of events) {
    const { seq, hash } = update.cursor
    if (event.seq !== seq + 1 || event.hash !== chainHash(hash, event.body)) {
      throw new FleetError('data_damaged', `feed event ${event.seq} does not follow event ${seq}`)
    }
    update.cursor = { seq: event.seq, hash: event.hash }
    const read = parseAs(fact, () => JSON.parse(event.body), `feed event ${event.seq}`)
    update.writtenAt = read.at
    news.push(...newsOf(state, update, read))
    if (read.type === 'device.changed' && read.at > knownUntil) younger.push(read.data.id)
    note(state, update, read, newsAt)
  }
  return { update, news, younger }
}

function note(state: SnapshotState, update: SnapshotUpdate, { type, data }: Fact, newsAt?: number): void {
  const findDevice = (id: string): DeviceState | undefined => update.devices.get(id) ?? state.devices.find(id)
  switch (type) {
    case 'trust.changed':
      update.anchors = data.anchors
      return
    case 'policy.changed':
      update.policy = data
      return
    case 'device.changed': {
      const { id, profile, groups, attributes, status, purge, kept, stolen } = data
      const before = findDevice(id)
      const { watchedKeys } = before ?? {}
      // After all that was stamped since the purge before it, whatever became of our clock.
      const heardAt = before && newsAt && Math.max(newsAt, before.purge === undefined ? 0 : voidUntil(before) + 1)
      const purgeHeardAt = isSamePurge(before?.purge, purge) ? before?.purgeHeardAt : heardAt
      update.devices.set(id, {
        profile,
        groups,
        status,
        ...(attributes === undefined ? {} : { attributes }),
        ...(purge === undefined ? {} : { purge }),
        ...(kept === undefined ? {} : { kept }),
        ...(purge === undefined || purgeHeardAt === undefined ? {} : { purgeHeardAt }),
        ...(stolen === undefined ? {} : { stolen }),
        // A key that was stolen is watched for ever, whatever becomes of the device.
        ...(watchedKeys === undefined ? {} : { watchedKeys }),
      })
      return
    }
    case 'certificate.issued': {
      const { fingerprint, deviceId } = data
      const notAfter = Math.floor(Date.parse(data.notAfter) / 1_000)
      update.certificates.set(fingerprint, { deviceId, notAfter, reason: undefined })
      return
    }
    case 'certificate.revoked': {
      const { fingerprint, deviceId, reason, watchedKey } = data
      const device = findDevice(deviceId)
      if (watchedKey !== undefined && device?.stolen)
        update.devices.set(deviceId, { ...device, watchedKeys: distinct([...(device.watchedKeys ?? []), watchedKey]) })
      const notAfter = update.certificates.get(fingerprint)?.notAfter ?? 0
      update.certificates.set(fingerprint, { deviceId, notAfter, reason })
      return
    }
    case 'certificate.expiring': // the certificate is what it was
    case 'credential.revoked': // nobody gets in here with one of those
    case 'alert.raised': // nor is anybody's standing another
  }
}

const isSamePurge = (one: Purge | undefined, other: Purge | undefined): boolean =>
  one?.retained === other?.retained && one?.queued === other?.queued

const distinct = (texts: string[]): string[] => [...new Set(texts)]

/** @param update what came before the fact in the same run */
function newsOf(state: SnapshotState, update: SnapshotUpdate, { type, data, at }: Fact): RegistryNews[] {
  if (type === 'device.changed') {
    const { id, status } = data
    const before = update.devices.get(id) ?? state.devices.find(id)
    return before === undefined || before.status === status ? [] : [{ kind: 'deviceStatus', deviceId: id, status }]
  }
  if (type === 'alert.raised') return [{ ...data, kind: 'alert', alert: data.kind, at: new Date(at) }]
  if (type === 'certificate.expiring') return [{ kind: 'expiring', ...data }]
  if (type !== 'certificate.issued' && type !== 'certificate.revoked') return []
  const { deviceId, fingerprint, serial } = data
  const known = update.certificates.get(fingerprint) ?? state.findCertificate(fingerprint)
  if (type === 'certificate.issued') {
    if (known !== undefined) return []
    const { notAfter, via } = data
    return [
      { kind: 'issued', deviceId, fingerprint, serial, notAfter, isRenewal: via?.startsWith('reenroll') === true },
    ]
  }
  if (known?.reason !== undefined) return []
  return [{ kind: 'certificateRevoked', deviceId, fingerprint, serial, reason: data.reason }]
}

const changeOf = (update: SnapshotUpdate): Omit<SnapshotChange, 'news'> => ({
  devices: [...update.devices.keys()],
  certificates: [...update.certificates].flatMap(([id, { reason }]) => (reason === undefined ? [] : [id])),
  policy: update.policy !== undefined,
  anchors: update.anchors !== undefined,
  replaced: false,
})
