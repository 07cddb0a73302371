import { randomUUID } from 'node:crypto'
import type { Socket } from 'node:net'
import { createServer, type Server, type TLSSocket } from 'node:tls'
import { type BrokerReport, brokerReport, isReportId, maxReportLength } from '../contract/broker-reports.ts'
import {
  encodeLine,
  type FromBroker,
  forgetting,
  knownQuestions,
  LineReader,
  silence,
  staleBounds,
  startCursor,
} from '../contract/feed.ts'
import type { ProblemCode } from '../contract/problems.ts'
import { valuesOf } from '../pki/names.ts'
import { FleetError, isFleetError } from '../runtime/errors.ts'
import { type EdgeCredential, listen, tlsOptions } from '../runtime/https.ts'
import { networkOf } from '../runtime/limits.ts'
import type { Log } from '../runtime/log.ts'
import { LogLimit } from '../runtime/log-limit.ts'
import { BrokerQuestions } from './broker-questions.ts'
import { type BrokerState, type Confirmation, endsOf } from './broker-state.ts'
import { CloneMeetings, type Met } from './clone-meetings.ts'
import { FeedConfirmations } from './feed-confirmations.ts'
import { endWhenSilent, Follower } from './feed-follower.ts'
import type { OwnPeers } from './own-peers.ts'
import { readCertificateEvidence } from './ra/current-certificate.ts'
import { type BrokerRecord, findBroker, listBrokers, writeBroker } from './registry/brokers.ts'
import type { CertificateRecord } from './registry/certificates.ts'
import { findForks } from './registry/feed-forks.ts'
import { type Registry, readAll, untilNoConflict } from './registry/registry.ts'
import { BrokerTurns } from './report-turns.ts'

/** What a broker has told; it comes again until it was taken. */
export type Reported = { broker: string; id: string; report: BrokerReport }

/** `length` in UTF-16 units. */
type Line = { message: FromBroker; length: number }

const maxConnections = 100
/** Of those that nobody has shown a certificate on yet. Beyond, the oldest goes: strangers must not take the places of brokers. */
const maxStrangers = 50
/** In which one that is refused has to take the reason. */
const refusedMs = 1_000

/** Tells brokers what they must know, and knows how far each has got. */
export class FeedServer implements AsyncDisposable {
  readonly #registry: Registry
  readonly #clock: () => Date
  readonly #startedAt: Date
  readonly #log: Log
  readonly #server: Server
  readonly #anchors: string[]
  readonly #onReport: (reported: Reported) => Promise<void>
  readonly #successorOf: (shown: CertificateRecord) => Promise<string | undefined>
  readonly #followers = new Map<string, Follower>()
  readonly questions: BrokerQuestions
  /** Of those that are gone: when each last asked. */
  readonly #lastAsked = new Map<string, Date>()
  readonly #confirmations = new FeedConfirmations(() => this.brokers())
  readonly #strangers = new Map<string, Socket>()
  readonly #taking = new Set<Promise<unknown>>()
  readonly #turns: BrokerTurns
  readonly #meetings: CloneMeetings | undefined
  readonly #refusals = new LogLimit({ burst: 20, everyMs: 10_000 })
  readonly #stopWake: () => void
  address!: { host: string; port: number }

  private constructor(options: Parameters<typeof FeedServer.open>[0]) {
    this.#registry = options.registry
    this.questions = new BrokerQuestions(options.registry, this.#followers)
    this.#clock = options.clock
    this.#startedAt = options.clock()
    this.#log = options.log
    this.#anchors = options.anchors
    this.#onReport = options.onReport
    this.#successorOf = options.successorOf
    this.#turns = new BrokerTurns(options.reportsPerSecond, () => performance.now())
    const { meetings, clock, log } = options
    this.#meetings = meetings && new CloneMeetings({ brokers: this.#followers, clock, log, ...meetings })
    this.#server = createServer({
      ...tlsOptions(options.credential, options.anchors),
      minVersion: 'TLSv1.3',
      handshakeTimeout: 10_000,
    })
    this.#server.maxConnections = maxConnections
    this.#server.on('connection', (socket: Socket) => this.#arrived(socket))
    this.#server.on('tlsClientError', (error, socket) => {
      this.#refused('handshake_failed', socket.remoteAddress, error)
      socket.destroy()
    })
    this.#server.on('secureConnection', (socket) => {
      options.peers.note(socket, 'feed')
      void this.#accept(socket)
    })
    this.#stopWake = options.registry.onWake(() => {
      for (const follower of this.#followers.values()) void follower.pump()
    })
  }

  static async open(options: {
    registry: Registry
    clock: () => Date
    log: Log
    listen: string
    credential: EdgeCredential
    anchors: string[]
    peers: Pick<OwnPeers, 'note'>
    /** Resolves when it is on disk; it is told again where it rejects. */
    onReport: (reported: Reported) => Promise<void>
    reportsPerSecond: number
    /** Absent where nobody looks for clones. */
    meetings?: { maxSuspended: number; onMet: (met: Met) => Promise<void> } | undefined
    /** PEM of what a broker is to show in place of this, if anything. */
    successorOf: (shown: CertificateRecord) => Promise<string | undefined>
  }): Promise<FeedServer> {
    const server = new FeedServer(options)
    server.address = await listen(server.#server, options.listen)
    return server
  }

  renew(credential: EdgeCredential): void {
    this.#server.setSecureContext({ ...tlsOptions(credential, this.#anchors), minVersion: 'TLSv1.3' })
  }

  /** Gives brokers the certificates that are due; each is looked at when it comes, too. */
  async renewBrokers(): Promise<void> {
    await Promise.all([...this.#followers.values()].map((follower) => this.#renew(follower)))
  }

  #renew(follower: Follower): Promise<void> {
    return follower.renew(this.#successorOf).catch((err: unknown) => {
      const fields = { event: 'credentials.notRenewed', broker: follower.id, err }
      this.#log.error(fields, 'a broker was given no new certificate')
    })
  }

  isConnected(id: string): boolean {
    return this.#followers.has(id)
  }

  /**
   * Every broker that ever joined and was not forgotten by an operator: one that was not heard of for long may be cut off
   * and still admit what it believes in.
   */
  async brokers(): Promise<BrokerState[]> {
    const known = await readAll((paging) => listBrokers(this.#registry, paging))
    return known.map(({ doc }) => {
      const follower = this.#followers.get(doc.id)
      return {
        id: doc.id,
        connected: follower !== undefined,
        appliedSeq: follower?.appliedSeq ?? doc.appliedSeq,
        lastSeenAt: follower ? this.#clock().toISOString() : doc.lastSeenAt,
        ...endsOf(follower?.bounds ?? doc.bounds, follower?.askedAt ?? this.#lastAskedAt(doc)),
      }
    })
  }

  /** A process before this one that was killed has not written it, but was not asked after this one began. */
  #lastAskedAt({ id, askedAt }: BrokerRecord): Date {
    return this.#lastAsked.get(id) ?? (askedAt === undefined ? this.#startedAt : new Date(askedAt))
  }

  /** @see FeedConfirmations.until */
  confirmations(...asked: Parameters<FeedConfirmations['until']>): Promise<Confirmation[]> {
    return this.#confirmations.until(...asked)
  }

  /** Resolves when what brokers have reported by now is written, or could not be. */
  async untilTaken(): Promise<void> {
    await Promise.allSettled(this.#taking)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopWake()
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()))
    for (const { socket } of this.#followers.values()) socket.end()
    setTimeout(() => {
      for (const { socket } of this.#followers.values()) socket.destroy()
    }, 500).unref()
    await closed
  }

  #refused(reason: ProblemCode, remoteAddress: string | undefined, err?: unknown): void {
    const told = this.#refusals.take(networkOf(remoteAddress ?? 'unknown'), this.#clock().getTime())
    if (told) this.#log.warn({ event: 'feed.refused', reason, remoteAddress, err, ...told }, 'feed connection refused')
  }

  #arrived(socket: Socket): void {
    const peer = peerOf(socket)
    this.#strangers.set(peer, socket)
    socket.on('close', () => this.#strangers.delete(peer))
    if (this.#strangers.size <= maxStrangers) return
    const [oldest, longest] = this.#strangers.entries().next().value!
    this.#strangers.delete(oldest)
    longest.destroy()
  }

  async #accept(socket: TLSSocket): Promise<void> {
    socket.setNoDelay(true)
    socket.on('error', () => socket.destroy())
    const deadline = setTimeout(() => socket.destroy(), 10_000)
    let id: string
    let shown: CertificateRecord
    try {
      ;({ id, shown } = await this.#identify(socket))
    } catch (error) {
      clearTimeout(deadline)
      const code = isFleetError(error) ? error.code : 'internal'
      this.#refused(code, socket.remoteAddress)
      socket.on('data', () => {}).end(encodeLine({ kind: 'refused', code }))
      setTimeout(() => socket.destroy(), refusedMs).unref()
      return
    }
    this.#strangers.delete(peerOf(socket))
    const lines = new LineReader()
    // Lines that arrive while the hello is being answered wait here.
    const early: Line[] = []
    let greeted = false
    let follower: Follower | undefined
    const hear = (line: Line): void => {
      const { message } = line
      if (follower) this.#hear(follower, line)
      else if (greeted) early.push(line)
      else if (message.kind === 'hello' && message.protocol === 1) {
        greeted = true
        clearTimeout(deadline)
        // What has been read by now waits; what comes behind it, however much, is not read before there is an answer.
        socket.pause()
        this.#welcome(id, shown, socket, message)
          .then((welcomed) => {
            follower = welcomed
            for (const line of early.splice(0)) hear(line)
            socket.resume()
          })
          .catch(refuse)
      } else throw new FleetError('request_malformed', 'a hello of protocol 1 is expected')
    }
    const refuse = (error: unknown): void => {
      const reason = isFleetError(error) ? error.code : 'request_malformed'
      this.#log.warn({ event: 'feed.refused', reason, broker: id, err: error }, 'feed connection refused')
      socket.destroy()
    }
    socket.setEncoding('utf8')
    socket.on('data', (chunk: string) => {
      try {
        for (const line of lines.push(chunk)) hear({ message: JSON.parse(line) as FromBroker, length: line.length })
      } catch (error) {
        refuse(error)
      }
    })
    socket.on('close', () => clearTimeout(deadline))
  }

  #left(follower: Follower): void {
    const { id, askedAt, appliedSeq } = follower
    if (this.#followers.get(id) !== follower) return
    this.#followers.delete(id)
    this.#meetings?.left(id)
    this.#lastAsked.set(id, askedAt)
    this.#log.warn({ event: 'feed.disconnected', broker: id, appliedSeq }, 'broker disconnected')
    // A registry that is closing has no need of it: the next hello tells.
    this.#remember(follower, askedAt).catch((err: Error) =>
      this.#log.debug({ event: 'feed.notRecorded', err }, 'not recorded'),
    )
  }

  /** Only a certificate that the registry knows as a broker's may follow. */
  async #identify(socket: TLSSocket): Promise<{ id: string; shown: CertificateRecord }> {
    const { record, certificate } = await readCertificateEvidence(
      this.#registry,
      {
        certificate: socket.getPeerX509Certificate()?.raw,
        certificateFault: socket.authorized ? undefined : String(socket.authorizationError),
      },
      this.#clock(),
    )
    if (record.doc.kind !== 'broker')
      throw new FleetError('certificate_wrong_usage', "the certificate is not a broker's")
    return { id: valuesOf(certificate.subject, 'CN')[0]!, shown: record.doc }
  }

  async #welcome(
    id: string,
    shown: CertificateRecord,
    socket: TLSSocket,
    hello: Extract<FromBroker, { kind: 'hello' }>,
  ): Promise<Follower> {
    const { cursor } = hello
    const knows = new Set([
      ...(hello.answers ? ['denials'] : []),
      ...(knownQuestions.safeParse(hello.questions).data ?? []),
    ])
    const bounds = staleBounds.safeParse(hello.bounds).data
    const silenceMs = silence.safeParse(hello.silenceMs).data
    const now = this.#clock()
    const { feedFrom } = await this.#registry.head()
    // Whoever knows nothing is told what counts by now, and not how it came to be.
    const isNew = cursor.seq === 0 && (hello.snapshots === true || feedFrom !== undefined)
    const known = !isNew && (await this.#registry.feedHashAt(cursor.seq)) === cursor.hash
    if (!known && !hello.snapshots && feedFrom !== undefined)
      throw new FleetError(
        'request_malformed',
        `the feed begins at ${feedFrom}: a broker that reads snapshots is wanted`,
      )
    const { lastCommon = [] } = (await findForks(this.#registry))?.doc ?? {}
    const followed = this.#followers.get(id)?.forks ?? (await findBroker(this.#registry, id))?.doc.forks ?? 0
    const follower = new Follower(id, socket, this.#registry, {
      cursor: known ? cursor : startCursor,
      state: !known && hello.snapshots ? { anchors: this.#anchors, endedBefore: unaskedBefore(hello, now) } : undefined,
      knows,
      bounds,
      forks: { now: lastCommon.length, followed: known ? lastCommon.length : followed },
      relays: this.#meetings !== undefined,
      shown: hello.renews === true ? shown : undefined,
      now,
    })
    if (silenceMs !== undefined) endWhenSilent(socket, silenceMs)
    this.#followers.get(id)?.socket.destroy()
    // One that is gone by now has nobody to say so later.
    if (socket.destroyed) return follower
    this.#followers.set(id, follower)
    socket.on('close', () => this.#left(follower))
    await this.#remember(follower)
    if (socket.destroyed) return follower
    this.#log.info({ event: 'feed.connected', broker: id, seq: cursor.seq, reset: !known }, 'broker connected')
    // What is no more told of here may have been so. A place that there is shows another feed; so does one behind a
    // restore, of whoever has not followed since.
    const isBehindFork = lastCommon.slice(followed).some((seq) => cursor.seq > seq)
    const isOther = !known && cursor.seq > 0 && (cursor.seq >= (feedFrom ?? 0) || isBehindFork)
    if (!known) socket.write(encodeLine({ kind: 'reset', ...(isOther ? { isOther } : {}) }))
    void follower.pump()
    void this.#renew(follower)
    return follower
  }

  #hear(follower: Follower, { message, length }: Line): void {
    if (message.kind === 'applied' && Number.isSafeInteger(message.seq)) {
      follower.applied(message.seq)
      this.#confirmations.progressed()
    } else if (message.kind === 'ping' && Number.isSafeInteger(message.id)) follower.ping(message.id, this.#clock())
    else if (message.kind === 'answer') follower.answered(message)
    else if (message.kind === 'arrived') this.#meetings?.arrived(follower.id, message)
    else if (message.kind === 'beside') this.#met(follower.id, message)
    else if (message.kind === 'report' && isReportId(message.id)) this.#reported(follower, message, length)
    else throw new Error('unexpected line')
  }

  #reported(follower: Follower, { id, report: said }: Extract<FromBroker, { kind: 'report' }>, length: number): void {
    const broker = follower.id
    const isLong = length > maxReportLength
    const report = isLong ? undefined : brokerReport.safeParse(said).data
    // One that cannot be read now never can: it is noted, so that it does not come again.
    if (report === undefined) {
      const reason: ProblemCode = isLong ? 'body_too_large' : 'request_malformed'
      const told = this.#refusals.take(`report ${broker}`, this.#clock().getTime())
      if (told)
        this.#log.warn({ event: 'report.refused', reason, broker, id, length, ...told }, 'a report is not taken')
    }
    const turns = this.#turns.of(broker)
    const take = async (): Promise<boolean> => {
      const turn = turns.next(length, follower.gone, (waitMs) => this.#held(broker, waitMs))
      if (turn !== true && !(await turn)) return false
      if (report === undefined) return true
      const taking = this.#onReport({ broker, id, report })
      this.#taking.add(taking)
      await taking.finally(() => this.#taking.delete(taking))
      return true
    }
    follower
      .reported(id, take)
      .catch((err: unknown) =>
        this.#log.warn({ event: 'report.failed', broker, id, err }, 'a report was not taken; it comes again'),
      )
  }

  #met(broker: string, message: Extract<FromBroker, { kind: 'beside' }>): void {
    const taking = this.#meetings?.beside(broker, message)
    taking?.catch((err: unknown) => {
      const told = this.#refusals.take(`beside ${broker}`, this.#clock().getTime())
      const fields = { event: 'report.failed', broker, err, ...told }
      if (told) this.#log.warn(fields, 'what was seen of a key at two brokers was not noted')
    })
  }

  #held(broker: string, waitMs: number): void {
    const told = this.#refusals.take(`limit ${broker}`, this.#clock().getTime())
    const fields = { event: 'report.limited', reason: 'too_many_requests', broker, waitMs, ...told }
    if (told) this.#log.warn(fields, 'a broker reports more than it may; the rest waits')
  }

  /** @param askedAt missing while it follows */
  #remember({ id, appliedSeq, bounds, forks }: Follower, askedAt?: Date): Promise<void> {
    const now = this.#clock()
    const lastSeenAt = now.toISOString()
    // A broker that comes back writes beside its own former connection's end.
    return untilNoConflict(async () => {
      const known = await findBroker(this.#registry, id)
      const requestId = `broker-${randomUUID()}`
      const record: BrokerRecord = {
        id,
        firstSeenAt: known?.doc.firstSeenAt ?? lastSeenAt,
        lastSeenAt,
        appliedSeq,
        ...(forks === 0 ? {} : { forks }),
        ...(bounds === undefined ? {} : { bounds }),
        ...(askedAt === undefined ? {} : { askedAt: askedAt.toISOString() }),
      }
      const joined = {
        action: 'broker.joined',
        actor: `broker:${id}`,
        subject: `broker:${id}`,
        outcome: 'done' as const,
        requestId,
      }
      await this.#registry.commit({
        requestId,
        writes: [writeBroker(record, known?.rev ?? 0)],
        audit: known ? [] : [joined],
        at: now,
      })
    })
  }
}

/** By the clock that is behind: nothing brings back what is forgotten because one was ahead. */
function unaskedBefore({ forgets }: { forgets?: unknown }, now: Date): Date | undefined {
  const { data } = forgetting.safeParse(forgets)
  return data && new Date(Math.max(0, Math.min(now.getTime(), Date.parse(data.at)) - data.afterMs))
}

const peerOf = ({ remoteAddress, remotePort }: Socket): string => `${remoteAddress} ${remotePort}`
