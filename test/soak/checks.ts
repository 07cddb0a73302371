/** What the soak looks at, how often it did, and what it found. */
export const checkNames = [
  'QoS 0: at most once, in order',
  'QoS 1: nothing lost, in order, repeated only with cause',
  'QoS 2: exactly once, in order',
  'shared subscriptions: nothing lost',
  'slow readers: lost only what the log says',
  'properties and identifiers arrive',
  'retained messages are the last acknowledged',
  'wills: of those who were cut off, and no others',
  'policy: in force once applied',
  'nothing after UNSUBSCRIBE',
  'nothing to or from a revoked device',
  'malformed packets close',
  'connections and sessions last',
  'everything has arrived at the end',
  'broker: no error, no restart',
  'broker: heap is back',
  'broker: sockets and timers are back',
  'broker: store is bounded',
] as const
export type CheckName = (typeof checkNames)[number]
export type Outcome = { name: CheckName; looks: number; faults: number; first: readonly string[] }

const shownAtMost = 5

export class Checks {
  readonly #onFault: (name: CheckName, fault: string) => void
  #isClosed = false
  readonly #outcomes = new Map(checkNames.map((name) => [name, { name, looks: 0, faults: 0, first: [] as string[] }]))

  /** @param onFault hears of the first few faults of each check as they are found */
  constructor(onFault: (name: CheckName, fault: string) => void) {
    this.#onFault = onFault
  }

  /** What is looked at from now on does not count: it is ended in the middle of everything. */
  close(): void {
    this.#isClosed = true
  }

  /** @param fault undefined when all was well */
  look(name: CheckName, fault: string | undefined): void {
    if (this.#isClosed) return
    const outcome = this.#outcomes.get(name)!
    outcome.looks++
    if (fault === undefined) return
    outcome.faults++
    if (outcome.first.length >= shownAtMost) return
    outcome.first.push(fault)
    this.#onFault(name, fault)
  }

  get outcomes(): readonly Outcome[] {
    return [...this.#outcomes.values()]
  }

  get faults(): number {
    return this.outcomes.reduce((sum, { faults }) => sum + faults, 0)
  }
}
