/** What would become of a connection with a certificate: asked over the trust feed and of the admin API. */
import { z } from 'zod'
import { reportBounds } from './broker-reports.ts'
import { denialFix, problemCode } from './denials.ts'
import { verificationStates } from './verification.ts'

/** Of what a device sends: its own certificate, and the CAs above it. */
export const certificatesAtMost = 8
/** Listeners of a broker in one answer. */
export const listenersAtMost = 100

export const verdictQuery = z.object({
  certificates: z
    .array(z.base64().max(90_000))
    .min(1)
    .max(certificatesAtMost)
    .describe('DER, as a device would send them: its own first'),
})
export type VerdictQuery = z.output<typeof verdictQuery>

const text = z.string().max(reportBounds.detail)
const verdict = {
  code: problemCode.optional().describe('Of the refusal, or of the fault that is tolerated'),
  message: text.optional(),
  fix: denialFix.optional().describe('What would let it in'),
}

/** Of one listener, about a connection that began now with the id of its device as client id. */
export const listenerVerdict = z.object({
  listener: text,
  state: z.enum(verificationStates).describe('What verification finds'),
  action: z.enum(['admit', 'reject', 'quarantine', 'grace', 'log-only']).describe('What the listener does about that'),
  isAdmitted: z.boolean().describe('It gets an ordinary session, where what CONNECT is asked for is in order too'),
  ...verdict,
  deviceId: text.optional().describe('Whose certificate it is'),
  authority: text.optional().describe('Label of the CA that issued it'),
  until: z.iso.datetime().optional().describe('When that would be another verdict, as the certificate ends then'),
  asks: z.array(text).max(50).describe('What CONNECT is asked for beside the certificate'),
})
export type ListenerVerdict = z.output<typeof listenerVerdict>

/** Of the EST service, about a renewal that this certificate asks for. */
export const renewalVerdict = z.object({
  isAllowed: z.boolean(),
  label: text.optional().describe('EST label under which it renews'),
  isLate: z.boolean().optional().describe('It has expired, and an operator has allowed to renew it late'),
  ...verdict,
})
export type RenewalVerdict = z.output<typeof renewalVerdict>
