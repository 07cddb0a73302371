/** A part of the admin API: devices and tokens by the hundred. */
import { z } from 'zod'
import { createDevice, createToken } from './admin-api.ts'

/** In one request; each is one batch in the registry. */
export const batchAtMost = 1_000

const outcomes = {
  deviceId: z.string(),
  code: z.string().optional().describe('Of a refusal'),
  detail: z.string().optional(),
}

export const importDevices = z.strictObject({
  devices: z
    .array(createDevice)
    .min(1)
    .max(batchAtMost)
    .refine(
      (devices) => new Set(devices.map(({ id }) => id)).size === devices.length,
      'a device stands in a request once',
    ),
  atomic: z.boolean().default(false).describe('Register none of them where one is refused'),
  dryRun: z.boolean().default(false).describe('Say what would become of each, and register none'),
})
export const importReceipt = z.object({
  devices: z.array(
    z.object({
      ...outcomes,
      outcome: z
        .enum(['created', 'already', 'refused'])
        .describe('created: where it was applied. already: there is one of this id, and it is like that'),
    }),
  ),
  applied: z.boolean().describe('Whether those that could be were registered'),
})
export const createTokens = z.strictObject({
  ttlMs: createToken.shape.ttlMs,
  tokens: z
    .array(createToken.omit({ ttlMs: true }))
    .min(1)
    .max(batchAtMost)
    .refine(
      (tokens) => new Set(tokens.map(({ deviceId }) => deviceId)).size === tokens.length,
      'a device stands in a request once',
    ),
})
export const tokenReceipt = z.object({
  tokens: z.array(
    z.object({
      ...outcomes,
      outcome: z.enum(['created', 'refused']),
      token: z.string().optional().describe('Shown here and never again'),
      profile: z.string().optional(),
      expiresAt: z.string().optional(),
    }),
  ),
})

export type ImportDevices = z.input<typeof importDevices>
export type ImportReceipt = z.output<typeof importReceipt>
export type CreateTokens = z.input<typeof createTokens>
export type TokenReceipt = z.output<typeof tokenReceipt>
