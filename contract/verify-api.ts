/** A part of the admin API: what a certificate is worth, before it is used. */
import { z } from 'zod'
import { listenerVerdict, renewalVerdict } from './certificate-verdicts.ts'
import { unheard } from './session-api.ts'

export const verifyCertificate = z.strictObject({
  pem: z.string().max(500_000).describe('The certificate, and behind it what its device would send for the chain'),
})
export const verificationView = z.object({
  fingerprint: z.string(),
  brokers: z.array(listenerVerdict.extend({ broker: z.string() })),
  unheard,
  renewal: renewalVerdict,
})

export type VerifyCertificate = z.input<typeof verifyCertificate>
export type VerificationView = z.output<typeof verificationView>
