/** An enroll service as far as a broker can see it: the trust feed of contract/feed.ts, with every fault on request. */
import { EventEmitter, once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { createServer, type Server, type TLSSocket } from 'node:tls'
import { type BrokerReport, brokerReport } from '../../contract/broker-reports.ts'
import type { Denial, DenialQuery } from '../../contract/denials.ts'
import {
  encodeLine,
  type FeedEvent,
  type FeedFact,
  type FromBroker,
  type FromEnroll,
  LineReader,
  type QuestionKind,
  type Questions,
  startCursor,
} from '../../contract/feed.ts'
import { chainHash } from '../../runtime/chain.ts'
import type { TestCertificate, TestPki } from './certificates.ts'

export class FakeFeed extends EventEmitter implements AsyncDisposable {
  readonly #server: Server
  readonly #sockets = new Set<TLSSocket>()
  /** Followers that have said hello, with the last event each was sent. */
  readonly #sent = new Map<TLSSocket, number>()
  #events: FeedEvent[] = []
  #instead: { upTo: number; facts: FeedFact[] } = { upTo: 0, facts: [] }
  address = ''
  hellos: Extract<FromBroker, { kind: 'hello' }>[] = []
  /** Last `applied` of any broker. */
  appliedSeq = 0
  /** By id, in the order in which they came first; and how often each came. */
  readonly reports = new Map<string, { report: BrokerReport; times: number }>()
  /** While false a report is heard and not noted. */
  noting = true
  /** While false nothing but the connection itself is answered. */
  answering = true
  /** Changes an event on its way out. */
  distort: (event: FeedEvent) => FeedEvent = (event) => event

  /** Changes what is told instead of events. */
  distortFacts: (message: FromEnroll) => FromEnroll = (message) => message

  /** Runs when a broker asks for the head, before it is answered. */
  beforePong: (() => void) | undefined

  private constructor(server: Server) {
    super()
    this.setMaxListeners(100)
    this.#server = server
    server.on('secureConnection', (socket) => this.#accept(socket))
    server.on('tlsClientError', (_error, socket) => socket.destroy())
  }

  static async start(pki: TestPki, options: { port?: number; credential?: TestCertificate } = {}): Promise<FakeFeed> {
    const credential = options.credential ?? (await pki.service('enroll'))
    const server = createServer({
      key: credential.key,
      cert: credential.chain,
      ca: pki.anchors,
      requestCert: true,
      rejectUnauthorized: true,
      minVersion: 'TLSv1.3',
    })
    const feed = new FakeFeed(server)
    server.listen(options.port ?? 0, '127.0.0.1')
    await once(server, 'listening')
    feed.address = `127.0.0.1:${(server.address() as AddressInfo).port}`
    return feed
  }

  get head(): number {
    return this.#events.length
  }

  get events(): readonly FeedEvent[] {
    return this.#events
  }

  append(...facts: FeedFact[]): number {
    for (const fact of facts) {
      const body = JSON.stringify({ at: new Date().toISOString(), ...fact })
      const before = this.#events.at(-1) ?? startCursor
      this.#events.push({ seq: before.seq + 1, hash: chainHash(before.hash, body), body })
    }
    for (const socket of this.#sent.keys()) this.#flush(socket)
    return this.head
  }

  /** As after a restore from a backup: another history, no memory of the old one. */
  rewrite(...facts: FeedFact[]): void {
    this.#events = []
    this.#instead = { upTo: 0, facts: [] }
    this.append(...facts)
  }

  /** Continues with the history of another feed, as the same service does after its restart. */
  adopt(events: readonly FeedEvent[]): void {
    this.#events = [...events]
  }

  /** From now on whoever does not have all events up to here is told this instead. */
  shorten(...facts: FeedFact[]): void {
    this.#instead = { upTo: this.head, facts }
  }

  drop(): void {
    for (const socket of this.#sockets) socket.destroy()
  }

  /** Resolves when a broker has reported everything up to now as in force. */
  async untilApplied(seq = this.head): Promise<void> {
    while (this.appliedSeq < seq) await once(this, 'applied')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()))
    this.drop()
    await closed
  }

  /** The first report that will do, also one that came before. */
  async untilReport<T extends BrokerReport['type']>(
    type: T,
    wanted: (report: Extract<BrokerReport, { type: T }>) => boolean = () => true,
  ): Promise<Extract<BrokerReport, { type: T }>> {
    for (;;) {
      for (const { report } of this.reports.values()) {
        if (report.type === type && wanted(report as Extract<BrokerReport, { type: T }>))
          return report as Extract<BrokerReport, { type: T }>
      }
      await once(this, 'report')
    }
  }

  askDenials(query: DenialQuery): Promise<Denial[]> {
    return this.ask('denials', query)
  }

  /** What the broker answers. */
  async ask<K extends QuestionKind>(question: K, query: unknown): Promise<Questions[K]['answer'][]> {
    this.put({ [question]: query })
    const [answer] = await once(this, 'answer')
    return answer[question]
  }

  put(question: object): void {
    for (const socket of this.#sent.keys()) this.#send(socket, { kind: 'ask', id: 1, ...question } as FromEnroll)
  }

  give(certificate: string): void {
    for (const socket of this.#sent.keys()) this.#send(socket, { kind: 'credential', certificate })
  }

  #accept(socket: TLSSocket): void {
    this.#sockets.add(socket)
    socket.on('error', () => socket.destroy())
    socket.on('close', () => {
      this.#sockets.delete(socket)
      this.#sent.delete(socket)
    })
    const lines = new LineReader()
    socket.setEncoding('utf8')
    socket.on('data', (chunk: string) => {
      for (const line of lines.push(chunk)) this.#hear(socket, JSON.parse(line) as FromBroker)
    })
  }

  #hear(socket: TLSSocket, message: FromBroker): void {
    if (message.kind === 'applied') {
      this.appliedSeq = message.seq
      this.emit('applied', message.seq)
      return
    }
    if (message.kind === 'hello') {
      this.hellos.push(message)
      this.emit('hello', message)
    }
    if (message.kind === 'answer') {
      this.emit('answer', message)
      return
    }
    if (message.kind === 'arrived' || message.kind === 'beside') {
      this.emit(message.kind, message)
      return
    }
    if (message.kind === 'ping') this.emit('ping')
    if (!this.answering) return
    if (message.kind === 'report') {
      const { id } = message
      const report = brokerReport.parse(message.report)
      this.reports.set(id, { report, times: (this.reports.get(id)?.times ?? 0) + 1 })
      if (this.noting) this.#send(socket, { kind: 'noted', id })
      this.emit('report', report)
      return
    }
    if (message.kind === 'ping') {
      this.beforePong?.()
      this.#send(socket, { kind: 'pong', id: message.id })
      return
    }
    const { seq, hash } = message.cursor
    const { upTo, facts } = this.#instead
    const ours = seq === 0 ? startCursor.hash : this.#events[seq - 1]?.hash
    const goesOn = ours === hash && seq >= upTo
    if (!goesOn) this.#send(socket, { kind: 'reset' })
    this.#sent.set(socket, goesOn ? seq : upTo)
    if (!goesOn && upTo > 0) {
      const at = new Date().toISOString()
      for (const fact of facts) this.#send(socket, this.distortFacts({ kind: 'facts', facts: [{ at, ...fact }] }))
      this.#send(socket, { kind: 'snapshot', cursor: { seq: upTo, hash: this.#events[upTo - 1]!.hash } })
    }
    this.#flush(socket)
    this.#send(socket, { kind: 'live', seq: this.head, notes: true, relays: true })
  }

  #flush(socket: TLSSocket): void {
    if (!this.answering) return
    for (const event of this.#events.slice(this.#sent.get(socket)))
      this.#send(socket, { kind: 'event', ...this.distort(event) })
    this.#sent.set(socket, this.head)
  }

  #send(socket: TLSSocket, message: FromEnroll): void {
    socket.write(encodeLine(message))
  }
}
