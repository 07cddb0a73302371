// What was begun before the revocation may still make a few attempts lose.
export const barringAttempts = 25
/** Of each kind. Who is not barred for want of room makes a verb lose a few attempts more, and nothing else. */
export const maxBarred = 10_000

export type Barred = 'device_revoked' | 'device_held'
export type Bar = (deviceIds: readonly string[], as: Barred) => void

/**
 * Devices that are being revoked or put on hold in this process, with the number of verbs that are at it: the CA issues nothing to
 * them meanwhile. Without it a device that renews without end would change its own record faster than a revocation can read it.
 */
const underWay: Readonly<Record<Barred, Map<string, number>>> = { device_revoked: new Map(), device_held: new Map() }

export const findBarred = (deviceId: string): Barred | undefined =>
  (['device_revoked', 'device_held'] as const).find((as) => underWay[as].has(deviceId))

/** @param work may bar others too, which it comes to know of; all of them until it has ended */
export async function barring<T>(deviceIds: readonly string[], as: Barred, work: (bar: Bar) => Promise<T>): Promise<T> {
  const own = { device_revoked: new Set<string>(), device_held: new Set<string>() }
  const bar: Bar = (ids, as) => {
    for (const id of ids) {
      const count = underWay[as].get(id) ?? 0
      if (own[as].has(id) || (count === 0 && underWay[as].size >= maxBarred)) continue
      own[as].add(id)
      underWay[as].set(id, count + 1)
    }
  }
  bar(deviceIds, as)
  try {
    return await work(bar)
  } finally {
    release(own.device_revoked, underWay.device_revoked)
    release(own.device_held, underWay.device_held)
  }
}

function release(ids: Iterable<string>, from: Map<string, number>): void {
  for (const id of ids) {
    const count = from.get(id)! - 1
    if (count === 0) from.delete(id)
    else from.set(id, count)
  }
}
