import type { Duplex } from 'node:stream'
import type { Matcher } from '../contract/policy-matcher.ts'
import type { ProblemCode } from '../contract/problems.ts'
import type { CertificateFacts } from '../pki/certificate.ts'
import type { ListenerRules, Verdict } from './admission.ts'
import type { Message } from './backends/session-store.ts'
import type { PeerSocket } from './peer.ts'
import type { Principal } from './principal.ts'
import { reasonOf } from './refusals.ts'
import type { PeerEvidence } from './verification.ts'
import type { Link } from './wire/link.ts'
import { reason } from './wire/reason.ts'
import type { Delivery } from './wire/route-index.ts'

/** Why a connection ended; what is not a problem is one of the peer's own ways to go. */
export type EndReason = ProblemCode | 'disconnected' | 'connection_lost' | 'keep_alive_expired' | 'shutdown'

/** A live connection, for those who have something for its client. */
export type Receiver = {
  /** Something was put into its stored queue. */
  wake(): void
  /** At QoS 0. */
  deliver(message: Message, delivery: Delivery): void
  /** The policy of its client. */
  mayReceive(topic: string): boolean
  publishWill(): Promise<void>
  drained(): Promise<void>
}

/** One TLS connection, from the end of its handshake to its end. */
export class Connection {
  /** In each line of the log that tells of it. */
  readonly id: string
  readonly socket: PeerSocket
  /** MQTT bytes: the socket itself, or what is inside its WebSocket. */
  readonly stream: Duplex
  readonly evidence: PeerEvidence
  /** Undefined for a stranger who is there for the quarantine. */
  readonly certificate: CertificateFacts | undefined
  readonly remoteAddress: string
  readonly rules: ListenerRules
  /** Its handshake was over. */
  readonly connectedAt: Date
  /** Its TLS session was resumed from a ticket; a socket that is closed does not know any more. */
  readonly isResumed: boolean
  link!: Link
  /** From when it is live on. */
  receiver: Receiver | undefined
  state: 'handshaken' | 'connecting' | 'live' | 'quarantined' | 'closed' = 'handshaken'
  /** What was found about it at its CONNECT, or at the last look since; undefined before. */
  verdict: Verdict | undefined
  /** Enroll could not be asked about its certificate, which is not known here. */
  isUnasked = false
  deviceId: string | undefined
  clientId: string | undefined
  principal: Principal | undefined
  matcher: Matcher | undefined
  /** Snapshot epoch that `matcher` was compiled at. */
  matcherEpoch = -1
  /** Topic filters of its session. */
  readonly filters = new Set<string>()
  /** Why it ended, once that is known. */
  endReason: EndReason | undefined
  /** Under which its end can be asked about, once it was noted. */
  denial: string | undefined
  /** Ended by us: nothing more is taken from it or given to it, its will included. */
  cut = false
  /** Ends all of it, the MQTT core's part and the will included; set by whoever serves MQTT on it. */
  finished: Promise<void> = Promise.resolve()

  constructor(input: {
    id: string
    socket: PeerSocket
    stream: Duplex
    evidence: PeerEvidence
    remoteAddress: string
    rules: ListenerRules
    connectedAt: Date
  }) {
    this.id = input.id
    this.socket = input.socket
    this.stream = input.stream
    this.evidence = input.evidence
    this.certificate = input.evidence.certificate
    this.remoteAddress = input.remoteAddress
    this.rules = input.rules
    this.connectedAt = input.connectedAt
    this.isResumed = input.socket.isSessionReused()
  }

  /**
   * Lets what was sent go out, says why where the version can, and ends the connection. The will is due.
   *
   * @param denial where it was noted already
   */
  close(why: ProblemCode | 'shutdown', sentence = '', denial?: string): void {
    this.endReason ??= why
    this.denial ??= denial
    this.link.fail(why === 'shutdown' ? reason.serverShuttingDown : reasonOf(why), sentence)
  }
}

/**
 * Every connection since its handshake, by who it is: the revocation index. The MQTT core's own list is never asked; it
 * can lose a live connection (trap T7) and knows none before its CONNECT.
 */
export class Sessions {
  readonly #all = new Set<Connection>()
  readonly #byDevice: Index = new Map()
  readonly #byFingerprint: Index = new Map()
  readonly #byClientId = new Map<string, Connection>()
  readonly #turns = new Map<string, Promise<void>>()
  readonly #onKick: (connection: Connection, reason: ProblemCode) => void
  #epoch = 0

  constructor(onKick: (connection: Connection, reason: ProblemCode) => void) {
    this.#onKick = onKick
  }

  /** Grows when a connection becomes live or ends. */
  get epoch(): number {
    return this.#epoch
  }

  get size(): number {
    return this.#all.size
  }

  [Symbol.iterator](): Iterator<Connection> {
    return this.#all.values()
  }

  /** @param deviceId undefined while the certificate is not in the snapshot */
  add(connection: Connection, deviceId: string | undefined): void {
    this.#all.add(connection)
    if (connection.certificate) put(this.#byFingerprint, connection.certificate.fingerprint, connection)
    if (deviceId !== undefined) this.identify(connection, deviceId)
  }

  identify(connection: Connection, deviceId: string): void {
    if (connection.state === 'closed') return
    connection.deviceId = deviceId
    put(this.#byDevice, deviceId, connection)
  }

  /** From here on messages reach its client. */
  opened(connection: Connection, receiver: Receiver): void {
    connection.state = 'live'
    connection.receiver = receiver
    this.#epoch++
  }

  remove(connection: Connection): void {
    if (connection.state === 'live') this.#epoch++
    connection.state = 'closed'
    this.#all.delete(connection)
    if (connection.certificate) take(this.#byFingerprint, connection.certificate.fingerprint, connection)
    if (connection.deviceId !== undefined) take(this.#byDevice, connection.deviceId, connection)
  }

  /** The live connection of a client id; ids of the wire are keys of a Map, never of an object. */
  findLive(clientId: string): Connection | undefined {
    const connection = this.#byClientId.get(clientId)
    return connection?.state === 'live' && !connection.cut ? connection : undefined
  }

  /** Whether a connection has the client id or is being given it. */
  isHeld(clientId: string): boolean {
    return this.#byClientId.has(clientId)
  }

  ofDevice(deviceId: string): Connection[] {
    return [...within(this.#byDevice, deviceId)]
  }

  /** Connections of a device that hold or are being given a client id other than `clientId`. */
  countOthers(deviceId: string, clientId: string): number {
    let others = 0
    for (const connection of within(this.#byDevice, deviceId)) {
      if (connection.clientId !== undefined && connection.clientId !== clientId) others++
    }
    return others
  }

  ofCertificate(fingerprint: string): Connection[] {
    return [...within(this.#byFingerprint, fingerprint)]
  }

  /** Ends a connection at once, whatever state it is in; its will is not published. */
  kick(connection: Connection, reason: ProblemCode): void {
    if (connection.cut) return
    connection.cut = true
    connection.endReason = reason
    connection.link.destroy()
    connection.socket.destroy()
    this.#onKick(connection, reason)
  }

  /**
   * CONNECTs of one id take turns, and the connection that holds it is closed and wholly gone, its will published, before the next
   * goes on [MQTT-3.1.4-3]. The core mixes them up otherwise (traps T6, T7).
   *
   * @returns `before` is to be waited for; undefined where nobody has a turn now. `end` is to be called when the CONNECT has been
   *   answered or the connection is gone
   */
  takeTurn(clientId: string): { before: Promise<void> | undefined; end: () => void } {
    const before = this.#turns.get(clientId)
    const { promise, resolve: end } = Promise.withResolvers<void>()
    const queue = before === undefined ? promise : before.then(() => promise)
    this.#turns.set(clientId, queue)
    void queue.then(() => {
      if (this.#turns.get(clientId) === queue) this.#turns.delete(clientId)
    })
    return { before, end }
  }

  /** In its turn: the holder of `clientId` is closed and gone when this resolves; `connection` holds the id then. */
  async takeOver(clientId: string, connection: Connection): Promise<void> {
    connection.clientId = clientId // counts from here on
    const holder = this.#byClientId.get(clientId)
    if (holder !== undefined) {
      holder.close('session_taken_over')
      await holder.finished
    }
    if (connection.state !== 'closed') this.#byClientId.set(clientId, connection)
  }

  /** The connection no longer holds its client id. */
  release(connection: Connection): void {
    const { clientId } = connection
    if (clientId !== undefined && this.#byClientId.get(clientId) === connection) this.#byClientId.delete(clientId)
  }
}

/** Nearly everybody has one connection, for which a set would take more memory than all that leads to it. */
type Index = Map<string, Connection | Set<Connection>>

function within(index: Index, key: string): Iterable<Connection> {
  const entry = index.get(key)
  if (entry === undefined) return []
  return entry instanceof Set ? entry : [entry]
}

function put(index: Index, key: string, connection: Connection): void {
  const entry = index.get(key)
  if (entry instanceof Set) entry.add(connection)
  else if (entry === undefined) index.set(key, connection)
  else if (entry !== connection) index.set(key, new Set([entry, connection]))
}

function take(index: Index, key: string, connection: Connection): void {
  const entry = index.get(key)
  if (entry instanceof Set) entry.delete(connection)
  if (entry === connection || (entry instanceof Set && entry.size === 0)) index.delete(key)
}
