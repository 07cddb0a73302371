/** One broker with a fake feed: everything a test of the gateway needs, over real sockets. */
import assert from 'node:assert/strict'

import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Writable } from 'node:stream'
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from 'node:tls'
import { connect as connectMqtt, type IClientOptions, type MqttClient } from 'mqtt'
import { pino } from 'pino'
import type { z } from 'zod'
import { type BrokerService, createBrokerService } from '../../broker/service.ts'
import { configuration } from '../../contract/configuration.ts'
import type { FeedFact, Purge } from '../../contract/feed.ts'
import { anyEvent, type EventType, type FleetEvent } from '../../contract/fleet-events.ts'
import { type PolicyDocument, policyDocument, starterPolicy } from '../../contract/policy-document.ts'
import { topicMatches } from '../../contract/topics.ts'
import type { Log } from '../../runtime/log.ts'
import { parseYaml } from '../../runtime/yaml.ts'
import { type TestCertificate, TestPki } from './certificates.ts'
import { FakeFeed } from './feed.ts'

const refusals = /\.(refused|denied|dropped|limited|kicked)$/

export type LogLine = { event?: string; reason?: string; [field: string]: unknown }
export type TestDevice = TestCertificate & { id: string }

/** A log that a test can read and wait on. */
export class TestLog {
  readonly lines: LogLine[] = []
  readonly #waiting = new Set<() => void>()
  readonly log: Log

  constructor() {
    const write = (line: string): void => {
      this.lines.push(JSON.parse(line))
      for (const look of [...this.#waiting]) look()
    }
    const stream = new Writable({
      write(chunk, _encoding, done) {
        write(String(chunk))
        done()
      },
    })
    this.log = pino({ level: 'debug' }, stream)
  }

  find(event: string, fields: LogLine = {}): LogLine | undefined {
    return this.lines.find(
      (line) => line.event === event && Object.entries(fields).every(([key, value]) => line[key] === value),
    )
  }

  /** The first line of an event with these fields, also if it was written before. */
  until(event: string, fields: LogLine = {}): Promise<LogLine> {
    return new Promise((resolve) => {
      const look = (): void => {
        const line = this.find(event, fields)
        if (line === undefined) return
        this.#waiting.delete(look)
        resolve(line)
      }
      this.#waiting.add(look)
      look()
    })
  }
}

export const starter: PolicyDocument = parseYaml(starterPolicy, policyDocument, 'starter', 'policy_invalid')
export const parsePolicy = (yaml: string): PolicyDocument => parseYaml(yaml, policyDocument, 'policy', 'policy_invalid')

type Settings = {
  broker?: z.input<typeof configuration>['broker']
  policy?: PolicyDocument
  clock?: () => Date
  live?: boolean
  isFast?: boolean
}

export class BrokerHarness implements AsyncDisposable {
  readonly folder = mkdtempSync(join(tmpdir(), 'fleetgate-broker-'))
  readonly pki: TestPki
  readonly settings: Settings
  readonly testLog = new TestLog()
  readonly #clients: MqttClient[] = []
  readonly #sockets: TLSSocket[] = []
  feed: FakeFeed
  broker!: BrokerService
  #policyVersion = 0

  private constructor(pki: TestPki, feed: FakeFeed, settings: Settings) {
    this.pki = pki
    this.feed = feed
    this.settings = settings
  }

  static async start(settings: Settings = {}): Promise<BrokerHarness> {
    const pki = await TestPki.create()
    const harness = new BrokerHarness(pki, await FakeFeed.start(pki), settings)
    const credential = await pki.service('broker')
    mkdirSync(join(harness.folder, 'credential'))
    writeFileSync(join(harness.folder, 'credential', 'tls.key'), credential.key, { mode: 0o600 })
    writeFileSync(join(harness.folder, 'credential', 'tls.crt'), credential.chain)
    writeFileSync(join(harness.folder, 'credential', 'root.crt'), pki.root.pem)
    harness.feed.append({ type: 'trust.changed', data: { anchors: pki.anchors } })
    harness.setPolicy(settings.policy ?? starter)
    harness.feed.answering = settings.live !== false
    // What is left open would keep the process that all tests of a row share.
    await harness.startBroker().catch(async (error: unknown) => {
      await harness.feed[Symbol.asyncDispose]()
      throw error
    })
    return harness
  }

  async startBroker(): Promise<void> {
    await this.startDetached()
    if (this.feed.answering) await this.broker.feed.untilLive()
  }

  #configuration(change: Settings['broker'] = {}) {
    // A clock that leaps is no sign of a long silence.
    const leaping = this.settings.clock === undefined ? {} : { stale: { afterMs: 10 * 365 * 86_400_000 } }
    return configuration.parse({
      broker: { listen: '127.0.0.1:0', feed: this.feed.address, ...leaping, ...this.settings.broker, ...change },
    })
  }

  /** Has it read another configuration. */
  reconfigure(change: Settings['broker']) {
    return this.broker.reconfigure(() => this.#configuration(change))
  }

  /** Starts the broker and does not wait for its feed. */
  async startDetached(): Promise<void> {
    const { clock, isFast } = this.settings
    this.broker = await createBrokerService({
      config: this.#configuration(),
      dataDir: join(this.folder, 'data'),
      credentialDir: join(this.folder, 'credential'),
      log: this.testLog.log,
      isFast,
      ...(clock ? { clock } : {}),
    })
  }

  async stopBroker(): Promise<void> {
    await this.broker[Symbol.asyncDispose]()
  }

  /** A new feed server at another port would not be found, so a restarted one keeps its port. */
  async restartFeed(change: () => void = () => {}): Promise<void> {
    const { events } = this.feed
    const port = Number(this.feed.address.split(':')[1])
    await this.feed[Symbol.asyncDispose]()
    change()
    this.feed = await FakeFeed.start(this.pki, { port })
    this.feed.adopt(events)
  }

  setPolicy(document: PolicyDocument): number {
    return this.feed.append({ type: 'policy.changed', data: { version: ++this.#policyVersion, document } })
  }

  issuedFact({ serial, fingerprint, id, notAfter }: TestDevice): FeedFact {
    return { type: 'certificate.issued', data: { serial, fingerprint, deviceId: id, notAfter: notAfter.toISOString() } }
  }

  /** A device whose certificate nobody has told the broker of. */
  async strangeDevice(id: string, more: Parameters<TestPki['device']>[1] = {}): Promise<TestDevice> {
    return { id, ...(await this.pki.device(id, more)) }
  }

  async device(
    id: string,
    more: Parameters<TestPki['device']>[1] & { profile?: string; groups?: string[] } = {},
  ): Promise<TestDevice> {
    const { profile = 'sensor', groups = [], ...certificate } = more
    const device = await this.strangeDevice(id, certificate)
    this.feed.append(
      { type: 'device.changed', data: { id, profile, groups, status: 'active' } },
      this.issuedFact(device),
    )
    if (this.feed.answering) await this.feed.untilApplied()
    return device
  }

  async revokeDevice(device: TestDevice, more: { purge?: Purge } = {}): Promise<void> {
    const { id, serial, fingerprint } = device
    this.feed.append(
      { type: 'device.changed', data: { id, profile: 'sensor', groups: [], status: 'revoked', ...more } },
      { type: 'certificate.revoked', data: { serial, fingerprint, deviceId: id, reason: 'keyCompromise' } },
    )
    await this.feed.untilApplied()
  }

  async revokeCertificate({ id, serial, fingerprint }: TestDevice): Promise<void> {
    this.feed.append({ type: 'certificate.revoked', data: { serial, fingerprint, deviceId: id, reason: 'superseded' } })
    await this.feed.untilApplied()
  }

  get port(): number {
    return Number(new URL(this.broker.endpoints.mqtts).port)
  }

  tlsOptions(device: TestCertificate | undefined): ConnectionOptions {
    return {
      host: '127.0.0.1',
      port: this.port,
      ca: this.pki.root.pem,
      ...(device ? { key: device.key, cert: device.chain } : {}),
    }
  }

  /** Resolves when connected; rejects with the CONNACK's code, or `closed` when there was none. */
  async connect(device: TestDevice, options: IClientOptions = {}): Promise<MqttClient> {
    const client = this.dial(device, { clientId: device.id, ...options })
    await new Promise<void>((resolve, reject) => {
      client.once('connect', () => resolve())
      client.once('error', (error) => reject(error))
      client.once('close', () => reject(new Error('closed')))
    })
    client.removeAllListeners('close')
    return client
  }

  dial(device: TestCertificate | undefined, options: IClientOptions): MqttClient {
    return this.dialUrl(`mqtts://127.0.0.1:${this.port}`, device, options)
  }

  dialUrl(url: string, device: TestCertificate | undefined, options: IClientOptions): MqttClient {
    const { host, port, ...tls } = this.tlsOptions(device)
    const client = connectMqtt(url, {
      ...(tls as IClientOptions),
      protocolVersion: 4,
      reconnectPeriod: 0,
      ...options,
    })
    client.on('error', () => {})
    this.#clients.push(client)
    return client
  }

  /** The code of the CONNACK that refuses, or `closed` when the connection just ends. */
  async refusal(device: TestDevice, options: IClientOptions = {}): Promise<number | string> {
    try {
      await this.connect(device, options)
      return 0
    } catch (error) {
      return (error as { code?: number | string }).code ?? (error as Error).message
    }
  }

  /** Ends with the harness. */
  own(socket: TLSSocket): TLSSocket {
    this.#sockets.push(socket)
    socket.on('error', () => {})
    return socket
  }

  /** A TLS connection without MQTT on it. */
  async socket(device: TestCertificate | undefined, options: ConnectionOptions = {}): Promise<TLSSocket> {
    const socket = this.own(connectTls({ ...this.tlsOptions(device), ...options }))
    await once(socket, 'secureConnect')
    return socket
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients) client.end(true)
    for (const socket of this.#sockets) socket.destroy()
    await this.broker[Symbol.asyncDispose]()
    await this.feed[Symbol.asyncDispose]()
    rmSync(this.folder, { recursive: true, force: true })
    // Whatever was refused in any test of a broker can be asked about.
    const unnamed = this.testLog.lines.filter(({ event, denial }) => refusals.test(event ?? '') && denial === undefined)
    assert.deepEqual(unnamed, [])
  }
}

/** Bytes of a CONNECT of MQTT 3.1.1, clean unless told otherwise. */
export function connectPacket(
  clientId: string,
  more: { flags?: number; tail?: Buffer; keepAlive?: number } = {},
): Buffer {
  const id = Buffer.from(clientId)
  const body = Buffer.concat([
    Buffer.from([
      0,
      4,
      ...Buffer.from('MQTT'),
      4,
      more.flags ?? 2,
      (more.keepAlive ?? 60) >> 8,
      (more.keepAlive ?? 60) & 255,
    ]),
    Buffer.from([id.length >> 8, id.length & 255]),
    id,
    more.tail ?? Buffer.alloc(0),
  ])
  return packet(0x10, body)
}

export function packet(header: number, body: Buffer): Buffer {
  const length: number[] = []
  let rest = body.length
  do {
    length.push((rest & 127) | (rest > 127 ? 128 : 0))
    rest >>= 7
  } while (rest > 0)
  return Buffer.concat([Buffer.from([header, ...length]), body])
}

export const textField = (text: string): Buffer =>
  Buffer.concat([Buffer.from([text.length >> 8, text.length & 255]), Buffer.from(text)])

/** Resolves at `close`, whatever errors come before it. */
export const closeOf = (emitter: MqttClient | Socket): Promise<void> =>
  new Promise((resolve) => {
    const done = (): void => resolve()
    if (emitter instanceof Socket) emitter.once('close', done)
    else emitter.once('close', done)
  })

export type Received = { topic: string; payload: string; qos: number; retain: boolean; dup: boolean }

/** Keeps what a client gets from now on. */
export class Inbox {
  readonly messages: Received[] = []
  readonly #looks = new Set<() => void>()

  constructor(client: MqttClient) {
    client.on('message', (topic, payload, { qos, retain, dup }) => {
      this.messages.push({ topic, payload: String(payload), qos, retain, dup })
      for (const look of [...this.#looks]) look()
    })
  }

  get payloads(): string[] {
    return this.messages.map(({ payload }) => payload)
  }

  /** The first message that will do, also one that came before. */
  until(wanted: string | ((message: Received) => boolean)): Promise<Received> {
    const isWanted = typeof wanted === 'string' ? ({ payload }: Received) => payload === wanted : wanted
    return new Promise((resolve) => {
      const look = (): void => {
        const message = this.messages.find(isWanted)
        if (message === undefined) return
        this.#looks.delete(look)
        resolve(message)
      }
      this.#looks.add(look)
      look()
    })
  }

  async untilCount(count: number): Promise<void> {
    await this.until(() => this.messages.length >= count)
  }
}

/** What a broker tells an application. */
export class EventInbox {
  readonly events: FleetEvent[] = []
  readonly #looks = new Set<(event: FleetEvent) => void>()

  private constructor(client: MqttClient) {
    client.on('message', (topic, payload) => {
      if (!topicMatches(anyEvent, topic)) return
      const event: FleetEvent = JSON.parse(String(payload))
      this.events.push(event)
      for (const look of [...this.#looks]) look(event)
    })
  }

  /** @param client of a device whose policy lets it subscribe to all events */
  static async open(client: MqttClient): Promise<EventInbox> {
    const inbox = new EventInbox(client)
    await client.subscribeAsync(anyEvent, { qos: 1 })
    return inbox
  }

  all(type: EventType, fields: Partial<FleetEvent> = {}): FleetEvent[] {
    return this.events.filter((event) => isEvent(event, type, fields))
  }

  /** The first event of a type with these fields, also one that came before. */
  until(type: EventType, fields: Partial<FleetEvent> = {}): Promise<FleetEvent> {
    return new Promise((resolve) => {
      const look = (event: FleetEvent | undefined): void => {
        if (event === undefined || !isEvent(event, type, fields)) return
        this.#looks.delete(look)
        resolve(event)
      }
      this.#looks.add(look)
      look(this.all(type, fields)[0])
    })
  }
}

const isEvent = (event: FleetEvent, type: EventType, fields: Partial<FleetEvent>): boolean =>
  event.type === type && Object.entries(fields).every(([name, value]) => event[name as keyof FleetEvent] === value)

/** For what is seen by looking only. What takes longer than a few turns of the event loop is not waited for by a busy one. */
export async function eventually(check: () => boolean): Promise<void> {
  for (let turns = 0; !check(); turns++)
    await new Promise((resolve) => (turns < 100 ? setImmediate(resolve) : setTimeout(resolve, 1)))
}

/** Everything a peer sends until it closes. */
export async function readToEnd(socket: TLSSocket): Promise<Buffer> {
  const chunks: Buffer[] = []
  socket.on('data', (chunk: Buffer) => chunks.push(chunk))
  if (!socket.closed) await closeOf(socket)
  return Buffer.concat(chunks)
}
