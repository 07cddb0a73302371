import { setImmediate as nextTurn } from 'node:timers/promises'
import { connect, type TLSSocket } from 'node:tls'
import {
  encodeLine,
  type FeedEvent,
  type FromBroker,
  type FromEnroll,
  LineReader,
  laterQuestions,
  type StaleBounds,
  startCursor,
} from '../../contract/feed.ts'
import { sightings } from '../../contract/live-sessions.ts'
import type { ProblemCode } from '../../contract/problems.ts'
import { splitAddress } from '../../runtime/config.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { EdgeCredential } from '../../runtime/https.ts'
import type { Log } from '../../runtime/log.ts'
import { asOfNow, type Instant } from '../stale.ts'
import { answerTo, type FeedAnswers } from './feed-answers.ts'
import type { Reports } from './reports.ts'
import type { Snapshot, SnapshotChange } from './snapshot.ts'

/** The name in enroll's certificate, whatever address it is reached by. */
const serverName = 'enroll.fleetgate.internal'
/** Pings in the time in which one answer at least has to come. */
const pingsInSilence = 3
const firstRetryMs = 100
const lastRetryMs = 2_000
/** Lines that wait to be applied before the peer is asked to hold on. */
const maxWaiting = 2_000
const maxBatch = 500
/** The same while a snapshot comes, in lines of a hundred facts. */
const maxWaitingFacts = 40
/** So much that enroll has not taken yet: what need not be said waits. */
const maxUnsent = 1_048_576

type FeedOptions = {
  address: string
  brokerId: string
  snapshot: Snapshot
  /** Asked at each attempt, so that a renewed credential is used. */
  credential: () => EdgeCredential & { root: string }
  /** Keeps what takes the place of it; PEM, the CA that issued it behind. */
  onCredential: (certificate: string) => void
  /** Puts a change in force with the sessions that are open; `applied` is reported after it. @param heardAt `performance.now()` */
  onChange: (change: SnapshotChange, heardAt: number) => void
  /** Resolves when the connections that were ended by now are closed; `applied` is reported after it. */
  settled: () => Promise<void>
  reports: Pick<Reports, 'start' | 'stop' | 'noted' | 'raise'>
  answers: FeedAnswers
  /** Who was told of at another broker. */
  onElsewhere: (told: Extract<FromEnroll, { kind: 'elsewhere' }>) => void
  /** What was said on an earlier connection may not have been heard. */
  onLive: () => void
  /** Told to enroll, which says it to whoever waits for this broker. */
  bounds: StaleBounds
  /** A connection that brings nothing for so long is dropped and dialled again. */
  silenceMs: number
  /** Certificates that ended before that are not asked about any more; Infinity: of each. */
  forgetsAfterMs: number
  clock: () => Date
  random: () => number
  log: Log
}

/** Follows the trust feed for as long as it lives, across every loss of the connection. */
export class FeedClient implements AsyncDisposable {
  readonly #options: FeedOptions
  #socket: TLSSocket | undefined
  #everLive = false
  #known: Instant | undefined
  #connected = false
  /** Whether hello was said on the connection that there is: from then on it may be asked. */
  #greeted = false
  #relays = false
  #closed = false
  #failures = 0
  #mistrustCursor = false
  /** What enroll said of our certificate, told once and not at every attempt. */
  #refusedFor: ProblemCode | undefined
  #retry: NodeJS.Timeout | undefined
  #waiting: FromEnroll[] = []
  /** When the first that waits came. */
  #heardAt = 0
  #working: Promise<void> | undefined
  /** The last event that is in force, and the saving of all up to it. */
  #inForce = 0
  #saving: Promise<void> | undefined
  #nextPing = 1
  readonly #pings = new Map<number, (answered: boolean) => void>()
  #watch: NodeJS.Timeout | undefined
  /** When the socket last brought something, by `performance.now()`. */
  #lastHeard = 0
  readonly #liveListeners = new Set<() => void>()

  constructor(options: FeedOptions) {
    this.#options = options
  }

  start(): void {
    this.#dial()
  }

  /** Whether the head of the feed was reached since this process started: before that nobody knows who was revoked. */
  get everLive(): boolean {
    return this.#everLive
  }

  /**
   * Everything that enroll had committed by then is in force: when the question was sent that enroll answered last. Undefined
   * before the head was reached.
   */
  get knownAt(): Date | undefined {
    return this.#known && asOfNow(this.#known, this.#now())
  }

  /** Whether the feed is followed at this moment. */
  get connected(): boolean {
    return this.#connected
  }

  /** Lines that were heard and are not in force yet. */
  get waiting(): number {
    return this.#waiting.length
  }

  /**
   * Says what other brokers are to hear. Where enroll is not there, or does not pass it on, nobody hears it.
   *
   * @returns false where it has to be said later
   */
  say(message: Extract<FromBroker, { kind: 'arrived' | 'beside' }>): boolean {
    if (!this.#relays) return true
    if (this.#socket!.writableLength > maxUnsent) return false
    this.#send(message)
    return true
  }

  /** Resolves when the feed's head has been reached once. */
  async untilLive(): Promise<void> {
    if (!this.#everLive) await new Promise<void>((resolve) => this.#liveListeners.add(resolve))
  }

  /**
   * @returns whether, within `timeoutMs`, everything that enroll had committed before the call came into force; a feed that
   *   is being dialled again is waited for
   */
  sync(timeoutMs: number): Promise<boolean> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => answer(false), timeoutMs)
      // Reaching the head says as much as an answer to a ping.
      const live = (): void => answer(true)
      const answer = (answered: boolean): void => {
        clearTimeout(timer)
        this.#liveListeners.delete(live)
        resolve(answered)
      }
      if (this.#connected) this.#ping(answer)
      else this.#liveListeners.add(live)
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true
    clearTimeout(this.#retry)
    clearInterval(this.#watch)
    this.#socket?.destroy()
    await this.#working
    await this.#saving
  }

  #dial(): void {
    const { address, credential, brokerId, snapshot, bounds, silenceMs, forgetsAfterMs } = this.#options
    const { host, port } = splitAddress(address)
    let socket: TLSSocket
    try {
      const { key, passphrase, cert, root } = credential()
      socket = connect({
        host,
        port,
        key,
        cert,
        ca: root,
        servername: serverName,
        minVersion: 'TLSv1.3',
        ...(passphrase === undefined ? {} : { passphrase }),
      })
    } catch (error) {
      this.#again(error as Error)
      return
    }
    this.#socket = socket
    const lines = new LineReader()
    let failure: Error | undefined
    this.#lastHeard = performance.now()
    this.#watch = setInterval(() => this.#look(socket), silenceMs / pingsInSilence)
    let askedAt = this.#now()
    socket.setEncoding('utf8')
    socket.once('secureConnect', () => {
      askedAt = this.#now()
      socket.setNoDelay(true)
      socket.setKeepAlive(true, 10_000)
      // A cursor that did not hold is not offered again: the whole feed is read anew, beside the snapshot in force.
      if (this.#mistrustCursor && snapshot.cursor.seq > 0) snapshot.startOver()
      this.#send({
        kind: 'hello',
        protocol: 1,
        broker: brokerId,
        cursor: this.#mistrustCursor ? startCursor : snapshot.cursor,
        answers: true,
        questions: [...laterQuestions],
        bounds,
        silenceMs,
        ...{ snapshots: true, renews: true },
        ...(Number.isFinite(forgetsAfterMs)
          ? { forgets: { at: askedAt.at.toISOString(), afterMs: forgetsAfterMs } }
          : {}),
      })
      this.#greeted = true
    })
    socket.on('data', (chunk: string) => {
      this.#lastHeard = performance.now()
      if (this.#waiting.length === 0) this.#heardAt = performance.now()
      try {
        for (const line of lines.push(chunk)) this.#waiting.push(JSON.parse(line))
      } catch (error) {
        socket.destroy(error as Error)
        return
      }
      if (this.#waiting.length > this.#mayWait()) socket.pause()
      this.#working ??= this.#work(socket, askedAt).finally(() => {
        this.#working = undefined
      })
    })
    socket.on('error', (error) => {
      failure = error
    })
    socket.on('close', () => {
      void (this.#working ?? Promise.resolve()).then(() => {
        this.#waiting = []
        snapshot.abandonDraft()
        for (const answer of this.#pings.values()) answer(false)
        this.#pings.clear()
        this.#again(failure)
      })
    })
  }

  #ping(answer: (answered: boolean) => void): void {
    const id = this.#nextPing++
    const sentAt = this.#now()
    this.#pings.set(id, (answered) => {
      if (answered) this.#known = sentAt
      answer(answered)
    })
    this.#send({ kind: 'ping', id })
  }

  /** A peer that is gone need not say so: what asks and hears nothing has lost it. */
  #look(socket: TLSSocket): void {
    const isSilent = (): boolean =>
      this.#waiting.length === 0 && performance.now() - this.#lastHeard >= this.#options.silenceMs
    // A look after this turn's input: a process that was held up itself has not read yet what was said meanwhile.
    if (isSilent()) setImmediate(() => isSilent() && socket.destroy(new Error('the feed is silent')))
    // Also while a snapshot comes, as enroll is told that we would: what it answers then stands behind that snapshot.
    if (this.#greeted) this.#ping(() => {})
  }

  #again(failure: Error | undefined): void {
    this.#socket = undefined
    clearInterval(this.#watch)
    this.#options.reports.stop()
    if (this.#closed) return
    if (this.#connected || this.#failures === 0) {
      this.#options.log.warn(
        { event: 'feed.disconnected', seq: this.#options.snapshot.cursor.seq, detail: failure?.message },
        'trust feed disconnected; what is known stays in force',
      )
    }
    this.#connected = false
    this.#greeted = false
    this.#relays = false
    const wait = Math.min(lastRetryMs, firstRetryMs * 2 ** Math.min(this.#failures++, 10))
    this.#retry = setTimeout(() => this.#dial(), wait * (0.5 + this.#options.random() / 2))
  }

  #mayWait(): number {
    return this.#options.snapshot.building ? maxWaitingFacts : maxWaiting
  }

  /** Applies what has arrived, in order, until nothing waits. */
  async #work(socket: TLSSocket, askedAt: Instant): Promise<void> {
    try {
      while (this.#waiting.length > 0 && !this.#closed) {
        const events = this.#takeEvents()
        if (events.length > 0) {
          this.#options.onChange(this.#options.snapshot.apply(events, this.#now().at), this.#heardAt)
          const { seq } = events.at(-1)!
          this.#options.log.debug({ event: 'snapshot.applied', seq, events: events.length }, 'feed events in force')
          if (!this.#options.snapshot.building) this.#confirm(socket, seq)
        } else await this.#hear(socket, this.#waiting.shift()!, askedAt)
        if (this.#waiting.length <= this.#mayWait() / 2) socket.resume()
      }
    } catch (error) {
      this.#broken(socket, error)
    }
  }

  /** A receipt waits for the disk, what is in force does not: a disk that hangs must not hold up the next revocation. */
  #confirm(socket: TLSSocket, seq: number): void {
    this.#inForce = seq
    this.#saving ??= this.#save(socket)
  }

  async #save(socket: TLSSocket): Promise<void> {
    try {
      for (let saved: number | undefined; saved !== this.#inForce; ) {
        saved = this.#inForce
        await Promise.all([this.#options.snapshot.save(), this.#options.settled()])
        if (this.#socket === socket) this.#send({ kind: 'applied', seq: saved })
      }
    } catch (error) {
      this.#broken(socket, error)
    } finally {
      this.#saving = undefined
    }
  }

  #broken(socket: TLSSocket, error: unknown): void {
    this.#mistrustCursor = error instanceof FleetError && error.code === 'data_damaged' && !this.#mistrustCursor
    this.#options.log.error({ event: 'feed.broken', err: error }, 'trust feed cannot be applied')
    this.#waiting = []
    socket.destroy(error as Error)
  }

  #takeEvents(): FeedEvent[] {
    const at = this.#waiting.findIndex(({ kind }) => kind !== 'event')
    const run = this.#waiting.splice(0, Math.min(at < 0 ? this.#waiting.length : at, maxBatch))
    return run.flatMap((message) => (message.kind === 'event' ? [message] : []))
  }

  async #hear(socket: TLSSocket, message: FromEnroll, askedAt: Instant): Promise<void> {
    const { snapshot, log, onChange, reports } = this.#options
    switch (message.kind) {
      case 'refused': {
        const { code } = message
        if (code !== this.#refusedFor) {
          log.error({ event: 'feed.rejected', reason: code }, 'enroll refuses the certificate of this broker')
        }
        this.#refusedFor = code
        return
      }
      case 'reset':
        if (snapshot.cursor.seq > 0)
          log.warn(
            { event: 'feed.reset', seq: snapshot.cursor.seq },
            'the feed does not go on at our cursor; reading it anew',
          )
        snapshot.startOver(message.isOther)
        return
      case 'facts':
        snapshot.applyFacts(message.facts)
        // A fleet of them: what this broker serves meanwhile has its turns.
        await nextTurn()
        return
      case 'snapshot':
        snapshot.continueFrom(message.cursor)
        return
      case 'live': {
        if (snapshot.cursor.seq !== message.seq) {
          throw new FleetError(
            'data_damaged',
            `the feed says its head is ${message.seq}, we have ${snapshot.cursor.seq}`,
          )
        }
        const change = await snapshot.reachedHead()
        onChange(change, this.#heardAt)
        const at = this.#options.clock().toISOString()
        for (const kept of change.kept ?? []) reports.raise({ type: 'revocation.kept', at, ...kept })
        this.#mistrustCursor = false
        this.#connected = true
        this.#relays = message.relays === true
        this.#everLive = true
        this.#refusedFor = undefined
        this.#known = askedAt
        this.#failures = 0
        log.info({ event: 'feed.connected', seq: message.seq }, 'trust feed followed')
        this.#confirm(socket, message.seq) // with what an earlier write may have failed to save
        if (message.notes) reports.start((id, report) => this.#send({ kind: 'report', id, report }))
        this.#options.onLive()
        for (const listener of [...this.#liveListeners]) listener()
        this.#liveListeners.clear()
        return
      }
      case 'elsewhere': {
        const said = sightings.safeParse(message.sessions).data
        if (said !== undefined) this.#options.onElsewhere({ ...message, sessions: said })
        return
      }
      case 'ask': {
        // Not waited for: what is to be put in force goes on meanwhile. Who asks has a deadline of its own.
        answerTo(message, this.#options.answers).then(
          (answer) => this.#send(answer),
          (err) => log.error({ event: 'broker.failed', err }, 'a question of enroll could not be answered'),
        )
        return
      }
      case 'credential':
        this.#options.onCredential(message.certificate)
        return
      case 'noted':
        reports.noted(message.id)
        return
      case 'pong':
        this.#pings.get(message.id)?.(true)
        this.#pings.delete(message.id)
        return
      default:
        throw new Error(`unknown feed message ${String((message as { kind: unknown }).kind).slice(0, 40)}`)
    }
  }

  #now(): Instant {
    return { at: this.#options.clock(), ms: performance.now() }
  }

  #send(message: FromBroker): void {
    if (this.#socket?.writable) this.#socket.write(encodeLine(message))
  }
}
