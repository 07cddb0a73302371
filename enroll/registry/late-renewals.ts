import { FleetError } from '../../runtime/errors.ts'
import type { Stored } from './engine.ts'
import type { Page, Paging, Registry, Write } from './registry.ts'
import type { Redemption } from './vouchers.ts'

/** That a device may renew once with a certificate that has expired; a device has one at a time. */
export type LateRenewalRecord = Redemption & {
  deviceId: string
  allowedAt: string
  allowedBy: string
  expiresAt: string
}

export const findLateRenewal = (registry: Registry, deviceId: string): Promise<Stored<LateRenewalRecord> | undefined> =>
  registry.find('lateRenewal', deviceId)

/** @throws FleetError `late_renewal_unknown` */
export async function getLateRenewal(registry: Registry, deviceId: string): Promise<Stored<LateRenewalRecord>> {
  const found = await findLateRenewal(registry, deviceId)
  if (found !== undefined) return found
  throw new FleetError('late_renewal_unknown', `${deviceId} has no permission to renew late`, { context: { deviceId } })
}

/** In order of device id, used ones and those whose time is over too. */
export const listLateRenewals = (registry: Registry, paging: Paging): Promise<Page<LateRenewalRecord>> =>
  registry.list('lateRenewal', { kind: 'lateRenewal' }, paging)

/** @param expect the revision it was read at; 0: it must not exist */
export const writeLateRenewal = (doc: LateRenewalRecord, expect: number): Write => ({
  kind: 'lateRenewal',
  id: doc.deviceId,
  expect,
  doc,
})

export const deleteLateRenewal = ({ doc, rev }: Stored<LateRenewalRecord>): Write => ({
  kind: 'lateRenewal',
  id: doc.deviceId,
  expect: rev,
  doc: undefined,
})
