import { EventEmitter, once } from 'node:events'
import { isIP } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { connect, type TLSSocket } from 'node:tls'
import { MqttClient } from 'mqtt'
import type { Identity } from './identity.ts'

/** MQTT 3.1.1 CONNACK 3: the only refusal that time alone can heal. */
const serverUnavailable = 3
const firstReconnectMs = 100
const maxReconnectMs = 30_000
const lastWordsMs = 2_000
// [MQTT-3.14]: the whole packet.
const disconnectPacket = Buffer.of(0xe0, 0x00)

/** The broker said no in CONNACK. */
export class ConnectRefused extends Error {
  override readonly name = 'ConnectRefused'
  readonly returnCode: number

  constructor(returnCode: number) {
    super(`the broker refused the connection with CONNACK ${returnCode}`)
    this.returnCode = returnCode
  }
}

export type DeviceOptions = {
  id: string
  /** `mqtts://host:port` */
  mqtts: string
  rootPem: string
  /** Absent for one that presents no certificate. */
  identity: Identity | undefined
  clientId?: string
  /** Answers a command; its name is the topic below `commands/`. Without it the device takes no commands. */
  onCommand?: (name: string, payload: string) => string
}

type Events = {
  connected: []
  closed: []
  /** The broker will not have this device; it does not come back by itself. */
  refused: [ConnectRefused]
  message: [topic: string, payload: string]
}

/**
 * One device on MQTT 3.1.1 over mutual TLS, with a session that outlives its connections: what it publishes at QoS 1 is
 * kept until it is acknowledged, what is sent to it at QoS 1 waits at the broker.
 */
export class Device extends EventEmitter<Events> {
  readonly id: string
  readonly #options: DeviceOptions
  #identity: Identity | undefined
  #client: MqttClient | undefined
  #socket: TLSSocket | undefined
  #lastError: Error | undefined

  constructor(options: DeviceOptions) {
    super()
    this.id = options.id
    this.#options = options
    this.#identity = options.identity
  }

  get identity(): Identity | undefined {
    return this.#identity
  }

  get isConnected(): boolean {
    return this.#client?.connected === true
  }

  /**
   * Connects, and from then on comes back by itself until it is refused or told to stop.
   *
   * @throws ConnectRefused, or the error of a connection that closed before the broker answered
   */
  async connect(): Promise<void> {
    const client = new MqttClient(() => this.#openSocket(), {
      clientId: this.#options.clientId ?? this.id,
      protocolVersion: 4,
      clean: false,
      keepalive: 30,
      connectTimeout: 15_000,
      reconnectPeriod: firstReconnectMs,
      reconnectOnConnackError: true,
    })
    this.#client = client
    client.on('connect', () => {
      client.options.reconnectPeriod = firstReconnectMs
      this.emit('connected')
    })
    client.on('close', () => {
      client.options.reconnectPeriod = Math.min(
        (client.options.reconnectPeriod ?? firstReconnectMs) * 2,
        maxReconnectMs,
      )
      this.emit('closed')
    })
    client.on('error', (error) => this.#failed(client, error))
    client.on('message', (topic, payload) => this.#received(topic, payload.toString('utf8')))
    try {
      await firstOutcome(this)
    } catch (error) {
      client.end(true)
      throw error instanceof ConnectRefused ? error : (this.#lastError ?? error)
    }
    if (this.#options.onCommand !== undefined) await this.subscribe(`devices/${this.id}/commands/#`)
  }

  /** Resolves when the broker has acknowledged it, over however many connections that takes. */
  async publish(topic: string, payload: string, qos: 0 | 1 = 1): Promise<void> {
    await this.#connectedClient().publishAsync(topic, payload, { qos })
  }

  /** @returns the SUBACK's code: the granted QoS, or 128 for a refusal [MQTT-3.9.3] */
  subscribe(filter: string): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#connectedClient().subscribe(filter, { qos: 1 }, (error, _, packet) => {
        const code = packet?.granted[0]
        if (typeof code === 'number') resolve(code)
        else reject(error ?? new Error(`no answer to the subscription to ${filter}`))
      })
    })
  }

  /** Leaves with the old certificate and comes back with the new one; resolves when it is back. */
  async useIdentity(identity: Identity): Promise<void> {
    this.#identity = identity
    const back = Promise.race([once(this, 'connected'), once(this, 'refused').then(([error]) => Promise.reject(error))])
    // A clean DISCONNECT keeps the session and its messages; destroySoon lets what was written reach the wire.
    if (this.isConnected) this.#socket?.write(disconnectPacket)
    this.#socket?.destroySoon()
    await back
  }

  /** Leaves cleanly, after what it has published was acknowledged; that is waited for briefly, and not offline. */
  async disconnect(): Promise<void> {
    const late = new AbortController()
    // MQTT.js never ends a connection that breaks before the last acknowledgement.
    if (this.isConnected) {
      const unacknowledged = delay(lastWordsMs, undefined, { signal: late.signal }).catch(() => undefined)
      await Promise.race([this.#client!.endAsync(), once(this, 'closed'), unacknowledged])
    }
    late.abort()
    this.drop()
  }

  /** Gone without a word, as when the power fails. */
  drop(): void {
    this.#client?.end(true)
    this.#socket?.destroy()
  }

  #connectedClient(): MqttClient {
    if (this.#client === undefined) throw new Error(`${this.id} has not connected yet`)
    return this.#client
  }

  #openSocket(): TLSSocket {
    const { hostname, port } = new URL(this.#options.mqtts)
    const host = hostname.replace(/^\[(.*)\]$/, '$1')
    this.#socket = connect({
      host,
      port: Number(port || 8883),
      ...(isIP(host) === 0 ? { servername: host } : {}),
      ca: this.#options.rootPem,
      ...(this.#identity === undefined ? {} : { cert: this.#identity.chainPem, key: this.#identity.privateKeyPem }),
    })
    this.#socket.setNoDelay(true)
    return this.#socket
  }

  #failed(client: MqttClient, error: Error & { code?: number | string }): void {
    this.#lastError = error
    if (typeof error.code !== 'number' || error.code === serverUnavailable) return
    client.end(true)
    this.emit('refused', new ConnectRefused(error.code))
  }

  #received(topic: string, payload: string): void {
    this.emit('message', topic, payload)
    const prefix = `devices/${this.id}/commands/`
    if (this.#options.onCommand === undefined || !topic.startsWith(prefix)) return
    const answer = this.#options.onCommand(topic.slice(prefix.length), payload)
    // A device that is being shut down has nobody left to answer.
    this.publish(`devices/${this.id}/telemetry/answers`, answer).catch(() => undefined)
  }
}

function firstOutcome(device: Device): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = (act: () => void) => (): void => {
      device.off('connected', connected).off('refused', refused).off('closed', closed)
      act()
    }
    const connected = settle(resolve)
    const refused = (error: ConnectRefused): void => settle(() => reject(error))()
    const closed = settle(() => reject(new Error('the broker closed the connection without an answer')))
    device.once('connected', connected).once('refused', refused).once('closed', closed)
  })
}
