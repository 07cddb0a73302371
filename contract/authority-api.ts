/** A part of the admin API: the CAs of the gateway itself. */
import { z } from 'zod'

export const authorityView = z.object({
  name: z
    .enum(['root', 'issuing'])
    .describe('issuing signs what devices, operators and brokers have; root signs issuing'),
  subject: z.string(),
  serial: z.string(),
  fingerprint: z.string(),
  notBefore: z.string(),
  notAfter: z.string().describe('What it has issued ends with it'),
  pem: z.string(),
})
export const authorityList = z.object({ items: z.array(authorityView) })

export type AuthorityView = z.output<typeof authorityView>
