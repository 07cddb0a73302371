import { randomUUID } from 'node:crypto'
import { mkdirSync } from 'node:fs'
import type { Duplex } from 'node:stream'
import type { TLSSocket } from 'node:tls'
import { type Configuration, listenersOf } from '../contract/configuration.ts'
import { joinAddress } from '../runtime/config.ts'
import { reachableHost } from '../runtime/https.ts'
import type { Log } from '../runtime/log.ts'
import { admitHandshake, type PeerEvidence } from './admission.ts'
import { credentialStamp, readCredential } from './credential.ts'
import { Gate } from './gate.ts'
import { Listener } from './listener.ts'
import { MqttService } from './mqtt.ts'
import { Connection, Sessions } from './sessions.ts'
import { BrokerStore } from './store.ts'
import { FeedClient } from './trust/feed-client.ts'
import { Snapshot, type SnapshotChange } from './trust/snapshot.ts'
import { WebSocketEdge } from './websocket.ts'

export type BrokerService = AsyncDisposable & {
  /** URL of each listener by its name. */
  endpoints: { mqtts: string; [listener: string]: string }
  feed: Pick<FeedClient, 'everLive' | 'connected' | 'untilLive' | 'sync'>
  sessions: Pick<Sessions, 'size' | 'findLive' | 'ofDevice'>
}

const credentialPollMs = 60_000

/**
 * Wires a broker together and starts it.
 *
 * @param dataDir       the broker's own folder; one instance at a time
 * @param credentialDir `tls.key`, `tls.crt` (leaf, then its issuing CA) and `root.crt`, written by enroll
 * @throws FleetError `data_in_use`, `data_damaged`, `port_in_use`, `key_permissions`, `key_passphrase`
 */
export async function createBrokerService(options: {
  config: Configuration
  dataDir: string
  credentialDir: string
  clock?: () => Date
  log: Log
}): Promise<BrokerService> {
  const { dataDir, credentialDir, log, clock = () => new Date() } = options
  const config = options.config.broker
  const { passphraseFile } = options.config.keys
  await using stack = new AsyncDisposableStack()

  let credential = readCredential(credentialDir, passphraseFile)
  mkdirSync(dataDir, { recursive: true, mode: 0o700 })
  const store = stack.use(await BrokerStore.open(dataDir))
  const snapshot = await Snapshot.load(store)
  const sessions = new Sessions((connection) => {
    const { deviceId, clientId, certificate, endReason: reason, remoteAddress } = connection
    log.warn(
      { event: 'session.kicked', reason, deviceId, clientId, serial: certificate.serial, remoteAddress },
      'session kicked',
    )
  })
  const feed = stack.use(
    new FeedClient({
      address: config.feed,
      brokerId: config.id,
      snapshot,
      credential: () => credential,
      onChange: (change) => bringIntoForce(change),
      random: Math.random,
      log,
    }),
  )
  const gate = new Gate({
    snapshot,
    sessions,
    feed,
    clock,
    newSuffix: randomUUID,
    log,
    maxConnectionsPerDevice: config.maxConnectionsPerDevice,
  })
  const anchorsInForce = (): readonly string[] =>
    snapshot.anchors.length > 0 ? snapshot.anchors : credential.authorities

  const mqtt = await MqttService.start({ config, gate, sessions, area: store.sessions, clock, log })
  const webSockets = new WebSocketEdge({
    upgradeTimeoutMs: config.handshakeTimeoutMs,
    maxMessageBytes: config.maxPacketBytes + config.maxConnectBytes,
    maxBufferedBytes: config.maxBufferedBytes,
  })
  const streamOf = { mqtts: (socket: TLSSocket) => socket, wss: (socket: TLSSocket) => webSockets.open(socket) }
  const listeners: Listener[] = []
  const endpoints: Record<string, string> = {}
  try {
    for (const { name, transport, listen } of listenersOf(config)) {
      const listener = await Listener.open({
        listen,
        credential,
        anchors: anchorsInForce(),
        handshakeTimeoutMs: config.handshakeTimeoutMs,
        maxConnections: config.maxConnections,
        onPeer: (socket, evidence) => welcome(socket, evidence, streamOf[transport]),
        onRefused: (reason, message, remoteAddress) => gate.logRefusal({ reason, message }, { remoteAddress }),
      })
      listeners.push(listener)
      const { host, port } = listener.address
      endpoints[name] = `${transport}://${joinAddress(reachableHost(host), port)}${transport === 'wss' ? '/mqtt' : ''}`
    }
  } catch (error) {
    await Promise.all(listeners.map((listener) => listener.stop()))
    await mqtt[Symbol.asyncDispose]()
    throw error
  }

  const renewal = setInterval(() => {
    if (credentialStamp(credentialDir) === credential.stamp) return
    try {
      credential = readCredential(credentialDir, passphraseFile)
      for (const listener of listeners) {
        listener.renew(credential)
        if (snapshot.anchors.length === 0) listener.trust(anchorsInForce())
      }
      log.info({ event: 'credential.renewed' }, 'new service certificate in use')
    } catch (err) {
      log.error({ event: 'credential.notRenewed', err }, 'new service certificate cannot be used')
    }
  }, credentialPollMs)
  renewal.unref()

  function welcome(socket: TLSSocket, evidence: PeerEvidence, streamOf: (socket: TLSSocket) => Duplex): void {
    const admission = admitHandshake(evidence)
    const remoteAddress = socket.remoteAddress ?? 'unknown'
    if (!admission.admitted) {
      socket.destroy()
      const serial = evidence.certificate?.serial
      gate.logRefusal(admission, { remoteAddress, ...(serial === undefined ? {} : { serial }) })
      return
    }
    const { certificate } = admission
    const deviceId = snapshot.findCertificate(certificate.fingerprint)?.deviceId
    // Connections without a CONNECT count too, more leniently: one device must not use up every socket.
    if (deviceId !== undefined && sessions.ofDevice(deviceId).length >= 4 * config.maxConnectionsPerDevice) {
      socket.destroy()
      gate.logRefusal(
        { reason: 'too_many_connections', message: `${deviceId} opens too many connections` },
        { remoteAddress, deviceId, serial: certificate.serial },
      )
      return
    }
    const connection = new Connection({ socket, stream: streamOf(socket), evidence, certificate })
    sessions.add(connection, deviceId)
    mqtt.serve(connection)
  }

  function bringIntoForce(change: SnapshotChange): void {
    gate.enforce(change)
    for (const id of change.devices) {
      if (gate.isRevoked(id)) mqtt.forget(id)
    }
    if (change.replaced) void mqtt.forgetRevoked()
    if (change.anchors) for (const listener of listeners) listener.trust(anchorsInForce())
  }

  for (const listener of listeners) stack.use(listener)
  stack.use(mqtt)
  stack.defer(() => {
    clearInterval(renewal)
    for (const listener of listeners) void listener.stop()
  })
  feed.start()
  const owned = stack.move()
  return {
    endpoints: endpoints as BrokerService['endpoints'],
    feed,
    sessions,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}
