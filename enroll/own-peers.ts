import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import type { TLSSocket } from 'node:tls'
import { parseCertificate } from '../pki/certificate.ts'
import { valuesOf } from '../pki/names.ts'
import { isFleetError } from '../runtime/errors.ts'
import type { Log } from '../runtime/log.ts'
import { findWatchedHandshake, type WatchedKeyUse } from './ra/key-watch.ts'
import type { Registry } from './registry/registry.ts'

/** As its certificate says, whatever that is worth. */
export type OwnPeer = { edge: 'admin' | 'feed'; serial: string; name: string | undefined }
type OwnPeersOptions = {
  registry: Registry
  onWatchedKey: (use: WatchedKeyUse) => void
  clock: () => Date
  log: Log
}

/**
 * Who has shown a certificate at the admin API or the trust feed: a connection there ends with its certificate, revoked or expired, and a stolen key
 * is told of, whatever the certificate is worth otherwise.
 */
export class OwnPeers {
  readonly #options: OwnPeersOptions
  readonly #peers = new Map<TLSSocket, OwnPeer & { notAfter: Date }>()
  readonly #leaving = new WeakSet<TLSSocket>()

  constructor(options: OwnPeersOptions) {
    this.#options = options
  }

  /** At the end of the handshake, before the certificate is looked up: one that is revoked in between is ended here. */
  note(socket: TLSSocket, edge: OwnPeer['edge']): void {
    const der = socket.getPeerX509Certificate()?.raw
    const shown = der && findFacts(der)
    if (shown === undefined) return
    const { serial, subject, notAfter } = shown
    this.#peers.set(socket, { edge, serial, name: valuesOf(subject, 'CN')[0], notAfter })
    socket.once('close', () => this.#peers.delete(socket))
    const { registry, onWatchedKey, clock, log } = this.#options
    const { remoteAddress = 'unknown' } = socket
    findWatchedHandshake(registry, shown.spkiHash, { id: randomUUID(), path: edge, remoteAddress }, clock()).then(
      (use) => use && onWatchedKey(use),
      (err: unknown) => log.error({ event: 'alert.notNoted', remoteAddress, err }, 'a key could not be looked up'),
    )
  }

  /**
   * Ends the connections that are meant.
   *
   * @param but has its answer first, and ends then: see `isLeaving`
   * @returns how many, when they are closed; `but` is one of them
   */
  async end(isMeant: (peer: OwnPeer) => boolean, but?: TLSSocket): Promise<number> {
    const ended = [...this.#peers].flatMap(([socket, peer]) => (isMeant(peer) ? [socket] : []))
    await Promise.all(
      ended.map(async (socket) => {
        if (socket === but) this.#leaving.add(socket)
        else await once(socket.destroy(), 'close')
      }),
    )
    return ended.length
  }

  /** Ends those whose certificate has expired since it was shown. To be called about once a second. */
  sweep(): void {
    const { clock, log } = this.#options
    const now = clock()
    for (const [socket, { notAfter, ...peer }] of this.#peers) {
      if (notAfter >= now || socket.destroyed) continue
      log.warn({ event: 'peer.ended', reason: 'certificate_expired', ...peer }, 'a connection of our own ended')
      socket.destroy()
    }
  }

  /** Whether it has had its last answer. */
  isLeaving(socket: TLSSocket): boolean {
    return this.#leaving.has(socket)
  }
}

function findFacts(der: Buffer) {
  try {
    return parseCertificate(der)
  } catch (error) {
    if (isFleetError(error)) return undefined
    throw error
  }
}
