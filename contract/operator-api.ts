/** A part of the admin API: who may ask it what. Each role may do what those before it may, and more. */
import { z } from 'zod'
import { cursor, limit } from './admin-api.ts'

export const roles = ['viewer', 'enroller', 'operator', 'admin'] as const
export type Role = (typeof roles)[number]
export const includesRole = (has: Role, wanted: Role): boolean => roles.indexOf(has) >= roles.indexOf(wanted)

const role = z
  .enum(roles)
  .describe(
    'viewer reads; enroller also lets devices enroll; operator also changes devices, sessions and the policy; admin may everything',
  )
export const operatorNameRule = '1 to 64 letters, digits, ".", "_", "@" and "-", the first a letter or digit'
export const isOperatorName = (text: string): boolean => /^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$/.test(text)
export const operatorName = z
  .string()
  .refine(isOperatorName, { error: `the name of an operator is ${operatorNameRule}` })

/** For whom a key and certificate are. */
const csrOf = (whom: string) =>
  z.string().max(24_000).describe(`PKCS#10 in PEM, for a key that stays with the ${whom}; its subject is not looked at`)
export const createOperator = z.strictObject({ name: operatorName, role, csr: csrOf('operator') })
export const renewOperator = z.strictObject({ csr: csrOf('operator') })
export const changeOperator = z
  .strictObject({ role: role.optional(), status: z.enum(['active', 'disabled']).optional() })
  .refine((change) => Object.keys(change).length > 0, { error: 'give role or status' })
export const listOperators = z.strictObject({ cursor, limit })

export const operatorView = z.object({
  name: z.string(),
  role,
  status: z.enum(['active', 'disabled', 'removed']).describe('removed: for good; a name is given once'),
  createdAt: z.string(),
  createdBy: z.string(),
  serial: z.string().optional().describe('Of the newest certificate'),
  expiresAt: z.string().optional().describe('When that certificate does'),
})
export const operatorCredential = operatorView.extend({
  certificate: z.string().describe('PEM of the certificate and of the CA that issued it'),
})

/** Shortest to longest life of an API token, in milliseconds. */
export const apiTokenTtlMs = { min: 60_000, default: 30 * 86_400_000, max: 366 * 86_400_000 }
export const apiTokenNameRule = '1 to 64 letters, digits, "." and "-"'
export const isApiTokenName = (text: string): boolean => /^[A-Za-z0-9.-]{1,64}$/.test(text)
export const createApiToken = z.strictObject({
  name: z.string().refine(isApiTokenName, { error: `the name of an API token is ${apiTokenNameRule}` }),
  role,
  ttlMs: z.int().min(apiTokenTtlMs.min).max(apiTokenTtlMs.max).default(apiTokenTtlMs.default),
})
export const listApiTokens = z.strictObject({ cursor, limit })
export const apiTokenView = z.object({
  name: z.string(),
  role,
  createdAt: z.string(),
  createdBy: z.string(),
  expiresAt: z.string(),
  lastUsedAt: z.string().optional().describe('To within five minutes'),
  lastUsedFrom: z.string().optional(),
})
export const newApiToken = apiTokenView.extend({
  token: z.string().describe('Shown here and never again; sent as `Authorization: Bearer`'),
})

export const removedOperator = operatorView.extend({
  certificates: z.array(z.string()).describe('Serial numbers of its certificates; all of them are revoked'),
  apiTokens: z
    .array(apiTokenView.pick({ name: true, role: true, expiresAt: true }))
    .describe('Those that it made and that are still good: they are not removed with it'),
})

export type CreateOperator = z.input<typeof createOperator>
export type RenewOperator = z.input<typeof renewOperator>
export type ChangeOperator = z.input<typeof changeOperator>
export type OperatorView = z.output<typeof operatorView>
export type RemovedOperator = z.output<typeof removedOperator>
export type OperatorCredential = z.output<typeof operatorCredential>
export type CreateApiToken = z.input<typeof createApiToken>
export type ApiTokenView = z.output<typeof apiTokenView>
export type NewApiToken = z.output<typeof newApiToken>
