import { randomUUID } from 'node:crypto'
import type { ConfigurationView } from '../contract/admin-api.ts'
import type { Configuration } from '../contract/configuration.ts'
import { differing, isLive, type Reloaded } from '../contract/live-settings.ts'
import { FleetError, isFleetError } from '../runtime/errors.ts'
import type { Log } from '../runtime/log.ts'
import type { Profiles } from './ra/profiles.ts'
import type { AuditFact } from './registry/audit-log.ts'
import type { Registry } from './registry/registry.ts'

/** Who wants it read: an operator, or somebody who saved the file or sent the signal, whom nobody can name. */
export type Wanted = { by: 'request' | 'signal' | 'file' } & Pick<AuditFact, 'actor' | 'remoteAddress'>

type Options = {
  /** What the service was started with. */
  config: Configuration
  profiles: Profiles
  registry: Registry
  clock: () => Date
  log: Log
  /** Puts the settings in force that this service need not be started again for. */
  put: (next: Configuration, changed: readonly string[]) => void
  /** Called when other profiles and labels are in force. */
  changed: () => void
}

/**
 * Puts changed profiles, labels and limits in force while the service runs, for the next request on every connection. What
 * cannot be used leaves those in force that are; the other settings wait for a restart.
 */
export class Reconfiguration {
  readonly #options: Options
  #latest: Configuration
  #view: ConfigurationView = { waitsForRestart: [] }
  #turn: Promise<unknown> = Promise.resolve()

  constructor(options: Options) {
    this.#options = options
    this.#latest = options.config
  }

  get view(): ConfigurationView {
    return this.#view
  }

  /** @param load throws FleetError `config_invalid`; what goes wrong is in the log, in the audit log and in `view` */
  apply(load: () => Configuration, wanted: Wanted): Promise<Reloaded> {
    const turn = this.#turn.then(() => this.#apply(load, wanted))
    this.#turn = turn
    return turn
  }

  async #apply(load: () => Configuration, wanted: Wanted): Promise<Reloaded> {
    const { config, log } = this.#options
    try {
      const next = load()
      const changed = await this.#put(next, wanted)
      const waitsForRestart = differing(config, next).filter(
        (path) => !isLive('enroll', path) && !isLive('broker', path),
      )
      this.#view = { waitsForRestart }
      const fields = { event: 'configuration.waiting', settings: waitsForRestart }
      if (waitsForRestart.length > 0) log.warn(fields, 'these settings are in force after a restart')
      return { changed, ...this.#view }
    } catch (err) {
      const { message } = err as Error
      const isKnown = this.#view.refused === message
      this.#view = { ...this.#view, refused: message }
      const fields = isFleetError(err) ? { reason: err.code, detail: message } : { err }
      log.error({ event: 'configuration.refused', ...fields }, 'the configuration stays as it was')
      // A file that is looked at time and again is not told of each time.
      if (!isKnown || wanted.by !== 'file') await this.#record(wanted, { refused: err }).catch(() => undefined)
      return { changed: [], ...this.#view }
    }
  }

  async #put(next: Configuration, wanted: Wanted): Promise<string[]> {
    const { profiles, log, put, changed } = this.#options
    const change = profiles.prepare(next)
    const settings = differing(this.#latest, next).filter((path) => isLive('enroll', path))
    const all = [...change.changed, ...settings]
    if (all.length === 0) return []
    // Whom it lets in is known to the audit log before it lets anybody in.
    await this.#record(wanted, { changed: all })
    change.put()
    put(next, settings)
    this.#latest = next
    if (change.changed.length > 0) changed()
    log.info({ event: 'configuration.replaced', changed: all }, 'the configuration is another')
    return all
  }

  async #record({ by, ...who }: Wanted, what: { changed: string[] } | { refused: unknown }): Promise<void> {
    const { registry, clock } = this.#options
    const requestId = `configuration-${randomUUID()}`
    const fact = { action: 'configuration.changed', subject: 'configuration', ...who, requestId }
    const audit: AuditFact =
      'changed' in what
        ? { ...fact, outcome: 'done', details: { changed: what.changed, by } }
        : {
            ...fact,
            outcome: 'refused',
            reason: what.refused instanceof FleetError ? what.refused.code : 'internal',
            details: { sentence: (what.refused as Error).message.slice(0, 1_000), by },
          }
    await registry.commit({ requestId, writes: [], audit: [audit], at: clock() })
  }
}
