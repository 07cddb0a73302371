import type { Stored } from './engine.ts'
import type { Registry, Write } from './registry.ts'
import type { Redemption } from './vouchers.ts'

/** That a device was enrolled, or is being enrolled, with a claim certificate. */
export type ClaimRecord = Redemption & {
  deviceId: string
  /** Of the claim certificate. */
  fingerprint: string
  claimedAt: string
}

export const findClaim = (registry: Registry, deviceId: string): Promise<Stored<ClaimRecord> | undefined> =>
  registry.find('claim', deviceId)

export const deleteClaim = ({ doc, rev }: Stored<ClaimRecord>): Write => ({
  kind: 'claim',
  id: doc.deviceId,
  expect: rev,
  doc: undefined,
})
