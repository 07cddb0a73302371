/** A part of the admin API: what happens, as server-sent events. */
import { z } from 'zod'

export const listEvents = z.strictObject({
  since: z.coerce
    .number()
    .int()
    .min(0)
    .optional()
    .describe('Begins after this entry of the audit log; without it, and without Last-Event-ID, with the next'),
})
