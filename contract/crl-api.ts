/** A part of the admin API: the revocation lists that are served to whoever is no broker. */
import { z } from 'zod'

/** Which lists are looked at together: one of all, those that certificates name, the delta CRLs, that of the root. */
export const listScopes = ['all', 'shards', 'deltas', 'root'] as const
export type ListScope = (typeof listScopes)[number]

export const crlView = z.object({
  name: z.string().describe('CA and file, as in the URL'),
  scope: z.enum(listScopes),
  url: z.string(),
  number: z.number().describe('CRL number'),
  base: z.number().optional().describe('Of a delta CRL: it adds to lists of this number and later ones'),
  thisUpdate: z.string(),
  nextUpdate: z.string().describe('Nobody believes it after that'),
  entries: z.number().describe('Certificates on it'),
  bytes: z.number(),
})
export const crlPage = z.object({ items: z.array(crlView) })
export const publishReceipt = z.object({ number: z.number().describe('CRL number of all lists now') })

export type CrlView = z.output<typeof crlView>
export type CrlPage = z.output<typeof crlPage>
export type PublishReceipt = z.output<typeof publishReceipt>
