import { randomUUID } from 'node:crypto'
import { isDeepStrictEqual } from 'node:util'
import type { ConfigurationView, ReloadReceipt } from '../contract/admin-api.ts'
import type { Configuration } from '../contract/configuration.ts'
import { isFleetError } from '../runtime/errors.ts'
import type { Log } from '../runtime/log.ts'
import type { Profiles } from './ra/profiles.ts'
import type { Registry } from './registry/registry.ts'

type Options = {
  /** What the service was started with. */
  config: Configuration
  profiles: Profiles
  registry: Registry
  clock: () => Date
  log: Log
  /** Called when others are in force. */
  changed: () => void
}

/**
 * Puts changed profiles and labels in force while the service runs, for the next request on every connection. What cannot be
 * used leaves those in force that are; the other settings wait for a restart.
 */
export class Reconfiguration {
  readonly #options: Options
  #view: ConfigurationView = { waitsForRestart: [] }
  #turn: Promise<unknown> = Promise.resolve()

  constructor(options: Options) {
    this.#options = options
  }

  get view(): ConfigurationView {
    return this.#view
  }

  /** @param load throws FleetError `config_invalid`; what goes wrong is in the log and in `view` */
  apply(load: () => Configuration): Promise<ReloadReceipt> {
    const turn = this.#turn.then(() => this.#apply(load))
    this.#turn = turn
    return turn
  }

  async #apply(load: () => Configuration): Promise<ReloadReceipt> {
    const { config, log } = this.#options
    try {
      const next = load()
      const changed = await this.#put(next)
      const waitsForRestart = differing(config, next)
      this.#view = { waitsForRestart }
      const fields = { event: 'configuration.waiting', settings: waitsForRestart }
      if (waitsForRestart.length > 0) log.warn(fields, 'these settings are in force after a restart')
      return { changed, ...this.#view }
    } catch (err) {
      const { message } = err as Error
      this.#view = { ...this.#view, refused: message }
      const fields = isFleetError(err) ? { reason: err.code, detail: message } : { err }
      log.error({ event: 'configuration.refused', ...fields }, 'the configuration stays as it was')
      return { changed: [], ...this.#view }
    }
  }

  async #put(next: Configuration): Promise<string[]> {
    const { profiles, registry, clock, log, changed } = this.#options
    const change = profiles.prepare(next)
    if (change.changed.length === 0) return []
    const requestId = `configuration-${randomUUID()}`
    // Whom it lets in is known to the audit log before it lets anybody in.
    await registry.commit({
      requestId,
      writes: [],
      audit: [
        {
          action: 'configuration.changed',
          actor: 'system',
          subject: 'configuration',
          outcome: 'done',
          details: { changed: change.changed },
          requestId,
        },
      ],
      at: clock(),
    })
    change.put()
    changed()
    log.info({ event: 'configuration.replaced', changed: change.changed }, 'profiles and labels replaced')
    return change.changed
  }
}

type Tree = Record<string, unknown>

/** Paths of what is another, but for profiles and labels. A list is one value. */
function differing({ profiles: _p, labels: _l, ...before }: Configuration, after: Configuration): string[] {
  const compare = (a: Tree, b: Tree, at: string[]): string[] =>
    Object.keys({ ...a, ...b }).flatMap((key) => {
      const [one, other] = [a[key], b[key]]
      const path = [...at, key]
      if (isTree(one) && isTree(other)) return compare(one, other, path)
      return isDeepStrictEqual(one, other) ? [] : [path.join('.')]
    })
  const { profiles: _profiles, labels: _labels, ...rest } = after
  return compare(before, rest, [])
}

const isTree = (value: unknown): value is Tree => typeof value === 'object' && value !== null && !Array.isArray(value)
