/** A part of the admin API: who may ask it what. Each role may do what those before it may, and more. */
import { z } from 'zod'
import { limit } from './admin-api.ts'

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

export const createOperator = z.strictObject({
  name: operatorName,
  role,
  csr: z
    .string()
    .max(24_000)
    .describe('PKCS#10 in PEM, for a key that stays with the operator; its subject is not looked at'),
})
export const changeOperator = z
  .strictObject({ role: role.optional(), status: z.enum(['active', 'disabled']).optional() })
  .refine((change) => Object.keys(change).length > 0, { error: 'give role or status' })
export const listOperators = z.strictObject({ after: z.string().optional(), limit })

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

export type CreateOperator = z.input<typeof createOperator>
export type ChangeOperator = z.input<typeof changeOperator>
export type OperatorView = z.output<typeof operatorView>
export type OperatorCredential = z.output<typeof operatorCredential>
