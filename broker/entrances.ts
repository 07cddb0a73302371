import { X509Certificate } from 'node:crypto'
import type { Duplex } from 'node:stream'
import type { Configuration } from '../contract/configuration.ts'
import { type ListenerConfiguration, listenersOf } from '../contract/listeners.ts'
import { handlingTable } from '../contract/verification.ts'
import { chainFault } from '../pki/chain.ts'
import { joinAddress } from '../runtime/config.ts'
import { type EdgeCredential, reachableHost } from '../runtime/https.ts'
import type { Log } from '../runtime/log.ts'
import { judgeHandshake, type ListenerRules, verdictFields } from './admission.ts'
import type { Authorities, Trust } from './authorities.ts'
import { CertificateReader } from './certificate-reader.ts'
import type { Foreseen, Gate } from './gate.ts'
import type { KeyWatch } from './key-watch.ts'
import { type Door, Listener, type ListenerOptions } from './listener.ts'
import { noteRefused } from './mqtt-context.ts'
import type { PeerFacts, PeerSocket } from './peer.ts'
import { SecondFactor } from './second-factor.ts'
import { Connection, type Sessions } from './sessions.ts'
import type { Snapshot } from './trust/snapshot.ts'
import { deviceIdOf, type PeerEvidence, readEvidence } from './verification.ts'
import { WebSocketEdge, type WebSocketPeer } from './websocket.ts'
import { Workers } from './workers/workers.ts'

type EntrancesOptions = {
  config: Configuration['broker']
  authorities: Authorities
  credential: EdgeCredential
  gate: Gate
  sessions: Sessions
  snapshot: Snapshot
  keyWatch: Pick<KeyWatch, 'look'>
  clock: () => Date
  newId: () => string
  log: Log
  serve: (connection: Connection) => void
}
type StreamOf = (socket: PeerSocket, peer: WebSocketPeer) => Duplex
type Entrance = { door: Door; labels: readonly string[]; rules: ListenerRules; trust: Trust }

/** Session tickets are sealed with new keys so often: who has taken the keys reads no more than that. */
const rekeyMs = 3_600_000

/** Every listener of this broker, and what happens between its handshake and MQTT. */
export class Entrances implements AsyncDisposable {
  readonly #options: EntrancesOptions
  readonly #entrances: Entrance[] = []
  readonly #workers: Workers | undefined
  readonly #rekeying: NodeJS.Timeout
  readonly #certificates: CertificateReader
  #credential: EdgeCredential
  /** URL of each listener by its name. */
  readonly endpoints: Record<string, string> = {}

  private constructor(options: EntrancesOptions) {
    const { config, credential, log, snapshot } = options
    this.#certificates = new CertificateReader(
      (fingerprint) => snapshot.findCertificate(fingerprint)?.status === 'issued',
    )
    this.#options = options
    this.#credential = credential
    this.#workers = config.workers === 0 ? undefined : new Workers(config.workers, log)
    this.#rekeying = setInterval(() => this.#useContexts(), rekeyMs)
    this.#rekeying.unref()
  }

  /** @throws FleetError `port_in_use`, `config_invalid` */
  static async open(options: EntrancesOptions): Promise<Entrances> {
    const { config, credential, authorities, gate, clock } = options
    await using stack = new AsyncDisposableStack()
    const entrances = stack.use(new Entrances(options))
    const { handshakeTimeoutMs, maxConnections, maxPacketBytes, maxConnectBytes, maxBufferedBytes } = config
    const webSockets = new WebSocketEdge({
      upgradeTimeoutMs: handshakeTimeoutMs,
      maxMessageBytes: maxPacketBytes + maxConnectBytes,
      maxFirstBytes: 2 * maxConnectBytes,
      maxBufferedBytes,
    })
    const streamOf: Record<ListenerConfiguration['transport'], StreamOf> = {
      mqtts: (socket) => socket,
      wss: (socket, peer) => webSockets.open(socket, peer),
    }
    for (const row of listenersOf(config)) {
      const { name, mode, transport, trust: labels } = row
      const secondFactor = row.password && new SecondFactor(row.password.file, () => clock().getTime())
      const rules: ListenerRules = { name, mode, handling: handlingTable(mode, row.handling), secondFactor }
      const trusted = authorities.trustOf(labels)
      const entrance: Entrance = { door: undefined!, labels, rules, trust: trusted }
      entrance.door = await entrances.#open({
        listen: row.listen,
        context: { credential, anchors: trusted.anchors },
        names: row.names,
        proxies: row.proxyProtocol?.from ?? [],
        handshakeTimeoutMs,
        maxConnections,
        onPeer: (socket, facts) => entrances.#welcome(socket, facts, entrance, streamOf[transport]),
        onRefused: (reason, message, remoteAddress) =>
          void gate.refused(
            { remoteAddress, listener: name },
            { stage: 'tls', cause: reason, message },
            { remoteAddress, listener: name },
          ),
      })
      entrances.#entrances.push(entrance)
      const { host, port } = entrance.door.address
      const path = transport === 'wss' ? '/mqtt' : ''
      entrances.endpoints[name] = `${transport}://${joinAddress(reachableHost(host), port)}${path}`
    }
    stack.move()
    return entrances
  }

  /** One that TLS cannot use leaves that before in force, for the contexts that are made later too. */
  renew(credential: EdgeCredential): void {
    const former = this.#credential
    this.#credential = credential
    try {
      this.#useContexts()
    } catch (error) {
      this.#credential = former
      this.#useContexts()
      throw error
    }
  }

  /** What is said of these certificates is another thing now. */
  forget(certificates: Iterable<string>): void {
    this.#certificates.forget(certificates)
  }

  /** Takes what the authorities say now for every handshake from here on. */
  trust(): void {
    for (const entrance of this.#entrances) entrance.trust = this.#options.authorities.trustOf(entrance.labels)
    this.#useContexts()
  }

  /** Reads the files of passwords that have changed; one that cannot be used leaves what was read before in force. */
  refreshPasswords(): void {
    const { log } = this.#options
    for (const { rules } of this.#entrances) {
      const listener = rules.name
      try {
        if (rules.secondFactor?.refresh()) log.info({ event: 'passwords.read', listener }, 'passwords in force')
      } catch (err) {
        log.error({ event: 'passwords.notRead', listener, err }, 'passwords cannot be used')
      }
    }
  }

  /** Other modes of listeners, for who is connected too; what a listener says of single faults stays. */
  reconfigure(next: Configuration['broker']): void {
    const { config, gate } = this.#options
    for (const { rules } of this.#entrances) {
      const { handling } = listenersOf(config).find(({ name }) => name === rules.name)!
      const mode = listenersOf(next).find(({ name }) => name === rules.name)?.mode ?? rules.mode
      if (mode === rules.mode) continue
      Object.assign(rules, { mode, handling: handlingTable(mode, handling) })
      gate.enforceRules()
    }
  }

  /** What each listener would do with a peer that presents these certificates now. */
  foresee(chain: readonly [X509Certificate, ...X509Certificate[]]): Promise<Foreseen[]> {
    const { gate, clock } = this.#options
    return Promise.all(
      this.#entrances.map(({ rules, trust }) => {
        const anchors = trust.anchors.map((pem) => new X509Certificate(pem))
        const chainError = chainFault(chain, anchors, clock())
        const peer = { remoteAddress: '', certificate: chain[0], authorized: chainError === undefined, chainError }
        return gate.foresee({ evidence: this.#evidenceOf(peer, trust), rules })
      }),
    )
  }

  /** Takes no new connection from here on; resolves when the last one is gone. */
  async stop(): Promise<void> {
    clearInterval(this.#rekeying)
    await Promise.all(this.#entrances.map(({ door }) => door.stop()))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
    await this.#workers?.[Symbol.asyncDispose]()
  }

  #open(options: ListenerOptions): Promise<Door> {
    return this.#workers === undefined ? Listener.open(options) : this.#workers.open(options)
  }

  #useContexts(): void {
    for (const { door, trust } of this.#entrances) door.use({ credential: this.#credential, anchors: trust.anchors })
  }

  #evidenceOf(facts: PeerFacts, trust: Trust): PeerEvidence {
    return readEvidence(
      facts,
      (leaf) => trust.findIssuer(leaf, facts.authorized),
      (der) => this.#certificates.read(der),
    )
  }

  #welcome(socket: PeerSocket, facts: PeerFacts, { rules, trust }: Entrance, streamOf: StreamOf): void {
    const { config, gate, sessions, snapshot, serve, clock, newId, keyWatch } = this.#options
    const { remoteAddress } = facts
    const connectionId = newId()
    const evidence = this.#evidenceOf(facts, trust)
    const { certificate } = evidence
    if (certificate !== undefined) keyWatch.look(certificate, { connectionId, remoteAddress, listener: rules.name })
    const serial = certificate?.serial
    const verdict = judgeHandshake(evidence, rules)
    if (verdict?.cause !== undefined) {
      socket.destroy()
      gate.refused(
        { remoteAddress, listener: rules.name, certificate, verdict },
        { stage: 'tls', cause: verdict.cause, message: verdict.message },
        { connectionId, remoteAddress, serial, ...verdictFields(verdict) },
      )
      return
    }
    const deviceId = deviceIdOf(evidence, snapshot)
    // Connections without a CONNECT count too, more leniently: nobody must use up every socket. They count for their certificate:
    // with one that was revoked, its device would be kept out.
    const { fingerprint } = certificate ?? {}
    if (fingerprint !== undefined && sessions.ofCertificate(fingerprint).length >= 4 * config.maxConnectionsPerDevice) {
      socket.destroy()
      gate.refused(
        { remoteAddress, listener: rules.name, deviceId, certificate },
        { stage: 'tls', cause: 'too_many_connections', message: `certificate ${serial} opens too many connections` },
        { connectionId, remoteAddress, deviceId, serial, listener: rules.name },
      )
      return
    }
    const stream = streamOf(socket, {
      isLetIn: () => connection.state === 'live',
      refused: (cause, message) => noteRefused({ gate }, connection, { reason: cause, message }),
    })
    const connection = new Connection({
      ...{ id: connectionId, socket, stream, evidence },
      ...{ remoteAddress, rules, connectedAt: clock() },
    })
    sessions.add(connection, deviceId)
    serve(connection)
  }
}
