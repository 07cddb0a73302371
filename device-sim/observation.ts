import { setTimeout as delay } from 'node:timers/promises'

/** What is to happen within a time; its absence is an error that says what was waited for, and so is a stop. */
export async function within<T>(ms: number, what: string, happening: Promise<T>, stop?: AbortSignal): Promise<T> {
  const late = new AbortController()
  const signal = stop === undefined ? late.signal : AbortSignal.any([late.signal, stop])
  const timeout = delay(ms, undefined, { signal }).then(
    () => Promise.reject(new Error(`${what}: not within ${ms} ms`)),
    () => Promise.reject(new Error(`${what}: stopped`)),
  )
  try {
    return await Promise.race([happening, timeout])
  } finally {
    late.abort()
  }
}

/** Runs `work` over all items, `width` at a time. */
export async function inParallel<T>(items: T[], width: number, work: (item: T) => Promise<void>): Promise<void> {
  const queue = items.values()
  const lane = async (): Promise<void> => {
    for (const item of queue) await work(item)
  }
  await Promise.all(Array.from({ length: width }, lane))
}

export function expect(holds: boolean, otherwise: string): asserts holds {
  if (!holds) throw new Error(otherwise)
}
