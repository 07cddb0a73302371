import { isIP } from 'node:net'
import { connect, type TLSSocket } from 'node:tls'
import { MqttClient } from 'mqtt'
import type { Identity } from '../identity.ts'

export type Qos = 0 | 1 | 2
export type Version = '3.1.1' | '5'

/** What went wrong in a word or two, few enough of them to be counted. */
export class LoadFailure extends Error {
  override readonly name = 'LoadFailure'
  readonly code: string

  constructor(code: string, message: string) {
    super(message)
    this.code = code
  }
}

const connectTimeoutMs = 30_000
const keepAliveSeconds = 60
const maxUnsentBytes = 65_536
// Below what a broker grants in MQTT 5 by its Receive Maximum, and what one of 3.1.1 keeps for a device.
const maxUnacknowledged = 16

type Options = { mqtts: string; rootPem: string; identity: Identity; clientId: string; version: Version }

/** One connection with a session that ends with it; it does not come back by itself. */
export class LoadConnection {
  readonly #client: MqttClient
  readonly #socket: TLSSocket
  #unacknowledged = 0
  #isClosing = false
  #failure: LoadFailure | undefined

  /** @throws LoadFailure */
  static async open(options: Options, onEnded: (failure: LoadFailure) => void): Promise<LoadConnection> {
    const connection = LoadConnection.#begin(options)
    await connection.#accepted()
    connection.#client.once('close', () => {
      if (!connection.#isClosing) onEnded(connection.#ended('session'))
    })
    return connection
  }

  static #begin(options: Options): LoadConnection {
    try {
      return new LoadConnection(options)
    } catch (error) {
      // OpenSSL reads key and certificate here.
      throw new LoadFailure('connect unreadable key or certificate', (error as Error).message)
    }
  }

  private constructor({ mqtts, rootPem, identity, clientId, version }: Options) {
    const { hostname, port } = new URL(mqtts)
    const host = hostname.replace(/^\[(.*)\]$/, '$1')
    this.#socket = connect({
      host,
      port: Number(port || 8883),
      ...(isIP(host) === 0 ? { servername: host } : {}),
      ca: rootPem,
      cert: identity.chainPem,
      key: identity.privateKeyPem,
    })
    this.#socket.setNoDelay(true)
    this.#client = new MqttClient(() => this.#socket, {
      clientId,
      protocolVersion: version === '5' ? 5 : 4,
      clean: true,
      keepalive: keepAliveSeconds,
      connectTimeout: connectTimeoutMs,
      reconnectPeriod: 0,
      queueQoSZero: false,
    })
    this.#client.on('error', (error: Error & { code?: number | string }) => {
      const code = typeof error.code === 'number' ? `CONNACK ${hex(error.code)}` : (error.code ?? error.name)
      this.#failure ??= new LoadFailure(code, error.message)
    })
    this.#client.on('disconnect', ({ reasonCode, properties }) => {
      const code = `DISCONNECT ${hex(reasonCode ?? 0)}`
      this.#failure ??= new LoadFailure(code, properties?.reasonString ?? code)
    })
  }

  /** Whether a message would be written at once. */
  get isReady(): boolean {
    return (
      this.#client.connected && this.#unacknowledged < maxUnacknowledged && this.#socket.writableLength < maxUnsentBytes
    )
  }

  /** @param done called when the broker has it (QoS 0: when it is written) or refuses it; not where the connection ends before */
  publish(topic: string, payload: Buffer, qos: Qos, done: (failure: LoadFailure | undefined) => void): void {
    if (qos > 0) this.#unacknowledged++
    this.#client.publish(topic, payload, { qos }, (error?: Error & { code?: number | string }) => {
      if (qos > 0) this.#unacknowledged--
      if (!error) return done(undefined)
      // What a connection takes with it is counted once, as its end.
      if (this.#isClosing || !this.#client.connected) return
      const code = typeof error.code === 'number' ? hex(error.code) : (error.code ?? error.name)
      done(new LoadFailure(`publish ${code}`, error.message))
    })
  }

  /** @throws LoadFailure where the broker does not grant it */
  async subscribe(filter: string, qos: Qos, hear: (payload: Buffer) => void): Promise<void> {
    this.#client.on('message', (_, payload) => hear(payload))
    const granted = await this.#client.subscribeAsync(filter, { qos }).catch((error: Error) => {
      throw new LoadFailure('subscribe', error.message)
    })
    const code = granted[0]?.qos ?? 128
    if (code >= 128) throw new LoadFailure(`subscribe ${hex(code)}`, `the broker refuses a subscription to ${filter}`)
  }

  /** Says goodbye and does not wait for an answer; there is none. */
  close(): void {
    this.#isClosing = true
    this.#client.end()
  }

  #accepted(): Promise<void> {
    return new Promise((resolve, reject) => {
      const accepted = (): void => {
        this.#client.off('close', closed)
        resolve()
      }
      const closed = (): void => {
        this.#client.off('connect', accepted)
        this.#client.end(true)
        reject(this.#ended('connect'))
      }
      this.#client.once('connect', accepted).once('close', closed)
    })
  }

  #ended(where: 'connect' | 'session'): LoadFailure {
    const { code, message } = this.#failure ?? new LoadFailure('closed', 'the connection was closed without a word')
    return new LoadFailure(`${where} ${code}`, message)
  }
}

const hex = (code: number): string => (code < 0x80 ? String(code) : `0x${code.toString(16)}`)
