import {
  Aedes,
  type AedesPublishPacket,
  type Client,
  type ConnectPacket,
  type PublishPacket,
  type Subscription,
} from 'aedes'
import type { Configuration } from '../contract/configuration.ts'
import type { Log } from '../runtime/log.ts'
import { LogLimit } from '../runtime/log-limit.ts'
import { type Admission, connackCode, isWillAllowed, type Will } from './admission.ts'
import { MemoryBackend } from './backends/memory.ts'
import type { Gate } from './gate.ts'
import type { Connection, EndReason, Sessions } from './sessions.ts'
import { FrameGuard } from './wire/frame-guard.ts'

type MqttOptions = { config: Configuration['broker']; gate: Gate; sessions: Sessions; clock: () => Date; log: Log }
/** What aedes keeps of a client that its types do not tell. */
type ClientList = { clients: Record<string, Client | undefined> }

/** aedes makes a delivery for each filter that matches, so a few hundred overlapping ones would stall everybody. */
const maxFilters = 100
/** Nobody can subscribe below $SYS/, so what is published here reaches nobody. */
const nowhere = '$SYS/refused'
const drainMs = 3_000

/** MQTT 3.1 and 3.1.1 on connections that TLS has let in; the only file that knows aedes. Each hook asks a neighbour. */
export class MqttService implements AsyncDisposable {
  readonly #options: MqttOptions
  readonly #broker: Aedes
  readonly #backend: MemoryBackend
  readonly #connections = new WeakMap<object, Connection>()
  readonly #admissions = new WeakMap<Client, Admission>()
  readonly #endTurns = new WeakMap<Connection, () => void>()
  readonly #closing = new Map<Client, () => void>()
  readonly #denials = new LogLimit({ burst: 10, everyMs: 60_000 })

  private constructor(options: MqttOptions) {
    this.#options = options
    const { config, sessions, gate } = options
    this.#backend = new MemoryBackend({
      maxQueuedMessages: config.maxQueuedMessages,
      maxRetainedPerDevice: config.maxRetainedPerDevice,
      maxSessionsPerDevice: config.maxConnectionsPerDevice,
      maxStoredBytesPerDevice: config.maxStoredBytesPerDevice,
      paceBytes: config.maxBufferedBytes / 4,
      isPresent: (clientId) => sessions.findLive(clientId) !== undefined,
      mayReceive: (clientId, topic) => {
        const connection = sessions.findLive(clientId)
        return connection === undefined || gate.matcherOf(connection).allowsDelivery(topic)
      },
      onDropped: (what, owner, topic) =>
        this.#warn(`dropped ${what} ${owner}`, {
          event: 'message.dropped',
          reason: 'unavailable',
          what,
          owner,
          topic: shown(topic),
        }),
    })
    this.#broker = new Aedes({
      id: config.id,
      persistence: this.#backend,
      queueLimit: 200,
      maxClientsIdLength: 65_535, // MQTT 3.1 asks for 23; device ids are longer and the certificate bounds them
      connectTimeout: config.connectTimeoutMs,
      preConnect: (client, packet, done) => this.#preConnect(client, packet, done),
      authenticate: (client, _user, _password, done) => {
        const admission = this.#admissions.get(client)
        if (admission?.admitted) done(null, true)
        else {
          const returnCode = admission === undefined ? 3 : connackCode(admission.reason)
          done(Object.assign(new Error(admission?.message ?? 'not decided'), { returnCode }), false)
        }
      },
      authorizePublish: (client, packet, done) => this.#authorizePublish(client, packet, done),
      authorizeSubscribe: (client, subscription, done) => this.#authorizeSubscribe(client, subscription, done),
      authorizeForward: (client, packet) => this.#authorizeForward(client, packet),
    })
  }

  static async start(options: MqttOptions): Promise<MqttService> {
    const service = new MqttService(options)
    service.#listen()
    await service.#broker.listen()
    return service
  }

  /** Serves MQTT on a connection; it has `connectTimeoutMs` to get a CONNECT accepted. */
  serve(connection: Connection): void {
    const { config } = this.#options
    const guard = new FrameGuard(connection.socket, config, (reason, message) => {
      this.#endsFor(connection, reason, message)
    })
    connection.guard = guard
    this.#connections.set(guard, connection)
    const deadline = setTimeout(() => {
      if (connection.state === 'live') return
      this.#endsFor(connection, 'connect_timeout', `no CONNECT was accepted within ${config.connectTimeoutMs} ms`)
      connection.socket.destroy()
    }, config.connectTimeoutMs)
    const client = this.#broker.handle(guard)
    connection.finished = new Promise((resolve) => {
      guard.once('close', () => {
        clearTimeout(deadline)
        void this.#end(connection, client).then(resolve)
      })
    })
  }

  /** Drops what is kept for a device that will not come back. */
  forget(deviceId: string): void {
    this.#backend.dropSessionsOf(deviceId)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const open = [...this.#options.sessions]
    // Wills first: those who shall get them are still connected.
    await Promise.all(open.map((connection) => this.#publishWill(connection)))
    for (const connection of open) connection.close('shutdown')
    const late = new Promise((resolve) => setTimeout(resolve, drainMs).unref())
    await Promise.race([Promise.all(open.map(({ finished }) => finished)), late])
    await new Promise<void>((resolve) => this.#broker.close(resolve))
  }

  #listen(): void {
    const broker = this.#broker
    // Without a listener an error of the store would end the process (trap T28).
    broker.on('error' as never, (err: unknown) =>
      this.#options.log.error({ event: 'broker.failed', err }, 'MQTT core failed'),
    )
    broker.on('connackSent', ({ returnCode }, client) => {
      if (returnCode === 0) this.#opened(this.#connectionOf(client))
    })
    broker.on('subscribe', (_subscriptions, client) => {
      if (client) this.#backend.nextRetainedFor(client.conn as FrameGuard)
    })
    broker.on('unsubscribe', (filters, client) => {
      for (const filter of filters) this.#connectionOf(client)?.filters.delete(filter)
    })
    broker.on('keepaliveTimeout', (client) => this.#endsFor(this.#connectionOf(client), 'keep_alive_expired', ''))
    const failed = (client: Client, error: Error): void =>
      this.#endsFor(this.#connectionOf(client), 'protocol_violation', error.message)
    broker.on('clientError', failed)
    broker.on('connectionError', failed)
    broker.on('clientDisconnect', (client) => this.#closing.get(client)?.())
  }

  #connectionOf(client: Client): Connection | undefined {
    return this.#connections.get(client.conn)
  }

  /** aedes must never hear `false` here: it would leave the socket open for ever (trap T21). */
  #preConnect(client: Client, packet: ConnectPacket, done: (error: Error | null, success: boolean) => void): void {
    const connection = this.#connectionOf(client)
    if (connection === undefined) return
    const will = packet.will as Will | undefined
    // Wills are kept and published here: aedes' would outlive a kick (traps T10, T11, T18).
    delete packet.will
    if (packet.protocolVersion !== 3 && packet.protocolVersion !== 4) {
      this.#endsFor(
        connection,
        'protocol_violation',
        `MQTT 3.1 and 3.1.1 are spoken, not version ${packet.protocolVersion}`,
      )
      done(null, true) // aedes answers CONNACK 1
      return
    }
    const { clientId, clean = true } = packet
    this.#options.gate.connect(connection, { clientId, clean, will }).then(
      (admission) => {
        if (admission === undefined) return // gone meanwhile
        if (admission.admitted) {
          packet.clientId = connection.clientId!
          if (admission.endTurn) this.#endTurns.set(connection, admission.endTurn)
        } else {
          connection.clientId = clientId
          this.#endsFor(connection, admission.reason, admission.message)
        }
        this.#admissions.set(client, admission)
        done(null, true)
      },
      (err) => {
        this.#options.log.error({ event: 'broker.failed', err }, 'CONNECT could not be decided')
        connection.close('internal')
      },
    )
  }

  #opened(connection: Connection | undefined): void {
    if (connection === undefined || connection.cut || connection.state === 'closed') return
    connection.state = 'live'
    this.#endTurns.get(connection)?.()
    connection.guard.accept()
    this.#options.log.info(
      { event: 'session.opened', ...who(connection), resumed: connection.socket.isSessionReused() },
      'session opened',
    )
  }

  #authorizePublish(client: Client | null, packet: PublishPacket, done: (error?: Error | null) => void): void {
    const connection = client === null ? undefined : this.#connectionOf(client)
    if (connection === undefined || client === null) {
      done(new Error('a publish of nobody'))
      return
    }
    const live = connection.state === 'live' && !connection.cut
    const verdict = live ? this.#options.gate.matcherOf(connection).allows('publish', packet.topic) : { allowed: false }
    if (!verdict.allowed) {
      if (live) {
        this.#warn(`publish ${client.id}`, {
          event: 'publish.denied',
          reason: 'publish_denied',
          ...who(connection),
          topic: shown(packet.topic),
          statement: verdict.statement,
        })
      }
      // MQTT 3.1.1 has no refusal: it is acknowledged, or the client would repeat it for ever, and goes nowhere
      // [MQTT-3.3.5-2]. An error here would close the connection.
      packet.topic = nowhere
      packet.payload = Buffer.alloc(0)
      packet.retain = false
    }
    packet.dup = false // [MQTT-3.3.1-3]
    Object.assign(packet, { clientId: client.id }) // the owner, should it be retained
    done(null)
  }

  #authorizeSubscribe(
    client: Client,
    subscription: Subscription,
    done: (error: null, granted: Subscription | null) => void,
  ): void {
    const connection = this.#connectionOf(client)
    if (connection === undefined || connection.cut) {
      done(null, null)
      return
    }
    const { topic, qos } = subscription
    const verdict = this.#options.gate.matcherOf(connection).allows('subscribe', topic)
    if (!verdict.allowed || (connection.filters.size >= maxFilters && !connection.filters.has(topic))) {
      this.#warn(`subscribe ${client.id}`, {
        event: 'subscribe.denied',
        reason: 'subscribe_denied',
        ...who(connection),
        topic: shown(topic),
        statement: verdict.statement,
      })
      done(null, null) // SUBACK 0x80
      return
    }
    this.#backend.grant(subscription)
    connection.filters.set(topic, qos)
    // To aedes every filter is QoS 2; what was granted is held at each delivery, over all that match (traps T25, T30).
    done(null, { ...subscription, qos: 2 })
  }

  /** The net under every delivery: live, retained, queued, will, restored session (trap T8). */
  #authorizeForward(client: Client, packet: AedesPublishPacket): AedesPublishPacket | null {
    const connection = this.#connectionOf(client)
    // Before its CONNACK a session gets nothing; what counts is queued for it then [MQTT-3.2.0-1].
    if (connection === undefined || connection.state !== 'live' || connection.cut) return null
    if (!this.#options.gate.matcherOf(connection).allowsDelivery(packet.topic)) {
      this.#options.log.debug(
        { event: 'delivery.denied', reason: 'delivery_denied', ...who(connection), topic: packet.topic },
        'delivery denied',
      )
      return null
    }
    const granted = connection.grantedFor(packet.topic)
    if (granted === undefined) return null
    const qos = Math.min(granted, packet.qos) as 0 | 1 | 2
    return qos === packet.qos ? packet : { ...packet, qos }
  }

  /** After the connection: the core's part, then the will, then the client id is free. */
  async #end(connection: Connection, client: Client): Promise<void> {
    const { sessions, log } = this.#options
    const wasLive = connection.state === 'live'
    sessions.remove(connection)
    this.#endTurns.get(connection)?.()
    await this.#closeClient(client)
    if (wasLive && !connection.guard.disconnected) await this.#publishWill(connection)
    sessions.release(connection)
    if (!wasLive) return
    const { bytesIn, bytesOut, packetsIn, disconnected } = connection.guard
    const reason: EndReason = connection.endReason ?? (disconnected ? 'disconnected' : 'connection_lost')
    log.info({ event: 'session.closed', reason, ...who(connection), packetsIn, bytesIn, bytesOut }, 'session closed')
  }

  async #closeClient(client: Client): Promise<void> {
    await new Promise<void>((resolve) => {
      if (!client.closed) client.close(resolve)
      else if ((this.#broker as unknown as ClientList).clients[client.id] === client) this.#closing.set(client, resolve)
      else resolve()
    })
    this.#closing.delete(client)
  }

  async #publishWill(connection: Connection): Promise<void> {
    const { will, clientId } = connection
    connection.will = undefined
    // A revocation may have come after the connection had left the index that it is kicked by.
    if (will === undefined || connection.cut || !this.#options.gate.stands(connection)) return
    if (!isWillAllowed(will, this.#options.gate.matcherOf(connection))) {
      this.#warn(`will ${clientId}`, {
        event: 'publish.denied',
        reason: 'will_denied',
        ...who(connection),
        topic: shown(will.topic),
      })
      return
    }
    const { topic, payload, retain } = will
    const qos = will.qos as 0 | 1 | 2
    await new Promise<void>((resolve) => {
      const packet = { cmd: 'publish' as const, topic, payload, qos, retain, dup: false, clientId }
      this.#broker.publish(packet, (err) => {
        if (err) this.#options.log.error({ event: 'broker.failed', err }, 'will could not be published')
        resolve()
      })
    })
  }

  /** Notes why a connection ends; a refusal is told here, a session's end when it has ended. */
  #endsFor(connection: Connection | undefined, reason: EndReason, message: string): void {
    if (connection === undefined || connection.endReason !== undefined) return
    connection.endReason = reason
    if (connection.state === 'live' || connection.state === 'closed') return
    if (
      reason === 'keep_alive_expired' ||
      reason === 'connection_lost' ||
      reason === 'disconnected' ||
      reason === 'shutdown'
    )
      return
    this.#options.gate.logRefusal({ reason, message }, who(connection))
  }

  #warn(key: string, fields: { event: string; reason: string } & Record<string, unknown>): void {
    const turn = this.#denials.take(key, this.#options.clock().getTime())
    if (turn === undefined) return
    this.#options.log.warn({ ...fields, ...(turn.suppressed > 0 ? { suppressed: turn.suppressed } : {}) }, fields.event)
  }
}

const shown = (topic: string): string => topic.slice(0, 200)

const who = ({ remoteAddress, deviceId, certificate, clientId }: Connection) => ({
  remoteAddress,
  deviceId,
  serial: certificate.serial,
  clientId: clientId?.slice(0, 200),
})
