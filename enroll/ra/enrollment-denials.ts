import { explainDenial } from '../../contract/denial-explain.ts'
import { byLastAt, type Denial, type DenialQuery } from '../../contract/denials.ts'
import type { ProblemCode } from '../../contract/problems.ts'
import { DenialRing } from '../../runtime/denial-ring.ts'
import { networkOf } from '../../runtime/limits.ts'
import { Tally } from '../../runtime/metrics.ts'
import { listDenials, writeDenial } from '../registry/denials.ts'
import { type Registry, readAll, type Write } from '../registry/registry.ts'

export type RefusedEnrollment = {
  cause: ProblemCode
  message: string
  /** Empty where it never came to a request. */
  path: string
  remoteAddress: string
  deviceId: string | undefined
  claimedId: string | undefined
  now: Date
}

const maxKept = 2_000
const maxUnasked = 500
const maxPerOwner = 32
const maxText = 500

/** What was refused at enrollment lately. Memory has it; it is written where the audit log is written to anyway. */
export class EnrollmentDenials {
  readonly #ring: DenialRing<Denial>
  /** Of who never came to a request, which costs next to nothing: they push out none of the others, and are not written. */
  readonly #unasked: DenialRing<Denial>
  /** By cause. */
  readonly refusals = new Tally()
  /** Where each is written: a record that is deleted leaves its revision behind, so places are used again. */
  readonly #slots = new Map<string, number>()
  readonly #free: number[] = []
  #nextSlot = 0

  private constructor(newId: () => string) {
    this.#ring = new DenialRing({ max: maxKept, maxPerOwner, newId })
    this.#unasked = new DenialRing({ max: maxUnasked, maxPerOwner, newId })
  }

  static async open(registry: Registry, newId: () => string): Promise<EnrollmentDenials> {
    const denials = new EnrollmentDenials(newId)
    const kept = (await readAll((paging) => listDenials(registry, paging))).map(({ doc }) => doc)
    for (const { slot, key, owner, view } of kept.toSorted((a, b) => (a.view.lastAt < b.view.lastAt ? -1 : 1))) {
      denials.#slots.set(view.id, slot)
      denials.#nextSlot = Math.max(denials.#nextSlot, slot + 1)
      const entry = { id: view.id, key, owner, lastAt: Date.parse(view.lastAt), value: view }
      for (const { id } of denials.#ring.restore(entry)) denials.#forget(id)
    }
    return denials
  }

  /** @returns the id to tell, at once */
  note({ cause, message, path, remoteAddress, deviceId, claimedId, now }: RefusedEnrollment): string {
    this.refusals.add(1, cause)
    const at = now.toISOString()
    const owner = deviceId ?? networkOf(remoteAddress)
    const noted = { key: [cause, path.slice(0, maxText)].join(' '), kind: cause, owner, now: now.getTime() }
    const ring = path === '' ? this.#unasked : this.#ring
    const { entry, isRepeat, dropped } = ring.note(noted, (id, isRest) => {
      const view: Denial = {
        id,
        stage: 'enrollment',
        cause,
        message: message.slice(0, maxText),
        count: 1,
        firstAt: at,
        lastAt: at,
        ...(isRest ? { isMixed: true } : {}),
        by: 'enroll',
        remoteAddress,
        ...(deviceId === undefined ? {} : { deviceId }),
        ...(claimedId === undefined ? {} : { claimedId: claimedId.slice(0, maxText) }),
        ...(path === '' ? {} : { path: path.slice(0, maxText) }),
        variables: deviceId === undefined ? {} : { 'device.id': [deviceId] },
      }
      return { ...view, ...explainDenial(view, undefined) }
    })
    entry.value.lastAt = at
    if (isRepeat) entry.value.count++
    for (const { id } of dropped) this.#forget(id)
    return entry.id
  }

  /** What to write of it. */
  writes(id: string): Write[] {
    const entry = this.#ring.find(id)
    if (entry === undefined) return []
    const slot = this.#slots.get(id) ?? this.#free.pop() ?? this.#nextSlot++
    this.#slots.set(id, slot)
    return [writeDenial({ slot, key: entry.key, owner: entry.owner, view: entry.value })]
  }

  find(id: string): Denial | undefined {
    return (this.#ring.find(id) ?? this.#unasked.find(id))?.value
  }

  /** Newest first; of a device also those of who only called itself that. */
  list({ deviceId, limit }: DenialQuery): Denial[] {
    const isMeant = (one: Denial): boolean => deviceId === undefined || (one.deviceId ?? one.claimedId) === deviceId
    return [...this.#ring, ...this.#unasked]
      .map(({ value }) => value)
      .filter(isMeant)
      .toSorted(byLastAt)
      .slice(0, limit)
  }

  #forget(id: string): void {
    const slot = this.#slots.get(id)
    if (slot === undefined) return
    this.#slots.delete(id)
    this.#free.push(slot)
  }
}
