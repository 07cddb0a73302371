import { createHash } from 'node:crypto'
import type { IndexEntry, Stored } from './engine.ts'
import type { Page, Paging, Registry, Write } from './registry.ts'

/**
 * That a piece of hardware, by the serial number its factory gave it, may enroll under a label as a device. One that was taken
 * back stays as a record: a device that is registered under the serial number itself would come in by that else.
 */
export type AllowanceRecord = {
  label: string
  serial: string
  deviceId: string
  createdAt: string
  removedAt?: string
  /** Devices that were stolen and had the same serial number, of which an operator said that this is other hardware. */
  otherThan?: string[]
}

/** A serial number is text of the factory's choosing, which no key may hold. */
const digestOf = (serial: string): string => createHash('sha256').update(serial).digest('hex')
const idOf = (label: string, serial: string): string => `${label}:${digestOf(serial)}`

export const serialEntry = (serial: string): IndexEntry => ({ index: 'allowance.serial', value: digestOf(serial) })

export const findAllowance = (
  registry: Registry,
  label: string,
  serial: string,
): Promise<Stored<AllowanceRecord> | undefined> => registry.find('allowance', idOf(label, serial))

/** Those that hold, in no order that means anything. */
export const listAllowances = (
  registry: Registry,
  { label, deviceId, ...paging }: { label?: string | undefined; deviceId?: string | undefined } & Paging,
): Promise<Page<AllowanceRecord>> =>
  registry.list(
    'allowance',
    deviceId === undefined ? { kind: 'allowance' } : { index: 'allowance.device', value: deviceId },
    paging,
    (allowance) => allowance.removedAt === undefined && (label === undefined || allowance.label === label),
  )

/** Of all labels, those that do not hold any more too. */
export const listBySerial = (registry: Registry, serial: string, paging: Paging): Promise<Page<AllowanceRecord>> =>
  registry.list('allowance', serialEntry(serial), paging)

/** The same of one device, those that do not hold any more too. */
export const listAllOf = (registry: Registry, deviceId: string, paging: Paging): Promise<Page<AllowanceRecord>> =>
  registry.list('allowance', { index: 'allowance.device', value: deviceId }, paging)

/** Whether some label knows it by a serial number, or did. */
export const isAllowListed = async (registry: Registry, deviceId: string): Promise<boolean> =>
  (await registry.count({ index: 'allowance.device', value: deviceId }, 1)) > 0

/** @param expect the revision it was read at; 0: it must not exist */
export const writeAllowance = (doc: AllowanceRecord, expect: number): Write => ({
  kind: 'allowance',
  id: idOf(doc.label, doc.serial),
  expect,
  doc,
})
