import type { PrincipalFacts } from '../contract/principal-facts.ts'
import type { ProblemCode } from '../contract/problems.ts'
import { parseCertificate } from '../pki/certificate.ts'
import { isFleetError } from '../runtime/errors.ts'
import type { Log } from '../runtime/log.ts'
import { type Due, deviceOf, type Message, type SessionStore, type Will } from './backends/session-store.ts'
import type { Gate } from './gate.ts'
import { clearing, dueWill } from './messages.ts'
import type { Quotas } from './quotas.ts'
import type { RetainedMessages } from './retained.ts'
import type { Router } from './router.ts'
import { restoreRoutes } from './routes.ts'
import type { Sessions } from './sessions.ts'
import type { RouteIndex } from './wire/route-index.ts'

export type WillsOptions = {
  store: SessionStore
  router: Pick<Router, 'retain' | 'route'>
  retained: Pick<RetainedMessages, 'swept' | 'purge'>
  index: RouteIndex
  gate: Pick<Gate, 'isLive' | 'isRevoked' | 'matcherOfClient' | 'factsOfClient' | 'stamped'>
  sessions: Pick<Sessions, 'isHeld'>
  quotas: Pick<Quotas, 'borrow'>
  clock: () => Date
  log: Log
  onDenied(denied: { clientId: string; message: Message; reason: ProblemCode; facts: PrincipalFacts }): void
}

/** How a connection ended, for its session. */
export type Leaving = {
  readonly clientId: string
  readonly epoch: number
  /** The will, if there is one, is not to be published. */
  readonly dropsWill: boolean
  /** Milliseconds of the epoch, Infinity for good, or not at all. */
  readonly keepUntil: number | 'forget'
}

const everyMs = 1_000

/** What is due without a connection: wills, the end of sessions that nobody came back for, what the store did not take. */
export class Wills implements Disposable {
  readonly #options: WillsOptions
  readonly #timer: NodeJS.Timeout
  /** What the store has not taken: a session that nobody releases would be filled for ever, its will never published. */
  readonly #owed = new Map<string, () => Promise<void>>()
  #running: Promise<void> = Promise.resolve()
  #purging: Promise<void> = Promise.resolve()
  #next: Promise<void> | undefined

  constructor(options: WillsOptions) {
    this.#options = options
    this.#timer = setInterval(() => this.look(), everyMs)
    this.#timer.unref()
  }

  /** Releases the session of a connection that is over. */
  leave({ clientId, epoch, dropsWill, keepUntil }: Leaving): Promise<void> {
    const { store } = this.#options
    return this.#owe(`session ${clientId}`, () => store.release(clientId, epoch, keepUntil, { dropsWill }))
  }

  /** Drops the sessions of a device that was revoked. */
  forget(deviceId: string): Promise<void> {
    const { store, index, gate } = this.#options
    return this.#owe(`device ${deviceId}`, async () => {
      if (!gate.isRevoked(deviceId)) return // not any more
      for (const clientId of await store.dropDevice(deviceId)) await restoreRoutes(store, index, clientId)
    })
  }

  /** Drops those of every device that is revoked by now. */
  forgetRevoked(): Promise<void> {
    const { store, gate } = this.#options
    return this.#owe('devices', async () => {
      for (const deviceId of await revokedDevices(store, gate)) await this.forget(deviceId)
    })
  }

  /**
   * Removes what a device has retained and is void; others are told in MQTT's own way, by an empty message on the topic
   * [MQTT-3.3.1-6], as if somebody had cleared it by hand.
   */
  purge(deviceId: string): Promise<void> {
    const { retained, router, clock, log } = this.#options
    // One after the other, or what both find is told twice.
    this.#purging = this.#purging.then(() =>
      this.#owe(`retained ${deviceId}`, async () => {
        const clear = (message: Message) => router.route(clearing(message, clock().getTime()))
        const messages = await retained.purge(deviceId, clear)
        if (messages > 0) log.info({ event: 'retained.purged', deviceId, messages }, 'retained messages purged')
      }),
    )
    return this.#purging
  }

  /** Sees to what is due by now, in a while. */
  look(): void {
    void this.publishDue()
  }

  /** Resolves when everything that is due by now has been published. */
  publishDue(): Promise<void> {
    this.#next ??= this.#running.then(() => {
      this.#next = undefined
      this.#running = this.#sweep().catch((err) => {
        this.#options.log.error({ event: 'broker.failed', err }, 'what was due could not be done')
      })
      return this.#running
    })
    return this.#next
  }

  /** The will of a connection that is about to be ended by us. */
  async publishNow(clientId: string, epoch: number): Promise<void> {
    const will = await this.#options.store.takeWill(clientId, epoch)
    if (will !== undefined) await this.#publish(clientId, will)
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer)
  }

  async #sweep(): Promise<void> {
    const { store, gate, retained, sessions, clock } = this.#options
    for (const [what, task] of [...this.#owed]) {
      this.#owed.delete(what)
      await this.#owe(what, task)
      if (this.#owed.has(what)) return // nor will it take more
    }
    // What becomes due meanwhile is for the next one, or who waits for this one would wait as long as anybody leaves.
    const by = clock().getTime()
    for (let isMore = true; isMore; ) {
      const due = await store.deadlines(by)
      retained.swept(due.retained)
      // Until then a device that was revoked while the broker was away would still be heard.
      const wills = gate.isLive ? due.wills : []
      // All at once: a power cut takes hundreds of devices, and none of them is let in again before its will is out.
      await Promise.all(wills.map((will) => this.#publishStored(will)))
      // Of one that is held a CONNECT is on its way and finds it ended.
      const ended = due.sessions.filter(({ clientId }) => !sessions.isHeld(clientId))
      await Promise.all(ended.map((session) => this.#endSession(session)))
      isMore = wills.length > 0 || ended.length > 0
    }
  }

  /** Does it, now or as soon as the store takes it. */
  async #owe(what: string, task: () => Promise<void>): Promise<void> {
    try {
      await task().catch(unlessGone)
    } catch (err) {
      this.#options.log.error({ event: 'broker.failed', what, err }, 'what a session asks for could not be done')
      if (isFleetError(err, 'unavailable') || isFleetError(err, 'outcome_unknown')) this.#owed.set(what, task)
    }
  }

  async #publishStored({ clientId, epoch, ...will }: Due & Will): Promise<void> {
    await this.#publish(clientId, will)
    // Only now: a crash must not lose it.
    await this.#options.store.takeWill(clientId, epoch).catch(unlessGone)
  }

  async #endSession({ clientId, epoch }: Due): Promise<void> {
    const { store, index } = this.#options
    await store.release(clientId, epoch, 'forget').catch(unlessGone)
    // It may have come back meanwhile, and be gone again.
    await restoreRoutes(store, index, clientId)
  }

  async #publish(clientId: string, will: Will): Promise<void> {
    const { gate, router, quotas, clock, onDenied } = this.#options
    const message = gate.stamped(dueWill(will.message, clock().getTime()))
    const certificate = will.certificate === undefined ? undefined : parseCertificate(will.certificate)
    const matcher = gate.matcherOfClient(clientId, certificate)
    const verdict = matcher.allowsMessage(message)
    const isTooMuch = (): boolean =>
      !quotas.borrow(deviceOf(clientId), matcher.limits, message.payload.length, clock().getTime())
    if (!verdict.allowed || isTooMuch()) {
      const reason = verdict.allowed ? 'rate_limited' : (verdict.reason ?? 'will_denied')
      onDenied({ clientId, message, reason, facts: gate.factsOfClient(clientId, certificate) ?? {} })
      return
    }
    if (message.retain) await router.retain(message, matcher.limits)
    await router.route(message)
  }
}

/** Dropped meanwhile, with its device, or another connection goes on with it. */
function unlessGone(error: unknown): void {
  if (!isFleetError(error, 'session_taken_over')) throw error
}

/** Of those that have sessions. */
export async function revokedDevices(store: SessionStore, gate: Pick<Gate, 'isRevoked'>): Promise<Set<string>> {
  const revoked = new Set<string>()
  for await (const { clientId } of store.sessions()) {
    if (gate.isRevoked(deviceOf(clientId))) revoked.add(deviceOf(clientId))
  }
  return revoked
}
