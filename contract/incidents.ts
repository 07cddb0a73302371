/** What somebody has to look at, as the admin API asks about it and shows it. */
import { z } from 'zod'
import { cursor, deviceId, limit } from './admin-api.ts'

const incidentKinds = ['stolen', 'clone', 'key_reused'] as const
export const listIncidents = z.strictObject({
  deviceId: deviceId.optional(),
  open: z.stringbool().default(false).describe('Those alone that were not closed'),
  kind: z.enum(incidentKinds).optional(),
  cursor,
  limit,
})
export const closeIncident = z.strictObject({
  note: z.string().regex(/^\P{C}{1,300}$/u, 'a note is 1 to 300 characters, none of them a control character'),
})
export const incidentView = z.object({
  id: z.string(),
  kind: z.enum(incidentKinds),
  deviceId: z.string(),
  openedAt: z.string(),
  openedBy: z.string(),
  evidence: z
    .array(
      z.object({
        at: z.string(),
        what: z.string().describe('As in the audit log: device.stolen, session.cut, alert.raised'),
        by: z.string().describe('enroll, or the broker that saw it'),
        remoteAddress: z.string().optional(),
        details: z
          .record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.array(z.string())]))
          .optional()
          .describe('Differ by what it is'),
      }),
    )
    .describe('In the order in which it was heard of'),
  leftOut: z.number().optional().describe('How much of the middle of the evidence is not kept'),
  closedAt: z.string().optional(),
  closedBy: z.string().optional(),
  note: z.string().optional().describe('Of whoever closed it'),
})
export type IncidentView = z.output<typeof incidentView>
