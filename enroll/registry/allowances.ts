import { createHash } from 'node:crypto'
import type { Stored } from './engine.ts'
import type { Registry, Write } from './registry.ts'

/** That a piece of hardware, by the serial number its factory gave it, may enroll under a label as a device. */
export type AllowanceRecord = { label: string; serial: string; deviceId: string; createdAt: string }

/** A serial number is text of the factory's choosing, which no key may hold. */
const idOf = (label: string, serial: string): string => `${label}:${createHash('sha256').update(serial).digest('hex')}`

export const findAllowance = (
  registry: Registry,
  label: string,
  serial: string,
): Promise<Stored<AllowanceRecord> | undefined> => registry.find('allowance', idOf(label, serial))

export const isAllowListed = async (registry: Registry, deviceId: string): Promise<boolean> =>
  (await registry.count({ index: 'allowance.device', value: deviceId }, 1)) > 0

/** @param expect the revision it was read at; 0: it must not exist */
export const writeAllowance = (doc: AllowanceRecord, expect: number): Write => ({
  kind: 'allowance',
  id: idOf(doc.label, doc.serial),
  expect,
  doc,
})
