import type { StaleBounds } from '../contract/feed.ts'
import type { StaleSettings } from '../contract/service-settings.ts'
import type { Handling } from '../contract/verification.ts'

/** How far this broker goes without enroll, at the most lenient of its listeners. */
export function staleBounds(handlings: readonly Handling[], { afterMs, sessions }: StaleSettings): StaleBounds {
  const bounds = handlings.map((handling): number => {
    if (handling.action === 'log-only') return Number.POSITIVE_INFINITY
    return handling.action === 'grace' ? Math.max(handling.durationMs, afterMs) : afterMs
  })
  const most = Math.max(...bounds)
  const admitsMs = Number.isFinite(most) ? most : null
  return { admitsMs, servesMs: sessions === 'keep' ? null : admitsMs }
}

/** How long a listener may still ask about a certificate that has expired, at the most lenient of them. */
export const expiredAskedMs = (handlings: readonly Handling[]): number =>
  Math.max(
    ...handlings.map((handling) => {
      if (handling.action === 'reject') return 0
      return handling.action === 'grace' ? handling.durationMs : Number.POSITIVE_INFINITY
    }),
  )

/** Whether what was known of all revocations `knownAt` still counts as known. */
export const isFresh = (knownAt: Date | undefined, now: Date, { afterMs }: StaleSettings): boolean =>
  knownAt !== undefined && now.getTime() - knownAt.getTime() <= afterMs

/** By the clock of the wall and by one that nobody can set, which stands still while a machine sleeps. */
export type Instant = { at: Date; ms: number }

/**
 * When something was, by the clock of the wall as it is now: one that was set back has not made it younger. One that was set
 * forward has made it older, as far as that can be told from sleep.
 */
export const asOfNow = (then: Instant, now: Instant): Date =>
  new Date(Math.min(then.at.getTime(), now.at.getTime() - (now.ms - then.ms)))
