/** A part of the admin API: who may renew with a certificate that has expired. */
import { z } from 'zod'
import { cursor, limit } from './admin-api.ts'

/** Shortest to longest time for a late renewal, in milliseconds. */
export const lateRenewalTtlMs = { min: 60_000, default: 86_400_000, max: 30 * 86_400_000 }
export const allowLateRenewal = z.strictObject({
  ttlMs: z.int().min(lateRenewalTtlMs.min).max(lateRenewalTtlMs.max).default(lateRenewalTtlMs.default),
})
export const listLateRenewals = z.strictObject({ cursor, limit })
export const lateRenewalView = z.object({
  deviceId: z.string(),
  status: z
    .enum(['unspent', 'redeeming', 'spent'])
    .describe('redeeming: bound to a key, and the certificate is being made; spent: it was made'),
  allowedAt: z.string(),
  allowedBy: z.string(),
  expiresAt: z.string(),
  serial: z.string().optional().describe('Of the certificate that was made by it'),
})

export type AllowLateRenewal = z.input<typeof allowLateRenewal>
export type LateRenewalView = z.output<typeof lateRenewalView>
