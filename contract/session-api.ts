/** A part of the admin API: who is connected, as brokers tell when they are asked. */
import { z } from 'zod'
import { deviceId } from './admin-api.ts'
import { devicesAtOnce, isClientId, liveSession, sessionsAtOnce } from './live-sessions.ts'

const brokerId = z.string().min(1).max(100)
export const deviceIds = z
  .string()
  .transform((text) => text.split(','))
  .pipe(z.array(deviceId).max(devicesAtOnce))
  .describe('One, or several with a comma between them')
export const listSessions = z.strictObject({
  deviceId: deviceIds.optional(),
  broker: brokerId.optional(),
  listener: z.string().max(100).optional(),
  after: z
    .string()
    .regex(/^\P{C}{1,200}\n\P{C}{1,100}$/u, 'after is what the page before gave as next')
    .optional(),
  limit: z.coerce.number().int().min(1).max(sessionsAtOnce).default(100),
})
export const countEnded = z.strictObject({
  deviceId: deviceIds,
  since: z.iso.datetime().describe('Of devices that were revoked or put on hold then or later'),
})
export const kickSession = z.strictObject({
  clientId: z.string().refine(isClientId, { error: 'a client id is a device id, or one with : and a suffix' }),
  broker: brokerId.optional().describe('There alone'),
})

export const sessionView = liveSession.extend({ broker: z.string() })
export const unheard = z
  .array(
    z.object({
      broker: z.string(),
      why: z
        .enum(['not_connected', 'not_asked', 'no_answer'])
        .describe('not_asked: it is of a version that does not know the question'),
    }),
  )
  .describe('Brokers that did not say: what they have is not among the items')
export const sessionPage = z.object({
  items: z.array(sessionView),
  next: z.string().optional().describe('Pass as `after` for what follows'),
  unheard,
})
export const kickReceipt = z.object({
  kicked: z.array(sessionView).describe('As it was when it was ended'),
  unheard,
})
export const endedCount = z.object({
  sessions: z.number().describe('Connections that were ended for it, as far as brokers have told'),
  slowest: z
    .object({ deviceId: z.string(), broker: z.string(), clientId: z.string().optional(), closedMs: z.number() })
    .optional()
    .describe('From the time of the change to having heard that the socket is closed'),
})

export type ListSessions = z.output<typeof listSessions>
export type KickSession = z.input<typeof kickSession>
export type SessionView = z.output<typeof sessionView>
export type SessionPage = z.output<typeof sessionPage>
export type KickReceipt = z.output<typeof kickReceipt>
export type EndedCount = z.output<typeof endedCount>
export type Unheard = SessionPage['unheard'][number]
