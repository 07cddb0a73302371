import type { DeviceAttributes } from '../../contract/device-attributes.ts'
import type { DeviceStatus, Purge } from '../../contract/feed.ts'

/** Not to be changed: devices may share it. */
export type DeviceState = {
  profile: string
  groups: string[]
  /** Missing where the device has none, or was last heard of before there were any. */
  attributes?: DeviceAttributes
  status: DeviceStatus
  purge?: Purge
  /** It is revoked, and what of that is of an earlier revocation. */
  kept?: (keyof Purge)[]
  /** When that was heard, in milliseconds by our own clock, where it was heard as news. */
  purgeHeardAt?: number
  stolen?: true
  /** Of a device that was stolen: SHA-256 of the SubjectPublicKeyInfo of each key that it had. */
  watchedKeys?: string[]
}
/** Messages of the device up to then are void: by the clock of enroll, and by ours as it was when we heard of it. */
export const voidUntil = ({ purge = {}, purgeHeardAt = 0 }: DeviceState): number =>
  Math.max(purgeHeardAt, ...Object.values(purge).map((before) => Date.parse(before)))

/** As stored. The state is missing where only a certificate was heard of. */
export type DeviceEntry = [number: number, id: string, state?: DeviceState]

/** What is said of so many devices. */
type Shared = { state: DeviceState; devices: number }

/**
 * Devices by id, each with a number that certificates name it by. Numbers go up from 0 and are never given again. What
 * is said of many alike is kept once.
 */
export class DeviceTable {
  readonly #numbers = new Map<string, number>()
  readonly #ids: string[] = []
  readonly #states: (DeviceState | undefined)[] = []
  readonly #shared = new Map<string, Shared>()

  find(id: string): DeviceState | undefined {
    const number = this.#numbers.get(id)
    return number === undefined ? undefined : this.#states[number]
  }

  has(id: string): boolean {
    return this.#numbers.has(id)
  }

  /** Gives a number to who has none. */
  numberOf(id: string): number {
    let number = this.#numbers.get(id)
    if (number === undefined) {
      number = this.#ids.length
      this.#numbers.set(id, number)
      this.#ids.push(id)
    }
    return number
  }

  idsWith(holds: (state: DeviceState) => boolean): string[] {
    return this.#ids.filter((_, number) => {
      const state = this.#states[number]
      return state !== undefined && holds(state)
    })
  }

  idOf(number: number): string {
    return this.#ids[number]!
  }

  set(id: string, state: DeviceState): void {
    this.#setState(this.numberOf(id), state)
  }

  put([number, id, state]: DeviceEntry): void {
    this.#numbers.set(id, number)
    this.#ids[number] = id
    if (state !== undefined) this.#setState(number, state)
  }

  entriesOf(ids: Iterable<string>): DeviceEntry[] {
    return Array.from(ids, (id) => this.#entry(this.numberOf(id)))
  }

  /** All, each slice as they are when it is taken. */
  *slices(length: number): Generator<DeviceEntry[]> {
    for (let from = 0; from < this.#ids.length; from += length) {
      const to = Math.min(from + length, this.#ids.length)
      yield Array.from({ length: to - from }, (_, at) => this.#entry(from + at))
    }
  }

  #setState(number: number, { profile, groups, status, ...own }: DeviceState): void {
    const before = this.#states[number]
    const common = { profile, groups, status }
    const shared = this.#shared.get(sharedKey(common)) ?? { state: common, devices: 0 }
    shared.devices++
    this.#shared.set(sharedKey(common), shared)
    this.#states[number] = Object.keys(own).length === 0 ? shared.state : { ...shared.state, ...own }
    if (before !== undefined) this.#leave(sharedKey(before))
  }

  #leave(key: string): void {
    const shared = this.#shared.get(key)!
    if (--shared.devices === 0) this.#shared.delete(key)
  }

  #entry(number: number): DeviceEntry {
    const state = this.#states[number]
    return state === undefined ? [number, this.idOf(number)] : [number, this.idOf(number), state]
  }
}

const sharedKey = ({ profile, groups, status }: DeviceState): string => [profile, status, ...groups].join(' ')
