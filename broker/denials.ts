import { explainDenial } from '../contract/denial-explain.ts'
import { type Denial, type DenialAsked, type DenialQuery, type DenialStage, denialView } from '../contract/denials.ts'
import type { PolicyDocument } from '../contract/policy-document.ts'
import type { PrincipalFacts } from '../contract/principal-facts.ts'
import type { ProblemCode } from '../contract/problems.ts'
import type { CertificateFacts } from '../pki/certificate.ts'
import { formatName } from '../pki/names.ts'
import { factsOfCertificate } from '../pki/principal-facts.ts'
import { DenialRing, type Entry } from '../runtime/denial-ring.ts'
import { networkOf } from '../runtime/limits.ts'
import type { Log } from '../runtime/log.ts'
import type { Verdict } from './admission.ts'
import type { Connection } from './sessions.ts'
import type { Area, Operation } from './store.ts'
import type { PolicyState } from './trust/snapshot-state.ts'

/** Who was refused, as far as it is known. */
export type Refused = {
  readonly remoteAddress?: string | undefined
  readonly listener?: string | undefined
  readonly deviceId?: string | undefined
  readonly clientId?: string | undefined
  readonly certificate?: CertificateFacts | undefined
  readonly verdict?: Verdict | undefined
  /** Without them, what the certificate says. */
  readonly facts?: PrincipalFacts | undefined
}
export type Asked = {
  readonly action: DenialAsked['action']
  readonly topic: string
  readonly qos?: number
  readonly retain?: boolean
  readonly payload?: { readonly length: number }
}
export type Refusal = {
  readonly stage: DenialStage
  readonly cause: ProblemCode
  readonly message: string
  readonly asked?: Asked | undefined
  readonly needed?: number | undefined
  /** How often, where it is not noted each time. */
  readonly times?: number
}

/** As denials know it. */
export const refusedOf = (connection: Connection): Refused & { remoteAddress: string } => ({
  remoteAddress: connection.remoteAddress,
  listener: connection.rules.name,
  deviceId: connection.deviceId ?? connection.verdict?.deviceId,
  clientId: connection.clientId,
  certificate: connection.certificate,
  verdict: connection.verdict,
  facts: connection.principal?.facts,
})

/** One that is on disk is there alone: it is some kilobytes. `document` is the policy of that moment, until it was asked. */
type Fresh = { view: Denial; document: PolicyDocument | undefined }
type Kept = { count: number; isMixed: boolean; fresh: Fresh | undefined; isStored: boolean }

type DenialsOptions = {
  area: Area
  brokerId: string
  policy: () => PolicyState
  newId: () => string
  clock: () => Date
  log: Log
  /** Told of every refusal, in the turn of it. */
  onNoted?: (refused: Refused, refusal: Refusal, id: string) => void
}

const maxOfDevices = 10_000
const maxPerDevice = 32
const maxOfStrangers = 1_000
const maxPerAddress = 8
const flushMs = 1_000
/** Milliseconds a flush may look through the policy; what is not told by then waits for the next, or for who asks. */
const explainMs = 20
const writtenPerFlush = 500
/** Of the last flush, which is for all that is left. */
const lastRounds = 20
const maxListed = 200
/** Of an answer, which is one line of the feed: a certificate can be large. */
const maxListedBytes = 1_000_000
const maxText = 500
const maxValues = 16
const maxNames = 64
const pageSize = 500

/**
 * What this broker has refused lately. To note a refusal costs a look into a table: it is explained, and written, at most once a
 * second, and outside of whatever is being served. Devices and strangers have rooms of their own.
 */
export class Denials implements AsyncDisposable {
  readonly #options: DenialsOptions
  readonly #devices: DenialRing<Kept>
  readonly #strangers: DenialRing<Kept>
  readonly #unwritten = new Set<Entry<Kept>>()
  readonly #gone = new Set<string>()
  readonly #timer: NodeJS.Timeout
  #flushing: Promise<void> | undefined

  private constructor(options: DenialsOptions) {
    this.#options = options
    const { newId } = options
    this.#devices = new DenialRing({ max: maxOfDevices, maxPerOwner: maxPerDevice, newId })
    this.#strangers = new DenialRing({ max: maxOfStrangers, maxPerOwner: maxPerAddress, newId })
    this.#timer = setInterval(() => void this.flush(), flushMs)
    this.#timer.unref()
  }

  static async open(options: DenialsOptions): Promise<Denials> {
    const denials = new Denials(options)
    await denials.#restore()
    return denials
  }

  /** @returns the id to tell, at once; that of an earlier one of the same kind where there is one */
  note(refused: Refused, refusal: Refusal): string {
    const { stage, cause, asked } = refusal
    const { deviceId, remoteAddress, clientId } = refused
    const owner = deviceId ?? networkOf(remoteAddress ?? 'unknown')
    const kind = `${stage} ${cause}`
    const key = [kind, clientId, asked?.topic ?? refused.listener].join(' ')
    const now = this.#options.clock().getTime()
    const ring = deviceId === undefined ? this.#strangers : this.#devices
    const { entry, isRepeat, dropped } = ring.note({ key, kind, owner, now }, (id, isRest) =>
      this.#describe(id, isRest, refused, refusal),
    )
    if (isRepeat) entry.value.count += refusal.times ?? 1
    for (const gone of dropped) {
      this.#unwritten.delete(gone)
      if (gone.value.isStored) this.#gone.add(gone.id)
    }
    this.#unwritten.add(entry)
    this.#options.onNoted?.(refused, refusal, entry.id)
    return entry.id
  }

  /**
   * The same once more, without a look for what is like it.
   *
   * @param id as `note` has told it
   * @returns false when it is not kept any more: it is to be noted
   */
  again(id: string, { refused, refusal, now }: { refused: Refused; refusal: Refusal; now: number }): boolean {
    const ring = refused.deviceId === undefined ? this.#strangers : this.#devices
    const entry = ring.find(id)
    if (entry === undefined) return false
    ring.touch(entry, now)
    entry.value.count++
    this.#unwritten.add(entry)
    this.#options.onNoted?.(refused, refusal, id)
    return true
  }

  /** Whether a record stands for more than could be kept apart. */
  isMixed(id: string): boolean {
    return (this.#devices.find(id) ?? this.#strangers.find(id))?.value.isMixed === true
  }

  /** The last ones, newest first. */
  async list({ id, deviceId, limit }: DenialQuery): Promise<Denial[]> {
    const entries = this.#entries(id, deviceId)
      .toSorted((a, b) => b.lastAt - a.lastAt)
      .slice(0, Math.min(limit, maxListed))
    const views = await this.#views(entries)
    let bytes = 0
    return entries
      .flatMap((entry) => views.get(entry) ?? [])
      .filter((view) => {
        bytes += JSON.stringify(view).length
        return bytes <= maxListedBytes
      })
  }

  #entries(id: string | undefined, deviceId: string | undefined): Entry<Kept>[] {
    if (id !== undefined) return [this.#devices.find(id) ?? this.#strangers.find(id) ?? []].flat()
    return deviceId === undefined ? [...this.#devices, ...this.#strangers] : this.#devices.ofOwner(deviceId)
  }

  /** Of all that have not gone meanwhile. */
  async #views(entries: readonly Entry<Kept>[]): Promise<Map<Entry<Kept>, Denial>> {
    const views = new Map<Entry<Kept>, Denial>()
    const stored: Entry<Kept>[] = []
    for (const entry of entries) {
      const { fresh } = entry.value
      if (fresh === undefined) stored.push(entry)
      else views.set(entry, asOfNow(entry, explained(fresh)))
    }
    const texts = stored.length === 0 ? [] : await this.#options.area.getMany(stored.map(({ id }) => id))
    for (const [at, entry] of stored.entries()) {
      const text = texts[at]
      if (text !== undefined) views.set(entry, asOfNow(entry, JSON.parse(String(text)).view))
    }
    return views
  }

  /** Writes what has changed, as far as a second's work goes. */
  async flush(): Promise<void> {
    await this.#flushing
    this.#flushing = this.#write()
    await this.#flushing
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer)
    for (let round = 0; round === 0 || (round < lastRounds && this.#unwritten.size > 0); round++) await this.flush()
  }

  async #write(): Promise<void> {
    const operations: Operation[] = [...this.#gone].map((key) => ({ type: 'del', key }))
    this.#gone.clear()
    const batch: Entry<Kept>[] = []
    const began = performance.now()
    for (const entry of this.#unwritten) {
      if (batch.length === writtenPerFlush || performance.now() - began > explainMs) break
      if (entry.value.fresh !== undefined) explained(entry.value.fresh)
      batch.push(entry)
    }
    for (const entry of batch) {
      this.#unwritten.delete(entry)
      // From here on: one that has to go while it is being written is removed by the next flush.
      entry.value.isStored = true
    }
    const { area, log } = this.#options
    try {
      for (const [entry, view] of await this.#views(batch)) {
        const value = Buffer.from(JSON.stringify({ key: entry.key, owner: entry.owner, view }))
        operations.push({ type: 'put', key: entry.id, value })
      }
      if (operations.length === 0) return
      // A record of what was refused is worth no sync: nothing rests on it.
      await area.write(operations, { sync: false })
      for (const { value } of batch) value.fresh = undefined
    } catch (err) {
      log.error({ event: 'broker.failed', err }, 'denials were not kept')
    }
  }

  async #restore(): Promise<void> {
    const { area } = this.#options
    const found: { ring: DenialRing<Kept>; entry: Entry<Kept> }[] = []
    for (let after = ''; ; ) {
      const page = await area.page('', after, pageSize)
      for (const [id, text] of page) {
        const { key, owner, view } = JSON.parse(String(text))
        const parsed = denialView.safeParse(view)
        if (!parsed.success)
          this.#gone.add(id) // of another version
        else {
          const { count, lastAt, deviceId, isMixed = false } = parsed.data
          const value = { count, isMixed, fresh: undefined, isStored: true }
          const ring = deviceId === undefined ? this.#strangers : this.#devices
          found.push({ ring, entry: { id, key, owner, lastAt: Date.parse(lastAt), value } })
        }
      }
      if (page.length < pageSize) break
      after = page.at(-1)![0]
    }
    for (const { ring, entry } of found.toSorted((a, b) => a.entry.lastAt - b.entry.lastAt)) {
      for (const { id } of ring.restore(entry)) this.#gone.add(id)
    }
  }

  #describe(
    id: string,
    isRest: boolean,
    refused: Refused,
    { stage, cause, message, asked, needed, times = 1 }: Refusal,
  ): Kept {
    const { brokerId, policy, clock } = this.#options
    const { remoteAddress, listener, deviceId, clientId, certificate, verdict } = refused
    const at = clock().toISOString()
    const { version, document } = policy()
    const view: Denial = {
      id,
      stage,
      cause,
      message: message.slice(0, maxText),
      count: times,
      firstAt: at,
      lastAt: at,
      ...(isRest ? { isMixed: true } : {}),
      by: brokerId,
      ...(remoteAddress === undefined ? {} : { remoteAddress }),
      ...(listener === undefined ? {} : { listener }),
      ...(verdict === undefined ? {} : { state: verdict.state, action: verdict.action }),
      ...(deviceId === undefined ? {} : { deviceId }),
      ...(clientId === undefined ? {} : { clientId: clientId.slice(0, maxText) }),
      ...(asked === undefined ? {} : { asked: written(asked) }),
      ...(needed === undefined ? {} : { needed }),
      ...(certificate === undefined ? {} : { certificate: factsShown(certificate) }),
      variables: bounded(refused.facts ?? (certificate === undefined ? {} : factsOfCertificate(certificate))),
      policyVersion: version,
    }
    return { count: times, isMixed: isRest, fresh: { view, document }, isStored: false }
  }
}

function explained(fresh: Fresh): Denial {
  if (fresh.document !== undefined) {
    Object.assign(fresh.view, explainDenial(fresh.view, fresh.document))
    fresh.document = undefined
  }
  return fresh.view
}

const asOfNow = ({ lastAt, value: { count } }: Entry<Kept>, view: Denial): Denial => ({
  ...view,
  count,
  lastAt: new Date(lastAt).toISOString(),
})

export const written = ({ action, topic, qos = 0, retain = false, payload }: Asked): DenialAsked => ({
  action,
  topic: topic.slice(0, 1_024),
  qos,
  retain,
  bytes: payload?.length ?? 0,
})

export const factsShown = ({ subject, issuer, serial, fingerprint, notBefore, notAfter }: CertificateFacts) => ({
  subject: formatName(subject).slice(0, maxText),
  issuer: formatName(issuer).slice(0, maxText),
  serial,
  fingerprint,
  notBefore: notBefore.toISOString(),
  notAfter: notAfter.toISOString(),
})

/** A certificate can hold a hundred values under one name. */
export const bounded = (facts: PrincipalFacts): Record<string, string[]> =>
  Object.fromEntries(
    Object.entries(facts)
      .slice(0, maxNames)
      .map(([name, values]) => [name, (values ?? []).slice(0, maxValues).map((value) => value.slice(0, maxText))]),
  )
