/** A part of the admin API: one verb for many devices. */
import { z } from 'zod'
import { deviceId, inForce, theftReceipt, waitMs } from './admin-api.ts'
import { revocationReasons } from './ids.ts'
import { deviceIds } from './session-api.ts'

export const bulkVerbs = ['revoke', 'disable', 'enable', 'stolen'] as const
/** In one request; each is one batch in the registry. */
export const bulkAtOnce = 100
export const changeDevices = z.strictObject({
  verb: z.enum(bulkVerbs),
  reason: z.enum(revocationReasons).default('unspecified').describe('Of revoke'),
  ids: z.array(deviceId).min(1).max(bulkAtOnce),
  waitMs,
})
export const foreseeChange = z.strictObject({ verb: z.enum(bulkVerbs), deviceId: deviceIds })
const devices = z.array(
  z.object({
    deviceId: z.string(),
    outcome: z.enum(['done', 'already', 'refused']),
    code: z.string().optional().describe('Of a refusal'),
    detail: z.string().optional(),
    sameHardware: theftReceipt.shape.sameHardware,
    sameSerialNumber: theftReceipt.shape.sameSerialNumber,
  }),
)
export const foreseenChange = z.object({ devices })
export const bulkReceipt = z.object({
  devices,
  at: z.string().optional().describe('When it was done; sessions that were ended since are asked for by this'),
  ...inForce,
})

export type ChangeDevices = z.input<typeof changeDevices>
export type ForeseenChange = z.output<typeof foreseenChange>
export type BulkReceipt = z.output<typeof bulkReceipt>
