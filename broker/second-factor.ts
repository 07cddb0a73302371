import { statSync } from 'node:fs'
import type { ProblemCode } from '../contract/problems.ts'
import { AttemptLimit } from '../runtime/limits.ts'
import {
  isPassword,
  maxPasswordBytes,
  type PasswordHash,
  readPasswordFile,
  saltBytes,
  usualCost,
} from '../runtime/passwords.ts'

/** Each takes the memory of its hash, and a thread of the pool that the store needs too. */
const maxAtOnce = 2
const maxWaiting = 200
/** Of one device, or it could use them all up by connecting again and again. */
const maxOfDevice = 10
const failuresPerMinute = 10

type Shown = { username?: string | undefined; password?: Buffer | undefined }
type Fault = [ProblemCode, string]
const locked: Fault = ['too_many_requests', 'too many wrong passwords; wait a minute']

/** Passwords of devices, to be shown beside their certificates. */
export class SecondFactor {
  readonly #file: string
  readonly #now: () => number
  readonly #failures = new AttemptLimit(failuresPerMinute)
  readonly #waiting: (() => void)[] = []
  /** Checks by device, those that wait included. */
  readonly #underWay = new Map<string, number>()
  #running = 0
  #stamp: string
  #hashes: ReadonlyMap<string, PasswordHash>

  /** @throws FleetError `config_invalid` */
  constructor(file: string, now: () => number) {
    this.#file = file
    this.#now = now
    this.#hashes = readPasswordFile(file)
    this.#stamp = stampOf(file)
  }

  /** Reads the file again where it has changed. @returns whether it had. @throws FleetError `config_invalid` */
  refresh(): boolean {
    const stamp = stampOf(this.#file)
    if (stamp === this.#stamp) return false
    this.#stamp = stamp
    this.#hashes = readPasswordFile(this.#file)
    return true
  }

  /**
   * A device that has no password takes as long as one that has.
   *
   * @returns why it is not let in
   */
  async fault(deviceId: string, shown: Shown): Promise<Fault | undefined> {
    if (this.#isLocked(deviceId)) return locked
    const ofDevice = this.#underWay.get(deviceId) ?? 0
    if (this.#waiting.length >= maxWaiting || ofDevice >= maxOfDevice)
      return ['unavailable', 'too many passwords are being checked; try again']
    this.#underWay.set(deviceId, ofDevice + 1)
    try {
      return await this.#faultInTurn(deviceId, shown)
    } finally {
      const left = this.#underWay.get(deviceId)! - 1
      if (left > 0) this.#underWay.set(deviceId, left)
      else this.#underWay.delete(deviceId)
    }
  }

  #isLocked(deviceId: string): boolean {
    return this.#failures.waitMs(deviceId, this.#now()) > 0
  }

  async #faultInTurn(deviceId: string, { username, password }: Shown): Promise<Fault | undefined> {
    const isNamed = username === undefined || username === '' || username === deviceId
    const isShown = password !== undefined && password.length <= maxPasswordBytes
    const copy = isShown ? Buffer.from(password) : undefined // a view of what is read next, once this waits
    await this.#takeTurn()
    try {
      // Guesses that are made at once are still as many.
      if (this.#isLocked(deviceId)) return locked
      if (copy !== undefined && (await this.#isRight(isNamed ? this.#hashes.get(deviceId) : undefined, copy)))
        return undefined
      this.#failures.note(deviceId, this.#now())
      return ['password_wrong', `the password of ${deviceId} is wanted, with the device id or none as user name`]
    } finally {
      this.#endTurn()
    }
  }

  async #takeTurn(): Promise<void> {
    if (this.#running >= maxAtOnce) await new Promise<void>((resolve) => this.#waiting.push(resolve))
    else this.#running++
  }

  #endTurn(): void {
    const next = this.#waiting.shift()
    if (next === undefined) this.#running--
    else next()
  }

  async #isRight(hash: PasswordHash | undefined, password: Buffer): Promise<boolean> {
    const isRight = await isPassword(hash ?? this.#decoy(), password)
    return isRight && hash !== undefined
  }

  #decoy(): PasswordHash {
    const cost = this.#hashes.values().next().value ?? usualCost
    return { ...cost, salt: Buffer.alloc(saltBytes), tag: Buffer.alloc(32) }
  }
}

function stampOf(file: string): string {
  const stat = statSync(file, { throwIfNoEntry: false })
  return stat === undefined ? 'missing' : `${stat.mtimeMs} ${stat.size} ${stat.ino}`
}
