import type { DeviceId } from '../contract/ids.ts'
import { AttemptLimit, networkOf } from '../runtime/limits.ts'
import type { Log } from '../runtime/log.ts'
import { LogLimit } from '../runtime/log-limit.ts'
import type { Alerts } from './alerts.ts'
import { holdDevice } from './ca/hold.ts'
import { type Fork, findSuccessor } from './ca/supersession.ts'
import type { Met } from './clone-meetings.ts'
import { type CertificateRecord, findCertificate } from './registry/certificates.ts'
import { findDevice } from './registry/devices.ts'
import type { Registry } from './registry/registry.ts'

type CloneDeskOptions = {
  registry: Registry
  alerts: Pick<Alerts, 'raise'>
  /** Devices whose key is used in two places that are put on hold in an hour; more at once are a fault of the network, or a broker's. */
  maxHeld: number
  clock: () => Date
  log: Log
}
/** Who showed a certificate, and to whom. */
export type Shown = { remoteAddress: string; by: string; requestId: string; at: string }

/**
 * What certificates tell of somebody who has copied a key, where the copy was renewed and the keys differ by now: who uses an older
 * one from elsewhere, or one that the device cannot have.
 */
export class CloneDesk {
  readonly #options: CloneDeskOptions
  readonly #holds: AttemptLimit
  readonly #alerts = new LogLimit({ burst: 1, everyMs: 60_000 })

  constructor(options: CloneDeskOptions) {
    this.#options = options
    this.#holds = new AttemptLimit(options.maxHeld, { periodMs: 3_600_000 })
  }

  /** Both were renewed from one certificate, and both are in use. */
  forked({ deviceId, serial, other, otherFrom }: Fork, shown: Shown): Promise<void> {
    const detail = 'two certificates are in use that were renewed from one'
    return this.#suspect({ deviceId, serial, other, otherFrom, detail }, shown)
  }

  /**
   * It was shown after a newer one had been used. From the same network that is a program that did not load the new one.
   *
   * @param detail what was done with it
   */
  async outlived(certificate: CertificateRecord, detail: string, shown: Shown): Promise<void> {
    const { deviceId, serial } = certificate
    const successor = await findSuccessor(this.#options.registry, certificate)
    if (deviceId === undefined || successor?.firstUsedFrom === undefined) return
    const { serial: other, firstUsedFrom: otherFrom } = successor
    if (isElsewhere(otherFrom, shown)) await this.#suspect({ deviceId, serial, other, otherFrom, detail }, shown)
  }

  /** A renewal with it was refused, as a newer one is in use. */
  async renewedLate(serial: string, shown: Shown): Promise<void> {
    const certificate = await findCertificate(this.#options.registry, serial)
    if (certificate !== undefined) await this.outlived(certificate.doc, 'a renewal with it was refused', shown)
  }

  /** Its key is used at two brokers, in places that are apart, and both are there. */
  async met({ key, rule, sides, suspended, requestId }: Met): Promise<void> {
    const { alerts, clock } = this.#options
    const turn = this.#alerts.take(key, clock().getTime())
    if (turn === undefined) return
    const { deviceId, remoteAddress } = sides[1].session
    const places = sides.map(({ broker, session: { clientId, remoteAddress, connectedAt } }) =>
      `${clientId.slice(0, 100)} from ${remoteAddress} since ${connectedAt} at ${broker}`.slice(0, 300),
    )
    const detail = `${rule}: ${places.join('; ')}`
    const details = { rule, key, places, suspended, count: turn.suppressed + 1 }
    await alerts.raise({
      ...{ kind: 'clone', deviceId, details, remoteAddress, requestId, by: 'enroll', at: clock().toISOString() },
      told: { kind: 'clone', deviceId, message: detail, count: turn.suppressed + 1 },
    })
    await this.hold(deviceId, { remoteAddress, by: 'enroll', requestId })
  }

  /** Holds a device of which two have the key, where that is wanted. */
  async hold(deviceId: string, { remoteAddress, by, requestId }: Omit<Shown, 'at'>): Promise<void> {
    const { registry, maxHeld, clock, log } = this.#options
    if (maxHeld === 0) return
    // One that was revoked, or never was, cannot be held and need not be.
    if ((await findDevice(registry, deviceId))?.doc.status !== 'active') return
    const now = clock()
    if (this.#holds.waitMs('', now.getTime()) > 0) {
      const why = `${maxHeld} devices were put on hold in an hour already: are these the addresses of devices?`
      log.error({ event: 'clone.notHeld', deviceId, by, why }, 'a device that may have been cloned goes on')
      return
    }
    this.#holds.note('', now.getTime())
    const actor = by === 'enroll' ? 'system' : `broker:${by}`
    await holdDevice(registry, { id: deviceId as DeviceId, actor, remoteAddress, requestId, now })
  }

  async #suspect({ deviceId, otherFrom, ...found }: Fork & { detail: string }, shown: Shown): Promise<void> {
    const { alerts, clock } = this.#options
    const turn = this.#alerts.take(`${deviceId} ${networkOf(shown.remoteAddress)}`, clock().getTime())
    if (turn === undefined) return
    const details = { ...found, ...(otherFrom === undefined ? {} : { otherFrom }), count: turn.suppressed + 1 }
    await alerts.raise({ kind: 'clone', deviceId, details, ...shown, requestId: `${shown.requestId}-clone` })
    if (isElsewhere(otherFrom, shown)) await this.hold(deviceId, { ...shown, requestId: `${shown.requestId}-clone` })
  }
}

const isElsewhere = (otherFrom: string | undefined, { remoteAddress }: Shown): boolean =>
  otherFrom !== undefined && networkOf(otherFrom) !== networkOf(remoteAddress)
