// What was begun before the revocation may still make a few attempts lose.
export const barringAttempts = 25

/**
 * Devices that are being revoked or put on hold in this process: the CA issues nothing to them meanwhile. Without it a device
 * that renews without end would change its own record faster than a revocation can read it.
 */
const underWay = new Map<string, Barred>()
export type Barred = 'device_revoked' | 'device_held'
export const findBarred = (deviceId: string): Barred | undefined => underWay.get(deviceId)

export async function barring<T>(deviceIds: readonly string[], as: Barred, work: () => Promise<T>): Promise<T> {
  for (const id of deviceIds) underWay.set(id, as)
  try {
    return await work()
  } finally {
    for (const id of deviceIds) underWay.delete(id)
  }
}
