/** Who is connected to a broker: asked over the trust feed, told to operators. */
import { z } from 'zod'
import { reportBounds } from './broker-reports.ts'
import { clientIdBelongsTo, isDeviceId, isFingerprint } from './ids.ts'

/** Devices that one question may name. */
export const devicesAtOnce = 100
/** Sessions in one answer. */
export const sessionsAtOnce = 200

/** Of the device before the first colon; no session has another. */
export const isClientId = (text: string): boolean => {
  const [id = ''] = text.split(':', 1)
  return isDeviceId(id) && clientIdBelongsTo(text, id)
}

const text = (atMost: number) => z.string().max(atMost)
const count = z.number().min(0)

export const liveSession = z.object({
  clientId: text(reportBounds.clientId),
  deviceId: z.string().refine((id): boolean => isDeviceId(id)),
  serial: text(reportBounds.name).optional().describe('Of its certificate'),
  listener: text(reportBounds.name),
  remoteAddress: text(reportBounds.name),
  connectedAt: text(reportBounds.name),
  isResumed: z.boolean().describe('Its TLS session was resumed from a ticket'),
  lastPacket: z
    .object({ type: text(reportBounds.name), topic: text(reportBounds.topic).optional(), at: text(reportBounds.name) })
    .optional()
    .describe('The last that was taken from it'),
  packetsIn: count,
  bytesIn: count,
  packetsOut: count,
  bytesOut: count,
})
export type LiveSession = z.output<typeof liveSession>

/** Those for which everything holds that is given, the first `limit` in the order of client ids (by UTF-16 units). */
export const sessionQuery = z.object({
  deviceIds: z.array(z.string().refine(isDeviceId)).min(1).max(devicesAtOnce).optional(),
  listener: z.string().optional(),
  /** This client id, or a later one. */
  from: z.string().optional(),
  limit: z
    .int()
    .min(1)
    .max(sessionsAtOnce + 1),
})
export type SessionQuery = z.output<typeof sessionQuery>

/** Answered by the session that was ended, once its client id is free; by none where there was none. */
export const kickOrder = z.object({ clientId: z.string().refine(isClientId) })
export type KickOrder = z.output<typeof kickOrder>

const key = z.string().refine((text): boolean => isFingerprint(text))

/** Answered by the sessions with a key as they were: SHA-256 of its SubjectPublicKeyInfo. */
export const keyOrder = z.object({
  key,
  /** It is used at another broker too: they are ended, and it is suspended as long as this broker does that by itself. */
  suspend: z.boolean(),
})
export type KeyOrder = z.output<typeof keyOrder>

/** That somebody is there with a key, and from where. */
export const sighting = z.object({
  key,
  from: text(reportBounds.name),
  /** Missing where a broker of an earlier version says it. */
  clientId: text(reportBounds.clientId).optional(),
})
export type Sighting = z.output<typeof sighting>
/** In one line. */
export const sightingsAtOnce = 500
export const sightings = z.array(sighting).max(sightingsAtOnce)
