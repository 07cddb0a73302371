import type { PolicyLimits } from '../contract/policy-limits.ts'
import type { DeviceQuota } from './backends/session-store.ts'

/** What a device may still send at once, as it stood at `at`. */
type Budget = { messages: number; bytes: number; at: number; fullAt: number }

const fewBudgets = 1_000

/** What policies let each device have, over all its connections: messages and bytes in time, and what is kept for it. */
export class Quotas {
  #base: DeviceQuota
  readonly #budgets = new Map<string, Budget>()
  /** Of devices whose policy gives them less than everybody. */
  readonly #kept = new Map<string, DeviceQuota>()
  #sweepAt = fewBudgets

  /** @param base what the configuration gives every device */
  constructor(base: DeviceQuota) {
    this.#base = base
  }

  /** Other numbers of sessions and of what waits for them, for every device. */
  rebase(base: DeviceQuota): void {
    this.#base = base
    for (const [id, { retained, retainedBytes }] of this.#kept) this.#kept.set(id, { ...base, retained, retainedBytes })
  }

  /**
   * Counts a message, unless it comes too early. A payload may be larger than what is left: what it takes beyond is owed, and
   * nothing passes before that is paid. Otherwise one that is larger than the burst could never be sent.
   *
   * @param now milliseconds of the epoch
   * @returns milliseconds to wait; 0: it was counted
   */
  take(deviceId: string, { messagesPerSecond, bytesPerSecond }: PolicyLimits, bytes: number, now: number): number {
    if (messagesPerSecond === undefined && bytesPerSecond === undefined) return 0
    const limits = { messagesPerSecond, bytesPerSecond }
    const budget = this.#refilled(deviceId, limits, now)
    const waitMs = Math.max(untilMs(1, budget.messages, messagesPerSecond), untilMs(0, budget.bytes, bytesPerSecond))
    if (waitMs === 0) charge(budget, limits, bytes, now)
    return waitMs
  }

  /**
   * Counts a will, which cannot wait: one connection after another that ends without a goodbye would send more than the rate
   * allows. What it takes beyond is owed, up to another burst, or a will of each connection where that is more.
   *
   * @returns false where too much is owed already: it was not counted
   */
  borrow(deviceId: string, { messagesPerSecond, bytesPerSecond }: PolicyLimits, bytes: number, now: number): boolean {
    if (messagesPerSecond === undefined && bytesPerSecond === undefined) return true
    const limits = { messagesPerSecond, bytesPerSecond }
    const budget = this.#refilled(deviceId, limits, now)
    const mayOwe = Math.max(messagesPerSecond?.burst ?? 0, this.#base.sessions)
    if (budget.messages - 1 < -mayOwe || budget.bytes < -(bytesPerSecond?.burst ?? 0)) return false
    charge(budget, limits, bytes, now)
    return true
  }

  /** To be told of what a policy says now, before something is kept for the device. */
  note(deviceId: string, { retainedMessages, retainedBytes }: PolicyLimits): void {
    if (retainedMessages === undefined && retainedBytes === undefined) {
      this.#kept.delete(deviceId)
      return
    }
    this.#kept.set(deviceId, {
      ...this.#base,
      retained: Math.min(this.#base.retained, retainedMessages ?? Number.POSITIVE_INFINITY),
      retainedBytes: Math.min(this.#base.retainedBytes, retainedBytes ?? Number.POSITIVE_INFINITY),
    })
  }

  keptFor(deviceId: string): DeviceQuota {
    return this.#kept.get(deviceId) ?? this.#base
  }

  #budgetOf(deviceId: string, now: number): Budget {
    let budget = this.#budgets.get(deviceId)
    if (budget === undefined) {
      // A device that reconnects finds its budget as it left it; only full ones are forgotten.
      if (this.#budgets.size >= this.#sweepAt) this.#sweep(now)
      const full = Number.POSITIVE_INFINITY
      budget = { messages: full, bytes: full, at: now, fullAt: now }
      this.#budgets.set(deviceId, budget)
    }
    return budget
  }

  #refilled(deviceId: string, { messagesPerSecond, bytesPerSecond }: Rates, now: number): Budget {
    const budget = this.#budgetOf(deviceId, now)
    const elapsedMs = Math.max(0, now - budget.at)
    budget.at = now
    budget.messages = refilled(budget.messages, messagesPerSecond, elapsedMs)
    budget.bytes = refilled(budget.bytes, bytesPerSecond, elapsedMs)
    return budget
  }

  #sweep(now: number): void {
    for (const [deviceId, { fullAt }] of this.#budgets) {
      if (fullAt <= now) this.#budgets.delete(deviceId)
    }
    this.#sweepAt = Math.max(fewBudgets, 2 * this.#budgets.size)
  }
}

type Rate = PolicyLimits['messagesPerSecond']
type Rates = Pick<PolicyLimits, 'messagesPerSecond' | 'bytesPerSecond'>

function charge(budget: Budget, { messagesPerSecond, bytesPerSecond }: Rates, bytes: number, now: number): void {
  budget.messages -= 1
  budget.bytes -= bytes
  const { burst: messages = 0 } = messagesPerSecond ?? {}
  const { burst: octets = 0 } = bytesPerSecond ?? {}
  budget.fullAt =
    now + Math.max(untilMs(messages, budget.messages, messagesPerSecond), untilMs(octets, budget.bytes, bytesPerSecond))
}

/** Without a limit it is full, and full is where a new limit begins. */
const refilled = (left: number, rate: Rate, elapsedMs: number): number =>
  rate === undefined ? Number.POSITIVE_INFINITY : Math.min(rate.burst, left + (elapsedMs * rate.rate) / 1_000)

const untilMs = (wanted: number, left: number, rate: Rate): number =>
  // A millionth of a message is what adding up fractions is wrong by.
  rate === undefined || left >= wanted - 1e-6 ? 0 : Math.ceil(((wanted - left) * 1_000) / rate.rate - 1e-3)
