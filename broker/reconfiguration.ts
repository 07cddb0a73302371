import type { Configuration } from '../contract/configuration.ts'
import { differing, isLive, type Reloaded } from '../contract/live-settings.ts'
import { isFleetError } from '../runtime/errors.ts'
import type { Log } from '../runtime/log.ts'

/**
 * Puts other limits and modes of listeners in force while the broker serves. What cannot be used leaves all as it was; of
 * other settings it is told that they wait for a restart.
 */
export class Reconfiguration {
  readonly #config: Configuration
  readonly #put: (next: Configuration, changed: readonly string[]) => void
  readonly #log: Log
  #latest: Configuration

  /** @param config what the broker was started with */
  constructor(
    config: Configuration,
    options: { put: (next: Configuration, changed: readonly string[]) => void; log: Log },
  ) {
    this.#config = config
    this.#latest = config
    this.#put = options.put
    this.#log = options.log
  }

  /** @param load throws FleetError `config_invalid`; what goes wrong is in the log and in what is returned */
  apply(load: () => Configuration): Reloaded {
    const log = this.#log
    try {
      const next = load()
      const waitsForRestart = differing(this.#config, next).filter(isOurs)
      const changed = differing(this.#latest, next).filter((path) => isLive('broker', path))
      this.#put(next, changed)
      this.#latest = next
      if (changed.length > 0) log.info({ event: 'configuration.replaced', changed }, 'the configuration is another')
      if (waitsForRestart.length > 0)
        log.warn({ event: 'configuration.waiting', settings: waitsForRestart }, 'these wait for a restart')
      return { changed, waitsForRestart }
    } catch (err) {
      const fields = isFleetError(err) ? { reason: err.code, detail: err.message } : { err }
      log.error({ event: 'configuration.notRead', ...fields }, 'the configuration stays as it was')
      return { refused: (err as Error).message, changed: [], waitsForRestart: [] }
    }
  }
}

const isOurs = (path: string): boolean => /^(broker|keys|data)\b/.test(path) && !isLive('broker', path)
