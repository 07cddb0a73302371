import { type BrokerReport, reportBounds } from '../contract/broker-reports.ts'
import type { Log } from '../runtime/log.ts'
import type { Connection } from './sessions.ts'
import type { Area } from './store.ts'

type FirstUsesOptions = { area: Area; raise: (report: BrokerReport) => boolean; clock: () => Date; log: Log }

/** Of those told of, so many are known without a look at the disk. */
const rememberedAtMost = 10_000

const key = (fingerprint: string): string => `u${fingerprint}`

/** Tells enroll of the first session with each certificate: from then on its device has it for certain. */
export class FirstUses {
  readonly #options: FirstUsesOptions
  readonly #told = new Set<string>()

  constructor(options: FirstUsesOptions) {
    this.#options = options
  }

  /** A session was opened. What was told is kept on disk, or a restart would tell all of it again. */
  async note({ rules, remoteAddress, clientId, deviceId, certificate }: Connection): Promise<void> {
    const { area, raise, clock, log } = this.#options
    if (deviceId === undefined || certificate === undefined) return
    const { serial, fingerprint } = certificate
    if (this.#told.has(fingerprint)) return
    try {
      const [known] = await area.getMany([key(fingerprint)])
      if (known !== undefined) return this.#remember(fingerprint)
      const isRaised = raise({
        type: 'certificate.used',
        at: clock().toISOString(),
        listener: rules.name.slice(0, reportBounds.name),
        remoteAddress: remoteAddress.slice(0, reportBounds.name),
        deviceId,
        serial,
        fingerprint,
        ...(clientId === undefined ? {} : { clientId: clientId.slice(0, reportBounds.clientId) }),
      })
      // The next session with it says so.
      if (!isRaised) return
      await area.write([{ type: 'put', key: key(fingerprint), value: Buffer.alloc(0) }], { sync: false })
      this.#remember(fingerprint)
    } catch (err) {
      log.error({ event: 'broker.failed', err }, 'the first use of a certificate was not noted')
    }
  }

  /** These certificates will not be used again. */
  async forget(fingerprints: readonly string[]): Promise<void> {
    const { area, log } = this.#options
    const operations = fingerprints.map((fingerprint) => ({ type: 'del' as const, key: key(fingerprint) }))
    if (operations.length === 0) return
    for (const fingerprint of fingerprints) this.#told.delete(fingerprint)
    await area.write(operations, { sync: false }).catch((err) => {
      log.error({ event: 'broker.failed', err }, 'the first use of a certificate was not forgotten')
    })
  }

  #remember(fingerprint: string): void {
    if (this.#told.size >= rememberedAtMost) this.#told.clear()
    this.#told.add(fingerprint)
  }
}
