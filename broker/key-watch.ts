import { type Alert, type BrokerReport, reportBounds } from '../contract/broker-reports.ts'
import type { CertificateFacts } from '../pki/certificate.ts'
import { networkOf } from '../runtime/limits.ts'
import type { Log } from '../runtime/log.ts'
import { LogLimit } from '../runtime/log-limit.ts'
import type { Events } from './events.ts'
import type { Snapshot } from './trust/snapshot.ts'

type KeyWatchOptions = {
  snapshot: Pick<Snapshot, 'findDevice' | 'withWatchedKeys'>
  report: (report: BrokerReport) => void
  events: Pick<Events, 'raise'>
  clock: () => Date
  log: Log
}

/**
 * Raises an alert where somebody has a key that was stolen with its device, in whatever certificate: TLS has shown that the peer
 * holds the key, also where it was not let in for it.
 */
export class KeyWatch {
  readonly #options: KeyWatchOptions
  /** Devices by SHA-256 of the SubjectPublicKeyInfo. */
  #watched = new Map<string, string>()
  readonly #alerts = new LogLimit({ burst: 1, everyMs: 60_000 })

  constructor(options: KeyWatchOptions) {
    this.#options = options
    this.reset()
  }

  /** Another snapshot came into force. */
  reset(): void {
    this.#watched = new Map()
    this.add(this.#options.snapshot.withWatchedKeys())
  }

  /** These devices may have keys by now that are watched. */
  add(deviceIds: readonly string[]): void {
    for (const id of deviceIds) {
      for (const key of this.#options.snapshot.findDevice(id)?.watchedKeys ?? []) this.#watched.set(key, id)
    }
  }

  /**
   * Somebody has finished a handshake with this certificate. One who goes on from one address (IPv6: one /64)
   * is told of once a minute.
   */
  look(
    { spkiHash, serial, fingerprint }: CertificateFacts,
    peer: { connectionId: string; remoteAddress: string; listener: string },
  ): void {
    const deviceId = this.#watched.get(spkiHash)
    if (deviceId === undefined) return
    const { report, events, clock, log } = this.#options
    const { remoteAddress, listener } = peer
    const turn = this.#alerts.take(`${spkiHash} ${networkOf(remoteAddress)}`, clock().getTime())
    if (turn === undefined) return
    const detail = `the key of ${deviceId}, which was stolen, was used in a handshake`
    log.warn({ event: 'key.used', deviceId, key: spkiHash, serial, ...peer, ...turn }, detail)
    const alert: Alert = {
      type: 'alert',
      kind: 'stolen',
      at: clock().toISOString(),
      listener: listener.slice(0, reportBounds.name),
      remoteAddress: remoteAddress.slice(0, reportBounds.name),
      deviceId,
      serial,
      fingerprint,
      detail,
      count: turn.suppressed + 1,
    }
    report(alert)
    events.raise({
      type: 'alert',
      kind: 'stolen',
      deviceId,
      listener,
      remoteAddress,
      message: detail,
      count: alert.count,
    })
  }
}
