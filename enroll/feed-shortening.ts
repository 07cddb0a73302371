import { decodeBody } from '../contract/feed.ts'
import type { Log } from '../runtime/log.ts'
import type { Registry } from './registry/registry.ts'

/** So many of the last are kept whoever has them: what a broker misses in a restart is not worth a snapshot. */
const keptAtLeast = 10_000
const perBatch = 500
const batches = 100
const lookEveryMs = 60_000

/** Keeps the feed from growing without end. */
export class FeedShortening implements AsyncDisposable {
  readonly #timer: NodeJS.Timeout
  #looking: Promise<void> | undefined

  /** @param options.pastAll the last event that every reader is past */
  constructor(options: {
    registry: Registry
    pastAll: () => Promise<number>
    keepMs: number
    clock: () => Date
    log: Log
  }) {
    const { registry, pastAll, keepMs, clock, log } = options
    const look = async (): Promise<void> => {
      const events = await shortenFeed(registry, { pastAll: await pastAll(), keepMs, now: clock() })
      if (events > 0)
        log.info({ event: 'feed.shortened', events }, 'events that every broker has, or that are old, forgotten')
    }
    this.#timer = setInterval(() => {
      this.#looking ??= look()
        .catch((err: unknown) => log.error({ event: 'feed.notShortened', err }, 'old events were not forgotten'))
        .finally(() => {
          this.#looking = undefined
        })
    }, lookEveryMs)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer)
    await this.#looking
  }
}

/**
 * Forgets the beginning of the feed: what every reader is past, and what is older than anybody is waited for. What it does not get
 * done is left to the next call.
 *
 * @param input.pastAll the last event that every reader is past: each broker that joined, and whoever reads it here
 * @param input.keep    so many of the last, whoever has them
 * @returns how many events it forgot
 */
export async function shortenFeed(
  registry: Registry,
  input: { pastAll: number; keepMs: number; now: Date; keep?: number },
): Promise<number> {
  const { pastAll, keepMs, now, keep = keptAtLeast } = input
  const cutoff = new Date(now.getTime() - keepMs).toISOString()
  const { feed, feedFrom: before = 1 } = await registry.head()
  const last = feed.seq - Math.max(1, keep)
  let from = before
  for (let left = batches; left > 0 && from <= last; left--) {
    const events = await registry.feedAfter(from - 1, perBatch)
    const isOver = events.findIndex(
      (event) => event.seq > last || (event.seq > pastAll && decodeBody(event).at >= cutoff),
    )
    const next = isOver < 0 ? from + events.length : events[isOver]!.seq
    if (next > from) await registry.forgetFeedBefore(next)
    from = next
    if (isOver >= 0) break
  }
  return from - before
}
