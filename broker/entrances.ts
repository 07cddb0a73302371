import type { Duplex } from 'node:stream'
import type { TLSSocket } from 'node:tls'
import type { Configuration } from '../contract/configuration.ts'
import { type ListenerConfiguration, listenersOf } from '../contract/listeners.ts'
import { handlingTable } from '../contract/verification.ts'
import { joinAddress } from '../runtime/config.ts'
import { type EdgeCredential, reachableHost } from '../runtime/https.ts'
import type { Log } from '../runtime/log.ts'
import { judgeHandshake, type ListenerRules, verdictFields } from './admission.ts'
import type { Authorities } from './authorities.ts'
import type { Gate } from './gate.ts'
import type { KeyWatch } from './key-watch.ts'
import { Listener } from './listener.ts'
import { noteRefused } from './mqtt-context.ts'
import { SecondFactor } from './second-factor.ts'
import { Connection, type Sessions } from './sessions.ts'
import type { Snapshot } from './trust/snapshot.ts'
import { deviceIdOf, type PeerEvidence } from './verification.ts'
import { WebSocketEdge, type WebSocketPeer } from './websocket.ts'

type EntrancesOptions = {
  config: Configuration['broker']
  authorities: Authorities
  credential: EdgeCredential
  gate: Gate
  sessions: Sessions
  snapshot: Snapshot
  keyWatch: Pick<KeyWatch, 'look'>
  clock: () => Date
  log: Log
  serve: (connection: Connection) => void
}
type StreamOf = (socket: TLSSocket, peer: WebSocketPeer) => Duplex
type Entrance = { listener: Listener; labels: readonly string[]; rules: ListenerRules }

/** Every listener of this broker, and what happens between its handshake and MQTT. */
export class Entrances implements AsyncDisposable {
  readonly #options: EntrancesOptions
  readonly #entrances: Entrance[] = []
  /** URL of each listener by its name. */
  readonly endpoints: Record<string, string> = {}

  private constructor(options: EntrancesOptions) {
    this.#options = options
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
      const listener = await Listener.open({
        listen: row.listen,
        credential,
        trust: authorities.trustOf(labels),
        names: row.names,
        proxies: row.proxyProtocol?.from ?? [],
        handshakeTimeoutMs,
        maxConnections,
        onPeer: (socket, evidence, remoteAddress) =>
          entrances.#welcome({ socket, evidence, remoteAddress, rules }, streamOf[transport]),
        onRefused: (reason, message, remoteAddress) =>
          void gate.refused(
            { remoteAddress, listener: name },
            { stage: 'tls', cause: reason, message },
            { remoteAddress, listener: name },
          ),
      })
      entrances.#entrances.push({ listener, labels, rules })
      const { host, port } = listener.address
      const path = transport === 'wss' ? '/mqtt' : ''
      entrances.endpoints[name] = `${transport}://${joinAddress(reachableHost(host), port)}${path}`
    }
    stack.move()
    return entrances
  }

  renew(credential: EdgeCredential): void {
    for (const { listener } of this.#entrances) listener.renew(credential)
  }

  /** Takes what the authorities say now for every handshake from here on. */
  trust(): void {
    for (const { listener, labels } of this.#entrances) listener.trust(this.#options.authorities.trustOf(labels))
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

  /** Takes no new connection from here on; resolves when the last one is gone. */
  async stop(): Promise<void> {
    await Promise.all(this.#entrances.map(({ listener }) => listener.stop()))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }

  #welcome(
    peer: { socket: TLSSocket; evidence: PeerEvidence; remoteAddress: string; rules: ListenerRules },
    streamOf: StreamOf,
  ): void {
    const { config, gate, sessions, snapshot, serve, clock, keyWatch } = this.#options
    const { socket, evidence, remoteAddress, rules } = peer
    const { certificate } = evidence
    if (certificate !== undefined) keyWatch.look(certificate, { remoteAddress, listener: rules.name })
    const serial = certificate?.serial
    const verdict = judgeHandshake(evidence, rules)
    if (verdict?.cause !== undefined) {
      socket.destroy()
      gate.refused(
        { remoteAddress, listener: rules.name, certificate, verdict },
        { stage: 'tls', cause: verdict.cause, message: verdict.message },
        { remoteAddress, serial, ...verdictFields(verdict) },
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
        { remoteAddress, deviceId, serial, listener: rules.name },
      )
      return
    }
    const stream = streamOf(socket, {
      isLetIn: () => connection.state === 'live',
      refused: (cause, message) => noteRefused({ gate }, connection, { reason: cause, message }),
    })
    const connection = new Connection({ ...peer, stream, connectedAt: clock() })
    sessions.add(connection, deviceId)
    serve(connection)
  }
}
