/** A part of the admin API: the certificates of operators and brokers. */
import { z } from 'zod'
import { inForce, waitMs } from './admin-api.ts'
import { revocationReasons } from './ids.ts'

export const credentialKinds = ['operator', 'broker'] as const
export type CredentialKind = (typeof credentialKinds)[number]

export const revokeCredential = z.strictObject({
  reason: z.enum(revocationReasons),
  waitMs,
  lastOperator: z
    .boolean()
    .default(false)
    .describe('Also when nobody could use the admin API any more; without it that is refused'),
})
export const credentialReceipt = z.object({
  serial: z.string(),
  kind: z.enum(credentialKinds),
  name: z.string().describe('Of the operator or broker'),
  reason: z.string(),
  revokedAt: z.string(),
  alreadyRevoked: z.boolean(),
  isCurrent: z.boolean().describe('It was the newest of its name'),
  certificates: z
    .array(z.string())
    .describe('Serial numbers revoked by this call: with keyCompromise, all for the same key'),
  remaining: z.array(z.string()).describe('Serial numbers that this operator or broker still has'),
  keysWatched: z.number().describe('Keys that nobody can have certified any more, those by this call'),
  connectionsEnded: z.number().describe('At the admin API or the trust feed, by this call'),
  feedSeq: inForce.feedSeq,
  crlNumber: inForce.crlNumber,
  broker: inForce.brokers.element
    .optional()
    .describe('Of a certificate of a broker: what that can still do with what it knew before'),
})

export type RevokeCredential = z.input<typeof revokeCredential>
export type CredentialReceipt = z.output<typeof credentialReceipt>
