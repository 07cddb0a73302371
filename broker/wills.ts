import type { CertificateFacts } from '../pki/certificate.ts'
import { isFleetError } from '../runtime/errors.ts'
import type { Log } from '../runtime/log.ts'
import type { Message, SessionStore } from './backends/session-store.ts'
import type { Gate } from './gate.ts'
import { dueWill } from './messages.ts'
import type { Router } from './router.ts'
import type { Sessions } from './sessions.ts'
import type { RouteIndex } from './wire/route-index.ts'

type WillsOptions = {
  store: SessionStore
  router: Router
  index: RouteIndex
  gate: Gate
  sessions: Sessions
  clock: () => Date
  log: Log
  onDenied(clientId: string, topic: string): void
}

const everyMs = 1_000

/** What is due without a connection: wills, and the end of sessions that nobody came back for. */
export class Wills implements Disposable {
  readonly #options: WillsOptions
  readonly #timer: NodeJS.Timeout
  /** The certificate that a will was left under, for the policy; a restart forgets it. */
  readonly #certificates = new Map<string, { epoch: number; certificate: CertificateFacts }>()
  #running: Promise<void> = Promise.resolve()
  #next: Promise<void> | undefined

  constructor(options: WillsOptions) {
    this.#options = options
    this.#timer = setInterval(() => this.look(), everyMs)
    this.#timer.unref()
  }

  leftBy(clientId: string, epoch: number, certificate: CertificateFacts): void {
    this.#certificates.set(clientId, { epoch, certificate })
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
  async publishNow(clientId: string, epoch: number, certificate: CertificateFacts): Promise<void> {
    const will = await this.#options.store.takeWill(clientId, epoch)
    if (will !== undefined) await this.#publish(clientId, will.message, certificate)
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer)
  }

  async #sweep(): Promise<void> {
    const { store, index, sessions, clock } = this.#options
    for (let isMore = true; isMore; ) {
      isMore = false
      const due = await store.deadlines(clock().getTime())
      for (const { clientId, epoch, message } of due.wills) {
        const left = this.#certificates.get(clientId)
        const isOfThis = left?.epoch === epoch
        await this.#publish(clientId, message, isOfThis ? left.certificate : undefined)
        // Only now: a crash must not lose it.
        await store.takeWill(clientId, epoch).catch(unlessGone)
        if (isOfThis) this.#certificates.delete(clientId)
        isMore = true
      }
      for (const { clientId, epoch } of due.sessions) {
        if (sessions.isHeld(clientId)) continue // a CONNECT is on its way and finds it ended
        index.removeClient(clientId)
        await store.release(clientId, epoch, 'forget').catch(unlessGone)
        isMore = true
      }
    }
  }

  async #publish(clientId: string, will: Message, certificate: CertificateFacts | undefined): Promise<void> {
    const { gate, router, clock, onDenied } = this.#options
    const message = dueWill(will, clock().getTime())
    if (!gate.matcherOfClient(clientId, certificate).allows('publish', message.topic).allowed) {
      onDenied(clientId, message.topic)
      return
    }
    if (message.retain) await router.retain(message)
    await router.route(message)
  }
}

/** Dropped meanwhile, with its device. */
function unlessGone(error: unknown): void {
  if (!isFleetError(error, 'session_taken_over')) throw error
}
