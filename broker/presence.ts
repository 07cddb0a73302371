import { setImmediate, setTimeout } from 'node:timers/promises'
import type { DeviceStatus } from '../contract/feed.ts'
import { anyPresence, type Presence as Body, presence as bodyShape, presenceTopic } from '../contract/fleet-events.ts'
import { brokerItself, type Message, type SessionStore } from './backends/session-store.ts'
import { certificateShown, type EventSettings, type Events, eventOf, messageOf } from './events.ts'
import type { Gate } from './gate.ts'
import type { Router } from './router.ts'
import type { Connection, EndReason, Sessions } from './sessions.ts'

type PresenceOptions = {
  settings: EventSettings
  brokerId: string
  store: Pick<SessionStore, 'retained'>
  events: Pick<Events, 'raise'>
  router: Pick<Router, 'retain' | 'route'>
  sessions: Pick<Sessions, 'ofDevice'>
  gate: Pick<Gate, 'standingOf'>
  clock: () => Date
  onFailed(error: unknown): void
  /** Waits so long; a timer by default. */
  pause?: (ms: number) => Promise<unknown>
}
/** The last connection of a device, once it has none. */
type Ended = { readonly connection: Connection; readonly reason: EndReason; readonly at: Date }

const perTurn = 500
const againMs = 1_000
/** From one write to the next: each waits for the disk, and a fleet that comes back brings changes in every turn. */
const apartMs = 25

/**
 * Whether each device is there, retained; and who comes and goes, as events. What is retained is how things stand when its turn comes: of a device that comes and goes,
 * or of ten thousand that come back at once, no more than the disk takes.
 */
export class Presence implements AsyncDisposable {
  readonly #options: PresenceOptions
  readonly #since = new Map<string, Date>()
  /** Devices whose presence is to be told anew. */
  #changed = new Map<string, Ended | undefined>()
  #telling: Promise<void> | undefined
  readonly #timer: NodeJS.Timeout

  private constructor(options: PresenceOptions) {
    this.#options = options
    this.#timer = setInterval(() => this.#tell(), againMs)
    this.#timer.unref()
  }

  /** Before anybody can connect: who was there when the last process ended is not. */
  static async open(options: PresenceOptions): Promise<Presence> {
    const presence = new Presence(options)
    await presence.review()
    await presence.#telling
    return presence
  }

  opened(connection: Connection): void {
    this.#options.events.raise({ type: 'connected', ...eventOf(connection) })
    const { deviceId } = connection
    if (deviceId === undefined) return
    if (!this.#since.has(deviceId)) this.#since.set(deviceId, this.#options.clock())
    this.#mark(deviceId, undefined)
  }

  /** To be called in the turn in which it is not live any more: whoever looks at its device meanwhile would see neither. */
  closed(connection: Connection, reason: EndReason): void {
    const { deviceId, denial } = connection
    this.#options.events.raise({ type: 'disconnected', ...eventOf(connection), reason, denial })
    if (deviceId === undefined) return
    const isThere = this.#connectionsOf(deviceId).length > 0
    if (!isThere) this.#since.delete(deviceId)
    this.#mark(deviceId, isThere ? undefined : { connection, reason, at: this.#options.clock() })
  }

  /** What the registry says of a device has changed. */
  standing(deviceId: string): void {
    this.#mark(deviceId, this.#changed.get(deviceId))
  }

  /** Anything may have changed: holds every presence there is to how things stand. */
  async review(): Promise<void> {
    const { store, router, settings, clock } = this.#options
    for await (const { topic, payload } of store.retained([anyPresence])) {
      const { success: isRead, data: body } = bodyShape.safeParse(JSON.parse(String(payload)))
      // Nobody would keep them true, and of another version nobody would understand them.
      if (!settings.enabled || !isRead) await router.retain(cleared(topic, clock()), {})
      else if (this.#isWrong(body)) this.standing(body.deviceId)
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer)
    await this.#telling
  }

  #connectionsOf(deviceId: string): Connection[] {
    return this.#options.sessions.ofDevice(deviceId).filter(({ state }) => state === 'live')
  }

  #isWrong({ deviceId, status }: Body): boolean {
    if (this.#connectionsOf(deviceId).length > 0) return status !== 'connected'
    return status !== absence(this.#options.gate.standingOf(deviceId))
  }

  #mark(deviceId: string, ended: Ended | undefined): void {
    if (!this.#options.settings.enabled) return
    this.#changed.set(deviceId, ended)
    this.#tell()
  }

  #tell(): void {
    if (this.#changed.size > 0) this.#telling ??= this.#tellAll()
  }

  async #tellAll(): Promise<void> {
    let isTaken = true
    while (isTaken && this.#changed.size > 0) {
      await setImmediate() // what one turn brings is told together, after that turn's own work
      const batch = [...this.#changed].slice(0, perTurn)
      for (const [deviceId] of batch) this.#changed.delete(deviceId)
      const told = await Promise.all(batch.map((one) => this.#tellOne(...one)))
      isTaken = told.every((isTold) => isTold)
      if (isTaken) await (this.#options.pause ?? setTimeout)(apartMs)
    }
    this.#telling = undefined
  }

  /** @returns false when the store did not take it: it is tried again */
  async #tellOne(deviceId: string, ended: Ended | undefined): Promise<boolean> {
    const { router, onFailed } = this.#options
    try {
      const message = await this.#messageOf(deviceId, ended)
      if (message === undefined) return true
      await router.retain(message, {})
      await router.route(message)
      return true
    } catch (error) {
      if (!this.#changed.has(deviceId)) this.#changed.set(deviceId, ended)
      onFailed(error)
      return false
    }
  }

  async #messageOf(deviceId: string, ended: Ended | undefined): Promise<Message | undefined> {
    const { gate, clock } = this.#options
    const topic = presenceTopic(deviceId)
    const at = clock()
    const absent = absence(gate.standingOf(deviceId))
    if (absent === undefined) return cleared(topic, at)
    const body = this.#bodyOfLive(deviceId, at) ?? this.#bodyOfEnded(ended, absent, at)
    const told = body ?? (await this.#revised(topic, absent, at))
    return told && messageOf(topic, told, { at, retain: true })
  }

  #bodyOfLive(deviceId: string, at: Date): Body | undefined {
    const live = this.#connectionsOf(deviceId)
    const last = live.at(-1)
    if (last === undefined) return undefined
    const since = this.#since.get(deviceId) ?? at
    return this.#bodyOf(last, { status: 'connected', since, at, clientIds: live.map(({ clientId }) => clientId!) })
  }

  #bodyOfEnded(ended: Ended | undefined, status: Absence, at: Date): Body | undefined {
    if (ended === undefined) return undefined
    const { connection, reason, at: since } = ended
    return this.#bodyOf(connection, { status, reason, since, at, clientIds: [] })
  }

  #bodyOf(
    connection: Connection,
    { since, at, ...state }: Pick<Body, 'status' | 'reason' | 'clientIds'> & { since: Date; at: Date },
  ): Body {
    const { settings, brokerId: broker } = this.#options
    const { deviceId, clientId: _, certificate, authority, ...peer } = eventOf(connection)
    return {
      deviceId: deviceId!,
      ...state,
      since: since.toISOString(),
      at: at.toISOString(),
      broker,
      ...peer,
      certificate: certificate && certificateShown(certificate, authority, settings),
    }
  }

  /** Of a device that is not connected what was told last, as it stands now; undefined where nothing has changed. */
  async #revised(topic: string, status: Absence, at: Date): Promise<Body | undefined> {
    for await (const { payload } of this.#options.store.retained([topic])) {
      const body = bodyShape.parse(JSON.parse(String(payload)))
      if (body.status === status) return undefined
      const { reason: _, ...rest } = body
      const reason = body.status === 'connected' ? { reason: 'broker_restarted' } : {}
      return { ...rest, ...reason, status, since: at.toISOString(), at: at.toISOString(), clientIds: [] }
    }
    return undefined
  }
}

type Absence = Exclude<Body['status'], 'connected'>

/** What a device without a connection is; undefined where it is not in the registry. */
const absence = (standing: DeviceStatus | undefined): Absence | undefined =>
  standing === 'active' ? 'disconnected' : standing

const cleared = (topic: string, at: Date): Message => ({
  topic,
  payload: Buffer.alloc(0),
  qos: 1,
  retain: true,
  from: brokerItself,
  publishedAt: at.getTime(),
})
