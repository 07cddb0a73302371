import { randomInt } from 'node:crypto'
import type { Configuration } from '../contract/configuration.ts'
import { problems } from '../contract/problems.ts'
import { isFleetError } from '../runtime/errors.ts'
import type { Log } from '../runtime/log.ts'
import { LogLimit } from '../runtime/log-limit.ts'
import { mayQuarantine } from './admission.ts'
import { LevelSessions } from './backends/level-sessions.ts'
import { type DeviceQuota, deviceOf, type SessionStore } from './backends/session-store.ts'
import type { Denials } from './denials.ts'
import type { Events } from './events.ts'
import { FastPath } from './fast-path.ts'
import type { FirstUses } from './first-uses.ts'
import type { Gate } from './gate.ts'
import type { Meters } from './meters.ts'
import { type MqttContext, shown } from './mqtt-context.ts'
import { MqttSession } from './mqtt-session.ts'
import { Presence } from './presence.ts'
import { Quarantine } from './quarantine.ts'
import { Quotas } from './quotas.ts'
import { Reception } from './reception.ts'
import { RetainedMessages } from './retained.ts'
import { type Carried, Router } from './router.ts'
import { maxFilters } from './session-subscriptions.ts'
import type { Connection, Sessions } from './sessions.ts'
import type { Area } from './store.ts'
import type { SnapshotChange } from './trust/snapshot.ts'
import { noteFull } from './undelivered.ts'
import { revokedDevices, Wills, type WillsOptions } from './wills.ts'
import { Bus } from './wire/aedes-port.ts'
import { Link } from './wire/link.ts'
import type { LinkLimits } from './wire/link-events.ts'
import { RouteIndex } from './wire/route-index.ts'

type MqttOptions = {
  config: Configuration['broker']
  gate: Gate
  sessions: Sessions
  area: Area
  clock: () => Date
  log: Log
  denials: Denials
  firstUses: FirstUses
  meters: Meters
  /** Goes out through the router from here on, and is disposed of with it. */
  events: Events
  /** false: every message takes the general way, to which the fast one is compared */
  isFast?: boolean | undefined
}

/** What may wait for a session that is being read from; its sender is slowed down long before. */
const maxLiveMessages = 10_000
const drainMs = 2_000

/** MQTT 3.1, 3.1.1 and 5 on connections that TLS has let in: what all of them share. */
export class MqttService implements AsyncDisposable {
  readonly #context: MqttContext
  readonly #quarantine: Quarantine
  readonly #stack: AsyncDisposableStack

  private constructor(context: MqttContext, stack: AsyncDisposableStack) {
    this.#context = context
    this.#stack = stack
    this.#quarantine = new Quarantine(context)
  }

  /** @throws FleetError `data_damaged` */
  static async start(options: MqttOptions): Promise<MqttService> {
    const { config, gate, sessions, area, clock, log, denials, firstUses, events, meters, isFast = true } = options
    await using stack = new AsyncDisposableStack()
    const now = (): number => clock().getTime()
    const lines = new LogLimit({ burst: 10, everyMs: 60_000 })
    const warn: MqttContext['warn'] = (key, describe) => {
      const turn = lines.take(key, now())
      if (turn === undefined) return
      const fields = describe()
      log.warn({ ...fields, ...(turn.suppressed > 0 ? { suppressed: turn.suppressed } : {}) }, fields.event)
    }
    const quota = baseQuota(config)
    const quotas = new Quotas(quota)
    const quotaOf = (deviceId: string): DeviceQuota => quotas.keptFor(deviceId)
    const store = stack.use(await LevelSessions.open({ area, clock, quotaOf }))
    const index = new RouteIndex({ seed: randomInt(2 ** 32) })
    await restore(store, index, gate)
    const retained = await RetainedMessages.open(store, {
      now,
      isVoid: (message) => gate.isVoid(message, 'retained'),
    })
    const bus = stack.use(
      await Bus.start<Carried>(config.id, (err) => log.error({ event: 'broker.failed', err }, 'MQTT core failed')),
    )
    const router = new Router({
      index,
      bus,
      store,
      retained,
      quotas,
      sessions,
      mayReceive: (clientId, topic) => {
        const connection = sessions.findLive(clientId)
        return connection?.receiver?.mayReceive(topic) === true
      },
      limits: {
        absent: { messages: config.maxQueuedMessages, bytes: quota.bytes },
        live: { messages: Math.max(config.maxQueuedMessages, maxLiveMessages), bytes: quota.bytes },
      },
      onDropped: (what, owner, topic) => noteFull({ denials, sessions, warn }, { what, owner, topic }),
    })
    const onDenied: WillsOptions['onDenied'] = ({ clientId, message, reason, facts }) => {
      const deviceId = deviceOf(clientId)
      const denial = denials.note(
        { deviceId, clientId, facts },
        {
          stage: 'will',
          cause: reason,
          message: problems[reason].title,
          asked: { ...message, action: 'publish' },
        },
      )
      const fields = { event: 'publish.denied', reason, denial, deviceId, clientId, topic: shown(message.topic) }
      warn(`will ${clientId}`, () => fields)
    }
    const wills = stack.use(new Wills({ store, router, retained, index, gate, sessions, quotas, clock, log, onDenied }))
    const warnOfLost = (err: unknown): void =>
      warn('event', () => ({ event: 'event.notStored', reason: isFleetError(err) ? err.code : 'internal', err }))
    events.attach({
      isWanted: (topic) => {
        const { deliveries, groups } = index.match(topic)
        return deliveries.length > 0 || groups.length > 0
      },
      publish: async (messages) => {
        const routed = await Promise.allSettled(messages.map((message) => router.route(message)))
        for (const answer of routed) if (answer.status === 'rejected') warnOfLost(answer.reason)
      },
    })
    stack.use(events)
    const presence = stack.use(
      await Presence.open({
        settings: config.events,
        brokerId: config.id,
        events,
        store,
        router,
        sessions,
        gate,
        clock,
        onFailed: warnOfLost,
      }),
    )
    const context = {
      config,
      gate,
      sessions,
      store,
      index,
      bus,
      router,
      fastPath: isFast ? new FastPath({ index, sessions, gate }) : undefined,
      retained,
      wills,
      clock,
      log,
      quotas,
      linkLimits: linkLimitsOf(config),
      warn,
      denials,
      firstUses,
      events,
      presence,
      meters,
    }
    return new MqttService(context, stack.move())
  }

  /** Serves MQTT on a connection; it has `connectTimeoutMs` to get a CONNECT accepted. */
  serve(connection: Connection): void {
    const device = new MqttSession(connection, this.#context)
    const { gate, clock, linkLimits: limits } = this.#context
    const events = mayQuarantine(connection.rules)
      ? new Reception({ connection, gate, quarantine: this.#quarantine, device })
      : device
    connection.link = new Link({ socket: connection.stream, limits, events, clock })
  }

  /** Other limits are in force. */
  reconfigure(config: Configuration['broker']): void {
    this.#context.quotas.rebase(baseQuota(config))
  }

  /** To be called about once a second. */
  sweep(): void {
    this.#quarantine.sweep()
  }

  get kept(): Pick<MqttContext, 'store' | 'retained'> {
    return this.#context
  }

  /** Drops what is kept for a device that will not come back. */
  forget(deviceId: string): void {
    void this.#context.wills.forget(deviceId)
  }

  /** Removes what a device has retained and is void. */
  purge(deviceId: string): void {
    void this.#context.wills.purge(deviceId)
  }

  /** Drops what is kept for devices that were revoked while nobody said so. */
  forgetRevoked(): void {
    void this.#context.wills.forgetRevoked()
  }

  /** Tells who is there anew where the registry has changed that. */
  review({ news, replaced }: SnapshotChange): void {
    const { presence, log } = this.#context
    for (const one of news) if (one.kind === 'deviceStatus') presence.standing(one.deviceId)
    if (!replaced) return
    presence
      .review()
      .catch((err) => log.error({ event: 'broker.failed', err }, 'who is there could not be held to the registry'))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const open = [...this.#context.sessions]
    // Wills first: those who shall get them are still connected.
    await within(
      drainMs / 2,
      Promise.all(open.map(({ receiver }) => receiver?.publishWill())).then(() =>
        Promise.all(open.map(({ receiver }) => receiver?.drained())),
      ),
    )
    for (const connection of open) connection.close('shutdown')
    await within(drainMs, Promise.all(open.map(({ finished }) => finished)))
    await this.#stack.disposeAsync()
  }
}

/** Subscriptions of the sessions that are kept, but for those of devices that were revoked meanwhile. */
async function restore(store: SessionStore, index: RouteIndex, gate: Gate): Promise<void> {
  for (const deviceId of await revokedDevices(store, gate)) await store.dropDevice(deviceId)
  for await (const { clientId, subscriptions } of store.sessions()) {
    for (const { qos, ...rest } of subscriptions) index.add({ clientId, granted: qos, ...rest })
  }
}

const linkLimitsOf = ({
  maxConnectBytes,
  maxPacketBytes,
  maxBufferedBytes,
  connectTimeoutMs,
}: Configuration['broker']): LinkLimits => ({
  maxConnectBytes,
  maxPacketBytes,
  maxBufferedBytes,
  connectTimeoutMs,
  receiveMaximum: 100,
  maxInflight: 100,
  topicAliasMaximum: 10,
})

/** Half of a device's bytes are for what waits for it, half for what it has retained. */
function baseQuota(config: Configuration['broker']): DeviceQuota {
  const { maxConnectionsPerDevice, maxQueuedMessages, maxRetainedPerDevice, maxStoredBytesPerDevice } = config
  return {
    sessions: maxConnectionsPerDevice,
    subscriptions: maxFilters * maxConnectionsPerDevice,
    messages: Math.max(maxQueuedMessages, maxLiveMessages) * maxConnectionsPerDevice,
    bytes: maxStoredBytesPerDevice / 2,
    retained: maxRetainedPerDevice,
    retainedBytes: maxStoredBytesPerDevice / 2,
  }
}

async function within(ms: number, done: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise((resolve) => {
    timer = setTimeout(resolve, ms)
  })
  await Promise.race([done.catch(() => {}), late])
  clearTimeout(timer)
}
